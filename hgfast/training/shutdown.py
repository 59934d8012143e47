"""Graceful shutdown on SIGTERM and SIGINT (Ctrl-C): the training loop finishes its step, saves a checkpoint and ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from hgfast.errors import SignalReceived

SECOND_SIGINT_DELAY = 5.0  # seconds after which a second Ctrl-C interrupts at once; torchrun delivers the first one twice


class GracefulShutdown:
    """Records signals; `signal_received` is the number of the first one, or 0."""

    def __init__(self) -> None:
        self.signal_received = 0
        self._received_at = 0.0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal_received and number == signal.SIGINT and now - self._received_at > SECOND_SIGINT_DELAY:
            raise KeyboardInterrupt
        if not self.signal_received:
            self.signal_received, self._received_at = number, now

    @contextmanager
    def catch_signals(self) -> Iterator[GracefulShutdown]:
        """Record signals inside the block instead of ending the process."""
        with _handle_signals(self._handle, signal.SIGTERM, signal.SIGINT):
            yield self


def ignore_sigterm() -> None:
    """Ignore SIGTERM under torchrun, which sends it to all ranks once one has failed, so that this rank can report its error."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Raise `SignalReceived` on SIGTERM inside the block, so that open resources are cleaned up."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise SignalReceived(signum, "")

    with _handle_signals(stop, signal.SIGTERM):
        yield


@contextmanager
def _handle_signals(handler: Callable[[int, FrameType | None], None], *signums: int) -> Iterator[None]:
    """Install a signal handler inside the block. Does nothing outside the main thread, where Python allows no handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous_handlers = {signum: signal.signal(signum, handler) for signum in signums}
    try:
        yield
    finally:
        for signum, previous_handler in previous_handlers.items():
            signal.signal(signum, previous_handler)
