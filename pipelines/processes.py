"""Distribute jobs over worker processes. Workers import this module, so it must not import torch."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import cv2
from tqdm import tqdm

from hgfast.system_info import available_cores

Job = TypeVar("Job")
Result = TypeVar("Result")
CHUNK_SIZE = 16
"""Jobs that a process receives at a time."""


def map_with_progress(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int | None, unit: str) -> Iterator[Result]:
    """Yield `function(job)` for all jobs in order, computed in this process or in several; show a bar on a terminal."""
    yield from tqdm(_parallel_map(function, jobs, workers), total=len(jobs), unit=unit, disable=None if jobs else True)


def _parallel_map(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int | None) -> Iterator[Result]:
    workers = min(workers or available_cores(), math.ceil(len(jobs) / CHUNK_SIZE))
    if workers <= 1:
        yield from map(function, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=limit_opencv_threads) as pool:
        yield from pool.map(function, jobs, chunksize=CHUNK_SIZE)


def limit_opencv_threads() -> None:
    """Limit OpenCV to one thread: there is one process per core."""
    cv2.setNumThreads(1)
