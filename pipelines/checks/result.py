"""Settings and stored result of the file check, and the removal of its bad images from samples.

The file is JSON: `bad` maps names to [size, mtime_ns, reason], with null for a missing file's size and time; `decoded` maps every
file that the decoder has read to [size, mtime_ns, width, height] or [size, mtime_ns, reason]. Names are relative to the data
folder, so that the folder may be moved together with its result; files outside have absolute names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from hgfast.config import DataConfig
from hgfast.errors import HgfastError, one_line
from hgfast.fileio.files import to_json, write_text
from hgfast.pipelines.samples import Samples
from hgfast.validation import Range

FILE_NAME = "hgfast-check.json"
FORMAT = 1
OLD_LOADERS = {"torch": "opencv"}
"""Loader names in older files -> present names."""

FileStamp = tuple[int, int]
"""Size in bytes and modification time in nanoseconds of a file; used to detect changes."""
DecodeOutcome = tuple[int, int] | str
"""Width and height of the decoded, upright image, or the reason why it cannot be decoded."""


@dataclass(kw_only=True)
class CheckConfig(DataConfig):
    """Settings of one check of a data set's files."""

    loader: Literal["dali", "opencv"] = "dali"
    """decoder that training will use: NVIDIA DALI or OpenCV; an image is bad if this decoder cannot read it"""
    threads: Annotated[int | None, Range(ge=1)] = None
    """decoding threads; if not given, one per core"""
    again: bool = False
    """decode every image, including those that an earlier check decoded"""


@dataclass
class CheckRecord:
    """Content of the result file. File names are those of `relative_names`.

    loader: the decoder. bad: name -> stamp and reason, whatever the reason is. decoded: name -> stamp and outcome, as lists.
    report: for people and other programs; not read back.
    """

    loader: str
    bad: dict[str, tuple[FileStamp | None, str]] = field(default_factory=dict)
    decoded: dict[str, list[Any]] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)

    def lookup(self, name: str, state: FileStamp) -> DecodeOutcome | None:
        """Return the decode outcome of a file that has not changed since; None if unknown."""
        match self.decoded.get(name):
            case [int(size), int(time), int(width), int(height)] if (size, time) == state:
                return width, height
            case [int(size), int(time), str(reason)] if (size, time) == state:
                return reason
        return None

    def add(self, name: str, state: FileStamp, outcome: DecodeOutcome) -> None:
        self.decoded[name] = [*state, *([outcome] if isinstance(outcome, str) else outcome)]


def file_stamp(path: str | Path) -> FileStamp | None:
    """Return the stamp of a file or of a link's target; None if it does not exist."""
    try:
        status = os.stat(path)  # noqa: PTH116  (creating a Path for each of 100 000 files is slower than the call)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def data_folder(choice: DataConfig) -> Path:
    """Return the folder that names are relative to and that holds the result by default: the root, or that of the images."""
    if choice.data is not None:
        return choice.data
    sibling = choice.images or choice.annotations
    return Path() if sibling is None else Path(os.path.abspath(sibling)).parent  # noqa: PTH100  (links stay)


def result_file(choice: DataConfig) -> Path:
    return choice.checked or data_folder(choice) / FILE_NAME


def relative_names(paths: Sequence[str], folder: Path) -> list[str]:
    """Return the names of files in the result: relative to the data folder, or absolute if they lie outside."""
    root = os.path.join(os.path.abspath(folder), "")  # noqa: PTH100, PTH118
    return [os.path.abspath(path).removeprefix(root) for path in paths]  # noqa: PTH100


def read_result(path: Path) -> CheckRecord:
    """Read a result file. Raises `HgfastError` if it is missing, broken or of another kind."""
    try:
        content: Any = json.loads(path.read_bytes())
        if not isinstance(content, dict) or content.get("hgfast_check") != FORMAT:
            raise HgfastError(_format_error(path, f"it has no 'hgfast_check': {FORMAT}"))
        bad = {
            name: (None if size is None else (int(size), int(time)), str(reason))
            for name, (size, time, reason) in content["bad"].items()
        }
        loader = str(content["loader"])
        return CheckRecord(OLD_LOADERS.get(loader, loader), bad, dict(content["decoded"]), dict(content["report"]))
    except FileNotFoundError as error:
        raise HgfastError(
            f"the file check result {path} does not exist: run hgfast check with the same flags, or leave out --checked"
        ) from error
    except OSError as error:
        raise HgfastError(f"the file check result {path} cannot be read ({error.strerror}): check its permissions") from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise HgfastError(_format_error(path, one_line(error, 80))) from error


def _format_error(path: Path, reason: str) -> str:
    return f"{path} is no result of hgfast check, or a broken one ({reason}): delete it, or run the check again"


def write_result(result: CheckRecord, path: Path) -> None:
    """Write a result atomically, one bad file per line. Raises `HgfastError` if the folder is not writable."""
    bad = {name: [*(state or (None, None)), reason] for name, (state, reason) in result.bad.items()}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(bad.items()))
    text = (
        f'{{"hgfast_check": {FORMAT},\n "loader": {json.dumps(result.loader)},\n "report": {to_json(result.report)},\n'
        f' "bad": {{\n{lines}\n }},\n "decoded": {json.dumps(result.decoded, separators=(",", ":"))}}}\n'
    )
    write_text(path, text, "--checked")


def exclude_bad_images(samples: Samples, choice: DataConfig) -> Samples:
    """Return the samples without images that the file check found bad and that have not changed since.

    `unreadable` counts the excluded samples. Without a result of a check, all samples are returned.

    Raises:
        HgfastError: the result cannot be read, the file that --checked names is missing, or no sample is left.
    """
    path = result_file(choice)
    if choice.checked is None and not path.exists():
        return samples
    folder = os.path.abspath(data_folder(choice))  # noqa: PTH100
    bad = {os.path.join(folder, name): state for name, (state, _) in read_result(path).bad.items()}  # noqa: PTH118
    base_names = {os.path.basename(name) for name in bad}  # noqa: PTH119
    keep = np.ones(len(samples), bool)
    for row, image in enumerate(samples.paths.tolist()):
        if image.rpartition("/")[2] in base_names:
            absolute_path = os.path.abspath(image)  # noqa: PTH100
            keep[row] = absolute_path not in bad or file_stamp(absolute_path) != bad[absolute_path]
    if keep.all():
        return samples
    if not keep.any():
        raise HgfastError(f"none of the {len(samples)} images can be used according to the file check {path}: replace them")
    return replace(samples.take(keep), unreadable=samples.unreadable + int((~keep).sum()))
