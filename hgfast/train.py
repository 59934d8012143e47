"""Train a stacked hourglass.

    python hgfast/train.py --dataset freihand --data DIR
    torchrun --nproc-per-node 2 hgfast/train.py --dataset freihand --data DIR --exp hands
    python hgfast/train.py --dataset mpii --data DIR
    python hgfast/train.py -c hands

-e NAME is --exp, -c NAME or --continue NAME goes on with an experiment, -m N or --max-iters N ends after N thousand steps.
Files go to exp/NAME: checkpoint.pt, best.pt, config.yaml, metrics.jsonl.
What may enter: the flags, and putting a run together. The loop is `training`'s.
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

from hgfast import checkpoints, distributed, kept
from hgfast.checkpoints import load_model
from hgfast.cli import parse
from hgfast.config import Config, ModelConfig
from hgfast.distributed import Ranks
from hgfast.errors import HgfastError, run
from hgfast.foreign import is_nameless
from hgfast.looks import show
from hgfast.losses import map_kind
from hgfast.model import Meta, StackedHourglass
from hgfast.precision import slow_precision
from hgfast.preprocessing import Preprocessing
from hgfast.signals import outlast_torchrun
from hgfast.training import Trainer
from pipelines.cache import cached
from pipelines.datasets import DATASETS, figures, open_loader, usable_samples

SHORT = {"-e": "--exp", "-c": "--resume", "--continue": "--resume", "-m": "--train.max-iters", "--max-iters": "--train.max-iters"}


def read_config(argv: list[str]) -> Config:
    """The configuration that the flags ask for; with `--continue NAME` they change that experiment's own."""
    config = parse(Config, argv, short=SHORT, description=__doc__ or "")
    if config.resume is not None:
        saved = config.out / config.resume / "config.yaml"
        if not saved.is_file():
            raise HgfastError(f"there is no experiment {config.resume!r} to continue: {saved} is missing")
        named = {word.partition("=")[0] for word in argv} & {"-e", "--exp"}
        if named and config.exp != config.resume:
            raise HgfastError(f"-c {config.resume} continues an experiment under its own name: leave out --exp {config.exp}")
        name = config.resume
        config = parse(Config, ["--config", str(saved), *argv], short=SHORT)
        config.exp = name
    config.validate()
    return config


def train(config: Config, ranks: Ranks) -> Path:
    """Run (or continue) an experiment; returns its folder."""
    folder = config.out / config.exp
    checkpoint = folder / "checkpoint.pt"
    if config.resume is None and checkpoint.exists() and not config.overwrite:
        raise HgfastError(
            f"{checkpoint} exists: continue it with -c {config.exp}, choose another --exp, or start afresh with --overwrite"
        )
    content = checkpoints.read(checkpoint) if config.resume is not None else None
    known = known_network(config, content, checkpoint)
    arch = known.arch if known else config.model.architecture()
    preprocessing = known.meta.preprocessing if known else Preprocessing()
    train_samples = usable_samples(config, config.train.split)
    valid_samples = usable_samples(config, config.train.valid_split)
    for split, samples in ((config.train.split, train_samples), (config.train.valid_split, valid_samples)):
        if not samples.labelled.any():
            raise HgfastError(f"the split {split} has no annotations: nothing can be learnt from it or measured on it")
    if train_samples.skeleton != valid_samples.skeleton:
        raise HgfastError(f"the splits {config.train.split} and {config.train.valid_split} have different joints or edges")
    if config.cache is not None:
        train_samples = cached(train_samples, config.cache, config.augment, arch.input_size)
    train_loader = open_loader(
        train_samples,
        arch.input_size,
        config.batch_size,
        preprocessing,
        ranks,
        augment=config.augment,
        seed=config.seed,
        threads=config.threads,
        kind=config.loader,
        options=config.loading,
    )
    valid_loader = open_loader(
        valid_samples,
        arch.input_size,
        config.batch_size,
        preprocessing,
        ranks,
        threads=config.threads,
        kind="dali" if config.loader == "fixed" else config.loader,
        options=config.loading,
    )

    kind = map_kind(config.loss.name)
    if content is not None and known is not None:
        model = known
        if model.meta.skeleton.joints != train_samples.skeleton.joints:
            raise HgfastError(
                f"{checkpoint} predicts {model.meta.skeleton.name}, the data are {train_samples.skeleton.name}: "
                "continue with the data set it was started with"
            )
        if model.meta.kind != kind:
            raise HgfastError(f"{checkpoint} was trained with another loss than these flags ask for: leave out --loss")
    else:
        torch.manual_seed(config.seed)
        model = checkpoints.build(
            arch, Meta(train_samples.skeleton, preprocessing, arch.input_size, kind, "dark", train_samples.pixel_offset)
        )
        if known:
            theirs, ours = len(known.meta.skeleton.joints), len(train_samples.skeleton.joints)
            if theirs != ours:
                raise HgfastError(f"{config.weights} predicts {theirs} joints, the data have {ours}: start from other --weights")
            names = known.meta.skeleton.joints
            if not is_nameless(known.meta.skeleton) and names != train_samples.skeleton.joints:
                raise HgfastError(
                    f"{config.weights} predicts {known.meta.skeleton.name}, the data are {train_samples.skeleton.name}, "
                    "in another order: start from other --weights"
                )
            if known.meta.kind != kind and ranks.first:
                keep = "mse" if known.meta.kind == "gaussian" else "cross_entropy"
                print(
                    f"{config.weights} was trained with another loss, its maps must be learnt anew: --loss.name {keep} keeps them"
                )
            model.load_state_dict(known.state_dict())
    model.to(ranks.device)

    measure = partial(figures, config.dataset, valid_samples)
    data_set = DATASETS[config.dataset]
    trainer = Trainer(config, model, train_loader, valid_loader, measure, data_set.best, folder, ranks)
    trainer.show = partial(show, valid_samples, data_set.heads, trainer.log)
    trainer.shown = data_set.shown
    if content is not None:
        trainer.resume(content, checkpoint)
    if ranks.first:
        prepare_folder(folder, config)
        limit = f" or {config.train.max_minutes:g} minutes" if config.train.max_minutes else ""
        parameters = sum(p.numel() for p in model.parameters())
        print(
            f"{config.dataset} at {config.data or config.annotations}: {train_samples.in_words} to train on, "
            f"{valid_samples.in_words} to validate\n"
            f"{config.weights or config.model.preset}: {arch.stacks} stacks, {parameters / 1e6:.2f} M parameters, "
            f"{trainer.flops / 3e9:.2f} GFLOP a picture, input {arch.input_size} px, loss {config.loss.name}\n"
            f"{ranks.world} rank(s) on {device_name(ranks.device)}, precision {trainer.amp}, {config.batch_size} samples a step, "
            f"{trainer.steps_in_all} steps ({trainer.steps_in_all / len(train_loader):.1f} epochs){limit}, files in {folder}",
            flush=True,
        )
        if warning := slow_precision(trainer.amp, ranks.device):
            print(f"warning: --train.amp {trainer.amp}: {warning}", file=sys.stderr, flush=True)
    trainer.fit()
    if ranks.first and math.isfinite(trainer.best):
        print(f"{folder / 'best.pt'} is the network with the highest {data_set.best}, {trainer.best:.4g}", flush=True)
    return folder


