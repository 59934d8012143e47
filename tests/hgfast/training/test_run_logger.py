"""The log files of a run: events by TensorBoard's reader, lines of metrics.jsonl, full disks, and the content of images."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import hgfast.visualization.overlays
from hgfast import checkpoints
from hgfast.architectures import PRESETS
from hgfast.errors import HgfastError
from hgfast.metrics import BOX_PCK, PCKH
from hgfast.model import Meta
from hgfast.normalization import Normalization
from hgfast.pipelines.samples import Samples
from hgfast.training.run_logger import RunLogger
from hgfast.visualization.draw import Image, draw_skeleton, normalize_heatmaps
from hgfast.visualization.gallery import TILE_SIZE, select_evenly
from hgfast.visualization.overlays import accuracy_curves, joint_metrics, log_validation, validation_grid
from tests.factories import limit_file_size
from tests.finder import SKELETON, DotDetector, draw_dots, save

RECORD = {"epoch": 1, "step": 20, "loss": 1.23456, "lr": 0.001, "images_per_s": 321.7, "data_wait": 0.0312}
FULL = Path("/dev/full")  # where every write finds no space left


def read_events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder / "events"), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def scalars(events: EventAccumulator, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in events.Scalars(name)]


def images(events: EventAccumulator, name: str) -> dict[int, Image]:
    """A tag's images by step, RGB."""
    found = {}
    for event in events.Images(name):
        image = cv2.imdecode(np.frombuffer(event.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None and (event.height, event.width) == image.shape[:2]
        found[event.step] = image[..., ::-1]
    return found


# ---- what is written ----


def test_curves_are_read_back(tmp_path: Path) -> None:
    with closing(RunLogger(tmp_path / "run")) as log:
        assert not list(tmp_path.iterdir())  # no file is created before the first record
        for step in range(50, 301, 50):
            log.log_scalars(step, {"train/loss": 1 / step, "speed/images_per_s": 10.0 * step})
            assert scalars(read_events(tmp_path / "run"), "train/loss")[-1] == (
                step,
                pytest.approx(1 / step),
            )  # also before the end
        log.log_scalars(400, {})
    events = read_events(tmp_path / "run")
    assert scalars(events, "speed/images_per_s") == [(step, 10.0 * step) for step in range(50, 301, 50)]
    assert abs(events.Scalars("train/loss")[0].wall_time - time.time()) < 60
    assert set(events.Tags()["scalars"]) == {"train/loss", "speed/images_per_s"}
    assert len(list((tmp_path / "run/events").iterdir())) == 1


def test_a_continued_run_shows_each_step_once(tmp_path: Path) -> None:
    with closing(RunLogger(tmp_path)) as log:
        for step in range(10, 101, 10):
            log.log_scalars(step, {"train/loss": 1.0})
        log.log_image(60, "valid/grid", np.zeros((4, 4, 3), np.uint8))
        log.log_image(100, "valid/grid", np.zeros((4, 4, 3), np.uint8))
    for life in (2.0, 3.0):  # killed again before the next checkpoint
        with closing(RunLogger(tmp_path, 60)) as log:
            for step in range(70, 131, 10):
                log.log_scalars(step, {"train/loss": life})
            log.log_image(120, "valid/grid", np.full((4, 4, 3), 255, np.uint8))
    events = read_events(tmp_path)
    assert len(list((tmp_path / "events").iterdir())) == 3
    assert scalars(events, "train/loss") == [(s, 1.0) for s in range(10, 61, 10)] + [(s, 3.0) for s in range(70, 131, 10)]
    assert sorted(images(events, "valid/grid")) == [60, 120] and len(events.Images("valid/grid")) == 2


def test_images_round_trip(tmp_path: Path) -> None:
    image = draw_dots(120, 80, np.array([[20.0, 20.0], [60.0, 50.0], [100.0, 30.0]]), 8)
    with closing(RunLogger(tmp_path)) as log:
        log.log_image(7, "photo", image)
        log.log_image(8, "chart", image, ".png")
    events = read_events(tmp_path)
    assert np.array_equal(images(events, "chart")[8], image)
    assert np.abs(images(events, "photo")[7].astype(int) - image).mean() < 4


def test_an_epochs_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"pck@0.2": 0.98765, "epe_px": 3.21, "missing": float("nan")}
    with closing(RunLogger(tmp_path)) as log:
        log.log_epoch(RECORD)
        assert capsys.readouterr() == ("", "")
        assert not (tmp_path / "events").exists()
        log.log_epoch({**RECORD, "epoch": 2, "step": 40, "valid": figures})
        log.print_epoch({**RECORD, "epoch": 2, "step": 40, "valid": figures})
        first = "epoch 2: loss 1.235, 322 images/s, waits for data 3% | "
        assert capsys.readouterr().out == first + "pck@0.2 0.9877, epe_px 3.21, missing nan\n"
        log.log_epoch({**RECORD, "epoch": 3, "step": 60, "valid": figures})
        log.print_epoch({**RECORD, "epoch": 3, "step": 60, "valid": figures}, console_metrics=["epe_px"])
        assert capsys.readouterr().out == first.replace("2", "3", 1) + "epe_px 3.21\n"
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40, 60] and lines[0] == RECORD
    assert lines[1]["valid"] == {"pck@0.2": 0.98765, "epe_px": 3.21, "missing": None}
    events = read_events(tmp_path)
    assert events.Tags()["scalars"] == ["valid/pck@0.2", "valid/epe_px"]
    assert scalars(events, "valid/epe_px") == [(40, pytest.approx(3.21)), (60, pytest.approx(3.21))]


