"""Mutate valid files: change, delete, duplicate or splice bytes, and replace values by invalid or extreme ones.

All mutations are determined by a `random.Random`, so the number of a case is enough to reproduce it.
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

ODD_JSON_VALUES: list[Any] = [
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
"""Replacements for a JSON value that keep the file valid JSON for every parser."""
HUGE = 2**40


def odd_value(rng: random.Random) -> Any:
    """Return an invalid or extreme value."""
    return rng.choice(
        (
            rng.choice(ODD_JSON_VALUES),
            math.nan,
            math.inf,
            -math.inf,
            -(2**63),
            10**400,
            HUGE,
            [0] * 10_000,
            "x" * 100_000,
            nested_list(rng.choice((3, 40, 900))),
            {str(number): number for number in range(1000)},
            "1e5",
            "0x10",
            "\0",
            "no",
            [1, [2, [3, "x"]]],
        )
    )


def nested_list(depth: int) -> list[Any]:
    """Return lists nested to this depth."""
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


# ---- bytes ----


def mutate_bytes(data: bytes, rng: random.Random, limit: int | None = None) -> bytes:
    """Change, delete or duplicate a few of the first `limit` bytes, or truncate the data."""
    mutated = bytearray(data)
    limit = len(mutated) if limit is None else limit
    for _ in range(rng.randint(1, 4)):
        at, kind = rng.randrange(min(limit, len(mutated)) or 1), rng.randrange(5)
        if kind == 0 and len(mutated):
            mutated[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and len(mutated):
            mutated[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del mutated[at : at + rng.randint(1, 16)]
        elif kind == 3:
            mutated[at:at] = mutated[at : at + rng.randint(1, 16)]
        else:
            del mutated[rng.randrange(len(mutated) or 1) :]
    return bytes(mutated)


def splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Replace or insert bytes of another file."""
    start, at = rng.randrange(len(other) or 1), rng.randrange(len(data) or 1)
    piece = other[start : start + rng.choice((1, 8, 64, 4096))]
    return data[:at] + piece + data[at + rng.choice((0, len(piece))) :]


def mutate_integers(data: bytes, rng: random.Random, limit: int | None = None) -> bytes:
    """Replace two- or four-byte integers of the first `limit` bytes, in either byte order, by extreme lengths and sizes."""
    mutated = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        form = rng.choice((">H", "<H", ">I", "<I"))
        size = struct.calcsize(form)
        if len(mutated) >= size:
            at = rng.randrange(min(limit or len(mutated), len(mutated) - size + 1))
            at -= at % rng.choice((1, size))
            value = rng.choice((0, 1, 2, 3, 14, 15, 20, 255, 256, 4096, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1))
            struct.pack_into(form, mutated, at, value % 2 ** (8 * size))
    return bytes(mutated)


def mutate_any_bytes(data: bytes, others: Sequence[bytes], rng: random.Random, limit: int | None = None) -> bytes:
    """Apply one of the mutations above."""
    choice = rng.randrange(4)
    if choice == 0:
        return splice(data, rng.choice(others), rng)
    return mutate_integers(data, rng, limit) if choice == 1 else mutate_bytes(data, rng, limit)


# ---- values ----


def mutate_values(
    content: Any, rng: random.Random, odd: Callable[[random.Random], Any] = lambda rng: rng.choice(ODD_JSON_VALUES)
) -> Any:
    """Replace, delete or swap a value anywhere in nested lists and dicts, or lengthen a list."""
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


