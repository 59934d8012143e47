"""The one error class for bad input, and how an entry point reports it.

What may enter: errors that a user can mend; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space, no quota, a limit on files: nothing that code could mend

LONGEST = 900  # letters of a sentence


class HgfastError(Exception):
    """Bad input or a missing piece. The message is one sentence: what is wrong, where, and what to do.

    Of a sentence that quotes something endless, the middle is left out.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence if len(sentence) <= LONGEST else f"{sentence[: LONGEST - 300]} … {sentence[-290:]}")


class Stopped(Exception):
    """A signal ended the work, after what was needed to go on had been saved."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


def fail(error: HgfastError) -> NoReturn:
    """Print one sentence to stderr and leave with exit code 2; under torchrun, also have it in torchrun's own last words."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        try:
            raise HgfastError(str(error)) from None  # without what led to it, of which torchrun would print every line
        except HgfastError as alone:
            get_error_handler().record_exception(alone)
    raise SystemExit(2)


@contextmanager
def finding_room() -> Iterator[None]:
    """A disk that is full under what is written within, be it what is printed, is a `HgfastError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise HgfastError(
            f"cannot write {error.filename or 'what is printed or written'} ({error.strerror}): free some space, and try again"
        ) from error


def run(main: Callable[[], object]) -> None:
    """Run an entry point: a `HgfastError` becomes one sentence on stderr and exit code 2, as a full disk does, Ctrl-C one and
    130, as other signals that are heard become 128 and their number.

    Nobody reading on, as after `| head`, ends it without a word and with 141, as it ends other commands.
    """
    try:
        with finding_room():
            main()
    except HgfastError as error:
        _give_up_unwritten()
        fail(error)
    except Stopped as stopped:
        if str(stopped):
            print(stopped, file=sys.stderr, flush=True)
        raise SystemExit(128 + stopped.number) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        raise SystemExit(130) from None
    except BrokenPipeError:
        _forget_stdout()
        raise SystemExit(141) from None


def _give_up_unwritten() -> None:
    """What still waits to be printed, and cannot be, is given up."""
    try:
        sys.stdout.flush()
    except OSError:
        _forget_stdout()


def _forget_stdout() -> None:
    """Or the interpreter would complain once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
