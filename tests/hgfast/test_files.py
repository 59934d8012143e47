"""Files are whole or not there, and nothing that is no file is replaced."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from hgfast.errors import HgfastError
from hgfast.files import complete, prepare_folder, to_json, write_text


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


def test_json_has_no_nan() -> None:
    value = {"a": [1.5, math.nan, {"b": -math.inf}], "c": (1, "NaN")}
    assert json.loads(to_json(value)) == {"a": [1.5, None, {"b": None}], "c": [1, "NaN"]}
