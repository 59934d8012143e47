"""Check of ONNX files before a runtime reads them."""

from __future__ import annotations

from collections.abc import Mapping

CHILDREN: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "tensor": {},
}
"""Messages of onnx.proto that contain tensors: field number -> message."""
EXTERNAL_DATA = 13
"""Field of a tensor that names the file of its values."""


def check_onnx(content: bytes) -> None:
    """Raise ValueError for a model that is not ONNX, or that keeps weights in another file: the file may be anywhere, and the
    sidecar's checksum does not cover it. `hgfast export` writes none.
    """
    try:
        external = _has_external_data(content)
    except (ValueError, IndexError):
        raise ValueError("it is not a complete ONNX file") from None
    if external:
        raise ValueError("it keeps weights in another file, which is not read")


def _has_external_data(content: bytes) -> bool:
    """Walk the messages that contain tensors (https://protobuf.dev/programming-guides/encoding)."""
    messages = [("model", 0, len(content))]
    while messages:
        message, offset, end = messages.pop()
        while offset < end:
            tag, offset = _varint(content, offset)
            number, wire_type = (tag & 0xFFFFFFFF) >> 3, tag & 7  # a tag has 32 bits, further ones are ignored
            if number == 0 or wire_type > 5:
                raise ValueError
            if message == "tensor" and number == EXTERNAL_DATA:
                return True
            length = {1: 8, 5: 4}.get(wire_type, 0)
            if wire_type in (0, 2):
                value, offset = _varint(content, offset)
                length = value if wire_type == 2 else 0
            if wire_type == 2 and number in CHILDREN[message]:
                messages.append((CHILDREN[message][number], offset, offset + length))
            offset += length
        if offset != end:
            raise ValueError
    return False


def _varint(content: bytes, offset: int) -> tuple[int, int]:
    """Return the number of at most ten bytes at an offset, and the offset behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
    raise ValueError
