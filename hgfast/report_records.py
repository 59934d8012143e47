"""JSON files that belong to a run: evaluations, records of benchmarks, sidecars of exported networks. They are told apart by
what they hold, not by their names.

What may enter: finding and reading such files. Tables of them are made by `hgfast.report_tables`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hgfast import sidecar
from hgfast.errors import HgfastError
from hgfast.sidecar import Sidecar, checksum

LARGEST = 64 << 20  # bytes of a JSON file that is looked into
RECORD: dict[str, type] = {"machine": dict, "versions": dict, "revision": str, "command": str, "date": str, "rows": list}
"""What a record of bench/ has, and of which types."""
EVALUATION: dict[str, type] = {"checkpoint": str, "dataset": str, "split": str, "rows": list, "joints": list}
SIDECAR: dict[str, type] = {"artefact": str, "sha256": str, "kind": str, "checkpoint_sha256": str}
NETWORKS = (".pt", ".onnx", ".torchscript", ".engine", ".pth", ".tar")
Content = dict[str, Any]


@dataclass(frozen=True)
class Json:
    """A file and what is in it. note: what should be known before it is believed, or nothing."""

    path: Path
    content: Content
    note: str = ""


@dataclass(frozen=True)
class Export:
    """An exported network. own: was it made of a checkpoint that is in the run's folder now?"""

    path: Path
    sidecar: Sidecar
    bytes: int
    own: bool


@dataclass
class Found:
    """What lies in a run's folder and what was named besides; evaluations from the newest to the oldest."""

    evaluations: list[Json] = field(default_factory=list)
    records: list[Json] = field(default_factory=list)
    exports: list[Export] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Finder:
    """Looks for files that belong to the run in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.found = folder, Found()
        self._seen = set[Path]()

    def find(self, named: Sequence[Path]) -> Found:
        """Everything in the folder and in those that were named.

        Raises:
            HgfastError: something that was named is not there, or is not of the three kinds.
        """
        for path in named:
            if not path.exists():
                raise HgfastError(f"there is no {path}: --records names JSON files of bench/ and export/, or folders with them")
            if path.is_dir():
                if not [*map(self._take, jsons(path))].count(True):
                    raise HgfastError(
                        f"{path} has no record of bench/ and no sidecar of export/: name another folder with --records"
                    )
            elif path.resolve() not in self._seen and not self._take(path):
                neither = f"{path} is neither a record of bench/ nor a sidecar of export/"
                why = self.found.notes[-1].rstrip(".") if self.found.notes else neither
                raise HgfastError(f"{why}: leave it out of --records")
        for path in jsons(self.folder):
            self._take(path)
        self.found.evaluations.sort(key=lambda one: -one.path.stat().st_mtime)
        return self.found

    def _take(self, path: Path) -> bool:
        """Sort a file in, if it is of a kind that a report shows. A file is taken once."""
        if path.resolve() in self._seen:
            return False
        content = self._read(path)
        if content is None:
            return False
        if fits(content, RECORD) and all(isinstance(row, dict) for row in content["rows"]):
            self.found.records.append(Json(path, content, self._about_record(content)))
        elif fits(content, EVALUATION) and all(isinstance(row, dict) for row in content["rows"] + content["joints"]):
            self.found.evaluations.append(Json(path, content, self._about_evaluation(path, content)))
        elif not (fits(content, SIDECAR) and self._take_export(path, content)):
            return False
        self._seen.add(path.resolve())
        return True

    def _read(self, path: Path) -> Content | None:
        """A file's content where it is a JSON object."""
        try:
            if path.stat().st_size > LARGEST:
                return None
            content = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:120]
            self.found.notes.append(f"{path} cannot be read as JSON ({reason}): left out.")
            return None
        return content if isinstance(content, dict) else None

    def _take_export(self, path: Path, content: Content) -> bool:
        """Sort in the artefact that a sidecar lies beside."""
        artefact = path.with_suffix("")
        try:
            about = sidecar.read(artefact)
        except HgfastError as error:
            self.found.notes.append(f"{error}.")
            return False
        own = about.checkpoint_sha256 in self._checksums
        self.found.exports.append(Export(artefact, about, artefact.stat().st_size, own))
        return True

    @cached_property
    def _checksums(self) -> set[str]:
        """Of the checkpoints in the folder."""
        return {checksum(path) for path in self.folder.glob("*.pt") if path.is_file()}

    def _about_record(self, record: Content) -> str:
        """Whether a record is of this run's network."""
        networks = [Path(word) for word in words_of(record) if word.endswith(NETWORKS)]
        if any(self._is_own(path) for path in networks):
            return ""
        if networks:
            return f"Its command names {', '.join(map(str, networks[:3]))}, not a checkpoint of this run."
        return "Its command names no checkpoint: it is not of this run's weights."

    def _is_own(self, path: Path) -> bool:
        """Is a file a network of this run: one in its folder, or an export of one that is?"""
        try:
            if path.resolve().is_relative_to(self.folder.resolve()):
                return True
            if path.suffix == ".pt" and path.is_file() and checksum(path) in self._checksums:  # the same file elsewhere
                return True
            beside = sidecar.place(path)
            content = self._read(beside) if beside.is_file() else None
        except (OSError, ValueError):  # words that no path can be
            return False
        return content is not None and content.get("checkpoint_sha256") in self._checksums

    def _about_evaluation(self, path: Path, content: Content) -> str:
        """Whether an evaluation is of this run's network as it is now."""
        checkpoint = Path(content["checkpoint"])
        own = self.folder / checkpoint.name
        if checkpoint.parent.name != self.folder.resolve().name:  # from whichever folder it was called
            return f"It is of {checkpoint}, not of this run's folder."
        if own in self.folder.glob("*.pt") and own.stat().st_mtime > path.stat().st_mtime:
            return f"{own.name} has been written since then: evaluate again."
        return ""


def jsons(folder: Path) -> Iterator[Path]:
    """The JSON files in a folder and those below, by name."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(parent) / name for name in sorted(files) if name.endswith(".json"))


def fits(content: Content, parts: Mapping[str, type]) -> bool:
    """Does it have all of these keys, with values of these types?"""
    return all(isinstance(content.get(name), kind) for name, kind in parts.items())


def words_of(record: Mapping[str, Any]) -> list[str]:
    """The words of a record's commands, also within [a,b] and --flag=value, and the checkpoints that it names."""
    several, checkpoints = record.get("commands"), record.get("checkpoints")
    commands = [record["command"], *(several.values() if isinstance(several, dict) else [])]
    words = list[str]()
    for command in commands:
        try:
            words += shlex.split(str(command))
        except ValueError:
            words += str(command).split()
    words = [part for word in words for part in re.split(r"[\[\],=]", word) if part]
    return words + [str(path) for path in (checkpoints if isinstance(checkpoints, list) else [])]
