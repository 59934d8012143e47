"""How every command starts and ends: standard streams, signals, and errors as one sentence with an exit code."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, NoReturn

from hgfast.errors import HgfastError, one_line, report_full_disk
from hgfast.shutdown import GracefulShutdown, SignalReceived

EXTRAS = {"train": ("torch", "nvidia", "h5py", "scipy", "tabulate"), "export": ("onnx", "onnxruntime", "onnxscript")}
"""Packages that a plain installation lacks, by the extra of `pip install 'hgfast[EXTRA]'` that brings them."""
OUT_OF_MEMORY = re.compile(
    r"out of memory|(not enough|insufficient) memory|failed to (map segment|allocate)|bad_?alloc|"
    r"can(no|')t (allocate|start new thread)",
    re.IGNORECASE,
)
"""How libraries, and the dynamic linker, say that memory cannot be allocated."""


def run_main(main: Callable[[], object]) -> None:
    """Run an entry point and turn the errors that users can fix into one sentence on stderr and an exit code.

    The exit code is 2 for `HgfastError`, files that cannot be read or written, a missing package and too little memory, 128 + N
    for a signal N, and 141, without a message, for a closed pipe (`| head`). Other exceptions are bugs and keep their traceback.
    """
    _prepare_streams()
    with GracefulShutdown().raise_signals() as shutdown:
        try:
            with report_full_disk(), _report_files(), _report_missing_package(), _report_memory():
                _check_current_folder()
                try:
                    main()
                except SystemExit:
                    sys.stdout.flush()
                    raise
                sys.stdout.flush()
                if shutdown.signal_received not in (0, signal.SIGINT):  # a library has ended because of the signal
                    raise SignalReceived(shutdown.signal_received)
        except HgfastError as error:
            _exit_with_error(error)
        except SignalReceived as received:
            _exit_by_signal(received.signum, received.message)
        except KeyboardInterrupt:
            _exit_by_signal(signal.SIGINT, "interrupted")
        except BrokenPipeError:
            _discard(sys.stdout)
            raise SystemExit(141) from None
        except Exception:
            if not shutdown.signal_received:
                raise
            # compiled code has turned the signal's exception into another one
            _exit_by_signal(shutdown.signal_received, "interrupted")


def _exit_by_signal(signum: int, message: str) -> NoReturn:
    """Print the message, if any, to stderr and exit with code 128 + N."""
    _print_last(message)
    raise SystemExit(128 + signum) from None


def _exit_with_error(error: HgfastError) -> NoReturn:
    """Print the message to stderr and exit with code 2; under torchrun, also record it for torchrun's failure report."""
    _print_last(f"error: {error}")
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        try:
            raise HgfastError(str(error)) from None  # without its causes, whose tracebacks torchrun would print
        except HgfastError as bare_error:
            get_error_handler().record_exception(bare_error)
    raise SystemExit(2)


def _check_current_folder() -> None:
    """Raise `HgfastError` if the current folder was removed: libraries then end the process with messages that mislead."""
    try:
        os.getcwd()  # noqa: PTH109
    except OSError as error:
        raise HgfastError(f"the current folder cannot be used ({error.strerror}): change to another one") from error


@contextmanager
def _report_files() -> Iterator[None]:
    """Turn an error of the operating system that names a file into `HgfastError`."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is None:
            raise
        path = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
        raise HgfastError(f"cannot use {path} ({error.strerror}): check the path and its permissions") from error


@contextmanager
def _report_missing_package() -> Iterator[None]:
    """Turn a failed import of a package in `EXTRAS` into `HgfastError`."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        for extra, packages in EXTRAS.items():
            if package in packages:
                raise HgfastError(f"this needs {package}, which is not installed: pip install 'hgfast[{extra}]'") from error
        raise


@contextmanager
def _report_memory() -> Iterator[None]:
    """Turn the errors of Python and of libraries that say that memory cannot be allocated into `HgfastError`."""
    try:
        yield
    except HgfastError:
        raise
    except Exception as error:
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        raise HgfastError(
            f"there is not enough memory ({one_line(error)}): free some, or use smaller batches or inputs"
        ) from error


# ---- standard streams ----


def _prepare_streams() -> None:
    """Let closed streams lead nowhere: the next file that is opened would take their place. Escape what cannot be encoded."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # takes the lowest free number
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class _PersistentStream:
    """A stream that discards its output once its reader has gone: a pipe's other end, or the terminal."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._discard_if_closed():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._discard_if_closed():
            self._stream.flush()

    @contextmanager
    def _discard_if_closed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            _discard(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def ignore_closed_output() -> Iterator[None]:
    """Discard what is printed inside the block once the reader of stdout or stderr has ended, such as `| tee`."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_PersistentStream(stream) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


def _print_last(message: str) -> None:
    """Print the message to stderr, if any, and flush both streams, as far as they can be written."""
    for stream, text in ((sys.stdout, ""), (sys.stderr, message and f"{message}\n")):
        try:
            stream.write(text)
            stream.flush()
        except OSError:
            _discard(stream)


def _discard(stream: IO[str]) -> None:
    """Redirect a stream to the null device: the interpreter's flush at exit would raise again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
