"""SIGTERM and SIGINT (Ctrl-C) as wishes: the loop ends its step, saves, and leaves with a message.

What may enter: noticing signals. What is done about them is for the loop to say.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hgfast.errors import Stopped

PATIENCE = 5.0  # seconds after which another Ctrl-C is meant literally; torchrun passes the first one on a second time


class Wishes:
    """`asked` is the number of the first signal that came, or 0."""

    def __init__(self) -> None:
        self.asked = 0
        self._when = 0.0

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.asked and number == signal.SIGINT and now - self._when > PATIENCE:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self._when = number, now

    @contextmanager
    def heard(self) -> Iterator[Wishes]:
        """Within, signals are noted instead of ending the process. Outside the main thread, where Python allows no
        handlers, nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def outlast_torchrun() -> None:
    """Under torchrun, which ends all ranks with SIGTERM as soon as one has failed: for a rank that is about to end by itself,
    so that it comes to say why."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def raising() -> Iterator[None]:
    """Within, SIGTERM raises `Stopped`, so that what is open is cleaned up; outside the main thread nothing changes."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number, "")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
