"""HgfastError, the error class for problems that a user can fix.

Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space left, quota exceeded, file size limit

MAX_MESSAGE_LENGTH = 900  # characters


class HgfastError(Exception):
    """Bad input or a missing dependency. The message is one sentence: what is wrong, where, and what to do.

    Messages are made printable, and those longer than `MAX_MESSAGE_LENGTH` are shortened in the middle.
    """

    def __init__(self, message: str) -> None:
        text = printable(message)
        super().__init__(text if len(text) <= MAX_MESSAGE_LENGTH else f"{text[: MAX_MESSAGE_LENGTH - 300]} … {text[-290:]}")


def printable(text: object) -> str:
    """Return a text, such as a file name, with escapes in place of line breaks, control sequences and bytes that are no text."""
    characters = str(text)
    if characters.isprintable():
        return characters
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in characters)


def one_line(error: object, limit: int = 300) -> str:
    """Return the text of an exception, or else its class, in one line of at most `limit` characters."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def print_warning(text: str) -> None:
    """Print a warning, which may contain names of files, to stderr."""
    print(f"warning: {printable(text)}", file=sys.stderr, flush=True)


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
