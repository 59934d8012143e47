"""Work shared among processes: for pictures that are drawn or cropped one by one.

What may enter: handing out jobs. Worker processes import this module, so no torch.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import cv2
from tqdm import tqdm

from hgfast.machine import cores

Job = TypeVar("Job")
Result = TypeVar("Result")
CHUNK = 16
"""Jobs a process is handed at a time."""


def spread(
    perform: Callable[[Job], Result], jobs: Sequence[Job], workers: int | None, unit: str, progress: bool
) -> Iterator[Result]:
    """What `perform` makes of all jobs in their order, in this process or in several, behind a progress bar."""
    yield from tqdm(share(perform, jobs, workers), total=len(jobs), unit=unit, disable=None if progress else True)


def share(perform: Callable[[Job], Result], jobs: Sequence[Job], workers: int | None) -> Iterator[Result]:
    """`spread` without its bar."""
    workers = min(workers or cores(), math.ceil(len(jobs) / CHUNK))
    if workers == 1:
        yield from map(perform, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=one_thread) as pool:
        yield from pool.map(perform, jobs, chunksize=CHUNK)


def one_thread() -> None:
    """Keep OpenCV to the process's own core."""
    cv2.setNumThreads(1)
