"""The ways to make batches that `loader.py` compares, each an endless generator of how many images a batch has.

hgfast's loaders give what training gets: augmented with the defaults (rotation 30 degrees, size 0.75 to 1.25, shift,
mirroring of bodies, colours), normalised float pictures with keypoints; `targets` adds the heatmaps, as the seed's way has
them. The samples are repeated up to `entries`, so that no lap waits for an epoch to begin.
What may enter: opening a loader and drawing batches from it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from contest import Batches, Made
from numpy.typing import NDArray
from seed_style import SeedStyle, seed_loader

from hgfast.config import AugmentConfig, LoadingConfig
from hgfast.heatmaps import render
from hgfast.model import STRIDE
from hgfast.preprocessing import Preprocessing
from pipelines.dali import DaliLoader, import_dali
from pipelines.plain import TorchLoader
from pipelines.plan import Plan
from pipelines.samples import Samples

PRELOADED = 1.0  # gigabytes, more than the pictures of a contest


@dataclass(frozen=True, eq=False)
class LoaderWay:
    """A row of the table: `loader` and `variant` say how, `samples` of a layout, cached or not, say what."""

    loader: str
    variant: str
    layout: str
    cached: bool
    samples: Samples
    entries: int
    batch_size: int = 32
    size: int = 256
    threads: int = 2
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.loader} {self.variant} of {self.layout}{', cached' * self.cached}, {self.entries} entries"

    @property
    def process(self) -> str:
        """One a kind of loader; those whose memory is looked at have one of their own."""
        if self.variant == "index":
            return self.name
        return "files" if self.loader in ("read_only", "decode_only") else self.loader

    def load(self) -> None:
        if self.loader.startswith("dali") or self.variant == "dali":
            import_dali()
        if self.loader == "dali_gpu":
            torch.zeros(1, device="cuda")

    def start(self) -> Batches:
        return STARTS[self.loader](self)

    def repeated(self) -> Samples:
        """The samples over and over, `entries` of them."""
        return self.samples.take(np.arange(self.entries) % len(self.samples))


def hgfast_way(way: LoaderWay) -> Batches:
    """DALI on the CPU or the GPU, or the plain loader."""
    device = torch.device("cuda" if way.loader == "dali_gpu" else "cpu")
    plan = Plan(way.repeated(), way.size, way.batch_size, augment=AugmentConfig(), seed=way.seed)
    loader: DaliLoader | TorchLoader
    if way.loader == "torch":
        loader = TorchLoader(plan, device, way.threads, Preprocessing())
    else:
        loader = DaliLoader(plan, device, way.threads, Preprocessing(), options=options_of(way.variant))
    for epoch in count():
        for batch in loader.epoch(epoch):
            if way.variant != "images":
                render(batch.keypoints / STRIDE, way.size // STRIDE, way.size // STRIDE)
            if device.type == "cuda":
                torch.cuda.synchronize()
            yield Made(len(batch.images))


def options_of(variant: str) -> LoadingConfig:
    """`hw 0.3`: that share to the GPU's hardware decoder; `preloaded`: files in memory; else the defaults."""
    kind, _, share = variant.partition(" ")
    if kind == "hw":
        return LoadingConfig(hw_decoder_load=float(share))
    return LoadingConfig(preload_gb=PRELOADED) if kind == "preloaded" else LoadingConfig()


def seed_way(way: LoaderWay) -> Batches:
    """The seed's Dataset, for hands with the whole picture, for people with their square."""
    dataset = SeedStyle(
        way.repeated(), way.size, whole=way.layout == "freihand", augmented=way.variant == "augmented", seed=way.seed
    )
    loader = seed_loader(dataset, way.batch_size, way.threads)
    while True:
        for pictures, _ in loader:
            yield Made(len(pictures))


def decode_way(way: LoaderWay) -> Batches:
    """Read and decode whole pictures, nothing else: by DALI, or by OpenCV on threads."""
    return decode_dali(way) if way.variant == "dali" else pooled(way, decode_opencv)


def decode_dali(way: LoaderWay) -> Batches:
    dali, batches = import_dali(), shuffled(way)

    @dali.pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=way.batch_size, num_threads=way.threads, device_id=None, prefetch_queue_depth=2, exec_dynamic=True
    )
    def graph() -> Any:
        paths = dali.fn.external_source(
            source=lambda: [np.frombuffer(path.encode(), np.uint8) for path in next(batches)], batch=True, dtype=dali.types.UINT8
        )
        return dali.fn.decoders.image(
            dali.fn.io.file.read(paths), device="cpu", output_type=dali.types.RGB, jpeg_fancy_upsampling=True
        )

    pipeline = graph()
    while True:
        pipeline.run()
        yield Made(way.batch_size)


def read_way(way: LoaderWay) -> Batches:
    """Read files, after telling the system to forget them: what the disk gives, as far as the system forgets."""
    for path in sorted(set(map(str, way.samples.paths))):
        with Path(path).open("rb") as file:
            os.fsync(file.fileno())  # what is not on disk yet cannot be forgotten
    return pooled(way, read_cold)


def read_cold(path: str) -> int:
    with Path(path).open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return len(file.read())


def decode_opencv(path: str) -> NDArray[Any]:
    return np.asarray(cv2.cvtColor(cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))  # type: ignore[arg-type]


def pooled(way: LoaderWay, work: Callable[[str], Any]) -> Batches:
    """Something done to the files of batch after batch on threads, with one batch waiting while another is worked on."""
    waiting: list[Future[Any]] = []
    with ThreadPoolExecutor(way.threads) as pool:
        for paths in shuffled(way):
            coming = [pool.submit(work, path) for path in paths]
            for done in waiting:
                done.result()
            if waiting:
                yield Made(len(waiting))
            waiting = coming


def shuffled(way: LoaderWay) -> Iterator[Sequence[str]]:
    """Batches of paths without end, every picture as often as any other."""
    paths = list(map(str, way.samples.paths))
    rng = np.random.default_rng(way.seed)
    order: list[int] = []
    while True:
        while len(order) < way.batch_size:
            order += rng.permutation(len(paths)).tolist()
        yield [paths[row] for row in order[: way.batch_size]]
        del order[: way.batch_size]


STARTS: dict[str, Callable[[LoaderWay], Batches]] = {
    "read_only": read_way,
    "decode_only": decode_way,
    "dali_cpu": hgfast_way,
    "dali_gpu": hgfast_way,
    "torch": hgfast_way,
    "seed_style": seed_way,
}
