"""Two thousand broken data files, two thousand broken exports, and the resource monitor itself."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from hgfast.errors import HgfastError
from tests.conftest import Command
from tests.robustness import fuzz, fuzz_targets
from tests.robustness.resource_monitor import Case, outcome_of, run_monitored


@pytest.mark.slow
def test_two_thousand_broken_files(tmp_path: Path) -> None:
    done = fuzz.run_cases(fuzz.FuzzConfig(cases=2000, only="files"), tmp_path)
    assert [case for case in done if case.wrong] == []
    rows = {row["kind"]: row for row in fuzz.table(done)}
    assert rows["all"]["cases"] == 2000 and set(rows) == {*fuzz_targets.FUZZ_TARGETS, "all"}
    assert rows["all"]["refused"] > 1000 and rows["all"]["answered"] > 200  # some of either, or nothing would have been tried
    for name, row in rows.items():
        assert row["refused"] >= 0.1 * row["cases"], name
        assert row["worst_mb"] < 2048 and row["worst_s"] < 30


@pytest.mark.slow
def test_two_thousand_broken_exports(tmp_path: Path) -> None:
    """Half of them broken sidecars, half broken models."""
    done = fuzz.run_cases(fuzz.FuzzConfig(cases=2000, only="exports"), tmp_path)
    assert [case for case in done if case.wrong] == [] and len(done) == 2000
    row = fuzz.table(done)[-1]
    assert row["refused"] > 1500 and row["answered"] > 20


def test_valid_files_are_answered(tmp_path: Path) -> None:
    """Each of the originals as it is: else a reader that refuses everything would pass."""
    (tmp_path / "files").mkdir()
    fuzz_targets.prepare(tmp_path / "files")
    one: Callable[[int], str] = fuzz_targets.start(tmp_path / "files", 0)
    folder, originals, _ = one.args  # type: ignore[attr-defined]
    refused = []
    for number, (name, kind) in enumerate(fuzz_targets.FUZZ_TARGETS.items()):
        for data in originals[name]:
            path = folder / kind.broken_path
            path.write_bytes(data)
            if outcome_of(partial(kind.open, path, folder, random.Random(number))) != "answered":  # noqa: S311
                refused.append((name, data[:20]))
        path.write_bytes(originals[name][0])
    assert refused == []


def test_a_case_is_made_from_its_number_alone(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    fuzz_targets.prepare(tmp_path / "files")
    made = []
    for _ in range(2):
        one = fuzz_targets.start(tmp_path / "files", 3)
        contents = {}
        for number in range(len(fuzz_targets.FUZZ_TARGETS)):
            one(number)
            contents[fuzz_targets.target_name(number)] = (
                one.args[0] / fuzz_targets.FUZZ_TARGETS[fuzz_targets.target_name(number)].broken_path
            ).read_bytes()  # type: ignore[attr-defined]
            shutil.copytree(tmp_path / "files", one.args[0], dirs_exist_ok=True)  # type: ignore[attr-defined]
        made.append(contents)
        shutil.rmtree(one.args[0])  # type: ignore[attr-defined]
    for contents in made:  # a cache holds the names of its folder, and HDF5 leaves bytes as it finds them
        del contents["crop cache"], contents["mpii h5"]
    assert made[0] == made[1]


def faulty_worker() -> Callable[[int], str]:
    return what


def what(number: int) -> str:
    if number == 1:
        os.abort()
    if number == 2:
        time.sleep(60)
    if number == 3:
        np.ones(400_000_000)  # 3.2 GB
    if number == 4:
        raise KeyError("from the depths")
    if number == 5:
        return outcome_of(lambda: fail("two\nlines, as no sentence has"))
    if number == 6:
        return outcome_of(lambda: fail("this is wrong: do that"))
    return "answered"


def fail(text: str) -> None:
    raise HgfastError(text)


@pytest.mark.slow
def test_failures_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.robustness.resource_monitor.SECONDS", 3.0)
    monkeypatch.setattr("tests.robustness.resource_monitor.STARTUP_SECONDS", 30.0)
    found: dict[int, Case] = {case.number: case for case in run_monitored(faulty_worker, (), [0, 1, 0, 2, 3, 4, 5, 6])}
    assert found[0].outcome == "answered" and found[6].outcome == "refused"
    assert found[1].outcome == "crashed: SIGABRT"
    assert found[2].outcome.startswith("hangs")
    assert found[3].outcome.startswith("memory: ") and found[3].megabytes > 2048
    assert found[4].outcome == "KeyError: 'from the depths'"
    assert found[5].outcome.startswith("AssertionError: no sentence")
    assert found[0].megabytes < 2048  # measured anew for every case


@pytest.mark.slow
def test_the_command(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "fuzz.json"
    done = command("-m", "tests.robustness.fuzz", "--cases", 24, "--seed", 1, "--only", "files", "--json", out)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert record["cases"] == 24 and record["wrong"] == {} and "24 cases with seed 1" in done.stdout
    assert sum(row["cases"] for row in record["rows"][:-1]) == record["rows"][-1]["cases"] == 24
    done = command("-m", "tests.robustness.fuzz", "--cases", 0)
    assert done.returncode == 2 and "--cases and --processes must be at least 1" in done.stderr
