"""Atomic writing, output path checks and JSON."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from hgfast.errors import HgfastError
from hgfast.fileio.files import atomic_write, check_distinct_paths, prepare_folder, to_json, write_text


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
