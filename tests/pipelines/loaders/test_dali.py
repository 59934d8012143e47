"""The DALI graph: marks coincide with transformed keypoints, and images equal OpenCV's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hgfast.config import AugmentConfig
from hgfast.geometry import warp
from hgfast.normalization import Normalization
from hgfast.pipelines.batch_plan import BatchPlan
from hgfast.pipelines.loaders.dali import DaliLoader, Decode, Warp
from hgfast.pipelines.readers.freihand import read_freihand
from hgfast.pipelines.readers.mpii_h5 import read_mpii
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import Skeleton
from hgfast.visualization.draw import read_image
from tests.conftest import NUM_HANDS

dali = pytest.importorskip("nvidia.dali", reason="needs NVIDIA DALI")
pytestmark = pytest.mark.dali
CPU = torch.device("cpu")
RAW = Normalization((0, 0, 0), (1 / 255, 1 / 255, 1 / 255))  # does not change gray levels
STRONG = AugmentConfig(
    rotation=180, scale_min=0.7, scale_max=1.3, shift=0.1, flip=0.5, brightness=0, contrast=0, saturation=0, hue=0
)
SIZE, IMAGE_SIZE, MARK = 160, 224, 3.0  # pixels; MARK is the standard deviation of a mark
DECODES: tuple[Decode, ...] = ("image", "region")
VARIANTS = pytest.mark.parametrize(
    ("decode", "operator"), [("region", "warp_affine"), ("region", "warp_perspective"), ("image", "warp_affine")]
)
"""The graph of a CPU, the same with the other warp, and the graph of a GPU with a decoder on the CPU."""
# warp_perspective of DALI 2.2 rounds coordinates to 1/32 of a pixel
MAX_OFF, MEAN_OFF = (2.5, 0.02) if tuple(map(int, dali.__version__.split(".")[:2])) >= (2, 3) else (7.0, 0.25)
"""Largest and mean difference from OpenCV's crops, gray levels."""
GRID = Skeleton("grid", tuple(map(str, range(9))), (), tuple(range(9)), ())


@pytest.fixture(scope="module")
def marked_samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """200 black images with a Gaussian mark at each of nine keypoints, too far apart to touch."""
    folder, rng = tmp_path_factory.mktemp("marked"), np.random.default_rng(6)
    cells = np.stack(np.meshgrid([1, 3, 5], [1, 3, 5]), -1).reshape(9, 2) * IMAGE_SIZE / 6
    points = cells + rng.uniform(-14, 14, (200, 9, 2))
    centers = np.arange(IMAGE_SIZE) + 0.5
    paths = []
    for number, marks in enumerate(points):
        columns, rows = (np.exp(-((centers - marks[:, axis, None]) ** 2) / (2 * MARK**2)) for axis in (0, 1))
        image = np.einsum("kr,kc->rc", rows, columns)
        paths.append(str(folder / f"{number}.png"))
        cv2.imwrite(paths[-1], np.repeat(np.round(255 * image).astype(np.uint8)[..., None], 3, axis=2))
    ones = np.ones(200)
    return Samples(
        np.array(paths), np.full((200, 2), IMAGE_SIZE / 2), ones * IMAGE_SIZE, points, np.ones((200, 9), bool), ones,
        np.arange(200), np.arange(200), GRID, 0.0,
    )  # fmt: skip


def max_centroid_error(image: NDArray[np.float64], points: NDArray[np.float64], zoom: float) -> tuple[float, int]:
    """Return the largest distance of a mark's centroid from its keypoint, over marks inside (S, S), and their number."""
    reach = 4.5 * MARK * zoom
    centers = np.arange(SIZE) + 0.5
    distances = []
    for x, y in points:
        if min(x, y, SIZE - x, SIZE - y) < reach:
            continue
        window = image * (np.abs(centers - x) < reach) * (np.abs(centers - y) < reach)[:, None]
        centroid = np.array([(window * centers).sum(), (window * centers[:, None]).sum()]) / window.sum()
        distances.append(float(np.hypot(*(centroid - (x, y)))))
    return max(distances, default=0.0), len(distances)


