"""Decode whole files with the decoder that training uses, to find undecodable images and image sizes.

Memory is bounded: a DALI batch has at most 64 million pixels together (200 MB), or one image that has more; OpenCV holds one
image per thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import cv2
import numpy as np

from hgfast.errors import HgfastError
from hgfast.fileio import image_header
from hgfast.pipelines.checks.result import DecodeOutcome, FileStamp
from hgfast.pipelines.loaders.dali import describe_decode_error, file_problem, import_dali
from hgfast.visualization.draw import read_image, read_image_bytes

BATCH_FILES = 64  # images of a DALI batch, at most
BATCH_PIXELS = 2**26  # of a DALI batch, unless one image has more


def file_status(path: str) -> tuple[FileStamp | None, str]:
    """Return the stamp of a file and the reason why it cannot be an image, "" if none; the file is not decoded."""
    try:
        status = os.stat(path)  # noqa: PTH116  (see result.file_stamp)
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"
    stamp = (status.st_size, status.st_mtime_ns)
    if stat.S_ISDIR(status.st_mode):
        return stamp, "is a folder, not an image"
    if not stat.S_ISREG(status.st_mode):
        return stamp, "is a device or a pipe, not an image"
    if not os.access(path, os.R_OK):
        return stamp, "cannot be read (Permission denied)"
    return stamp, "" if status.st_size else "is empty"


def dark_images(paths: Sequence[str]) -> list[str]:
    """Return the PNG images of 16 bits a channel that use less than an eighth of the range: all readers see them nearly black."""
    return [path for path in paths if _has_16_bits(path) and _peak(path) < 2**13]


def _has_16_bits(path: str) -> bool:
    try:
        with open(path, "rb") as file:  # noqa: PTH123  (see result.file_stamp)
            head = file.read(25)
    except OSError:
        return False
    return head.startswith(image_header.PNG_MAGIC) and head[24:] == b"\x10"


def _peak(path: str) -> float:
    image = cv2.imdecode(read_image_bytes(path), cv2.IMREAD_UNCHANGED)
    return np.inf if image is None else float(image.max())


def decode(paths: Sequence[str], loader: Literal["dali", "opencv"], threads: int) -> Iterator[tuple[str, DecodeOutcome]]:
    """Yield every path once, in any order, with its decode outcome."""
    return decode_with_dali(paths, threads) if loader == "dali" else decode_with_opencv(paths, threads)


def decode_with_opencv(paths: Sequence[str], threads: int) -> Iterator[tuple[str, DecodeOutcome]]:
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(paths), BATCH_FILES * threads):
            chunk = paths[start : start + BATCH_FILES * threads]
            yield from zip(chunk, pool.map(_decode_file, chunk))


def _decode_file(path: str) -> DecodeOutcome:
    try:
        height, width, _ = read_image(path).shape
    except HgfastError as error:
        return _without_path(str(error), path)
    return width, height


def decode_with_dali(paths: Sequence[str], threads: int) -> Iterator[tuple[str, DecodeOutcome]]:
    header_reader, decoder = _SizePipeline("peek", threads), _SizePipeline("decode", threads)
    for start in range(0, len(paths), BATCH_FILES):
        batch: list[str] = []
        pixels = 0
        safe_paths = []
        for path in paths[start : start + BATCH_FILES]:
            if error := file_problem(path):
                yield path, _without_path(error, path)
            else:
                safe_paths.append(path)
        for path, outcome in header_reader.run(safe_paths) if safe_paths else ():
            if isinstance(outcome, str):
                yield path, outcome
                continue
            count = outcome[0] * outcome[1]
            if count > image_header.MAX_PIXELS:
                yield path, image_header.too_large_message(*outcome)
                continue
            if batch and pixels + count > BATCH_PIXELS:
                yield from decoder.run(batch)
                batch, pixels = [], 0
            batch.append(path)
            pixels += count
        if batch:
            yield from decoder.run(batch)


class _SizePipeline:
    """DALI pipeline on the CPU that returns the size of whole images, read from their header ("peek") or decoded ("decode")."""

    def __init__(self, mode: Literal["peek", "decode"], threads: int) -> None:
        self._mode, self._threads = mode, threads
        self._pipeline = self._build()

    def _build(self) -> Any:
        dali = import_dali()
        fn, types = dali.fn, dali.types

        @dali.pipeline_def(  # type: ignore[untyped-decorator]
            batch_size=BATCH_FILES, num_threads=self._threads, device_id=None, prefetch_queue_depth=1, exec_dynamic=True
        )
        def graph() -> Any:
            files = fn.io.file.read(fn.external_source(name="paths", dtype=types.UINT8, ndim=1))
            if self._mode == "peek":
                return fn.peek_image_shape(files)
            return fn.decoders.image(files, device="cpu", output_type=types.RGB, jpeg_fancy_upsampling=True).shape()

        return graph()

    def run(self, paths: Sequence[str]) -> list[tuple[str, DecodeOutcome]]:
        """Return the outcomes of at most `BATCH_FILES` paths. A bad file breaks the pipeline: the batch is halved to find it."""
        try:
            (shapes,) = self._pipeline.run(paths=[np.frombuffer(os.fsencode(path), np.uint8) for path in paths])
        except RuntimeError:
            self._pipeline = self._build()
            if len(paths) == 1:
                return [(paths[0], _without_path(describe_decode_error(paths[0]), paths[0]))]
            return self.run(paths[: len(paths) // 2]) + self.run(paths[len(paths) // 2 :])
        return [(path, (int(shape[1]), int(shape[0]))) for path, shape in zip(paths, np.asarray(shapes.as_tensor()))]


def _without_path(message: str, path: str) -> str:
    """Remove the path from the start of a message."""
    return message.removeprefix(path).strip()
