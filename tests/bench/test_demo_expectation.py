"""bench/demo_expectation.py: before a run by the kind of CPU, after it by the images that it saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hgfast.bench import demo_expectation
from hgfast.bench.demo_expectation import RUNS, comparison, expectation, expected_pck
from hgfast.system_info import CpuFeatures
from tests.conftest import ROOT, ErrorOf


@pytest.mark.parametrize(("bf16", "words"), [(True, "0.88 to 0.92"), (False, "38,000 (busy) to 58,000 (quiet) images")])
def test_what_to_expect_depends_on_the_cpu(bf16: bool, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_expectation, "cpu_features", lambda: CpuFeatures("AVX2", bf16, vnni=False))
    assert words in expectation() and ("no bf16 in hardware" in expectation()) == (not bf16)


def test_recorded_runs_are_met_and_more_images_are_better() -> None:
    assert all(expected_pck(images) == pytest.approx(pck) for images, pck in RUNS)
    assert RUNS[1][1] < expected_pck(75_000) < RUNS[2][1] and expected_pck(10) == RUNS[0][1] and expected_pck(1e9) == RUNS[-1][1]


def test_the_runs_stand_in_the_docs() -> None:
    page = (ROOT / "docs/training.md").read_text()
    for images, pck in RUNS:
        assert f"| {images // 1000} 000 | {pck:.3f}".replace("0.", ".") in page


@pytest.mark.parametrize(("pck", "verdict"), [(0.87, "as expected"), (0.80, "LOWER than expected")])
def test_a_run_is_compared(pck: float, verdict: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 10}\n{"step": 3000}\n')
    (tmp_path / "config.yaml").write_text("batch_size: 32\n")
    rows: list[dict[str, Any]] = [{"method": "network", "pck@0.2": pck}, {"method": "mean pose", "pck@0.2": 0.1}]
    (tmp_path / "result.json").write_text(json.dumps({"rows": rows}))
    text = comparison(tmp_path)
    assert text.startswith(
        f"images seen: 96,000; PCK@0.2 on held-out hands: {pck:.3f}; recorded runs of as many images: 0.88; {verdict}"
    )


def test_a_folder_without_a_run(error_of: ErrorOf, tmp_path: Path) -> None:
    assert "is not a finished run of the demo" in error_of(demo_expectation.main, tmp_path)