def check_marks(samples: Samples, images: dict[int, NDArray[np.float64]], plan: BatchPlan) -> None:
    worst, count = 0.0, 0
    for step in range(plan.steps):
        batch = plan.batch(0, step)
        for row, points, matrix in zip(batch.index, batch.keypoints, batch.input_from_source):
            off, seen = max_centroid_error(images[int(row)], points, float(np.sqrt(abs(np.linalg.det(matrix[:2, :2])))))
            worst, count = max(worst, off), count + seen
    assert len(images) == len(samples) == 200
    assert count > 800  # of 1800; the others lie at or beyond the border
    assert worst < 0.25


def through_dali(plan: BatchPlan, device: torch.device, warp_operator: str) -> dict[int, NDArray[np.float64]]:
    loader = DaliLoader(plan, device, 1, RAW, warp=warp_operator)  # type: ignore[arg-type]
    return {
        int(row): image[0].double().cpu().numpy() for batch in loader.epoch(0) for row, image in zip(batch.index, batch.images)
    }


@pytest.mark.parametrize("operator", ["warp_affine", "warp_perspective"])
def test_marks_land_on_the_moved_keypoints(marked_samples: Samples, operator: str) -> None:
    plan = BatchPlan(marked_samples, SIZE, 32, augment=STRONG, seed=8)
    check_marks(marked_samples, through_dali(plan, CPU, operator), plan)


@pytest.mark.gpu
@pytest.mark.parametrize("operator", ["warp_affine", "warp_perspective"])
def test_marks_land_on_the_moved_keypoints_on_a_gpu(marked_samples: Samples, operator: str) -> None:
    plan = BatchPlan(marked_samples, SIZE, 32, augment=STRONG, seed=8)
    check_marks(marked_samples, through_dali(plan, torch.device("cuda", 0), operator), plan)


def test_marks_land_on_the_moved_keypoints_with_opencv(marked_samples: Samples) -> None:
    plan = BatchPlan(marked_samples, SIZE, 32, augment=STRONG, seed=8)
    images = {}
    for step in range(plan.steps):
        batch = plan.batch(0, step)
        for row, matrix in zip(batch.index, batch.input_from_source):
            images[int(row)] = warp(read_image(marked_samples.paths[row]), matrix, SIZE)[..., 0].astype(np.float64)
    check_marks(marked_samples, images, plan)


