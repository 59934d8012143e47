"""A training run: load or build the network, open the data, train, and write the experiment's folder."""

from __future__ import annotations

import math
import os
import shutil
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hgfast import checkpoints
from hgfast.checkpoints import load_model
from hgfast.config import BEST_FILE, CHECKPOINT_FILE, CONFIG_FILE, EVENTS_FOLDER, METRICS_FILE, Config, ModelConfig
from hgfast.entry_point import ignore_closed_output
from hgfast.errors import HgfastError, print_warning, printable
from hgfast.fileio.files import lock_folder, writing
from hgfast.fileio.yaml_file import read_yaml
from hgfast.losses import HEATMAP_KIND_OF_LOSS
from hgfast.model import Meta, StackedHourglass
from hgfast.normalization import Normalization
from hgfast.pipelines.batch_plan import flip_probability
from hgfast.pipelines.checks.shared_images import MAX_IMAGES, shared_images
from hgfast.pipelines.crop_cache.builder import use_cache
from hgfast.pipelines.datasets import DATASETS, figures, open_loader, usable_samples
from hgfast.pipelines.readers.skeleton_yaml import sides_problem
from hgfast.pipelines.samples import Samples
from hgfast.shutdown import ignore_sigterm
from hgfast.skeletons import Skeleton, describe_flip
from hgfast.training import distributed
from hgfast.training.amp import slow_precision
from hgfast.training.distributed import Ranks
from hgfast.training.trainer import Trainer
from hgfast.visualization.overlays import log_validation


def run(config: Config) -> None:
    """Join the ranks and train, or resume a run whose ranks torchrun restarted. No other process can train in the same folder."""
    ranks = distributed.init_distributed(config.device, config.train.dist_timeout)
    lock = lock_folder(config.out / config.exp, "--exp or --out") if ranks.is_main else nullcontext()
    try:
        with ignore_closed_output(), distributed.report_lost_peers(ranks.rank), lock:
            train(resume_after_restart(config, ranks), ranks)
    except HgfastError:
        ignore_sigterm()
        raise
    finally:
        distributed.cleanup()


def train(config: Config, ranks: Ranks) -> Path:
    """Run or resume an experiment; returns its folder."""
    folder = config.out / config.exp
    checkpoint = folder / CHECKPOINT_FILE
    if config.resume is None and checkpoint.exists() and not config.overwrite:
        raise HgfastError(
            f"{checkpoint} exists: continue it with -c {config.exp}, choose another --exp, or replace it with --overwrite"
        )
    content = checkpoints.read(checkpoint) if config.resume is not None else None
    initial = load_initial_model(config, content, checkpoint)
    arch = initial.arch if initial else config.model.make_architecture()
    normalization = initial.meta.normalization if initial else Normalization()
    train_samples, valid_samples = (_labeled_samples(config, split) for split in (config.train.split, config.train.valid_split))
    _check_same_joints(config, train_samples.skeleton, valid_samples.skeleton)
    flip = flip_probability(train_samples.skeleton, config.augment)
    problem = sides_problem(train_samples.skeleton, config.skeleton) if flip and "sides" not in config.allow else ""
    if problem:
        raise HgfastError(f"{problem}; if the names mislead, give --allow sides")
    if config.cache is not None:
        train_samples = use_cache(train_samples, config.cache, config.augment, arch.input_size)
    open_split = partial(open_loader, input_size=arch.input_size, normalization=normalization, ranks=ranks)
    train_loader = open_split(train_samples, config=config, augment=config.augment, seed=config.seed)
    valid_loader = open_split(valid_samples, config=replace(config, loader="dali") if config.loader == "fixed" else config)

    skeleton, heatmap_kind = train_samples.skeleton, HEATMAP_KIND_OF_LOSS[config.loss.name]
    if content is not None and initial is not None:
        model = initial
        if model.meta.skeleton.joints != skeleton.joints:
            raise HgfastError(
                f"{checkpoint} predicts {model.meta.skeleton.name}, the data are {skeleton.name}: "
                "continue with the data set it was started with"
            )
        if model.meta.heatmap_kind != heatmap_kind:
            raise HgfastError(f"{checkpoint} was trained with another loss than these flags ask for: leave out --loss")
    else:
        torch.manual_seed(config.seed)
        meta = Meta(skeleton, normalization, arch.input_size, heatmap_kind, "dark", train_samples.pixel_offset)
        model = checkpoints.build_model(arch, meta)
        if initial:
            _copy_weights(config, initial, model, ranks.is_main)
    model.to(ranks.device)

    metric = DATASETS[config.dataset].metric
    compute_metrics = partial(figures, config.dataset, valid_samples)
    trainer = Trainer(config, model, train_loader, valid_loader, compute_metrics, metric.best, folder, ranks)
    trainer.on_validation = partial(log_validation, valid_samples, metric, trainer.logger)
    trainer.console_metrics = metric.console
    if content is not None:
        trainer.resume(content, checkpoint)
    if ranks.is_main:
        prepare_run_folder(folder, config)
        mirrored = (
            f"images are mirrored with a probability of {flip:g}: {describe_flip(skeleton)}" if flip else "no image is mirrored"
        )
        limit = f" or {config.train.max_minutes:g} minutes" if config.train.max_minutes else ""
        parameters = sum(p.numel() for p in model.parameters())
        print(
            f"{config.dataset} at {printable(config.data or config.annotations)}: {train_samples.summary} to train on, "
            f"{valid_samples.summary} to validate\n"
            f"{mirrored}\n"
            f"{printable(config.weights or config.model.preset)}: {arch.stacks} stacks, {parameters / 1e6:.2f} M parameters, "
            f"{trainer.flops_per_image / 3e9:.2f} GFLOP an image, input {arch.input_size} px, loss {config.loss.name}\n"
            f"{ranks.world_size} rank(s) on {ranks.device_name}, precision {trainer.amp}, "
            f"{config.batch_size} samples a step, {trainer.total_steps} steps "
            f"({trainer.total_steps / len(train_loader):.1f} epochs){limit}, files in {printable(folder)}",
            flush=True,
        )
        same_split = config.train.split == config.train.valid_split  # on purpose, to see a network overfit
        shared = [] if same_split else shared_images(train_samples, valid_samples, MAX_IMAGES)
        changes = changed_flags(config, content.get("config", {})) if content is not None else []
        if changes:
            print(f"continues with {', '.join(changes)}", flush=True)
        for note in dict.fromkeys([*train_samples.notes, *valid_samples.notes, *shared]):
            print_warning(note)
        if warning := slow_precision(trainer.amp, ranks.device):
            print_warning(f"--train.amp {trainer.amp}: {warning}")
    trainer.fit()
    if ranks.is_main and math.isfinite(trainer.best_value):
        best = f"the network with the highest {metric.best}, {trainer.best_value:.4g}"
        print(f"{printable(folder / BEST_FILE)} is {best}", flush=True)
    return folder


