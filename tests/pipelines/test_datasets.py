"""A new data set takes one reader file and one line: the reader of docs/extending.md trains, is evaluated and checked."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
import pytest

from hgfast import config as config_module
from hgfast.cli import parse
from hgfast.config import Config, DatasetName, InferenceConfig
from hgfast.errors import HgfastError
from hgfast.pipelines import datasets, readers
from hgfast.pipelines.checks.result import CheckConfig
from hgfast.pipelines.checks.run import check, format_report
from hgfast.pipelines.datasets import input_files, open_samples
from hgfast.training.checkpoint_evaluation import evaluate
from hgfast.training.distributed import Ranks, select_device
from hgfast.training.run import train
from tests.conftest import ROOT
from tests.docs_blocks import blocks


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install the reader of docs/extending.md as the data set "lines"; return a folder with its files."""
    reader = next(block.body for block in blocks(ROOT / "docs/extending.md") if "DATASET" in block.body)
    (tmp_path / "readers").mkdir()
    (tmp_path / "readers/lines.py").write_text(reader)
    monkeypatch.setattr(readers, "__path__", [*readers.__path__, str(tmp_path / "readers")])
    monkeypatch.setattr(config_module, "DatasetName", Literal[(*get_args(DatasetName), "lines")])
    monkeypatch.setitem(datasets.DATASETS, "lines", import_module("hgfast.pipelines.readers.lines").DATASET)  # type: ignore[arg-type]
    root, rng = tmp_path / "data", np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    for split, count in (("train", 8), ("valid", 4)):
        rows = []
        for number in range(count):
            name, points = f"{split}{number}.png", rng.integers(10, 60, 6)
            cv2.imwrite(str(root / "images" / name), rng.integers(0, 255, (70, 70, 3), np.uint8))
            rows.append(",".join(map(str, [name, *points])))
        (root / f"{split}.csv").write_text("\n".join(rows))
    return root


def test_one_file_and_one_line_add_a_data_set(lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hgfast.training.run.log_validation", lambda *_: None)  # TensorBoard's images take a second
    flags = ["--dataset", "lines", "--data", str(lines), "--threads", "1"]
    config = parse(
        Config,
        [*flags, "--out", str(tmp_path / "exp"), "--device=cpu", "--model.preset=tiny", "--batch-size=8", "--train.epochs=1"],
    )
    folder = train(config, Ranks.single(select_device("cpu")))
    evaluation = evaluate(parse(InferenceConfig, flags), folder / "best.pt")
    assert (evaluation.result["split"], evaluation.result["samples"]) == ("valid", 4)
    assert 0 <= evaluation.result["rows"][0]["pck@0.2"] <= 1
    assert [row["joint"] for row in evaluation.result["joints"]] == ["left_eye", "right_eye", "nose"]

    (lines / "images/train3.png").write_bytes(b"text")
    (lines / "valid.csv").write_text((lines / "valid.csv").read_text() + "\nvalid0.png,10,10,20,20,80,30")
    check_config = parse(CheckConfig, flags)
    report = "\n".join(format_report(check_config, check(check_config)))
    assert "train3.png: is not an image" in report
    assert "warning: valid, row 4 (valid0.png): nose, 10.5 px outside" in report
    assert {path.name for _, path in input_files(check_config)} == {"train.csv", "valid.csv"}
    with pytest.raises(HgfastError, match=r"test.csv cannot be read"):
        open_samples(check_config, "test")
