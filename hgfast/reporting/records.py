"""Find and read the JSON files of a run: evaluations, benchmark records, sidecars of exported networks.

Files are classified by their content, not by their names.
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

from hgfast.errors import HgfastError
from hgfast.runtime import sidecar
from hgfast.runtime.sidecar import Sidecar, sha256_of

MAX_JSON_BYTES = 64 << 20  # larger JSON files are ignored
RECORD_KEYS: dict[str, type] = {"machine": dict, "versions": dict, "revision": str, "command": str, "date": str, "rows": list}
"""Keys of a benchmark record and their types."""
EVALUATION_KEYS: dict[str, type] = {"checkpoint": str, "dataset": str, "split": str, "rows": list, "joints": list}
SIDECAR_KEYS: dict[str, type] = {"artefact": str, "sha256": str, "kind": str, "checkpoint_sha256": str}
MODEL_SUFFIXES = (".pt", ".onnx", ".torchscript", ".engine", ".pth", ".tar")
Content = dict[str, Any]


@dataclass(frozen=True)
class JsonFile:
    """A file and its content. warning: a sentence about its validity, or empty."""

    path: Path
    content: Content
    warning: str = ""


@dataclass(frozen=True)
class ExportedModel:
    """An exported network. from_this_run: whether its checkpoint is in the run's folder now."""

    path: Path
    sidecar: Sidecar
    num_bytes: int
    from_this_run: bool


@dataclass
class RunContents:
    """The files in a run's folder and those named by --records; evaluations from newest to oldest."""

    evaluations: list[JsonFile] = field(default_factory=list)
    records: list[JsonFile] = field(default_factory=list)
    exports: list[ExportedModel] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class RecordFinder:
    """Finds the files that belong to the run in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.contents = folder, RunContents()
        self._seen = set[Path]()

    def find(self, paths: Sequence[Path]) -> RunContents:
        """Return the files in the folder and in `paths`.

        Raises:
            HgfastError: one of `paths` does not exist or is not one of the three kinds.
        """
        for path in paths:
            if not path.exists():
                raise HgfastError(f"there is no {path}: --records takes JSON files of bench/ and export/, or folders with them")
            if path.is_dir():
                if not [*map(self._classify, find_json_files(path))].count(True):
                    raise HgfastError(
                        f"{path} has no record of bench/ and no sidecar of export/: choose another folder for --records"
                    )
            elif path.resolve() not in self._seen and not self._classify(path):
                default_reason = f"{path} is neither a record of bench/ nor a sidecar of export/"
                reason = self.contents.notes[-1].rstrip(".") if self.contents.notes else default_reason
                raise HgfastError(f"{reason}: remove it from --records")
        for path in find_json_files(self.folder):
            self._classify(path)
        self.contents.evaluations.sort(key=lambda file: -file.path.stat().st_mtime)
        return self.contents

    def _classify(self, path: Path) -> bool:
        """Add a file if it is of one of the three kinds and new. Returns whether it was added."""
        if path.resolve() in self._seen:
            return False
        content = self._read(path)
        if content is None:
            return False
        if has_keys(content, RECORD_KEYS) and all(isinstance(row, dict) for row in content["rows"]):
            self.contents.records.append(JsonFile(path, content, self._record_warning(content)))
        elif has_keys(content, EVALUATION_KEYS) and all(isinstance(row, dict) for row in content["rows"] + content["joints"]):
            self.contents.evaluations.append(JsonFile(path, content, self._evaluation_warning(path, content)))
        elif not (has_keys(content, SIDECAR_KEYS) and self._add_export(path, content)):
            return False
        self._seen.add(path.resolve())
        return True

    def _read(self, path: Path) -> Content | None:
        """Return a file's content, or None if it is not a JSON object."""
        try:
            if path.stat().st_size > MAX_JSON_BYTES:
                return None
            content = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:120]
            self.contents.notes.append(f"{path} cannot be read as JSON ({reason}) and is omitted.")
            return None
        return content if isinstance(content, dict) else None

    def _add_export(self, path: Path, content: Content) -> bool:
        """Add the artifact that a sidecar describes. Returns whether it was added."""
        artifact = path.with_suffix("")
        try:
            description = sidecar.read_sidecar(artifact)
        except HgfastError as error:
            self.contents.notes.append(f"{error}.")
            return False
        from_this_run = description.checkpoint_sha256 in self._checksums
        self.contents.exports.append(ExportedModel(artifact, description, artifact.stat().st_size, from_this_run))
        return True

    @cached_property
    def _checksums(self) -> set[str]:
        """sha256 of each checkpoint in the folder."""
        return {sha256_of(path) for path in self.folder.glob("*.pt") if path.is_file()}

    def _record_warning(self, record: Content) -> str:
        """A warning if a record is not of this run's network, else an empty string."""
        networks = [Path(arg) for arg in command_words(record) if arg.endswith(MODEL_SUFFIXES)]
        if any(self._is_from_this_run(path) for path in networks):
            return ""
        if networks:
            return f"Its command names {', '.join(map(str, networks[:3]))}, not a checkpoint of this run."
        return "Its command names no checkpoint, so it is not of this run's weights."

    def _is_from_this_run(self, path: Path) -> bool:
        """Whether a file is in this run's folder, is a copy of one of its checkpoints, or was exported from one."""
        try:
            if path.resolve().is_relative_to(self.folder.resolve()):
                return True
            if path.suffix == ".pt" and path.is_file() and sha256_of(path) in self._checksums:  # the same file elsewhere
                return True
            sidecar_file = sidecar.sidecar_path(path)
            content = self._read(sidecar_file) if sidecar_file.is_file() else None
        except (OSError, ValueError):  # not a valid path
            return False
        return content is not None and content.get("checkpoint_sha256") in self._checksums

    def _evaluation_warning(self, path: Path, content: Content) -> str:
        """A warning if an evaluation is not of this run's current network, else an empty string."""
        checkpoint = Path(content["checkpoint"])
        run_checkpoint = self.folder / checkpoint.name
        if checkpoint.parent.name != self.folder.resolve().name:  # relative to whichever working directory
            return f"It is of {checkpoint}, not of this run's folder."
        if run_checkpoint in self.folder.glob("*.pt") and run_checkpoint.stat().st_mtime > path.stat().st_mtime:
            return f"{run_checkpoint.name} has been written since then: evaluate again."
        return ""


def find_json_files(folder: Path) -> Iterator[Path]:
    """Yield the JSON files in a folder and its subfolders, by name."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(parent) / name for name in sorted(files) if name.endswith(".json"))


def has_keys(content: Content, types: Mapping[str, type]) -> bool:
    """Whether it has all of these keys with values of these types."""
    return all(isinstance(content.get(name), expected_type) for name, expected_type in types.items())


def command_words(record: Mapping[str, Any]) -> list[str]:
    """Split a record's commands into words, including those in [a,b] and --flag=value; add its list of checkpoints."""
    more_commands, checkpoints = record.get("commands"), record.get("checkpoints")
    commands = [record["command"], *(more_commands.values() if isinstance(more_commands, dict) else [])]
    args = list[str]()
    for command in commands:
        try:
            args += shlex.split(str(command))
        except ValueError:
            args += str(command).split()
    args = [part for arg in args for part in re.split(r"[\[\],=]", arg) if part]
    return args + [str(path) for path in (checkpoints if isinstance(checkpoints, list) else [])]
