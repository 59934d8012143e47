"""Train a stacked hourglass.

    python hgfast/train.py --dataset freihand --data DIR
    torchrun --nproc-per-node 2 hgfast/train.py --dataset freihand --data DIR --exp hands
    python hgfast/train.py --dataset mpii --data DIR
    python hgfast/train.py -c hands

-e NAME is short for --exp NAME, -c NAME or --continue NAME for --resume NAME, -m N or --max-iters N for --train.max-iters N.
A run writes to exp/NAME: checkpoint.pt (and checkpoint-STEP.pt with --train.keep-checkpoints), best.pt, config.yaml,
metrics.jsonl and events/ for TensorBoard.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from hgfast import checkpoints
from hgfast.checkpoints import load_model
from hgfast.cli import parse
from hgfast.config import Config, ModelConfig
from hgfast.converters import is_anonymous
from hgfast.errors import HgfastError, run_main
from hgfast.losses import heatmap_kind_of
from hgfast.model import Meta, StackedHourglass
from hgfast.normalization import Normalization
from hgfast.pipelines.crop_cache.builder import use_cache
from hgfast.pipelines.datasets import DATASETS, figures, open_loader, usable_samples
from hgfast.training import checkpoint_rotation, distributed
from hgfast.training.amp import slow_precision
from hgfast.training.distributed import Ranks
from hgfast.training.shutdown import ignore_sigterm
from hgfast.training.trainer import Trainer
from hgfast.visualization.overlays import log_validation

FLAG_ALIASES = {
    "-e": "--exp",
    "-c": "--resume",
    "--continue": "--resume",
    "-m": "--train.max-iters",
    "--max-iters": "--train.max-iters",
}


def parse_config(argv: list[str]) -> Config:
    """Parse the configuration; with `--resume NAME` the flags override the stored configuration of that experiment."""
    config = parse(Config, argv, flag_aliases=FLAG_ALIASES, description=__doc__ or "")
    if config.resume is not None:
        stored_yaml = config.out / config.resume / "config.yaml"
        if not stored_yaml.is_file():
            raise HgfastError(f"there is no experiment {config.resume!r} to continue: {stored_yaml} is missing")
        exp_flags = {word.partition("=")[0] for word in argv} & {"-e", "--exp"}
        if exp_flags and config.exp != config.resume:
            raise HgfastError(f"-c {config.resume} continues an experiment under its own name: leave out --exp {config.exp}")
        name = config.resume
        config = parse(Config, ["--config", str(stored_yaml), *argv], flag_aliases=FLAG_ALIASES)
        config.exp = name
    config.validate()
    return config


def train(config: Config, ranks: Ranks) -> Path:
    """Run or resume an experiment; returns its folder."""
    folder = config.out / config.exp
    checkpoint = folder / "checkpoint.pt"
    if config.resume is None and checkpoint.exists() and not config.overwrite:
        raise HgfastError(
            f"{checkpoint} exists: continue it with -c {config.exp}, choose another --exp, or replace it with --overwrite"
        )
    content = checkpoints.read(checkpoint) if config.resume is not None else None
    initial = load_initial_model(config, content, checkpoint)
    arch = initial.arch if initial else config.model.make_architecture()
    normalization = initial.meta.normalization if initial else Normalization()
    train_samples = usable_samples(config, config.train.split)
    valid_samples = usable_samples(config, config.train.valid_split)
    for split, samples in ((config.train.split, train_samples), (config.train.valid_split, valid_samples)):
        if not samples.labeled.any():
            raise HgfastError(f"the split {split} has no annotations: nothing can be learned from it or measured on it")
    if train_samples.skeleton != valid_samples.skeleton:
        raise HgfastError(f"the splits {config.train.split} and {config.train.valid_split} have different joints or edges")
    if config.cache is not None:
        train_samples = use_cache(train_samples, config.cache, config.augment, arch.input_size)
    train_loader = open_loader(
        train_samples,
        arch.input_size,
        config.batch_size,
        normalization,
        ranks,
        augment=config.augment,
        seed=config.seed,
        threads=config.threads,
        loader=config.loader,
        loading=config.loading,
    )
    valid_loader = open_loader(
        valid_samples,
        arch.input_size,
        config.batch_size,
        normalization,
        ranks,
        threads=config.threads,
        loader="dali" if config.loader == "fixed" else config.loader,
        loading=config.loading,
    )

    heatmap_kind = heatmap_kind_of(config.loss.name)
    if content is not None and initial is not None:
        model = initial
        if model.meta.skeleton.joints != train_samples.skeleton.joints:
            raise HgfastError(
                f"{checkpoint} predicts {model.meta.skeleton.name}, the data are {train_samples.skeleton.name}: "
                "continue with the data set it was started with"
            )
        if model.meta.heatmap_kind != heatmap_kind:
            raise HgfastError(f"{checkpoint} was trained with another loss than these flags ask for: leave out --loss")
    else:
        torch.manual_seed(config.seed)
        model = checkpoints.build_model(
            arch, Meta(train_samples.skeleton, normalization, arch.input_size, heatmap_kind, "dark", train_samples.pixel_offset)
        )
        if initial:
            num_weights_joints, num_data_joints = len(initial.meta.skeleton.joints), len(train_samples.skeleton.joints)
            if num_weights_joints != num_data_joints:
                raise HgfastError(
                    f"{config.weights} predicts {num_weights_joints} joints, the data have {num_data_joints}: "
                    "start from other --weights"
                )
            names = initial.meta.skeleton.joints
            if not is_anonymous(initial.meta.skeleton) and names != train_samples.skeleton.joints:
                raise HgfastError(
                    f"{config.weights} predicts {initial.meta.skeleton.name}, the data are {train_samples.skeleton.name}, "
                    "in another order: start from other --weights"
                )
            if initial.meta.heatmap_kind != heatmap_kind and ranks.is_main:
                matching_loss = "mse" if initial.meta.heatmap_kind == "gaussian" else "cross_entropy"
                print(
                    f"{config.weights} was trained with another loss, so its last layers must be retrained: "
                    f"--loss.name {matching_loss} avoids that"
                )
            model.load_state_dict(initial.state_dict())
    model.to(ranks.device)

    compute_metrics = partial(figures, config.dataset, valid_samples)
    metric = DATASETS[config.dataset].metric
    trainer = Trainer(config, model, train_loader, valid_loader, compute_metrics, metric.best, folder, ranks)
    trainer.on_validation = partial(log_validation, valid_samples, metric, trainer.logger)
    trainer.console_metrics = metric.console
    if content is not None:
        trainer.resume(content, checkpoint)
    if ranks.is_main:
        prepare_run_folder(folder, config)
        limit = f" or {config.train.max_minutes:g} minutes" if config.train.max_minutes else ""
        parameters = sum(p.numel() for p in model.parameters())
        print(
            f"{config.dataset} at {config.data or config.annotations}: {train_samples.summary} to train on, "
            f"{valid_samples.summary} to validate\n"
            f"{config.weights or config.model.preset}: {arch.stacks} stacks, {parameters / 1e6:.2f} M parameters, "
            f"{trainer.flops_per_image / 3e9:.2f} GFLOP an image, input {arch.input_size} px, loss {config.loss.name}\n"
            f"{ranks.world_size} rank(s) on {device_name(ranks.device)}, precision {trainer.amp}, "
            f"{config.batch_size} samples a step, {trainer.total_steps} steps "
            f"({trainer.total_steps / len(train_loader):.1f} epochs){limit}, files in {folder}",
            flush=True,
        )
        if warning := slow_precision(trainer.amp, ranks.device):
            print(f"warning: --train.amp {trainer.amp}: {warning}", file=sys.stderr, flush=True)
    trainer.fit()
    if ranks.is_main and math.isfinite(trainer.best_value):
        print(f"{folder / 'best.pt'} is the network with the highest {metric.best}, {trainer.best_value:.4g}", flush=True)
    return folder


def load_initial_model(config: Config, content: dict[str, Any] | None, checkpoint: Path) -> StackedHourglass | None:
    """Load the network of the checkpoint to resume, or of --weights; None if neither is given."""
    if content is None:
        if config.weights is None:
            return None
        initial = load_model(config.weights)
        initial.arch = replace(initial.arch, input_size=config.model.input_size or initial.arch.input_size)
        requested = replace(config.model, input_size=initial.arch.input_size)
        if requested != ModelConfig(input_size=requested.input_size) and requested.make_architecture() != initial.arch:
            raise HgfastError(
                f"--model contradicts the architecture of {config.weights}: leave out all of --model but --model.input-size"
            )
        return initial
    initial = checkpoints.model_from_checkpoint(content, checkpoint, use_ema=False)
    stored = content.get("config", {})
    matches = (
        initial.arch == config.model.make_architecture()
        if config.weights is None
        else config.to_dict()["model"] == stored.get("model")
    )
    if not matches:
        raise HgfastError(f"{checkpoint} holds another network than these flags ask for: leave out --model")
    if stored and config.to_dict()["weights"] != stored.get("weights"):
        raise HgfastError(f"{checkpoint} already has weights: leave out --weights to resume")
    return initial


def prepare_run_folder(folder: Path, config: Config) -> None:
    """Create the experiment's folder and write its configuration; a new run removes the files of an earlier one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.writing"):  # temporary files of a killed run
            leftover.unlink()
        if config.resume is None:
            checkpoint_rotation.remove_checkpoints(folder)
            (folder / "metrics.jsonl").unlink(missing_ok=True)
            shutil.rmtree(folder / "events", ignore_errors=True)
        stored_config(config).write_yaml(folder / "config.yaml")
    except OSError as error:
        raise HgfastError(f"cannot write to {folder} ({error.strerror}): choose another folder with --out") from error


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def resume_after_restart(config: Config, ranks: Ranks) -> Config:
    """Return a configuration that resumes this run if torchrun restarted the ranks (--max-restarts) after a checkpoint was
    written; otherwise the unchanged one.

    Every machine's torchrun counts its own restarts: a count above 0 on any rank suffices.
    """
    (restarts,) = distributed.all_reduce_max([float(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))], ranks.device)
    if restarts == 0 or config.resume is not None:
        return config
    folder = config.out / config.exp
    try:
        content = yaml.safe_load((folder / "config.yaml").read_text())
        matches = isinstance(content, dict) and Config.upgrade(content) == stored_config(config).to_dict()
    except (OSError, yaml.YAMLError, HgfastError):
        return config
    return replace(config, resume=config.exp, overwrite=False) if matches and (folder / "checkpoint.pt").exists() else config


def stored_config(config: Config) -> Config:
    """Return the configuration for config.yaml, without the flags that only concern how this process was started."""
    return replace(config, resume=None, overwrite=False)


def main() -> None:
    config = parse_config(sys.argv[1:])
    ranks = distributed.init_distributed(config.device, config.train.dist_timeout)
    try:
        with distributed.report_lost_peers(ranks.rank):
            train(resume_after_restart(config, ranks), ranks)
    except HgfastError:
        ignore_sigterm()
        raise
    finally:
        distributed.cleanup()


if __name__ == "__main__":
    run_main(main)
