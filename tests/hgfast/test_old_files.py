"""Files written at revision 537f7d0, before flags, fields and hand joints were renamed, load with the same meaning.

tests/data/537f7d0 has, all of one tiny network: the run's folder after 4 steps with every renamed key off its default, its ONNX
with a flip test, the JSON of evaluate.py, of pipelines/check.py and of bench/decode.py, and outputs that were computed then.
"""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from hgfast import checkpoints
from hgfast.bench import compare
from hgfast.bench.harness.record import read_record, without_outputs
from hgfast.bench.scoring.predictions import _check_dataset
from hgfast.cli import parse
from hgfast.config import CONFIG_FORMAT, Config, LoadingConfig, LossConfig, ModelConfig, TrainConfig
from hgfast.errors import HgfastError
from hgfast.pipelines.checks.result import CheckConfig, read_result
from hgfast.pipelines.checks.run import load_previous
from hgfast.pipelines.readers.skeleton_yaml import joint_index, read_skeleton, skeleton_from_category
from hgfast.pipelines.synthetic import generate_freihand
from hgfast.report import ReportConfig, merge_data_config
from hgfast.reporting.page import render_page
from hgfast.reporting.records import RecordFinder
from hgfast.reporting.run_folder import read_run
from hgfast.runtime import Session, sidecar
from hgfast.skeletons import HAND21, JOINT_ALIASES, Skeleton, canonical_joints, make_skeleton
from hgfast.train import parse_config
from hgfast.training.distributed import Ranks
from hgfast.training.run import resume_after_restart, train

