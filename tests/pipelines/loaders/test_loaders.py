"""Guarantees of both loaders: the same batches, each sample once, for any ranks, workers and files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch._inductor import metrics

from hgfast.config import AugmentConfig, LoadingConfig
from hgfast.errors import HgfastError
from hgfast.normalization import Normalization, apply_color_affine, color_affine_kernel
from hgfast.pipelines.batch_plan import BatchPlan
from hgfast.pipelines.loaders.base import FixedLoader
from hgfast.pipelines.loaders.dali import DaliLoader
from hgfast.pipelines.loaders.opencv import OpenCVLoader
from hgfast.pipelines.readers.freihand import read_freihand
from hgfast.pipelines.readers.mpii_h5 import read_mpii
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import Skeleton
from hgfast.training.batch import Batch
from hgfast.training.evaluator import Loader
from tests.gpu import DEVICES
from tests.odd_images import HEIGHT, POINTS, WIDTH, scene, write_readable, write_unreadable

CPU = torch.device("cpu")
RAW = Normalization((0, 0, 0), (1 / 255, 1 / 255, 1 / 255))  # does not change gray levels
DOTS = Skeleton("dots", ("a", "b", "c"), (), (0, 1, 2), ())
STRONG = AugmentConfig(flip=0.5, rotation=180, scale_min=0.6, scale_max=1.4, shift=0.1)
Make = Callable[[BatchPlan], Loader]


def dali(plan: BatchPlan) -> Loader:
    return DaliLoader(plan, CPU, 2, RAW)


def dali_from_memory(plan: BatchPlan) -> Loader:
    return DaliLoader(plan, CPU, 1, RAW, options=LoadingConfig(preload_gb=0.00005, prefetch=1))  # room for some of the files


def opencv(plan: BatchPlan) -> Loader:
    return OpenCVLoader(plan, CPU, 0, RAW)


def opencv_with_workers(plan: BatchPlan) -> Loader:
    return OpenCVLoader(plan, CPU, 2, RAW)


ALL = pytest.mark.parametrize("make", [dali, dali_from_memory, opencv, opencv_with_workers])


def assert_equal_batches(one: Batch, other: Batch) -> bool:
    return (
        torch.equal(one.images, other.images)
        and torch.equal(one.keypoints, other.keypoints)
        and torch.equal(one.labeled, other.labeled)
        and np.array_equal(one.index, other.index)
        and one.global_batch_size == other.global_batch_size
    )


@pytest.mark.parametrize("size", [40, 128, 256])
def test_the_two_loaders_agree(hands: Path, people: Path, size: int) -> None:
    for samples in (read_freihand(hands, "valid"), read_mpii(people, "train")):
        plan = BatchPlan(samples, size, 16, augment=STRONG, seed=3)
        for one, other in zip(dali(plan).epoch(0), opencv(plan).epoch(0)):
            off = (one.images - other.images).abs()
            # gray levels, times a contrast of up to 1.2 in color; DALI 2.2 rounds coordinates to 1/32 of a pixel
            assert off.mean() < 0.2 and off.amax() < 12
            assert (one.keypoints - other.keypoints).abs().max() < 0.01
            assert assert_equal_batches(
                one, Batch(one.images, *(getattr(other, f) for f in list(other.__dataclass_fields__)[1:]))
            )


@ALL
def test_the_same_global_batches_on_any_number_of_ranks(people: Path, make: Make) -> None:
    samples = read_mpii(people, "train")
    whole = list(make(BatchPlan(samples, 32, 10, augment=STRONG, seed=1)).epoch(4))
    for world in (2, 3, 5):
        plans = [BatchPlan(samples, 32, 10, augment=STRONG, seed=1, rank=rank, world_size=world) for rank in range(world)]
        for step, parts in enumerate(zip(*(make(plan).epoch(4) for plan in plans))):
            assert torch.equal(torch.cat([part.images for part in parts]), whole[step].images)
            assert torch.equal(torch.cat([part.keypoints for part in parts]), whole[step].keypoints)
            assert sum(len(part.index) for part in parts) == whole[step].global_batch_size == parts[0].global_batch_size


@ALL
@pytest.mark.parametrize(("count", "batch_size"), [(1, 1), (7, 3), (10, 10), (11, 10), (13, 4)])
def test_every_sample_once_whatever_the_sizes(hands: Path, make: Make, count: int, batch_size: int) -> None:
    samples = read_freihand(hands, "all", ["gs"])
    loader = make(BatchPlan(samples.take(np.arange(len(samples)) < count), 32, batch_size, augment=STRONG))
    for epoch in range(2):
        seen = np.concatenate([batch.index for batch in loader.epoch(epoch)])
        assert sorted(seen) == list(range(count))


@ALL
def test_epoch_resumed_at_a_step_is_identical(hands: Path, make: Make) -> None:
    plan = BatchPlan(read_freihand(hands, "all"), 32, 16, augment=STRONG, seed=4)
    whole = list(make(plan).epoch(3))
    loader = make(plan)
    left = loader.epoch(0)
    next(left)
    left.close()
    late = list(loader.epoch(3, start=5))
    assert len(late) == plan.steps - 5 > 2
    assert all(assert_equal_batches(a, b) for a, b in zip(late, whole[5:]))


def dot_images(folder: Path, names: dict[str, tuple[int, int]], bad: list[str]) -> Samples:
    """Return samples of the scene in every file: keypoints are its dots, scaled to the file's size."""
    every = {**names, **dict.fromkeys(bad, (WIDTH, HEIGHT))}
    size = np.array(list(every.values()), np.float64)
    count = len(every)
    return Samples(
        np.array([str(folder / name) for name in every]), size / 2, size.max(1), POINTS * (size / (WIDTH, HEIGHT))[:, None],
        np.ones((count, 3), bool), np.ones(count), np.arange(count), np.arange(count), DOTS, 0.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Samples, set[int]]:
    """200 files of all kinds, and the rows that are not images."""
    folder = tmp_path_factory.mktemp("tree")
    good, bad = write_readable(folder), write_unreadable(folder)
    for number in range(200 - len(good) - len(bad)):
        name = f"{number:03d}.jpg"
        cv2.imwrite(str(folder / name), scene()[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        good[name] = (WIDTH, HEIGHT)
    order = np.random.default_rng(5).permutation(len(good))
    samples = dot_images(folder, {name: good[name] for name in np.array(list(good))[order]}, bad)
    return samples, set(range(len(samples) - len(bad), len(samples)))


def check_dots(batch: Batch, samples: Samples) -> None:
    """Assert that the image is bright at its keypoints."""
    for image, points, row in zip(batch.images, batch.keypoints, batch.index):
        gray = image.mean(0)
        for x, y in points.tolist():
            if samples.side[row] > 1 and 4 < x < 60 and 4 < y < 60:
                window = gray[int(y) - 4 : int(y) + 5, int(x) - 4 : int(x) + 5]
                brightest = divmod(int(window.argmax()), window.shape[1])
                assert abs(brightest[0] - 4) <= 1 and abs(brightest[1] - 4) <= 1, samples.paths[row]


@ALL
def test_bad_files_only_lose_their_sample(
    image_folder: tuple[Samples, set[int]], make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    samples, bad = image_folder
    mild = AugmentConfig(flip=0, rotation=20, shift=0, brightness=0, contrast=0, saturation=0, hue=0)
    plan = BatchPlan(samples, 64, 16, augment=mild, seed=2)
    loader, seen = make(plan), []
    for batch in loader.epoch(0):
        check_dots(batch, samples)
        seen += batch.index[~batch.is_replacement].tolist()
    assert sorted([*seen, *bad]) == list(range(200))
    stderr = capfd.readouterr().err
    for row in bad:
        assert stderr.count(f"{samples.paths[row]} ") + stderr.count(f"{samples.paths[row]}:") == 1
    assert stderr.count("another image takes its place") == len(bad)
    list(loader.epoch(1))
    assert "another image" not in capfd.readouterr().err  # known bad files are not tried again


@pytest.mark.parametrize("make", [dali, opencv_with_workers])
def test_files_that_break_later_are_replaced_alike_on_any_number_of_ranks(hands: Path, tmp_path: Path, make: Make) -> None:
    root = tmp_path / "copy"
    shutil.copytree(hands, root)
    samples = read_freihand(root, "all", ["gs"])
    plans = [BatchPlan(samples, 32, 12, augment=STRONG, rank=rank, world_size=world) for world in (1, 2) for rank in range(world)]
    loaders = [make(plan) for plan in plans]
    before = list(loaders[0].epoch(0))
    rotten = [int(row) for row in plans[0].batch(1, 1).index[2:5]]
    for row in rotten:
        Path(samples.paths[row]).write_bytes(b"rotten")
    whole = list(loaders[0].epoch(1))
    halves = list(zip(*(loader.epoch(1) for loader in loaders[1:])))
    assert len(whole) == len(before) == len(halves)
    shown = [row for batch in whole for row in batch.index]
    assert not set(rotten) & set(shown) and sum(int(batch.is_replacement.sum()) for batch in whole) == 3
    assert len(set(shown)) >= len(samples) - 3
    for one, parts in zip(whole, halves):
        assert torch.equal(torch.cat([part.images for part in parts]), one.images)
        assert np.array_equal(np.concatenate([part.index for part in parts]), one.index)


@pytest.mark.parametrize("make", [dali, opencv])
def test_nothing_left_is_an_error(tmp_path: Path, make: Make) -> None:
    samples = dot_images(tmp_path, {}, write_unreadable(tmp_path))
    with pytest.raises(HgfastError, match="none of the 5 images can be read"):
        list(make(BatchPlan(samples, 32, 2)).epoch(0))


@pytest.mark.parametrize("make", [dali, opencv])
def test_without_augmentation_a_bad_file_is_marked(image_folder: tuple[Samples, set[int]], make: Make) -> None:
    samples, bad = image_folder
    plan = BatchPlan(samples, 32, 32)
    marked = np.concatenate([np.where(batch.is_replacement, -1, batch.index) for batch in make(plan).epoch(0)])
    assert np.array_equal(marked, [-1 if row in bad else row for row in range(200)])


def test_fixed_gives_the_first_batch_again_and_again(hands: Path) -> None:
    plan = BatchPlan(read_freihand(hands, "all"), 32, 16, augment=STRONG)
    first = next(iter(dali(plan).epoch(0)))
    loader = FixedLoader(dali(plan))
    for epoch, start in ((0, 0), (5, 3)):
        batches = list(loader.epoch(epoch, start))
        assert len(batches) == plan.steps - start
        assert all(assert_equal_batches(batch, first) for batch in batches)
    assert loader.num_samples == len(plan.samples)


def test_preloading_respects_its_limit(hands: Path) -> None:
    samples = read_freihand(hands, "all", ["gs"])
    loader = DaliLoader(BatchPlan(samples, 32, 8), CPU, 1, RAW, options=LoadingConfig(preload_gb=40e-6))
    list(loader.epoch(0))
    cached: dict[str, NDArray[np.uint8]] = loader._file_cache
    assert 20_000 < sum(content.nbytes for content in cached.values()) <= 40_000
    assert all(Path(path).read_bytes() == content.tobytes() for path, content in cached.items())


def test_colors_are_mapped_alike_in_one_kernel_or_by_opencv() -> None:
    rng = np.random.default_rng(3)
    images = torch.from_numpy(rng.integers(0, 256, (3, 17, 13, 3), np.uint8))
    affine = torch.from_numpy(rng.normal(0, 0.02, (3, 3, 4)).astype(np.float32))
    wanted = apply_color_affine(images, affine)
    found = color_affine_kernel(images, affine, torch.float32)
    assert found.stride() == wanted.stride() and torch.allclose(found, wanted, atol=1e-5)
    rounded = color_affine_kernel(images, affine, torch.bfloat16)
    assert rounded.dtype == torch.bfloat16 and torch.equal(rounded, found.bfloat16())


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("device", [pytest.param(CPU, marks=pytest.mark.slow), *DEVICES[1:]], ids=str)
def test_a_compiled_network_gets_its_images_from_one_kernel(hands: Path, device: torch.device) -> None:
    """Compiled, the same operations are one kernel, which reads bytes and writes bf16 in channels_last memory."""
    plan = BatchPlan(read_freihand(hands, "train", ["gs"]), 64, 8, augment=AugmentConfig(), seed=1, equal_sizes=True)
    plain, compiled = (OpenCVLoader(plan, device, 0, Normalization()) for _ in range(2))
    compiled.compile_normalization(torch.bfloat16)
    metrics.reset()
    for one, other in zip(plain.epoch(0), compiled.epoch(0)):
        assert other.images.dtype == torch.bfloat16 and other.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(one.images, other.images.float(), rtol=2**-8, atol=1e-5)
    assert metrics.generated_kernel_count == 1
