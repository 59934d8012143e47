"""The ways to train that `train_step.py` compares: the same network on the same pictures, in a loop written the seed's way
and in hgfast's.

Every way has three legs, which share one network and one loader in one process: `whole`, from files to the next weights;
`step`, the same batch again and again, which is the network alone; `load`, batches that nobody uses. A loader that works
ahead stops when its few batches are ready, so a leg that is not measured is at rest.
What may enter: building a loop and running a leg of it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from contest import Batches, Made
from seed_style import CELLS, SeedStyle, seed_loader
from seed_train import SeedTrainer
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from hgfast import checkpoints, distributed
from hgfast.config import Config
from hgfast.distributed import Ranks
from hgfast.evaluation import Loader
from hgfast.losses import map_kind
from hgfast.model import STRIDE, Meta, StackedHourglass, architecture
from hgfast.preprocessing import Preprocessing
from hgfast.training import Trainer
from pipelines.dali import import_dali
from pipelines.datasets import open_loader
from pipelines.samples import Samples

Leg = Literal["whole", "step", "load"]
SIZE = CELLS * STRIDE  # of the input, pixels: the seed's heatmaps have just so many cells
STEPS_A_LOOK = 10  # on a GPU: hgfast's loop waits for the device every so many steps, as it does in training
COMPILED: dict[str, Literal["on", "graphs"]] = {"hgfast_compile": "on", "hgfast_graphs": "graphs"}


@dataclass(frozen=True, eq=False)
class TrainWay:
    """A leg of a way with a preset of the network; `samples` of a layout, repeated to a long epoch."""

    way: str
    leg: Leg
    preset: str
    layout: Literal["freihand", "mpii"]
    samples: Samples
    batch_size: int = 4
    threads: int = 2
    device: str = "cpu"
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.way} {self.leg} of {self.preset} on {self.layout}"

    @property
    def process(self) -> str:
        return self.way

    def load(self) -> None:
        torch.set_num_threads(self.threads)  # the network's, which share the cores with the loader's
        if self.way != "seed_style":
            import_dali()
        if self.device != "cpu":
            torch.zeros(1, device=self.device)

    def start(self) -> Batches:
        return run_leg(self)


@dataclass
class Loop:
    """A training loop taken apart: batches without end, what a step does with one, and one to be used again and again."""

    batches: Generator[Any, None, None]
    step: Callable[[Any], float | Tensor]
    fixed: Any


LOOPS: dict[str, Loop] = {}  # of this process, by way: its legs share one


def run_leg(way: TrainWay) -> Batches:
    """Endless steps, or batches; on a GPU in groups, after each of which it is waited for."""
    if way.way not in LOOPS:
        LOOPS[way.way] = open_loop(way)
    loop, on_gpu = LOOPS[way.way], way.device != "cpu"
    together = STEPS_A_LOOK if on_gpu else 1
    try:
        while True:
            waited = 0.0
            for _ in range(together):
                asked = time.perf_counter()
                batch = loop.fixed if way.leg == "step" else next(loop.batches)
                waited += time.perf_counter() - asked
                if way.leg != "load":
                    loop.step(batch)
            if on_gpu:
                torch.cuda.synchronize()
            yield Made(together * way.batch_size, waited)
    finally:
        loop.batches.close()
        distributed.stop()


def open_loop(way: TrainWay) -> Loop:
    torch.manual_seed(way.seed)
    return seed_loop(way) if way.way == "seed_style" else hgfast_loop(way)


def seed_loop(way: TrainWay) -> Loop:
    """The seed's loader, in worker processes, and its step."""
    joints = len(way.samples.skeleton.joints)
    model = StackedHourglass(architecture(way.preset, input_size=SIZE), joints)
    trainer = SeedTrainer(model, torch.device(way.device))
    dataset = SeedStyle(way.samples, SIZE, whole=way.layout == "freihand", augmented=True, seed=way.seed)
    loader = seed_loader(dataset, way.batch_size, way.threads)
    batches = without_end(lambda _: loader)
    return Loop(batches, lambda batch: trainer.step(*batch), next(batches))


def hgfast_loop(way: TrainWay) -> Loop:
    """DALI and the trainer, both as a run has them by default but for the warm-up of the rate, so that every step learns."""
    device = torch.device(way.device)
    config = Config(dataset=way.layout, batch_size=way.batch_size, device=way.device, seed=way.seed, threads=way.threads)
    config.model.preset, config.model.input_size = way.preset, SIZE
    config.train.warmup = 0.0
    config.train.compile = COMPILED.get(way.way, "off")
    ranks = Ranks(0, 1, 1, device)
    loader = open_loader(
        way.samples,
        SIZE,
        config.batch_size,
        Preprocessing(),
        ranks,
        augment=config.augment,
        seed=config.seed,
        threads=config.threads,
        kind=config.loader,
        options=config.loading,
    )
    trainer = make_trainer(config, way.samples, loader, ranks)
    if way.way == "hgfast_ddp":
        dist.init_process_group("nccl", rank=0, world_size=1, store=dist.HashStore())  # type: ignore[attr-defined]
        trainer.network = trainer.ddp = DistributedDataParallel(trainer.network, device_ids=[device])
    trainer.model.train()
    batches = without_end(loader.epoch)
    return Loop(batches, trainer.step, next(batches))


def make_trainer(config: Config, samples: Samples, loader: Loader, ranks: Ranks) -> Trainer:
    """A trainer that is only ever asked for steps: it validates nothing and writes nothing."""
    meta = Meta(samples.skeleton, Preprocessing(), SIZE, map_kind(config.loss.name), "dark", samples.pixel_offset)
    model = checkpoints.build(config.model.architecture(), meta).to(ranks.device)
    return Trainer(config, model, loader, loader, lambda _: {}, "", Path(tempfile.gettempdir()), ranks)


def without_end(epoch: Callable[[int], Iterable[Any]]) -> Generator[Any, None, None]:
    """The batches of epoch 0, 1, …; closing it closes the epoch."""
    for number in count():
        yield from epoch(number)


def repeated(samples: Samples, entries: int) -> Samples:
    """The samples over and over, `entries` of them."""
    return samples.take(np.arange(entries) % len(samples))