def test_lines_of_later_steps_and_a_broken_one_are_dropped(tmp_path: Path) -> None:
    path, log = tmp_path / "metrics.jsonl", RunLogger(tmp_path, 40)
    log.truncate_after(40)
    assert not path.exists()
    whole = [json.dumps({"epoch": epoch, "step": 20 * epoch}) + "\n" for epoch in range(1, 5)]
    path.write_text("".join(whole) + '{"epoch": 5, "st')
    log.truncate_after(40)
    assert path.read_text() == "".join(whole[:2])
    path.write_text("".join(whole[:3]) + whole[3][:-1])  # all there but the end of the line
    log.truncate_after(1000)
    assert path.read_text() == "".join(whole[:3])
    for strange in ("12\n", "[]\n", '{"epoch": 4}\n', "step 5\n", '{"step": null}\n'):
        path.write_text(whole[0] + strange)
        with pytest.raises(HgfastError, match=r"metrics.jsonl, line 2, was not written by training .*: remove it"):
            log.truncate_after(40)
        assert path.read_text() == whole[0] + strange
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_other_ranks_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").write_text("not JSON\n")
    with closing(RunLogger(tmp_path, is_main=False)) as log:
        log.truncate_after(3)
        log.log_scalars(1, {"train/loss": 1.0})
        log.log_image(1, "photo", np.zeros((4, 4, 3), np.uint8))
        log.log_epoch({**RECORD, "valid": {"epe_px": 1.0}})
        log.warn_once("something")
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert (tmp_path / "metrics.jsonl").read_text() == "not JSON\n"
    assert capsys.readouterr() == ("", "")


def test_warn_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLogger(tmp_path)
    for text in ("one", "other", "one"):
        log.warn_once(text)
    assert capsys.readouterr() == ("", "one\nother\n")


# ---- what cannot be written ----


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to(FULL)
    with pytest.raises(HgfastError, match=r"cannot write .*metrics.jsonl \(No space left .*\): free some space"):
        RunLogger(tmp_path).log_epoch(RECORD)


def test_what_does_not_fit_leaves_the_files_as_they_were(tmp_path: Path) -> None:
    with closing(RunLogger(tmp_path)) as log:
        log.log_epoch(RECORD)
        log.log_scalars(20, {"train/loss": 0.5})
        (events,) = (tmp_path / "events").iterdir()
        for path, write in (
            (tmp_path / "metrics.jsonl", lambda: log.log_epoch({**RECORD, "step": 40})),
            (events, lambda: log.log_scalars(40, {"train/loss": 0.4, "train/lr": 0.1})),
        ):
            content = path.read_bytes()
            with limit_file_size(len(content) + 10), pytest.raises(HgfastError, match=rf"cannot write .*{path.parent.name}"):
                write()
            assert path.read_bytes() == content
            write()
    assert [line["step"] for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())] == [20, 40]
    assert scalars(read_events(tmp_path), "train/loss") == [(20, 0.5), (40, pytest.approx(0.4))]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "events").touch()
    log = RunLogger(tmp_path)
    for write in (lambda: log.log_scalars(1, {"a": 1.0}), lambda: log.log_image(1, "b", np.zeros((4, 4, 3), np.uint8))):
        with pytest.raises(HgfastError, match=r"cannot write .*events \(File exists\)"):
            write()
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(HgfastError, match=r"cannot write .*metrics.jsonl \(Is a directory\)"):
        log.log_epoch(RECORD)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_leave_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(HgfastError, match=r"\(Permission denied\)"):
        RunLogger(tmp_path).log_scalars(1, {"a": 1.0})
    tmp_path.chmod(0o700)


