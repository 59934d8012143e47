"""Read MATLAB files of version 5 (to 7.2) after validating them: scipy's compiled parser trusts its input.

The format is MathWorks' "MAT-File Format". Elements are followed in the order in which scipy's parser reads them: types that it
would take for indices of a table, lengths beyond the end, counts without elements and endless nesting would crash the process.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from scipy.io import loadmat
from scipy.io.matlab import MatReadError

HEADER = 128
MAX_BYTES = 2**29
"""Limit on the bytes of a file, and of its unpacked variables together; a synthetic file with MPII's people has 130 MB."""
MAX_DEPTH = 24
"""Nesting of structs and cells; MPII's file needs five levels."""
MAX_DIMENSIONS = 32
WIDTHS = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}
"""Bytes per number, by element type."""
INT8, INT32, UINT32, MATRIX, COMPRESSED, UTF8 = 1, 5, 6, 14, 15, 16
CELL, STRUCT, CHAR = 1, 2, 4
NUMERIC = range(6, 16)
COMPLEX = 0x800
MAX_PADDED_TEXT = 1024
"""Length of a text that may have fewer characters in the file: scipy pads it with blanks."""
MAX_FIELD_NAME = 64
"""Bytes of the longest field name, with its terminating zero."""


class Variable(NamedTuple):
    """A top-level variable: its name, the parser of its bytes, its class, flags and dimensions, and where its contents start."""

    name: str
    parser: _Parser
    kind: int
    flags: int
    dims: tuple[int, ...]
    offset: int


def list_variables(path: Path) -> list[str]:
    """Return the names of a file's variables. Raises one of `READ_ERRORS`."""
    return [variable.name for variable in _variables(path)]


def read_mat(path: Path, wanted: Collection[str]) -> dict[str, Any]:
    """Read the requested variables that exist, as `scipy.io.loadmat` returns them. Raises one of `READ_ERRORS`."""
    _validate(path, wanted)
    try:
        content = loadmat(str(path), appendmat=False, variable_names=list(wanted))
    except MatReadError as error:
        raise ValueError(str(error)) from error
    return {name: value for name, value in content.items() if name in wanted}


def _validate(path: Path, wanted: Collection[str]) -> None:
    """Validate the requested variables. On return, the bytes unpacked here are freed, before scipy unpacks them again."""
    variable_names: set[str] = set()
    for variable in _variables(path):
        if variable.name in variable_names:
            raise ValueError(f"it has two variables {variable.name!r}")
        variable_names.add(variable.name)
        if variable.name in wanted:
            variable.parser.contents(variable.kind, variable.flags, variable.dims, variable.offset, 0)


def _variables(path: Path) -> Iterator[Variable]:
    """Yield every variable after validating its header."""
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} bytes")
    data, bytes_left = path.read_bytes(), MAX_BYTES
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None or struct.unpack(f"{order}H", data[124:126]) != (0x0100,):
        raise ValueError("its header is not that of MATLAB's version 5")
    offset = HEADER
    while offset < len(data):
        kind, length = struct.unpack_from(f"{order}II", data, offset)
        end = offset + 8 + length
        if end > len(data) or kind not in (MATRIX, COMPRESSED):
            raise ValueError(f"the element at byte {offset} is no variable, or cut short")
        body, start = data[offset:end], 0
        if kind == COMPRESSED:
            stream = zlib.decompressobj()
            body = stream.decompress(data[offset + 8 : end], bytes_left)
            bytes_left -= len(body)
            if not stream.eof:
                raise ValueError("a compressed variable is cut short, or unpacks to more than there is room for")
        parser = _Parser(body, order)
        if parser.tag(start)[0] != MATRIX:
            raise ValueError("a compressed element is no variable")
        matrix, flags, dims, name, start = parser.header(start + 8)
        yield Variable(name, parser, matrix, flags, dims, start)
        offset = end


