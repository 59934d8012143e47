"""Two thousand broken files of the kinds that are read, two thousand broken exports, and what the watching itself is worth."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import fuzz
import kinds
import numpy as np
import pytest
from conftest import Command
from watched import Case, ended, watch

from hgfast.errors import HgfastError


@pytest.mark.slow
def test_two_thousand_broken_files(tmp_path: Path) -> None:
    done = fuzz.throw(fuzz.FuzzConfig(cases=2000, only="files"), tmp_path)
    assert [case for case in done if case.wrong] == []
    rows = {row["kind"]: row for row in fuzz.table(done)}
    assert rows["all"]["cases"] == 2000 and set(rows) == {*kinds.KINDS, "all"}
    assert rows["all"]["refused"] > 1000 and rows["all"]["answered"] > 200  # some of either, or nothing would have been tried
    for name, row in rows.items():
        assert row["refused"] >= 0.1 * row["cases"], name
        assert row["worst_mb"] < 2048 and row["worst_s"] < 30


@pytest.mark.slow
def test_two_thousand_broken_exports(tmp_path: Path) -> None:
    """Half of them broken sidecars, half broken models."""
    done = fuzz.throw(fuzz.FuzzConfig(cases=2000, only="exports"), tmp_path)
    assert [case for case in done if case.wrong] == [] and len(done) == 2000
    row = fuzz.table(done)[-1]
    assert row["refused"] > 1500 and row["answered"] > 20


def test_valid_files_are_answered(tmp_path: Path) -> None:
    """Each of the originals as it is: else a reader that refuses everything would pass."""
    (tmp_path / "files").mkdir()
    kinds.prepare(tmp_path / "files")
    one: Callable[[int], str] = kinds.start(tmp_path / "files", 0)
    folder, originals, _ = one.args  # type: ignore[attr-defined]
    refused = []
    for number, (name, kind) in enumerate(kinds.KINDS.items()):
        for data in originals[name]:
            path = folder / kind.place
            path.write_bytes(data)
            if ended(partial(kind.open, path, folder, random.Random(number))) != "answered":  # noqa: S311
                refused.append((name, data[:20]))
        path.write_bytes(originals[name][0])
    assert refused == []


def test_a_case_is_made_from_its_number_alone(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    kinds.prepare(tmp_path / "files")
    made = []
    for _ in range(2):
        one = kinds.start(tmp_path / "files", 3)
        contents = {}
        for number in range(len(kinds.KINDS)):
            one(number)
            contents[kinds.name_of(number)] = (one.args[0] / kinds.KINDS[kinds.name_of(number)].place).read_bytes()  # type: ignore[attr-defined]
            shutil.copytree(tmp_path / "files", one.args[0], dirs_exist_ok=True)  # type: ignore[attr-defined]
        made.append(contents)
        shutil.rmtree(one.args[0])  # type: ignore[attr-defined]
    for contents in made:  # a cache holds the names of its folder, and HDF5 leaves bytes as it finds them
        del contents["crop cache"], contents["mpii h5"]
    assert made[0] == made[1]


def misbehave() -> Callable[[int], str]:
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
        return ended(lambda: fail("two\nlines, as no sentence has"))
    if number == 6:
        return ended(lambda: fail("this is wrong: do that"))
    return "answered"


def fail(text: str) -> None:
    raise HgfastError(text)


@pytest.mark.slow
def test_what_goes_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watched.SECONDS", 3.0)
    monkeypatch.setattr("watched.IMPORTING", 30.0)
    found: dict[int, Case] = {case.number: case for case in watch(misbehave, (), [0, 1, 0, 2, 3, 4, 5, 6])}
    assert found[0].found == "answered" and found[6].found == "refused"
    assert found[1].found == "crashed: SIGABRT"
    assert found[2].found.startswith("hangs")
    assert found[3].found.startswith("memory: ") and found[3].megabytes > 2048
    assert found[4].found == "KeyError: 'from the depths'"
    assert found[5].found.startswith("AssertionError: no sentence")
    assert found[0].megabytes < 2048  # measured anew for every case


@pytest.mark.slow
def test_the_command(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "fuzz.json"
    done = command("tests/robustness/fuzz.py", "--cases", 24, "--seed", 1, "--only", "files", "--json", out)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert record["cases"] == 24 and record["wrong"] == {} and "24 cases with seed 1" in done.stdout
    assert sum(row["cases"] for row in record["rows"][:-1]) == record["rows"][-1]["cases"] == 24
    done = command("tests/robustness/fuzz.py", "--cases", 0)
    assert done.returncode == 2 and "--cases and --processes must be at least 1" in done.stderr