def test_without_tensorboard_it_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(HgfastError, match="pip install tensorboard"):
        RunLogger(tmp_path).log_scalars(1, {"a": 1.0})
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_from_the_start_leaves_no_file_of_events(tmp_path: Path) -> None:
    with limit_file_size(10), pytest.raises(HgfastError, match="cannot write"):
        RunLogger(tmp_path).log_scalars(1, {"a": 1.0})
    assert not list((tmp_path / "events").iterdir())


# ---- what there is to see ----

SIDE = 112  # of the squares, source pixels: a tile has two pixels for each


def dot_samples(folder: Path, count: int, shift: float = 0.0) -> Samples:
    """Images with a square of three dots somewhere, a different one each; the labels are `shift` pixels too far down."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, (200 - SIDE, 160 - SIDE), (count, 2))
    points = corners[:, None] + rng.uniform(20, 92, (count, 3, 2)).round()
    points[:, :2] = corners[:, None] + np.array([[24, 88], [88, 88]])  # never two of them in one place
    points[:, 2, 1] = corners[:, 1] + 24
    paths = [str(folder / f"{n}.png") for n in range(count)]
    for path, three in zip(paths, points):
        save(path, draw_dots(200, 160, three, 4))
    return Samples(
        paths=np.array(paths),
        center=corners + SIDE / 2,
        side=np.full(count, float(SIDE)),
        keypoints=points + np.array([0, shift]),
        labeled=np.ones((count, 3), bool),
        reference=np.full(count, 40.0),
        group=np.arange(count),
        row=np.arange(count) + 100,
        skeleton=SKELETON,
        pixel_offset=0.0,
    )


def tiles(image: Image) -> list[NDArray[np.int64]]:
    """The tiles of a grid, row by row, without their captions."""
    height, width = image.shape[0] // TILE_SIZE, image.shape[1] // TILE_SIZE
    assert image.shape == (height * TILE_SIZE, width * TILE_SIZE, 3)
    return [
        image[y * TILE_SIZE + 18 : (y + 1) * TILE_SIZE, x * TILE_SIZE : (x + 1) * TILE_SIZE].astype(int)
        for y in range(height)
        for x in range(width)
    ]


def dot_centers(tile: NDArray[np.int64]) -> NDArray[np.float64]:
    """The centers (M, 2) of a tile's white spots in the pixels of the whole tile, from left to right."""
    centers = cv2.connectedComponentsWithStats((tile.min(-1) > 200).astype(np.uint8))[3]
    return centers[1:][np.argsort(centers[1:, 0])] + (0.5, 18.5)


def test_grid_of_perfect_model(tmp_path: Path) -> None:
    samples = dot_samples(tmp_path, 3)
    model: Any = DotDetector()
    image = validation_grid(model, samples)
    shown = tiles(image)
    assert image.shape == (2 * TILE_SIZE, 6 * TILE_SIZE, 3) and all(tile.max() == 0 for tile in shown[9:])
    places = (samples.keypoints - samples.center[:, None]) * TILE_SIZE / SIDE + TILE_SIZE / 2
    for n in range(3):
        truth, guess, heat = shown[3 * n : 3 * n + 3]
        by_place = places[n][np.argsort(places[n][:, 0])]
        for tile in (truth, guess):
            assert np.abs(dot_centers(tile) - by_place).max() < 1.5  # pixels of the tile
        assert (np.abs(truth - guess).max(-1) > 100).sum() < 50
        columns, rows = places[n].astype(int).T
        assert (heat[rows - 18, columns, 0] > 90).all()  # hot is red, over a green dot, too
        far = np.linalg.norm(np.indices(heat.shape[:2])[::-1].T - (places[n] - (0, 18))[:, None, None], axis=-1).min(0).T > 40
        assert far.any() and heat[far].max() < 40


def test_grid_of_wrong_model(tmp_path: Path) -> None:
    samples = dot_samples(tmp_path, 2)
    model: Any = DotDetector()
    model.colors.data = model.colors.data[[1, 2, 0]].clone()
    for truth, guess in zip(*(tiles(validation_grid(model, samples))[k::3] for k in (0, 1))):
        assert len(dot_centers(truth)) == len(dot_centers(guess)) == 3  # in the same places, but the edges are others
        assert (np.abs(truth - guess).max(-1) > 100).sum() > 200
    off = dot_samples(tmp_path, 2, shift=6)
    for truth, guess in zip(*(tiles(validation_grid(DotDetector(), off))[k::3] for k in (0, 1))):  # type: ignore[arg-type]
        assert (dot_centers(truth) - dot_centers(guess)).mean(0) == pytest.approx([0, 6 * TILE_SIZE / SIDE], abs=1)


