"""`long_run` and `usage`: a simulated leak is detected, and a short real run of two ranks has none."""

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


def measurements(rise: dict[str, float], noise: float = 3000.0) -> list[Measurement]:
    """Of 2 000 steps in 100 s, an epoch each 20 steps; what rises by so much in 1 000 steps, under noise and a warm-up."""
    rng, seen = np.random.default_rng(0), []
    for seconds in np.arange(0, 100, 0.5):
        step = 20 * seconds
        warm = 500_000 * min(1.0, 0.2 + step / 500)
        values = {name: warm if name.endswith("s_kb") else 50.0 for name in LIMITS}
        values["own_kb"] += noise * rng.standard_normal() + 40_000 * (rng.random() < 0.05)  # a checkpoint being written
        whole = {name: int(value + rise.get(name, 0.0) * step / 1000) for name, value in values.items()}
        seen.append(Measurement(float(seconds), int(step // 20 * 20), Usage(processes=4, **whole)))
    return [*seen, Measurement(100.0, 2000, Usage(0, 0, 0, 0, 0, 0))]


@pytest.mark.parametrize("measure", LIMITS)
def test_leak_is_detected_in_noise(measure: str) -> None:
    assert all(row["flat"] for row in fit_slopes(measurements({})))
    rows = {row["measure"]: row for row in fit_slopes(measurements({measure: 3 * LIMITS[measure]}))}
    assert [name for name, row in rows.items() if not row["flat"]] == [measure]
    row = rows[measure]
    assert row["rise"] == pytest.approx(3 * LIMITS[measure], rel=0.35)


def test_usage_of_a_family() -> None:
    """A process that holds 64 MB, ten files and a child, beside the same without."""
    script = (
        "import subprocess, sys\nheld = b'x' * int(sys.argv[1])\n"
        "files = [open('/dev/null') for _ in range(int(sys.argv[2]))]\n"
        "waits = 'import sys; print(1, flush=True); sys.stdin.read()'\n"
        "child = subprocess.Popen([sys.executable, '-c', waits], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\nprint('ready', flush=True)\nsys.stdin.read()\nchild.stdin.close()\nchild.wait()"
    )
    seen = []
    for size, files in ((0, 0), (64 << 20, 10)):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(size), str(files)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        seen.append(measure_usage(process.pid))
        process.communicate()
    little, much = seen
    assert little.processes == much.processes == 2 and little.threads == much.threads == 2
    assert much.descriptors - little.descriptors == 10
    assert 63 << 10 < much.own_kb - little.own_kb < 70 << 10
    assert measure_usage(process.pid).processes == 0


@pytest.mark.slow
def test_two_hundred_steps_of_two_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Too short to say much of memory, long enough for a file or a thread that each validation, checkpoint or epoch leaves."""
    record, chart = tmp_path / "run.json", tmp_path / "run.png"
    main(["--steps", "200", "--every", "0.2", "--json", str(record), "--chart", str(chart)])
    content = json.loads(record.read_text())
    rows = {row["measure"]: row for row in content["rows"]}
    said = capsys.readouterr().out
    steps = np.array(content["samples"]["step"])
    early, late = (steps >= 50) & (steps < 100), (steps >= 150) & (steps < 200)
    for measure in ("descriptors", "threads"):
        held = np.array(content["samples"][measure])
        assert held[late].min() <= held[early].min(), said  # what is open for a moment raises the largest, not the least
        assert rows[measure]["rise"] == 0, said
    assert rows["own_kb"]["rise"] < 100_000, said
    assert max(content["samples"]["processes"]) >= 3 and max(content["samples"]["step"]) == 200
    assert read_image(str(chart)).shape[0] > 500
