"""The loaders on the CPU and on a GPU: JPEGs of all kinds, batches of all sizes, bad files and epochs that are closed early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from hgfast.config import AugmentConfig, LoadingConfig
from hgfast.geometry import warp
from hgfast.normalization import Normalization
from hgfast.pipelines.batch_plan import BatchPlan
from hgfast.pipelines.loaders.base import PlannedLoader
from hgfast.pipelines.loaders.dali import DaliLoader
from hgfast.pipelines.loaders.opencv import OpenCVLoader
from hgfast.pipelines.loaders.self_test import write_jpegs
from hgfast.pipelines.readers.coco import CocoOptions, read_coco
from hgfast.pipelines.readers.freihand import read_freihand
from hgfast.pipelines.readers.mpii_h5 import read_mpii
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import Skeleton
from hgfast.training.batch import Batch
from hgfast.visualization.draw import read_image
from tests.gpu import DEVICES, refuse_synchronization

dali = pytest.importorskip("nvidia.dali", reason="needs NVIDIA DALI")
pytestmark = pytest.mark.dali
CPU = torch.device("cpu")
RAW = Normalization((0, 0, 0), (1 / 255, 1 / 255, 1 / 255))  # does not change gray levels
AUGMENT = AugmentConfig(rotation=180, scale_min=0.6, scale_max=1.4, shift=0.1)
GEOMETRIC = AugmentConfig(brightness=0, contrast=0, saturation=0, hue=0)
CENTER = Skeleton("center", ("center",), (), (0,), ())
ON_DEVICES = pytest.mark.parametrize("device", DEVICES, ids=str)


class Tolerance(NamedTuple):
    """Largest and mean difference of a crop from the CPU's or OpenCV's, gray levels."""

    largest: float
    mean: float


TOLERANCES = {
    # the same libjpeg and the same arithmetic; warp_perspective of DALI 2.2 rounds coordinates to 1/32 of a pixel
    "cpu": Tolerance(2.5, 0.02) if tuple(map(int, dali.__version__.split(".")[:2])) >= (2, 3) else Tolerance(7, 1.5),
    # nvJPEG has an inverse DCT and a chroma interpolation of its own, which differ by a few levels at edges
    "cuda": Tolerance(40, 2),
}


def differences(one: torch.Tensor, other: torch.Tensor | NDArray[np.uint8]) -> Tolerance:
    """Return the differences of images (3, S, S) from other images, or from an (S, S, 3) array of OpenCV."""
    wanted = torch.from_numpy(other).permute(2, 0, 1) if isinstance(other, np.ndarray) else other.cpu()
    off = (one.cpu() - wanted).abs()
    return Tolerance(float(off.max()), float(off.mean()))


def agrees(found: Tolerance, limit: Tolerance) -> bool:
    return found.largest <= limit.largest and found.mean <= limit.mean


def samples_of(paths: list[Path], size: NDArray[np.float64]) -> Samples:
    """Return one sample per image, with squares that are smaller and larger than images of this (N, 2) size."""
    rows, ones = np.arange(len(paths)), np.ones(len(paths))
    side = size.max(1) * np.array([0.4, 0.9, 1.4])[rows % 3]
    return Samples(
        np.array(list(map(str, paths))), size / 2, side, size[:, None] / 2, np.ones((len(paths), 1), bool), ones, rows, rows,
        CENTER, 0.0,
    )  # fmt: skip


# ---- JPEGs ----


def check_crops(loader: DaliLoader, paths: list[Path], limit: Tolerance) -> None:
    """Assert that every image comes once and that its crop agrees with OpenCV's."""
    wrong, seen = {}, list[int]()
    for batch in loader.epoch(0):
        assert batch.images.device == loader.device and not batch.is_replacement.any()
        for image, row, matrix in zip(batch.images, batch.index, batch.input_from_source):
            off = differences(image, warp(read_image(paths[row]), matrix, loader.plan.input_size))
            if not agrees(off, limit):
                wrong[paths[row].stem] = off
            seen.append(int(row))
    assert not wrong
    assert sorted(seen) == list(range(len(paths)))


def image_sizes(paths: list[Path]) -> NDArray[np.float64]:
    return np.array([read_image(path).shape[1::-1] for path in paths], np.float64)


