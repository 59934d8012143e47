"""bench/decode.py from the shell, and princeton's decoder compared with the output of the original code."""

from __future__ import annotations

import numpy as np
import pytest

from hgfast.bench.decode import main
from hgfast.bench.princeton.decoder import parse
from tests.bench.conftest import RunScript
from tests.conftest import ErrorOf, shared_path


@pytest.mark.real_data
def test_princeton_decoder_matches_the_original() -> None:
    z = np.load(shared_path("reference/decoders.npz"))
    assert np.abs(parse(z["det"]) - z["princeton_parse"]).max() < 1e-6


def test_record(run_script: RunScript) -> None:
    record, output = run_script("decode", "--quick")
    rows = {(row["kind"], row["decoder"]): row for row in record["rows"]}
    assert len(rows) == 7 and all(row["median_ms"] > 0 for row in rows.values())
    assert all(text in output for text in ("seed_style", "dark", "heatmaps of shape 8 x 16 x 64 x 64"))
    assert rows["gaussian", "dark"]["error_float32"] < 0.001 < rows["gaussian", "quarter"]["error_float32"]


def test_bad_flags(error_of: ErrorOf) -> None:
    assert "samples is 0, must be at least 1" in error_of(main, "--samples", "0")
