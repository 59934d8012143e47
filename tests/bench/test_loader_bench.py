"""bench/loader.py from the shell, princeton's loader, realistic images, and trials."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from hgfast.bench.harness.interleaved import BatchInfo, Result, StartupCost, Trial, TrialSettings, cpu_seconds, run_trial
from hgfast.bench.harness.realistic_images import (
    FREIHAND_STATISTICS,
    IMAGE_STATISTICS,
    MPII_STATISTICS,
    ImageStatistics,
    encode_jpeg,
    file_statistics,
    fit_noise_level,
    make_images,
    placement_matrices,
    transform_samples,
    warp_to_size,
)
from hgfast.bench.harness.record import machine_info, make_record, write_record
from hgfast.bench.loader import main
from hgfast.bench.measurements.loader import LoaderResult, speedup_over
from hgfast.bench.princeton.loader import (
    HEATMAP_SIZE,
    PrincetonDataset,
    color_jitter,
    crop_square,
    gaussian_patch,
    princeton_loader,
    render_targets,
)
from hgfast.bench.variants.loader import LoaderVariant, shuffled_paths
from hgfast.errors import HgfastError
from hgfast.pipelines.readers.mpii_h5 import read_mpii
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import BODY16, HAND21, Skeleton
from tests.bench.conftest import RunScript
from tests.conftest import ErrorOf, shared_path

KEYS = {"machine", "versions", "revision", "command", "date", "rows"}
LOADERS = {"read_only", "decode_only", "dali_cpu", "dali_gpu", "torch", "seed_style"}
SPOT_SIGMA = 3.0  # pixels: standard deviation of the spots below


def spot_image(width: int, height: int, x: float, y: float) -> np.ndarray:
    """A black image with a white Gaussian spot at x, y in corner coordinates."""
    across = np.exp(-((np.arange(width) + 0.5 - x) ** 2) / (2 * SPOT_SIGMA**2))
    down = np.exp(-((np.arange(height) + 0.5 - y) ** 2) / (2 * SPOT_SIGMA**2))
    return np.round(255 * down[:, None, None] * across[None, :, None] * np.ones(3)).astype(np.uint8)


def centroid(image: np.ndarray) -> np.ndarray:
    """Where the spot is, corner coordinates."""
    weights = image.astype(np.float64).mean(2)
    rows, columns = np.indices(weights.shape) + 0.5
    return np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()


def spot_samples(folder: Path, skeleton: Skeleton, width: int, height: int, side: float) -> Samples:
    """An image for every joint, with a spot where that joint is; no other is labeled."""
    joints, rng = len(skeleton.joints), np.random.default_rng(1)
    center = np.array([width / 2 + 11, height / 2 - 7])
    keypoints = center + rng.uniform(-0.2, 0.2, (joints, 2)) * side
    paths = [str(folder / f"{joint}.png") for joint in range(joints)]
    for path, (x, y) in zip(paths, keypoints):
        cv2.imwrite(path, spot_image(width, height, x, y))
    return Samples(
        paths=np.array(paths),
        center=np.tile(center, (joints, 1)),
        side=np.full(joints, side),
        keypoints=np.tile(keypoints, (joints, 1, 1)),
        labeled=np.eye(joints, dtype=bool),
        reference=np.ones(joints),
        group=np.arange(joints),
        row=np.arange(joints),
        skeleton=skeleton,
        pixel_offset=0.0,
    )


# ---- princeton's loader ----


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize(
    ("skeleton", "whole", "width", "height", "side"),
    [(BODY16, False, 500, 400, 300.0), (BODY16, False, 300, 260, 420.0), (HAND21, True, 224, 224, 224.0)],
)
def test_princeton_keypoints_follow_the_image(
    tmp_path: Path, skeleton: Skeleton, whole: bool, width: int, height: int, side: float, augmented: bool
) -> None:
    samples = spot_samples(tmp_path, skeleton, width, height, side)
    data = PrincetonDataset(samples, 256, resize_whole=whole, augmented=augmented, seed=3)
    mirrored = 0
    for row in list(range(len(samples))) * 3:
        sample = data.load_sample(row)
        (joint,) = np.nonzero(sample.labeled)[0]
        mirrored += joint != row
        assert sample.jittered or joint == row
        assert joint in (row, skeleton.flip_indices[row])
        assert np.abs(centroid(sample.image) - sample.points[joint]).max() < 1.5
    assert (mirrored > 0) == (augmented and skeleton.has_flip_pairs)


def test_princeton_augmentation_ranges(tmp_path: Path) -> None:
    samples = spot_samples(tmp_path, BODY16, 300, 300, 300.0)
    data = PrincetonDataset(samples, 256, resize_whole=False, augmented=True, seed=0)
    reference = PrincetonDataset(samples, 256, resize_whole=False, augmented=False).load_sample(0).points @ [1, 1j]
    found = [data.load_sample(0).points @ [1, 1j] for _ in range(200)]
    # bones between head top, neck and thorax, which mirroring leaves in their places, as complex numbers
    change = np.array([(p[9] - p[8]) / (reference[9] - reference[8]) for p in found])
    handedness = np.array(
        [
            ((p[7] - p[8]) / (p[9] - p[8])).imag * ((reference[7] - reference[8]) / (reference[9] - reference[8])).imag
            for p in found
        ]
    )
    assert 0.75 <= abs(change).min() < 0.8 and 1.2 < abs(change).max() <= 1.25
    assert 0.35 < np.mean(handedness < 0) < 0.65
    rotations = np.degrees(np.angle(change[handedness > 0]))
    assert -30.01 <= rotations.min() < -25 and 25 < rotations.max() <= 30.01


def test_a_crop_beyond_the_border_is_black_there() -> None:
    image = np.full((100, 80, 3), 200, np.uint8)
    crop, keypoints = crop_square(image, np.array([[0.0, 0.0], [80.0, 100.0]]), np.array([0.0, 0.0]), 64.0, 128)
    assert (crop[66:, 66:] == 200).all() and (crop[:62] == 0).all() and (crop[:, :62] == 0).all()
    np.testing.assert_allclose(keypoints, [[64, 64], [224, 264]])
    outside, _ = crop_square(image, np.zeros((1, 2)), np.array([500.0, 500.0]), 50.0, 32)
    assert (outside == 0).all()


def test_targets_peak_in_the_cell_of_the_joint() -> None:
    keypoints = np.array([[10.2, 50.9], [0.0, 63.99], [63.5, 0.5], [-0.1, 5.0], [5.0, 64.0], [30.0, 30.0]])
    labeled = np.array([True, True, True, True, True, False])
    heatmaps = render_targets(keypoints, labeled, gaussian_patch(1.0))
    assert heatmaps.shape == (6, HEATMAP_SIZE, HEATMAP_SIZE) and heatmaps.dtype == np.float32
    for joint, (column, row) in enumerate([(10, 50), (0, 63), (63, 0)]):
        assert heatmaps[joint, row, column] == heatmaps[joint].max() == 1
        near = [heatmaps[joint, row + dy, column + dx] for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0))
                if 0 <= row + dy < HEATMAP_SIZE and 0 <= column + dx < HEATMAP_SIZE]  # fmt: skip
        np.testing.assert_allclose(near, np.exp(-0.5), rtol=1e-6)
    assert not heatmaps[3:].any()


def test_color_jitter_stays_in_range() -> None:
    rng = np.random.default_rng(0)
    image = rng.random((32, 32, 3), np.float32)
    shown = [color_jitter(image.copy(), rng) for _ in range(8)]
    assert all(s.min() >= 0 and s.max() <= 1 and s.dtype == np.float32 for s in shown)
    assert all(np.abs(s - image).mean() > 0.01 for s in shown)
    gray = np.full((4, 4, 3), 0.5, np.float32)
    changed = color_jitter(gray.copy(), rng)
    assert np.ptp(changed, axis=2).max() < 1e-5 and 0.2 <= changed.mean() <= 0.8 and abs(changed.mean() - 0.5) > 0.01


def test_princeton_loader_batches(tmp_path: Path) -> None:
    samples = spot_samples(tmp_path, BODY16, 200, 200, 200.0)
    images, heatmaps = next(iter(princeton_loader(PrincetonDataset(samples, 256, resize_whole=False, augmented=True), 8, 0)))
    assert images.shape == (8, 256, 256, 3) and heatmaps.shape == (8, 16, 64, 64)
    assert float(images.min()) >= 0 and 0.5 < float(images.max()) <= 1
    labeled = heatmaps.amax((2, 3)) > 0
    assert (labeled.sum(1) == 1).all()


# ---- images that cost what real ones cost ----


def test_person_scale_matches_the_statistics_and_keypoints_follow(tmp_path: Path) -> None:
    samples = spot_samples(tmp_path, BODY16, 400, 300, 150.0)
    statistics = ImageStatistics(((640, 360),), 0.1, 80, sides=(200.0, 210, 220, 250, 280, 290, 300))
    sizes = [(640, 360)] * len(samples)
    matrices = placement_matrices(samples, sizes, statistics)
    moved = transform_samples(samples, matrices, samples.paths)
    assert moved.side.min() >= 200 and moved.side.max() <= 300
    for row in range(len(samples)):
        image = warp_to_size(str(samples.paths[row]), matrices[row], (640, 360))
        x, y = moved.keypoints[row, row]
        if not (20 < x < 620 and 20 < y < 340):
            continue
        part = image[int(y) - 15 : int(y) + 15, int(x) - 15 : int(x) + 15]
        assert np.abs(centroid(part) - 15 - np.array([x % 1, y % 1])).max() < 0.5


def test_noise_level_reaches_the_target_density() -> None:
    rng = np.random.default_rng(0)
    flat = np.full((240, 320, 3), 90, np.uint8)
    rough = rng.integers(0, 256, (240, 320, 3), np.uint8)
    for image in (flat, rough):
        noise_level = fit_noise_level([image], ImageStatistics(((320, 240),), 0.3, 80))
        assert (noise_level > 0) == (image is flat)
        assert len(encode_jpeg(image, noise_level, 80, 0)) / (240 * 320) == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize("layout", IMAGE_STATISTICS)
def test_synthetic_images_have_realistic_size_and_are_reused(layout: str, tmp_path: Path) -> None:
    statistics = IMAGE_STATISTICS[layout]
    first = make_images(layout, statistics, tmp_path, 4, workers=1)
    assert file_statistics(first.paths).bytes_per_pixel == pytest.approx(statistics.bytes_per_pixel, rel=0.1)
    assert file_statistics(first.paths[:1]).megapixels == pytest.approx(np.prod(statistics.sizes[0]) / 1e6)
    dates = [Path(path).stat().st_mtime_ns for path in first.paths]
    again = make_images(layout, statistics, tmp_path, 4, workers=1)
    assert [Path(path).stat().st_mtime_ns for path in again.paths] == dates


@pytest.mark.real_data
def test_constants_match_real_images() -> None:
    hands = file_statistics([str(p) for p in shared_path("fixtures/FreiHAND_pub_v2_mini/training/rgb").glob("*.jpg")])
    assert hands.bytes_per_pixel == pytest.approx(FREIHAND_STATISTICS.bytes_per_pixel, rel=0.01)
    people = [str(p) for p in shared_path("fixtures/mpii/images").glob("*.jpg")]
    large = file_statistics([p for p in people if file_statistics([p]).megapixels == pytest.approx(1280 * 720 / 1e6)])
    assert large.bytes_per_pixel == pytest.approx(MPII_STATISTICS.bytes_per_pixel, rel=0.01)


# ---- measuring ----


def _spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_cpu_time_is_that_of_this_process_and_its_workers() -> None:
    start_time, own = cpu_seconds(), time.process_time()
    worker = multiprocessing.get_context("fork").Process(target=_spin, args=(30.0,))
    worker.start()
    try:
        deadline = time.perf_counter() + 60
        while cpu_seconds() - start_time < time.process_time() - own + 0.3 and time.perf_counter() < deadline:
            time.sleep(0.02)
        child = (cpu_seconds() - start_time) - (time.process_time() - own)
    finally:
        worker.terminate()
        worker.join()
    assert 0.3 <= child < 5


def test_trial_counts_images_between_batches() -> None:
    batches_made = []

    def batches() -> Iterator[BatchInfo]:
        while True:
            time.sleep(0.005)
            batches_made.append(1)
            yield BatchInfo(7)

    trial = run_trial(batches(), TrialSettings(seconds=0.1, batches=4, warm=3))  # type: ignore[arg-type]
    assert trial.images == 7 * (len(batches_made) - 3) and len(batches_made) >= 7
    assert trial.seconds >= 0.1 and trial.images_per_s < 7 / 0.005
    assert trial.cpu_seconds < trial.seconds


def result(*rates: float) -> Result:
    return Result(StartupCost(0.0, 0.0), [Trial(round(100 * rate), 100.0, 1.0) for rate in rates])


def test_speedups_are_per_round(tmp_path: Path) -> None:
    variant = LoaderVariant("torch", "images", "mpii", False, spot_samples(tmp_path, BODY16, 64, 64, 64.0), 16)
    fast, slow = LoaderResult(variant, result(10, 30, 20)), LoaderResult(variant, result(5, 10, 20))
    assert speedup_over(slow, fast) == pytest.approx(2)
    assert speedup_over(LoaderResult(variant, None), fast) is None


def test_images_are_sampled_evenly(tmp_path: Path) -> None:
    samples = spot_samples(tmp_path, BODY16, 64, 64, 64.0)
    batches = shuffled_paths(LoaderVariant("decode_only", "dali", "mpii", False, samples, 16, batch_size=12))
    seen = [path for _ in range(4) for path in next(batches)]
    assert sorted(seen) == sorted([*map(str, samples.paths)] * 3)


# ---- the record, the chart, the command ----


def test_record_contents(tmp_path: Path) -> None:
    record = make_record([{"loader": "torch"}], machine_info())
    assert set(record) == KEYS
    assert record["machine"]["cores"] >= 1 and record["versions"]["torch"] and record["date"].endswith("+00:00")
    write_record(record, tmp_path / "new" / "record.json")
    assert json.loads((tmp_path / "new" / "record.json").read_text()) == record
    with pytest.raises(HgfastError, match="cannot write"):
        write_record(record, tmp_path)


@pytest.mark.slow
def test_quick_comparison(run_script: RunScript, people: Path, tmp_path: Path) -> None:
    """On synthetic hands of realistic size, and on given people."""
    flags = ("--quick", "--threads", 1, "--data-mpii", people, "--work", tmp_path / "work", "--chart", tmp_path / "chart.png")
    record, output = run_script("loader", *flags)
    assert set(record) == KEYS | {"conclusions"} and record["command"].startswith("python bench/loader.py --quick")
    rows = record["rows"]
    assert {row["loader"] for row in rows} == LOADERS
    assert all(not isinstance(value, (dict, list)) for row in rows for value in row.values())
    for layout in ("freihand", "mpii"):
        for cached in (False, True):
            assert {r["loader"] for r in rows if (r["layout"], r["cached"]) == (layout, cached)} == LOADERS
    for row in rows:
        if row["note"] == "no GPU here":
            assert row["loader"] == "dali_gpu" and row["images_per_s"] is None
            continue
        assert row["images_per_s"] > 0 and row["cpu_ms_per_image"] > 0 and row["start_s"] > 0
    weights = {row["layout"]: row["bytes_per_pixel"] for row in rows if not row["cached"]}
    assert weights["freihand"] == pytest.approx(FREIHAND_STATISTICS.bytes_per_pixel, rel=0.1)
    assert weights["mpii"] == pytest.approx(file_statistics(read_mpii(people, "train").paths).bytes_per_pixel, rel=0.2)
    assert cv2.imread(str(tmp_path / "chart.png")).std() > 10
    assert [row["entries"] for row in rows if row["variant"] == "index"] == [1000, 130240]
    for words in ("the bottleneck is", "target", "130240 entries", "x CPU"):
        assert words in output


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--data-mpii", "nowhere", "--layouts", "[mpii]"), "no MPII data in nowhere"),
        (("--chart", "bars.pdf"), "must end in .png"),
        (("--rounds", "0"), "rounds is 0"),
        (("--round", "3"), "did you mean --rounds"),
    ],
)
def test_bad_flags_are_one_error(error_of: ErrorOf, words: tuple[str, ...], complaint: str) -> None:
    assert complaint in error_of(main, *words)
