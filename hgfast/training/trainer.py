"""The training loop: optimizer steps, validation, checkpoints and logging."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from hgfast import checkpoints, system_info
from hgfast.config import BEST_FILE, Config
from hgfast.errors import HgfastError, one_line, report_full_disk
from hgfast.losses import heatmap_loss
from hgfast.model import StackedHourglass
from hgfast.shutdown import GracefulShutdown, SignalReceived
from hgfast.training.amp import autocast, resolve_amp
from hgfast.training.batch import Batch
from hgfast.training.distributed import (
    Ranks,
    all_gather,
    all_reduce_max,
    all_reduce_sum,
    broadcast_buffers,
    configure_cudnn,
    report_lost_peers,
    wrap_ddp,
)
from hgfast.training.ema import ModelEma
from hgfast.training.evaluator import Loader, predict
from hgfast.training.nan_guard import FP16_PATIENCE, NonFiniteGuard, empty_heatmaps_warning, mean_peak_if_empty, save_bad_batch
from hgfast.training.optim import learning_rate_at, make_optimizer
from hgfast.training.run_logger import RunLogger
from hgfast.training.throughput import DataWaitTimer, ThroughputMeter, format_duration, forward_flops

SYNC_INTERVAL = 10  # steps between synchronizations with the device and other ranks
ETA_STEPS = 20  # steps after which the remaining time is estimated
MetricsFn = Callable[[NDArray[np.float64]], dict[str, float]]
ValidationCallback = Callable[[int, NDArray[np.float64], StackedHourglass], object]


class Trainer:
    """One run: `fit` trains to the end of the schedule and writes checkpoint.pt, best.pt and metrics.jsonl to `folder`.

    Args:
        model: the network on its device, with `model.meta`.
        train_loader, valid_loader: loaders of this rank's shares.
        compute_metrics: maps `predict`'s result on the validation split to metrics by name.
        best_metric: the metric that selects best.pt; higher is better.

    `on_validation`, if set, is called on the main rank after each validation with the step, `predict`'s result and the network.
    `console_metrics`, if set, are the metrics that the console shows.
    """

    def __init__(
        self,
        config: Config,
        model: StackedHourglass,
        train_loader: Loader,
        valid_loader: Loader,
        compute_metrics: MetricsFn,
        best_metric: str,
        folder: Path,
        ranks: Ranks,
    ) -> None:
        self.config, self.train, self.valid = config, train_loader, valid_loader
        self.compute_metrics, self.best_metric, self.folder, self.ranks = compute_metrics, best_metric, folder, ranks
        train_config, cuda = config.train, ranks.device.type == "cuda"
        if not cuda and (train_config.sync_bn or train_config.compile == "graphs"):
            flag = "sync-bn" if train_config.sync_bn else "compile graphs"
            raise HgfastError(f"--train.{flag} needs a GPU, this run is on {ranks.device}: leave it out")
        configure_cudnn(train_config.deterministic, ranks.device)
        self.amp = resolve_amp(train_config.amp, ranks.device)
        if train_config.sync_bn and ranks.world_size > 1:
            meta, model = model.meta, nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
            model.meta = meta
        self.model = model
        self.optimizer = make_optimizer(train_config, model)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=self.amp == "fp16")
        self.ddp = wrap_ddp(model, ranks) if ranks.world_size > 1 else None
        self.wrapped_model: nn.Module = self.ddp or model
        if train_config.compile != "off":
            mode = "reduce-overhead" if train_config.compile == "graphs" else None
            self.wrapped_model = torch.compile(self.wrapped_model, mode=mode, dynamic=False)  # type: ignore[assignment]
        # after DDP, which copies the main rank's weights to every rank
        self.ema = ModelEma(model, train_config.ema) if train_config.ema else None
        self.total_steps = (
            max(1, round(train_config.max_iters * 1000)) if train_config.max_iters else train_config.epochs * len(train_loader)
        )
        self.flops_per_image = 3 * forward_flops(model.arch, len(model.meta.skeleton.joints))
        self.global_step = 0
        self.best_value = -math.inf
        self.seconds = 0.0  # since the run began, by the main rank's clock at the last synchronization
        self.logger = RunLogger(folder, is_main=ranks.is_main)
        self.on_validation: ValidationCallback | None = None
        self.console_metrics: Sequence[str] | None = None
        self.shutdown = GracefulShutdown()
        self.start_time = self._last_save_time = time.perf_counter()
        self._last_saved_step = 0
        self._validation_pending = False  # whether an epoch's steps are done, but not its validation and log line
        self._nan_guard = NonFiniteGuard(ranks.device, FP16_PATIENCE if self.amp == "fp16" else 1)
        self._loss_sum = torch.zeros((), device=ranks.device)  # this rank's loss, summed over the steps of the epoch
        self._grad_norm = torch.zeros((), device=ranks.device)
        self._last_heatmaps: Tensor | None = None  # the last stack's heatmaps of the last step
        self._eta_printed = False
        self._failed_captures = 0  # of CUDA graphs

    # ---- the run ----

    def fit(self) -> None:
        """Train to the end of the schedule, or to a signal, which is raised as `SignalReceived` once a checkpoint is written."""
        now = time.perf_counter()
        self.start_time, self._last_save_time = now - self.seconds, now
        # a kill between a log line and its checkpoint leaves lines of later steps
        self.logger.truncate_after(self.global_step - self._validation_pending)
        with self._add_resume_hint(), self.shutdown.catch_signals(), closing(self.logger):
            if self._validation_pending:
                epoch = (self.global_step - 1) // len(self.train)
                self._run_epoch(epoch, self.global_step - epoch * len(self.train))
            while self.progress < 1:
                self._run_epoch(*divmod(self.global_step, len(self.train)))

    @contextmanager
    def _add_resume_hint(self) -> Iterator[None]:
        """Append the last saved step to errors that the user can fix."""
        try:
            with report_lost_peers(self.ranks.rank), report_full_disk():
                yield
        except HgfastError as error:
            if not self._last_saved_step:
                raise
            saved = f"step {self._last_saved_step} is saved" if self.ranks.is_main else "the main rank's checkpoint is saved"
            raise HgfastError(f"{error}; {saved}: resume with -c {self.config.exp}") from error

    def _run_epoch(self, epoch: int, start: int) -> None:
        """Run an epoch from step `start`, validate and save a checkpoint if due, and log the epoch."""
        record = self._train_epoch(epoch, start)
        self._broadcast_batch_norm()
        validates = self._should_validate(epoch)
        if validates:
            predicted = predict(self.eval_model, self.valid, self.ranks, self.amp)
            record["valid"] = self.compute_metrics(predicted)
            self._sync_ranks()
            if self.ranks.is_main:
                self._warn_empty_heatmaps(epoch)
                if self.on_validation is not None:
                    self.on_validation(self.global_step, predicted, self.eval_model)
        self.logger.log_epoch(record)
        if validates:
            self._save_checkpoint(record["epoch"], record["valid"])
            self.logger.print_epoch(record, self.console_metrics)

    def _broadcast_batch_norm(self) -> None:
        """Copy the main rank's BatchNorm statistics, of the network and its EMA, to every rank."""
        broadcast_buffers(self.model)
        if self.ema:
            broadcast_buffers(self.ema.module)

    def _should_validate(self, epoch: int) -> bool:
        """Return whether a validation, and with it a checkpoint, is due at the end of this epoch."""
        return (epoch + 1) % self.config.train.val_interval == 0 or self.progress >= 1

    @property
    def eval_model(self) -> StackedHourglass:
        """The network for validation and inference: the EMA if there is one, else the network in training."""
        return self.ema.module if self.ema else self.model

    @property
    def progress(self) -> float:
        """The finished fraction of the schedule, by steps or by time, whichever is larger; 1 is the end."""
        return self._progress_at(self.global_step)

    def _progress_at(self, step: int) -> float:
        limit = self.config.train.max_minutes
        return max(step / self.total_steps, self.seconds / (60 * limit) if limit else 0.0)

    def _learning_rate_at(self, step: int) -> float:
        return learning_rate_at(self.config.train, self._progress_at(step), step, self.total_steps)

    def _train_epoch(self, epoch: int, start: int) -> dict[str, Any]:
        """Train from step `start` to the end of the epoch or the schedule; returns the epoch's record for metrics.jsonl."""
        self.model.train()
        if start == 0:
            self._loss_sum.zero_()
        epoch_meter = ThroughputMeter(time.perf_counter())
        interval_meter = ThroughputMeter(epoch_meter.start_time)  # since the last point of the curves
        wait_timer = DataWaitTimer(self.ranks.device)
        position, signum, bad_step = start, 0, None
        disable_bar = None if self.ranks.is_main else True  # None: shown on a terminal only
        bar = tqdm(total=len(self.train), initial=start, desc=f"epoch {epoch + 1}", disable=disable_bar, leave=False)
        with bar, closing(self.train.epoch(epoch, start)) as batches:
            while position < len(self.train) and self.progress < 1 and not signum and bad_step is None:
                with wait_timer.waiting():
                    batch = next(batches)
                loss = self.train_step(batch)
                position += 1
                bar.update()
                is_last = position == len(self.train) or self.progress >= 1
                sync_due = is_last or position % SYNC_INTERVAL == 0
                log_due = self.global_step % self.config.train.log_every == 0
                waited = wait_timer.collect() if sync_due or log_due else 0.0
                for meter in (epoch_meter, interval_meter):
                    meter.data_seconds += waited
                    meter.samples += batch.global_batch_size
                if sync_due or self.ranks.device.type == "cpu":
                    bad_step = self._nan_guard.first_bad_step
                if sync_due and not bar.disable:
                    bar.set_postfix_str(
                        f"loss {float(loss):.3f}, {epoch_meter.images_per_s:.0f} images/s, "
                        f"waits for data {epoch_meter.data_wait:.0%}"
                    )
                if log_due and self.ranks.is_main:
                    self._log_step(float(loss), interval_meter)
                    interval_meter = ThroughputMeter(time.perf_counter())
                if not self._eta_printed and position - start == ETA_STEPS:
                    self._print_eta(epoch_meter)
                if bad_step is None and (sync_due or self.ranks.world_size == 1):
                    signum, save_due = self._sync_ranks()
                    if signum or (save_due and not (is_last and self._should_validate(epoch))):
                        self._save_checkpoint(epoch + 1, pending=is_last)
        epoch_meter.data_seconds += wait_timer.collect()
        if bad_step is not None:
            self._abort_non_finite(bad_step)
        if signum:
            message = f"stopped at step {self.global_step}, which is saved: resume with -c {self.config.exp}"
            raise SignalReceived(signum, message if self.ranks.is_main else "")
        return {
            "epoch": epoch + 1,
            "step": self.global_step,
            "loss": all_reduce_sum(self._loss_sum) / self.ranks.world_size / max(1, position),
            "lr": self._learning_rate_at(self.global_step - 1),
            **epoch_meter.summary(self.flops_per_image, self.ranks.device),
        }

    def train_step(self, batch: Batch) -> Tensor:
        """Run one optimizer step at the schedule's learning rate. Return this rank's share of the loss times the number of ranks.

        Does not synchronize with the device (except for rmsprop, which has no fused implementation in torch).
        """
        lr = self._learning_rate_at(self.global_step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        while True:
            try:
                loss = self._compute_gradients(batch)
                break
            except RuntimeError as error:
                self._handle_failed_capture(error)
        self._optimizer_step()
        if self.ema:
            self.ema.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._loss_sum += loss
        self.global_step += 1
        return loss

    def _compute_gradients(self, batch: Batch) -> Tensor:
        """Run the forward and the backward pass, in `grad_accum` parts, and return the loss of `train_step`."""
        keypoints = batch.keypoints / self.model.meta.stride
        num_chunks = min(self.config.train.grad_accum, len(batch.images))
        loss = torch.zeros((), device=self.ranks.device)
        chunks = [torch.tensor_split(tensor, num_chunks) for tensor in (batch.images, keypoints, batch.labeled)]
        for number, (images, points, labeled) in enumerate(zip(*chunks), 1):
            # DDP synchronizes the gradients after the last part only
            with self.ddp.no_sync() if self.ddp is not None and number < num_chunks else nullcontext():
                with autocast(self.amp, self.ranks.device):
                    heatmaps = self.wrapped_model(images)
                # DDP averages gradients over ranks, but the ranks' losses are shares of the global batch's loss and must add up
                chunk_loss = self.ranks.world_size * heatmap_loss(
                    self.config.loss, heatmaps, points, labeled, batch.global_batch_size
                )
                self.scaler.scale(chunk_loss).backward()  # type: ignore[no-untyped-call]
                loss += chunk_loss.detach()
        self._last_heatmaps = heatmaps.detach()[:, -1]
        return loss

    def _handle_failed_capture(self, error: RuntimeError) -> None:
        """Prepare another attempt at a step whose CUDA graph could not be captured: the first time with new graphs, the second
        time without graphs. Raises other errors again, and all errors of several ranks, which would wait for each other.

        A library that frees GPU memory from a thread of its own invalidates a capture, as DALI did until March 2026.
        """
        is_capture = self.config.train.compile == "graphs" and "captur" in str(error)
        if not is_capture or self.ddp is not None or self._failed_captures == 2:
            raise error
        self._failed_captures += 1
        self.optimizer.zero_grad(set_to_none=True)
        torch._dynamo.reset()
        if self._failed_captures == 2:
            self.wrapped_model = self.model
            print(f"note: CUDA cannot capture a graph of the step ({one_line(error)}): training without graphs", file=sys.stderr)

    def _optimizer_step(self) -> None:
        """Clip the gradients and run the optimizer; if a gradient is not finite, the weights stay unchanged."""
        self.scaler.unscale_(self.optimizer)
        self._grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.grad_clip or math.inf)
        non_finite = ~self._grad_norm.isfinite()
        self._nan_guard.update(non_finite, self.global_step)
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif self.config.train.optimizer == "rmsprop":
            if not non_finite:
                self.optimizer.step()
        else:
            self.optimizer.found_inf = non_finite.float()  # type: ignore[attr-defined]  # the fused step is skipped on the device
            self.optimizer.step()

    # ---- monitoring ----

    def _sync_ranks(self) -> tuple[int, bool]:
        """Return, the same on all ranks, the signal that any rank received, or 0, and whether a checkpoint is due."""
        now, is_main = time.perf_counter(), self.ranks.is_main
        steps = self.config.train.save_steps
        values = [
            float(self.shutdown.signal_received),
            (now - self.start_time) * is_main,
            float(is_main and now - self._last_save_time > 60 * self.config.train.save_minutes),
        ]
        signum, seconds, save_due = all_reduce_max(values, self.ranks.device)
        if self.config.train.max_minutes:
            self.seconds = seconds
        return int(signum), bool(save_due) or (steps is not None and self.global_step - self._last_saved_step >= steps)

    def _log_step(self, loss: float, interval_meter: ThroughputMeter) -> None:
        figures = interval_meter.summary(self.flops_per_image, self.ranks.device)
        memory = figures.pop("memory_gb")
        self.logger.log_scalars(
            self.global_step,
            {
                "train/loss": loss,
                "train/lr": self._learning_rate_at(self.global_step - 1),
                "train/gradient_norm": float(self._grad_norm),
                "memory/gb": memory,
                **{f"speed/{name}": value for name, value in figures.items()},
            },
        )

    def _print_eta(self, clock: ThroughputMeter) -> None:
        """Print once the remaining time at the present speed, or that --train.max-minutes ends the run earlier."""
        self._eta_printed = True
        if self.ranks.is_main:
            seconds, minutes = clock.elapsed / ETA_STEPS * (self.total_steps - self.global_step), self.config.train.max_minutes
            end = f"about {format_duration(seconds)} remaining, without validations"
            if minutes and seconds > 60 * minutes - self.seconds:
                end = f"all steps would take {format_duration(seconds)} more, so the run ends after its {minutes:g} minutes"
            print(f"{clock.images_per_s:.0f} images/s in the first {ETA_STEPS} steps: {end}", flush=True)

    def _warn_empty_heatmaps(self, epoch: int) -> None:
        if self._last_heatmaps is not None and self.global_step >= 200:
            peak = mean_peak_if_empty(self._last_heatmaps, self.model.meta.heatmap_kind)
            if peak is not None:
                tqdm.write(empty_heatmaps_warning(peak, epoch + 1))

    def _abort_non_finite(self, step: int) -> NoReturn:
        """Save the batch whose gradients were not finite, and raise `HgfastError`. The weights are still those before it."""
        epoch, position = divmod(step, len(self.train))
        with closing(self.train.epoch(epoch, position)) as batches:
            batch = next(batches)
        path = self.folder / f"bad-batch-rank{self.ranks.rank}.pt"
        ids = ", ".join(str(row) for row in batch.index[:16]) + (", …" if len(batch.index) > 16 else "")
        problem = f"the gradients of step {step} (epoch {epoch + 1}) are not finite"
        try:
            save_bad_batch(batch, self.model, step, path)
        except HgfastError as error:
            raise HgfastError(f"{problem}; its samples are {ids}: lower --train.lr, or check these samples; {error}") from error
        raise HgfastError(
            f"{problem}; its samples {ids} and the network before it are in {path}: lower --train.lr, or check these samples; "
            "the last checkpoint is unchanged"
        )

    # ---- checkpoints ----

    def resume(self, content: dict[str, Any], path: Path) -> None:
        """Restore the training state from a checkpoint's content. The model's weights (not the EMA's) must be loaded already.

        Without EMA weights in the content, the EMA starts from the model's weights. Raises `HgfastError` if the content has no
        training state, does not match this run's data, or its schedule is finished.
        """
        try:
            state = content["training"]
            self.optimizer.load_state_dict(state["optimizer"])
            if state["scaler"]:
                self.scaler.load_state_dict(state["scaler"])
            self.global_step, self.best_value, self.seconds = state["step"], state["best"], state["seconds"]
            sums, world_size = state["sums"], self.ranks.world_size
            if len(sums) == world_size:
                self._loss_sum.fill_(sums[self.ranks.rank])
            else:  # with another number of ranks the main rank gets the total
                self._loss_sum.fill_(sum(sums) * world_size / len(sums) if self.ranks.is_main else 0.0)
            self._validation_pending = state["pending"]
            torch.set_rng_state(state["random"])
            if self.ema and "ema" in content:
                self.ema.module.load_state_dict(content["ema"])
                self.ema.updates = state["ema_updates"]
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise HgfastError(
                f"{path} cannot be continued ({one_line(error)}): it holds a network, not the state of a run"
            ) from error
        self._last_saved_step = self.global_step
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.config.train.weight_decay
        if self.global_step and state["steps_an_epoch"] != len(self.train):
            raise HgfastError(
                f"{path} was trained with {state['steps_an_epoch']} steps an epoch and this run has {len(self.train)}: "
                "continue with the same data and batch size (a file check, a crop cache or --skip-missing may have removed "
                "samples since; an empty file in place of a missing image keeps its sample)"
            )
        if self.progress >= 1 and not self._validation_pending:
            raise HgfastError(
                f"{path} has done its {self.global_step} steps: raise --train.epochs, --max-iters or --train.max-minutes"
            )

    def _save_checkpoint(self, epoch: int, metrics: dict[str, float] | None = None, pending: bool = False) -> None:
        """Write checkpoint.pt and, if `metrics` are the best so far, best.pt. All ranks must call it; the main rank writes.

        best.pt holds the validated network; checkpoint.pt the network in training, with the EMA's weights under "ema".
        best.pt is written first: after a kill between the two, the resumed run repeats the epoch with the same result.
        """
        self._broadcast_batch_norm()
        sums = all_gather(self._loss_sum.double().view(1)).tolist()
        self._last_save_time = time.perf_counter()
        if not self.ranks.is_main:
            self._last_saved_step = self.global_step
            return
        gpu = self.ranks.device_name if self.ranks.device.type == "cuda" else None
        network = checkpoints.model_state(self.eval_model) | {
            "config": self.config.to_dict(),
            "epoch": epoch,
            "metrics": metrics or {},
            "best_by": self.best_metric,
            "machine": system_info.describe_system() | {"gpu": gpu, "ranks": self.ranks.world_size},
        }
        if metrics is not None:
            value = metrics[self.best_metric]  # NaN if no joint that counts is labeled
            is_best = value > self.best_value or not (self.folder / BEST_FILE).exists()
            self.best_value = max(self.best_value, value) if math.isfinite(value) else self.best_value
            if is_best:
                checkpoints.save(network, self.folder / BEST_FILE)
        state = {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.global_step,
            "steps_an_epoch": len(self.train),
            "best": self.best_value,
            "seconds": self.seconds,
            "sums": sums,
            "pending": pending,
            "random": torch.get_rng_state(),
        }
        content = network | {"training": state}
        if self.ema:
            state["ema_updates"] = self.ema.updates
            content |= {"weights": checkpoints.model_state(self.model)["weights"], "ema": network["weights"]}
        checkpoints.write_checkpoint(content, self.folder, self.config.train.keep_checkpoints, self._last_saved_step)
        self._last_saved_step = self.global_step