def mutate_json(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return mutate_any_bytes(data, others, rng)
    content = json.loads(data)
    for _ in range(rng.randint(1, 2)):
        content = mutate_values(content, rng, odd_value)
    with contextlib.suppress(ValueError, RecursionError):  # more digits or nesting than Python can write
        return json.dumps(content).encode()
    return data


def mutate_yaml(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return mutate_any_bytes(data, others, rng)
    content = yaml.safe_load(data)
    for _ in range(rng.randint(1, 2)):
        content = mutate_values(content, rng, odd_value)
    with contextlib.suppress(ValueError, RecursionError):
        text = yaml.safe_dump(content, sort_keys=False)
        tags = ("!!int", "!!float", "!!bool", "!!timestamp", "!!binary", "!!set", "!!omap", "!!python/name:os.system", "&a *a")
        return (text.replace(": ", f": {rng.choice(tags)} ", 1) if rng.random() < 0.15 else text).encode("utf-8", "surrogatepass")
    return data


def mutate_array(rng: random.Random, like: np.ndarray[Any, Any]) -> Any:
    """Return an array with other values, another type or another shape than `like`."""
    numbers = like.dtype.kind in "fiu"
    choice = rng.randrange(9)
    if choice < 3 and numbers and like.size:
        values = like.astype(np.float64).copy()
        values.flat[rng.randrange(values.size)] = rng.choice((math.nan, math.inf, -math.inf, -1, 0, 0.5, 1e308, -1e30))
        return values
    if choice == 3:
        return like[:0] if like.ndim else like
    if choice == 4:
        return like[..., None]
    if choice == 5:
        return np.array(rng.choice((3.5, b"x", True, 7)))
    if choice == 6:
        return np.full(like.shape, rng.choice((b"x", True, -7, 2**62, np.float16(2), 1j)))
    if choice == 7:
        return like.T
    return np.concatenate([like, like]) if like.ndim else like


def mutate_h5(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return mutate_any_bytes(data, others, rng, rng.choice((None, 2048)))
    memory = io.BytesIO(data)
    with h5py.File(memory, "r+") as file:
        name = rng.choice(list(file))
        like, choice = file[name][()], rng.randrange(10)
        del file[name]
        if choice == 0:
            file.create_dataset(name, (HUGE, *like.shape[1:]), like.dtype, chunks=True)
        elif choice == 1:
            file.create_dataset(name, like.shape, "f8", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])
        elif choice == 2:
            file[name] = h5py.ExternalLink("/etc/passwd", "/x")
        elif choice == 3:
            file[name] = h5py.SoftLink(f"/{name}")
        elif choice == 4:
            layout = h5py.VirtualLayout(like.shape, "f8")
            layout[...] = h5py.VirtualSource("elsewhere.h5", name, like.shape)
            file.create_virtual_dataset(name, layout)
        elif choice == 5:
            file.create_group(name)
        elif choice == 6:
            file.create_dataset(name, data=["x" * 1000] * max(1, len(like) if like.ndim else 1), dtype=h5py.string_dtype())
        elif choice < 9:
            file[name] = mutate_array(rng, like)
    return memory.getvalue()


def mutate_mat(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Mutate the content of compressed variables, or any bytes."""
    at = 128
    mutated = bytearray(data[:at])
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<II", data, at)
        body = data[at + 8 : at + 8 + length]
        if kind == 15:
            inner = zlib.decompress(body)
            inner = mutate_any_bytes(inner, [inner, *others], rng, rng.choice((None, 400))) if rng.random() < 0.9 else inner
            body = zlib.compress(inner, 1)
        mutated += struct.pack("<II", kind, len(body)) + body
        at += 8 + length
    if len(mutated) == len(data) or rng.random() < 0.1:
        return mutate_any_bytes(data, others, rng, rng.choice((None, 600)))
    return bytes(mutated)


def mutate_numpy(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Mutate a .npy file, mostly its header; in a .npz file, mutate a member and write the archive again."""
    if data.startswith(b"PK") and rng.random() < 0.7:
        return rezip(data, lambda part: mutate_npy_header(part, rng) if rng.random() < 0.6 else part, rng)
    return (
        mutate_npy_header(data, rng) if rng.random() < 0.6 and data.startswith(b"\x93") else mutate_any_bytes(data, others, rng)
    )


def mutate_npy_header(data: bytes, rng: random.Random) -> bytes:
    """Return a .npy file whose header claims another shape or type, or with other bytes."""
    if rng.random() < 0.4 or not data.startswith(b"\x93NUMPY"):
        return mutate_bytes(data, rng, 128)
    memory, body = io.BytesIO(), data[10 + struct.unpack("<H", data[8:10])[0] :]
    shapes: list[tuple[int, ...]] = [(HUGE,), (2**31, 2**31, 2**31), (0,), (), (3, 3), (0, HUGE)]
    header = {
        "descr": rng.choice(("<f8", "|O", "<U7", "|V0", "<f2", "<c16", "<i8")),
        "fortran_order": rng.random() < 0.5,
        "shape": rng.choice(shapes),
    }
    np.lib.format.write_array_header_1_0(memory, header)
    return memory.getvalue() + body


def rezip(data: bytes, change: Callable[[bytes], bytes], rng: random.Random) -> bytes:
    """Change, remove, compress or replace one member of a zip file, with a valid checksum."""
    memory = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(memory, "w") as new:
        parts = old.infolist()
        chosen, choice = rng.choice([parts[0], rng.choice(parts)]), rng.randrange(12)
        for part in parts:
            content = old.read(part)
            if part is chosen and choice == 0:
                continue
            kind = zipfile.ZIP_DEFLATED if part is chosen and choice == 1 else zipfile.ZIP_STORED
            if part is chosen and choice == 2:
                content, kind = bytes(2**20), zipfile.ZIP_DEFLATED
            content = change(content) if part is chosen and choice > 2 else content
            new.writestr(zipfile.ZipInfo(part.filename), content, kind)  # without the current time
    return memory.getvalue()


def mutate_checkpoint(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Mutate bytes of the file, of its pickle, or values of its content."""
    choice = rng.randrange(4)
    if choice == 0 or not data.startswith(b"PK"):
        return mutate_any_bytes(data, others, rng, rng.choice((None, 2048)))
    if choice < 3:
        return rezip(data, lambda part: mutate_any_bytes(part, [part], rng), rng)
    content = torch.load(io.BytesIO(data), weights_only=True)
    content = mutate_tensors(content, rng) if rng.random() < 0.4 else mutate_values(content, rng, odd_value)
    memory = io.BytesIO()
    try:
        torch.save(content, memory)
    except RecursionError:  # nested too deeply for pickle
        return data[:-1]
    return memory.getvalue()


def mutate_tensors(content: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Replace a weight by one of another type, shape or size."""
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
