"""Broken models and sidecars, thrown at `hgfast.runtime.Session`: each must end in a session that answers, or in one sentence.

    python tests/export/broken_files.py --cases 10000

Bytes or values of a sidecar are changed, or bytes of an ONNX, of a TorchScript or of an engine's header, whose checksum is made
right again, so that they reach the runtime. Every case is made from its number alone. Cases run in a process of their own: what
crashes, hangs or takes too much memory is told with its number, and `--first N --cases 1` repeats it.
What may enter: making broken files and watching what opens them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

sys.path.append(str(Path(__file__).parents[2] / "export"))  # where Python looks for the modules beside a script

from options import ExportConfig
from to_onnx import make_onnx
from torchscript import make_torchscript

from hgfast import checkpoints, sidecar
from hgfast.checkpoints import Meta, build
from hgfast.cli import parse
from hgfast.errors import HgfastError, run
from hgfast.model import PRESETS
from hgfast.preprocessing import Preprocessing
from hgfast.runtime import Session
from hgfast.skeletons import BODY16

SIDE = 64  # pixels of the input
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
MEMORY_GB = 8.0  # of address space; runtimes reserve more than they use
SECONDS = 30.0  # for one case


@dataclass(kw_only=True)
class BrokenConfig:
    """One round of broken files."""

    cases: int = 10000
    """how many"""
    first: int = 0
    """number of the first"""

    def validate(self) -> None:
        """Raise `HgfastError` for what is out of its range."""
        if self.cases < 1 or self.first < 0:
            raise HgfastError("--cases must be at least 1 and --first at least 0")


# ---- what is broken ----


def originals(folder: Path) -> dict[str, Path]:
    """A tiny network in every form that can be opened without a GPU, and what passes for an engine until it is run."""
    torch.manual_seed(0)
    checkpoint = folder / "net.pt"
    meta = Meta(BODY16, Preprocessing(), SIDE, "logits", "dark", -0.5)
    checkpoints.save(checkpoints.describe(build(PRESETS["tiny"], meta)), checkpoint)
    config = ExportConfig(checkpoint=checkpoint, batch="1:2:4", no_verify=True)
    onnx = make_onnx(config, config.load(), config.target("onnx")).path
    script = make_torchscript(config, config.load(), config.target("torchscript")).path
    engine = folder / "net.engine"
    plan = b"vtrt" + bytes(12) + (4096).to_bytes(8, "little") + bytes((1, 7, 1, 116))
    engine.write_bytes(plan + bytes(4096 - len(plan)))
    content = json.loads(sidecar.place(onnx).read_text())
    content |= {"artefact": engine.name, "kind": "tensorrt_rtx", "builder": {"backend": "tensorrt_rtx", "version": "1.7.1.116"}}
    sidecar.place(engine).write_text(json.dumps(content | {"sha256": sidecar.checksum(engine)}))
    return {"onnx": onnx, "torchscript": script, "engine": engine}


def broken_bytes(data: bytes, rng: random.Random, reach: int) -> bytes:
    """A few bytes of the first `reach` changed, lost or doubled, or the end cut off."""
    found = bytearray(data)
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


def broken_values(content: Any, rng: random.Random) -> Any:
    """A value anywhere in JSON replaced, taken away or exchanged for its neighbour."""
    inner = content
    while True:
        keys: list[Any] = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = rng.choice(keys)
        if isinstance(inner[key], dict | list) and inner[key] and rng.random() < 0.7:
            inner = inner[key]
            continue
        if rng.random() < 0.2:
            del inner[key]
        elif rng.random() < 0.2:
            inner[key] = inner[rng.choice(keys)]
        else:
            inner[key] = rng.choice(ODD)
        return content


def break_one(number: int, good: dict[str, Path], place: Path) -> Path:
    """The file of a case, its sidecar beside it: of four cases two have a broken sidecar, one an ONNX, one another form."""
    rng = random.Random(number)  # noqa: S311  (no secret)
    kind = ("onnx", "onnx", "onnx", rng.choice(("torchscript", "engine", "engine")))[number % 4]
    source = good[kind]
    path = place / f"net{source.suffix}"
    data, text = source.read_bytes(), sidecar.place(source).read_bytes()
    if number % 4 < 2:
        content = json.loads(text)
        text = broken_bytes(text, rng, len(text)) if number % 4 else json.dumps(broken_values(content, rng)).encode()
    else:
        data = broken_bytes(data, rng, {"onnx": 4096 if rng.random() < 0.5 else len(data)}.get(kind, 4096))
        path.write_bytes(data)
        text = json.dumps({**json.loads(text), "sha256": sidecar.checksum(path)}).encode()
    path.write_bytes(data)
    sidecar.place(path).write_bytes(text)
    return path


# ---- what opens it ----


def look(path: Path) -> str:
    """Open a session and show it a picture: what came of it. Whatever is neither an answer nor one sentence is raised."""
    image = np.full((SIDE, SIDE + 9, 3), 77, np.uint8)
    try:
        with Session(path, None if path.suffix != ".onnx" else "onnxruntime", threads=1) as session:
            points = session(image).keypoints
            if points.shape != (1, len(session.skeleton.joints), 2):
                raise AssertionError(f"keypoints of shape {points.shape}")
    except HgfastError as error:
        if "\n" in str(error) or len(str(error)) > 1000:
            raise AssertionError(f"no sentence: {error}") from error
        return "refused"
    return "answered"


def serve(pipe: Connection, good: dict[str, Path], place: Path) -> None:
    """Cases by their numbers until there are no more: what came of each."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    grown = int(MEMORY_GB * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (grown, grown))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what runtimes print about broken files
    while (number := pipe.recv()) is not None:
        try:
            pipe.send(look(break_one(number, good, place)))
        except BaseException as error:  # whatever it is, is what was looked for
            pipe.send(f"{type(error).__name__}: {str(error)[:300]}")