@ON_DEVICES
@pytest.mark.parametrize("preload_gb", [0.0, 1.0])
def test_jpegs_of_all_kinds_equal_opencvs(tmp_path: Path, device: torch.device, preload_gb: float) -> None:
    """From one pixel to four megapixels, odd sizes, every chroma subsampling, gray, progressive, every orientation."""
    paths = write_jpegs(tmp_path)
    paths.append(tmp_path / "bytes after the end.jpg")
    paths[-1].write_bytes(paths[11].read_bytes() + bytes(1000))
    plan = BatchPlan(samples_of(paths, image_sizes(paths)), 96, 16, augment=GEOMETRIC, seed=3)
    loader = DaliLoader(plan, device, 2, RAW, options=LoadingConfig(preload_gb=preload_gb))
    check_crops(loader, paths, TOLERANCES[device.type])


@ON_DEVICES
def test_cmyk_jpegs_equal_opencvs(tmp_path: Path, device: torch.device) -> None:
    """DALI and OpenCV convert CMYK to RGB with another rounding, by one gray level."""
    photo, paths = Image.fromarray(read_image(write_jpegs(tmp_path)[11])).convert("CMYK"), []
    for number, settings in enumerate(({}, {"progressive": True}, {"subsampling": 2}, {"quality": 30})):
        paths.append(tmp_path / f"cmyk {number}.jpg")
        photo.save(paths[-1], **settings)
    plan = BatchPlan(samples_of(paths, image_sizes(paths)), 96, 3, augment=GEOMETRIC, seed=3)
    largest, mean = TOLERANCES[device.type]
    check_crops(DaliLoader(plan, device, 2, RAW), paths, Tolerance(largest + 1, mean + 1))


@ON_DEVICES
def test_truncated_jpegs_are_replaced(tmp_path: Path, device: torch.device, capfd: pytest.CaptureFixture[str]) -> None:
    """OpenCV and DALI refuse them on a CPU."""
    paths = write_jpegs(tmp_path)[10:34]
    truncated = {3: 0.5, 9: 0.9, 14: 0.99, 20: 0.02}
    for number, fraction in truncated.items():
        content = paths[number].read_bytes()
        paths[number].write_bytes(content[: int(len(content) * fraction)])
    plan = BatchPlan(samples_of(paths, np.full((len(paths), 2), 100.0)), 64, 6, augment=GEOMETRIC)
    batches = list(DaliLoader(plan, device, 2, RAW).epoch(0))
    assert sorted(row for batch in batches for row in batch.index[~batch.is_replacement]) == sorted(
        set(range(len(paths))) - set(truncated)
    )
    stderr = capfd.readouterr().err
    assert all(stderr.count(f"warning: {paths[number]} is a JPEG that is cut off") == 1 for number in truncated)


# ---- batches ----


def make_loader(name: str, plan: BatchPlan, device: torch.device) -> PlannedLoader:
    """Create the loader of a GPU: on a CPU, its graph with the decoder on the CPU."""
    if name == "opencv":
        return OpenCVLoader(plan, device, 0, RAW)
    return DaliLoader(plan, device, 2, RAW, decode="image", warp="warp_affine")


def assert_same_batches(ones: list[Batch], others: list[Batch], device: torch.device) -> None:
    assert len(ones) == len(others)
    for one, other in zip(ones, others):
        assert one.images.device == one.keypoints.device == one.labeled.device == device
        assert one.images.is_contiguous(memory_format=torch.channels_last) and one.images.dtype == torch.float32
        for image, wanted in zip(one.images, other.images, strict=True):
            assert agrees(differences(image, wanted), TOLERANCES[device.type])
        assert torch.equal(one.keypoints.cpu(), other.keypoints) and torch.equal(one.labeled.cpu(), other.labeled)
        assert np.array_equal(one.index, other.index) and np.array_equal(one.input_from_source, other.input_from_source)
        assert np.array_equal(one.is_replacement, other.is_replacement) and one.global_batch_size == other.global_batch_size


@ON_DEVICES
@pytest.mark.parametrize("name", ["dali", "opencv"])
def test_batches_equal_those_of_the_cpu(hands: Path, people: Path, name: str, device: torch.device) -> None:
    """All batch sizes of an epoch, with colors. Batches keep their values while later ones are made."""
    for samples in (read_freihand(hands, "all"), read_mpii(people, "train")):
        plan = BatchPlan(samples.take(np.arange(len(samples)) < 23), 96, 8, augment=AUGMENT, seed=3)
        batches = list(make_loader(name, plan, device).epoch(2))
        wanted = DaliLoader(plan, CPU, 1, RAW) if name == "dali" else OpenCVLoader(plan, CPU, 0, RAW)
        assert_same_batches(batches, list(wanted.epoch(2)), device)
        assert {len(batch.images) for batch in batches} == {7, 8}


