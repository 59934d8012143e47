"""What several tests need: drawn hands, the real pictures where they lie beside the checkout, and a way to run a command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

from hgfast.errors import run
from hgfast.machine import cpu_features
from pipelines.synthetic import draw_freihand, draw_mpii

hypothesis.settings.register_profile("few", max_examples=20, deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("many", max_examples=2000, deadline=None, print_blob=True)
hypothesis.settings.load_profile("few")  # --hypothesis-profile many: a hundred times as many, others each time

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
HANDS = 48
TIMEOUT = 1200
"""Seconds after which a child process counts as hung. Generous, as machines are shared and slow ones exist."""

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Refusal = Callable[..., str]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need bf16 in hardware on CPUs without it, where emulation takes minutes."""
    if item.get_closest_marker("bf16") and not cpu_features().bf16:
        pytest.skip(f"this CPU has no bf16 in hardware ({cpu_features().isa})")


@pytest.fixture(autouse=True)
def same_numbers(request: pytest.FixtureRequest) -> None:
    """A module's RNG begins anew for every test, whichever ran before."""
    generator = getattr(request.module, "RNG", None)
    if generator is not None:
        bits = generator.bit_generator
        bits.state = type(bits)(bits.seed_seq).state


@pytest.fixture(scope="session")
def hands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of `HANDS` synthetic hands in FreiHAND's layout."""
    out = tmp_path_factory.mktemp("hands") / "FreiHAND"
    draw_freihand(out, HANDS, seed=5, workers=1, progress=False)
    return out


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of synthetic people in MPII's layout: 30 pictures for training, 10 for validation."""
    out = tmp_path_factory.mktemp("people") / "MPII"
    draw_mpii(out, 30, seed=4, valid=10, workers=1, progress=False)
    return out


@pytest.fixture
def real_freihand() -> Path:
    """Eight real FreiHAND pictures in the official layout."""
    return beside("fixtures/FreiHAND_pub_v2_mini")


def beside(name: str) -> Path:
    """Research-licensed or foreign files that lie beside the checkout, or a skip."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"research data {name} is not on this machine")
    return path


@pytest.fixture
def command() -> Command:
    """Run a script of the project in a process of its own, on one thread."""

    def run(*words: object, ranks: int = 0, restarts: int = 0) -> subprocess.CompletedProcess[str]:
        launcher = [sys.executable]
        if ranks:
            launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
            launcher += ["--max-restarts", str(restarts)]
        return subprocess.run(
            [*launcher, *map(str, words)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )

    return run


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """The one sentence with which an entry point's `main` refuses flags, here and not in a process of its own."""

    def refuse(main: Callable[[], None], *words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["script.py", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            run(main)
        said = capsys.readouterr().err
        assert end.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1, said
        return said

    return refuse
