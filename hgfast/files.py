"""Files that are whole or not there at all, and folders that can be written before the work begins.

What may enter: writing to disk safely, whatever the content.
"""

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
def complete(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which is flushed and becomes `path` once all went well, and is removed otherwise.

    A link stays one, and what is no file (/dev/stdout, say) is written to as it is.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        yield path
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def prepare_folder(folder: Path, flag: str) -> None:
    """Make a folder and see that it can be written. Raises `HgfastError`, with the flag that names another one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HgfastError(f"cannot make the folder {folder} ({error.strerror}): choose another with {flag}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise HgfastError(f"cannot write to {folder}: choose another folder with {flag}")


def prepare_file(path: Path, flag: str) -> None:
    """See that a file can be written, and make its folder. Raises `HgfastError`, with the flag that names another one."""
    prepare_folder(path.parent, flag)
    if path.is_dir():
        raise HgfastError(f"cannot write {path}, which is a folder: name a file in it with {flag}")


def check_apart(inputs: Iterable[tuple[str, Path]], outputs: Mapping[str, Path]) -> None:
    """See that no output is an input or another output, by whatever way its name leads there. Devices and pipes may be both.

    Args:
        inputs: what a file is that is read, such as "the checkpoint", and where it is.
        outputs: by flag, such as "--json".

    Raises:
        HgfastError: two of them are one file.
    """
    read = {path.resolve(): what for what, path in inputs}
    written: dict[Path, str] = {}
    for flag, path in outputs.items():
        place = path.resolve()
        if place.exists() and not place.is_file():
            continue
        if place in read:
            raise HgfastError(f"{flag} {path} would overwrite {read[place]}: choose another file with {flag}")
        if place in written:
            raise HgfastError(f"{written[place]} and {flag} both name {path}: choose another file for one of them")
        written[place] = flag


def write_text(path: Path, text: str, flag: str) -> None:
    """Write a whole file or none. Raises `HgfastError`, with the flag that names another one."""
    try:
        with complete(path) as beside:
            beside.write_text(text)
    except OSError as error:
        raise HgfastError(f"cannot write {path} ({error.strerror}): choose another place with {flag}") from error


def plain_json(value: Any) -> Any:
    """The same value with null for numbers that are not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {key: plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any, indent: int | None = None) -> str:
    """`value` as JSON that every reader takes."""
    return json.dumps(plain_json(value), indent=indent, allow_nan=False)


def one_a_line(content: Mapping[str, Any], lists: Collection[str]) -> str:
    """JSON that a person can read: a line for each key, and for each item of those of its `lists` that are not empty."""
    entries = []
    for key, value in content.items():
        text = to_json(value)
        if key in lists and value:
            text = "[\n" + ",\n".join(f"  {to_json(item)}" for item in value) + "\n ]"
        entries.append(f" {to_json(key)}: {text}")
    return "{\n" + ",\n".join(entries) + "\n}\n"
