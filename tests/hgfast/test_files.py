"""Atomic writing, output path checks and JSON."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hgfast.errors import HgfastError
from hgfast.fileio.files import (
    atomic_write,
    check_distinct_paths,
    lock_folder,
    prepare_folder,
    remove_leftovers,
    temporary_folder,
    to_json,
    write_text,
)


def test_failed_write_keeps_previous_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(file) as temp_path:
        temp_path.write_text("half")
        raise KeyboardInterrupt
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
    write_text(file, "new", "--out")
    assert file.read_text() == "new" and list(tmp_path.iterdir()) == [file]


def test_symlinks_and_pipes_are_preserved(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    write_text(tmp_path / "link.txt", "new", "--out")
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "real.txt").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with atomic_write(tmp_path / "pipe") as there:
        there.write_text("through")
    assert os.read(reader, 100) == b"through" and (tmp_path / "pipe").is_fifo()
    os.close(reader)


def test_what_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HgfastError, match=r"cannot make the folder .*choose another with --json"):
        prepare_folder(tmp_path / "file" / "below", "--json")
    with pytest.raises(HgfastError, match=r"cannot write .*choose another place with --json"):
        write_text(tmp_path / "nowhere" / "a.json", "x", "--json")


def test_distinct_paths(tmp_path: Path) -> None:
    source, other = tmp_path / "net.pt", tmp_path / "b.json"
    source.touch()
    (tmp_path / "link.json").symlink_to(source)
    (tmp_path / "folder").symlink_to(tmp_path)
    for name in ("net.pt", "link.json", "folder/net.pt", "nowhere/../net.pt"):
        with pytest.raises(HgfastError, match=rf"--json .*{name} would overwrite the checkpoint: choose .* with --json"):
            check_distinct_paths([("the checkpoint", source)], {"--json": tmp_path / name})
    with pytest.raises(HgfastError, match=r"--json and --chart both name .*b.json: choose another file for one of them"):
        check_distinct_paths([], {"--json": other, "--chart": tmp_path / "folder/b.json"})
    check_distinct_paths([("the checkpoint", source), ("it again", source)], {"--json": other, "--chart": tmp_path / "c.json"})
    check_distinct_paths([("the points", Path("/dev/null"))], {"--json": Path("/dev/null"), "--chart": Path("/dev/null")})


def test_json_has_no_nan() -> None:
    value = {"a": [1.5, math.nan, {"b": -math.inf}], "c": (1, "NaN")}
    assert json.loads(to_json(value)) == {"a": [1.5, None, {"b": None}], "c": [1, "NaN"]}


# ---- locks, and what killed processes left ----

HOLD = """
import sys, time
from pathlib import Path
from hgfast.fileio.files import atomic_write, lock_folder, temporary_folder
folder = Path(sys.argv[1])
with lock_folder(folder, "--exp"), atomic_write(folder / "a.txt") as temp_path, temporary_folder() as other:
    temp_path.write_text("half")
    print(other, flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that has locked the folder `run` and writes a file in it, and its temporary folder."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_a_locked_folder_is_refused_until_its_process_has_died(
    tmp_path: Path, holder: tuple[subprocess.Popen[str], Path]
) -> None:
    process, _ = holder
    with pytest.raises(HgfastError, match=rf"run is in use by process {process.pid} on .*: wait .*choose another --exp"):
        lock_folder(tmp_path / "run", "--exp").__enter__()
    process.kill()
    process.wait()
    with lock_folder(tmp_path / "run", "--exp"):
        assert (tmp_path / "run/.lock").exists()
    assert not (tmp_path / "run/.lock").exists()


def test_only_leftovers_of_dead_processes_are_removed(tmp_path: Path, holder: tuple[subprocess.Popen[str], Path]) -> None:
    process, folder = holder
    (tmp_path / "run/.link.writing").symlink_to(tmp_path / "other")
    (tmp_path / "hgfast-not-ours").mkdir()
    remove_leftovers(tmp_path / "run")
    with temporary_folder():
        assert folder.is_dir() and len(list((tmp_path / "run").glob(".a.*.writing.txt"))) == 1
    process.kill()
    process.wait()
    write_text(tmp_path / "run/b.txt", "new", "--out")
    with temporary_folder():
        assert not folder.exists()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".link.writing", ".lock", "b.txt"}
    assert (tmp_path / "hgfast-not-ours").exists()


def test_a_new_folder_without_content_is_removed_with_its_lock(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for name in ("old", "new"):
        with lock_folder(tmp_path / name, "--exp"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_links_at_the_names_of_temporary_files_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda length: "0")
    (tmp_path / "victim").write_text("old")
    (tmp_path / ".a.0.writing.txt").symlink_to(tmp_path / "victim")
    (tmp_path / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(HgfastError, match="cannot write"):
        write_text(tmp_path / "a.txt", "new", "--out")
    with pytest.raises(HgfastError, match="cannot write"):
        lock_folder(tmp_path, "--exp").__enter__()
    assert (tmp_path / "victim").read_text() == "old"


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / ("é" * 120 + ".json"), "x", "--out")
