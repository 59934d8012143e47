"""Image sizes from file headers, checked before memory is allocated.

A few bytes can claim an image of gigabytes. Images with more than `MAX_PIXELS` pixels are not decoded, so that reading any file
takes less than 2 GB. Other formats (AVIF, OpenEXR) rely on the limits of the libraries that OpenCV reads them with.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path

from hgfast.errors import HgfastError

MAX_PIXELS = 2**28
"""Largest number of pixels of an image: 16384 x 16384, 0.8 GB in RGB."""
MAX_FLOAT_PIXELS = MAX_PIXELS // 4
"""Largest number of pixels of a floating-point image, which needs four times the memory."""
HEADER_BYTES = 2**16
"""Bytes at the start of a file that hold the size and the orientation of all but rare images."""
MAX_FILE_BYTES = 2**30
"""Largest size of an image file."""
PNG_MAGIC, JPEG_MAGIC, HDR_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"#?"
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
J2K_CODESTREAM = re.compile(rb"\xff\x4f\xff\x51")
HDR_SIZE = re.compile(rb"\n[-+]([XY]) +(\d{1,9}) +[-+][XY] +(\d{1,9})\s")
PNM_NUMBER = re.compile(rb"(?:\s|#[^\n]*\n)*(\d{1,9})")
PAM_SIZE = re.compile(rb"\n(WIDTH|HEIGHT)\s+(\d{1,9})")
JPEG_MARKER = re.compile(rb"\xff+")


def check_image_size(data: memoryview, path: str | Path, as_float: bool = False) -> None:
    """Raise `HgfastError` for a file whose image, decoded to floating point if `as_float`, would take too much memory."""
    size = image_size_from_header(data)
    limit = MAX_FLOAT_PIXELS if as_float or data[:2] == HDR_MAGIC else MAX_PIXELS
    if size is not None and size[0] * size[1] > limit:
        raise HgfastError(f"{path} {too_large_message(*size, limit)}")
    if data[:8] == PNG_MAGIC and (length := _longest_chunk(data)) > len(data):  # OpenCV would allocate it
        raise HgfastError(f"{path} is broken: a part of it claims {length} bytes, the whole file has {len(data)}; replace it")


def _longest_chunk(data: memoryview) -> int:
    """Return the largest size that a PNG's chunks claim, up to the first chunk that reaches beyond the end."""
    offset, longest = len(PNG_MAGIC), 0
    while offset + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, offset)
        longest = max(longest, length)
        offset += length + 12
    return longest


def too_large_message(width: int, height: int, limit: int = MAX_PIXELS) -> str:
    """Return the error message for an image of this size, without its subject."""
    return f"has {width} x {height} pixels, more than the {limit} that are decoded: replace it or leave it out"


