"""Decode whole files with the decoder that training uses, to see which cannot be, and how large the pictures are.

Memory is bounded: DALI gets so few pictures at a time that they have 64 million pixels together (200 MB), or one that has
more; OpenCV one a thread.
What may enter: looking at picture files, in any number. What is remembered of them is in `pipelines.check_result`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from hgfast import picture_size
from hgfast.draw import read_image
from hgfast.errors import HgfastError
from pipelines.check_result import Outcome, State
from pipelines.dali import import_dali, png_complaint, what_is_wrong

FILES = 64  # a batch of DALI's, at most
PIXELS = 2**26  # together, unless one has more


def look_at(path: str) -> tuple[State | None, str]:
    """The state of a file without decoding it, and what is wrong with it as far as can be seen from outside."""
    try:
        status = os.stat(path)  # noqa: PTH116  (see check_result.state_of)
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"
    state = (status.st_size, status.st_mtime_ns)
    if stat.S_ISDIR(status.st_mode):
        return state, "is a folder, not a picture"
    if not stat.S_ISREG(status.st_mode):
        return state, "is a device or a pipe, not a picture"
    if not os.access(path, os.R_OK):
        return state, "cannot be read (Permission denied)"
    return state, "" if status.st_size else "is empty"


def decode(paths: Sequence[str], loader: Literal["dali", "torch"], threads: int) -> Iterator[tuple[str, Outcome]]:
    """Every path once, in any order, with what the decoder makes of it."""
    return with_dali(paths, threads) if loader == "dali" else with_opencv(paths, threads)


def with_opencv(paths: Sequence[str], threads: int) -> Iterator[tuple[str, Outcome]]:
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(paths), FILES * threads):
            some = paths[start : start + FILES * threads]
            yield from zip(some, pool.map(_opencv, some))


def _opencv(path: str) -> Outcome:
    try:
        height, width, _ = read_image(path).shape
    except HgfastError as error:
        return _predicate(str(error), path)
    return width, height


def with_dali(paths: Sequence[str], threads: int) -> Iterator[tuple[str, Outcome]]:
    peek, whole = _Graph("peek", threads), _Graph("decode", threads)
    for start in range(0, len(paths), FILES):
        few: list[str] = []
        pixels = 0
        some = []
        for path in paths[start : start + FILES]:
            if complaint := png_complaint(path):
                yield path, _predicate(complaint, path)
            else:
                some.append(path)
        for path, outcome in peek.run(some) if some else ():
            if isinstance(outcome, str):
                yield path, outcome
                continue
            count = outcome[0] * outcome[1]
            if count > picture_size.PIXELS:
                yield path, picture_size.too_many(*outcome)
                continue
            if few and pixels + count > PIXELS:
                yield from whole.run(few)
                few, pixels = [], 0
            few.append(path)
            pixels += count
        if few:
            yield from whole.run(few)


class _Graph:
    """A DALI pipeline on the CPU that gives the size of whole pictures, from their header ("peek") or decoded."""

    def __init__(self, what: Literal["peek", "decode"], threads: int) -> None:
        self._what, self._threads = what, threads
        self._pipeline = self._build()

    def _build(self) -> Any:
        dali = import_dali()
        fn, types = dali.fn, dali.types

        @dali.pipeline_def(  # type: ignore[untyped-decorator]
            batch_size=FILES, num_threads=self._threads, device_id=None, prefetch_queue_depth=1, exec_dynamic=True
        )
        def graph() -> Any:
            files = fn.io.file.read(fn.external_source(name="paths", dtype=types.UINT8, ndim=1))
            if self._what == "peek":
                return fn.peek_image_shape(files)
            return fn.decoders.image(files, device="cpu", output_type=types.RGB, jpeg_fancy_upsampling=True).shape()

        return graph()

    def run(self, paths: Sequence[str]) -> list[tuple[str, Outcome]]:
        """At most `FILES` paths with what becomes of them. A bad file breaks the pipeline; halves tell which."""
        try:
            (shapes,) = self._pipeline.run(paths=[np.frombuffer(os.fsencode(path), np.uint8) for path in paths])
        except RuntimeError:
            self._pipeline = self._build()
            if len(paths) == 1:
                return [(paths[0], _predicate(what_is_wrong(paths[0]), paths[0]))]
            return self.run(paths[: len(paths) // 2]) + self.run(paths[len(paths) // 2 :])
        return [(path, (int(shape[1]), int(shape[0]))) for path, shape in zip(paths, np.asarray(shapes.as_tensor()))]


def _predicate(sentence: str, path: str) -> str:
    """A sentence about a file without its subject."""
    return sentence.removeprefix(path).strip()
