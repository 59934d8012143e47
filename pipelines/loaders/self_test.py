"""Self-test of DALI on a GPU: a child process decodes and crops JPEGs of all kinds and compares the crops with OpenCV's.

nvJPEG and nvImageCodec have had versions that crash, hang or return corrupt images on some GPUs. The child process shows that in
seconds, before a training run is lost to it. A pass is remembered for the GPU and the versions in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hgfast import __version__
from hgfast.config import AugmentConfig, LoadingConfig
from hgfast.errors import HgfastError, one_line, print_warning
from hgfast.fileio.files import temporary_folder
from hgfast.geometry import warp
from hgfast.normalization import UNNORMALIZED
from hgfast.pipelines.batch_plan import BatchPlan, PlannedBatch
from hgfast.pipelines.loaders.dali import DaliLoader, hw_decoder_load, import_dali
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import Skeleton
from hgfast.system_info import package_versions
from hgfast.visualization.draw import read_image

TIMEOUT = 300.0
"""Seconds after which the child process counts as hung; it usually ends in a few, most of them for imports."""
NUM_IMAGES, BATCH_SIZE, ROUNDS, INPUT_SIZE = 64, 16, 5, 128
MAX_OFF, MEAN_OFF = 24.0, 2.0
"""Largest and mean difference of an image from OpenCV's crop, gray levels. On a CPU they are at most 5 and 1.3. nvJPEG's inverse
DCT and chroma interpolation round differently, by a few gray levels in these smooth images; corrupt blocks are far off."""
PACKAGES = ("nvidia-dali-cuda130", "nvidia-nvimgcodec-cu13", "nvidia-nvjpeg")

SIZES = (
    *((1, 1), (1, 9), (9, 1), (2, 2), (7, 5), (8, 8), (16, 16), (17, 33), (64, 48), (223, 225), (224, 224), (333, 500)),
    *((640, 480), (1281, 719), (1920, 1080), (2501, 1667)),
)
"""Width and height of the JPEGs, pixels."""
KINDS: dict[str, tuple[int, ...]] = {
    "4:4:4": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    "4:2:2": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422),
    "4:2:0": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420),
    "4:4:0": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440),
    "4:1:1": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
    "progressive": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restart": (cv2.IMWRITE_JPEG_RST_INTERVAL, 3),
    "optimized": (cv2.IMWRITE_JPEG_OPTIMIZE, 1),
    "gray": (),
}
"""OpenCV's encoder settings by kind of JPEG."""


def write_jpegs(folder: Path) -> list[Path]:
    """Write `NUM_IMAGES` JPEGs, in which all `SIZES`, `KINDS` and EXIF orientations occur; their names tell what they are."""
    paths = []
    for number in range(NUM_IMAGES):
        width, height = SIZES[number % len(SIZES)]
        kind = list(KINDS)[number % len(KINDS)]
        image = _smooth_image(width, height, number)
        settings = [cv2.IMWRITE_JPEG_QUALITY, 95, *KINDS[kind]]
        jpeg = cv2.imencode(".jpg", image[..., 0] if kind == "gray" else image, settings)[1].tobytes()
        orientation = 1 + number // 4 % 8 if number % 4 == 1 else 1
        if orientation > 1:
            jpeg = jpeg[:2] + exif_segment(orientation) + jpeg[2:]
        paths.append(folder / f"{number:02d} {width}x{height} {kind.replace(':', '')} orientation {orientation}.jpg")
        paths[-1].write_bytes(jpeg)
    return paths


def _smooth_image(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Return an image (height, width, 3) of random colors that change slowly, so that rounding in decoders has little effect."""
    columns, rows = width // CELL + 2, height // CELL + 2
    colors = np.random.default_rng(seed).uniform(40, 215, (rows, columns, 3)).astype(np.float32)
    smooth = cv2.resize(colors, (columns * CELL, rows * CELL), interpolation=cv2.INTER_LINEAR)
    return np.rint(smooth[CELL // 2 :, CELL // 2 :][:height, :width]).astype(np.uint8)


CELL = 64
"""Pixels between two random colors. If it were less, nvJPEG could differ more where it interpolates what libjpeg repeats."""


def exif_segment(orientation: int) -> bytes:
    """Return an APP1 segment that holds only the orientation (EXIF 2.3, tag 0x0112), to insert after a JPEG's first two bytes."""
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation]) + bytes(6)
    return b"\xff\xe1" + (len(tiff) + 8).to_bytes(2, "big") + b"Exif\0\0" + tiff