def image_size_from_header(data: memoryview) -> tuple[int, int] | None:
    """Return the width and height in an image's header; None if the format is unknown or the header is broken."""
    head = bytes(data[:32])
    try:
        if head.startswith(JPEG_MAGIC):
            return _jpeg(data)
        if head.startswith(PNG_MAGIC):
            return _pair(">II", data, 16)
        if head.startswith((b"GIF87a", b"GIF89a")):
            return _pair("<HH", data, 6)
        if head.startswith(b"BM"):
            (header_size,) = struct.unpack_from("<I", data, 14)
            width, height = _pair("<HH", data, 18) if header_size == 12 else _pair("<ii", data, 18)
            return abs(width), abs(height)  # a negative height means rows from the top
        if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
            return _webp(data, head[12:16])
        if head.startswith(TIFF_MAGIC):
            return _tiff(data)
        if head.startswith(b"\x59\xa6\x6a\x95"):
            return _pair(">II", data, 4)
        if head.startswith(HDR_MAGIC):
            return _radiance(data)
        if re.match(rb"P[1-7]\s", head):
            return _pnm(data, pam=head.startswith(b"P7"))
        if head.startswith((b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51")) and (code := J2K_CODESTREAM.search(data)):
            right, bottom, left, top = struct.unpack_from(">IIII", data, code.end() + 4)
            return max(0, right - left), max(0, bottom - top)
    except struct.error:  # truncated
        return None
    return None


def _pair(fmt: str, data: memoryview, offset: int) -> tuple[int, int]:
    first, second = struct.unpack_from(fmt, data, offset)
    return first, second


def jpeg_segments(data: memoryview) -> Iterator[tuple[int, int]]:
    """Yield the marker and the offset of the content of a JPEG's segments up to the first scan (ITU T.81, B.1); bytes between
    segments are skipped, as in libjpeg."""
    offset = 2
    while match := JPEG_MARKER.search(data, offset):
        offset = match.end()
        if offset >= len(data):
            return
        marker = data[offset]
        offset += 1
        if marker in (0, 1) or 0xD0 <= marker <= 0xD7:  # markers without a segment
            continue
        if marker in (0xD8, 0xD9):  # a second start, or the end
            return
        yield marker, offset + 2
        if marker == 0xDA:
            return
        offset += int(struct.unpack_from(">H", data, offset)[0])


def _jpeg(data: memoryview) -> tuple[int, int] | None:
    """Read the first frame header (ITU T.81, B.2.2)."""
    for marker, offset in jpeg_segments(data):
        if is_frame(marker):
            height, width = _pair(">HH", data, offset + 1)
            return width, height
    return None


def is_frame(marker: int) -> bool:
    """Return whether a JPEG's marker starts a frame header."""
    return 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)


def _webp(data: memoryview, chunk_id: bytes) -> tuple[int, int] | None:
    if chunk_id == b"VP8 ":
        width, height = _pair("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if chunk_id == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk_id == b"VP8X":
        first, second = struct.unpack_from("<Q", data, 24)[0] & 0xFFFFFF, struct.unpack_from("<I", data, 26)[0] >> 8
        return first + 1, second + 1
    return None


def tiff_directory(data: memoryview) -> dict[int, int]:
    """Return tag -> first value, of two, four or, in BigTIFF, eight bytes, in the first directory of a TIFF file."""
    order, bigtiff = "<" if bytes(data[:2]) == b"II" else ">", data[2] == 43 or data[3] == 43
    (offset,) = struct.unpack_from(f"{order}Q" if bigtiff else f"{order}I", data, 8 if bigtiff else 4)
    (count,) = struct.unpack_from(f"{order}Q" if bigtiff else f"{order}H", data, offset)
    offset, entry_size, inline = offset + (8 if bigtiff else 2), 20 if bigtiff else 12, 8 if bigtiff else 4
    values: dict[int, int] = {}
    for entry in range(offset, min(len(data), offset + min(count, 2**16) * entry_size), entry_size):
        tag, field_type = struct.unpack_from(f"{order}HH", data, entry)
        if fmt := {3: "H", 4: "I", 16: "Q"}.get(field_type):
            (number,) = struct.unpack_from(f"{order}Q" if bigtiff else f"{order}I", data, entry + 4)
            at = entry + (12 if bigtiff else 8)
            if number * struct.calcsize(f"={fmt}") > inline:  # the entry holds where the values are
                (at,) = struct.unpack_from(f"{order}Q" if bigtiff else f"{order}I", data, at)
            (values[tag],) = struct.unpack_from(f"{order}{fmt}", data, at)
    return values


def _tiff(data: memoryview) -> tuple[int, int] | None:
    values = tiff_directory(data)
    return (values[256], values[257]) if {256, 257} <= values.keys() else None


def _radiance(data: memoryview) -> tuple[int, int] | None:
    match = HDR_SIZE.search(data[: 2**16])
    if match is None:
        return None
    first, second = int(match[2]), int(match[3])
    return (second, first) if match[1] == b"Y" else (first, second)


def _pnm(data: memoryview, pam: bool) -> tuple[int, int] | None:
    if pam:
        named = {name: int(value) for name, value in PAM_SIZE.findall(bytes(data[: 2**12]))}
        return (named[b"WIDTH"], named[b"HEIGHT"]) if len(named) == 2 else None
    first = PNM_NUMBER.match(data, 2)
    second = PNM_NUMBER.match(data, first.end()) if first else None
    return (int(first[1]), int(second[1])) if first and second else None
