"""Variants of `train_step.py`: the same network on the same images, in princeton's training loop and in hgfast's.

Every method has three phases, which share one network and one loader in one process: `whole`, from files to updated weights;
`step`, the same batch repeatedly, which is the network alone; `load`, batches that are not used. A loader stops when its
prefetch queue is full, so phases that are not being measured are idle.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hgfast import checkpoints
from hgfast.architectures import STRIDE, architecture
from hgfast.bench.harness.config import TrainStepLoader
from hgfast.bench.harness.interleaved import BatchInfo, BatchIterator
from hgfast.bench.princeton.loader import HEATMAP_SIZE, PrincetonDataset, princeton_loader
from hgfast.bench.princeton.training import PrincetonTrainer
from hgfast.config import Config
from hgfast.losses import HEATMAP_KIND_OF_LOSS
from hgfast.model import Meta, StackedHourglass
from hgfast.normalization import Normalization
from hgfast.pipelines.datasets import open_loader
from hgfast.pipelines.loaders.dali import import_dali
from hgfast.pipelines.samples import Samples
from hgfast.training import distributed
from hgfast.training.batch import Batch
from hgfast.training.distributed import Ranks
from hgfast.training.evaluator import Loader
from hgfast.training.throughput import DataWaitTimer
from hgfast.training.trainer import Trainer

Phase = Literal["whole", "step", "load"]
INPUT_SIZE = HEATMAP_SIZE * STRIDE  # side of the input, pixels: the only size of princeton's loader
STEPS_PER_SYNC = 10  # steps per synchronization on a GPU, as in hgfast's training
COMPILE_MODES: dict[str, Literal["on", "graphs"]] = {"hgfast_compile": "on", "hgfast_graphs": "graphs"}


@dataclass(frozen=True, eq=False)
class TrainVariant:
    """A phase of a method with a preset of the network. samples: of a layout, repeated to a long epoch."""

    method: str
    phase: Phase
    preset: str
    layout: Literal["freihand", "mpii"]
    samples: Samples
    batch_size: int = 4
    threads: int = 2
    device: str = "cpu"
    seed: int = 0
    loader: TrainStepLoader = "dali"

    @property
    def name(self) -> str:
        return f"{self.method} {self.phase} of {self.preset} on {self.layout}"

    @property
    def process(self) -> str:
        return self.method

    def load(self) -> None:
        torch.set_num_threads(self.threads)  # of the network; the loader's threads share the cores
        if self.method != "seed_style" and self.loader == "dali":
            import_dali()
        if self.device != "cpu":
            torch.zeros(1, device=self.device)

    def start(self) -> BatchIterator:
        return run_phase(self)


@dataclass
class TrainLoop:
    """The parts of a training loop. batches: without end. step: trains on one. fixed: one batch for the phase `step`."""

    batches: Generator[Any, None, None]
    step: Callable[[Any], float | Tensor]
    fixed: Any


OPEN_LOOPS: dict[str, TrainLoop] = {}  # of this process by method; its phases share one


def run_phase(variant: TrainVariant) -> BatchIterator:
    """Run the phase without end; on a GPU in groups of steps, after each of which the host synchronizes."""
    if variant.method not in OPEN_LOOPS:
        OPEN_LOOPS[variant.method] = open_loop(variant)
    loop, on_gpu = OPEN_LOOPS[variant.method], variant.device != "cpu"
    steps_per_batch, wait_timer = STEPS_PER_SYNC if on_gpu else 1, DataWaitTimer(torch.device(variant.device))
    try:
        while True:
            for _ in range(steps_per_batch):
                with wait_timer.waiting():
                    batch = loop.fixed if variant.phase == "step" else next(loop.batches)
                if variant.phase != "load":
                    loop.step(batch)
            if on_gpu:
                torch.cuda.synchronize()
            yield BatchInfo(steps_per_batch * variant.batch_size, wait_timer.collect())
    finally:
        loop.batches.close()
        distributed.cleanup()


def open_loop(variant: TrainVariant) -> TrainLoop:
    torch.manual_seed(variant.seed)
    return princeton_loop(variant) if variant.method == "seed_style" else hgfast_loop(variant)


def princeton_loop(variant: TrainVariant) -> TrainLoop:
    """Return princeton's loader, with worker processes, and its training step."""
    joints = len(variant.samples.skeleton.joints)
    model = StackedHourglass(architecture(variant.preset, input_size=INPUT_SIZE), joints)
    trainer = PrincetonTrainer(model, torch.device(variant.device))
    if variant.loader == "none":
        cells = (variant.batch_size, joints, HEATMAP_SIZE, HEATMAP_SIZE)
        fixed = torch.rand(variant.batch_size, INPUT_SIZE, INPUT_SIZE, 3), torch.rand(cells)
        return TrainLoop(repeat_batch(fixed), lambda batch: trainer.step(*batch), fixed)
    dataset = PrincetonDataset(
        variant.samples, INPUT_SIZE, resize_whole=variant.layout == "freihand", augmented=True, seed=variant.seed
    )
    loader = princeton_loader(dataset, variant.batch_size, variant.threads)
    batches = endless_batches(lambda _: loader)
    return TrainLoop(batches, lambda batch: trainer.step(*batch), next(batches))