class Keeper:
    """A process that opens files, and another when it is gone."""

    def __init__(self, good: dict[str, Path], place: Path) -> None:
        self._good, self._place = good, place
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=serve, args=(there, self._good, self._place), daemon=True)
        self._process.start()
        there.close()

    def try_one(self, number: int) -> str:
        """What came of a case: "answered", "refused", or what went wrong."""
        self._pipe.send(number)
        if self._pipe.poll(SECONDS + 60):  # the first one imports
            try:
                return str(self._pipe.recv())
            except EOFError:
                self._process.join()
                code = self._process.exitcode or 0
                found = f"crashed: {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
        else:
            self._process.kill()
            found = f"hangs: more than {SECONDS:g} s"
        self.close()
        self._start()
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def throw(cases: range, folder: Path, progress: Callable[[range], Any] = iter) -> tuple[Counter[str], dict[int, str]]:
    """How many of the cases were answered and refused, and what went wrong in others, by their numbers."""
    good, place = originals(folder), folder / "broken"
    place.mkdir()
    keeper, seen, wrong = Keeper(good, place), Counter[str](), dict[int, str]()
    try:
        for number in progress(cases):
            found = keeper.try_one(number)
            if found in ("answered", "refused"):
                seen[found] += 1
            else:
                wrong[number] = found
    finally:
        keeper.close()
    return seen, wrong


def main() -> None:
    config = parse(BrokenConfig, description=__doc__ or "")
    config.validate()
    cases, began = range(config.first, config.first + config.cases), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="hgfast-broken-") as folder:
        seen, wrong = throw(cases, Path(folder), lambda numbers: tqdm(numbers, disable=None, unit="case"))
    for number, what in wrong.items():
        print(f"case {number}: {what}")
    print(f"{len(cases)} cases in {time.perf_counter() - began:.0f} s: {dict(seen)}, {len(wrong)} went wrong", flush=True)
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    run(main)
