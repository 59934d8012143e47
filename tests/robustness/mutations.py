"""Ways to break a valid file: bytes changed, lost, doubled or brought in from another, and values replaced by odd ones.

Everything is made from a `random.Random`, so that a case's number is enough to make it again. What may enter: breaking content
whose form is known; which files there are is for others.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import h5py
import numpy as np
import torch
import yaml

ODD: list[Any] = [
    None,
    -1,
    0,
    1,
    1e308,
    -0.5,
    "",
    "x",
    "../x",
    "/etc/passwd",
    [],
    {},
    True,
    [[]],
    2**70,
    "batch",
    "\ud800",
    [None] * 3,
    {"a": {}},
]
"""What a value in JSON may be replaced by, where it must remain JSON that every reader takes."""
HUGE = 2**40


def odder(rng: random.Random) -> Any:
    """A value that is in nobody's files."""
    return rng.choice(
        (
            rng.choice(ODD),
            math.nan,
            math.inf,
            -math.inf,
            -(2**63),
            10**400,
            HUGE,
            [0] * 10_000,
            "x" * 100_000,
            nested(rng.choice((3, 40, 900))),
            {str(number): number for number in range(1000)},
            "1e5",
            "0x10",
            "\0",
            "no",
            [1, [2, [3, "x"]]],
        )
    )


def nested(depth: int) -> list[Any]:
    """Lists in lists."""
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


# ---- bytes ----


