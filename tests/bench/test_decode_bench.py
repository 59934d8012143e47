"""bench/decode.py from the shell, and princeton's decoder compared with the output of the original code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hgfast.bench.decode import main
from hgfast.bench.princeton.decoder import parse
from tests.conftest import Command, ErrorOf, shared_path


@pytest.mark.real_data
def test_princeton_decoder_matches_the_original() -> None:
    z = np.load(shared_path("reference/decoders.npz"))
    assert np.abs(parse(z["det"]) - z["princeton_parse"]).max() < 1e-6


def test_record(tmp_path: Path, command: Command) -> None:
    process = command("bench/decode.py", "--quick", "--json", tmp_path / "decode.json")
    assert process.returncode == 0, process.stderr
    record = json.loads((tmp_path / "decode.json").read_text())
    rows = {(row["kind"], row["decoder"]): row for row in record["rows"]}
    assert len(rows) == 7 and all(row["median_ms"] > 0 for row in rows.values())
    assert rows["gaussian", "dark"]["error_float32"] < 0.001 < rows["gaussian", "quarter"]["error_float32"]


def test_bad_flags(error_of: ErrorOf) -> None:
    assert "--samples is 0, must be at least 1" in error_of(main, "--samples", "0")
