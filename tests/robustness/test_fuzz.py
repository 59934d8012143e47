"""Two thousand broken data files, two thousand broken exports, and the resource monitor itself."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import ErrorOf
from tests.robustness import faulty_cases, fuzz
from tests.robustness.fuzz_targets import FUZZ_TARGETS, prepare, start, target_name
from tests.robustness.resource_monitor import Case, outcome_of, run_monitored


@pytest.fixture(scope="module")
def valid_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("fuzz") / "files")


@pytest.mark.slow
def test_two_thousand_broken_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error_of: ErrorOf
) -> None:
    """With the command, which also validates its flags."""
    words = ["--cases", "2000", "--only", "files", "--processes", "1", "--json", str(tmp_path / "fuzz.json")]
    monkeypatch.setattr(sys, "argv", ["fuzz", *words])
    fuzz.main()
    assert "2000 cases with seed 0" in capsys.readouterr().out
    record = json.loads((tmp_path / "fuzz.json").read_text())
    assert record["cases"] == 2000 and record["wrong"] == {}
    rows = {row["kind"]: row for row in record["rows"]}
    assert sum(row["cases"] for row in record["rows"][:-1]) == rows["all"]["cases"] == 2000
    assert set(rows) == {*FUZZ_TARGETS, "all"}
    assert rows["all"]["refused"] > 1000 and rows["all"]["answered"] > 200  # mutations are neither all fatal nor all harmless
    for name, row in rows.items():
        assert row["refused"] >= 0.1 * row["cases"], name
        assert row["worst_mb"] < 2048 and row["worst_s"] < 30
    assert "--cases and --processes must be at least 1" in error_of(fuzz.main, "--cases", 0)


@pytest.mark.slow
def test_two_thousand_broken_exports(tmp_path: Path) -> None:
    """Half of them have broken sidecars, the others broken models."""
    cases = fuzz.run_cases(fuzz.FuzzConfig(cases=2000, only="exports", processes=1), tmp_path)
    assert [case for case in cases if case.wrong] == [] and len(cases) == 2000
    row = fuzz.table(cases)[-1]
    assert row["refused"] > 1500 and row["answered"] > 20


def test_valid_files_are_read(valid_files: Path) -> None:
    """Readers accept the unchanged originals; otherwise a reader that refuses every file would pass the tests above."""
    run_case: Callable[[int], str] = start(valid_files, 0)
    folder, originals, _ = run_case.args  # type: ignore[attr-defined]
    refused = []
    for number, (name, target) in enumerate(FUZZ_TARGETS.items()):
        for data in originals[name]:
            path = folder / target.broken_path
            path.write_bytes(data)
            if outcome_of(partial(target.open, path, folder, random.Random(number))) != "answered":  # noqa: S311
                refused.append((name, data[:20]))
        path.write_bytes(originals[name][0])
    shutil.rmtree(folder)
    assert refused == []


def test_cases_depend_only_on_seed_and_number(valid_files: Path) -> None:
    runs = []
    for _ in range(2):
        run_case = start(valid_files, 3)
        folder: Path = run_case.args[0]  # type: ignore[attr-defined]
        files = {}
        for number in range(len(FUZZ_TARGETS)):
            name = target_name(number)
            run_case(number)
            files[name] = (folder / FUZZ_TARGETS[name].broken_path).read_bytes()
            shutil.copytree(valid_files, folder, dirs_exist_ok=True)
        runs.append(files)
        shutil.rmtree(folder)
    for files in runs:  # a cache contains the name of its folder, and HDF5 does not initialize unused bytes
        del files["crop cache"], files["mpii h5"]
    assert runs[0] == runs[1]


@pytest.mark.slow
def test_failures_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.robustness.resource_monitor.SECONDS", 3.0)
    monkeypatch.setattr("tests.robustness.resource_monitor.STARTUP_SECONDS", 30.0)
    cases: dict[int, Case] = {case.number: case for case in run_monitored(faulty_cases.start, (), [0, 1, 0, 2, 3, 4, 5, 6])}
    assert cases[0].outcome == "answered" and cases[6].outcome == "refused"
    assert cases[1].outcome == "crashed: SIGABRT"
    assert cases[2].outcome.startswith("hangs")
    assert cases[3].outcome.startswith("memory: ") and cases[3].megabytes > 2048
    assert cases[4].outcome == "KeyError: 'name'"
    assert cases[5].outcome.startswith("AssertionError: not one sentence")
    assert cases[0].megabytes < 2048  # peak memory is reset before every case
