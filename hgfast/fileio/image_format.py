"""Which image files every reader sees alike: what their headers say of rotation, color and transparency, and what is refused.

DALI and OpenCV agree on the other formats to one level in 255 (docs/data.md); `tests/pipelines/loaders/test_formats.py` compares
them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from hgfast.fileio.image_header import JPEG_MAGIC, PNG_MAGIC, TIFF_MAGIC, is_frame, jpeg_segments, tiff_directory

ORIENTATION, SAMPLES_PER_PIXEL, EXTRA_SAMPLES, SAMPLE_FORMAT = 0x0112, 277, 338, 339
"""Tags of TIFF 6.0 and EXIF 2.3."""
FLOATING_POINT = 3
"""Value of `SAMPLE_FORMAT`."""
AVIF_BRANDS, HEIF_BRANDS = (b"avif", b"avis"), (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
"""Brands of ISO media files that hold images."""
TO_PNG = "save it as PNG"
MAX_SCANS = 100
"""Largest number of a JPEG's scans: cameras write one, progressive encoders about ten. Each takes as long as a whole image."""
START_OF_SCAN, END_OF_IMAGE, PROGRESSIVE_FRAMES = 0xDA, 0xD9, (0xC2, 0xC6, 0xCA, 0xCE)
"""JPEG's markers (ITU T.81, table B.1)."""
SEGMENT_OR_END = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
"""A marker but those within a scan, which no segment follows."""


