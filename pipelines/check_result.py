"""What the file check found out, remembered in a file, and the samples that are left without its bad pictures.

The file is JSON: `bad` maps names to [size, mtime_ns, reason], null where there is no file, and `decoded` every file that went
through the decoder to [size, mtime_ns, width, height] or [size, mtime_ns, reason]. Names start from the folder that the data
are in, so that it may be moved together with its result; files elsewhere have absolute ones.
What may enter: this file, from either side. How pictures are checked is in `pipelines.check_pictures`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hgfast.config import DataChoice
from hgfast.errors import HgfastError
from hgfast.files import prepare_file, to_json, write_text
from pipelines.samples import Samples

NAME = "hgfast-check.json"
FORMAT = 1

State = tuple[int, int]
"""What changes when a file does: its size in bytes, and mtime in nanoseconds."""
Outcome = tuple[int, int] | str
"""What the decoder made of a file: the upright picture's width and height, or what is wrong with it."""


@dataclass
class Result:
    """What is remembered. Names of files as `names` has them.

    loader: what decoded. bad: name -> state and reason, whatever the reason is. decoded: name -> state and outcome, as lists.
    report: for people and other programs; nothing here reads it.
    """

    loader: str
    bad: dict[str, tuple[State | None, str]] = field(default_factory=dict)
    decoded: dict[str, list[Any]] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)

    def recall(self, name: str, state: State) -> Outcome | None:
        """What the decoder made of a file that has not changed since; None: not known."""
        match self.decoded.get(name):
            case [int(size), int(time), int(width), int(height)] if (size, time) == state:
                return width, height
            case [int(size), int(time), str(reason)] if (size, time) == state:
                return reason
        return None

    def remember(self, name: str, state: State, outcome: Outcome) -> None:
        self.decoded[name] = [*state, *([outcome] if isinstance(outcome, str) else outcome)]


def state_of(path: str | Path) -> State | None:
    """Size and time of a file, or of what a link leads to; None where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116  (a Path for each of 100 000 files takes longer than the question)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def data_folder(choice: DataChoice) -> Path:
    """Where names start from, and where the result lies if nothing else is said: the root, or what holds the pictures' folder."""
    if choice.data is not None:
        return choice.data
    beside = choice.images or choice.annotations
    return Path() if beside is None else Path(os.path.abspath(beside)).parent  # noqa: PTH100  (links stay)


def result_file(choice: DataChoice) -> Path:
    return choice.checked or data_folder(choice) / NAME


def names(paths: Sequence[str], folder: Path) -> list[str]:
    """What files are called in the result, given the data folder."""
    root = os.path.join(os.path.abspath(folder), "")  # noqa: PTH100, PTH118
    return [os.path.abspath(path).removeprefix(root) for path in paths]  # noqa: PTH100


def read_result(path: Path) -> Result:
    """Raises `HgfastError` for a file that is missing, broken or something else."""
    try:
        content: Any = json.loads(path.read_bytes())
        if not isinstance(content, dict) or content.get("hgfast_check") != FORMAT:
            raise HgfastError(_broken(path, f"it has no 'hgfast_check': {FORMAT}"))
        bad = {
            name: (None if size is None else (int(size), int(time)), str(why))
            for name, (size, time, why) in content["bad"].items()
        }
        return Result(str(content["loader"]), bad, dict(content["decoded"]), dict(content["report"]))
    except FileNotFoundError as error:
        raise HgfastError(
            f"there is no result of a file check {path}: run pipelines/check.py with the same flags, or leave out --checked"
        ) from error
    except OSError as error:
        raise HgfastError(f"the result of the file check {path} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise HgfastError(_broken(path, " ".join(str(error).split())[:80] or type(error).__name__)) from error


def _broken(path: Path, why: str) -> str:
    return f"{path} is no result of pipelines/check.py, or a broken one ({why}): delete it, or run the check again"


def write_result(result: Result, path: Path) -> None:
    """Write atomically, bad files one a line. Raises `HgfastError` where the folder cannot be written."""
    bad = {name: [*(state or (None, None)), reason] for name, (state, reason) in result.bad.items()}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(bad.items()))
    text = (
        f'{{"hgfast_check": {FORMAT},\n "loader": {json.dumps(result.loader)},\n "report": {to_json(result.report)},\n'
        f' "bad": {{\n{lines}\n }},\n "decoded": {json.dumps(result.decoded, separators=(",", ":"))}}}\n'
    )
    write_text(path, text, "--checked")


def check_writable(path: Path) -> None:
    """Raises `HgfastError` where a result could not be written, before there is one."""
    prepare_file(path, "--checked")


def without_bad(samples: Samples, choice: DataChoice) -> Samples:
    """The samples but for those whose picture the file check called bad and which is still what it was then.

    They are counted in `unreadable`. Where nothing was checked, the samples are as they were.

    Raises:
        HgfastError: a result that cannot be read, or that --checked names and is not there; no sample left.
    """
    path = result_file(choice)
    if choice.checked is None and not path.exists():
        return samples
    folder = os.path.abspath(data_folder(choice))  # noqa: PTH100
    bad = {os.path.join(folder, name): state for name, (state, _) in read_result(path).bad.items()}  # noqa: PTH118
    endings = {os.path.basename(name) for name in bad}  # noqa: PTH119
    keep = np.ones(len(samples), bool)
    for row, picture in enumerate(samples.paths.tolist()):
        if picture.rpartition("/")[2] in endings:
            whole = os.path.abspath(picture)  # noqa: PTH100
            keep[row] = whole not in bad or state_of(whole) != bad[whole]
    if keep.all():
        return samples
    if not keep.any():
        raise HgfastError(f"none of the {len(samples)} pictures can be used, says the file check in {path}: replace them")
    return replace(samples.take(keep), unreadable=samples.unreadable + int((~keep).sum()))
