"""The one error class for bad input, and how an entry point reports it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn


class HgfastError(Exception):
    """Bad input or a missing piece. The message is one sentence: what is wrong, where, and what to do."""


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

        get_error_handler().record_exception(error)
    raise SystemExit(2)


def run(main: Callable[[], object]) -> None:
    """Run an entry point: a `HgfastError` becomes one sentence on stderr and exit code 2, Ctrl-C one and 130, as other signals
    that are heard become 128 and their number.

    Nobody reading on, as after `| head`, ends it without a word and with 141, as it ends other commands.
    """
    try:
        main()
    except HgfastError as error:
        fail(error)
    except Stopped as stopped:
        if str(stopped):
            print(stopped, file=sys.stderr, flush=True)
        raise SystemExit(128 + stopped.number) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter would complain once more
        raise SystemExit(141) from None
