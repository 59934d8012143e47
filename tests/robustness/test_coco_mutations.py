"""One random mutation of a COCO file of each kind is read right, warned about or refused; `coco_mutations` runs more of them."""

from __future__ import annotations

from pathlib import Path

from tests.robustness.coco_mutations import KINDS, run_cases


def test_one_case_of_each_kind(tmp_path: Path) -> None:
    results = run_cases(1, range(len(KINDS)), tmp_path.resolve())
    assert {result.kind for result in results} == set(KINDS)
    assert [f"case {result.number} ({result.kind}): {result.detail}" for result in results if result.outcome == "failed"] == []