DATA = Path(__file__).parent.parent / "data/537f7d0"
OLD_JOINTS = (
    "wrist",
    *(f"{f}{i}" for f in ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger") for i in range(1, 5)),
)
OLDER_JOINTS = ("wrist", *(f"{f}{i}" for f in ("thumb", "index", "middle", "ring", "little") for i in range(1, 5)))
CONFIG = Config(
    data=Path("hands"),
    normalize="wrist,thumb4",
    versions=["gs"],
    split_fractions=[0.5, 0.25],
    exp="old",
    seed=3,
    device="cpu",
    batch_size=4,
    loader="opencv",
    threads=1,
    loading=LoadingConfig(hw_decoder_load=0.65, storage_timeout=2.0),
    model=ModelConfig("tiny", stacks=1, features=8, depth=2, stem=(4, 8, 8), input_size=32),
    loss=LossConfig("mse", unlabeled="zero"),
    train=TrainConfig(
        max_iters=0.004,
        schedule="steps",
        lr_milestones=[0.003],
        lr_gamma=0.5,
        grad_clip=5.0,
        grad_accum=2,
        amp="off",
        val_interval=2,
        keep_checkpoints=2,
        dist_timeout=3.0,
    ),
)
"""What exp/old/config.yaml says, in the names of today."""


def old_keys(content: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration without the keys that are newer than the old files."""
    newer = {"category", "box_size", "box_format", "exif", "valid_fraction", "group_by", "allow"}
    content = {key: value for key, value in content.items() if key not in newer}
    return {**content, "train": {key: value for key, value in content["train"].items() if key != "deterministic"}}


@pytest.fixture
def old_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run's folder exp/old, below the current one."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(DATA / "exp", "exp")
    return Path("exp/old")


# ---- config.yaml ----


def test_config_yaml(old_run: Path) -> None:
    file = old_run / "config.yaml"
    content = yaml.safe_load(file.read_text())
    before = json.dumps(content)
    assert "format" not in content
    assert Config.upgrade(content) == old_keys(CONFIG.to_dict()) and json.dumps(content) == before
    assert parse(Config, ["--config", str(file)]) == CONFIG
    assert parse_config(["-c", "old", "--train.grad-clip", "4"]).train.grad_clip == 4
    CONFIG.write_yaml(file)
    assert yaml.safe_load(file.read_text()) == {"format": CONFIG_FORMAT, **CONFIG.to_dict()}
    assert parse(Config, ["--config", str(file)]) == CONFIG


def test_old_keys_of_the_data_in_other_configurations(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("shares: [0.5, 0.5]\nnormalise: a,b\nloader: torch\n")
    config = parse(CheckConfig, ["--config", str(tmp_path / "a.yaml")])
    assert (config.split_fractions, config.normalize, config.loader) == ([0.5, 0.5], "a,b", "opencv")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("format: 3\n", "is of format 3, this hgfast reads 2: update hgfast"),
        ("format: true\n", "is of format True"),
        ("format: 2\ntrain:\n  clip: 5\n", "unknown key 'train.clip' in the configuration"),
        ("train:\n  clip: 5\n  grad_clip: 4\n", "unknown key 'train.clip' in the configuration"),
    ],
)
def test_configurations_that_are_refused(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(HgfastError) as error:
        parse(Config, ["--config", str(tmp_path / "a.yaml")])
    assert sentence in str(error.value)


# ---- checkpoint ----


def test_checkpoint(old_run: Path) -> None:
    outputs = np.load(DATA / "outputs.npz")
    model = checkpoints.load_model(old_run / "checkpoint.pt")
    assert model.meta.skeleton == HAND21 and (model.meta.heatmap_kind, model.meta.decoder) == ("gaussian", "dark")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.meta.normalization.mean, model.meta.normalization.std))
    with torch.inference_mode():
        found = model((torch.from_numpy(outputs["images"]).permute(0, 3, 1, 2) / 255 - mean) / std).numpy()
    assert np.abs(found - outputs["heatmaps"]).max() <= 1e-6 * np.abs(outputs["heatmaps"]).max()
    stored, written = checkpoints.read(old_run / "checkpoint.pt"), checkpoints.model_state(model)
    assert stored["format"] == written["format"] and stored["meta"].keys() == written["meta"].keys()
    assert stored["meta"]["skeleton"].keys() == written["meta"]["skeleton"].keys()
    assert stored["meta"]["skeleton"]["joints"] == OLD_JOINTS


def test_run_is_resumed(old_run: Path) -> None:
    """Two more steps, as 537f7d0 does them; versions of OpenCV draw the hands differently in a few pixels."""
    generate_freihand(Path("hands"), 16, seed=5, evaluation=8, workers=1)
    config = parse_config(["-c", "old", "-m", "0.006"])
    train(config, Ranks.single(torch.device("cpu")))
    lines = [json.loads(line) for line in (old_run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert lines[-1]["loss"] == pytest.approx(14.79403305053711, rel=2e-3)
    # a rounding error of the CPU moves a maximum of an untrained heatmap by cells
    assert lines[-1]["valid"]["epe_px"] == pytest.approx(90.66611021010816, rel=1e-2)
    assert yaml.safe_load((old_run / "config.yaml").read_text())["format"] == CONFIG_FORMAT
    assert {path.name for path in old_run.glob("checkpoint*.pt")} == {"checkpoint.pt", "checkpoint-00000004.pt"}


def test_restarted_job_goes_on(old_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    ranks = Ranks.single(torch.device("cpu"))
    assert resume_after_restart(CONFIG, ranks).resume == "old"
    (old_run / "config.yaml").write_text("format: 3\n")
    assert resume_after_restart(CONFIG, ranks).resume is None


# ---- report, ONNX, check result, bench record ----


def test_report(old_run: Path) -> None:
    for name in ("evaluate.json", "old.onnx", "old.onnx.json", "decode.json"):
        shutil.copy(DATA / name, old_run)
    run = read_run(old_run)
    assert run.notes == [] and dict(run.config) == old_keys(CONFIG.to_dict())
    data = merge_data_config(ReportConfig(folder=old_run), run.config, set())
    assert (data.split_fractions, data.normalize, data.versions) == ([0.5, 0.25], "wrist,thumb4", ["gs"])
    found = RecordFinder(old_run).find([])
    assert [len(found.evaluations), len(found.records), len(found.exports)] == [1, 1, 1] and found.exports[0].from_this_run
    text = render_page(run, found, old_run / "report.html", datetime.now().astimezone())
    assert "old.onnx" in text and "thumb1" in text


def test_onnx(tmp_path: Path) -> None:
    outputs = np.load(DATA / "outputs.npz")
    with Session(DATA / "old.onnx", threads=1) as session:
        found = session(outputs["picture"])
    assert session.skeleton == HAND21
    assert np.abs(np.asarray(found.keypoints) - outputs["keypoints"]).max() < 1e-2
    assert np.abs(np.asarray(found.scores) - outputs["scores"]).max() < 1e-5
    known = sidecar.read_sidecar(DATA / "old.onnx")
    assert (known.artifact, known.export_format, known.normalized, known.heatmap_kind) == ("old.onnx", "onnx", False, "gaussian")
    shutil.copy(DATA / "old.onnx", tmp_path)
    sidecar.write(known, tmp_path / "old.onnx")
    before, after = (json.loads((folder / "old.onnx.json").read_text()) for folder in (DATA, tmp_path))
    for content in (before, after):
        content["skeleton"].pop("joints"), content["skeleton"].pop("groups")
    assert before == after


def test_check_result(tmp_path: Path) -> None:
    result = read_result(DATA / "hgfast-check.json")
    assert result.loader == "opencv" and result.lookup("training/rgb/00000000.jpg", (6033, 0)) is None
    size, time, *shape = result.decoded["training/rgb/00000000.jpg"]
    assert result.lookup("training/rgb/00000000.jpg", (size, time)) == tuple(shape) == (224, 224)
    assert len(load_previous(CheckConfig(data=tmp_path, loader="opencv"), DATA / "hgfast-check.json").decoded) == 24
    assert not load_previous(CheckConfig(data=tmp_path, loader="dali"), DATA / "hgfast-check.json").decoded


def test_bench_record() -> None:
    record = read_record(DATA / "decode.json")
    rows = compare.rows_by_identity(record, DATA / "decode.json")
    assert len(rows) == 7
    lines = [line for row_id, row in rows.items() for line in compare.compare_rows(row_id, row, row)]
    assert lines and {line.verdict for line in lines} <= {"within noise", "unchanged"}
    command = "python bench/latency.py --normalise=a,b --shares '[0.5,0.5]' --loader torch --json a.json"
    assert without_outputs(command) == "python bench/latency.py --normalize=a,b --split-fractions '[0.5,0.5]' --loader opencv"


# ---- hand joints ----


@pytest.mark.parametrize("joints", [OLD_JOINTS, OLDER_JOINTS])
def test_hand_joints(joints: tuple[str, ...], tmp_path: Path) -> None:
    assert canonical_joints(joints) == HAND21.joints and canonical_joints(joints[::-1]) == HAND21.joints[::-1]
    for other in (joints[:-1], (*joints[:-1], "claw"), HAND21.joints):
        assert canonical_joints(other) == other
    assert skeleton_from_category({"name": "hand", "keypoints": list(joints)}, Path("a.json")) == (HAND21, ())
    content = {"joints": [*joints], "edges": [["wrist", joints[5]]], "groups": {"tips": [joints[8]]}, "colours": [[1, 2, 3]]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    found = read_skeleton(tmp_path / "mine.yaml")
    assert (found.joints, found.edges, found.groups) == (HAND21.joints, ((0, 5),), (("tips", (8,)),))
    assert found.colors == ((1, 2, 3),)
    assert joint_index(joints[20], HAND21.joints, "here") == 20
    mine = make_skeleton("mine", joints, groups=(("claw", (1, 2)),))
    assert Skeleton.from_dict(mine.to_dict()).groups == mine.groups
    assert set(JOINT_ALIASES.values()) == set(HAND21.joints[1:])


def test_predictions_with_old_hand_joints() -> None:
    class Truth:
        dataset, skeleton, source = "freihand", HAND21, "the data"

    truth: Any = Truth
    _check_dataset({"joints": [*OLD_JOINTS]}, truth, Path("p.json"))
    with pytest.raises(HgfastError, match="joint 0 is"):
        _check_dataset({"joints": [*OLD_JOINTS[::-1]]}, truth, Path("p.json"))
