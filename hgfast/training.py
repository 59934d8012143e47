"""The training loop: steps, the schedule, validation after an epoch, checkpoints, and what is shown of it.

What may enter: optimising a network from batches. Data sets and the command line stay outside.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from hgfast import checkpoints
from hgfast.batch import Batch
from hgfast.config import Config
from hgfast.distributed import Ranks, broadcast_buffers, total
from hgfast.errors import HgfastError
from hgfast.evaluation import Loader, Predictions, predict
from hgfast.losses import heatmap_loss
from hgfast.model import StackedHourglass
from hgfast.precision import autocast, resolve

SHOW_EVERY = 10  # steps between looks at the loss, each of which waits for the device
Measure = Callable[[Predictions], dict[str, float]]


@dataclass
class Clock:
    """Where an epoch's time went: seconds in all and waiting for data, and samples of the whole job."""

    began: float
    waited: float = 0.0
    samples: int = 0

    @property
    def images_per_s(self) -> float:
        return self.samples / max(time.perf_counter() - self.began, 1e-9)

    @property
    def data_wait(self) -> float:
        return self.waited / max(time.perf_counter() - self.began, 1e-9)


class Trainer:
    """One run: `fit` trains to the end of the schedule and leaves checkpoint.pt, best.pt and metrics.jsonl in `folder`.

    Args:
        config: the run's configuration.
        model: on the device, with `model.meta`.
        train, valid: loaders of this rank's shares.
        measure: predictions for the validation split -> named figures; `best` names the one that picks best.pt, and
            higher is better.
    """

    def __init__(
        self,
        config: Config,
        model: StackedHourglass,
        train: Loader,
        valid: Loader,
        measure: Measure,
        best: str,
        folder: Path,
        ranks: Ranks,
    ) -> None:
        self.config, self.model, self.train, self.valid = config, model, train, valid
        self.measure, self.best_name, self.folder, self.ranks = measure, best, folder, ranks
        self.amp = resolve(config.train.amp, ranks.device)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), config.train.lr, weight_decay=config.train.weight_decay, fused=True
        )
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=self.amp == "fp16")
        self.network: nn.Module = model
        if ranks.world > 1:
            devices = [ranks.device] if ranks.device.type == "cuda" else None
            # BatchNorm's statistics are brought together before validation and saving, not before every step
            self.network = DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
        self.steps_in_all = (
            max(1, round(config.train.max_iters * 1000)) if config.train.max_iters else config.train.epochs * len(train)
        )
        self.step = 0
        self.best = -math.inf

    def fit(self) -> None:
        """Train from the current step to the last."""
        while self.step < self.steps_in_all:
            epoch, start = divmod(self.step, len(self.train))
            end = min(len(self.train), start + self.steps_in_all - self.step)
            record = self._epoch(epoch, start, end)
            broadcast_buffers(self.model)
            if (epoch + 1) % self.config.train.valid_every == 0 or self.step == self.steps_in_all:
                record["valid"] = self.measure(predict(self.model, self.valid, self.ranks, self.amp))
            self._keep(record)

    def resume(self, content: dict[str, Any], path: Path) -> None:
        """Go on from a checkpoint's content; the model's weights are loaded already."""
        try:
            state = content["training"]
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.step, self.best = state["step"], state["best"]
        except (KeyError, ValueError) as error:
            raise HgfastError(f"{path} cannot be continued ({error}): it holds a network, not the state of a run") from error
        if self.step and state["steps_an_epoch"] != len(self.train):
            raise HgfastError(
                f"{path} was trained with {state['steps_an_epoch']} steps an epoch and this run has {len(self.train)}: "
                "continue with the same data and batch size"
            )
        if self.step >= self.steps_in_all:
            raise HgfastError(f"{path} has already done all of its {self.step} steps: raise --train.epochs or --max-iters")

    def _rate(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, then a cosine to zero."""
        warm = self.config.train.warmup * self.steps_in_all
        if step < warm:
            return self.config.train.lr * (step + 1) / (warm + 1)
        return self.config.train.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, self.steps_in_all - warm)))

    def _epoch(self, epoch: int, start: int, end: int) -> dict[str, Any]:
        """Steps `start` to `end` of an epoch; returns its line for metrics.jsonl."""
        self.model.train()
        clock = Clock(time.perf_counter())
        summed = torch.zeros((), device=self.ranks.device)
        batches = self.train.epoch(epoch, start)
        with tqdm(total=len(self.train), initial=start, desc=f"epoch {epoch + 1}", disable=None if self.ranks.first else True) as bar:
            for position in range(start, end):
                asked = time.perf_counter()
                batch = next(batches)
                clock.waited += time.perf_counter() - asked
                loss = self._step(batch)
                summed += loss
                clock.samples += batch.total
                self.step += 1
                if not bar.disable and (position % SHOW_EVERY == 0 or position == end - 1):
                    bar.set_postfix_str(
                        f"loss {float(loss):.3f}, {clock.images_per_s:.0f} images/s, waits for data {clock.data_wait:.0%}"
                    )
                bar.update()
        batches.close()  # type: ignore[attr-defined]
        return {
            "epoch": epoch + 1,
            "step": self.step,
            "loss": total(summed) / self.ranks.world / max(1, end - start),
            "lr": self._rate(self.step - 1),
            "images_per_s": round(clock.images_per_s, 1),
            "data_wait": round(clock.data_wait, 4),
        }

    def _step(self, batch: Batch) -> Tensor:
        """One optimizer step; returns this rank's part of the loss, times the number of ranks, still on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(self.step)
        with autocast(self.amp, self.ranks.device):
            heatmaps = self.network(batch.images)
        settings = self.config.loss
        keypoints = batch.keypoints / self.model.meta.stride
        # DDP averages gradients over ranks; every rank's loss is a part of the whole batch's, so the parts must add up
        loss = self.ranks.world * heatmap_loss(
            settings.name, heatmaps, keypoints, batch.labelled, batch.total, settings.sigma, settings.unlabelled
        )
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def _keep(self, record: dict[str, Any]) -> None:
        """Write checkpoint.pt, best.pt and the line of figures; print it. Only the first rank does."""
        figures = record.get("valid")
        is_best = figures is not None and figures[self.best_name] > self.best
        if figures is not None and is_best:
            self.best = figures[self.best_name]
        if not self.ranks.first:
            return
        if not math.isfinite(record["loss"]):
            raise HgfastError(f"the loss is {record['loss']} in epoch {record['epoch']}: the checkpoint of the epoch before is kept")
        content = checkpoints.describe(self.model) | {
            "config": self.config.plain(),
            "metrics": figures or {},
            "training": {
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "step": self.step,
                "steps_an_epoch": len(self.train),
                "best": self.best,
            },
        }
        checkpoints.save(content, self.folder / "checkpoint.pt")
        if is_best:
            checkpoints.save({key: value for key, value in content.items() if key != "training"}, self.folder / "best.pt")
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")
        shown = ", ".join(f"{name} {value:.3f}" for name, value in (figures or {}).items())
        print(f"epoch {record['epoch']}: loss {record['loss']:.4f}, {record['images_per_s']:.0f} images/s"
              f", waits for data {record['data_wait']:.0%}" + (f" | {shown}" if shown else ""), flush=True)