def known_network(config: Config, content: dict[str, Any] | None, checkpoint: Path) -> StackedHourglass | None:
    """What there is before training: the network of the checkpoint to continue, or that of --weights; None for a fresh one."""
    if content is None:
        if config.weights is None:
            return None
        known = load_model(config.weights)
        known.arch = replace(known.arch, input_size=config.model.input_size or known.arch.input_size)
        asked = replace(config.model, input_size=known.arch.input_size)
        if asked != ModelConfig(input_size=asked.input_size) and asked.architecture() != known.arch:
            raise HgfastError(
                f"{config.weights} says what the network is, and --model says something else: "
                "leave out --model, but for --model.input-size"
            )
        return known
    known = checkpoints.restore(content, checkpoint, averaged=False)
    began = content.get("config", {})
    same = known.arch == config.model.architecture() if config.weights is None else config.plain()["model"] == began.get("model")
    if not same:
        raise HgfastError(f"{checkpoint} holds another network than these flags ask for: leave out --model")
    if began and config.plain()["weights"] != began.get("weights"):
        raise HgfastError(f"{checkpoint} has weights of its own to go on with: leave out --weights")
    return known


def prepare_folder(folder: Path, config: Config) -> None:
    """Make the experiment's folder and write its configuration."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for cut_short in folder.glob(".*.writing"):  # by a kill
            cut_short.unlink()
        if config.resume is None:
            kept.remove(folder)
            (folder / "metrics.jsonl").unlink(missing_ok=True)
            shutil.rmtree(folder / "events", ignore_errors=True)
        as_saved(config).write(folder / "config.yaml")
    except OSError as error:
        raise HgfastError(f"cannot write to {folder} ({error.strerror}): choose another folder with --out") from error


def device_name(device: torch.device) -> str:
    """What a device is called by its maker, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def after_restart(config: Config, ranks: Ranks) -> Config:
    """The configuration that goes on from the checkpoint where torchrun starts the ranks once more (--max-restarts), and this
    run has written one; else as it is. Each machine's torchrun counts its own restarts: one that knows of any will do."""
    (restarts,) = distributed.largest([float(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))], ranks.device)
    if restarts == 0 or config.resume is not None:
        return config
    folder = config.out / config.exp
    try:
        same = yaml.safe_load((folder / "config.yaml").read_text()) == as_saved(config).plain()
    except (OSError, yaml.YAMLError):
        return config
    return replace(config, resume=config.exp, overwrite=False) if same and (folder / "checkpoint.pt").exists() else config


def as_saved(config: Config) -> Config:
    """The configuration as config.yaml has it: without how this process was started."""
    return replace(config, resume=None, overwrite=False)


def main() -> None:
    config = read_config(sys.argv[1:])
    ranks = distributed.start(config.device, config.train.wait_minutes)
    try:
        with distributed.in_contact(ranks.rank):
            train(after_restart(config, ranks), ranks)
    except HgfastError:
        outlast_torchrun()
        raise
    finally:
        distributed.stop()


if __name__ == "__main__":
    run(main)