@ON_DEVICES
@pytest.mark.parametrize("name", ["dali", "opencv"])
def test_epoch_closed_early_and_restarted(hands: Path, name: str, device: torch.device) -> None:
    plan = BatchPlan(read_freihand(hands, "all", ["gs", "hom"]), 48, 10, augment=AUGMENT, seed=4)
    whole = list(make_loader(name, plan, CPU).epoch(1))
    loader = make_loader(name, plan, device)
    for count in (1, 4, 0):
        started = loader.epoch(0)
        for _ in range(count):
            next(started)
        started.close()
    assert_same_batches(list(loader.epoch(1)), whole, device)
    assert_same_batches(list(loader.epoch(1, start=plan.steps - 2)), whole[-2:], device)


@ON_DEVICES
def test_bad_file_in_the_middle(hands: Path, tmp_path: Path, device: torch.device) -> None:
    samples = read_freihand(hands, "all", ["gs"])
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    samples.paths[20] = str(bad)
    plans = [BatchPlan(samples, 48, 6, augment=AUGMENT, seed=5) for _ in range(2)]
    batches, wanted = (list(make_loader("dali", plan, place).epoch(0)) for plan, place in zip(plans, (device, CPU)))
    assert_same_batches(batches, wanted, device)
    assert sum(int(batch.is_replacement.sum()) for batch in batches) == 1
    assert not any(20 in batch.index for batch in batches)


# ---- copies to the device ----


@ON_DEVICES
@pytest.mark.parametrize("name", ["dali", "opencv"])
def test_host_does_not_wait_for_copies(hands: Path, name: str, device: torch.device) -> None:
    plan = BatchPlan(read_freihand(hands, "valid"), 64, 8, augment=AUGMENT)
    loader = make_loader(name, plan, device)
    planned = plan.batch(0, 0)
    crops = np.random.default_rng(0).integers(0, 256, (len(planned.index), 64, 64, 3), np.uint8)
    with refuse_synchronization(device):
        batch = loader._make_batch(loader._to_device(crops), planned)
    wanted = OpenCVLoader(plan, CPU, 0, RAW)._make_batch(torch.from_numpy(crops), planned)
    assert (batch.images.cpu() - wanted.images).abs().max() < 0.01
    assert torch.equal(batch.keypoints.cpu(), wanted.keypoints) and torch.equal(batch.labeled.cpu(), wanted.labeled)


def test_copies_to_a_gpu_are_pinned_and_asynchronous(hands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: torch's own copy of pageable memory would make the host wait."""
    pinned: list[torch.Tensor] = []
    copies: list[tuple[Any, ...]] = []

    def pin_memory(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor.clone())
        return pinned[-1]

    def to(tensor: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        copies.append((any(tensor is other for other in pinned), args, options))
        return tensor

    plan = BatchPlan(read_freihand(hands, "valid"), 64, 8)
    loader, planned = OpenCVLoader(plan, torch.device("cuda", 0), 0, RAW), plan.batch(0, 0)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(torch.Tensor, "to", to)
    crops = loader._to_device(np.zeros((len(planned.index), 64, 64, 3), np.uint8))
    loader._make_batch(crops, planned)
    assert copies == [(True, (torch.device("cuda", 0),), {"non_blocking": True})] * 4  # crops, colors, keypoints, labeled


@pytest.mark.parametrize("name", ["dali", "opencv"])
def test_500_people_in_one_image(tmp_path: Path, name: str) -> None:
    """Each sample shows its own part of the image: squares of one gray level each."""
    columns, rows = np.divmod(np.arange(500), 25)
    levels = (np.arange(500) * 7 % 200 + 30).astype(np.uint8)
    Image.fromarray(np.kron(levels.reshape(20, 25).T, np.ones((40, 40), np.uint8))).save(tmp_path / "crowd.png")
    annotations = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": [40 * x, 40 * y, 40, 40], "keypoints": [40 * x + 20, 40 * y + 20, 2]}
        for n, (x, y) in enumerate(zip(columns.tolist(), rows.tolist()))
    ]
    content = {
        "images": [{"id": 1, "file_name": "crowd.png", "width": 800, "height": 1000}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": ["center"]}],
    }
    (tmp_path / "crowd.json").write_text(json.dumps(content))
    samples = read_coco(tmp_path / "crowd.json", tmp_path, CocoOptions(padding=0.5, pixel_offset=0))
    batches = list(make_loader(name, BatchPlan(samples, 16, 64), CPU).epoch(0))
    assert sorted(int(row) for batch in batches for row in batch.index) == list(range(500))
    for batch in batches:
        wanted = torch.from_numpy(levels[batch.index.astype(int)].astype(np.float32))
        assert (batch.images - wanted[:, None, None, None]).abs().max() <= 1
        assert torch.allclose(batch.keypoints, torch.full_like(batch.keypoints, 8), atol=1e-3)
