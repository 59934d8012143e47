"""Build export/cpp with OpenVINO and compare it with Python; broken files, boxes and engines; leaks; an installed package."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from hgfast import load_model
from hgfast.errors import HgfastError
from hgfast.export.exporter.artifact import ExportedArtifact, load_network
from hgfast.export.exporter.options import TensorRTConfig
from hgfast.export.exporter.tensorrt_export import export_engine
from hgfast.geometry import crop_matrices, warp
from hgfast.runtime.boxes import crop_squares
from hgfast.runtime.session import Session
from hgfast.runtime.torch_predictor import predict_crops
from hgfast.visualization.draw import read_image
from tests.conftest import ROOT, TIMEOUT, shared_path
from tests.exports import FLIP_FLAGS, export_onnx
from tests.odd_images import exif, jpeg_with_scans, rotated_jpeg, scene

SOURCE = ROOT / "export" / "cpp"
SAME_PIXELS, SAME_JPEG = 0.05, 0.3  # pixels of the image
SANITIZE = "-O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
# TBB's way to open libraries breaks AddressSanitizer without this; short traces make allocations ten times as fast
QUIET = {"TBB_ENABLE_SANITIZERS": "1", "ASAN_OPTIONS": "quarantine_size_mb=16:malloc_context_size=2"}
NUM_BROKEN_FILES = 160
Image = NDArray[np.uint8]
Tool = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = [
    pytest.mark.usefixtures("cached_exporter"),
    pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed: pip install cmake"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler: apt install g++"),
]


def shell(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=TIMEOUT, env={**os.environ, **environment}
    )


def cmake(*words: object) -> None:
    done = shell("cmake", *words)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def make(folder: Path, *flags: str) -> Path:
    ninja = ["-G", "Ninja"] if shutil.which("ninja") else []
    strict = ["-DCMAKE_COMPILE_WARNING_AS_ERROR=ON", "-DCMAKE_BUILD_TYPE=None", "-DHGFAST_TESTS=ON", "-DHGFAST_OPENVINO=ON"]
    cmake("-S", SOURCE, "-B", folder, *ninja, f"-DHGFAST_PYTHON={sys.executable}", *strict, *flags)
    cmake("--build", folder, "--parallel", 2)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cpp")


@pytest.fixture(scope="module")
def built(folder: Path) -> Path:
    return make(folder / "build", "-DCMAKE_CXX_FLAGS=-O1", "-DCMAKE_UNITY_BUILD=ON")  # compiles in half the time


def rtx_root(folder: Path) -> Path | None:
    """Make a folder like TensorRT-RTX's: the real library and the declarations in tests/stub. None without the library."""
    spec = importlib.util.find_spec("tensorrt_rtx_libs")
    places = [Path("/usr/local/cuda")]
    if (
        spec is None
        or not spec.submodule_search_locations
        or not any((p / "include/cuda_runtime_api.h").exists() for p in places)
    ):
        return None
    for name in ("include", "lib"):
        (folder / name).mkdir(parents=True)
    shutil.copy(SOURCE / "tests/stub/NvInfer.h", folder / "include")
    (folder / "lib/libtensorrt_rtx.so.1").symlink_to(Path(spec.submodule_search_locations[0]) / "libtensorrt_rtx.so.1")
    return folder


@pytest.fixture(scope="module")
def rtx(folder: Path) -> Path | None:
    return rtx_root(folder / "rtx")


@pytest.fixture(scope="module")
def sanitized(folder: Path, rtx: Path | None) -> Path:
    """A build with AddressSanitizer, UndefinedBehaviorSanitizer and, if it can be compiled, the TensorRT backend."""
    flags = [f"-DHGFAST_TENSORRT_ROOT={rtx}"] if rtx else []
    return make(folder / "sanitized", f"-DCMAKE_CXX_FLAGS={SANITIZE}", *flags)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Path:
    return tiny_checkpoint


@pytest.fixture(scope="module")
def net(tiny_onnx: ExportedArtifact) -> Path:
    return tiny_onnx.path


@pytest.fixture(scope="module")
def cli(built: Path) -> Tool:
    return lambda *words: shell(built / "hgfast_cli", *words, "--threads", 1)


