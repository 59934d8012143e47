"""Variants of `loader.py`: loaders as endless generators of batch sizes.

hgfast's loaders return what training gets: normalized float images with keypoints, augmented with the default settings (rotation
30 degrees, scale 0.75 to 1.25, shift, mirroring of people, colors). `targets` adds the heatmaps, which princeton's loader renders
too. The samples are repeated up to `entries`, so that no trial waits for an epoch to start.
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
from numpy.typing import NDArray

from hgfast.architectures import STRIDE
from hgfast.bench.harness.interleaved import BatchInfo, BatchIterator
from hgfast.bench.princeton.loader import PrincetonDataset, princeton_loader
from hgfast.config import AugmentConfig, LoadingConfig
from hgfast.heatmaps import render
from hgfast.normalization import Normalization
from hgfast.pipelines.batch_plan import BatchPlan
from hgfast.pipelines.loaders.dali import DaliLoader, import_dali
from hgfast.pipelines.loaders.opencv import OpenCVLoader
from hgfast.pipelines.samples import Samples

PRELOAD_GB = 1.0  # more than the images of a run


@dataclass(frozen=True, eq=False)
class LoaderVariant:
    """A loader in a mode, on samples of a layout. cached: on cached crops. entries: length of an epoch."""

    loader: str
    mode: str
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
        return f"{self.loader} {self.mode} of {self.layout}{', cached' * self.cached}, {self.entries} entries"

    @property
    def process(self) -> str:
        """One process per loader; variants whose memory is measured, or whose hardware decoder may crash, have their own."""
        if self.mode == "index" or self.mode.startswith("hw "):
            return self.name
        return "files" if self.loader in ("read_only", "decode_only") else self.loader

    def load(self) -> None:
        if self.loader.startswith("dali") or self.mode == "dali":
            import_dali()
        if self.loader == "dali_gpu":
            torch.zeros(1, device="cuda")

    def start(self) -> BatchIterator:
        return BATCH_SOURCES[self.loader](self)

    def repeated(self) -> Samples:
        """Return the samples repeated to `entries`."""
        return self.samples.take(np.arange(self.entries) % len(self.samples))


def hgfast_batches(variant: LoaderVariant) -> BatchIterator:
    """Load with DALI on the CPU or the GPU, or with the OpenCV loader (row value `torch`)."""
    device = torch.device("cuda" if variant.loader == "dali_gpu" else "cpu")
    plan = BatchPlan(variant.repeated(), variant.size, variant.batch_size, augment=AugmentConfig(), seed=variant.seed)
    loader: DaliLoader | OpenCVLoader
    if variant.loader == "torch":
        loader = OpenCVLoader(plan, device, variant.threads, Normalization())
    else:
        loader = DaliLoader(plan, device, variant.threads, Normalization(), options=loading_options(variant.mode))
    for epoch in count():
        for batch in loader.epoch(epoch):
            if variant.mode != "images":
                render(batch.keypoints / STRIDE, variant.size // STRIDE, variant.size // STRIDE)
            if device.type == "cuda":
                torch.cuda.synchronize()
            yield BatchInfo(len(batch.images))


def loading_options(mode: str) -> LoadingConfig:
    """Return the settings of a mode: `hw SHARE` for the hardware decoder, `preloaded` for files in memory, else the defaults."""
    name, _, value = mode.partition(" ")
    if name == "hw":
        return LoadingConfig(hw_decoder_load=float(value))
    return LoadingConfig(preload_gb=PRELOAD_GB) if name == "preloaded" else LoadingConfig()


def princeton_batches(variant: LoaderVariant) -> BatchIterator:
    """Load with princeton's Dataset: hands from the whole image, people from their crop square."""
    dataset = PrincetonDataset(
        variant.repeated(),
        variant.size,
        resize_whole=variant.layout == "freihand",
        augmented=variant.mode == "augmented",
        seed=variant.seed,
    )
    loader = princeton_loader(dataset, variant.batch_size, variant.threads)
    while True:
        for images, _ in loader:
            yield BatchInfo(len(images))


def decode_batches(variant: LoaderVariant) -> BatchIterator:
    """Only read and decode whole images, with DALI or with OpenCV on threads."""
    return decode_dali_batches(variant) if variant.mode == "dali" else map_files(variant, decode_opencv)


def decode_dali_batches(variant: LoaderVariant) -> BatchIterator:
    dali, batches = import_dali(), shuffled_paths(variant)

    @dali.pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=variant.batch_size, num_threads=variant.threads, device_id=None, prefetch_queue_depth=2, exec_dynamic=True
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
        yield BatchInfo(variant.batch_size)


def read_batches(variant: LoaderVariant) -> BatchIterator:
    """Only read files, after asking the kernel to drop them from the page cache: the speed of the disk."""
    for path in sorted(set(map(str, variant.samples.paths))):
        with Path(path).open("rb") as file:
            os.fsync(file.fileno())  # pages that are not on disk yet cannot be dropped
    return map_files(variant, read_cold)


def read_cold(path: str) -> int:
    with Path(path).open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return len(file.read())


def decode_opencv(path: str) -> NDArray[Any]:
    return np.asarray(cv2.cvtColor(cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))  # type: ignore[arg-type]


def map_files(variant: LoaderVariant, work: Callable[[str], Any]) -> BatchIterator:
    """Apply `work` to the files of each batch on threads, with one batch submitted ahead."""
    pending: list[Future[Any]] = []
    with ThreadPoolExecutor(variant.threads) as pool:
        for paths in shuffled_paths(variant):
            submitted = [pool.submit(work, path) for path in paths]
            for future in pending:
                future.result()
            if pending:
                yield BatchInfo(len(pending))
            pending = submitted


def shuffled_paths(variant: LoaderVariant) -> Iterator[Sequence[str]]:
    """Yield batches of paths without end, every image equally often."""
    paths = list(map(str, variant.samples.paths))
    rng = np.random.default_rng(variant.seed)
    order: list[int] = []
    while True:
        while len(order) < variant.batch_size:
            order += rng.permutation(len(paths)).tolist()
        yield [paths[row] for row in order[: variant.batch_size]]
        del order[: variant.batch_size]


BATCH_SOURCES: dict[str, Callable[[LoaderVariant], BatchIterator]] = {
    "read_only": read_batches,
    "decode_only": decode_batches,
    "dali_cpu": hgfast_batches,
    "dali_gpu": hgfast_batches,
    "torch": hgfast_batches,
    "seed_style": princeton_batches,
}
