"""Atomic writing of files, locks of folders, checks of output paths, and JSON formatting."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import secrets
import shutil
import socket
import stat
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hgfast.errors import HgfastError, print_warning

LOCK_FILE = ".lock"
TEMP_FILE, TEMP_FOLDER = re.compile(r"\..*\.writing(\..*)?"), "hgfast-"
_cleaned_folders: set[Path] = set()


@contextmanager
def writing(path: Path, advice: str) -> Iterator[None]:
    """Turn an OSError inside the block into `HgfastError`, which says that `path` cannot be written and what to do."""
    try:
        yield
    except OSError as error:
        raise HgfastError(f"cannot write {path} ({error.strerror}): {advice}") from error


@contextmanager
def atomic_write(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which is renamed to `path` on success and removed on an exception.

    Symbolic links are followed; a path that is not a regular file (such as /dev/stdout) is written directly. The first call for a
    folder removes the temporary files that killed processes left there.

    durable: flush the file to the disk before it is renamed, so that even a power failure leaves the old or the new file.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        yield path
        return
    if path.parent not in _cleaned_folders:
        _cleaned_folders.add(path.parent)
        remove_leftovers(path.parent)
    temp_path = path.with_name(f".{path.stem[:40]}.{secrets.token_hex(4)}.writing{path.suffix[:40]}")
    lock = os.open(temp_path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with suppress(OSError):  # a file system without locks, where leftovers stay
            _try_lock(lock)
        yield temp_path
        if durable:
            with temp_path.open("rb") as file:
                os.fsync(file.fileno())
        temp_path.replace(path)
    except BaseException:
        temp_path.unlink(missing_ok=True)
        raise
    finally:
        os.close(lock)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file that can be made again, such as an image: atomically, but without waiting for the disk. Raises OSError."""
    with atomic_write(path, durable=False) as temp_path:
        temp_path.write_bytes(content)


# ---- locks, which end with the process that holds them ----


def _try_lock(descriptor: int) -> bool:
    """Lock an open file for this process, or return False if another one has locked it. Raises OSError without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def lock_folder(folder: Path, flag: str) -> Iterator[None]:
    """Create a folder and keep other processes from locking it inside the block; afterwards remove it if it is new and empty.

    Raises `HgfastError`, which names the flag to change, if another process has locked the folder, or it cannot be written.
    """
    is_new = not folder.exists()
    prepare_folder(folder, flag)
    path = folder / LOCK_FILE
    with writing(path, f"choose another folder with {flag}"):
        lock = _open_lock(path, flag)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
            if is_new:
                folder.rmdir()
        os.close(lock)


def _open_lock(path: Path, flag: str) -> int:
    """Create, open and lock a file. Raises `HgfastError` if another process has locked it."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            is_locked = _try_lock(lock)
        except OSError as error:
            print_warning(f"{path.parent} cannot be locked ({error.strerror}): start no other run in it")
            return lock
        if is_locked and _is_open_file(path, lock):  # else its last holder has removed it meanwhile
            os.ftruncate(lock, 0)
            os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return lock
        holder = os.pread(lock, 200, 0).decode(errors="replace") or "another process"
        os.close(lock)
        if not is_locked:
            raise HgfastError(f"{path.parent} is in use by {holder}: wait until that has ended, or choose another {flag}")


def _is_open_file(path: Path, descriptor: int) -> bool:
    """Return whether a path names the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder. Those of living processes are locked, and stay."""
    with suppress(OSError), os.scandir(folder) as entries:
        for path in [entry.path for entry in entries if TEMP_FILE.fullmatch(entry.name)]:
            if _is_abandoned(path):
                os.unlink(path)  # noqa: PTH108


def _is_abandoned(path: str) -> bool:
    """Return whether a file has no lock, although locks work here. A link is no file."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return _try_lock(lock)
    except OSError:
        return False
    finally:
        os.close(lock)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a new folder, which is removed at the end, and remove those that killed processes of this user left."""
    with os.scandir(tempfile.gettempdir()) as entries:
        for entry in [entry for entry in entries if entry.name.startswith(TEMP_FOLDER) and entry.is_dir(follow_symlinks=False)]:
            if entry.stat(follow_symlinks=False).st_uid == os.getuid() and _is_abandoned(f"{entry.path}/{LOCK_FILE}"):
                shutil.rmtree(entry.path, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=TEMP_FOLDER) as name:
        folder = Path(name)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
        try:
            with suppress(OSError):
                _try_lock(lock)
                (folder / "lock").rename(folder / LOCK_FILE)  # never visible without its lock
            yield folder
        finally:
            os.close(lock)


# ---- checks of output paths ----


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


# ---- text and JSON ----


def write_text(path: Path, text: str, flag: str) -> None:
    """Write a file atomically. Raises `HgfastError`, which names the flag to change."""
    with writing(path, f"choose another place with {flag}"), atomic_write(path) as temp_path:
        temp_path.write_text(text, "utf-8")


def read_text(path: Path) -> str:
    """Read a file, replacing bytes that are not UTF-8. Raises OSError, also for pipes and devices, which may never end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device", str(path))
    return path.read_text("utf-8", errors="replace")


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