def image_kind(data: memoryview) -> str:
    """Return the format of a file by its first bytes, "" for unknown ones."""
    head = bytes(data[:16])
    if head[4:8] == b"ftyp" and head[8:12] in AVIF_BRANDS:
        return "AVIF"
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS:
        brands = bytes(data[16 : int.from_bytes(head[:4], "big")])
        return "AVIF" if b"avif" in brands else "HEIC"
    for magic, kind in (
        (JPEG_MAGIC, "JPEG"),
        (PNG_MAGIC, "PNG"),
        (b"GIF8", "GIF"),
        (b"BM", "BMP"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL ", "JPEG XL"),
        (b"\0\0\x01\0", "ICO"),
        (b"8BPS", "Photoshop"),
        (b"%PDF", "PDF"),
    ):
        if head.startswith(magic):
            return kind
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP"
    return "TIFF" if head.startswith(TIFF_MAGIC) else ""


def exif_orientation(data: memoryview) -> int:
    """Return the EXIF orientation, 1 to 8, of a JPEG, PNG, WebP or TIFF file; 1 if there is none or it is broken."""
    return next((orientation for orientation in _orientations(data) if 1 <= orientation <= 8), 1)


def format_problem(data: memoryview) -> str:
    """Return why readers see different images in a file, without its subject; "" if they agree."""
    kind = image_kind(data)
    if kind == "JPEG":
        return _jpeg_problem(data)
    if kind == "TIFF" and _tags(data).get(EXTRA_SAMPLES):
        return f"is a TIFF image with transparency, which readers blend differently: {TO_PNG} or without its alpha channel"
    if kind in ("JPEG XL", "ICO", "Photoshop", "PDF"):
        return f"is a {kind} file, which is not supported: {TO_PNG}"
    return ""


def needs_whole_file(head: memoryview) -> bool:
    """Return whether the start of a file does not suffice for `format_problem` and `dali_problem`."""
    try:
        return image_kind(head) in ("PNG", "TIFF") or (image_kind(head) == "JPEG" and has_several_scans(head))
    except (struct.error, IndexError):  # broken, or a header that is longer than `head`
        return True


def dali_problem(data: memoryview) -> str:
    """As `format_problem`, also for files that DALI alone decodes to another image or not at all."""
    kind = image_kind(data)
    if kind == "TIFF" and _tags(data).get(SAMPLE_FORMAT) == FLOATING_POINT:
        return f"is a TIFF image with floating-point samples, which DALI scales differently: {TO_PNG}, or use --loader opencv"
    if kind in ("AVIF", "HEIC", "GIF"):
        return f"is a{'n' * (kind == 'AVIF')} {kind} image, which DALI cannot decode: {TO_PNG}, or use --loader opencv"
    return format_problem(data)


def undecodable_reason(data: memoryview) -> str:
    """Return why a file that no decoder takes cannot be decoded, without its subject."""
    kind = image_kind(data)
    if kind == "JPEG" and not _has_end(data):
        return "is a JPEG that is cut off, as its end marker is missing: copy it again, or open it elsewhere and save it anew"
    what = f"is a broken {kind} image" if kind else "is not an image that OpenCV can read"
    return f"{what}: replace it or leave it out"


def _jpeg_problem(data: memoryview) -> str:
    orientations = {orientation for orientation in _orientations(data) if 1 <= orientation <= 8}
    if len(orientations) > 1:
        return "has two EXIF orientations, of which readers take different ones: save it anew"
    try:
        markers = {marker: offset for marker, offset in jpeg_segments(data)}
        frame = next((offset for marker, offset in markers.items() if is_frame(marker)), None)
        if frame is not None and data[frame + 5] == 4 and bytes(data[markers.get(0xEE, len(data)) :][:5]) != b"Adobe":
            return "is a CMYK JPEG without an Adobe marker, so that the meaning of its colors is unknown: save it as RGB"
        if has_several_scans(data) and (count := _count_scans(data)) > MAX_SCANS:
            return f"is a JPEG of {count} scans, more than the {MAX_SCANS} that are decoded: save it anew"
    except (struct.error, IndexError):  # broken: the decoder will say so
        return ""
    return ""


def has_several_scans(data: memoryview) -> bool:
    """Return whether a JPEG is progressive, or its first scan lacks some of its components; True if the start does not tell.

    Raises `struct.error` or IndexError for a broken start.
    """
    num_components = 0
    for marker, offset in jpeg_segments(data):
        if is_frame(marker):
            if marker in PROGRESSIVE_FRAMES:
                return True
            num_components = data[offset + 5]
        if marker == START_OF_SCAN:
            return data[offset] != num_components
    return True


def _count_scans(data: memoryview) -> int:
    """Count a JPEG's scans up to its end marker, behind which other data may follow."""
    count, offset = 0, 2
    while match := SEGMENT_OR_END.search(data, offset):
        marker = match[0][-1]
        if marker == END_OF_IMAGE:
            break
        count += marker == START_OF_SCAN
        offset = match.end() + int.from_bytes(data[match.end() : match.end() + 2], "big")
    return count


def _has_end(data: memoryview) -> bool:
    """Return whether an end marker follows the start of a JPEG's first scan."""
    try:
        scan = next((offset for marker, offset in jpeg_segments(data) if marker == START_OF_SCAN), None)
    except struct.error:
        scan = None
    return scan is not None and b"\xff\xd9" in bytes(data[scan:])


def _orientations(data: memoryview) -> Iterator[int]:
    """Yield the values of the orientation tags of a file."""
    kind = image_kind(data)
    blocks: Iterator[memoryview] = iter(())
    if kind == "JPEG":
        blocks = _jpeg_exif(data)
    elif kind == "PNG":
        blocks = _chunks(data, 8, b"eXIf", ">", 12)
    elif kind == "WebP":
        blocks = _chunks(data, 12, b"EXIF", "<", 8)
    elif kind == "TIFF":
        blocks = iter((data,))
    for block in blocks:
        if ORIENTATION in (tags := _tags(block)):
            yield tags[ORIENTATION]


def _tags(data: memoryview) -> dict[int, int]:
    if not bytes(data[:4]).startswith(TIFF_MAGIC):
        return {}
    try:
        return tiff_directory(data)
    except struct.error:  # broken
        return {}


def _jpeg_exif(data: memoryview) -> Iterator[memoryview]:
    try:
        for marker, offset in jpeg_segments(data):
            if marker == 0xE1 and bytes(data[offset : offset + 6]) == b"Exif\0\0":
                (length,) = struct.unpack_from(">H", data, offset - 2)
                yield data[offset + 6 : offset - 2 + length]
    except struct.error:  # broken
        return


def _chunks(data: memoryview, offset: int, name: bytes, order: str, overhead: int) -> Iterator[memoryview]:
    """Yield the content of a PNG's or a RIFF file's chunks of a name. `overhead`: bytes of a chunk that are not its content."""
    while offset + 8 <= len(data):
        length_at, name_at = (offset, offset + 4) if order == ">" else (offset + 4, offset)
        (length,) = struct.unpack_from(f"{order}I", data, length_at)
        if bytes(data[name_at : name_at + 4]) == name:
            content = data[offset + 8 : offset + 8 + length]
            yield content[6:] if re.match(rb"Exif\0\0", content) else content
        offset += length + overhead + (length % 2 if order == "<" else 0)
