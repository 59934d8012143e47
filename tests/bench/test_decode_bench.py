"""bench/decode.py from the shell, and its seed-style decoder against what the seed's own code gave."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, Refusal, beside

sys.path.append(str(Path(__file__).parents[2] / "bench"))  # where Python looks for the modules beside a script

from decode import main
from seed_decoder import parse


@pytest.mark.real_data
def test_seed_style_is_the_seeds() -> None:
    z = np.load(beside("reference/decoders.npz"))
    assert np.abs(parse(z["det"]) - z["princeton_parse"]).max() < 1e-6


def test_record(tmp_path: Path, command: Command) -> None:
    done = command("bench/decode.py", "--quick", "--json", tmp_path / "decode.json")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "decode.json").read_text())
    rows = {(row["kind"], row["decoder"]): row for row in record["rows"]}
    assert len(rows) == 7 and all(row["median_ms"] > 0 for row in rows.values())
    assert rows["gaussian", "dark"]["error_float32"] < 0.001 < rows["gaussian", "quarter"]["error_float32"]


def test_bad_flags(refusal: Refusal) -> None:
    assert "--samples is 0, must be at least 1" in refusal(main, "--samples", "0")
