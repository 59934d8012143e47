"""Tests of `long_run` and `usage`: a simulated leak is detected, and a short real run of two ranks has none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hgfast.visualization.draw import read_image
from tests.robustness.long_run import LIMITS, Measurement, fit_slopes, main
from tests.robustness.usage import Usage, measure_usage


def simulate(rise: dict[str, float], noise: float = 3000.0) -> list[Measurement]:
    """Simulate 2 000 steps in 100 s, 20 per epoch, with a warm-up and noise; `rise` is the leak per 1 000 steps by measure."""
    rng, measurements = np.random.default_rng(0), []
    for seconds in np.arange(0, 100, 0.5):
        step = 20 * seconds
        warm = 500_000 * min(1.0, 0.2 + step / 500)
        values = {name: warm if name.endswith("s_kb") else 50.0 for name in LIMITS}
        values["own_kb"] += noise * rng.standard_normal() + 40_000 * (rng.random() < 0.05)  # a checkpoint being written
        usage = {name: int(value + rise.get(name, 0.0) * step / 1000) for name, value in values.items()}
        measurements.append(Measurement(float(seconds), int(step // 20 * 20), Usage(processes=4, **usage)))
    return [*measurements, Measurement(100.0, 2000, Usage(0, 0, 0, 0, 0, 0))]


@pytest.mark.parametrize("measure", LIMITS)
def test_leak_is_detected_in_noise(measure: str) -> None:
    assert all(row["flat"] for row in fit_slopes(simulate({})))
    rows = {row["measure"]: row for row in fit_slopes(simulate({measure: 3 * LIMITS[measure]}))}
    assert [name for name, row in rows.items() if not row["flat"]] == [measure]
    row = rows[measure]
    assert row["rise"] == pytest.approx(3 * LIMITS[measure], rel=0.35)


def test_usage_of_a_process_tree() -> None:
    """Compare a process with a child, 64 MB and ten open files with the same process without memory and files."""
    script = (
        "import subprocess, sys\nheld = b'x' * int(sys.argv[1])\n"
        "files = [open('/dev/null') for _ in range(int(sys.argv[2]))]\n"
        "wait = 'import sys; print(1, flush=True); sys.stdin.read()'\n"
        "child = subprocess.Popen([sys.executable, '-c', wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\nprint('ready', flush=True)\nsys.stdin.read()\nchild.stdin.close()\nchild.wait()"
    )
    usages = []
    for size, files in ((0, 0), (64 << 20, 10)):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(size), str(files)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        usages.append(measure_usage(process.pid))
        process.communicate()
    small, large = usages
    assert small.processes == large.processes == 2 and small.threads == large.threads == 2
    assert large.descriptors - small.descriptors == 10
    assert 63 << 10 < large.own_kb - small.own_kb < 70 << 10
    assert measure_usage(process.pid).processes == 0


@pytest.mark.slow
def test_two_hundred_steps_of_two_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run is too short to measure memory, but detects a file or thread left open per epoch, validation or checkpoint."""
    record, chart = tmp_path / "run.json", tmp_path / "run.png"
    main(["--steps", "200", "--hands", "60", "--every", "0.2", "--json", str(record), "--chart", str(chart)])
    content = json.loads(record.read_text())
    rows = {row["measure"]: row for row in content["rows"]}
    output = capsys.readouterr().out
    steps = np.array(content["samples"]["step"])
    early, late = (steps >= 50) & (steps < 100), (steps >= 150) & (steps < 200)
    for measure in ("descriptors", "threads"):
        held = np.array(content["samples"][measure])
        assert held[late].min() <= held[early].min(), output  # files that are open briefly raise the maximum, not the minimum
        assert rows[measure]["rise"] == 0, output
    assert rows["own_kb"]["rise"] < 100_000, output
    assert max(content["samples"]["processes"]) >= 3 and max(content["samples"]["step"]) == 200
    assert read_image(str(chart)).shape[0] > 500
