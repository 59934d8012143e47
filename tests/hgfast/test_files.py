"""Files are whole or not there, and nothing that is no file is replaced."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from hgfast.errors import HgfastError
from hgfast.files import check_apart, complete, prepare_folder, to_json, write_text


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(KeyboardInterrupt), complete(file) as beside:
        beside.write_text("half")
        raise KeyboardInterrupt
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
    write_text(file, "new", "--out")
    assert file.read_text() == "new" and list(tmp_path.iterdir()) == [file]


def test_links_stay_links_and_pipes_pipes(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    write_text(tmp_path / "link.txt", "new", "--out")
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "real.txt").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with complete(tmp_path / "pipe") as there:
        there.write_text("through")
    assert os.read(reader, 100) == b"through" and (tmp_path / "pipe").is_fifo()
    os.close(reader)


def test_what_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HgfastError, match=r"cannot make the folder .*choose another with --json"):
        prepare_folder(tmp_path / "file" / "below", "--json")
    with pytest.raises(HgfastError, match=r"cannot write .*choose another place with --json"):
        write_text(tmp_path / "nowhere" / "a.json", "x", "--json")


def test_outputs_are_neither_inputs_nor_each_other(tmp_path: Path) -> None:
    source, other = tmp_path / "net.pt", tmp_path / "b.json"
    source.touch()
    (tmp_path / "link.json").symlink_to(source)
    (tmp_path / "folder").symlink_to(tmp_path)
    for name in ("net.pt", "link.json", "folder/net.pt", "nowhere/../net.pt"):
        with pytest.raises(HgfastError, match=rf"--json .*{name} would overwrite the checkpoint: choose .* with --json"):
            check_apart([("the checkpoint", source)], {"--json": tmp_path / name})
    with pytest.raises(HgfastError, match=r"--json and --chart both name .*b.json: choose another file for one of them"):
        check_apart([], {"--json": other, "--chart": tmp_path / "folder/b.json"})
    check_apart([("the checkpoint", source), ("it again", source)], {"--json": other, "--chart": tmp_path / "c.json"})
    check_apart([("the points", Path("/dev/null"))], {"--json": Path("/dev/null"), "--chart": Path("/dev/null")})


def test_json_has_no_nan() -> None:
    value = {"a": [1.5, math.nan, {"b": -math.inf}], "c": (1, "NaN")}
    assert json.loads(to_json(value)) == {"a": [1.5, None, {"b": None}], "c": [1, "NaN"]}
