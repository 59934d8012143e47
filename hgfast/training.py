"""The training loop: steps, validation after an epoch, checkpoints that lose nothing, and looks at what it costs.

What may enter: optimising a network from batches. Data sets and the command line stay outside.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from hgfast import checkpoints, kept, machine
from hgfast.batch import Batch
from hgfast.config import Config
from hgfast.costs import Clock, forward_flops, in_words
from hgfast.distributed import Ranks, broadcast_buffers, gather, in_contact, largest, total
from hgfast.ema import MovingAverage
from hgfast.errors import HgfastError, Stopped, finding_room
from hgfast.evaluation import Loader, predict
from hgfast.logbook import Logbook
from hgfast.losses import heatmap_loss
from hgfast.model import StackedHourglass
from hgfast.optimisation import make_optimizer, rate_at
from hgfast.precision import autocast, resolve
from hgfast.signals import Wishes
from hgfast.trouble import PATIENCE, Watch, empty, save_batch, why_empty

LOOK_EVERY = 10  # steps between looks at the loss, the clock and other ranks, each of which waits for the device
FORETELL = 20  # steps after which the time that all take is foretold
Measure = Callable[[NDArray[np.float64]], dict[str, float]]
Show = Callable[[int, NDArray[np.float64], StackedHourglass], object]


class Trainer:
    """One run: `fit` trains to the end of the schedule and leaves checkpoint.pt, best.pt and metrics.jsonl in `folder`.

    Args:
        config: the run's configuration.
        model: on the device, with `model.meta`.
        train, valid: loaders of this rank's shares.
        measure: what `predict` gives for the validation split -> named figures.
        best: the figure that picks best.pt; higher is better.
        folder: where the files go, on the first rank.

    `show`, where it is set, is called on the first rank after each validation: the step, what `predict` gave, the network.
    `shown`, where it is set, are the figures that the console's line has.
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
        self.config, self.train, self.valid = config, train, valid
        self.measure, self.best_name, self.folder, self.ranks = measure, best, folder, ranks
        settings, cuda = config.train, ranks.device.type == "cuda"
        if not cuda and (settings.sync_bn or settings.compile == "graphs"):
            flag = "sync-bn" if settings.sync_bn else "compile graphs"
            raise HgfastError(f"--train.{flag} needs a GPU, this run is on {ranks.device}: leave it out")
        self.amp = resolve(settings.amp, ranks.device)
        if settings.sync_bn and ranks.world > 1:
            meta, model = model.meta, nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
            model.meta = meta
        self.model = model
        self.optimizer = make_optimizer(settings, model)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=self.amp == "fp16")
        self.network: nn.Module = model
        if ranks.world > 1:
            # BatchNorm's statistics are brought together before validation and saving, not before every step
            known = inspect.signature(DistributedDataParallel).parameters
            buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
            devices = [ranks.device] if cuda else None
            self.network = DistributedDataParallel(model, device_ids=devices, **{buffers: False})  # type: ignore[arg-type]
        self.ddp = self.network if isinstance(self.network, DistributedDataParallel) else None
        if settings.compile != "off":
            mode = "reduce-overhead" if settings.compile == "graphs" else None
            self.network = torch.compile(self.network, mode=mode, dynamic=False)  # type: ignore[assignment]
        # after DDP, which gives every rank the first rank's weights
        self.ema = MovingAverage(model, settings.ema) if settings.ema else None
        self.steps_in_all = max(1, round(settings.max_iters * 1000)) if settings.max_iters else settings.epochs * len(train)
        self.flops = 3 * forward_flops(model.arch, len(model.meta.skeleton.joints))
        self.step_number = 0
        self.best = -math.inf
        self.seconds = 0.0  # since the run began, as the first rank's clock had it at the last look
        self.log = Logbook(folder, first=ranks.first)
        self.show: Show | None = None
        self.shown: Sequence[str] | None = None
        self.wishes = Wishes()
        self.began = self._saved_at = time.perf_counter()
        self._saved_step = 0
        self._pending = False  # are the steps of an epoch done, and its validation and its line in the log not?
        self._watch = Watch(ranks.device, PATIENCE if self.amp == "fp16" else 1)
        self._summed = torch.zeros((), device=ranks.device)  # this rank's part of the loss, over the epoch so far
        self._norm = torch.zeros((), device=ranks.device)
        self._maps: Tensor | None = None  # the last stack's, of the last step
        self._foretold = False

    # ---- the run ----

    def fit(self) -> None:
        """Train from the current step to the end of the schedule.

        Raises:
            Stopped: a signal came; a checkpoint has been written.
            HgfastError: gradients that are not finite, files that cannot be written, pictures that are gone, ranks that are.
        """
        now = time.perf_counter()
        self.began, self._saved_at = now - self.seconds, now
        self.log.forget_after(self.step_number - self._pending)  # a kill may have come between that line and the checkpoint
        with self._saying_how_to_go_on(), self.wishes.heard(), closing(self.log):
            if self._pending:
                epoch = (self.step_number - 1) // len(self.train)
                self._run_epoch(epoch, self.step_number - epoch * len(self.train))
            while self.progress < 1:
                self._run_epoch(*divmod(self.step_number, len(self.train)))

    @contextmanager
    def _saying_how_to_go_on(self) -> Iterator[None]:
        """What ends the run for a reason that is not the code's says which step is saved, where one is."""
        try:
            with in_contact(self.ranks.rank), finding_room():
                yield
        except HgfastError as error:
            if not self._saved_step:
                raise
            what = f"step {self._saved_step} is saved" if self.ranks.first else "what the first rank has saved is there"
            raise HgfastError(f"{error}; {what}: go on with -c {self.config.exp}") from error

    def _run_epoch(self, epoch: int, start: int) -> None:
        """The rest of an epoch, its line in the log, and validation and checkpoint where they are due."""
        record = self._epoch(epoch, start)
        self._share_statistics()
        validates = self._validates(epoch)
        if validates:
            predicted = predict(self.validated, self.valid, self.ranks, self.amp)
            record["valid"] = self.measure(predicted)
            self._look_around()
            if self.ranks.first:
                self._warn_of_empty_maps(epoch)
                if self.show is not None:
                    self.show(self.step_number, predicted, self.validated)
        self.log.epoch(record, self.shown)
        if validates:
            self._save(record["epoch"], record["valid"])

    def _share_statistics(self) -> None:
        """Give every rank the first one's BatchNorm statistics, of the network and of its average."""
        broadcast_buffers(self.model)
        if self.ema:
            broadcast_buffers(self.ema.network)

    def _validates(self, epoch: int) -> bool:
        """Is there a validation, and with it a checkpoint, at the end of this epoch?"""
        return (epoch + 1) % self.config.train.valid_every == 0 or self.progress >= 1

    @property
    def validated(self) -> StackedHourglass:
        """The network that is measured and meant for use: the moving average of the one in training, where there is one."""
        return self.ema.network if self.ema else self.model

    @property
    def progress(self) -> float:
        """How much of the schedule is done, by steps or by time, whichever is further: 1 is the end."""
        return self._progress_at(self.step_number)

    def _progress_at(self, step: int) -> float:
        limit = self.config.train.max_minutes
        return max(step / self.steps_in_all, self.seconds / (60 * limit) if limit else 0.0)

    def _rate_at(self, step: int) -> float:
        return rate_at(self.config.train, self._progress_at(step), step, self.steps_in_all)

    def _epoch(self, epoch: int, start: int) -> dict[str, Any]:
        """The steps of an epoch from `start` to its end or the schedule's; returns its line for metrics.jsonl."""
        self.model.train()
        if start == 0:
            self._summed.zero_()
        whole = Clock(time.perf_counter())
        lap = Clock(whole.began)  # since the last point of the curves
        position, wish, trouble = start, 0, None
        hidden = None if self.ranks.first else True  # None: shown on a terminal only
        bar = tqdm(total=len(self.train), initial=start, desc=f"epoch {epoch + 1}", disable=hidden, leave=False)
        with bar, closing(self.train.epoch(epoch, start)) as batches:
            while position < len(self.train) and self.progress < 1 and not wish and trouble is None:
                asked = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - asked
                loss = self.step(batch)
                position += 1
                for clock in (whole, lap):
                    clock.waited += waited
                    clock.samples += batch.total
                bar.update()
                ends = position == len(self.train) or self.progress >= 1
                looks = ends or position % LOOK_EVERY == 0
                if looks or self.ranks.device.type == "cpu":
                    trouble = self._watch.first
                if looks and not bar.disable:
                    bar.set_postfix_str(
                        f"loss {float(loss):.3f}, {whole.images_per_s:.0f} images/s, waits for data {whole.data_wait:.0%}"
                    )
                if self.step_number % self.config.train.log_every == 0 and self.ranks.first:
                    self._log_step(float(loss), lap)
                    lap = Clock(time.perf_counter())
                if not self._foretold and position - start == FORETELL:
                    self._foretell(whole)
                if trouble is None and (looks or self.ranks.world == 1):
                    wish, due = self._look_around()
                    if wish or (due and not (ends and self._validates(epoch))):
                        self._save(epoch + 1, pending=ends)
        if trouble is not None:
            self._stop_for(trouble)
        if wish:
            said = f"stopped at step {self.step_number}, which is saved: go on with -c {self.config.exp}"
            raise Stopped(wish, said if self.ranks.first else "")
        return {
            "epoch": epoch + 1,
            "step": self.step_number,
            "loss": total(self._summed) / self.ranks.world / max(1, position),
            "lr": self._rate_at(self.step_number - 1),
            **whole.figures(self.flops, self.ranks.device),
        }

    def step(self, batch: Batch) -> Tensor:
        """One step of the optimizer at the schedule's present rate; counts it.

        Queues work on the device and waits for none of it (but for rmsprop, which torch has no fused form of).

        Returns:
            This rank's part of the loss, times the number of ranks, on the device.
        """
        rate, settings = self._rate_at(self.step_number), self.config.train
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        keypoints = batch.keypoints / self.model.meta.stride
        parts = min(settings.accumulate, len(batch.images))
        loss = torch.zeros((), device=self.ranks.device)
        cut = [torch.tensor_split(whole, parts) for whole in (batch.images, keypoints, batch.labelled)]
        for number, (images, points, labelled) in enumerate(zip(*cut)):
            with self._gradients_stay_here() if number < parts - 1 else nullcontext():
                with autocast(self.amp, self.ranks.device):
                    heatmaps = self.network(images)
                # DDP averages gradients over ranks; every rank's loss is a part of the whole batch's: the parts must add up
                share = self.ranks.world * heatmap_loss(self.config.loss, heatmaps, points, labelled, batch.total)
                self.scaler.scale(share).backward()  # type: ignore[no-untyped-call]
                loss += share.detach()
        self._maps = heatmaps.detach()[:, -1]
        self._move()
        if self.ema:
            self.ema.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._summed += loss
        self.step_number += 1
        return loss

    def _move(self) -> None:
        """Clip, and let the optimizer move the weights, unless a gradient is not finite: then they stay as they are."""
        self.scaler.unscale_(self.optimizer)
        self._norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.clip or math.inf)
        bad = ~self._norm.isfinite()
        self._watch.note(bad, self.step_number)
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif self.config.train.optimizer == "rmsprop":
            if not bad:
                self.optimizer.step()
        else:
            self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]  # fused: skips on the device
            self.optimizer.step()

    def _gradients_stay_here(self) -> AbstractContextManager[object]:
        """DDP exchanges gradients after the last part of a batch only."""
        return self.ddp.no_sync() if self.ddp is not None else nullcontext()

    # ---- looks ----

    def _look_around(self) -> tuple[int, bool]:
        """What all ranks agree on: the signal that any of them got, or 0, and whether the first says that it is time to save."""
        now, first = time.perf_counter(), self.ranks.first
        steps = self.config.train.save_steps
        due = now - self._saved_at > 60 * self.config.train.save_minutes
        if self.ranks.world > 1:
            asked, seconds, due_there = largest(
                [float(self.wishes.asked), (now - self.began) * first, float(due and first)], self.ranks.device
            )
        else:
            asked, seconds, due_there = float(self.wishes.asked), now - self.began, float(due)
        if self.config.train.max_minutes:
            self.seconds = seconds
        return int(asked), bool(due_there) or (steps is not None and self.step_number - self._saved_step >= steps)

    def _log_step(self, loss: float, lap: Clock) -> None:
        figures = lap.figures(self.flops, self.ranks.device)
        memory = figures.pop("memory_gb")
        self.log.steps(
            self.step_number,
            {
                "train/loss": loss,
                "train/lr": self._rate_at(self.step_number - 1),
                "train/gradient_norm": float(self._norm),
                "memory/gb": memory,
                **{f"speed/{name}": value for name, value in figures.items()},
            },
        )

    def _foretell(self, clock: Clock) -> None:
        """Say once how long the steps will take at this speed, or that --train.max-minutes ends them before."""
        self._foretold = True
        if self.ranks.first:
            seconds, minutes = clock.seconds / FORETELL * (self.steps_in_all - self.step_number), self.config.train.max_minutes
            end = f"about {in_words(seconds)} to go, validations aside"
            if minutes and seconds > 60 * minutes - self.seconds:
                end = f"all steps would take {in_words(seconds)} more, so the run ends after its {minutes:g} minutes"
            print(f"{clock.images_per_s:.0f} images/s in the first {FORETELL} steps: {end}", flush=True)

    def _warn_of_empty_maps(self, epoch: int) -> None:
        if self._maps is not None and self.step_number >= 200:
            height = empty(self._maps, self.model.meta.kind)
            if height is not None:
                tqdm.write(why_empty(height, epoch + 1))

    def _stop_for(self, step: int) -> NoReturn:
        """Save the batch whose gradients were not finite, and refuse to go on. The weights are still those before it."""
        epoch, position = divmod(step, len(self.train))
        with closing(self.train.epoch(epoch, position)) as batches:
            batch = next(batches)
        path = self.folder / f"bad-batch-rank{self.ranks.rank}.pt"
        ids = ", ".join(str(row) for row in batch.index[:16]) + (", …" if len(batch.index) > 16 else "")
        what = f"the gradients of step {step} (epoch {epoch + 1}) are not finite"
        try:
            save_batch(batch, self.model, step, path)
        except HgfastError as error:
            raise HgfastError(f"{what}; its samples are {ids}: lower --train.lr, or look at these samples; {error}") from error
        raise HgfastError(
            f"{what}; its samples {ids} and the network before it are in {path}: lower --train.lr, or look at these samples; "
            "the last checkpoint is as it was"
        )

    # ---- what is kept ----

    def resume(self, content: dict[str, Any], path: Path) -> None:
        """Go on from a checkpoint's content; the model's own weights, not their average, are loaded already.

        Where the content has no average, it starts from these weights.
        """
        try:
            state = content["training"]
            self.optimizer.load_state_dict(state["optimizer"])
            if state["scaler"]:
                self.scaler.load_state_dict(state["scaler"])
            self.step_number, self.best, self.seconds = state["step"], state["best"], state["seconds"]
            self._set_sums(state["sums"])
            self._pending = state["pending"]
            torch.set_rng_state(state["random"])
            if self.ema and "ema" in content:
                self.ema.network.load_state_dict(content["ema"])
                self.ema.updates = state["ema_updates"]
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise HgfastError(f"{path} cannot be continued ({reason}): it holds a network, not the state of a run") from error
        self._saved_step = self.step_number
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.config.train.weight_decay
        if self.step_number and state["steps_an_epoch"] != len(self.train):
            raise HgfastError(
                f"{path} was trained with {state['steps_an_epoch']} steps an epoch and this run has {len(self.train)}: "
                "continue with the same data and batch size (a file check, a crop cache or --skip-missing since may have left "
                "samples out; an empty file in the place of a picture that has vanished keeps its sample's place)"
            )
        if self.progress >= 1 and not self._pending:
            raise HgfastError(
                f"{path} has done its {self.step_number} steps: raise --train.epochs, --max-iters or --train.max-minutes"
            )

    def _set_sums(self, sums: list[float]) -> None:
        """The loss of an epoch that was broken off, by rank; on another number of ranks the first one has it all."""
        if len(sums) == self.ranks.world:
            self._summed.fill_(sums[self.ranks.rank])
        else:
            self._summed.fill_(sum(sums) * self.ranks.world / len(sums) if self.ranks.first else 0.0)

    def _save(self, epoch: int, figures: dict[str, float] | None = None, pending: bool = False) -> None:
        """Write checkpoint.pt and, with the `figures` of a validation, best.pt where they are the best yet. All ranks must
        call it, the first one writes.

        best.pt holds the network that was validated; checkpoint.pt the one in training, beside its average under "ema".
        best.pt comes first: a kill between the two repeats the epoch, and finds the same again.
        """
        self._share_statistics()
        sums = gather(self._summed.double().view(1)).tolist()
        self._saved_at = time.perf_counter()
        if not self.ranks.first:
            self._saved_step = self.step_number
            return
        gpu = torch.cuda.get_device_name(self.ranks.device) if self.ranks.device.type == "cuda" else None
        network = checkpoints.describe(self.validated) | {
            "config": self.config.plain(),
            "epoch": epoch,
            "metrics": figures or {},
            "best_by": self.best_name,
            "machine": machine.about() | {"gpu": gpu, "ranks": self.ranks.world},
        }
        if figures is not None:
            figure = figures[self.best_name]  # NaN where nothing that counts is labelled
            is_best = figure > self.best or not (self.folder / "best.pt").exists()
            self.best = max(self.best, figure) if math.isfinite(figure) else self.best
            if is_best:
                checkpoints.save(network, self.folder / "best.pt")
        state = {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step_number,
            "steps_an_epoch": len(self.train),
            "best": self.best,
            "seconds": self.seconds,
            "sums": sums,
            "pending": pending,
            "random": torch.get_rng_state(),
        }
        whole = network | {"training": state}
        if self.ema:
            state["ema_updates"] = self.ema.updates
            whole |= {"weights": checkpoints.describe(self.model)["weights"], "ema": network["weights"]}
        kept.write(whole, self.folder, self.config.train.keep, self._saved_step)
        self._saved_step = self.step_number
