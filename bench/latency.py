"""How long a network takes in each runtime: a checkpoint and what export/ made of it, side by side.

    python bench/latency.py exp/mpii/best.pt exp/mpii/best.fp32.onnx exp/mpii/best.int8.onnx --json latency.json

An ONNX runs in onnxruntime and in OpenVINO, a checkpoint in torch. From images in memory to keypoints, in interleaved rounds of
one process; before each way's turn it is quiet for a moment, as some runtimes' threads go on spinning, and runs twice untimed.
The speed-up is over the first row. The error is the largest distance of a keypoint from the first row's, in pixels of the input,
on drawn pictures; a peak that jumps to another place shows as many pixels.
What may enter: the flags, the rounds, the rows.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from record import Row, machine, make_record, write_record
from tabulate import tabulate

from hgfast import sidecar as sidecars
from hgfast.checkpoints import load_model
from hgfast.cli import parse
from hgfast.distributed import pick_device
from hgfast.engine import NoGpu
from hgfast.errors import HgfastError, run
from hgfast.files import check_apart, prepare_file
from hgfast.inference import keypoints_of, last_heatmaps
from hgfast.machine import cores
from hgfast.model import PRESETS, StackedHourglass
from hgfast.preprocessing import Preprocessing, apply, fold
from hgfast.runtimes import RUNTIMES, Artefact
from hgfast.sidecar import KEYPOINTS, is_artefact
from pipelines.drawn.pictures import draw_pictures

PAUSE = 0.05  # seconds
PACKAGES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx-cu13-libs")


@dataclass(kw_only=True)
class LatencyConfig:
    """One comparison."""

    files: list[Path] = field(default_factory=list)
    """checkpoints, and ONNX, TorchScript and engines of export/"""
    batch: list[int] = field(default_factory=lambda: [1])
    """images at once, such as [1,8]"""
    rounds: int = 7
    """turns of every way"""
    calls: int = 10
    """timed calls a turn"""
    threads: int | None = None
    """of the CPU; none: one a core"""
    flip_test: bool = False
    """checkpoints with a flip test; exported files must have been made with one"""
    quick: bool = False
    """few rounds, to see that it works"""
    json: Path | None = None
    """write the record here"""

    def __post_init__(self) -> None:
        if self.quick:
            self.rounds, self.calls = 2, 3

    def validate(self) -> None:
        """Raise `HgfastError` for what is out of its range."""
        if min(self.rounds, self.calls, self.threads or 1, *self.batch) < 1 or not self.batch:
            raise HgfastError("--rounds, --calls, --threads and --batch must be at least 1")
        if self.json is not None:
            check_apart([("a file to be measured", path) for path in self.files], {"--json": self.json})
            prepare_file(self.json, "--json")


@dataclass(frozen=True)
class Way:
    """A file in a runtime. run: (n, S, S, 3) uint8 RGB -> keypoints (n, K, 3)."""

    file: Path
    runtime: str
    precision: str
    preset: str
    size: int
    joints: int
    most: int
    run: Callable[[NDArray[np.uint8]], NDArray[Any]]


def open_ways(path: Path, threads: int, flip_test: bool) -> list[Way]:
    """The ways to run a file here. Raises `HgfastError` for a file that cannot be run."""
    if not is_artefact(path):
        return [_torch(path, flip_test)]
    described = sidecars.read(path)
    if KEYPOINTS not in [port.name for port in described.outputs] or described.flip_test != flip_test:
        raise HgfastError(f"{path} gives no keypoints, or differs in --flip-test from what is given here: export it again")
    ways = []
    for runtime in RUNTIMES[described.kind]:
        artefact = Artefact(path, runtime, threads)
        sidecar = artefact.sidecar
        affine = _affine(Preprocessing(sidecar.mean, sidecar.std)) if sidecar.normalised else None

        def find(images: NDArray[np.uint8], artefact: Artefact = artefact, affine: Any = affine) -> NDArray[Any]:
            if affine is None:
                return artefact(images)[KEYPOINTS]
            return artefact(_normalise(images, affine).contiguous().numpy())[KEYPOINTS]

        joints = len(sidecar.skeleton.joints)
        ways.append(Way(path, runtime, sidecar.precision, "", sidecar.input_size, joints, sidecar.batch.max, find))
    return ways


def _torch(path: Path, flip_test: bool) -> Way:
    """A checkpoint in fp32, as hgfast/predict.py runs it, on the GPU where there is one, as the others."""
    device = pick_device("auto")
    model = load_model(path, device)
    affine = _affine(model.meta.preprocessing)

    @torch.inference_mode()
    def find(images: NDArray[np.uint8]) -> NDArray[Any]:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            maps = last_heatmaps(model, _normalise(images, affine).to(device), flip_test)
            return keypoints_of(model, maps).cpu().numpy()

    joints = len(model.meta.skeleton.joints)
    return Way(path, "torch", "fp32", preset_of(model), model.meta.input_size, joints, 10**6, find)


def preset_of(model: StackedHourglass) -> str:
    """The preset that a network has the shapes of, whatever its input's size, or ""."""
    size = model.arch.input_size
    return next((name for name, arch in PRESETS.items() if replace(arch, input_size=size) == model.arch), "")