def _labeled_samples(config: Config, split: str) -> Samples:
    """Read a split. Raises `HgfastError` if it has no annotations."""
    samples = usable_samples(config, split)
    if not samples.labeled.any():
        raise HgfastError(f"the split {split} has no annotations: nothing can be learned from it or measured on it")
    return samples


def _check_same_joints(config: Config, train: Skeleton, valid: Skeleton) -> None:
    """Raise `HgfastError` that names the first difference between the joints of two splits. Their edges may differ."""
    names = f"{config.train.split} and {config.train.valid_split}"
    if len(train.joints) != len(valid.joints):
        counts = f"{len(train.joints)} and {len(valid.joints)}"
        raise HgfastError(f"the splits {names} have {counts} joints: give annotations of the same joints")
    for number, (first, second) in enumerate(zip(train.joints, valid.joints), 1):
        if first != second:
            raise HgfastError(
                f"joint {number} is {first!r} in the split {config.train.split} and {second!r} in {config.train.valid_split}: "
                "list the keypoints of both files in one order"
            )


def _copy_weights(config: Config, initial: StackedHourglass, model: StackedHourglass, is_main: bool) -> None:
    """Copy the weights of --weights. Raises `HgfastError` if they are for other joints than those of the data."""
    known, data = initial.meta.skeleton, model.meta.skeleton
    if len(known.joints) != len(data.joints):
        raise HgfastError(
            f"{config.weights} predicts {len(known.joints)} joints, the data have {len(data.joints)}: start from other --weights"
        )
    if not known.is_anonymous and known.joints != data.joints:
        raise HgfastError(
            f"{config.weights} predicts {known.name}, the data are {data.name}, in another order: start from other --weights"
        )
    if initial.meta.heatmap_kind != model.meta.heatmap_kind and is_main:
        matching_loss = next(loss for loss, kind in HEATMAP_KIND_OF_LOSS.items() if kind == initial.meta.heatmap_kind)
        print(
            f"{config.weights} was trained with another loss, so its last layers must be retrained: "
            f"--loss.name {matching_loss} avoids that"
        )
    model.load_state_dict(initial.state_dict())


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
    with writing(folder, "choose another folder with --out"):
        folder.mkdir(parents=True, exist_ok=True)
        if config.resume is None:
            checkpoints.remove_checkpoints(folder)
            (folder / METRICS_FILE).unlink(missing_ok=True)
            shutil.rmtree(folder / EVENTS_FOLDER, ignore_errors=True)
        stored_config(config).write_yaml(folder / CONFIG_FILE)


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
        content = read_yaml(folder / CONFIG_FILE, "the configuration")
        matches = isinstance(content, dict) and _fill_defaults(Config.upgrade(content)) == stored_config(config).to_dict()
    except (HgfastError, TypeError):  # TypeError: a group that is no mapping
        return config
    return replace(config, resume=config.exp, overwrite=False) if matches and (folder / CHECKPOINT_FILE).exists() else config


def _fill_defaults(content: dict[str, Any]) -> dict[str, Any]:
    """Return a stored configuration with the defaults of the keys that are newer than it."""
    defaults = Config().to_dict()
    groups = {key: {**value, **content.get(key, {})} for key, value in defaults.items() if isinstance(value, dict)}
    return {**defaults, **content, **groups}


def changed_flags(config: Config, stored: dict[str, Any]) -> list[str]:
    """Return the flags whose values differ from a stored configuration's, each as `--train.lr 0.1 (was 0.2)`."""
    own = ("exp", "out", "overwrite", "resume")  # where the run is and how it is started
    new, old = _flatten(config.to_dict()), _flatten(stored)
    changed = [name for name in new if name not in own and name in old and new[name] != old[name]]
    return [f"--{name.replace('_', '-')} {printable(new[name])} (was {printable(old[name])})" for name in changed]


def _flatten(content: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with the values of groups under names such as train.lr."""
    groups = {key: value for key, value in content.items() if isinstance(value, dict)}
    values = {f"{group}.{key}": value for group, values in groups.items() for key, value in values.items()}
    return {key: value for key, value in content.items() if key not in groups} | values


def stored_config(config: Config) -> Config:
    """Return the configuration for config.yaml, without the flags that only concern how this process was started."""
    return replace(config, resume=None, overwrite=False)
