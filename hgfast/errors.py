"""HgfastError, the error class for problems that a user can fix, and its reporting by entry points.

Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space left, quota exceeded, file size limit

MAX_MESSAGE_LENGTH = 900  # characters
EXTRAS = {"train": ("torch", "nvidia", "h5py", "scipy", "tabulate"), "export": ("onnx", "onnxruntime", "onnxscript")}
"""Packages that a plain installation lacks, by the extra of `pip install 'hgfast[EXTRA]'` that brings them."""


class HgfastError(Exception):
    """Bad input or a missing dependency. The message is one sentence: what is wrong, where, and what to do.

    Messages longer than `MAX_MESSAGE_LENGTH` are shortened in the middle.
    """

    def __init__(self, message: str) -> None:
        super().__init__(
            message if len(message) <= MAX_MESSAGE_LENGTH else f"{message[: MAX_MESSAGE_LENGTH - 300]} … {message[-290:]}"
        )


def one_line(error: object, limit: int = 300) -> str:
    """Return the text of an exception, or else its class, in one line of at most `limit` characters."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


class SignalReceived(Exception):
    """A signal ended the program after it saved its state."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.signum = number


def exit_with_error(error: HgfastError) -> NoReturn:
    """Print the message to stderr and exit with code 2; under torchrun, also record it for torchrun's failure report."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        try:
            raise HgfastError(str(error)) from None  # without its causes, whose tracebacks torchrun would print
        except HgfastError as bare_error:
            get_error_handler().record_exception(bare_error)
    raise SystemExit(2)


@contextmanager
def report_full_disk() -> Iterator[None]:
    """Turn a full-disk error inside the block into `HgfastError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL_ERRNOS:
            raise
        raise HgfastError(
            f"cannot write {error.filename or 'the output'} ({error.strerror}): free some space and try again"
        ) from error


@contextmanager
def report_missing_package() -> Iterator[None]:
    """Turn a failed import of a package in `EXTRAS` inside the block into `HgfastError`."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        for extra, packages in EXTRAS.items():
            if package in packages:
                raise HgfastError(f"this needs {package}, which is not installed: pip install 'hgfast[{extra}]'") from error
        raise


def run_main(main: Callable[[], object]) -> None:
    """Run an entry point and turn the errors that users can fix into one sentence on stderr and an exit code.

    The exit code is 2 for `HgfastError`, a full disk and a missing package, 128 + N for `SignalReceived` with signal N, 130 for
    Ctrl-C, and 141, without a message, for a closed pipe (`| head`).
    """
    try:
        with report_full_disk(), report_missing_package():
            main()
    except HgfastError as error:
        _flush_stdout()
        exit_with_error(error)
    except SignalReceived as received:
        if str(received):
            print(received, file=sys.stderr, flush=True)
        raise SystemExit(128 + received.signum) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        raise SystemExit(130) from None
    except BrokenPipeError:
        _discard_stdout()
        raise SystemExit(141) from None


def _flush_stdout() -> None:
    """Flush stdout, or discard its content if it cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        _discard_stdout()


def _discard_stdout() -> None:
    """Redirect stdout to the null device: the interpreter's flush at exit would raise again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
