"""bench/compare.py on handwritten records: changes beyond noise, changes within noise, records that cannot be compared."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hgfast.bench import compare
from hgfast.bench.compare import compare_rankings
from hgfast.bench.harness.record import Row
from hgfast.entry_point import run_main
from tests.conftest import ROOT

Compare = Callable[..., "tuple[int, str, str]"]
ROW: dict[str, Any] = {
    "way": "openvino",
    "precision": "fp32",
    "preset": "hg1",
    "batch": 1,
    "end_to_end": False,
    "median_ms": 20.0,
    "p99_ms": 30.0,
    "images_per_s": 50.0,
    "speedup": 1.7,
    "noise": 0.06,
    "max_px_error": 0.01,
    "floor_ms": None,
    "rounds": 5,
    "note": "",
}


def record(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "machine": {"processor": "Some CPU", "cores": 2, "gpu": None, "load": 0.5},
        "versions": {"torch": "2.13.0"},
        "revision": "abc",
        "command": "python bench/latency.py --json a.json",
        "date": "2026-11-26T10:00:00+00:00",
        "rows": list(rows),
        **more,
    }


@pytest.fixture
def compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Compare:
    """Compare two records; return the exit code, stdout and stderr."""

    def run_compare(a: dict[str, Any], b: dict[str, Any], *flags: str) -> tuple[int, str, str]:
        paths = [tmp_path / "a.json", tmp_path / "b.json"]
        for path, content in zip(paths, (a, b)):
            path.write_text(json.dumps(content))
        monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, paths), *flags])
        try:
            run_main(compare.main)
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return run_compare


def verdicts(a: dict[str, Any], b: dict[str, Any]) -> dict[str, str]:
    """Return the verdicts of one row by metric."""
    return {line.measure: line.verdict for line in compare.compare_rows((), a, b)}


@pytest.mark.parametrize(
    ("key", "value", "verdict"),
    [
        ("median_ms", 20.0, "within noise"),
        ("median_ms", 21.6, "within noise"),  # the noise of both: the root of twice 0.06 squared, 8.5 %
        ("median_ms", 21.8, "worse"),
        ("median_ms", 18.5, "within noise"),
        ("median_ms", 18.3, "better"),
        ("speedup", 1.9, "within noise"),
        ("speedup", 2.0, "better"),
        ("max_px_error", 0.0105, "unchanged"),
        ("max_px_error", 0.02, "worse"),
        ("max_px_error", 0.0, "better"),
    ],
)
def test_verdicts(key: str, value: float, verdict: str) -> None:
    assert verdicts(ROW, {**ROW, key: value})[key] == verdict


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ({"images_per_s": 100.0, "noise": 0.02}, {"images_per_s": 104.0, "noise": 0.02}, "better"),
        ({"images_per_s": 100.0, "noise": 0.02}, {"images_per_s": 94.0, "noise": 0.3}, "within noise"),
        ({"images_per_s": 100.0}, {"images_per_s": 94.0}, "within noise"),  # 5 % each, 7.1 % together
        ({"images_per_s": 100.0}, {"images_per_s": 92.0}, "worse"),
        ({"images_per_s": 100.0, "images_per_s_min": 90.0, "images_per_s_max": 110.0}, {"images_per_s": 84.0}, "within noise"),
        ({"cpu_ms_per_image": 1.0, "noise": 0.05}, {"cpu_ms_per_image": 0.8, "noise": 0.05}, "better"),
        ({"speedup": 2.0, "speedup_noise": 0.1}, {"speedup": 2.2, "speedup_noise": 0.1}, "within noise"),
        ({"overhead": -0.02, "noise": 0.05}, {"overhead": 0.05, "noise": 0.05}, "within noise"),
        ({"overhead": 0.02, "noise": 0.05}, {"overhead": 0.2, "noise": 0.05}, "worse"),
        ({"memory_mb": 100.0}, {"memory_mb": 108.0}, "unchanged"),
        ({"memory_mb": 20.0}, {"memory_mb": 28.0}, "unchanged"),
        ({"memory_mb": 100.0}, {"memory_mb": 120.0}, "worse"),
        ({"growth_kb": 0}, {"growth_kb": 9000}, "worse"),
        ({"pck@0.2": 0.5594}, {"pck@0.2": 0.5597}, "better"),
        ({"pckh@0.5": 88.43, "knee": 80.0}, {"pckh@0.5": 88.0, "knee": 80.0}, "worse"),
        ({"error_float16": 0.0002}, {"error_float16": 0.0002}, "unchanged"),
        ({"metric": "pck@0.1", "value": 0.4}, {"metric": "pck@0.1", "value": 0.3}, "worse"),
        ({"metric": "epe_px", "value": 4.0}, {"metric": "epe_px", "value": 3.0}, "better"),
    ],
)
def test_every_kind_of_metric(a: dict[str, Any], b: dict[str, Any], verdict: str) -> None:
    assert next(iter(verdicts(a, b).values())) == verdict


def test_the_table_and_the_summary(compared: Compare, tmp_path: Path) -> None:
    other = {**ROW, "way": "torchscript"}
    a = record(ROW, other)
    b = record({**other, "median_ms": 40.0}, {**ROW, "rounds": 7, "note": "again"})  # other order; ignored keys differ
    code, out, _ = compared(a, b, "--json", str(tmp_path / "c.json"))
    assert code == 0 and "warning" not in out
    lines = [line.split() for line in out.splitlines()]
    assert ["torchscript", "median_ms", "20", "40", "2.000", "8%", "worse"] in lines
    assert ["openvino", "median_ms", "20", "20", "1.000", "8%", "within", "noise"] in lines
    assert "1 worse, 0 better, 5 within noise or unchanged; 0 rows only in A, 0 only in B" in out
    written = json.loads((tmp_path / "c.json").read_text())
    assert {"machine", "versions", "revision", "command", "date"} <= set(written)
    assert [row["verdict"] for row in written["rows"] if row["way"] == "torchscript" and row["figure"] == "median_ms"] == [
        "worse"
    ]
    assert compared(a, b, "--fail")[0] == 1 and compared(b, a, "--fail")[0] == 0
    _, out, _ = compared(a, b, "--changed")
    assert "torchscript" in out and "openvino" not in out.replace("only", "")


def test_rows_and_metrics_in_one_record_only(compared: Compare) -> None:
    unmeasured = {**ROW, "way": "tensorrt", "median_ms": None, "images_per_s": None, "speedup": None, "max_px_error": None}
    a = record(ROW, {**ROW, "batch": 8}, unmeasured)
    b = record({**ROW, "max_px_error": None}, {**ROW, "precision": "bf16"})
    code, out, _ = compared(a, b)
    assert code == 0
    assert "only in A: fp32, batch 8\n" in out and "only in B: bf16, batch 1\n" in out and "tensorrt" not in out
    assert "1 metrics in one record only; 1 rows only in A, 1 only in B" in out


def test_other_differences_are_warnings(compared: Compare) -> None:
    other = record(
        ROW,
        machine={"processor": "Other CPU", "cores": 2, "gpu": None, "load": 3.0},
        versions={"torch": "2.14.0"},
        command="python bench/latency.py --quick --json=b.json",
    )
    _, out, _ = compared(record(ROW), other)
    warnings = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        "warning: the machines differ: processor Some CPU and Other CPU",
        "warning: the versions differ: torch 2.13.0 and 2.14.0",
        "warning: the commands differ: python bench/latency.py and python bench/latency.py --quick",
    ]


def test_a_baseline_that_changed_is_a_warning(compared: Compare) -> None:
    princeton = {**ROW, "way": "seed_style"}
    _, out, _ = compared(record(princeton, ROW), record({**princeton, "median_ms": 30.0}, {**ROW, "median_ms": 30.0}))
    assert "warning: the princeton baseline itself differs by more than noise (median_ms x1.50)" in out


def test_records_without_noise_give_a_warning(compared: Compare) -> None:
    old = {key: value for key, value in ROW.items() if key != "noise"}
    _, out, _ = compared(record(old), record(ROW))
    assert "warning: 1 rows of A do not contain their noise: 5% is assumed" in out and "rows of B" not in out


def test_combined_record_matches_a_single_script(compared: Compare) -> None:
    combined = record(
        {"bench": "latency", **ROW}, command="python bench/run_all.py", commands={"latency": "python bench/latency.py"}
    )
    _, out, _ = compared(record(ROW), combined)
    assert "0 rows only in A, 0 only in B" in out


def test_bad_input_is_one_error(compared: Compare, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for a, words in (
        (record(ROW, ROW), "two rows with the same identity"),
        ([1], "is not a record of bench/: 'machine' is missing"),
        ({**record(ROW), "rows": {}}, "is not a record of bench/: 'rows' is missing or has the wrong type"),
        ({**record(ROW), "rows": [1]}, "a row is not a mapping"),
    ):
        code, _, err = compared(a, record(ROW))
        assert code == 2 and words in err and err.count("\n") == 1, err
    code, _, err = compared(record(ROW), record(ROW), "--json", str(tmp_path / "a.json"))
    assert code == 2 and "would overwrite a record to compare" in err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "needs two records, got 0"),
        (["none.json", "none.json"], "none.json cannot be read (No such file or directory)"),
        (["text.json", "text.json"], "text.json is not JSON"),
    ],
)
def test_files_that_are_not_records(
    words: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "text.json").write_text("text")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["compare.py", *words])
    with pytest.raises(SystemExit) as end:
        run_main(compare.main)
    err = capsys.readouterr().err
    assert end.value.code == 2 and complaint in err and err.count("\n") == 1


STORED_RECORDS = [path for path in sorted((ROOT / "bench" / "results").glob("*.json")) if "rows" in json.loads(path.read_text())]


@pytest.mark.parametrize("path", STORED_RECORDS, ids=lambda path: path.stem)
def test_every_stored_record_can_be_compared(path: Path, compared: Compare) -> None:
    content = json.loads(path.read_text())
    code, out, _ = compared(content, content, "--fail")
    assert code == 0 and "0 worse, 0 better" in out and "0 rows only in A, 0 only in B" in out


# ---- rankings ----


def variant_rows(**ms: float) -> list[Row]:
    about = {"preset": "hg1", "batch": 1, "precision": "fp32", "noise": 0.1}
    return [{**about, "way": method, "median_ms": value} for method, value in ms.items()]


def test_rankings_use_pairs_distinct_in_both_runs() -> None:
    a = variant_rows(one=100.0, two=50.0, three=52.0)
    text = compare_rankings(a, variant_rows(one=90.0, two=60.0, three=55.0))
    assert text == "ranking: both runs distinguish 2 of 3 pairs of variants, all in the same order"
    text = compare_rankings(a, variant_rows(one=40.0, two=60.0, four=10.0))
    assert text.endswith("distinguish 1 of 1 pairs of variants, 1 reversed: one fp32 and two fp32, hg1, batch 1")
    assert "distinguish 0 of 1 pairs" in compare_rankings(a, [{**row, "noise": 9.0} for row in variant_rows(one=40.0, two=60.0)])
    assert (
        compare_rankings(a, [{**row, "batch": 8} for row in a])
        == compare_rankings(a, [{**row, "median_ms": None} for row in a])
        == ""
    )
