"""Atomic writing of files, checks of output paths, and JSON formatting."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hgfast.errors import HgfastError


@contextmanager
def writing(path: Path, advice: str) -> Iterator[None]:
    """Turn an OSError inside the block into `HgfastError`, which says that `path` cannot be written and what to do."""
    try:
        yield
    except OSError as error:
        raise HgfastError(f"cannot write {path} ({error.strerror}): {advice}") from error


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it is flushed and renamed to `path` on success, and removed on an exception.

    Symbolic links are followed; a path that is not a regular file (such as /dev/stdout) is written directly.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        yield path
        return
    temp_path = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        yield temp_path
        with temp_path.open("rb") as file:
            os.fsync(file.fileno())
        temp_path.replace(path)
    except BaseException:
        temp_path.unlink(missing_ok=True)
        raise


def prepare_folder(folder: Path, flag: str) -> None:
    """Create a folder and check that it is writable. Raises `HgfastError`, which names the flag to change."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HgfastError(f"cannot make the folder {folder} ({error.strerror}): choose another with {flag}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise HgfastError(f"cannot write to {folder}: choose another folder with {flag}")


def prepare_file(path: Path, flag: str) -> None:
    """Create a file's folder and check that the file can be written. Raises `HgfastError`, which names the flag to change."""
    prepare_folder(path.parent, flag)
    if path.is_dir():
        raise HgfastError(f"cannot write {path}, which is a folder: name a file in it with {flag}")


def check_distinct_paths(inputs: Iterable[tuple[str, Path]], outputs: Mapping[str, Path]) -> None:
    """Raise `HgfastError` if an output is an input or another output, also through links. Devices and pipes may be both.

    inputs: description, such as "the checkpoint", and path. outputs: path by flag, such as "--json".
    """
    input_names = {path.resolve(): description for description, path in inputs}
    output_flags: dict[Path, str] = {}
    for flag, path in outputs.items():
        resolved = path.resolve()
        if resolved.exists() and not resolved.is_file():
            continue
        if resolved in input_names:
            raise HgfastError(f"{flag} {path} would overwrite {input_names[resolved]}: choose another file with {flag}")
        if resolved in output_flags:
            raise HgfastError(f"{output_flags[resolved]} and {flag} both name {path}: choose another file for one of them")
        output_flags[resolved] = flag


def write_text(path: Path, text: str, flag: str) -> None:
    """Write a file atomically. Raises `HgfastError`, which names the flag to change."""
    with writing(path, f"choose another place with {flag}"), atomic_write(path) as temp_path:
        temp_path.write_text(text)


def replace_non_finite(value: Any) -> Any:
    """Replace numbers that are not finite, which JSON cannot represent, by None."""
    if isinstance(value, dict):
        return {key: replace_non_finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [replace_non_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any, indent: int | None = None) -> str:
    """Format a value as standard JSON; numbers that are not finite become null."""
    return json.dumps(replace_non_finite(value), indent=indent, allow_nan=False)


def format_json(content: Mapping[str, Any], expand: Collection[str]) -> str:
    """Format readable JSON with a line for each key, and for each item of the lists named in `expand`."""
    entries = []
    for key, value in content.items():
        text = to_json(value)
        if key in expand and value:
            text = "[\n" + ",\n".join(f"  {to_json(item)}" for item in value) + "\n ]"
        entries.append(f" {to_json(key)}: {text}")
    return "{\n" + ",\n".join(entries) + "\n}\n"
