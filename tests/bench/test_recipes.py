"""bench/recipes.py: the flags of its runs, older records, and the checkout that it requires."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hgfast.bench import gpu_check, recipes, run_all
from hgfast.bench.harness import record
from hgfast.bench.harness.record import read_record
from hgfast.bench.recipes import RECIPES, VARIANTS, RecipesConfig, run_training
from hgfast.cli import parse
from hgfast.config import FLAG_ALIASES, Config
from tests.conftest import ROOT, ErrorOf


@pytest.mark.parametrize("recipe", [*RECIPES, *VARIANTS])
def test_all_data_flags_reach_the_run(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def fake_run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        folder = tmp_path / f"{recipe}-7"
        folder.mkdir()
        (folder / "metrics.jsonl").write_text(json.dumps({"epoch": 2, "valid": {"pck@0.1": 0.5}}) + "\n")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", fake_run)
    data: dict[str, Any] = {"dataset": "coco", "annotations": Path("a.json"), "images": Path("images"), "pixel_offset": 0.0}
    data |= {"single_person": True, "skip_missing": True, "split_fractions": [0.8, 0.1]}
    lines = run_training(RecipesConfig(**data, epochs=2, work=tmp_path, flags=["--augment.rotation=90"]), recipe, 7)
    assert lines[-1]["valid"] == {"pck@0.1": 0.5}
    (command,) = commands
    config = parse(Config, command[command.index("hgfast.train") + 1 :], flag_aliases=FLAG_ALIASES)
    assert {name: getattr(config, name) for name in data} == data
    assert (config.seed, config.train.epochs, config.augment.rotation) == (7, 2, 90)


def test_recipes_of_older_records_have_current_names() -> None:
    rows = read_record(ROOT / "bench/results/recipes-hands-2-cores.json")["rows"]
    assert {row["recipe"] for row in rows} <= {*RECIPES, *VARIANTS}


@pytest.mark.parametrize("script", [recipes, run_all, gpu_check])
def test_a_checkout_is_required(script: Any, error_of: ErrorOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "ROOT", tmp_path)
    assert "runs scripts of the repository: run it in a checkout of hgfast" in error_of(script.main)
