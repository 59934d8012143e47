"""MATLAB's files of version 5 (to 7.2), looked through before scipy's compiled parser is let at them, which trusts what it reads.

The form is that of MathWorks' "MAT-File Format". Elements are followed in the order in which the parser reads them: types it
would take for numbers of a table, lengths beyond the end, counts without elements and endless nesting would crash the process.
What may enter: the form of such files and reading variables from them; what these mean is for others.
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
ROOM = 2**29
"""Bytes of a file, and of its compressed variables together once unpacked; the people of MPII's, drawn, make 130 MB."""
DEPTH = 24
"""Structs and cells within each other; MPII's file needs five."""
DIMENSIONS = 32
WIDTHS = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}
"""Bytes of a number, by the type of its element."""
INT8, INT32, UINT32, MATRIX, COMPRESSED, UTF8 = 1, 5, 6, 14, 15, 16
CELL, STRUCT, CHAR = 1, 2, 4
NUMERIC = range(6, 16)
COMPLEX = 0x800
BLANKS = 1024
"""Letters of a text that need not be there: those that are not are blanks."""
NAME = 64
"""The longest name of a field, and the zero after it."""
BROKEN = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    MemoryError,
    OverflowError,
    UnboundLocalError,
    NotImplementedError,
    struct.error,
    zlib.error,
    MatReadError,
)
"""What reading a broken file may raise; those who ask name the file."""


class Variable(NamedTuple):
    """A variable at the top of a file: its name, the bytes it lies in, and where its contents begin in them."""

    name: str
    parser: _Parser
    kind: int
    flags: int
    dims: tuple[int, ...]
    at: int


def names(path: Path) -> list[str]:
    """What the variables of a file are called. Raises one of `BROKEN`."""
    return [variable.name for variable in _variables(path)]


def read_mat(path: Path, wanted: Collection[str]) -> dict[str, Any]:
    """Those of the wanted variables that a file has, as `scipy.io.loadmat` gives them. Raises one of `BROKEN`."""
    _look_through(path, wanted)
    content = loadmat(str(path), appendmat=False, variable_names=list(wanted))
    return {name: value for name, value in content.items() if name in wanted}


def _look_through(path: Path, wanted: Collection[str]) -> None:
    """Follow all that is in the wanted variables. A function of its own: what it unpacked is gone before scipy unpacks it."""
    seen: set[str] = set()
    for variable in _variables(path):
        if variable.name in seen:
            raise ValueError(f"it has two variables {variable.name!r}")
        seen.add(variable.name)
        if variable.name in wanted:
            variable.parser.contents(variable.kind, variable.flags, variable.dims, variable.at, 0)


def _variables(path: Path) -> Iterator[Variable]:
    """Every variable, its own header having been looked at."""
    if path.stat().st_size > ROOM:
        raise ValueError(f"it has more than {ROOM} bytes")
    data, room = path.read_bytes(), ROOM
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None or struct.unpack(f"{order}H", data[124:126]) != (0x0100,):
        raise ValueError("its header is not that of MATLAB's version 5")
    at = HEADER
    while at < len(data):
        kind, length = struct.unpack_from(f"{order}II", data, at)
        end = at + 8 + length
        if end > len(data) or kind not in (MATRIX, COMPRESSED):
            raise ValueError(f"the element at byte {at} is no variable, or cut short")
        body, start = data[at:end], 0
        if kind == COMPRESSED:
            stream = zlib.decompressobj()
            body = stream.decompress(data[at + 8 : end], room)
            room -= len(body)
            if not stream.eof:
                raise ValueError("a compressed variable is cut short, or unpacks to more than there is room for")
        parser = _Parser(body, order)
        if parser.tag(start)[0] != MATRIX:
            raise ValueError("a compressed element is no variable")
        matrix, flags, dims, name, start = parser.header(start + 8)
        yield Variable(name, parser, matrix, flags, dims, start)
        at = end


