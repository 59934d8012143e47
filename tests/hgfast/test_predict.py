"""predict.py on anybody's images: odd files, EXIF, boxes, names, and what is left behind when some are bad."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hgfast import checkpoints
from hgfast.architectures import PRESETS
from hgfast.checkpoints import build_model, model_state
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError
from hgfast.model import Meta
from hgfast.normalization import Normalization
from hgfast.predict import PredictConfig, list_files, main, output_stems, predict, prefetch
from hgfast.runtime.torch_predictor import TorchPredictor
from hgfast.skeletons import BODY16
from hgfast.visualization.draw import read_image
from tests.conftest import Command
from tests.finder import DotDetector, draw_dots, save
from tests.odd_images import rotated_jpeg

POINTS = np.array([[90.0, 60.0], [150.0, 50.0], [130.0, 110.0]])
WIDTH, HEIGHT = 240, 160


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run predict with the stand-in network; gives file name -> (P, 3, 3) keypoints."""
    monkeypatch.setattr("hgfast.checkpoints.load_model", lambda *_: DotDetector())

    def run_predict(*images: Path, **options: Any) -> dict[str, NDArray[np.float64]]:
        config = PredictConfig(checkpoint=Path("x.pt"), images=list(images), out=tmp_path / "out", **options)
        predict(config)
        content = json.loads((tmp_path / "out/keypoints.json").read_text())
        run_predict.content = content  # type: ignore[attr-defined]
        return {Path(i["file"]).name: np.array([p["keypoints"] for p in i["people"]]) for i in content["images"]}

    return run_predict


