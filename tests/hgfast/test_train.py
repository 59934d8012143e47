"""Training from the command line to the checkpoint: bit-exact resuming, several ranks, bad input."""

from __future__ import annotations

import copy
import json
import math
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from hgfast import checkpoints, load_model
from hgfast.architectures import PRESETS
from hgfast.config import Config, DataConfig
from hgfast.errors import HgfastError
from hgfast.evaluate import main as evaluate_main
from hgfast.model import Meta, StackedHourglass
from hgfast.normalization import Normalization
from hgfast.pipelines.batch_plan import BatchPlan
from hgfast.pipelines.cache import main as cache_main
from hgfast.pipelines.check import main as check_main
from hgfast.pipelines.datasets import open_loader, open_samples
from hgfast.pipelines.readers.freihand import read_freihand
from hgfast.pipelines.readers.mpii_h5 import read_mpii
from hgfast.predict import main as predict_main
from hgfast.runtime.torch_predictor import predict_crops
from hgfast.train import main
from hgfast.training import distributed
from hgfast.training.batch import Batch
from hgfast.training.evaluator import Loader, predict
from hgfast.training.run import train
from hgfast.training.run_logger import RunLogger
from hgfast.training.trainer import Trainer
from hgfast.visualization.draw import read_image
from tests.conftest import ROOT, Command, ErrorOf, shared_path
from tests.factories import read_metrics
from tests.foreign_nets import PrincetonNet, prefixed_state, with_random_statistics


def small_config(data: Path, out: Path, epochs: int = 2) -> Config:
    config = Config(data=data, out=out, exp="small", batch_size=16, threads=1, device="cpu", versions=["gs", "hom"])
    config.model.preset = "tiny"
    config.train.epochs, config.train.lr = epochs, 3e-3
    return config


@pytest.fixture(scope="module", autouse=True)
def no_images() -> Iterator[None]:
    """Leave out TensorBoard's images, which take a second per validation; test_run_logger checks them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hgfast.training.run.log_validation", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def finished_run(hands: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch by `small_config`."""
    return train(small_config(hands, tmp_path_factory.mktemp("finished"), 1), distributed.init_distributed("cpu"))


