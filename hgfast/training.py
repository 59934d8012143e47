"""The training loop: steps, the schedule, validation after an epoch, checkpoints, and what is shown of it.

What may enter: optimising a network from batches. Data sets and the command line stay outside.
"""

from __future__ import annotations

import inspect
import json
import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from hgfast import checkpoints
from hgfast.batch import Batch
from hgfast.config import Config
from hgfast.distributed import Ranks, broadcast_buffers, first_rank_says, total
from hgfast.ema import MovingAverage
from hgfast.errors import HgfastError
from hgfast.evaluation import Loader, predict
from hgfast.files import to_json
from hgfast.losses import heatmap_loss
from hgfast.model import StackedHourglass
from hgfast.precision import autocast, resolve

SHOW_EVERY = 10  # steps between looks at the loss, each of which waits for the device
Measure = Callable[[NDArray[np.float64]], dict[str, float]]


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
        measure: what `predict` gives for the validation split -> named figures.
        best: the figure that picks best.pt; higher is better.
        folder: where the files go, on the first rank.
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
            known = inspect.signature(DistributedDataParallel).parameters
            buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
            self.network = DistributedDataParallel(model, device_ids=devices, **{buffers: False})  # type: ignore[arg-type]
        # after DDP, which gives every rank the first rank's weights
        self.ema = MovingAverage(model, config.train.ema) if config.train.ema else None
        self.steps_in_all = (
            max(1, round(config.train.max_iters * 1000)) if config.train.max_iters else config.train.epochs * len(train)
        )
        self.step = 0
        self.best = -math.inf
        self.seconds = 0.0  # since the run began, as the first rank's clock has it; looked at only where max_minutes is set

    def fit(self) -> None:
        """Train from the current step to the end of the schedule."""
        self.began = time.perf_counter() - self.seconds
        while self.progress < 1:
            epoch, start = divmod(self.step, len(self.train))
            record = self._epoch(epoch, start)
            if not math.isfinite(record["loss"]):
                raise HgfastError(f"the loss is {record['loss']} in epoch {record['epoch']}: lower --train.lr")
            broadcast_buffers(self.model)
            if self.ema:
                broadcast_buffers(self.ema.network)
            validates = (epoch + 1) % self.config.train.valid_every == 0 or self.progress >= 1
            if validates:
                record["valid"] = self.measure(predict(self.validated, self.valid, self.ranks, self.amp))
                self._look_at_clock()
            self._report(record)
            if validates:
                self._save(record["valid"], record["epoch"])

    @property
    def validated(self) -> StackedHourglass:
        """The network that is measured and meant for use: the moving average of the one in training, where there is one."""
        return self.ema.network if self.ema else self.model

    @property
    def progress(self) -> float:
        """How much of the schedule is done, by steps or by time, whichever is further: 1 is the end."""
        limit = self.config.train.max_minutes
        return max(self.step / self.steps_in_all, self.seconds / (60 * limit) if limit else 0.0)

    def _look_at_clock(self) -> None:
        """Ranks must agree on the time, or one would stop while the others wait for it."""
        if self.config.train.max_minutes:
            self.seconds = first_rank_says(time.perf_counter() - self.began, self.ranks.device)

    def resume(self, content: dict[str, Any], path: Path) -> None:
        """Go on from a checkpoint's content; the model's own weights, not their average, are loaded already.

        Where the content has no average, it starts from these weights.
        """
        try:
            state = content["training"]
            self.optimizer.load_state_dict(state["optimizer"])
            if state["scaler"]:
                self.scaler.load_state_dict(state["scaler"])
            self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
            if self.ema and "ema" in content:
                self.ema.network.load_state_dict(content["ema"])
                self.ema.updates = state["ema_updates"]
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise HgfastError(f"{path} cannot be continued ({reason}): it holds a network, not the state of a run") from error
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.config.train.weight_decay
        if self.step and state["steps_an_epoch"] != len(self.train):
            raise HgfastError(
                f"{path} was trained with {state['steps_an_epoch']} steps an epoch and this run has {len(self.train)}: "
                "continue with the same data and batch size (a file check or crop cache made since may have left samples out)"
            )
        if self.ranks.first:
            self._forget_lines_after_checkpoint()
        if self.progress >= 1:
            raise HgfastError(f"{path} has done its {self.step} steps: raise --train.epochs, --max-iters or --train.max-minutes")

    def _forget_lines_after_checkpoint(self) -> None:
        """Epochs that were reported but not saved are done again: drop their lines from metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            lines = path.read_text().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]  # a kill may have cut the last one short
            path.write_text("".join(line for line in whole if json.loads(line)["step"] <= self.step))

    def _rate(self) -> float:
        """The learning rate of the coming step: linear warm-up, then a cosine to zero."""
        warm, done = self.config.train.warmup, self.progress
        if done < warm:
            return self.config.train.lr * (done + 1 / self.steps_in_all) / (warm + 1 / self.steps_in_all)
        return self.config.train.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warm) / (1 - warm))))

    def _epoch(self, epoch: int, start: int) -> dict[str, Any]:
        """The steps of an epoch from `start` to its end or the schedule's; returns its line for metrics.jsonl."""
        self.model.train()
        clock = Clock(time.perf_counter())
        summed = torch.zeros((), device=self.ranks.device)
        position, rate = start, 0.0
        hidden = None if self.ranks.first else True  # None: shown on a terminal only
        bar = tqdm(total=len(self.train), initial=start, desc=f"epoch {epoch + 1}", disable=hidden, leave=False)
        with bar, closing(self.train.epoch(epoch, start)) as batches:
            while position < len(self.train) and self.progress < 1:
                asked = time.perf_counter()
                batch = next(batches)
                clock.waited += time.perf_counter() - asked
                rate = self._rate()
                loss = self._step(batch, rate)
                summed += loss
                clock.samples += batch.total
                self.step += 1
                position += 1
                if position % SHOW_EVERY == 0 or position == len(self.train):
                    self._look_at_clock()
                    if not bar.disable:
                        bar.set_postfix_str(
                            f"loss {float(loss):.3f}, {clock.images_per_s:.0f} images/s, waits for data {clock.data_wait:.0%}"
                        )
                bar.update()
        return {
            "epoch": epoch + 1,
            "step": self.step,
            "loss": total(summed) / self.ranks.world / max(1, position - start),
            "lr": rate,
            "images_per_s": round(clock.images_per_s, 1),
            "data_wait": round(clock.data_wait, 4),
        }

    def _step(self, batch: Batch, rate: float) -> Tensor:
        """One optimizer step; returns this rank's part of the loss, times the number of ranks, still on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with autocast(self.amp, self.ranks.device):
            heatmaps = self.network(batch.images)
        settings = self.config.loss
        keypoints = batch.keypoints / self.model.meta.stride
        # DDP averages gradients over ranks; every rank's loss is a part of the whole batch's, so the parts must add up
        loss = self.ranks.world * heatmap_loss(
            settings.name, heatmaps, keypoints, batch.labelled, batch.total, settings.sigma, settings.unlabelled
        )
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema:
            self.ema.update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def _save(self, figures: dict[str, float], epoch: int) -> None:
        """Write checkpoint.pt, and best.pt where this is the best yet. Only the first rank does.

        best.pt holds the network that was validated; checkpoint.pt the one in training, beside its average under "ema".
        """
        if not self.ranks.first:
            return
        figure = figures[self.best_name]  # NaN where nothing that counts is labelled
        is_best = figure > self.best or not (self.folder / "best.pt").exists()
        self.best = max(self.best, figure) if math.isfinite(figure) else self.best
        network = checkpoints.describe(self.validated) | {"config": self.config.plain(), "epoch": epoch, "metrics": figures}
        state = {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "steps_an_epoch": len(self.train),
            "best": self.best,
            "seconds": self.seconds,
        }
        whole = network | {"training": state}
        if self.ema:
            state["ema_updates"] = self.ema.updates
            whole |= {"weights": checkpoints.describe(self.model)["weights"], "ema": network["weights"]}
        checkpoints.save(whole, self.folder / "checkpoint.pt")
        if is_best:
            checkpoints.save(network, self.folder / "best.pt")

    def _report(self, record: dict[str, Any]) -> None:
        """Append an epoch's line to metrics.jsonl, and print it where it was validated. Only the first rank does."""
        if not self.ranks.first:
            return
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(to_json(record) + "\n")
        if "valid" in record:
            figures = ", ".join(f"{name} {value:.4g}" for name, value in record["valid"].items())
            print(
                f"epoch {record['epoch']}: loss {record['loss']:.3f}, {record['images_per_s']:.0f} images/s, "
                f"waits for data {record['data_wait']:.0%} | {figures}",
                flush=True,
            )
