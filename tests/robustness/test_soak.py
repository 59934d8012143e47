"""A minute of the soak."""

from __future__ import annotations

from pathlib import Path

from tests.robustness.soak import COMMANDS, Options, soak


def test_commands_that_meet_signals_lose_nothing(tmp_path: Path) -> None:
    events = soak(Options(minutes=1), tmp_path)["events"]
    assert sum(events.values()) >= 4 and {event.split()[0] for event in events} <= set(COMMANDS)