@pytest.fixture(scope="module")
def whole_run(hands: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs by `small_config`, on one thread."""
    torch.set_num_threads(1)
    return train(small_config(hands, tmp_path_factory.mktemp("whole"), 3), distributed.init_distributed("cpu"))


@pytest.fixture
def small_run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of `finished_run` in tmp_path/small."""
    return shutil.copytree(finished_run, tmp_path / "small")


def equal_states(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Return whether two state dicts are bit-identical."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_train_script_then_evaluate_script(hands: Path, tmp_path: Path, command: Command, in_process: Command) -> None:
    done = command(
        "hgfast/train.py", "--dataset", "freihand", "--data", hands, "--out", tmp_path, "-e", "one", "--model.preset", "tiny",
        "--batch-size", 16, "--train.epochs", 3, "--train.lr", 0.003, "--versions", "[gs]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "one"
    assert {f.name for f in folder.iterdir()} == {"checkpoint.pt", "best.pt", "config.yaml", "metrics.jsonl", "events"}
    records = read_metrics(folder)
    assert [r["epoch"] for r in records] == [1, 2, 3]
    assert records[-1]["loss"] < records[0]["loss"]
    assert all(0 <= r["data_wait"] <= 1 and r["images_per_s"] > 0 for r in records)
    assert yaml.safe_load((folder / "config.yaml").read_text())["train"]["epochs"] == 3

    done = in_process(
        evaluate_main, folder / "checkpoint.pt", "--data", hands, "--split", "test", "--baselines",
        "--json", tmp_path / "r.json", "--sheet", tmp_path / "s.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "nearest 16 x 16 thumbnail" in done.stdout
    result = json.loads((tmp_path / "r.json").read_text())
    assert [row["method"] for row in result["rows"]] == ["network", "mean pose", "nearest 16 x 16 thumbnail"]
    assert all(0 <= row["pck@0.05"] <= row["pck@0.1"] <= row["pck@0.2"] <= 1 for row in result["rows"])
    assert (tmp_path / "s.png").stat().st_size > 10_000

    data = tmp_path / "without"
    shutil.copytree(hands, data)
    (data / "evaluation_xyz.json").unlink()
    done = in_process(main, "--data", data, "--out", tmp_path, "-e", "blind", "--train.valid-split", "evaluation")
    assert done.returncode == 2 and "the split evaluation has no annotations" in done.stderr
    words = [evaluate_main, folder / "checkpoint.pt", "--data", data, "--split", "evaluation"]
    done = in_process(*words)
    assert done.returncode == 2 and "has no annotations: use --predictions" in done.stderr
    done = in_process(*words, "--predictions", tmp_path / "p.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "p.json").read_text())
    assert len(found["samples"]) == len(list((data / "evaluation/rgb").iterdir()))
    assert np.array(found["samples"][0]["keypoints"]).shape == (21, 2)


def test_people_end_to_end(people: Path, tmp_path: Path, in_process: Command) -> None:
    """`--dataset mpii` in train, evaluate and predict, with an image missing."""
    data = tmp_path / "MPII"
    shutil.copytree(people, data)
    samples = read_mpii(data, "valid")
    Path(samples.paths[0]).unlink()
    common = ["--dataset", "mpii", "--data", data, "--skip-missing"]
    done = in_process(
        main, *common, "--out", tmp_path, "--model.preset", "tiny", "--batch-size", 8, "--train.epochs", 2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "more without their image" in done.stdout
    checkpoint = tmp_path / "mpii/checkpoint.pt"  # the experiment is named after the data set
    groups = {"head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle", "pckh@0.5", "pckh@0.1", "auc"}
    assert all(groups <= set(r["valid"]) for r in read_metrics(tmp_path / "mpii"))  # type: ignore[arg-type]
    assert "ankle" in done.stdout and "pckh@0.5" in done.stdout

    done = in_process(
        evaluate_main, checkpoint, *common, "--flip-test", "--baselines", "--json", tmp_path / "r.json",
        "--sheet", tmp_path / "s.jpg",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "r.json").read_text())
    assert (result["split"], result["samples"] + result["skipped"]) == ("valid", len(samples))
    assert all(0 <= row["pckh@0.1"] <= row["pckh@0.5"] <= 100 for row in result["rows"])

    done = in_process(predict_main, checkpoint, samples.paths[-1], "--out", tmp_path / "found")
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "found/keypoints.json").read_text())["images"][0]["people"][0]["keypoints"]) == 16


@pytest.mark.parametrize("loader", ["dali", "opencv"])
def test_bad_files_never_end_a_run(hands: Path, tmp_path: Path, in_process: Command, loader: str) -> None:
    """Broken files are reported and replaced; the check finds them, and later runs skip them."""
    data = tmp_path / "FreiHAND"
    shutil.copytree(hands, data)
    last = len(read_freihand(hands, "train", ["gs"]))  # the first of the validation hands
    bad = [data / f"training/rgb/{number:08d}.jpg" for number in (3, 17, last)]
    for file, content in zip(bad, (b"", b"text", bad[2].read_bytes()[:500])):
        file.write_bytes(content)
    words = ["--data", data, "--versions", "[gs]", "--loader", loader, "--threads", 1]
    train_words = [*words, "--out", tmp_path, "--overwrite", "--model.preset", "tiny", "--train.epochs", 2, "--batch-size", 8]
    done = in_process(main, *train_words)
    assert done.returncode == 0, done.stderr
    for file in bad:
        assert done.stderr.count(f"{file}") == 1
    assert all(math.isfinite(r["valid"]["epe_px"]) for r in read_metrics(tmp_path / "freihand"))  # type: ignore[index]

    done = in_process(check_main, *words)
    assert done.returncode == 1
    assert all(str(file.name) in done.stdout for file in bad)
    done = in_process(main, *train_words)
    assert done.returncode == 0, done.stderr
    assert "another image" not in done.stderr
    assert "2 more with an image that cannot be read" in done.stdout
    done = in_process(evaluate_main, tmp_path / "freihand/best.pt", *words, "--split", "valid")
    assert done.returncode == 0 and "1 more with an image that cannot be read" in done.stdout


def test_training_from_the_crop_cache(people: Path, tmp_path: Path, in_process: Command) -> None:
    words = [
        "--dataset",
        "mpii",
        "--data",
        people,
        "--cache",
        tmp_path / "cache",
        "--model.preset",
        "tiny",
        "--augment.rotation",
        15,
    ]
    done = in_process(main, *words, "--out", tmp_path)
    assert done.returncode == 2 and "hgfast cache with the same flags" in done.stderr
    done = in_process(cache_main, *words)
    assert done.returncode == 0, done.stderr
    for name, extra in (("whole", ["--cache", "null"]), ("crops", [])):
        done = in_process(main, *words, *extra, "--out", tmp_path, "-e", name, "--train.epochs", 2, "--batch-size", 8)
        assert done.returncode == 0, done.stderr
    losses = [[r["loss"] for r in read_metrics(tmp_path / name)] for name in ("whole", "crops")]
    assert losses[0] == pytest.approx(losses[1], rel=0.01) and losses[0] != losses[1]


def test_train_on_coco(tmp_path: Path, in_process: Command) -> None:
    """The corners of synthetic triangles: `--dataset coco` from a JSON file to a prediction."""
    rng, images, rows = np.random.default_rng(1), [], []
    for number in range(24):
        points = rng.uniform(20, 80, (3, 2)).round(1)
        image = np.zeros((100, 120, 3), np.uint8)
        cv2.fillPoly(image, [points.astype(int)], (200, 120, 60))
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
        images.append({"id": number, "file_name": f"{number}.png", "width": 120, "height": 100})
        rows.append({"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "bbox": [10, 10, 80, 80],
                     "keypoints": [v for x, y in points.tolist() for v in (x, y, 2)]})  # fmt: skip
    category = {"id": 1, "name": "triangle", "keypoints": ["a", "b", "c"], "skeleton": [[1, 2], [2, 3]]}
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": rows, "categories": [category]}))
    words = ["--dataset", "coco", "--annotations", tmp_path / "a.json", "--images", tmp_path]
    done = in_process(
        main, *words, "--valid-annotations", tmp_path / "a.json", "--out", tmp_path, "--model.preset", "tiny",
        "--train.epochs", 2, "--batch-size", 8,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "pck@0.2" in done.stdout
    done = in_process(evaluate_main, tmp_path / "coco/best.pt", *words, "--baselines")
    assert done.returncode == 0 and "mean pose" in done.stdout, done.stderr
    done = in_process(predict_main, tmp_path / "coco/best.pt", tmp_path / "3.png", "--out", tmp_path / "found")
    assert json.loads((tmp_path / "found/keypoints.json").read_text())["joints"] == ["a", "b", "c"], done.stderr


@pytest.mark.slow
@pytest.mark.real_data
def test_overfit_five_real_people(tmp_path: Path, in_process: Command) -> None:
    """PCKh@0.5 is 100 on them, and predict.py, given the same square, finds what evaluation found."""
    data = shared_path("fixtures/mpii")
    done = in_process(
        main, "--config", ROOT / "configs/overfit.yaml", "--dataset", "mpii", "--data", data, "--skip-missing",
        "--train.split", "valid", "--train.valid-split", "valid", "--model.input-size", 96,
        "--train.epochs", 60, "--train.val-interval", 60,
        "--out", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert read_metrics(tmp_path / "overfit")[-1]["valid"]["pckh@0.5"] == 100  # type: ignore[index]
    model, samples = load_model(tmp_path / "overfit/best.pt"), read_mpii(data, "valid", skip_missing=True)
    for row, path in enumerate(samples.paths):
        found = predict_crops(model, read_image(path), samples.center[row, None], samples.side[row, None])[0][0, :, :2]
        off = np.linalg.norm(found - samples.keypoints[row], axis=1)[samples.labeled[row]]
        assert (off < 0.2 * samples.reference[row]).all()


def test_resume_within_an_epoch(hands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ended in the middle of an epoch resumes with the epoch's remaining samples."""
    config = small_config(hands, tmp_path)
    config.train.max_iters, config.train.val_interval = 0.003, 1
    train(config, distributed.init_distributed("cpu"))
    seen: list[int] = []
    step = Trainer.train_step

    def spy(self: Trainer, batch: Batch) -> torch.Tensor:
        seen.extend(batch.index.tolist())
        return step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", spy)
    monkeypatch.setattr(sys, "argv", ["train.py", "-c", "small", "--out", str(tmp_path), "-m", "0.006"])
    main()
    samples = open_samples(config, "train")
    plan = BatchPlan(samples, 64, config.batch_size, augment=config.augment, seed=config.seed)
    assert plan.steps == 6
    assert seen == [i for n in (3, 4, 5) for i in plan.batch(0, n).index]
    assert [r["step"] for r in read_metrics(tmp_path / "small")] == [3, 6]


def test_resume_is_exact(whole_run: Path, hands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is interrupted in the second of three epochs and resumed ends with the weights of an uninterrupted run."""
    ranks = distributed.init_distributed("cpu")
    torch.set_num_threads(1)
    report = RunLogger.log_epoch

    def interrupt(self: RunLogger, record: dict[str, float]) -> None:
        report(self, record)
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunLogger, "log_epoch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(small_config(hands, tmp_path / "parts", 3), ranks)
    monkeypatch.setattr(RunLogger, "log_epoch", report)
    with (tmp_path / "parts/small/metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "st')  # killed while writing
    monkeypatch.setattr(sys, "argv", ["train.py", "-c", "small", "--out", str(tmp_path / "parts")])
    main()

    one, other = (checkpoints.read(folder / "checkpoint.pt") for folder in (whole_run, tmp_path / "parts/small"))
    assert (
        equal_states(one["weights"], other["weights"])
        and equal_states(one["ema"], other["ema"])
        and not equal_states(one["weights"], one["ema"])
    )
    assert one["training"]["ema_updates"] == other["training"]["ema_updates"] == one["training"]["step"]
    best, other_best = (checkpoints.read(folder / "best.pt") for folder in (whole_run, tmp_path / "parts/small"))
    assert best["epoch"] == other_best["epoch"] and equal_states(best["weights"], other_best["weights"])
    losses = [[(r["loss"], r["valid"]) for r in read_metrics(folder)] for folder in (whole_run, tmp_path / "parts/small")]
    assert losses[0] == losses[1]
    monkeypatch.setattr(sys, "argv", ["train.py", "--continue", "small", "--out", str(tmp_path / "parts")])
    with pytest.raises(HgfastError, match=r"has done its .* steps"):
        main()


@pytest.mark.parametrize("decay", [0.999, 0.0])
def test_validation_uses_ema(hands: Path, tmp_path: Path, decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(hands, tmp_path)
    config.train.ema = decay
    trainer = make_bare_trainer(config, tmp_path, hands)
    measured: list[np.ndarray] = []
    trainer.compute_metrics = lambda points: measured.append(points) or {"x": 0.0}  # type: ignore[func-returns-value]
    others: list[np.ndarray] = []

    def watched(network: StackedHourglass, *rest: Any) -> np.ndarray:
        model = trainer.model
        before = {name: value.clone() for name, value in model.state_dict().items()}
        assert all(module.training for module in model.modules())
        found = predict(network, *rest)
        assert equal_states(before, model.state_dict())
        assert all(module.training for module in model.modules())
        others.append(predict(copy.deepcopy(model), *rest))
        if trainer.ema:
            assert np.array_equal(found, predict(copy.deepcopy(trainer.ema.module), *rest))
        return found

    monkeypatch.setattr("hgfast.training.trainer.predict", watched)
    trainer.fit()
    assert len(measured) == len(others) == 2
    assert all(np.array_equal(one, other) == (decay == 0) for one, other in zip(measured, others))


def test_checkpoint_holds_both_networks_and_best_the_validated_one(hands: Path, tmp_path: Path) -> None:
    trainer = make_bare_trainer(small_config(hands, tmp_path), tmp_path, hands)
    assert trainer.ema
    averages = []
    for epoch, figure in ((1, 0.5), (2, 0.4)):
        trainer._train_epoch(epoch - 1, 0)
        averages.append({name: value.clone() for name, value in trainer.ema.module.state_dict().items()})
        trainer._save_checkpoint(epoch, {"x": figure})
    checkpoint, best = (checkpoints.read(tmp_path / name) for name in ("checkpoint.pt", "best.pt"))
    assert equal_states(checkpoint["ema"], averages[1]) and equal_states(checkpoint["weights"], trainer.model.state_dict())
    assert set(checkpoint) - set(best) == {"ema", "training"}
    assert equal_states(best["weights"], averages[0]) and not equal_states(averages[0], averages[1])
    assert equal_states(load_model(tmp_path / "checkpoint.pt").state_dict(), averages[1])


def test_training_without_ema(whole_run: Path, hands: Path, tmp_path: Path) -> None:
    """The EMA does not affect training: the same steps lead to the same weights."""
    torch.set_num_threads(1)
    config = small_config(hands, tmp_path, 3)
    config.train.ema = 0.0
    folder = train(config, distributed.init_distributed("cpu"))
    without, averaged = (checkpoints.read(path / "checkpoint.pt") for path in (folder, whole_run))
    assert set(averaged) - set(without) == {"ema"}
    assert set(averaged["training"]) - set(without["training"]) == {"ema_updates"}
    assert equal_states(without["weights"], averaged["weights"])
    best = checkpoints.read(folder / "best.pt")
    assert best["epoch"] != without["epoch"] or equal_states(best["weights"], without["weights"])


def test_resume_without_ema_starts_one(hands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(hands, tmp_path, 1)
    config.train.ema = 0.0
    path = train(config, distributed.init_distributed("cpu")) / "checkpoint.pt"
    content = checkpoints.read(path)
    found: list[Trainer] = []
    monkeypatch.setattr(Trainer, "fit", lambda self: found.append(self))
    words = ["train.py", "-c", "small", "--out", str(tmp_path), "--train.epochs", "2", "--train.ema"]
    monkeypatch.setattr(sys, "argv", [*words, "0.9"])
    main()
    average = found[0].ema
    assert average is not None and (average.updates, average.decay) == (0, 0.9)
    assert equal_states(average.module.state_dict(), content["weights"])

    checkpoints.save(content | {"ema": content["weights"] | {"stem.0.weight": torch.zeros(1)}}, path)
    with pytest.raises(HgfastError, match=r"cannot be continued \(.*size mismatch") as caught:
        main()
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(sys, "argv", [*words, "0"])
    main()  # an unused EMA is ignored
    assert found[1].ema is None


def test_resume_prints_changed_flags(
    small_run: Path, hands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Trainer, "fit", lambda self: None)
    words = ["train.py", "-c", "small", "--out", str(tmp_path), "--train.epochs", "2"]
    monkeypatch.setattr(sys, "argv", [*words, "--augment.rotation", "7"])
    main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("continues with")]
    rotation = Config().augment.rotation
    assert lines == [f"continues with --augment.rotation 7.0 (was {rotation}), --train.epochs 2 (was 1)"]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_agree(hands: Path, tmp_path: Path, command: Command, ranks: int) -> None:
    done = command(Path(__file__).parent / "some_ranks.py", hands, tmp_path, ranks=ranks)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.split("RESULT ")[1].splitlines()[0])
    assert sorted(result["seen"]) == list(range(result["samples"]))
    assert min(result["shares"]) > 0
    assert result["parameters_apart"] == 0
    assert result["buffers_apart"] == 0
    assert result["average_apart"] == 0
    assert result["validated"] == [result["valid"]]
    assert not result["unused"]
    # the first step's gradient, BatchNorm held still: the ranks' average equals one process with the whole batch, whether
    # ranks process their shares whole or in parts; with BatchNorm in training mode every rank has its own statistics
    assert result["gradient_norm"] > 0.01
    assert result["gradient_off"] < 1e-5 * result["gradient_norm"]
    assert result["gradient_in_parts_off"] < 1e-5 * result["gradient_norm"]
    assert 0.01 < result["gradient_live_off"] < 4
    assert result["loss_of_all"] == pytest.approx(result["loss_of_one"], rel=1e-5)
    assert "unused" not in done.stderr
    assert load_model(tmp_path / "checkpoint.pt").meta.skeleton.name == "hand21"


def test_schedule_warms_up_and_ends_at_zero(hands: Path, tmp_path: Path) -> None:
    config = small_config(hands, tmp_path)
    trainer = make_bare_trainer(config, tmp_path, hands)
    trainer.total_steps = 1000
    config.train.warmup = 0.1
    rates = [trainer._learning_rate_at(step) for step in range(1000)]
    assert np.argmax(rates) == pytest.approx(100, abs=1)
    assert max(rates) == pytest.approx(config.train.lr)
    assert rates[0] < 0.02 * config.train.lr
    assert rates[-1] < 1e-5 * config.train.lr
    assert rates[550] == pytest.approx(config.train.lr / 2)
    config.train.max_minutes = 2.0
    trainer.global_step, trainer.seconds = 10, 66.0  # more of the time has passed than of the steps
    assert trainer.progress == pytest.approx(0.55)


def make_bare_trainer(config: Config, folder: Path, hands: Path) -> Trainer:
    samples = open_samples(DataConfig(data=hands, versions=["gs"]), "train")
    ranks = distributed.init_distributed("cpu")
    loader: Loader = open_loader(samples, 64, Normalization(), ranks, replace(config, threads=1))
    model = checkpoints.build_model(PRESETS["tiny"], Meta(samples.skeleton, Normalization(), 64, "logits", "dark", 0.0))
    return Trainer(config, model, loader, loader, lambda _: {"x": 0.0}, "x", folder, ranks)


def test_time_limit_ends_a_run(hands: Path, tmp_path: Path) -> None:
    config = small_config(hands, tmp_path, epochs=10_000)
    config.train.max_minutes = 0.015
    records = read_metrics(train(config, distributed.init_distributed("cpu")))
    assert len(records) < 10_000
    assert "valid" in records[-1]


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("amp", ["off", pytest.param("bf16", marks=pytest.mark.bf16)])
def test_both_losses_learn(hands: Path, tmp_path: Path, loss: str, amp: str) -> None:
    config = small_config(hands, tmp_path, epochs=4)
    config.loss.name, config.train.amp, config.train.val_interval = loss, amp, 4  # type: ignore[assignment]
    records = read_metrics(train(config, distributed.init_distributed("cpu")))
    assert all(math.isfinite(r["loss"]) for r in records)
    assert records[-1]["loss"] < records[0]["loss"]
    assert load_model(tmp_path / "small/checkpoint.pt").meta.heatmap_kind == {"mse": "gaussian", "cross_entropy": "logits"}[loss]


@pytest.mark.slow
@pytest.mark.real_data
def test_overfit_eight_real_images(real_freihand: Path, tmp_path: Path, in_process: Command) -> None:
    done = in_process(
        main, "--config", ROOT / "configs/overfit.yaml", "--data", real_freihand, "--out", tmp_path,
        "--model.input-size", 96, "--train.epochs", 60, "--train.val-interval", 60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert read_metrics(tmp_path / "overfit")[-1]["valid"]["epe_px"] < 2  # type: ignore[index]


def test_a_run_is_not_overwritten_by_accident(hands: Path, finished_run: Path) -> None:
    with pytest.raises(HgfastError, match=r"continue it with -c small.*--overwrite"):
        train(small_config(hands, finished_run.parent, 1), distributed.init_distributed("cpu"))


BAD = [
    (["--data", "nowhere"], "no such folder): unpack FreiHAND_pub_v2.zip"),
    (["--data", "nowhere"], "hgfast synthetic freihand --out nowhere"),
    (["--data", "{hands}/training"], "training_K.json is missing"),
    (["--data", "{hands}/training_K.json"], "no FreiHAND data in"),
    ([], "--data DIR is missing"),
    (["--data", "{hands}", "--versions", "[]"], "--versions must name one or more"),
    (["--data", "{hands}", "--versions", "[gs,gs]"], "each once"),
    (["--train.lr-milestones", "soon"], "soon is not a number"),
    (["--data", "{hands}", "--model.stem", "[8,8]"], "[8, 8] is not three whole numbers"),
    (["--data", "{hands}", "--train.lr", "fast"], "fast is not a number"),
    (["--data", "{hands}", "--loss.name", "hinge"], "hinge is not one of cross_entropy, mse"),
    (["--data", "{hands}", "--device", "cuda:99999"], "GPUs are visible"),
    (["{hands}"], "unexpected word"),
    (["--data", "{hands}", "--lr", "1"], "unknown flag --lr"),
    (["--data", "{hands}", "--device", "cuda"], "no GPUs are visible"),
    (["--data", "{hands}", "--device", "gpu"], "device 'gpu' is unknown"),
    (["--data", "{hands}", "--model.preset", "hg3"], "choose from hg1"),
    (["--data", "{hands}", "--train.amp", "fp16", "--device", "cpu"], "fp16 needs a GPU"),
]


@pytest.mark.parametrize(("words", "sentence"), BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(
    words: list[str], sentence: str, hands: Path, tmp_path: Path, error_of: ErrorOf
) -> None:
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert sentence in error_of(main, "--out", tmp_path, *(w.format(hands=hands) for w in words))
    assert not list(tmp_path.iterdir())


def test_bad_input_from_the_shell(command: Command, tmp_path: Path) -> None:
    done = command("hgfast/train.py", "--data", tmp_path)
    assert done.returncode == 2
    assert "hgfast synthetic freihand --out" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("small_run")
def test_continuing_with_another_network_or_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = ["train.py", "-c", "small", "--out", str(tmp_path), "--train.epochs", "2"]
    for words, sentence in (
        (["--model.input-size", "96"], "another network than"),
        (["--loss.name", "mse"], "another loss than"),
        (["--batch-size", "8"], "steps an epoch"),
        (["-e", "other"], "under its own name"),
        (["-e", "freihand"], "under its own name"),
    ):
        monkeypatch.setattr(sys, "argv", [*start, *words])
        with pytest.raises(HgfastError, match=sentence):
            main()
    monkeypatch.setattr(sys, "argv", [*start, "--train.weight-decay", "0.5"])
    main()
    state = checkpoints.read(tmp_path / "small/checkpoint.pt")["training"]
    assert state["optimizer"]["param_groups"][0]["weight_decay"] == 0.5


def test_training_starts_from_another_projects_weights(hands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Architecture and normalization are the file's, loss and input size the run's; and the run can be resumed."""
    torch.manual_seed(2)
    theirs = with_random_statistics(PrincetonNet(2, 16, 21, depth=3))
    torch.save({"state_dict": prefixed_state(theirs, "model.module.")}, tmp_path / "theirs.pt")
    config = small_config(hands, tmp_path, 1)
    config.model.preset = "hg2"  # the default
    config.weights, config.model.input_size, config.train.lr = tmp_path / "theirs.pt", 64, 1e-12
    config.train.weight_decay = config.train.ema = 0.0
    train(config, distributed.init_distributed("cpu"))
    model = load_model(tmp_path / "small/checkpoint.pt")
    assert (model.arch.stacks, model.arch.depth, model.meta.input_size) == (2, 3, 64)
    assert model.meta.normalization == Normalization((0.5,) * 3, (0.5,) * 3)
    assert (model.meta.heatmap_kind, model.meta.shift) == ("logits", 0)
    assert torch.allclose(model.last.score.weight, dict(theirs.named_parameters())["outs.1.conv.weight"], atol=1e-6)
    monkeypatch.setattr(sys, "argv", ["train.py", "-c", "small", "--out", str(tmp_path), "--train.epochs", "2"])
    main()
    assert checkpoints.read(tmp_path / "small/checkpoint.pt")["epoch"] == 2


def test_weights_and_flags_that_contradict_each_other(
    hands: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"state_dict": PrincetonNet(1, 16, 21, depth=3).state_dict()}, tmp_path / "theirs.pt")
    config = small_config(hands, tmp_path, 1)
    config.weights = tmp_path / "theirs.pt"
    with pytest.raises(HgfastError, match="--model contradicts the architecture"):  # the preset is tiny
        train(config, distributed.init_distributed("cpu"))
    shutil.copytree(finished_run, tmp_path / "small")
    words = ["train.py", "-c", "small", "--out", str(tmp_path), "--train.epochs", "2", "--weights", str(tmp_path / "theirs.pt")]
    for more, sentence in (([], "another network"), (["--model.preset", "hg8"], "another network")):
        monkeypatch.setattr(sys, "argv", [*words, *more])
        with pytest.raises(HgfastError, match=sentence + "|leave out --weights"):
            main()
    assert checkpoints.read(tmp_path / "small/checkpoint.pt")["epoch"] == 1


def test_weights_of_other_joints_are_refused(hands: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": PrincetonNet(1, 16, 16).state_dict()}, tmp_path / "theirs.pt")
    config = small_config(hands, tmp_path, 1)
    config.model.preset = "hg2"
    config.weights, config.model.input_size = tmp_path / "theirs.pt", 64
    with pytest.raises(HgfastError, match="predicts 16 joints, the data have 21"):
        train(config, distributed.init_distributed("cpu"))
    assert not (tmp_path / "small").exists()


def test_continuing_with_other_joints_is_refused_and_changes_nothing(
    small_run: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (small_run / "config.yaml").read_bytes()
    words = ["-c", "small", "--out", str(tmp_path), "--dataset", "mpii", "--data", str(people), "--train.epochs", "3"]
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    with pytest.raises(HgfastError, match="predicts hand21, the data are body16"):
        main()
    assert (small_run / "config.yaml").read_bytes() == before


def test_nan_metrics_are_null(hands: Path, tmp_path: Path) -> None:
    trainer = make_bare_trainer(small_config(hands, tmp_path, 1), tmp_path, hands)
    for figure, epoch in ((math.nan, 1), (0.5, 2), (math.nan, 3), (0.4, 4)):
        trainer.logger.log_epoch(
            {"epoch": epoch, "step": 0, "loss": 1.0, "images_per_s": 1.0, "data_wait": 0.0, "valid": {"x": figure}}
        )
        trainer._save_checkpoint(epoch, {"x": figure})
    trainer.logger.close()
    assert checkpoints.read(tmp_path / "best.pt")["epoch"] == 2
    assert [record["valid"]["x"] for record in read_metrics(tmp_path)] == [None, 0.5, None, 0.4]  # type: ignore[index]


def test_a_fresh_start_leaves_nothing_of_the_old_run(
    small_run: Path, hands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_train_epoch", killed)
    config = small_config(hands, tmp_path, 1)
    config.overwrite = True
    with pytest.raises(KeyboardInterrupt):
        train(config, distributed.init_distributed("cpu"))
    assert {file.name for file in small_run.iterdir()} == {"config.yaml"}


@pytest.mark.gpu
@pytest.mark.parametrize("loader", ["opencv", pytest.param("dali", marks=pytest.mark.dali)])
@pytest.mark.parametrize("amp", ["bf16", "fp16", "off"])
def test_training_on_a_gpu(hands: Path, tmp_path: Path, amp: str, loader: str) -> None:
    config = small_config(hands, tmp_path, epochs=4)
    config.device, config.train.amp, config.loader = "cuda", amp, loader  # type: ignore[assignment]
    records = read_metrics(train(config, distributed.init_distributed("cuda")))
    assert records[-1]["loss"] < records[0]["loss"]


def test_half_recognized_sides_are_refused_before_training(tmp_path: Path, error_of: ErrorOf) -> None:
    """A mirrored image would keep the labels of joints whose names tell a side that no partner has."""
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/a.png"), np.zeros((80, 96, 3), np.uint8))
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 60, 60], "keypoints": [9, 9, 2] * 3}],
        "categories": [{"id": 1, "name": "cat", "keypoints": ["left_eye", "right_eye", "left_paw"]}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    files = ["--dataset", "coco", "--annotations", tmp_path / "a.json", "--valid-annotations", tmp_path / "a.json"]
    message = error_of(main, *files, "--images", tmp_path / "images", "--out", tmp_path)
    assert "the names of the joints 'left_paw' tell a side" in message and '[["left_eye", "right_eye"]]' in message
    assert "--allow sides" in message