def _affine(preprocessing: Preprocessing) -> NDArray[np.float32]:
    return fold(np.eye(3, 4, dtype=np.float32)[None], preprocessing)


def _normalise(images: NDArray[np.uint8], affine: NDArray[np.float32]) -> torch.Tensor:
    return apply(torch.from_numpy(images), torch.from_numpy(affine).expand(len(images), -1, -1))


def measure(ways: list[Way], images: NDArray[np.uint8], config: LatencyConfig) -> list[list[float]]:
    """Milliseconds of every timed call, by way; the order is another in every round."""
    order = random.Random(0)  # noqa: S311  (no secret)
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(config.rounds):
        for number in order.sample(range(len(ways)), len(ways)):
            time.sleep(PAUSE)
            for call in range(-2, config.calls):
                began = time.perf_counter()
                ways[number].run(images)
                if call >= 0:
                    times[number].append(1000 * (time.perf_counter() - began))
    return times


def main() -> None:
    config = parse(LatencyConfig, rest="files", description=__doc__ or "")
    config.validate()
    where, threads = machine(), config.threads or cores()
    torch.set_num_threads(threads)
    ways = []
    for path in config.files:
        try:
            ways += open_ways(path, threads, config.flip_test)
        except NoGpu:
            print(f"{path}: built, not run (there is no GPU here)", flush=True)
    if not ways:
        raise HgfastError("there is nothing to run here: give a checkpoint or an ONNX")
    if len({(way.size, way.joints) for way in ways}) > 1:
        raise HgfastError("the files differ in the size of their images or in their joints: give files of one network")
    rows: list[Row] = []
    for batch in config.batch:
        if small := next((way for way in ways if way.most < batch), None):
            raise HgfastError(f"{small.file} takes at most {small.most} images at once, not {batch}: give a smaller --batch")
        images = draw_pictures(ways[0].size, batch)
        found = [way.run(images) for way in ways]
        times = measure(ways, images, config)
        first = float(np.median(times[0]))
        for way, own, points in zip(ways, times, found):
            rows.append(
                {
                    "file": way.file.name,
                    "runtime": way.runtime,
                    "precision": way.precision,
                    "preset": way.preset or ways[0].preset,
                    "device": "gpu" if where["gpu"] and way.runtime != "openvino" else "cpu",
                    "batch": batch,
                    "threads": threads,
                    "median_ms": float(np.median(own)),
                    "p90_ms": float(np.percentile(own, 90)),
                    "p99_ms": float(np.percentile(own, 99)),
                    "images_per_s": 1000 * batch / float(np.median(own)),
                    "speedup": first / float(np.median(own)),
                    "max_px_error": float(np.linalg.norm(points[..., :2] - found[0][..., :2], axis=-1).max()),
                }
            )
    print(tabulate(rows, headers="keys", floatfmt=".2f"), flush=True)
    if config.json is not None:
        write_record(make_record(rows, where, PACKAGES), config.json)
        print(f"record: {config.json}")


if __name__ == "__main__":
    run(main)