def test_the_grid_has_the_same_labeled_samples_each_time(tmp_path: Path) -> None:
    samples = dot_samples(tmp_path, 12)
    samples.labeled[[0, 5]] = False
    samples.labeled[1, 2] = False
    model: Any = DotDetector()
    image = validation_grid(model, samples, 4)
    assert np.array_equal(validation_grid(model, samples, 4), image) and image.shape == (2 * TILE_SIZE, 6 * TILE_SIZE, 3)
    known = [1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    for tile, sample in zip(tiles(image)[::3], (known[0], known[3], known[6], known[9])):
        left, top = (samples.center[sample] - SIDE / 2).tolist()
        matrix = np.array([[2, 0, 0.5 - 2 * left], [0, 2, 0.5 - 2 * top]])  # OpenCV counts from the first pixel's center
        crop = cv2.warpAffine(cv2.imread(samples.paths[sample])[..., ::-1], matrix, (TILE_SIZE, TILE_SIZE))
        points = (samples.keypoints[sample] - (left, top)) * 2
        overlay = draw_skeleton(np.asarray(crop, np.uint8), points, SKELETON, samples.labeled[sample])
        assert np.median(np.abs(tile - overlay[18:]).max(-1)) == 0 and np.abs(tile - overlay[18:]).mean() < 1
        assert len(dot_centers(tile)) == samples.labeled[sample].sum()
    assert validation_grid(model, samples, 1).shape == (TILE_SIZE, 3 * TILE_SIZE, 3)
    assert select_evenly(np.arange(5) * 10, 2).tolist() == [0, 40] and select_evenly(np.arange(3), 8).tolist() == [0, 1, 2]


def test_unreadable_images_are_dark_tiles(tmp_path: Path) -> None:
    samples = dot_samples(tmp_path, 3)
    Path(samples.paths[0]).unlink()
    Path(samples.paths[2]).write_text("not an image")
    model: Any = DotDetector()
    image = validation_grid(model, samples)
    shown = tiles(image)
    assert all(shown[n].max() == 0 for n in (0, 1, 2, 6, 7, 8)) and len(dot_centers(shown[3])) == 3
    assert image[:18, :TILE_SIZE].max() > 200 and image[TILE_SIZE : TILE_SIZE + 18, :TILE_SIZE].max() > 200  # which says so


def test_grid_keeps_statistics_and_mode(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = checkpoints.build_model(PRESETS["tiny"], Meta(SKELETON, Normalization(), 64, "logits", "dark", 0.0)).train()
    model.stem.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    image = validation_grid(model, dot_samples(tmp_path, 2))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes and len(set(modes)) == 2
    assert image.std() > 5


def test_normalize_heatmaps() -> None:
    maps = np.zeros((4, 2, 3), np.float32)
    maps[0] = np.log([[1, 2, 4], [1, 1, 1]])
    maps[1], maps[2, 0, 0], maps[3] = np.nan, 1e30, -7
    assert np.allclose(normalize_heatmaps(maps, "logits")[0], [[0.25, 0.5, 1], [0.25, 0.25, 0.25]])
    assert (normalize_heatmaps(maps, "logits")[[1, 3]] == 1).all()
    assert np.allclose(normalize_heatmaps(maps, "gaussian")[0], maps[0] / np.log(4))
    assert not normalize_heatmaps(maps, "gaussian")[[1, 3]].any()
    assert (
        normalize_heatmaps(maps, "gaussian")[2].tolist()
        == normalize_heatmaps(maps, "logits")[2].tolist()
        == [[1, 0, 0], [0, 0, 0]]
    )


def random_predictions(samples: Samples) -> NDArray[np.float64]:
    """Red always 3.9 pixels off, green 12 in every other sample, blue never labeled; the last sample has no prediction."""
    samples.labeled[:, 2] = False
    predicted = samples.keypoints.copy()
    predicted[:, 0, 0] += 3.9
    predicted[::2, 1, 1] -= 12
    predicted[-1] = np.nan
    return predicted


def test_joints_and_curve_by_hand(tmp_path: Path) -> None:
    samples = dot_samples(tmp_path, 5)  # a reference of 40 pixels each
    predicted = random_predictions(samples)
    rows = joint_metrics(samples, predicted, BOX_PCK)
    assert [list(row) for row in rows] == [["joint", "pck@0.2", "epe_px"]] * 3
    assert [row["joint"] for row in rows] == list(SKELETON.joints)
    assert [row["pck@0.2"] for row in rows] == pytest.approx([1, 0.5, np.nan], nan_ok=True)
    assert [row["epe_px"] for row in rows] == pytest.approx([3.9, 6, np.nan], nan_ok=True)
    assert [row["pckh@0.5"] for row in joint_metrics(samples, predicted, PCKH)][:2] == [100, 100]
    curves = accuracy_curves(samples, {"network": predicted, "truth": samples.keypoints}, BOX_PCK)
    wanted = (2 + 4 * (curves.thresholds > 3.9 / 40)) / 8  # of two joints in four samples; half of green is exact
    assert curves.accuracy["network"].tolist() == [0, *wanted[1:]]
    assert (curves.accuracy["truth"][1:] == 1).all() and (curves.max_value, curves.thresholds[-1]) == (1, 0.2)
    predicted[1, 0] = np.inf  # that sample was seen: its joint is a miss
    assert [row["pck@0.2"] for row in joint_metrics(samples, predicted, BOX_PCK)][:2] == [0.75, 0.5]
    assert [row["epe_px"] for row in joint_metrics(samples, predicted, BOX_PCK)][:2] == pytest.approx([3.9, 6])
    body = accuracy_curves(samples, {"network": predicted}, BOX_PCK)
    assert body.accuracy["network"][-1] == 5 / 8


def test_non_finite_prediction_has_no_distance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions: list[str] = []
    caption = hgfast.visualization.gallery.add_caption
    monkeypatch.setattr(
        hgfast.visualization.gallery, "add_caption", lambda image, text: captions.append(text) or caption(image, text)
    )
    whole = hgfast.visualization.overlays.predict_crops

    def part(*words: Any) -> Any:
        keypoints, crops, maps = whole(*words)
        keypoints[:, 1, 0] = np.inf
        return keypoints, crops, maps

    monkeypatch.setattr(hgfast.visualization.overlays, "predict_crops", part)
    model: Any = DotDetector()
    assert len(dot_centers(tiles(validation_grid(model, dot_samples(tmp_path, 2)))[1])) == 2  # of three
    assert captions[1::2] == ["predicted, not all finite"] * 2


def test_show_gives_tensorboard_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    samples = dot_samples(tmp_path / "data", 5)
    model: Any = DotDetector()
    with closing(RunLogger(tmp_path / "run")) as log:
        for step in (20, 40):
            log_validation(samples, BOX_PCK, log, step, random_predictions(samples), model, count=2)
    events = read_events(tmp_path / "run")
    assert events.Tags()["scalars"] == ["joints/red", "joints/left_green"]  # and no blue
    assert scalars(events, "joints/left_green") == [(20, 0.5), (40, 0.5)]
    grids, curves = images(events, "valid/grid"), images(events, "valid/curve")
    assert sorted(grids) == sorted(curves) == [20, 40]
    assert grids[40].shape == (TILE_SIZE, 6 * TILE_SIZE, 3)
    assert np.abs(grids[40].astype(int) - validation_grid(model, samples, 2)).mean() < 4
    assert curves[20].shape == (546, 780, 3) and (curves[20] == 255).mean() > 0.5  # 4.2 by 6 inches
    assert not np.array_equal(curves[20], curves[40])  # the title has the step
    assert (np.abs(curves[20].astype(int) - (31, 119, 180)).max(-1) < 10).sum() > 300  # matplotlib's first blue


def test_without_matplotlib_the_curve_is_left_out_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "hgfast.visualization.charts", raising=False)
    monkeypatch.delattr("hgfast.visualization.charts", raising=False)
    (tmp_path / "data").mkdir()
    samples = dot_samples(tmp_path / "data", 2)
    with closing(RunLogger(tmp_path / "run")) as log:
        for step in (20, 40):
            log_validation(samples, BOX_PCK, log, step, samples.keypoints, DotDetector(), count=1)  # type: ignore[arg-type]
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1 and "pip install matplotlib" in stderr
    assert read_events(tmp_path / "run").Tags()["images"] == ["valid/grid"]


def test_files_are_in_order_although_the_clock_was_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard reads them in the order of their names, so that the later curve hides the repeated steps of the earlier one."""
    for now, step in ((2e9, 0), (1e9, 3), (1.5e9, 5)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        with closing(RunLogger(tmp_path, step)) as log:
            for later in range(step + 1, step + 4):
                log.log_scalars(later, {"a": float(100 * step + later)})
    assert scalars(read_events(tmp_path), "a") == [(1, 1), (2, 2), (3, 3), (4, 304), (5, 305), (6, 506), (7, 507), (8, 508)]
