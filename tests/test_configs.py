"""Every recipe in configs/ loads, has a comment for each key, and states its expected result or that it has not been run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hgfast.cli import parse
from hgfast.config import AugmentConfig, Config
from tests.conftest import ROOT

FILES = sorted((ROOT / "configs").glob("*.yaml"))
NAMES = [path.stem for path in FILES]
HGFAST_RECIPES = [f"{data}-{preset}" for data in ("mpii", "freihand") for preset in ("hg1", "hg2", "hg8")]
REFERENCE_RECIPES = [f"{whose}-{data}" for whose in ("seed", "paper") for data in ("mpii", "freihand")]


def load(name: str, *flags: str) -> Config:
    config = parse(Config, ["--config", str(ROOT / f"configs/{name}.yaml"), *flags])
    config.validate()
    config.model.make_architecture()
    return config


def differing_keys(one: Any, other: Any, name: str = "") -> set[str]:
    """Return the keys whose values differ between two nested dicts."""
    if isinstance(one, dict):
        return {
            key for k in one.keys() | other.keys() for key in differing_keys(one.get(k), other.get(k), f"{name}.{k}".strip("."))
        }
    return set() if one == other else {name}


def test_all_recipes_exist() -> None:
    assert set(NAMES) == {"demo", "people", "overfit", *HGFAST_RECIPES, *REFERENCE_RECIPES}


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_recipe_is_complete(path: Path) -> None:
    text = path.read_text()
    assert load(path.stem).exp == yaml.safe_load(text)["exp"] == path.stem
    header = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    assert re.search(r"Expected: .*\d.*Source: \S", header) or "Not yet run" in header
    uncommented = [line for line in text.splitlines() if re.match(r" *\w+: [^#\s]", line) and not re.search(r"  # \S", line)]
    assert not uncommented, "keys without a comment"
    keys = re.findall(r"^ *(\w+):", text, re.MULTILINE)
    assert len(keys) == len(set(keys)), "a key is duplicated"
    assert max(map(len, text.splitlines())) <= 130
    assert len(text.splitlines()) <= 45


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_batch_size_and_lr_comments_state_their_scope(path: Path) -> None:
    lines = path.read_text().splitlines()
    for key in ("batch_size", "lr"):
        (line,) = [line for line in lines if line.strip().startswith(f"{key}:")]
        assert "for the whole job" in line


@pytest.mark.parametrize("name", ["seed-mpii", "seed-freihand"])
def test_princeton_recipe(name: str) -> None:
    """princeton-vl/pytorch_stacked_hourglass, task/pose.py: Adam 1e-3, 2e-4 after 100 000 steps of 16, mean squared error."""
    config = load(name)
    train, loss = config.train, config.loss
    assert (config.batch_size, config.model.preset) == (16, "hg8")
    assert (train.optimizer, train.lr, train.weight_decay, train.warmup, train.grad_clip) == ("adam", 1e-3, 0, 0, 0)
    assert (train.schedule, train.lr_milestones, train.max_iters) == ("steps", [100], 200)
    assert train.lr * train.lr_gamma == pytest.approx(2e-4)
    assert (train.ema, train.amp, train.grad_accum, train.sync_bn) == (0, "off", 1, False)
    assert (loss.name, loss.reduce, loss.unlabeled, loss.sigma) == ("mse", "mean", "zero", 1)


@pytest.mark.parametrize("name", ["paper-mpii", "paper-freihand"])
def test_paper_recipe(name: str) -> None:
    """Newell et al. 2016, section 3: RMSprop 2.5e-4, divided once by 5, Gaussians of one cell, missing joints are zero."""
    config = load(name)
    train, loss = config.train, config.loss
    assert (train.optimizer, train.lr, train.weight_decay, train.warmup, train.grad_clip) == ("rmsprop", 2.5e-4, 0, 0, 0)
    assert (train.schedule, len(train.lr_milestones)) == ("steps", 1)
    assert 1 / train.lr_gamma == pytest.approx(5)
    assert train.max_iters is not None and train.lr_milestones[0] < train.max_iters < 200
    assert (train.ema, train.amp) == (0, "off")
    assert (loss.name, loss.reduce, loss.unlabeled, loss.sigma) == ("mse", "mean", "zero", 1)
    assert (config.batch_size, config.model.preset) == (8, "hg8")
    augment = config.augment
    assert (augment.rotation, augment.scale_min, augment.scale_max, augment.shift) == (30, 0.75, 1.25, 0)


def test_princeton_augmentation() -> None:
    """data/MPII/dp.py: rotation of up to 30 degrees, scale 0.75 to 1.25, half of the images flipped; hands are not augmented."""
    bodies, hands = load("seed-mpii"), load("seed-freihand")
    assert (bodies.augment.rotation, bodies.augment.shift, bodies.augment.flip) == (30, 0, 0.5)
    assert bodies.augment.scale_min == pytest.approx(1 / 1.25)
    assert bodies.augment.scale_max == pytest.approx(1 / 0.75, abs=1e-3)
    assert bodies.augment.hue == pytest.approx(0.2 * 360)
    none = AugmentConfig(rotation=0, scale_min=1, scale_max=1, shift=0, flip=0, brightness=0, contrast=0, saturation=0, hue=0)
    assert hands.augment == none
    assert hands.versions == ["gs"] and hands.split_fractions is None


@pytest.mark.parametrize("name", HGFAST_RECIPES)
def test_hgfast_recipe(name: str) -> None:
    config = load(name)
    train = config.train
    assert (config.dataset, config.model.preset) == tuple(name.split("-"))
    assert (config.loss.name, train.schedule, train.optimizer) == ("cross_entropy", "cosine", "adamw")
    assert train.warmup > 0 and train.ema > 0
    assert config.batch_size > 16
    assert train.lr == pytest.approx(
        1e-3 * (config.batch_size / 32) ** 0.5
    )  # the default, scaled by the square root of the batch size


def test_presets_differ_only_in_model() -> None:
    for data in ("mpii", "freihand"):
        configs = {preset: load(f"{data}-{preset}").to_dict() for preset in ("hg1", "hg2", "hg8")}
        for preset in ("hg1", "hg8"):
            assert differing_keys(configs["hg2"], configs[preset]) == {"exp", "model.preset"}


def test_only_bodies_are_flipped() -> None:
    for name in (*HGFAST_RECIPES, *REFERENCE_RECIPES):
        assert load(name).augment.flip == (0 if name.endswith("freihand") or name.startswith("freihand") else 0.5)


def test_recipe_commands_name_their_file() -> None:
    for path in FILES:
        named = set(re.findall(r"configs/([\w-]+)\.yaml", path.read_text()))
        assert named <= {path.stem}
        for reference in re.findall(r"see ([\w-]+\.yaml)", path.read_text()):
            assert (path.parent / reference).is_file()


def test_paper_lr_milestones_can_be_overridden() -> None:
    assert load("paper-mpii", "--train.lr-milestones", "[90]").train.lr_milestones == [90]