class _Parser:
    """Follows the elements of a variable as scipy does, and raises ValueError where scipy would read out of bounds."""

    def __init__(self, data: bytes, order: str) -> None:
        self._data = data
        self._tag, self._number = struct.Struct(f"{order}II"), struct.Struct(f"{order}I")
        self._common_header = struct.Struct(f"{order}12I")

    def tag(self, offset: int) -> tuple[int, int, int, int]:
        """Return an element's type, its length in bytes, the offset of its data, and the offset of the next element."""
        if offset + 8 > len(self._data):
            raise ValueError("it is cut short")
        kind, length = self._tag.unpack_from(self._data, offset)
        if kind >> 16:  # a small element has both in four bytes, and its data in the other four
            kind, length = kind & 0xFFFF, kind >> 16
            if length > 4:
                raise ValueError(f"a small element has {length} bytes")
            return kind, length, offset + 4, offset + 8
        following = offset + 8 + length
        if following > len(self._data):
            raise ValueError("an element reaches beyond the end")
        return kind, length, offset + 8, following if kind in (MATRIX, COMPRESSED) else following + -length % 8

    def numbers(self, offset: int) -> int:
        """Validate an element of numbers and return the offset of the next element."""
        kind, length, _, following = self.tag(offset)
        if kind not in WIDTHS or length % WIDTHS[kind]:
            raise ValueError(f"{length} bytes are no numbers of the type {kind}")
        return following

    def header(self, offset: int) -> tuple[int, int, tuple[int, ...], str, int]:
        """Return a matrix's class, flags, dimensions and name, and the offset of its contents."""
        kind, length, data, offset = self.tag(offset)
        if kind not in (INT32, UINT32) or length != 8:
            raise ValueError("a matrix has no flags")
        (flags,) = self._number.unpack_from(self._data, data)
        kind, length, data, offset = self.tag(offset)
        if kind not in (INT32, UINT32) or length % 4 or not 4 <= length <= 4 * MAX_DIMENSIONS:
            raise ValueError("a matrix has no dimensions")
        dims = tuple(self._number.unpack_from(self._data, data + start)[0] for start in range(0, length, 4))
        if max(dims) >= 2**31:
            raise ValueError("a matrix has negative dimensions")
        kind, length, data, offset = self.tag(offset)
        if kind not in (INT8, UTF8, 2):
            raise ValueError("a matrix has no name")
        name = self._data[data : data + length].decode("latin1")
        return flags & 0xFF, flags, dims, name, offset

    def matrix(self, offset: int, depth: int) -> int:
        """Validate a matrix with its contents and return the offset of the next element."""
        if offset + 56 <= len(self._data):  # fast path for the common header: these files have millions of matrices
            common = self._common_header.unpack_from(self._data, offset)
            if (
                common[2:4] == (UINT32, 8)
                and common[6:8] == (INT32, 8)
                and common[10:] == (INT8, 0)
                and common[0] == MATRIX
                and common[1]
            ):
                kind, dims = common[4] & 0xFF, common[8:10]
                if max(dims) >= 2**31:
                    raise ValueError("a matrix has negative dimensions")
                return self.contents(kind, common[4], dims, offset + 48, depth)
        kind, length, data, following = self.tag(offset)
        if kind != MATRIX:
            raise ValueError(f"an element of the type {kind} is where a matrix should be")
        if not length:
            return following
        kind, flags, dims, _, offset = self.header(data)
        return self.contents(kind, flags, dims, offset, depth)

    def contents(self, kind: int, flags: int, dims: tuple[int, ...], offset: int, depth: int) -> int:
        """Validate a matrix's contents and return the offset of the next element."""
        if kind == CHAR and math.prod(dims) > max(self.tag(offset)[1], MAX_PADDED_TEXT):
            raise ValueError("it claims text for which there are no bytes")
        if kind in NUMERIC or kind == CHAR:
            offset = self.numbers(offset)
            return self.numbers(offset) if flags & COMPLEX and kind != CHAR else offset
        if kind not in (CELL, STRUCT):
            raise ValueError(f"matrices of class {kind} are not supported")
        if depth >= MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        count, fields = math.prod(dims), 1
        if kind == STRUCT:
            fields, offset = self._fields(offset)
        if count * max(fields, 1) > max(1, (len(self._data) - offset) // 8):
            raise ValueError(f"it claims {count} elements, for which there are no bytes")
        for _ in range(count * fields):
            offset = self.matrix(offset, depth + 1)
        return offset

    def _fields(self, offset: int) -> tuple[int, int]:
        """Return a struct's number of fields and the offset of its first element."""
        kind, length, data, offset = self.tag(offset)
        if kind not in (INT32, UINT32) or length != 4:
            raise ValueError("a struct does not say how long its fields' names are")
        (width,) = self._number.unpack_from(self._data, data)
        kind, length, data, offset = self.tag(offset)
        if kind not in (INT8, UTF8, 2) or not 1 <= width <= MAX_FIELD_NAME or length % width:
            raise ValueError("a struct has no names of fields")
        names = [self._data[data + start : data + start + width] for start in range(0, length, width)]
        if not all(b"\0" in name and name[:1] != b"\0" for name in names) or len(set(names)) < len(names):
            raise ValueError("a struct's fields have empty or repeated names")
        return len(names), offset