def is_close(keypoints: NDArray[np.float64], points: NDArray[np.float64] = POINTS) -> bool:
    return bool(np.linalg.norm(keypoints[0, :, :2] - points, axis=1).max() < 0.6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(found: Any, tmp_path: Path, orientation: int) -> None:
    """Every orientation of the same upright image gives the same keypoints, in upright coordinates."""
    (tmp_path / "a.jpg").write_bytes(rotated_jpeg(draw_dots(WIDTH, HEIGHT, POINTS, 5), orientation))
    assert is_close(found(tmp_path / "a.jpg")["a.jpg"])
    entry = found.content["images"][0]
    assert (entry["width"], entry["height"]) == (WIDTH, HEIGHT)
    assert read_image(tmp_path / "out/a.jpg").shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("ending", ["png", "bmp", "webp", "tiff", "jpg", "ppm"])
def test_formats(found: Any, tmp_path: Path, ending: str) -> None:
    save(str(tmp_path / f"a.{ending}"), draw_dots(WIDTH, HEIGHT, POINTS, 5))
    assert is_close(found(tmp_path)[f"a.{ending}"])


def test_16_bit_alpha_gray_and_portrait(found: Any, tmp_path: Path) -> None:
    bgr = draw_dots(WIDTH, HEIGHT, POINTS, 5)[..., ::-1]
    cv2.imwrite(str(tmp_path / "deep.png"), bgr.astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([bgr, np.full((HEIGHT, WIDTH), 255, np.uint8)]))
    cv2.imwrite(str(tmp_path / "portrait.png"), np.ascontiguousarray(bgr.swapaxes(0, 1)))
    cv2.imwrite(str(tmp_path / "grey.png"), bgr.max(2))
    cv2.imwrite(str(tmp_path / "grey16.png"), bgr.max(2).astype(np.uint16) * 257)
    keypoints = found(tmp_path)
    assert is_close(keypoints["deep.png"]) and is_close(keypoints["alpha.png"])
    assert is_close(keypoints["portrait.png"], POINTS[:, ::-1])
    assert keypoints["grey.png"].shape == keypoints["grey16.png"].shape == (1, 3, 3)
    assert not found.content["failed"]


def test_large_and_thin(found: Any, tmp_path: Path) -> None:
    points = POINTS * 10
    save(str(tmp_path / "large.png"), draw_dots(2400, 1600, points, 48))
    save(str(tmp_path / "thin.png"), np.full((700, 1, 3), 90, np.uint8))
    save(str(tmp_path / "flat.png"), np.full((1, 5, 3), 90, np.uint8))
    save(str(tmp_path / "pixel.png"), np.full((1, 1, 3), 90, np.uint8))
    keypoints = found(tmp_path)
    assert np.linalg.norm(keypoints["large.png"][0, :, :2] - points, axis=1).max() < 0.25 * 2400 / 128
    assert set(keypoints) == {"large.png", "thin.png", "flat.png", "pixel.png"}
    assert all(np.isfinite(k).all() for k in keypoints.values())


def test_boxes_and_several_people(found: Any, tmp_path: Path) -> None:
    image = np.concatenate([draw_dots(WIDTH, HEIGHT, POINTS, 5), draw_dots(WIDTH, HEIGHT, POINTS + 5, 5)], axis=1)
    save(str(tmp_path / "two.png"), image)
    keypoints = found(tmp_path / "two.png", box=f"0,0,{WIDTH},{HEIGHT} {WIDTH},0,{WIDTH},{HEIGHT}")["two.png"]
    assert is_close(keypoints[:1]) and is_close(keypoints[1:], POINTS + np.array([WIDTH + 5, 5]))
    assert found.content["images"][0]["people"][1]["square"] == [WIDTH, -40, WIDTH, WIDTH]
    save(str(tmp_path / "small.png"), image[:50, :50])
    keypoints = found(tmp_path / "small.png", tmp_path / "two.png", box=f"{WIDTH},0,{WIDTH},{HEIGHT}")
    assert set(keypoints) == {"two.png"}  # the box lies outside the other, which is said and does not end the run
    assert "outside the image of 50 x 50" in found.content["failed"][0]["reason"]


def test_overlay_uses_skeleton_colors(found: Any, tmp_path: Path) -> None:
    save(str(tmp_path / "a.png"), draw_dots(WIDTH, HEIGHT, POINTS, 5))
    found(tmp_path / "a.png", heatmaps=True)
    drawn = read_image(tmp_path / "out/a.jpg").astype(int)
    middle = (POINTS[0] + POINTS[1]) / 2  # of a red edge
    assert drawn[int(middle[1]), int(middle[0]), 0] > 100
    assert read_image(tmp_path / "out/a_heatmaps.jpg").shape == (224, 6 * 224, 3)
    found(tmp_path / "a.png", min_score=2.0)
    drawn = read_image(tmp_path / "out/a.jpg").astype(int)
    assert drawn[int(middle[1]), int(middle[0])].max() < 60
    (tmp_path / "out/a.jpg").unlink()
    found(tmp_path / "a.png", draw=False)
    assert not (tmp_path / "out/a.jpg").exists()


def test_heatmap_grid_tiles(found: Any, tmp_path: Path) -> None:
    save(str(tmp_path / "a.png"), draw_dots(WIDTH, HEIGHT, POINTS, 5))
    found(tmp_path / "a.png", heatmaps=True)
    entry = found.content["images"][0]
    assert (entry["drawn"], entry["heatmaps"]) == ("a.jpg", "a_heatmaps.jpg")
    sheet = read_image(tmp_path / "out" / entry["heatmaps"]).astype(int)
    within = (POINTS + np.array([0, (WIDTH - HEIGHT) / 2])) * 224 / WIDTH  # of a square of the image's longer side
    first = sheet[:, :224]
    middle = (within[0] + within[1]) / 2
    assert first[int(middle[1]) - 2 : int(middle[1]) + 3, int(middle[0]), 0].max() > 100  # the red edge
    tiles = np.stack([sheet[20:, 224 * joint : 224 * (joint + 1)] for joint in (1, 2, 3)])
    for tile, (x, y) in zip(tiles, within):
        painted = np.abs(tile - np.median(tiles, 0)).sum(-1)  # the crop is the same in all three
        hot = np.argwhere(painted > 0.7 * painted.max()).mean(0)
        assert abs(hot[0] + 20 - y) < 12 and abs(hot[1] - x) < 12


def test_unwritable_overlay_does_not_stop_the_run(found: Any, tmp_path: Path) -> None:
    save(str(tmp_path / "long.png"), np.zeros((2, 70000, 3), np.uint8))
    save(str(tmp_path / "short.png"), draw_dots(WIDTH, HEIGHT, POINTS, 5))
    assert set(found(tmp_path)) == {"short.png"}
    assert "does not support 70000 x 2 pixels" in found.content["failed"][0]["reason"]


def test_undecodable_file_names(found: Any, tmp_path: Path) -> None:
    strange = tmp_path / os.fsdecode(b"bad\xff.png")
    save(str(tmp_path / "a.png"), draw_dots(WIDTH, HEIGHT, POINTS, 5))
    (tmp_path / "a.png").rename(strange)
    assert len(found(tmp_path)) == 1
    assert (tmp_path / "out" / os.fsdecode(b"bad\xff.jpg")).exists()


def test_an_earlier_result_stays_when_nothing_is_done(found: Any, tmp_path: Path) -> None:
    save(str(tmp_path / "a.png"), draw_dots(WIDTH, HEIGHT, POINTS, 5))
    found(tmp_path / "a.png")
    before = (tmp_path / "out/keypoints.json").read_bytes()
    result = predict(PredictConfig(checkpoint=Path("x"), images=[tmp_path / "gone.png"], out=tmp_path / "out"))
    assert len(result["failed"]) == 1
    assert (tmp_path / "out/keypoints.json").read_bytes() == before


def test_names_never_collide() -> None:
    files = [Path(f"a/{n}.jpg") for n in ("y_heatmaps", "y", "x", "x_2", "x_heatmaps")] + [
        Path(n) for n in ("b/x.jpg", "a/x.png", "X.bmp")
    ]
    names = [*output_stems(files).values()]
    written = [n.lower() for name in names for n in (name, f"{name}_heatmaps")]
    assert len(set(written)) == len(written) == 16
    assert names[2] == "x"


def test_folders_and_repetitions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("b.jpg", "a.PNG", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "empty").mkdir()
    files, bad = list_files([tmp_path, tmp_path / "b.jpg", tmp_path / "notes.txt", tmp_path / "empty"], tmp_path / "out")
    assert [f.name for f in files] == ["a.PNG", "b.jpg", "notes.txt"]
    assert bad == [(tmp_path / "empty", f"{tmp_path / 'empty'} is a folder without images")]
    skipped = "files that are no images or videos by their suffix are left out: 1 .txt"
    assert capsys.readouterr().err == f"warning: {tmp_path}: {skipped}\n"
    with pytest.raises(HgfastError, match="might be overwritten"):
        list_files([tmp_path / "b.jpg"], tmp_path / "empty" / "..")


def test_reading_ahead_keeps_the_order(tmp_path: Path) -> None:
    files = []
    for n in range(9):
        files.append(tmp_path / f"{n}.png")
        if n % 4:
            save(str(files[-1]), np.full((300 if n % 2 else 3, 5, 3), n, np.uint8))
    results = list(prefetch(files))
    assert [path for path, _ in results] == files
    for n, (_, image) in enumerate(results):
        assert isinstance(image, HgfastError) if n % 4 == 0 else image[0, 0, 0] == n  # type: ignore[index]


def test_interrupted_run_writes_partial_results(found: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(3):
        save(str(tmp_path / f"{n}.png"), draw_dots(WIDTH, HEIGHT, POINTS, 5))
    look, calls = TorchPredictor.predict_crops, []

    def interrupt(*words: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return look(*words)

    monkeypatch.setattr(TorchPredictor, "predict_crops", interrupt)
    with pytest.raises(KeyboardInterrupt):
        found(tmp_path)
    assert [Path(i["file"]).name for i in json.loads((tmp_path / "out/keypoints.json").read_text())["images"]] == [
        "0.png",
        "1.png",
    ]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    model = build_model(PRESETS["tiny"], Meta(BODY16, Normalization(), 64, "logits", "dark", -0.5))
    checkpoints.save(model_state(model), tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


def test_odd_images(checkpoint: Path, tmp_path: Path, in_process: Command) -> None:
    """Good images among bad ones are all done, each bad one is named once, and the exit code says that there were some."""
    rng, photos = np.random.default_rng(0), tmp_path / "photos"
    photos.mkdir()
    for name, shape in {
        "thin.png": (400, 1, 3),
        "grey.jpg": (90, 120),
        "huge.jpg": (1000, 2000, 3),
        "tall.jpg": (300, 100, 3),
    }.items():
        cv2.imwrite(str(photos / name), rng.integers(0, 256, shape, dtype=np.uint8))
    (photos / "text.jpg").write_text("not an image")
    (photos / "zero.jpg").write_bytes(b"")
    (photos / "folder.jpg").mkdir()
    words = [photos, tmp_path / "missing.jpg", photos / "grey.jpg", "--out", tmp_path / "out", "--heatmaps"]
    done = in_process(main, checkpoint, *words)
    assert done.returncode == 2
    for bad in ("text.jpg", "zero.jpg", "folder.jpg", "missing.jpg"):
        assert done.stderr.count(bad) == 1
    assert done.stderr.endswith("error: 4 of 8 images failed, see above\n")
    assert "Traceback" not in done.stderr and "WARN" not in done.stderr
    content = json.loads((tmp_path / "out/keypoints.json").read_text())
    assert [Path(i["file"]).name for i in content["images"]] == ["grey.jpg", "huge.jpg", "tall.jpg", "thin.png"]
    assert len(content["joints"]) == 16 and len(content["failed"]) == 4
    assert {f.name for f in (tmp_path / "out").iterdir()} == {
        "keypoints.json", *(f"{n}{s}.jpg" for n in ("grey", "huge", "tall", "thin") for s in ("", "_heatmaps")),
    }  # fmt: skip
    words = ["--flip-test", photos / "grey.jpg", "--out", tmp_path / "out2", photos / "tall.jpg", "--box", "-5,2,60,70"]
    done = in_process(main, checkpoint, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 images done" in done.stdout and "outside" not in done.stderr


def test_summary_names_output_files(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((80, 90, 3), 99, np.uint8))
    film = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (96, 64))
    for _ in range(3):
        film.write(np.full((64, 96, 3), 99, np.uint8))
    film.release()
    out = tmp_path / "out"
    words = [checkpoint, tmp_path / "photo.png", tmp_path / "film.avi", "--out", out]
    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, words)])
    main()
    assert capsys.readouterr().out.splitlines() == [
        f"1 image done: {out}/keypoints.json, and the annotated images in the same folder (joints with a score of 0.2 or more)",
        f"3 frames of {tmp_path}/film.avi done: {out}/film.jsonl and {out}/film.webm",
    ]
    assert (out / "film.jsonl").is_file() and (out / "film.webm").is_file()


BAD = [
    (["{ck}"], "images"),
    (["nowhere.pt", "a.jpg"], "no checkpoint at nowhere.pt"),
    (["{ck}", "a.jpg", "--box", "1,2,3"], "must be x,y,width,height"),
    (["{ck}", "a.jpg", "--box", "1,2,3,x"], "must be x,y,width,height"),
    (["{ck}", "a.jpg", "--box", ""], "must be x,y,width,height"),
    (["{ck}", "a.jpg", "--padding", "0"], "--padding 0 must be above 0"),
    (["{ck}", "a.jpg", "--box", "1,2,nan,4"], "not finite"),
    (["{ck}", "a.jpg", "--box", "1,2,0,4"], "no area"),
    (["{ck}", "a.jpg", "--padding", "1.25"], "--padding requires --box"),
    (["{ck}", "--", "-x.jpg"], "1 of 1 images failed"),
    (["{ck}", "a.jpg", "--boxes", "1,2,3,4"], "did you mean --box?"),
    (["{ck}", "a.jpg", "--out", "{ck}"], "cannot make the folder"),
]


@pytest.mark.parametrize(("words", "sentence"), BAD)
def test_bad_input(
    words: list[str], sentence: str, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["predict.py", "--out", str(checkpoint.parent / "out"), *(w.format(ck=checkpoint) for w in words)]
    )
    with pytest.raises(SystemExit) as end:
        run_main(main)
    printed = capsys.readouterr().err
    assert end.value.code == 2
    assert sentence in printed
    assert printed.count("\n") == 1 + printed.count("failed: ")