def parse_people(done: subprocess.CompletedProcess[str]) -> list[NDArray[np.float64]]:
    """Return the printed keypoints (P, K, 3) of each image."""
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [np.array([person["keypoints"] for person in line["people"]], np.float64) for line in lines]


def check_refused(done: subprocess.CompletedProcess[str], code: str, *words: str) -> None:
    """Check that the error is one sentence with this code and all the words."""
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.endswith(f"[{code}]\n") and done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


def random_image(width: int, height: int, seed: int = 0) -> Image:
    """Return a smooth random image (height, width, 3)."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (min(height, 23), min(width, 17), 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def flags(boxes: Sequence[Sequence[float]] | None) -> list[str]:
    return [word for box in boxes or () for word in ("--box", ",".join(map(str, box)))]


SIZES = [(64, 64), (200, 150), (90, 240), (1, 1), (1, 300), (300, 1), (2, 3), (4000, 3000), (4000, 5), (333, 222), (65, 63)]
BOXES = [(20.5, 10.25, 60, 90), (-30, -20, 100, 80), (150, 100, 500, 90), (0, 0, 3, 2), (100.7, 60.1, 0.5, 0.25)]


def write_raw(image: Image, path: Path) -> list[object]:
    """Write the pixels and return the arguments to read them."""
    path.write_bytes(image.tobytes())
    return [path, "--raw", image.shape[1], image.shape[0], "--channels", image.shape[2]]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_same_pixels(size: tuple[int, int], cli: Tool, net: Path, checkpoint: Path, tmp_path: Path) -> None:
    image = random_image(*size)
    boxes = [box for box in BOXES if box[0] < size[0] and box[1] < size[1]] if min(size) > 3 else [(0.2, 0.1, 0.7, 0.6)]
    model = load_model(checkpoint)
    with Session(net, "openvino", threads=1) as session:
        for given in (None, boxes):
            (found,) = parse_people(cli(net, *write_raw(image, tmp_path / "raw"), *flags(given)))
            expected = session(image, given)
            np.testing.assert_allclose(found[..., :2], expected.keypoints, rtol=0, atol=SAME_PIXELS)
            np.testing.assert_allclose(found[..., 2], expected.scores, rtol=0, atol=1e-3)
            points = predict_crops(model, image, *crop_squares(image, given))[0][..., :2]
            np.testing.assert_allclose(found[..., :2], points, rtol=0, atol=SAME_PIXELS)


def test_crops_are_the_same(built: Path, tmp_path: Path) -> None:
    """At most one value in ten thousand differs, by one level, because sums are rounded in another order."""
    rng = np.random.default_rng(3)
    differing = total = 0
    for number in range(60):
        width, height = (int(value) for value in rng.integers(1, 700, 2))
        channels = int(rng.choice([1, 3, 4]))
        image = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
        center, side = rng.uniform(-0.2, 1.2, 2) * (width, height), float(rng.uniform(0.05, 3) * max(width, height))
        (tmp_path / "in").write_bytes(image.tobytes())
        words = [64, width, height, channels, tmp_path / "in", tmp_path / "out", *map(repr, center.tolist()), repr(side)]
        assert shell(built / "hgfast_check", "crop", *words).returncode == 0
        found = np.fromfile(tmp_path / "out", np.uint8).reshape(64, 64, 3).astype(int)
        rgb = np.repeat(image, 3, 2) if channels == 1 else image[..., :3]
        expected = warp(rgb, crop_matrices(center[None], [side], 64)[0], 64)
        assert np.abs(found - expected).max() <= 1, number
        differing, total = differing + int((found != expected).sum()), total + found.size
    assert differing <= total / 10_000


def test_image_layouts(cli: Tool, net: Path, tmp_path: Path) -> None:
    rgb = random_image(90, 70)
    gray = np.ascontiguousarray(rgb[..., :1])
    (plain,) = parse_people(cli(net, *write_raw(rgb, tmp_path / "rgb")))
    (bgr,) = parse_people(cli(net, *write_raw(rgb[..., ::-1], tmp_path / "bgr"), "--bgr"))
    (rgba,) = parse_people(cli(net, *write_raw(np.dstack([rgb, gray]), tmp_path / "rgba")))
    np.testing.assert_array_equal(bgr, plain)
    np.testing.assert_array_equal(rgba, plain)
    (one,) = parse_people(cli(net, *write_raw(gray, tmp_path / "gray")))
    (three,) = parse_people(cli(net, *write_raw(np.repeat(gray, 3, 2), tmp_path / "three")))
    np.testing.assert_array_equal(one, three)


def test_json_matches_python(cli: Tool, net: Path, tmp_path: Path) -> None:
    image = random_image(90, 70)
    found = json.loads(cli(net, *write_raw(image, tmp_path / "raw"), "--box", "10,20,30,40", "--padding", 1.5).stdout)
    with Session(net, "openvino", threads=1) as session:
        expected = json.loads(session(image, [(10, 20, 30, 40)], padding=1.5).to_json())
    assert list(found) == list(expected) and found["joints"] == expected["joints"]
    assert [list(person) for person in found["people"]] == [list(person) for person in expected["people"]]
    assert found["people"][0]["square"] == expected["people"][0]["square"]


def test_more_boxes_than_a_batch(cli: Tool, net: Path, tmp_path: Path) -> None:
    image = random_image(200, 150)
    boxes = [(3.0 * i, 2.0 * i, 50 + i, 60) for i in range(12)]
    (together,) = parse_people(cli(net, *write_raw(image, tmp_path / "raw"), *flags(boxes)))
    alone = [parse_people(cli(net, tmp_path / "raw", "--raw", 200, 150, *flags([box])))[0][0] for box in boxes[::5]]
    assert len(together) == 12
    np.testing.assert_allclose(together[::5], alone, rtol=0, atol=0.01)


def test_batch_that_must_be_full(cli: Tool, net: Path, tmp_path: Path) -> None:
    changed = tmp_path / "net.onnx"
    content = sidecar_of(net)
    content["batch"]["min"] = content["batch"]["opt"] = 4
    copy(net, changed, content)
    image = random_image(200, 150)
    (found,) = parse_people(cli(changed, *write_raw(image, tmp_path / "raw"), *flags(BOXES[:2] * 3)))
    (expected,) = parse_people(cli(net, *write_raw(image, tmp_path / "raw"), *flags(BOXES[:2] * 3)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.01)


def test_network_with_float_input(checkpoint: Path, cli: Tool, tmp_path: Path) -> None:
    floats, image = export_onnx(checkpoint, tmp_path / "floats.onnx", no_verify=True, **FLIP_FLAGS).path, random_image(200, 150)
    (found,) = parse_people(cli(floats, *write_raw(image, tmp_path / "raw"), *flags(BOXES)))
    with Session(floats, "openvino", threads=1) as session:
        expected = session(image, BOXES)
    np.testing.assert_allclose(found[..., :2], expected.keypoints, rtol=0, atol=SAME_PIXELS)
    np.testing.assert_allclose(found[..., 2], expected.scores, rtol=0, atol=1e-3)


def same_jpegs(paths: Sequence[Path], cli: Tool, net: Path) -> float:
    """Return the largest difference of any keypoint between the command line and Python."""
    found = parse_people(cli(net, *paths))
    with Session(net, "openvino", threads=1) as session:
        expected = [session(read_image(path)).keypoints for path in paths]
    assert len(found) == len(expected)
    return max(float(np.abs(one[..., :2] - other).max()) for one, other in zip(found, expected))


def test_jpegs(cli: Tool, net: Path, tmp_path: Path) -> None:
    paths = []
    for number, (width, height) in enumerate([(240, 160), (1, 50), (50, 1), (333, 257), (17, 500)]):
        for form in (cv2.IMREAD_COLOR, cv2.IMREAD_GRAYSCALE):
            image = random_image(width, height, number)
            paths.append(tmp_path / f"{number}-{form}.jpg")
            stored = image if form == cv2.IMREAD_COLOR else image[..., 0]
            cv2.imwrite(str(paths[-1]), stored, [cv2.IMWRITE_JPEG_PROGRESSIVE, number % 2])
    for orientation in range(1, 9):
        paths.append(tmp_path / f"turned-{orientation}.jpg")
        paths[-1].write_bytes(rotated_jpeg(scene(), orientation))
    assert same_jpegs(paths, cli, net) <= SAME_JPEG


@pytest.mark.real_data
def test_real_photographs(cli: Tool, net: Path) -> None:
    photos = sorted(shared_path("fixtures/lspet_coco/images").glob("*.jpg"))[::20][:200]
    assert len(photos) == 200 and same_jpegs(photos, cli, net) <= SAME_JPEG


def test_jpegs_that_python_refuses(cli: Tool, net: Path, tmp_path: Path) -> None:
    """The same files as in Python are refused: cut off, or with two orientations."""
    jpeg = rotated_jpeg(scene(), 6)
    for content, words in (
        (jpeg[:-2], "is a JPEG that is cut off"),
        (jpeg[: len(jpeg) // 2], "is a JPEG that is cut off"),
        (jpeg[:2] + exif(1) + jpeg[2:], "has two EXIF orientations"),
    ):
        (tmp_path / "x.jpg").write_bytes(content)
        done = cli(net, tmp_path / "x.jpg")
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
        with pytest.raises(HgfastError, match=words):
            read_image(tmp_path / "x.jpg")


def test_number_of_scans_is_limited(cli: Tool, net: Path, tmp_path: Path) -> None:
    (tmp_path / "100.jpg").write_bytes(jpeg_with_scans(100, 1024) + b"\xff\xda" * 200)  # phones append a video
    assert cli(net, tmp_path / "100.jpg").returncode == 0
    (tmp_path / "101.jpg").write_bytes(jpeg_with_scans(101, 1024)[:-2] + bytes(99))  # without its end
    (tmp_path / "many.jpg").write_bytes(jpeg_with_scans(100_000))  # minutes of decoding
    for name, scans in (("101", 101), ("many", 100_000)):
        done = cli(net, tmp_path / f"{name}.jpg")
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert f"is a JPEG of {scans} scans, more than the 100 that are decoded: save it anew" in done.stderr


def test_size_is_checked_before_memory_is_allocated(built: Path, net: Path, tmp_path: Path) -> None:
    jpeg = bytearray(rotated_jpeg(scene(), 1))
    size_at = jpeg.index(b"\xff\xc0") + 5
    jpeg[size_at : size_at + 4] = (65500).to_bytes(2, "big") * 2
    (tmp_path / "x.jpg").write_bytes(jpeg)
    limited = shlex.join(map(str, (built / "hgfast_cli", net, tmp_path / "x.jpg", "--threads", 1)))
    done = shell("bash", "-c", f"ulimit -v 10000000; {limited}")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "has 65500 x 65500 pixels, more than the 268435456 that are decoded" in done.stderr


@pytest.mark.parametrize("helped", [False, True])
def test_output_that_cannot_be_written(helped: bool, built: Path, net: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(rotated_jpeg(scene(), 1))
    words = ["--help"] if helped else [net, tmp_path / "x.jpg", "--threads", 1]
    tool = shlex.join(map(str, (built / "hgfast_cli", *words)))
    closed_pipe = f"mkfifo {tmp_path}/pipe; exec 3<>{tmp_path}/pipe 4>{tmp_path}/pipe 3>&-; {tool} >&4"
    for script, reason in (
        (f"{tool} > /dev/full", "No space left on device"),
        (f"{tool} >&-", "Bad file descriptor"),
        (closed_pipe, "Broken pipe"),
    ):
        done = shell("bash", "-c", script)
        assert (done.returncode, done.stderr) == (1, f"hgfast_cli: cannot write the output: {reason}\n")


@pytest.mark.parametrize("device", ["FOO", "0", "7"])
def test_device_is_refused_as_in_python(device: str, cli: Tool, net: Path, tmp_path: Path) -> None:
    done = cli(net, *write_raw(random_image(20, 20), tmp_path / "raw"), "--device", device)
    check_refused(done, "bad_option", device_message(net, device=1))


def test_stream_is_refused_as_in_python(built: Path, net: Path) -> None:
    done = shell(built / "hgfast_check", "stream", net)
    assert done.stdout == f"bad_option: {device_message(net, stream=1)}\n"


def device_message(net: Path, **options: int) -> str:
    """Return the error of a session in OpenVINO."""
    with pytest.raises(HgfastError) as caught:
        Session(net, "openvino", **options)
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xd8",
        b"no image",
        b"\xff\xd8" + exif(6) + b"\xff\xd9",
        b"\xff\xd8\xff\xe1\x00\x10Exif\0\0II*\0\xff\xff\xff\xff",
    ],
)
def test_broken_jpeg(content: bytes, cli: Tool, net: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    done = cli(net, tmp_path / "x.jpg")
    assert done.returncode == 2 and "x.jpg is not a JPEG that can be read" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "box, words",
    [
        ("10,10,0,20", "the box 10,10,0,20 has no area"),
        ("10,10,20,-1", "has no area"),
        ("nan,10,20,20", "the box nan,10,20,20 is not finite"),
        ("10,inf,20,20", "is not finite"),
        ("90,10,20,20", "lies outside the image of 90 x 70 pixels"),
        ("-20,10,20,20", "lies outside"),
        ("0,0,10000,10", "more than 100 times as large as the image of 90 x 70 pixels"),
        ("1,1,1e-300,1e-300", "is too small"),
    ],
)
def test_bad_box(box: str, words: str, cli: Tool, net: Path, tmp_path: Path) -> None:
    check_refused(
        cli(net, *write_raw(random_image(90, 70), tmp_path / "raw"), "--box", "1,1,20,20", "--box", box), "bad_box", words
    )


def test_bad_command_line(cli: Tool, net: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"12345")
    for given, words in (
        ((net,), "a model and an image are required"),
        ((net, tmp_path / "none.jpg"), "there is no file"),
        ((net, tmp_path), "there is no file"),
        ((net, tmp_path / "raw", "--raw", 3, 3), "has 5 bytes, and 3 x 3 x 3 are 27"),
        ((net, tmp_path / "raw", "--raw", 0, 3), "--raw requires"),
        ((net, tmp_path / "raw", "--box", "1,2,3"), "--box requires X,Y,WIDTH,HEIGHT"),
        ((net, tmp_path / "raw", "--box", "1,2,3,x"), "'x' is not a number"),
        ((net, tmp_path / "raw", "--sise", "3"), "there is no flag --sise"),
        ((net, tmp_path / "raw", "--backend", "cuda"), "there is no backend 'cuda'"),
        ((net, tmp_path / "raw", "--padding", "0"), "the padding 0 must be above 0"),
        ((net, tmp_path / "raw", "--backend", "tensorrt"), "is not for tensorrt: openvino runs it"),
    ):
        done = cli(*given)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_names_are_printed_with_escapes(cli: Tool, net: Path, tmp_path: Path) -> None:
    name = "a\x1b[31mred\nb.jpg"
    for given in ((net, tmp_path / name), (tmp_path / name, tmp_path / "x.jpg")):
        assert f"there is no file {tmp_path}/a\\x1b[31mred\\x0ab.jpg" in cli(*given).stderr


def sidecar_of(artifact: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(f"{artifact}.json").read_text())
    return content


def copy(artifact: Path | bytes, to: Path, content: dict[str, Any]) -> Path:
    """Write an artifact and a sidecar that belongs to it."""
    data = artifact if isinstance(artifact, bytes) else artifact.read_bytes()
    to.write_bytes(data)
    Path(f"{to}.json").write_text(json.dumps({**content, "sha256": hashlib.sha256(data).hexdigest()}))
    return to


def test_missing_and_mismatched_files(cli: Tool, net: Path, tmp_path: Path) -> None:
    image = write_raw(random_image(20, 20), tmp_path / "raw")
    check_refused(cli(tmp_path / "none.onnx", *image), "no_file", "there is no file", "create it with hgfast export onnx")
    alone = tmp_path / "alone.onnx"
    shutil.copy(net, alone)
    check_refused(cli(alone, *image), "no_file", "alone.onnx has no sidecar", "copy both")
    Path(f"{alone}.json").write_text(json.dumps({**sidecar_of(net), "sha256": "0" * 64}))
    check_refused(cli(alone, *image), "other_sidecar", "does not belong to", "another sha256")
    Path(f"{alone}.json").write_text("{")
    check_refused(cli(alone, *image), "bad_sidecar", "it is not JSON")
    check_refused(cli(tmp_path, *image), "no_file", "there is no file")


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda c: c.update(format=2), "has another format than the 1"),
        (lambda c: c.pop("format"), "'format' is missing"),
        (lambda c: c.pop("skeleton"), "'skeleton' is missing"),
        (lambda c: c.update(kind="coreml"), "kind: 'coreml' is not among"),
        (lambda c: c.update(input_size=10**9), "input_size: it is not from 1 to 8192"),
        (lambda c: c.update(input_size=64.5), "input_size: it is not a whole number"),
        (lambda c: c.update(shift="far"), "shift: it is not a number"),
        (lambda c: c.update(sha256="zz"), "sha256: it is not 64 hexadecimal digits"),
        (lambda c: c["batch"].update(max=10**6), "batch.max: it is not from"),
        (lambda c: c["batch"].update(min=0), "batch.min: it is not from"),
        (lambda c: c["skeleton"]["joints"].pop(), "it is not from 0 to 14"),
        (lambda c: c["skeleton"]["joints"].append("tail"), "outputs.0.shape.1: it is not 17"),
        (lambda c: c["skeleton"]["edges"].append([0, 99]), "skeleton.edges.15.1: it is not from 0 to 15"),
        (lambda c: c.update(outputs=[c["outputs"][1]]), "the network gives no keypoints"),
        (lambda c: c["input"]["shape"].pop(), "input.shape: it has 3 entries"),
    ],
)
def test_bad_sidecar(change: Callable[[dict[str, Any]], object], words: str, cli: Tool, net: Path, tmp_path: Path) -> None:
    content = sidecar_of(net)
    change(content)
    shutil.copy(net, tmp_path / "net.onnx")
    (tmp_path / "net.onnx.json").write_text(json.dumps(content))
    check_refused(cli(tmp_path / "net.onnx", *write_raw(random_image(20, 20), tmp_path / "raw")), "bad_sidecar", words)


def test_bad_model(cli: Tool, net: Path, tmp_path: Path) -> None:
    image = write_raw(random_image(20, 20), tmp_path / "raw")
    content, data = sidecar_of(net), net.read_bytes()
    for broken in (b"", b"garbage", data[:-5000], data[: len(data) // 2], bytes(64) + data[64:]):
        check_refused(cli(copy(broken, tmp_path / "net.onnx", content), *image), "bad_model", "export it again")
    content["input_size"] = 32
    content["input"]["shape"][1:3] = 32, 32
    check_refused(cli(copy(net, tmp_path / "net.onnx", content), *image), "bad_model", "does not take what its sidecar says")
    content = {**sidecar_of(net), "kind": "torchscript"}
    check_refused(cli(copy(net, tmp_path / "net.onnx", content), *image), "not_built", "TorchScript")


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "link", "weights"])
def test_weights_in_another_file(location: str, cli: Tool, net: Path, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(999))
    (tmp_path / "link").symlink_to("/etc/passwd")
    model = onnx.load(net)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location)
    changed = copy(model.SerializeToString(), tmp_path / "net.onnx", sidecar_of(net))
    image = write_raw(random_image(20, 20), tmp_path / "raw")
    check_refused(cli(changed, *image), "bad_model", "it keeps weights in another file, which is not read")


def plan(size: int = 256, magic: bytes = b"vtrt", version: Sequence[int] = (1, 7, 1, 116)) -> bytes:
    """Return a file with the header of an engine."""
    head = magic + bytes(12) + size.to_bytes(8, "little") + bytes(number % 256 for number in version)
    return head + bytes(size - len(head))


def engine(net: Path, to: Path, data: bytes, version: str = "1.7.1.116", kind: str = "tensorrt_rtx", **builder: Any) -> Path:
    return copy(data, to, {**sidecar_of(net), "kind": kind, "builder": {"backend": kind, "version": version, **builder}})


def test_engines(cli: Tool, net: Path, tmp_path: Path) -> None:
    image, path = write_raw(random_image(20, 20), tmp_path / "raw"), tmp_path / "net.engine"
    check_refused(cli(engine(net, path, plan()), *image), "not_built", "needs tensorrt_rtx, which this library was built without")
    check_refused(cli(engine(net, path, b"short"), *image), "bad_model", "is not a TensorRT-RTX engine")
    check_refused(cli(engine(net, path, plan(magic=b"nope")), *image), "bad_model", "is not a TensorRT-RTX engine")
    check_refused(
        cli(engine(net, path, plan(magic=b"ftrt")), *image), "bad_model", "is an engine of TensorRT, not of TensorRT-RTX"
    )
    check_refused(cli(engine(net, path, plan() + b"x"), *image), "bad_model", "has 257 bytes where its header says 256")
    check_refused(
        cli(engine(net, path, plan(), version="1.6.0"), *image),
        "wrong_version",
        "was built by TensorRT-RTX 1.7.1.116 according to its header, but its sidecar says 1.6.0",
    )


@pytest.mark.slow
def test_engines_without_a_gpu(sanitized: Path, rtx: Path | None, net: Path, tmp_path: Path) -> None:
    """With the real libtensorrt_rtx, of which only the version is used before a GPU is found."""
    if rtx is None:
        pytest.skip("TensorRT-RTX's library or the CUDA runtime's headers are not on this machine")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU, and what tests/stub declares runs nothing")
    image, path = write_raw(random_image(20, 20), tmp_path / "raw"), tmp_path / "net.engine"
    here = importlib.metadata.version("tensorrt-rtx-cu13-libs")
    numbers = [int(part) for part in here.split(".")]

    def run(model: Path, *words: str) -> subprocess.CompletedProcess[str]:
        return shell(sanitized / "hgfast_cli", model, *image, *words, **QUIET)

    good = engine(net, path, plan(version=numbers), version=here)
    check_refused(run(good), "no_device", "needs an NVIDIA GPU, and CUDA finds none", "driver")
    check_refused(run(good, "--device", "CPU"), "bad_option", "the device 'CPU' is not the index of a GPU")
    old = engine(net, path, plan(version=(1, 6, 0, 9)), version="1.6.0.9")
    check_refused(run(old), "wrong_version", f"was built by TensorRT-RTX 1.6.0.9 and {'.'.join(here.split('.')[:3])} is here")
    check_refused(run(engine(net, path, old.read_bytes(), version="1.6.0.9", version_compatible=True)), "no_device")
    full = engine(net, path, plan(version=numbers), version=here, kind="tensorrt")
    check_refused(run(full), "bad_model", "is an engine of TensorRT-RTX, not of TensorRT")


@pytest.mark.parametrize(
    "words",
    [
        ("-DHGFAST_WITH_TENSORRT", "-DHGFAST_STUB_TENSORRT=10"),
        ("-DHGFAST_WITH_TENSORRT", "-DHGFAST_STUB_TENSORRT=11"),
        ("-DHGFAST_WITH_TENSORRT_RTX",),
        ("-DHGFAST_WITH_TENSORRT_RTX", "-DHGFAST_STUB_TENSORRT=10"),
        ("-DHGFAST_WITH_TENSORRT_RTX", "-DHGFAST_STUB_TENSORRT=11"),
    ],
    ids=["TensorRT 10", "TensorRT 11", "RTX", "headers of 10 for RTX", "headers of 11 for RTX"],
)
def test_tensorrt_compiles(words: tuple[str, ...], rtx: Path | None) -> None:
    """Compile for both libraries, and with the headers of the other; only syntax is checked, as tests/stub is not TensorRT."""
    if rtx is None:
        pytest.skip("TensorRT-RTX's library or the CUDA runtime's headers are not on this machine")
    places = [SOURCE / "include", SOURCE / "src", rtx / "include", "/usr/local/cuda/include"]
    strict = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    done = shell("c++", *strict, *words, *(f"-I{place}" for place in places), SOURCE / "src/tensorrt.cpp")
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.gpu
def test_engine_equals_python(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    """An engine of TensorRT gives the same points in C++ and in Python."""
    root = Path(os.environ.get("HGFAST_TENSORRT_ROOT", ""))
    if not (root / "include/NvInfer.h").exists():
        pytest.skip("HGFAST_TENSORRT_ROOT names no folder of TensorRT with include/NvInfer.h and lib")
    config = TensorRTConfig(checkpoint=checkpoint, batch="1:2:8", backend="tensorrt")
    try:
        path = export_engine(config, load_network(config), tmp_path / "net.engine").path
    except HgfastError as error:
        pytest.skip(str(error))
    tool, image = make(folder / "tensorrt", f"-DHGFAST_TENSORRT_ROOT={root}") / "hgfast_cli", random_image(200, 150)
    with Session(path) as session:
        for boxes in (None, BOXES[:3]):
            (found,) = parse_people(shell(tool, path, *write_raw(image, tmp_path / "raw"), *flags(boxes)))
            expected = session(image, boxes)
            np.testing.assert_allclose(found[..., :2], expected.keypoints, rtol=0, atol=SAME_PIXELS)
            np.testing.assert_allclose(found[..., 2], expected.scores, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_broken_files_never_crash(sanitized: Path, net: Path, tmp_path: Path) -> None:
    """Random changes of sidecars and models; export/cpp/README.md says how to test more."""
    models = {"onnx": net, "engine": engine(net, tmp_path / "net.engine", plan(4096))}
    for name, model in models.items():
        (tmp_path / name).mkdir()
        done = shell(sanitized / "hgfast_check", "fuzz", model, tmp_path / name, NUM_BROKEN_FILES // 2, 1, **QUIET)
        assert done.returncode == 0, done.stderr[-4000:]
        seen = json.loads(done.stdout)
        assert sum(seen.values()) == NUM_BROKEN_FILES // 2 and not set(seen) & {"failed", "unknown"}
        assert seen["bad_sidecar"] > NUM_BROKEN_FILES // 10 and seen["bad_model"] > NUM_BROKEN_FILES // 10


@pytest.mark.slow
def test_clean_under_sanitizers(sanitized: Path, net: Path, tmp_path: Path) -> None:
    """Runs with boxes and a JPEG, and leaks, which are reported at exit."""
    tool, one = sanitized / "hgfast_cli", ("--threads", 1)
    (tmp_path / "x.jpg").write_bytes(rotated_jpeg(scene(), 6))
    done = shell(tool, net, tmp_path / "x.jpg", *flags(BOXES[:2] * 4), "--repeat", 50, *one, **QUIET)
    assert done.returncode == 0 and "Sanitizer" not in done.stderr, done.stderr[-4000:]
    for size in ((1, 1), (1, 300), (300, 1), (4000, 5)):
        done = shell(tool, net, *write_raw(random_image(*size), tmp_path / "raw"), *one, **QUIET)
        assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
def test_no_data_races(folder: Path, net: Path) -> None:
    """Threads that share a session and threads with their own ones, under ThreadSanitizer. Removing the mutex of a session fails
    this test."""
    # OpenVINO and TBB are not compiled for ThreadSanitizer, which does not see how they synchronize
    environment = {**QUIET, "TSAN_OPTIONS": "ignore_noninstrumented_modules=1"}
    tool = make(folder / "threads", "-DCMAKE_CXX_FLAGS=-O1 -g1 -fsanitize=thread") / "hgfast_check"
    done = shell(tool, "threads", net, 10, **environment)
    assert done.returncode == 0 and not done.stderr, done.stderr[-4000:]


def test_threads(built: Path, net: Path) -> None:
    done = shell(built / "hgfast_check", "threads", net, 5)
    assert done.returncode == 0, done.stderr


def test_memory_is_flat(cli: Tool, net: Path, tmp_path: Path) -> None:
    done = cli(net, *write_raw(random_image(200, 150), tmp_path / "raw"), *flags(BOXES[:1]), "--repeat", 2000)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stderr.splitlines()[-1])
    assert told["runs"] == 2000 and told["memory_growth_kb"] < 5 * 1024 and told["files_after"] == told["files_before"] > 0


def test_installed_package(built: Path, net: Path, tmp_path: Path) -> None:
    prefix, consumer = tmp_path / "prefix", tmp_path / "consumer"
    cmake("--install", built, "--prefix", prefix)
    cmake("-S", SOURCE / "example", "-B", consumer, f"-DCMAKE_PREFIX_PATH={prefix}", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror")
    cmake("--build", consumer)
    done = shell(consumer / "example", net)
    assert done.returncode == 0 and [person.shape for person in parse_people(done)] == [(1, 16, 3)]
    done = shell(consumer / "example", tmp_path / "none.onnx")
    assert done.returncode == 1 and "there is no file" in done.stdout
    helped = shell(prefix / "bin/hgfast_cli", "--help")
    assert helped.returncode == 0 and "--box X,Y,W,H" in helped.stdout


def test_without_any_backend(tmp_path: Path) -> None:
    done = shell("cmake", "-S", SOURCE, "-B", tmp_path, f"-DHGFAST_PYTHON={sys.executable}", "-DHGFAST_OPENVINO=OFF")
    assert done.returncode != 0 and "neither OpenVINO nor TensorRT was found" in " ".join(done.stderr.split())
