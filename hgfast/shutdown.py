"""Signals that end a program: SIGINT (Ctrl-C), SIGTERM, and SIGHUP, which a closed terminal or a lost ssh connection sends.

A signal that was ignored when the program started stays ignored, as under nohup.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECOND_SIGNAL_DELAY = 5.0  # seconds after which another signal interrupts at once; torchrun delivers the first one twice
RESEND_DELAY = 0.05  # seconds after which a signal whose exception was ignored is sent again


class SignalReceived(SystemExit):
    """A signal ends the program with exit code 128 + its number; the message is for the user, or empty."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(128 + number)
        self.signum, self.message = number, message

    def __str__(self) -> str:
        return self.message


class GracefulShutdown:
    """Records signals; `signal_received` is the number of the first one, or 0."""

    _raised = 0
    """The signal that `raise_signals` of this process has raised inside its block, or 0: a library may have swallowed it."""

    def __init__(self) -> None:
        self.signal_received = 0
        self._received_at = 0.0

    @contextmanager
    def catch_signals(self) -> Iterator[GracefulShutdown]:
        """Record signals inside the block instead of ending the process."""
        self.signal_received, self._received_at = GracefulShutdown._raised, time.monotonic()
        with _handle_signals(self._record):
            yield self

    @contextmanager
    def raise_signals(self) -> Iterator[GracefulShutdown]:
        """Raise `SignalReceived`, or KeyboardInterrupt for SIGINT, inside the block, so that open resources are cleaned up.

        Further SIGTERM and SIGHUP within `SECOND_SIGNAL_DELAY` do not raise: they must not interrupt the cleanup. Python ignores
        what is raised in a finalizer or a weak reference's callback, such as those of imports: the signal is then sent again.
        """
        previous_hook = sys.unraisablehook

        def send_again(ignored: sys.UnraisableHookArgs) -> None:
            if not issubclass(ignored.exc_type, (SignalReceived, KeyboardInterrupt)):
                previous_hook(ignored)
                return
            self._received_at = -math.inf
            resend = threading.Timer(RESEND_DELAY, os.kill, (os.getpid(), self.signal_received))
            resend.daemon = True
            resend.start()

        sys.unraisablehook = send_again
        try:
            with _handle_signals(self._raise):
                yield self
        finally:
            sys.unraisablehook, GracefulShutdown._raised = previous_hook, 0

    def _record(self, number: int, frame: FrameType | None) -> None:
        is_late = time.monotonic() - self._received_at > SECOND_SIGNAL_DELAY
        if self.signal_received and number == signal.SIGINT and is_late:
            raise KeyboardInterrupt
        if not self.signal_received:
            self.signal_received, self._received_at = number, time.monotonic()

    def _raise(self, number: int, frame: FrameType | None) -> None:
        is_late = time.monotonic() - self._received_at > SECOND_SIGNAL_DELAY
        raises = number == signal.SIGINT or not self.signal_received or is_late
        self.signal_received, self._received_at = self.signal_received or number, time.monotonic()
        GracefulShutdown._raised = self.signal_received
        if raises:
            raise KeyboardInterrupt if number == signal.SIGINT else SignalReceived(number)


def ignore_sigterm() -> None:
    """Ignore SIGTERM under torchrun, which sends it to all ranks once one has failed, so that this rank can report its error."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def _handle_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Install a handler of `STOP_SIGNALS` inside the block, except of ignored ones. Does nothing outside the main thread, where
    Python allows no handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [signum for signum in STOP_SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]
    previous_handlers = {signum: signal.signal(signum, handler) for signum in handled}
    try:
        yield
    finally:
        for signum, previous_handler in previous_handlers.items():
            signal.signal(signum, previous_handler)