@VARIANTS
def test_crops_equal_opencvs(hands: Path, decode: Decode, operator: Warp) -> None:
    """Compare with the same files, matrices and colors through OpenCV and numpy."""
    samples = read_freihand(hands, "train", ["hom"])
    plan = BatchPlan(samples, 128, 8, augment=AugmentConfig(), seed=4)
    normalization = Normalization((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    loader = DaliLoader(plan, CPU, 1, normalization, decode=decode, warp=operator)
    for step, batch in enumerate(loader.epoch(1)):
        color = plan.batch(1, step).color.astype(np.float64)
        for n, row in enumerate(batch.index):
            rgb = warp(read_image(samples.paths[row]), batch.input_from_source[n], 128) / 255
            wanted = (rgb @ color[n, :, :3].T + color[n, :, 3] - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3]
            off = np.abs(batch.images[n].permute(1, 2, 0).numpy() - wanted) * 0.2 * 255  # about gray levels
            assert off.max() < MAX_OFF
            assert off.mean() < MEAN_OFF
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


@VARIANTS
def test_crops_of_images_of_all_sizes_equal_opencvs(people: Path, decode: Decode, operator: Warp) -> None:
    """Squares that extend beyond images of any shape, downscaled by any factor."""
    samples, zooms = read_mpii(people, "train"), []
    for size in (32, 96, 256):
        plan = BatchPlan(samples, size, 9, augment=AugmentConfig(brightness=0, contrast=0, saturation=0, hue=0), seed=2)
        for batch in DaliLoader(plan, CPU, 1, RAW, decode=decode, warp=operator).epoch(0):
            for n, row in enumerate(batch.index):
                wanted = warp(read_image(samples.paths[row]), batch.input_from_source[n], size)
                off = np.abs(batch.images[n].permute(1, 2, 0).numpy() - wanted)
                assert off.max() < MAX_OFF and off.mean() < MEAN_OFF
                zooms.append(float(np.sqrt(abs(np.linalg.det(batch.input_from_source[n, :2, :2])))))
    assert min(zooms) < 0.1 and max(zooms) > 1


@VARIANTS
def test_crops_outside_their_image_are_black(hands: Path, decode: Decode, operator: Warp) -> None:
    """Squares outside on any side, near and far, downscaled or not; the last one just touches."""
    away = [(900, 0), (-900, 0), (0, 900), (0, -900), (224 + 200, 112), (-200, 112), (3000, 3000), (224 + 199, 112)]
    samples = read_freihand(hands, "all", ["gs"]).take(np.arange(NUM_HANDS) < 16)
    samples = replace(samples, center=np.array(away * 2, float), side=np.repeat([400.0, 60.0], 8))
    loader = DaliLoader(BatchPlan(samples, 96, 16), CPU, 1, RAW, decode=decode, warp=operator)
    (batch,) = loader.epoch(0)
    bright = batch.images.amax((1, 2, 3)).numpy()
    assert np.array_equal(bright > 0, np.arange(16) == 7)
    for image, path, matrix in zip(batch.images, samples.paths, batch.input_from_source):
        assert np.abs(warp(read_image(path), matrix, 96) - image.permute(1, 2, 0).numpy()).max() < MAX_OFF


@pytest.mark.parametrize("decode", ["region", "image"])
def test_pixels_outside_the_region_have_no_effect(tmp_path: Path, decode: Decode) -> None:
    """A resize with a region of interest alone would let its filter reach pixels outside."""
    inside = np.random.default_rng(3).integers(0, 256, (400, 400, 3), np.uint8)
    for value in (0, 255):
        image = np.full((700, 900, 3), value, np.uint8)
        image[150:550, 250:650] = inside
        cv2.imwrite(str(tmp_path / f"{value}.png"), image)
    ones = np.ones(2)
    samples = Samples(
        np.array([str(tmp_path / f"{value}.png") for value in (0, 255)]), np.tile([450.0, 350.0], (2, 1)), 400 * ones,
        np.zeros((2, 9, 2)), np.ones((2, 9), bool), ones, np.arange(2), np.arange(2), GRID, 0.0,
    )  # fmt: skip
    (batch,) = DaliLoader(BatchPlan(samples, 64, 2), CPU, 1, RAW, decode=decode, warp="warp_affine").epoch(0)
    assert torch.equal(batch.images[0], batch.images[1])
    assert batch.images.std() > 5


@pytest.mark.parametrize("size", [32, 256])
def test_whole_and_region_decoding_give_equal_crops(people: Path, size: int) -> None:
    """JPEGs, of which a region decoder may interpolate the chroma at the region's border differently."""
    plan = BatchPlan(read_mpii(people, "train"), size, 10, augment=STRONG, seed=5)
    whole, region = (DaliLoader(plan, CPU, 1, RAW, decode=decode, warp="warp_affine") for decode in DECODES)
    for one, other in zip(whole.epoch(0), region.epoch(0)):
        assert torch.equal(one.images, other.images)


def test_one_epoch_at_a_time(hands: Path) -> None:
    loader = DaliLoader(BatchPlan(read_freihand(hands, "all"), 32, 16), CPU, 1, RAW)
    left = loader.epoch(0)
    next(left)
    with pytest.raises(RuntimeError, match="still being read"):
        next(loader.epoch(1))
    left.close()
    assert len(list(loader.epoch(1))) == len(loader)
