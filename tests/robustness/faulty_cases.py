"""Cases that crash, hang, exhaust memory or raise, to test the resource monitor; the module imports fast."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from hgfast.errors import HgfastError
from tests.robustness.resource_monitor import outcome_of

NOT_A_SENTENCE, SENTENCE = "wrong", "this is wrong: do that"


def start() -> Callable[[int], str]:
    return run_case


def run_case(number: int) -> str:
    if number == 1:
        os.abort()
    if number == 2:
        time.sleep(60)
    if number == 3:
        _ = b"x" * (2300 << 20)
    if number == 4:
        raise KeyError("name")
    return outcome_of(lambda: fail(NOT_A_SENTENCE if number == 5 else SENTENCE)) if number in (5, 6) else "answered"


def fail(text: str) -> None:
    raise HgfastError(text)