def broken_bytes(data: bytes, rng: random.Random, reach: int | None = None) -> bytes:
    """A few bytes of the first `reach` changed, lost or doubled, or the end cut off."""
    found = bytearray(data)
    reach = len(found) if reach is None else reach
    for _ in range(rng.randint(1, 4)):
        at, kind = rng.randrange(min(reach, len(found)) or 1), rng.randrange(5)
        if kind == 0 and len(found):
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and len(found):
            found[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del found[at : at + rng.randint(1, 16)]
        elif kind == 3:
            found[at:at] = found[at : at + rng.randint(1, 16)]
        else:
            del found[rng.randrange(len(found) or 1) :]
    return bytes(found)


def spliced(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """A piece of another file in the place of one of this, or between two."""
    start, at = rng.randrange(len(other) or 1), rng.randrange(len(data) or 1)
    piece = other[start : start + rng.choice((1, 8, 64, 4096))]
    return data[:at] + piece + data[at + rng.choice((0, len(piece))) :]


def odd_numbers(data: bytes, rng: random.Random, reach: int | None = None) -> bytes:
    """Whole numbers of two or four bytes, in either order, replaced by ones that lengths and sizes should not be."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        form = rng.choice((">H", "<H", ">I", "<I"))
        size = struct.calcsize(form)
        if len(found) >= size:
            at = rng.randrange(min(reach or len(found), len(found) - size + 1))
            at -= at % rng.choice((1, size))
            value = rng.choice((0, 1, 2, 3, 14, 15, 20, 255, 256, 4096, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1))
            struct.pack_into(form, found, at, value % 2 ** (8 * size))
    return bytes(found)


def any_bytes(data: bytes, others: Sequence[bytes], rng: random.Random, reach: int | None = None) -> bytes:
    """One of the ways above."""
    way = rng.randrange(4)
    if way == 0:
        return spliced(data, rng.choice(others), rng)
    return odd_numbers(data, rng, reach) if way == 1 else broken_bytes(data, rng, reach)


# ---- values ----


def broken_values(content: Any, rng: random.Random, odd: Callable[[random.Random], Any] = lambda rng: rng.choice(ODD)) -> Any:
    """A value anywhere in plain content replaced, taken away or exchanged for its neighbour; a list made longer."""
    inner = content
    while isinstance(inner, dict | list) and inner:
        keys: list[Any] = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = rng.choice(keys)
        if isinstance(inner[key], dict | list) and inner[key] and rng.random() < 0.7:
            inner = inner[key]
            continue
        if rng.random() < 0.2:
            del inner[key]
        elif rng.random() < 0.2:
            inner[key] = inner[rng.choice(keys)]
        elif isinstance(inner, list) and rng.random() < 0.1:
            inner += [inner[key]] * rng.choice((1, 2, 1000))
        else:
            inner[key] = odd(rng)
        break
    return content


def broken_json(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return any_bytes(data, others, rng)
    content = json.loads(data)
    for _ in range(rng.randint(1, 2)):
        content = broken_values(content, rng, odder)
    with contextlib.suppress(ValueError, RecursionError):  # more digits or nesting than Python writes
        return json.dumps(content).encode()
    return data


def broken_yaml(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return any_bytes(data, others, rng)
    content = yaml.safe_load(data)
    for _ in range(rng.randint(1, 2)):
        content = broken_values(content, rng, odder)
    with contextlib.suppress(ValueError, RecursionError):
        text = yaml.safe_dump(content, sort_keys=False)
        tags = ("!!int", "!!float", "!!bool", "!!timestamp", "!!binary", "!!set", "!!omap", "!!python/name:os.system", "&a *a")
        return (text.replace(": ", f": {rng.choice(tags)} ", 1) if rng.random() < 0.15 else text).encode("utf-8", "surrogatepass")
    return data


def odd_array(rng: random.Random, like: np.ndarray[Any, Any]) -> Any:
    """An array in the place of another: of other values, another type or shape."""
    numbers = like.dtype.kind in "fiu"
    way = rng.randrange(9)
    if way < 3 and numbers and like.size:
        values = like.astype(np.float64).copy()
        values.flat[rng.randrange(values.size)] = rng.choice((math.nan, math.inf, -math.inf, -1, 0, 0.5, 1e308, -1e30))
        return values
    if way == 3:
        return like[:0] if like.ndim else like
    if way == 4:
        return like[..., None]
    if way == 5:
        return np.array(rng.choice((3.5, b"x", True, 7)))
    if way == 6:
        return np.full(like.shape, rng.choice((b"x", True, -7, 2**62, np.float16(2), 1j)))
    if way == 7:
        return like.T
    return np.concatenate([like, like]) if like.ndim else like


def broken_h5(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return any_bytes(data, others, rng, rng.choice((None, 2048)))
    memory = io.BytesIO(data)
    with h5py.File(memory, "r+") as file:
        name = rng.choice(list(file))
        like, way = file[name][()], rng.randrange(10)
        del file[name]
        if way == 0:
            file.create_dataset(name, (HUGE, *like.shape[1:]), like.dtype, chunks=True)
        elif way == 1:
            file.create_dataset(name, like.shape, "f8", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])
        elif way == 2:
            file[name] = h5py.ExternalLink("/etc/passwd", "/x")
        elif way == 3:
            file[name] = h5py.SoftLink(f"/{name}")
        elif way == 4:
            layout = h5py.VirtualLayout(like.shape, "f8")
            layout[...] = h5py.VirtualSource("elsewhere.h5", name, like.shape)
            file.create_virtual_dataset(name, layout)
        elif way == 5:
            file.create_group(name)
        elif way == 6:
            file.create_dataset(name, data=["x" * 1000] * max(1, len(like) if like.ndim else 1), dtype=h5py.string_dtype())
        elif way < 9:
            file[name] = odd_array(rng, like)
    return memory.getvalue()


def broken_mat(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Of variables that are compressed, what is in them."""
    at = 128
    found = bytearray(data[:at])
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<II", data, at)
        body = data[at + 8 : at + 8 + length]
        if kind == 15:
            inner = zlib.decompress(body)
            inner = any_bytes(inner, [inner, *others], rng, rng.choice((None, 400))) if rng.random() < 0.9 else inner
            body = zlib.compress(inner, 1)
        found += struct.pack("<II", kind, len(body)) + body
        at += 8 + length
    if len(found) == len(data) or rng.random() < 0.1:
        return any_bytes(data, others, rng, rng.choice((None, 600)))
    return bytes(found)


def broken_numpy(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Bytes of a .npy, of its header above all; of a .npz those of its parts, put together again."""
    if data.startswith(b"PK") and rng.random() < 0.7:
        return rezipped(data, lambda part: odd_header(part, rng) if rng.random() < 0.6 else part, rng)
    return odd_header(data, rng) if rng.random() < 0.6 and data.startswith(b"\x93") else any_bytes(data, others, rng)


def odd_header(data: bytes, rng: random.Random) -> bytes:
    """A .npy file that claims another shape or type, or has other bytes."""
    if rng.random() < 0.4 or not data.startswith(b"\x93NUMPY"):
        return broken_bytes(data, rng, 128)
    memory, body = io.BytesIO(), data[10 + struct.unpack("<H", data[8:10])[0] :]
    shapes: list[tuple[int, ...]] = [(HUGE,), (2**31, 2**31, 2**31), (0,), (), (3, 3), (0, HUGE)]
    header = {
        "descr": rng.choice(("<f8", "|O", "<U7", "|V0", "<f2", "<c16", "<i8")),
        "fortran_order": rng.random() < 0.5,
        "shape": rng.choice(shapes),
    }
    np.lib.format.write_array_header_1_0(memory, header)
    return memory.getvalue() + body


def rezipped(data: bytes, change: Callable[[bytes], bytes], rng: random.Random) -> bytes:
    """A zip file of which one part is changed and its checksum right again; or lost, compressed, or there twice."""
    memory = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(memory, "w") as new:
        parts = old.infolist()
        chosen, way = rng.choice([parts[0], rng.choice(parts)]), rng.randrange(12)
        for part in parts:
            content = old.read(part)
            if part is chosen and way == 0:
                continue
            kind = zipfile.ZIP_DEFLATED if part is chosen and way == 1 else zipfile.ZIP_STORED
            if part is chosen and way == 2:
                content, kind = bytes(2**20), zipfile.ZIP_DEFLATED
            content = change(content) if part is chosen and way > 2 else content
            new.writestr(zipfile.ZipInfo(part.filename), content, kind)  # without the time of day
    return memory.getvalue()


def broken_checkpoint(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Bytes of the file, of its pickle, or values of what it describes."""
    way = rng.randrange(4)
    if way == 0 or not data.startswith(b"PK"):
        return any_bytes(data, others, rng, rng.choice((None, 2048)))
    if way < 3:
        return rezipped(data, lambda part: any_bytes(part, [part], rng), rng)
    content = torch.load(io.BytesIO(data), weights_only=True)
    content = odd_tensors(content, rng) if rng.random() < 0.4 else broken_values(content, rng, odder)
    memory = io.BytesIO()
    try:
        torch.save(content, memory)
    except RecursionError:  # nested deeper than pickles go
        return data[:-1]
    return memory.getvalue()


def odd_tensors(content: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Weights with one that is of another kind, shape or size."""
    weights = content.get("weights") or content.get("state_dict") or content.get("model") or content
    name = rng.choice([key for key, value in weights.items() if isinstance(value, torch.Tensor)])
    value = weights[name]
    weights[name] = rng.choice(
        (
            torch.full_like(value, torch.nan) if value.is_floating_point() else value.bool(),
            value[None],
            value.to(torch.complex64),
            value.to(torch.float16),
            torch.zeros(()).expand(value.shape),
            torch.zeros(()).expand(2**14, 2**14, *value.shape[2:]),
            torch.zeros(2, 2).to_sparse(),
            torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
            torch.zeros(0),
            {"a": value},
            3,
        )
    )
    return content