def compare_with_opencv(device_string: str, decoder_load: float) -> str:
    """Crop the JPEGs of `write_jpegs` several times with `DaliLoader` while the device is busy, and compare with OpenCV's crops.

    Args:
        device_string: cpu or cuda:N.
        decoder_load: fraction of the JPEGs for the GPU's hardware decoder.

    Returns:
        "" if all agree within `MAX_OFF` and `MEAN_OFF`, else a description of the problem.
    """
    device, loading = torch.device(device_string), LoadingConfig(hw_decoder_load=decoder_load)
    with temporary_folder() as folder:
        samples = _samples(write_jpegs(folder))
        plan = BatchPlan(samples, INPUT_SIZE, BATCH_SIZE, augment=GEOMETRIC, seed=1)
        batches = [plan.batch(0, step) for step in range(plan.steps)]
        index = np.concatenate([planned.index for planned in batches])
        wanted = [torch.from_numpy(_opencv_crops(samples, planned)).to(device) for planned in batches]
        loader = DaliLoader(plan, device, 2, UNNORMALIZED, options=loading)
        load = torch.rand(*(2 * [4096 if device.type == "cuda" else 64]), device=device)
        off = []
        for _ in range(ROUNDS):
            for batch, crops in zip(loader.epoch(0), wanted):
                if batch.is_replacement.any():
                    return "cannot decode a JPEG that OpenCV decodes"
                for _ in range(4):  # as in training, the batch waits in the stream while later ones are decoded
                    load = torch.softmax(load @ load, 1)
                difference = (batch.images.permute(0, 2, 3, 1) - crops).abs().flatten(1)
                off.append(torch.stack([difference.amax(1), difference.mean(1)], 1))
        largest, mean = torch.cat(off).cpu().numpy().reshape(ROUNDS, len(index), 2).max(0).T
    excess = np.maximum(largest / MAX_OFF, mean / MEAN_OFF)
    worst = int(excess.argmax())
    if excess[worst] <= 1:
        return ""
    return (
        f"decoded {(excess > 1).sum()} of {len(index)} JPEGs wrongly, such as {Path(samples.paths[index[worst]]).stem}, which is "
        f"off by up to {largest[worst]:.0f} and on average {mean[worst]:.1f} gray levels"
    )


GEOMETRIC = AugmentConfig(brightness=0, contrast=0, saturation=0, hue=0)


