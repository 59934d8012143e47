"""The examples, run like a user runs them and compared with a session."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hgfast.export.exporter.artifact import ExportedArtifact
from hgfast.fileio.video import VideoReader
from hgfast.pipelines.synthetic_data.images import render_images
from hgfast.runtime.session import Session
from hgfast.visualization.draw import read_image
from tests.conftest import ROOT, TIMEOUT
from tests.odd_images import jpeg_with_scans

EXAMPLES = ROOT / "export" / "examples"
BOX = (20.0, 30.0, 100.0, 140.0)
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def net(tiny_onnx: ExportedArtifact) -> Path:
    return tiny_onnx.path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images and one file that is not an image."""
    folder = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(render_images(200, 5)):
        cv2.imwrite(str(folder / f"{number}.jpg"), image[: 200 - 10 * number, :, ::-1])
    (folder / "3a.jpg").write_bytes(b"no image")
    return folder


def run_example(name: str, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, EXAMPLES / name, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT, timeout=TIMEOUT, check=False)


def to_plain(people: dict[str, Any]) -> Any:
    return np.array([person["keypoints"] for person in people["people"]])


def expected_people(net: Path, photo: Path, boxes: Any = None) -> Any:
    with Session(net) as session:
        return to_plain(json.loads(session(read_image(photo), boxes, padding=1.25 if boxes else 1.0).to_json()))


def test_every_example_is_tried() -> None:
    assert {file.stem for file in EXAMPLES.glob("*.py")} == {"one_image", "webcam", "web_service", "batch_job"}