def hgfast_loop(variant: TrainVariant) -> TrainLoop:
    """Return the loader and the trainer with default settings, except for the learning rate warm-up, which is off."""
    device = torch.device(variant.device)
    config = Config(
        dataset=variant.layout, batch_size=variant.batch_size, device=variant.device, seed=variant.seed, threads=variant.threads
    )
    config.model.preset, config.model.input_size = variant.preset, INPUT_SIZE
    config.train.warmup = 0.0
    config.train.compile = COMPILE_MODES.get(variant.method, "off")
    ranks = Ranks.single(device)
    loader: Loader
    if variant.loader == "none":
        loader = RandomBatchLoader(variant)
    else:
        config.loader = variant.loader
        options = (variant.samples, INPUT_SIZE, Normalization(), ranks, config)
        loader = open_loader(*options, augment=config.augment, seed=config.seed)
    trainer = make_trainer(config, variant.samples, loader, ranks)
    if variant.method == "hgfast_ddp":
        dist.init_process_group("nccl", rank=0, world_size=1, store=dist.HashStore())  # type: ignore[attr-defined]
        trainer.wrapped_model = trainer.ddp = distributed.wrap_ddp(trainer.model, ranks)
    trainer.model.train()
    batches = endless_batches(loader.epoch)
    return TrainLoop(batches, trainer.train_step, next(batches))


def make_trainer(config: Config, samples: Samples, loader: Loader, ranks: Ranks) -> Trainer:
    """Return a trainer for single steps: it neither validates nor writes files."""
    meta = Meta(
        samples.skeleton, Normalization(), INPUT_SIZE, HEATMAP_KIND_OF_LOSS[config.loss.name], "dark", samples.pixel_offset
    )
    model = checkpoints.build_model(config.model.make_architecture(), meta).to(ranks.device)
    return Trainer(config, model, loader, loader, lambda _: {}, "", Path(tempfile.gettempdir()), ranks)


class RandomBatchLoader:
    """Repeats a batch of random images and keypoints on the device of a variant, for a step that needs no images."""

    def __init__(self, variant: TrainVariant) -> None:
        count, joints, device = variant.batch_size, len(variant.samples.skeleton.joints), torch.device(variant.device)
        images = torch.randn(count, 3, INPUT_SIZE, INPUT_SIZE, device=device).to(memory_format=torch.channels_last)
        keypoints = INPUT_SIZE * torch.rand(count, joints, 2, device=device)
        labeled = torch.ones(count, joints, dtype=torch.bool, device=device)
        index, matrices = np.arange(count), np.tile(np.eye(3), (count, 1, 1))
        self._batch = Batch(images, keypoints, labeled, index, np.zeros(count, np.bool_), matrices, count)
        self.num_samples = len(variant.samples)

    def __len__(self) -> int:
        return self.num_samples // len(self._batch.index)

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        for _ in range(start, len(self)):
            yield self._batch


def repeat_batch(batch: Any) -> Generator[Any, None, None]:
    """Yield a batch without end."""
    while True:
        yield batch


def endless_batches(epoch: Callable[[int], Iterable[Any]]) -> Generator[Any, None, None]:
    """Yield the batches of epochs 0, 1, …; closing the generator closes the epoch."""
    for number in count():
        yield from epoch(number)


def repeat_samples(samples: Samples, length: int) -> Samples:
    """Return the samples repeated to `length`."""
    return samples.take(np.arange(length) % len(samples))