class _Parser:
    """Follows the elements in bytes as scipy does, and raises ValueError where it must not."""

    def __init__(self, data: bytes, order: str) -> None:
        self._data = data
        self._two, self._small = struct.Struct(f"{order}II"), struct.Struct(f"{order}HH")
        self._four, self._usual = struct.Struct(f"{order}I"), struct.Struct(f"{order}12I")
        self._little = order == "<"

    def tag(self, at: int) -> tuple[int, int, int, int]:
        """An element's type, its length in bytes, where its data are, and where the next element is."""
        if at + 8 > len(self._data):
            raise ValueError("it is cut short")
        kind, length = self._two.unpack_from(self._data, at)
        if kind >> 16:  # a small one has both in four bytes, and its data in the other four
            kind, length = kind & 0xFFFF, kind >> 16
            if length > 4:
                raise ValueError(f"a small element has {length} bytes")
            return kind, length, at + 4, at + 8
        following = at + 8 + length
        if following > len(self._data):
            raise ValueError("an element reaches beyond the end")
        return kind, length, at + 8, following if kind in (MATRIX, COMPRESSED) else following + -length % 8

    def numbers(self, at: int) -> int:
        """Where the element after one of numbers is."""
        kind, length, _, following = self.tag(at)
        if kind not in WIDTHS or length % WIDTHS[kind]:
            raise ValueError(f"{length} bytes are no numbers of the type {kind}")
        return following

    def header(self, at: int) -> tuple[int, int, tuple[int, ...], str, int]:
        """A matrix's class, flags, dimensions and name, and where what comes after them is."""
        kind, length, data, at = self.tag(at)
        if kind not in (INT32, UINT32) or length != 8:
            raise ValueError("a matrix has no flags")
        (flags,) = self._four.unpack_from(self._data, data)
        kind, length, data, at = self.tag(at)
        if kind not in (INT32, UINT32) or length % 4 or not 4 <= length <= 4 * DIMENSIONS:
            raise ValueError("a matrix has no dimensions")
        dims = tuple(self._four.unpack_from(self._data, data + place)[0] for place in range(0, length, 4))
        if max(dims) >= 2**31:
            raise ValueError("a matrix has negative dimensions")
        kind, length, data, at = self.tag(at)
        if kind not in (INT8, UTF8, 2):
            raise ValueError("a matrix has no name")
        name = self._data[data : data + length].decode("latin1")
        return flags & 0xFF, flags, dims, name, at

    def matrix(self, at: int, depth: int) -> int:
        """Where the element after a matrix is, all that is in it having been looked at."""
        if at + 56 <= len(self._data):  # as most are, and these files have millions
            usual = self._usual.unpack_from(self._data, at)
            if (
                usual[2:4] == (UINT32, 8)
                and usual[6:8] == (INT32, 8)
                and usual[10:] == (INT8, 0)
                and usual[0] == MATRIX
                and usual[1]
            ):
                kind, dims = usual[4] & 0xFF, usual[8:10]
                if max(dims) >= 2**31:
                    raise ValueError("a matrix has negative dimensions")
                return self.contents(kind, usual[4], dims, at + 48, depth)
        kind, length, data, following = self.tag(at)
        if kind != MATRIX:
            raise ValueError(f"an element of the type {kind} is where a matrix should be")
        if not length:
            return following
        kind, flags, dims, _, at = self.header(data)
        return self.contents(kind, flags, dims, at, depth)

    def contents(self, kind: int, flags: int, dims: tuple[int, ...], at: int, depth: int) -> int:
        """Where the element after a matrix's contents is."""
        if kind == CHAR and math.prod(dims) > max(self.tag(at)[1], BLANKS):
            raise ValueError("it claims text for which there are no bytes")
        if kind in NUMERIC or kind == CHAR:
            at = self.numbers(at)
            return self.numbers(at) if flags & COMPLEX and kind != CHAR else at
        if kind not in (CELL, STRUCT):
            raise ValueError(f"matrices of class {kind} are none that hgfast has a use for")
        if depth >= DEPTH:
            raise ValueError(f"it is nested more than {DEPTH} deep")
        count, fields = math.prod(dims), 1
        if kind == STRUCT:
            fields, at = self._fields(at)
        if count * max(fields, 1) > max(1, (len(self._data) - at) // 8):
            raise ValueError(f"it claims {count} elements, for which there are no bytes")
        for _ in range(count * fields):
            at = self.matrix(at, depth + 1)
        return at

    def _fields(self, at: int) -> tuple[int, int]:
        """How many fields a struct has, and where the first element is."""
        kind, length, data, at = self.tag(at)
        if kind not in (INT32, UINT32) or length != 4:
            raise ValueError("a struct does not say how long its fields' names are")
        (width,) = self._four.unpack_from(self._data, data)
        kind, length, data, at = self.tag(at)
        if kind not in (INT8, UTF8, 2) or not 1 <= width <= NAME or length % width:
            raise ValueError("a struct has no names of fields")
        found = [self._data[data + start : data + start + width] for start in range(0, length, width)]
        if not all(b"\0" in name and name[:1] != b"\0" for name in found) or len(set(found)) < len(found):
            raise ValueError("a struct's fields have no names of their own")
        return len(found), at