def test_one_image(net: Path, photos: Path, tmp_path: Path) -> None:
    done = run_example("one_image.py", net, photos / "1.jpg", "--box", "20,30,100,140", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert np.abs(to_plain(json.loads(done.stdout)) - expected_people(net, photos / "1.jpg", [BOX])).max() < 0.01
    drawn, plain = read_image(tmp_path / "drawn.jpg").astype(int), read_image(photos / "1.jpg").astype(int)
    assert drawn.shape == plain.shape and (np.abs(drawn - plain).max(-1) > 60).sum() > 20
    for words, complaint in (
        ((photos / "3a.jpg",), "3a.jpg is not an image"),
        ((photos / "1.jpg", "--box", "1,2,3"), "boxes must be rows of x, y, width and height"),
        ((photos / "1.jpg", "--box", "1,2,x,4"), "argument --box: invalid"),
        ((photos / "1.jpg", "--box", "900,2,3,4"), "lies outside the image"),
        ((photos / "1.jpg", "--out", photos / "1.jpg"), "1.jpg"),
    ):
        done = run_example("one_image.py", net, *words, cwd=tmp_path)
        assert done.returncode == 2 and complaint in done.stderr and "Traceback" not in done.stderr


def test_webcam(net: Path, photos: Path, tmp_path: Path) -> None:
    film = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (200, 200))
    image = np.asarray(cv2.imread(str(photos / "0.jpg")))
    for turn in range(7):
        film.write(np.ascontiguousarray(np.rot90(image, turn)))
    film.release()
    done = run_example("webcam.py", net, "--source", "film.avi", "--out", "drawn.webm", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("7 frames, "), done.stderr
    drawn = VideoReader(tmp_path / "drawn.webm")
    assert drawn.fps == 12 and len(list(drawn)) == 7
    done = run_example("webcam.py", net, "--source", "film.avi", "--out", "drawn.webm", "--frames", 3, cwd=tmp_path)
    assert done.stdout.startswith("3 frames, ")
    done = run_example("webcam.py", net, "--source", "film.avi", cwd=tmp_path)
    assert done.returncode == 2 and "this OpenCV has no windows" in done.stderr and "Traceback" not in done.stderr
    done = run_example("webcam.py", net, "--source", "97", cwd=tmp_path)
    assert done.returncode == 2 and "there is no camera 97" in done.stderr and "Traceback" not in done.stderr


def test_camera_yields_latest_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera that is faster than its consumer, and then stops."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import webcam

    class Camera:
        taken = 0

        def isOpened(self) -> bool:
            return True

        def read(self) -> tuple[bool, Any]:
            webcam.time.sleep(0.002)
            self.taken += 1
            return self.taken <= 200, np.full((4, 4, 3), self.taken, np.uint8)

        def release(self) -> None:
            self.taken = -1

    camera = Camera()
    monkeypatch.setattr(webcam.cv2, "VideoCapture", lambda _: camera)
    seen = []
    for frame in webcam.latest_frames(0):
        seen.append(int(frame[0, 0, 0]))
        webcam.time.sleep(0.02)
        assert camera.taken - seen[-1] < 60
    assert 3 < len(seen) < 100 and seen == sorted(set(seen)) and camera.taken == -1


def test_batch_job(net: Path, photos: Path, tmp_path: Path) -> None:
    done = run_example("batch_job.py", net, photos, "--out", "found.jsonl", cwd=tmp_path)
    assert done.returncode == 2 and "5 of 6 images" in done.stdout and "1 of 6 images could not be read" in done.stderr
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [Path(line["file"]).name for line in lines] == [f"{number}.jpg" for number in range(5)]
    for line in lines:
        assert np.abs(to_plain(line) - expected_people(net, photos / Path(line["file"]).name)).max() < 0.01
    assert [file.name for file in tmp_path.iterdir()] == ["found.jsonl"]
    refused = ((tmp_path, "x.jsonl", "there are no images in"), (photos, "found.jsonl/x", "cannot make the folder"))
    for folder, out, words in refused:
        done = run_example("batch_job.py", net, folder, "--out", out, cwd=tmp_path)
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def service(net: Path) -> Iterator[str]:
    """The address of a running web service."""
    with run_service(net) as address:
        yield address


@contextmanager
def run_service(net: Path, *flags: str) -> Iterator[str]:
    command = [sys.executable, EXAMPLES / "web_service.py", net, "--port", "0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def post(address: str, body: bytes) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(address, body, timeout=TIMEOUT) as answer:  # noqa: S310  (an address of this test)
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_web_service(service: str, net: Path, photos: Path) -> None:
    body = (photos / "1.jpg").read_bytes()
    with urllib.request.urlopen(f"{service}/health", timeout=TIMEOUT) as answer:  # noqa: S310
        assert json.load(answer)["status"] == "ok"
    status, found = post(f"{service}/keypoints", body)
    assert status == 200 and np.abs(to_plain(found) - expected_people(net, photos / "1.jpg")).max() < 0.01
    status, found = post(f"{service}/keypoints?box=20,30,100,140&box=0,0,50,50", body)
    assert status == 200 and np.abs(to_plain(found) - expected_people(net, photos / "1.jpg", [BOX, (0, 0, 50, 50)])).max() < 0.01
    bodies = [(photos / f"{number % 3}.jpg").read_bytes() for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda body: post(f"{service}/keypoints", body), bodies))
    for number, (status, found) in enumerate(answers):
        assert status == 200 and np.abs(to_plain(found) - expected_people(net, photos / f"{number % 3}.jpg")).max() < 0.01


@pytest.mark.parametrize(
    ("query", "body", "status", "words"),
    [
        ("", b"no image", 400, "is not a JPEG or PNG"),
        ("", b"", 400, "is not a JPEG or PNG"),
        ("", cv2.imencode(".tiff", np.zeros((8, 8), np.uint8))[1].tobytes(), 400, "is not a JPEG or PNG"),
        ("?" + "&".join(["box=1,2,3,4"] * 33), None, 400, "send at most 32 per request"),
        ("?box=1,2,3", None, 400, "rows of x, y, width and height"),
        ("?box=1,2,x,4", None, 400, "could not convert"),
        ("?box=900,2,3,4", None, 400, "lies outside"),
        ("", bytes(20_000_001), 413, "more than 20000000 bytes"),
        ("", cv2.imencode(".png", np.zeros((6000, 6000), np.uint8))[1].tobytes(), 413, "25000000 pixels"),
        ("", jpeg_with_scans(5000, 1024), 400, "is a JPEG of 5000 scans"),
    ],
    ids=["text", "nothing", "TIFF", "33 boxes", "three numbers", "no number", "outside", "too long", "a bomb", "scans"],
)
def test_bad_requests(service: str, photos: Path, query: str, body: bytes | None, status: int, words: str) -> None:
    code, answer = post(f"{service}/keypoints{query}", (photos / "1.jpg").read_bytes() if body is None else body)
    assert code == status and words in answer["error"] and "\n" not in answer["error"]


@contextmanager
def slow_clients(service: str) -> Iterator[list[socket.socket]]:
    """Open 120 connections that have sent a part of a request."""
    address = urllib.parse.urlsplit(service)
    with ExitStack() as stack:
        clients = []
        for _ in range(120):
            clients.append(stack.enter_context(socket.create_connection((address.hostname, address.port), timeout=TIMEOUT)))
            clients[-1].sendall(b"POST /keypoints HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx")
        yield clients


def test_slow_clients_do_not_block_the_service(service: str, photos: Path) -> None:
    with slow_clients(service):
        assert post(f"{service}/keypoints", (photos / "1.jpg").read_bytes())[0] == 200


def test_slow_requests_are_dropped(net: Path) -> None:
    """Connections that send a byte now and then are closed too."""
    with run_service(net, "--timeout", "1") as service, slow_clients(service) as clients:
        deadline = time.monotonic() + TIMEOUT
        while clients and time.monotonic() < deadline:
            time.sleep(0.3)
            clients = [client for client in clients if send_byte(client)]
        assert not clients


def send_byte(client: socket.socket) -> bool:
    """Send a byte; return whether the connection is open."""
    try:
        client.sendall(b"x")
    except OSError:  # reset
        return False
    return not select.select([client], [], [], 0)[0]
