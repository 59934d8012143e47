"""An exported network in an application: compared with the checkpoint, on unusual images, from threads, and without torch."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from hgfast import load_model
from hgfast.errors import HgfastError
from hgfast.export.exporter.artifact import ExportedArtifact
from hgfast.pipelines.synthetic_data.images import render_images
from hgfast.predict import PredictConfig, predict
from hgfast.runtime.backends import DeviceOptions, make_run_fn
from hgfast.runtime.boxes import crop_squares
from hgfast.runtime.session import Session
from hgfast.runtime.torch_predictor import predict_crops
from hgfast.skeletons import BODY16
from hgfast.visualization.draw import write_image
from tests.conftest import ROOT
from tests.exports import export_onnx

TOLERANCE = 0.02  # input pixels


@pytest.fixture(scope="module")
def network(tiny_checkpoint: Path) -> Path:
    return tiny_checkpoint


@pytest.fixture(scope="module")
def exported(tiny_onnx: ExportedArtifact) -> Path:
    return tiny_onnx.path


@pytest.fixture(scope="module")
def session(exported: Path) -> Session:
    return Session(exported, threads=1)


@pytest.fixture(scope="module")
def photo() -> Any:
    return render_images(240, 1)[0]


CROPS = {"whole": (240, 240), "portrait": (240, 90), "landscape": (50, 240), "one pixel wide": (200, 1), "one pixel": (1, 1)}


@pytest.mark.parametrize("shape", CROPS.values(), ids=CROPS.keys())
@pytest.mark.parametrize("boxes", [None, [(10.5, 3, 30, 45)], [(-20, -10, 60, 30), (0, 0, 1, 1), (-5, 0, 500, 400)]])
def test_the_same_as_the_checkpoint(session: Session, network: Path, photo: Any, shape: tuple[int, int], boxes: Any) -> None:
    image = photo[: shape[0], : shape[1]]
    most = 80 * max(shape)
    boxes = [box for box in boxes or () if box[0] < shape[1] and box[1] < shape[0] and max(box[2:]) < most] or None
    found = session(image, boxes, padding=1.25 if boxes else 1.0)
    model = load_model(network)
    wanted, _, _ = predict_crops(model, image, *crop_squares(image, boxes, 1.25 if boxes else 1.0))
    assert len(found) == len(wanted) and found.scores.shape == wanted[..., 2].shape
    sure = wanted[..., 2] > 0.1
    apart = np.abs(found.keypoints - wanted[..., :2]).max(-1) / (found.squares[:, 2:3] / 64)
    assert (apart[sure] < TOLERANCE).all() and np.abs(found.scores - wanted[..., 2]).max() < 1e-4


def test_image_layouts(session: Session, exported: Path, photo: Any) -> None:
    gray = np.ascontiguousarray(photo[..., 1])
    plain = session(photo).keypoints
    assert np.array_equal(session(np.dstack([photo, gray])).keypoints, plain)
    assert np.array_equal(Session(exported, threads=1, bgr=True)(photo[..., ::-1]).keypoints, plain)
    assert np.array_equal(session(gray).keypoints, session(np.dstack([gray] * 3)).keypoints)
    large = cv2.resize(photo, (4000, 3000))
    assert session(large).keypoints.shape == (1, 16, 2)


def test_lists_are_split_into_batches(session: Session, photo: Any) -> None:
    """Seven crops for a network that takes five at once; one image has none."""
    boxes = [None, [(0, 0, 50, 50)] * 3, [], [(10, 10, 90, 90), (20, 20, 60, 80), (0, 0, 240, 240)]]
    found = session([photo] * 4, boxes)
    assert [len(poses) for poses in found] == [1, 3, 0, 3]
    for poses, own in zip(found, boxes):
        assert np.allclose(poses.keypoints, session(photo, own).keypoints, atol=1e-3)
    assert json.loads(found[2].to_json()) == {"joints": list(BODY16.joints), "people": []}
    assert len(json.loads(found[1].to_json())["people"]) == 3
    drawn = found[3].draw(photo, min_score=0.0)
    assert drawn.shape == photo.shape and (drawn != photo).any()


@pytest.mark.parametrize(
    "image, boxes, words",
    [
        (np.zeros((4, 4, 3)), None, "an image must be .* float64: scale its values to 0 to 255 and convert"),
        (np.zeros((2, 4, 4, 3), np.uint8), None, "give several images as a list"),
        (np.zeros((3, 40, 40), np.uint8), None, "move its channels to the end"),
        (None, None, r"there is no image \(None\): cv2.imread returns None"),
        ([None], None, "there is no image"),
        (torch.zeros(3, 40, 40), None, "an image is a torch tensor: give an array of uint8"),
        ([torch.zeros(40, 40, 3, dtype=torch.uint8)], None, "an image is a torch tensor"),
        ("photo.jpg", None, "'photo.jpg' is a file name, not an image: read it first"),
        (Path("photo.jpg"), None, "is a file name, not an image"),
        ({"image": 1}, None, "must be a numpy array of uint8 .* not dict"),
        (np.zeros((4, 4, 2), np.uint8), None, "an image must be"),
        (np.zeros((0, 4, 3), np.uint8), None, "an image must be"),
        (np.zeros((9, 9, 3), np.uint8), [(0, 0, 0, 3)], "has no area"),
        (np.zeros((9, 9, 3), np.uint8), [(0, np.nan, 3, 3)], "is not finite"),
        (np.zeros((9, 9, 3), np.uint8), [(20, 0, 3, 3)], "lies outside"),
        (np.zeros((9, 9, 3), np.uint8), [(0, 0, 1e6, 3)], "times as large"),
        (np.zeros((9, 9, 3), np.uint8), [1, 2, 3], "rows of x, y, width and height"),
        (np.zeros((9, 9, 3), np.uint8), "box", "rows of x, y, width and height"),
        ([np.zeros((9, 9, 3), np.uint8)] * 2, [None], "one entry per image"),
    ],
)
def test_invalid_input(session: Session, image: Any, boxes: Any, words: str) -> None:
    with pytest.raises(HgfastError, match=words):
        session(image, boxes)


def test_pil_images_are_upright(session: Session, photo: Any) -> None:
    """A PIL image is taken in its own order of channels and rotated by its EXIF orientation."""
    expected = session(photo)
    stored = PillowImage.fromarray(np.rot90(photo))
    stored.getexif()[0x0112] = 6
    assert np.array_equal(session(stored).keypoints, expected.keypoints)
    assert np.array_equal(session([PillowImage.fromarray(photo)])[0].keypoints, expected.keypoints)


def test_network_without_keypoints(network: Path, cached_exporter: None, tmp_path: Path) -> None:
    heatmaps = export_onnx(network, tmp_path / "maps.onnx", outputs="heatmaps", no_verify=True)
    with pytest.raises(HgfastError, match="gives no keypoints: export it with --outputs keypoints"):
        Session(heatmaps.path, threads=1)


def test_padding_must_be_positive(session: Session, photo: Any) -> None:
    with pytest.raises(HgfastError, match="the padding 0 must be above 0"):
        session(photo, padding=0)


def test_threads_share_a_session(session: Session, photo: Any) -> None:
    wanted = session(photo).keypoints
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: session(photo).keypoints, range(40)):
            assert np.array_equal(found, wanted)


def test_processes_reopen_a_session(exported: Path, photo: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(exported.parent)
    context = multiprocessing.get_context("spawn")
    with Session(exported.name, "openvino", threads=1, bgr=True) as session:
        monkeypatch.chdir(tmp_path)
        with context.Pool(1) as pool:  # pickles a bound method, and with it the session
            found = pool.apply(session.__call__, (photo, [(20, 30, 100, 140)]))
        np.testing.assert_array_equal(found.keypoints, session(photo, [(20, 30, 100, 140)]).keypoints)
        again = pickle.loads(pickle.dumps(session))  # noqa: S301
    assert again.runtime == "openvino" and again(photo).keypoints.shape == (1, 16, 2)
    with pytest.raises(HgfastError, match="session is closed; create a new one"):
        pickle.dumps(session)


def test_closed(exported: Path, photo: Any) -> None:
    with Session(exported, threads=1) as one, Session(exported, "openvino", threads=1) as other:
        assert np.allclose(one(photo).keypoints, other(photo).keypoints, atol=0.05)
    one.close()
    with pytest.raises(HgfastError, match="session is closed; create a new one"):
        one(photo)


def test_streams_and_devices_need_a_gpu(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for runtime in ("onnxruntime", "openvino"):
        with pytest.raises(HgfastError, match="runs on the CPU: leave out device and stream"):
            Session(exported, runtime, stream=7)  # type: ignore[arg-type]
        with pytest.raises(HgfastError, match="runs on the CPU"):
            Session(exported, runtime, device=1)  # type: ignore[arg-type]
    given: list[dict[str, Any]] = []
    monkeypatch.setattr("hgfast.runtime.tensorrt_engine.Engine", lambda *_, **options: given.append(options))
    described: Any = None  # only the engine reads it
    make_run_fn(exported, described, "tensorrt", DeviceOptions(device=2, stream=77))
    assert given == [{"stream": 77, "device": 2}]


def test_memory_stays(session: Session, photo: Any) -> None:
    """The peak memory of the process does not grow after the warm-up."""
    small = photo[:32, :32]
    for _ in range(200):
        session(small)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(1500):
        session(small)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 5_000  # KiB


def test_without_torch(exported: Path) -> None:
    code = (
        "import sys, numpy as np\nfrom hgfast.runtime import Session\n"
        f"with Session({str(exported)!r}) as session:\n    print(session(np.zeros((9, 9, 3), np.uint8)).to_json()[:9])\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_predict_takes_exported_networks_and_videos(exported: Path, network: Path, photo: Any, tmp_path: Path) -> None:
    write_image(tmp_path / "photo.png", photo)
    frames = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (240, 240))
    for turn in range(5):
        frames.write(np.ascontiguousarray(np.rot90(photo, turn)[..., ::-1]))
    frames.release()
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    results = []
    for number, checkpoint in enumerate((network, exported)):
        out = tmp_path / f"out{number}"
        result = predict(PredictConfig(checkpoint=checkpoint, images=[tmp_path], out=out, heatmaps=False))
        image, film = sorted(result["images"], key=lambda entry: "frames" in entry)
        assert film["frames"] == 5 and film["frames_per_s"] == 12
        lines = [json.loads(line) for line in (out / film["keypoints"]).read_text().splitlines()]
        assert [line["frame"] for line in lines] == list(range(5)) and (out / film["drawn"]).stat().st_size > 1000
        assert [Path(entry["file"]).name for entry in result["failed"]] == ["broken.mp4"]
        assert not [file for file in out.iterdir() if "writing" in file.name]
        results.append([image["people"], *(line["people"] for line in lines)])
    one, other = (np.array([[p["keypoints"] for p in people] for people in result]) for result in results)
    sure = one[..., 2] > 0.1
    assert np.abs(one - other)[sure].max() < 0.2
    with pytest.raises(HgfastError, match="was exported without a flip test"):
        predict(PredictConfig(checkpoint=exported, images=[tmp_path / "photo.png"], out=tmp_path / "no", flip_test=True))