def _samples(paths: list[Path]) -> Samples:
    """Return one sample per image, with squares that are smaller and larger than the image."""
    size = np.array([read_image(path).shape[1::-1] for path in paths], np.float64)
    numbers, ones = np.arange(len(paths)), np.ones(len(paths))
    side = size.max(1) * np.array([0.3, 0.8, 1.5])[numbers // len(SIZES) % 3]
    return Samples(
        np.array(list(map(str, paths))), size / 2, side, size[:, None] / 2, np.ones((len(paths), 1), bool), ones,
        numbers, numbers, Skeleton("center", ("center",), (), (0,), ()), 0.0,
    )  # fmt: skip


def _opencv_crops(samples: Samples, planned: PlannedBatch) -> NDArray[np.uint8]:
    """Return the crops (n, S, S, 3) of a planned batch, made by OpenCV."""
    rows = zip(planned.index, planned.input_from_source)
    return np.stack([warp(read_image(samples.paths[row]), matrix, INPUT_SIZE) for row, matrix in rows])


# ---- in a child process, once ----

CHILD = """
import importlib, sys
sys.path[:] = {path!r}
from hgfast.errors import one_line
module, _, function = {task!r}.partition(":")
try:
    problem = getattr(importlib.import_module(module), function)({device!r}, {load!r})
except Exception as error:
    problem = f"failed ({{one_line(error)}})"
print("result:", problem)
"""
"""Code of the child process. It does not import the parent's main module, which may be any script."""


def run_self_test(
    device: torch.device, loading: LoadingConfig, *, task: str = f"{__name__}:compare_with_opencv", timeout: float = TIMEOUT
) -> None:
    """Run a function in a child process, by default `compare_with_opencv`.

    Args:
        task: "module:function" that takes the name of the device and the hardware decoder's load, and returns "" or a problem.
        timeout: seconds after which the child is killed.

    Raises:
        HgfastError: the child found a problem, raised an exception, was killed, or did not end in time, or DALI is missing.
    """
    import_dali()
    load = hw_decoder_load(device, loading)
    code = CHILD.format(path=sys.path, task=task, device=str(device), load=load)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        child = subprocess.Popen([sys.executable, "-c", code], stdout=output, start_new_session=True)
        try:
            problem = _describe_exit(child.wait(timeout))
        except subprocess.TimeoutExpired:
            problem = f"did not end within {timeout:g} seconds"
        finally:
            child.kill()
            with suppress(subprocess.TimeoutExpired):  # a process that waits for the driver cannot be killed
                child.wait(10)
        output.seek(0)
        _, result_found, result = output.read().rpartition("result:")
    problem = problem or (result.strip() if result_found else "ended without a result")
    if not problem:
        return
    versions = ", ".join(f"{name} {number}" for name, number in package_versions(PACKAGES).items() if name in PACKAGES)
    less_load = "train with --loading.hw-decoder-load 0, " if load and device.type == "cuda" else ""
    raise HgfastError(
        f"the self-test of DALI on {device_name(device)} {problem}: use --loader opencv, {less_load}or install other versions of "
        f"these packages ({versions}; hw-decoder-load {load:g})"
    )


def _describe_exit(code: int) -> str:
    """Describe the exit code of a child process; "" if it is 0."""
    if code < 0:
        return f"crashed with signal {-code} ({signal.strsignal(-code)})"
    return f"ended with exit code {code}" if code else ""


def ensure_tested(device: torch.device, loading: LoadingConfig, *, again: bool = False) -> None:
    """Run the self-test on a GPU unless it has passed there with these versions and settings, or `again`.

    Of several ranks on a machine, one runs it while the others wait. Raises `HgfastError` if the test fails.
    """
    import fcntl  # missing on Windows, where DALI is missing too

    properties = identity(device, loading)
    digest = hashlib.sha256(json.dumps(properties).encode()).hexdigest()[:16]
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "self-test.lock").open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        print_warning(f"the self-test of DALI cannot be remembered ({one_line(error)})")
        run_self_test(device, loading)
        return
    with lock:
        passed = folder / f"self-test-{digest}.json"
        if again or not passed.exists():
            print(f"testing DALI on {device_name(device)}, once for these versions", file=sys.stderr, flush=True)
            passed.unlink(missing_ok=True)
            run_self_test(device, loading)
            passed.write_text(json.dumps(properties, indent=1) + "\n", "utf-8")


def identity(device: torch.device, loading: LoadingConfig) -> dict[str, str]:
    """Return everything that the outcome of the test depends on."""
    major, minor = torch.cuda.get_device_capability(device)
    try:
        driver = DRIVER_VERSION.read_text("utf-8").strip()
    except OSError:
        driver = "unknown"
    return {
        "gpu": device_name(device),
        "compute_capability": f"{major}.{minor}",
        "driver": driver,
        "hgfast": __version__,
        "hw_decoder_load": str(hw_decoder_load(device, loading)),
        **package_versions(PACKAGES),
    }


DRIVER_VERSION = Path("/sys/module/nvidia/version")


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"


def cache_folder() -> Path:
    """Return the user's cache folder of hgfast (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hgfast"
