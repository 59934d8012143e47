"""Short runs of `coco_mutations`, one mutation of each kind, and of `large_coco`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import Command
from tests.robustness.coco_mutations import KINDS, run_cases
from tests.robustness.large_coco import main


def test_one_case_of_each_kind(tmp_path: Path) -> None:
    results = run_cases(1, range(len(KINDS)), tmp_path.resolve())
    assert {result.kind for result in results} == set(KINDS)
    assert [f"case {result.number} ({result.kind}): {result.detail}" for result in results if result.outcome == "failed"] == []


def test_a_large_file_is_checked_twice(tmp_path: Path, in_process: Command) -> None:
    words = ["--folder", tmp_path, "--annotations", 300, "--images", 90, "--json", tmp_path / "large.json"]
    done = in_process(main, *words)
    assert done.returncode == 0, done.stderr
    first, second = json.loads((tmp_path / "large.json").read_text())["rows"]
    assert first["last_line"].startswith("this check decoded 90 of them")
    assert second["last_line"].startswith("this check decoded 0 of them") and second["peak_mb"] > 10
