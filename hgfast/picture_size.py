"""How large a picture claims to be, by its header: asked before anybody makes room for it.

A few bytes can claim a picture of gigabytes. What is larger than `PIXELS` is not decoded, so that reading any file takes less
than 2 GB. Formats that are not here (AVIF, OpenEXR) are left to the limits of the libraries that OpenCV reads them with.
What may enter: sizes in headers of picture formats, and the limit on them. Nothing is decoded.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from hgfast.errors import HgfastError

PIXELS = 2**28
"""The most that a picture may have: 16384 x 16384, 0.8 GB in RGB."""
FLOATING = PIXELS // 4
"""The most of a picture in floating point, which takes four times the room while it is read."""
FILE_BYTES = 2**30
"""The most that a picture's file may have."""
PNG, JPEG, HDR = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"#?"
J2K = re.compile(rb"\xff\x4f\xff\x51")
HDR_SIZE = re.compile(rb"\n[-+]([XY]) +(\d{1,9}) +[-+][XY] +(\d{1,9})\s")
PNM_WORD = re.compile(rb"(?:\s|#[^\n]*\n)*(\d{1,9})")
PAM_SIZE = re.compile(rb"\n(WIDTH|HEIGHT)\s+(\d{1,9})")
MARK = re.compile(rb"\xff+")


def check_size(data: memoryview, path: str | Path, floating: bool = False) -> None:
    """Raise `HgfastError` for a file whose picture, decoded to floating point or not, would take too much memory."""
    size = declared_size(data)
    limit = FLOATING if floating or data[:2] == HDR else PIXELS
    if size is not None and size[0] * size[1] > limit:
        raise HgfastError(f"{path} {too_many(*size, limit)}")
    if data[:8] == PNG and (length := _longest_chunk(data)) > len(data):  # OpenCV would make room for it
        raise HgfastError(f"{path} is broken: a part of it claims {length} bytes, the whole file has {len(data)}; replace it")


def _longest_chunk(data: memoryview) -> int:
    """The most bytes that a part of a PNG claims, up to the first that reaches beyond the end."""
    at, longest = len(PNG), 0
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        longest = max(longest, length)
        at += length + 12
    return longest


def too_many(width: int, height: int, limit: int = PIXELS) -> str:
    """What is wrong with a picture of that size, without its subject."""
    return f"has {width} x {height} pixels, more than the {limit} that are decoded: replace it or leave it out"


def declared_size(data: memoryview) -> tuple[int, int] | None:
    """Width and height that a picture's header claims; None where the format is not known here or the header is broken."""
    head = bytes(data[:32])
    try:
        if head.startswith(JPEG):
            return _jpeg(data)
        if head.startswith(PNG):
            return _pair(">II", data, 16)
        if head.startswith((b"GIF87a", b"GIF89a")):
            return _pair("<HH", data, 6)
        if head.startswith(b"BM"):
            (kind,) = struct.unpack_from("<I", data, 14)
            width, height = _pair("<HH", data, 18) if kind == 12 else _pair("<ii", data, 18)
            return abs(width), abs(height)  # a negative height is one from the top
        if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
            return _webp(data, head[12:16])
        if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
            return _tiff(data, "<" if head.startswith(b"II") else ">", big=b"+" in head[2:4])
        if head.startswith(b"\x59\xa6\x6a\x95"):
            return _pair(">II", data, 4)
        if head.startswith(HDR):
            return _radiance(data)
        if re.match(rb"P[1-7]\s", head):
            return _pnm(data, pam=head.startswith(b"P7"))
        if head.startswith((b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51")) and (code := J2K.search(data)):
            right, bottom, left, top = struct.unpack_from(">IIII", data, code.end() + 4)
            return max(0, right - left), max(0, bottom - top)
    except struct.error:  # cut short
        return None
    return None


def _pair(form: str, data: memoryview, at: int) -> tuple[int, int]:
    first, second = struct.unpack_from(form, data, at)
    return first, second


def _jpeg(data: memoryview) -> tuple[int, int] | None:
    """From the first frame header, wherever it is (ITU T.81, B.2.2); what lies between segments is passed over, as by libjpeg."""
    at = 2
    while mark := MARK.search(data, at):
        at = mark.end()
        if at >= len(data):
            return None
        kind = data[at]
        at += 1
        if kind in (0, 1) or 0xD0 <= kind <= 0xD7:  # stand alone
            continue
        if kind in (0xD8, 0xD9, 0xDA):  # a second beginning, the end, or data before any frame
            return None
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = _pair(">HH", data, at + 3)
            return width, height
        at += int(struct.unpack_from(">H", data, at)[0])
    return None


def _webp(data: memoryview, kind: bytes) -> tuple[int, int] | None:
    if kind == b"VP8 ":
        width, height = _pair("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        first, second = struct.unpack_from("<Q", data, 24)[0] & 0xFFFFFF, struct.unpack_from("<I", data, 26)[0] >> 8
        return first + 1, second + 1
    return None


def _tiff(data: memoryview, order: str, big: bool) -> tuple[int, int] | None:
    """From the first directory: tags 256 and 257, of two, four or, in BigTIFF, eight bytes."""
    (at,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", data, 8 if big else 4)
    (count,) = struct.unpack_from(f"{order}Q" if big else f"{order}H", data, at)
    at += 8 if big else 2
    sizes: dict[int, int] = {}
    for entry in range(at, min(len(data), at + min(count, 2**16) * (20 if big else 12)), 20 if big else 12):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if tag in (256, 257) and (form := {3: "H", 4: "I", 16: "Q"}.get(kind)):
            (sizes[tag],) = struct.unpack_from(f"{order}{form}", data, entry + (12 if big else 8))
    return (sizes[256], sizes[257]) if len(sizes) == 2 else None


def _radiance(data: memoryview) -> tuple[int, int] | None:
    found = HDR_SIZE.search(data[: 2**16])
    if found is None:
        return None
    first, second = int(found[2]), int(found[3])
    return (second, first) if found[1] == b"Y" else (first, second)


def _pnm(data: memoryview, pam: bool) -> tuple[int, int] | None:
    if pam:
        named = {name: int(value) for name, value in PAM_SIZE.findall(bytes(data[: 2**12]))}
        return (named[b"WIDTH"], named[b"HEIGHT"]) if len(named) == 2 else None
    first = PNM_WORD.match(data, 2)
    second = PNM_WORD.match(data, first.end()) if first else None
    return (int(first[1]), int(second[1])) if first and second else None
