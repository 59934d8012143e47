"""The crop cache: crops give the network the same input as whole images, and an unsuitable cache is refused."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from hgfast.config import AugmentConfig
from hgfast.errors import HgfastError
from hgfast.fileio.files import atomic_write, lock_folder
from hgfast.geometry import crop_matrices, transform_points, warp
from hgfast.pipelines import cache
from hgfast.pipelines.batch_plan import BatchPlan, PlannedBatch
from hgfast.pipelines.crop_cache import builder
from hgfast.pipelines.crop_cache.builder import BuildReport, build, prune_cache, use_cache
from hgfast.pipelines.crop_cache.crops import boxes
from hgfast.pipelines.readers.freihand import read_freihand
from hgfast.pipelines.readers.mpii_h5 import read_mpii
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import BODY16
from hgfast.visualization.draw import read_image
from tests.conftest import ROOT, Command

SIZE = 128
STRONG = AugmentConfig(rotation=40, scale_min=0.7, scale_max=1.3, shift=0.1, flip=0.5)
MEAN, WORST = 2.0, 4.0  # gray levels: mean difference of an image, on average and at worst


class ExtremeBatchPlan(BatchPlan):
    """Uniform random numbers at the ends of every range only."""

    def _sample_epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
        order, uniforms = super()._sample_epoch(epoch)
        return order, np.round(uniforms)


@pytest.fixture(scope="module")
def people_samples(people: Path) -> Samples:
    return read_mpii(people, "train")


@pytest.fixture(scope="module")
def filled_cache(people_samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BuildReport]:
    """A cache of people_samples, built in one run. Tests must not modify it."""
    folder = tmp_path_factory.mktemp("cache") / "crops"
    return folder, make(people_samples, folder)


@pytest.fixture
def few_samples(tmp_path: Path) -> Samples:
    """Nine images of different colors, 70 x 50 pixels, that tests may damage; the last two samples share one."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n in range(8):
        cv2.imwrite(str(folder / f"{n}.png"), np.full((50, 70, 3), 20 + 25 * n, np.uint8))
    names = [f"{min(n, 7)}.png" for n in range(9)]
    return samples_at([folder / name for name in names], center=[(35 - 3 * n, 25) for n in range(9)], side=[40] * 9)


def samples_at(paths: list[Path], center: list[tuple[float, float]], side: list[float]) -> Samples:
    """Return samples with sixteen keypoints around the center."""
    rng, count = np.random.default_rng(1), len(paths)
    middle, lengths = np.array(center, np.float64), np.array(side, np.float64)
    keypoints = middle[:, None] + rng.normal(0, 5, (count, 16, 2))
    return Samples(
        np.array([str(path) for path in paths]), middle, lengths, keypoints, rng.random((count, 16)) < 0.8,
        np.linspace(5, 9, count), np.arange(count), 100 + np.arange(count), BODY16, -0.5,
    )  # fmt: skip


def make(samples: Samples, folder: Path, augment: AugmentConfig = STRONG, size: int = SIZE, workers: int = 1) -> BuildReport:
    return build(samples, folder, augment, size, workers)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def batches(
    kind: type[BatchPlan], samples: Samples, other: Samples, augment: AugmentConfig = STRONG
) -> list[tuple[PlannedBatch, ...]]:
    """Yield two epochs of both, planned with the same seed."""
    plans = [kind(one, SIZE, len(one), augment=augment, seed=3) for one in (samples, other)]
    return [tuple(plan.batch(epoch, 0) for plan in plans) for epoch in range(2)]


def network_view(samples: Samples, planned: PlannedBatch) -> NDArray[np.float64]:
    """Return the network's input images (n, SIZE, SIZE, 3)."""
    images = [read_image(path) for path in samples.paths[planned.index]]
    return np.array([warp(image, m, SIZE) for image, m in zip(images, planned.input_from_source)], np.float64)


def cache_error(samples: Samples, folder: Path, augment: AugmentConfig = STRONG, size: int = SIZE) -> str:
    with pytest.raises(HgfastError) as caught:
        use_cache(samples, folder, augment, size)
    sentence = str(caught.value)
    assert sentence.endswith(": run hgfast cache with the same flags") and "\n" not in sentence
    return sentence


@pytest.mark.parametrize("kind", [BatchPlan, ExtremeBatchPlan])
def test_the_network_sees_the_same(
    kind: type[BatchPlan], people_samples: Samples, filled_cache: tuple[Path, BuildReport]
) -> None:
    crops = use_cache(people_samples, filled_cache[0], STRONG, SIZE)
    assert len(crops) == len(people_samples) == filled_cache[1].created and crops.unreadable == 0
    differences = []
    for whole, small in batches(kind, people_samples, crops):
        assert np.array_equal(whole.index, small.index) and np.array_equal(whole.labeled, small.labeled)
        np.testing.assert_allclose(small.keypoints, whole.keypoints, atol=1e-6)
        differences += list(np.abs(network_view(people_samples, whole) - network_view(crops, small)).mean((1, 2, 3)))
    assert np.mean(differences) < MEAN
    assert max(differences) < WORST


def test_hands_too(hands: Path, tmp_path: Path) -> None:
    samples = read_freihand(hands, "valid")
    make(samples, tmp_path)
    crops = use_cache(samples, tmp_path, STRONG, SIZE)
    for whole, small in batches(ExtremeBatchPlan, samples, crops):
        np.testing.assert_allclose(small.keypoints, whole.keypoints, atol=1e-6)
        differences = np.abs(network_view(samples, whole) - network_view(crops, small)).mean((1, 2, 3))
        assert differences.mean() < MEAN and differences.max() < WORST


def test_lengths_scale_with_the_crop(people_samples: Samples, filled_cache: tuple[Path, BuildReport]) -> None:
    crops = use_cache(people_samples, filled_cache[0], STRONG, SIZE)
    np.testing.assert_allclose(crops.reference / crops.side, people_samples.reference / people_samples.side)
    assert (crops.side <= people_samples.side).all() and (crops.side < 0.7 * people_samples.side).any()
    assert np.array_equal(crops.group, people_samples.group) and crops.pixel_offset == people_samples.pixel_offset
    finest = SIZE * STRONG.scale_max  # pixels of a side at the largest scale
    assert (crops.side > 0.999 * np.minimum(people_samples.side, finest)).all()


def test_crops_hold_everything_augmentation_can_show(tmp_path: Path) -> None:
    """In white images, black pixels are outside, except at an edge's outermost pixels; squares in, across and off them."""
    sizes = [(640, 360), (300, 500), (90, 70), (1, 1), (1, 400), (37, 1)]
    paths = []
    for width, height in sizes:
        paths.append(tmp_path / f"{width}x{height}.png")
        cv2.imwrite(str(paths[-1]), np.full((height, width, 3), 255, np.uint8))
    rng, rows = np.random.default_rng(2), np.repeat(np.arange(len(sizes)), 30)
    center = rng.uniform(-0.3, 1.3, (len(rows), 2)) * np.array(sizes)[rows]
    center[::30] = 5000  # so far outside that the box does not touch the image
    samples = samples_at(
        [paths[row] for row in rows], list(map(tuple, center)), list(np.exp(rng.uniform(np.log(20), np.log(900), len(rows))))
    )
    make(samples, tmp_path / "cache")
    crops = use_cache(samples, tmp_path / "cache", STRONG, SIZE)
    assert all(not read_image(path).any() and read_image(path).size == 3 for path in crops.paths[::30])
    for whole, small in batches(ExtremeBatchPlan, samples, crops):
        a, b = network_view(samples, whole)[..., 0], network_view(crops, small)[..., 0]
        assert 0.1 < (a > 200).mean() < 0.9
        for one, other in zip(a, b):  # two pixels' thickness differs nowhere
            for apart in ((one > 200) & (other < 60), (one < 60) & (other > 200)):
                assert not cv2.erode(np.pad(apart, 1).astype(np.uint8), np.ones((3, 3), np.uint8)).any()


def test_boxes_are_as_small_as_can_be(people_samples: Samples) -> None:
    """Compare with all combinations of many values, without the image's edge."""
    away = replace(people_samples, center=people_samples.center + 5000)
    for rotation, low, high, shift in [
        (0, 1, 1, 0),
        (40, 0.7, 1.3, 0.1),
        (25, 0.9, 1, 0.02),
        (60, 0.8, 1.2, 0),
        (180, 1, 1, 0.3),
    ]:
        where = boxes(away, AugmentConfig(rotation=rotation, scale_min=low, scale_max=high, shift=shift), SIZE)
        least, most = np.full((len(away), 2), np.inf), np.full((len(away), 2), -np.inf)
        corners = np.broadcast_to(np.array([(0.0, 0), (SIZE, 0), (0, SIZE), (SIZE, SIZE)]), (len(away), 4, 2))
        for turn in np.radians(np.linspace(-rotation, rotation, 145)):
            for scale in (low, high):
                for x, y in [(-shift, -shift), (shift, shift)]:
                    center = away.center + np.array([x, y]) * away.side[:, None]
                    shown = transform_points(
                        corners, np.linalg.inv(crop_matrices(center, away.side / scale, SIZE, rotation=turn))
                    )
                    least, most = np.minimum(least, shown.min(1)), np.maximum(most, shown.max(1))
        assert (where.low <= least + 1e-3).all() and (where.high >= most - 1e-3).all()
        assert (where.low > least - 1.5).all() and (where.high < most + 1.5).all()


def test_without_downscaling_and_jpeg_loss_the_crop_is_identical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "encode_jpeg", lambda image: cv2.imencode(".png", image[..., ::-1])[1].tobytes())
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "noise.png"), noise)
    samples = samples_at([tmp_path / "noise.png"] * 40, [(8.0 * n, 6.0 * n) for n in range(40)], [60 + n for n in range(40)])
    make(samples, tmp_path / "cache")
    crops = use_cache(samples, tmp_path / "cache", STRONG, SIZE)
    assert np.array_equal(crops.side, samples.side)
    for whole, small in batches(ExtremeBatchPlan, samples, crops):
        assert np.abs(network_view(samples, whole) - network_view(crops, small)).max() <= 1


def test_image_is_decoded_once_for_all_its_people(
    people_samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(builder, "read_image", lambda path: opened.append(path) or read_image(path))
    make(people_samples, tmp_path)
    assert len(opened) == len(set(opened)) == len(set(people_samples.paths)) < len(people_samples)
    names = [crop.name for crop in tmp_path.glob("*/*.jpg")]
    assert len(names) == len(people_samples)


def test_any_number_of_workers_makes_the_same_bytes(
    people_samples: Samples, filled_cache: tuple[Path, BuildReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    before = dict(os.environ)
    report = make(people_samples, tmp_path, workers=2)
    assert contents(tmp_path) == contents(filled_cache[0])
    assert report == filled_cache[1]
    assert dict(os.environ) == before


def test_interrupted_and_run_again(
    people_samples: Samples, filled_cache: tuple[Path, BuildReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, real, stop = [0], Path.write_bytes, len(people_samples) // 2

    def interrupted(self: Path, data: bytes) -> int:
        calls[0] += 1
        if calls[0] == stop:
            real(self, data[: len(data) // 2])  # in the middle of a file
            raise KeyboardInterrupt
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(people_samples, tmp_path)
    assert "not finished" in cache_error(people_samples, tmp_path)
    assert len(contents(tmp_path)) == stop - 1
    report = make(people_samples, tmp_path)
    assert (report.created, report.reused) == (len(people_samples) - stop + 1, stop - 1)
    assert calls[0] == len(people_samples) + 1
    assert contents(tmp_path) == contents(filled_cache[0])


def test_leftovers_of_a_killed_process(few_samples: Samples, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    make(few_samples, folder)
    wanted = contents(folder)
    crops = sorted(folder.glob("*/*.jpg"))
    (folder / "index.npz").unlink()
    crops[0].write_bytes(b"")
    crops[1].write_bytes(crops[1].read_bytes()[:-5])
    crops[2].write_bytes(bytes(crops[2].stat().st_size))
    left = crops[3].with_name(f".{crops[3].stem}.12345678.writing.jpg")
    left.write_bytes(b"half")
    with atomic_write(crops[4].with_name("other.jpg"), durable=False) as temp_path:  # of a living process
        report = make(few_samples, folder)
        assert (report.created, report.reused) == (3, 6)
        assert temp_path.exists() and not left.exists()
        temp_path.touch()
    crops[4].with_name("other.jpg").unlink()
    assert contents(folder) == wanted


def test_a_second_build_is_refused_and_forgets_nothing(few_samples: Samples, tmp_path: Path) -> None:
    """It would read the index at its start and write it at its end, without the crops of the other."""
    folder = tmp_path / "cache"
    with lock_folder(folder, "--cache"):
        for run in (make, lambda samples, out: prune_cache(samples, out, STRONG, SIZE)):
            with pytest.raises(HgfastError, match=r"cache is in use by process .* on .*choose another --cache"):
                run(few_samples, folder)
    assert make(few_samples, folder).created == len(few_samples)
    assert not list(folder.rglob(".*"))


@pytest.mark.parametrize(
    ("name", "value"), [("rotation", 41.0), ("scale_min", 0.69), ("scale_max", 1.31), ("shift", 0.11), ("input size", 96)]
)
def test_other_options(
    name: str, value: float, people_samples: Samples, filled_cache: tuple[Path, BuildReport], tmp_path: Path
) -> None:
    augment, size = (STRONG, int(value)) if name == "input size" else (replace(STRONG, **{name: value}), SIZE)
    sentence = cache_error(people_samples, filled_cache[0], augment, size)
    assert f"{name} " in sentence and f"instead of {value:g}" in sentence


def test_what_changes_no_crop_is_allowed(people_samples: Samples, filled_cache: tuple[Path, BuildReport]) -> None:
    other = replace(STRONG, flip=0.0, brightness=0.9, contrast=0, saturation=0.5, hue=90, rotation=-40.0)
    wanted = use_cache(people_samples, filled_cache[0], STRONG, SIZE)
    assert np.array_equal(use_cache(people_samples, filled_cache[0], other, SIZE).paths, wanted.paths)
    rows = np.array([5, 3, 11])
    assert np.array_equal(use_cache(people_samples.take(rows), filled_cache[0], STRONG, SIZE).paths, wanted.paths[rows])
    assert np.array_equal(use_cache(people_samples.take(rows), filled_cache[0], STRONG, SIZE).row, people_samples.row[rows])


def touch_later(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


@pytest.mark.parametrize(
    ("change", "reason", "num_created"),
    [
        (lambda images, crops: touch_later(images / "3.png"), "have changed, the first {images}/3.png", 1),
        (lambda images, crops: touch_later(images / "7.png"), "does not hold 2 of 9 samples", 2),
        (lambda images, crops: (images / "0.png").rename(images / "3.png"), "does not hold 2 of 9 samples", 1),
        (lambda images, crops: (images / "3.png").unlink(), "have changed", 0),
        (lambda images, crops: crops[4].unlink(), "1 of 9 crops are missing or damaged, the first {crops[4]}", 1),
        (lambda images, crops: crops[4].write_bytes(b"x"), "1 of 9 crops are missing or damaged", 1),
        (
            lambda images, crops: crops[4].write_bytes(crops[4].read_bytes() + b"\xff\xd9"),
            "1 of 9 crops are missing or damaged",
            1,
        ),
        (lambda images, crops: (crops[0].parents[1] / "index.npz").unlink(), "is missing or not finished", 0),
        (lambda images, crops: (crops[0].parents[1] / "index.npz").write_bytes(b"PK\3\4"), "is missing or not finished", 0),
        (lambda images, crops: np.savez(crops[0].parents[1] / "index.npz", keys=np.arange(3)), "is missing or not finished", 0),
    ],
)
def test_changed_images_are_reported_and_recropped(
    change: Callable[[Path, list[Path]], object], reason: str, num_created: int, few_samples: Samples, tmp_path: Path
) -> None:
    folder, images = tmp_path / "cache", tmp_path / "pictures"
    make(few_samples, folder)
    before = contents(folder)
    crops = sorted(folder.glob("*/*.jpg"))
    change(images, crops)
    assert reason.format(images=images, crops=crops) in cache_error(few_samples, folder)
    report = make(few_samples, folder)
    assert report.created == num_created
    use_cache(few_samples, folder, STRONG, SIZE)
    if "crops are" in reason or "not finished" in reason:
        assert contents(folder) == before


def test_no_cache_at_all(few_samples: Samples, tmp_path: Path) -> None:
    assert str(tmp_path / "none") in cache_error(few_samples, tmp_path / "none")


def test_unreadable_images_are_excluded(few_samples: Samples, tmp_path: Path) -> None:
    folder, images = tmp_path / "cache", tmp_path / "pictures"
    good = (images / "7.png").read_bytes()
    (images / "1.png").write_text("no image")
    (images / "4.png").write_bytes(b"")
    (images / "5.png").unlink()
    (images / "7.png").write_bytes(good[:20])
    report = make(few_samples, folder)
    assert [Path(path).name for path in report.unreadable] == ["1.png", "4.png", "5.png", "7.png"]
    assert all(path in reason for path, reason in report.unreadable.items())
    assert (report.created, report.reused) == (4, 0) and "4 unreadable images left out" in report.summary
    crops = use_cache(few_samples, folder, STRONG, SIZE)
    assert crops.unreadable == 5 and len(crops) == 4
    assert [few_samples.paths[row - 100] for row in crops.row] == [few_samples.paths[n] for n in (0, 2, 3, 6)]
    assert [round(read_image(path).mean()) for path in crops.paths] == [20, 70, 95, 170]
    make(few_samples.take(np.array([0, 2])), folder, replace(STRONG, rotation=10))  # which lack these samples
    assert use_cache(replace(few_samples, unreadable=2), folder, STRONG, SIZE).unreadable == 7

    (images / "7.png").write_bytes(good)
    assert "have changed" in cache_error(few_samples, folder)
    report = make(few_samples, folder)
    assert (report.created, report.reused, len(report.unreadable)) == (2, 4, 3)
    assert use_cache(few_samples, folder, STRONG, SIZE).unreadable == 3


def test_no_readable_image(few_samples: Samples, tmp_path: Path) -> None:
    for image in (tmp_path / "pictures").iterdir():
        image.write_bytes(b"")
    assert make(few_samples, tmp_path / "cache").created == 0
    with pytest.raises(HgfastError, match=r"none of the 9 samples has an image that can be read, the first .*0\.png"):
        use_cache(few_samples, tmp_path / "cache", STRONG, SIZE)


def test_two_sets_of_options_share_a_folder_until_one_is_pruned(few_samples: Samples, tmp_path: Path) -> None:
    folder, weak = tmp_path / "cache", replace(STRONG, rotation=10)
    make(few_samples, folder)
    wanted = contents(folder)
    report = make(few_samples, folder, weak)
    assert (report.created, report.stale) == (9, 9) and report.stale_bytes == sum(map(len, wanted.values())) - len(
        wanted["index.npz"]
    )
    use_cache(few_samples, folder, STRONG, SIZE)
    use_cache(few_samples, folder, weak, SIZE)
    mine = [folder / "notes.jpg", folder / "ab" / "photo.jpg", folder / "index.txt"]
    for file in mine:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    assert prune_cache(few_samples, folder, STRONG, SIZE) == 9
    assert all(file.read_text() == "mine" for file in mine)
    assert {name for name in contents(folder) if folder / name not in mine} == set(wanted)
    assert "rotation" in cache_error(few_samples, folder, replace(weak, rotation=12))
    use_cache(few_samples, folder, STRONG, SIZE)


def test_a_folder_that_cannot_be_written(few_samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HgfastError, match=r"cannot make the folder .*file/cache .*choose another with --cache"):
        make(few_samples, tmp_path / "file" / "cache")

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(HgfastError, match=r"cannot write to .*cache: .*No space left on device; free some space"):
        make(few_samples, tmp_path / "cache")
    assert contents(tmp_path / "cache") == {}


def test_the_command(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    count = len(read_mpii(people, "train"))
    words = ["cache.py", "--dataset", "mpii", "--data", str(people), "--model.preset", "tiny", "-e", "x", "--threads", "1"]

    def run(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", [*words, *more])
        cache.main()
        return capsys.readouterr().out

    folder = tmp_path / "cache"
    assert f"{folder}: {count} crops created, 0 reused; " in run("--cache", str(folder))
    assert f"{folder}: 0 crops created, {count} reused; " in run("--cache", str(folder))
    out = run("--cache", str(folder), "--augment.shift", "0.2")
    assert f"{count} crops created, 0 reused" in out and f"{count} crops of other flags or images" in out
    assert f"{count} other crops removed" in run("--cache", str(folder), "--prune", "--augment.shift", "0.2")
    with pytest.raises(HgfastError, match="--cache DIR is missing"):
        run()


def test_the_command_in_a_process_of_its_own(command: Command, people: Path, tmp_path: Path) -> None:
    flags = ["--dataset", "mpii", "--data", people, "--model.preset", "tiny", "--threads", 2]
    done = command("pipelines/cache.py", *flags, "--cache", tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert " crops created, 0 reused; " in done.stdout and done.stderr == ""


def test_workers_start_without_torch(command: Command) -> None:
    """A worker process imports the command's script first."""
    path = str(ROOT / "pipelines" / "cache.py")
    words = "import runpy, sys, hgfast.pipelines.crop_cache.builder; "
    words += f"runpy.run_path({path!r}, run_name='__mp_main__'); print('torch' in sys.modules)"
    done = command("-c", words)
    assert done.stdout == "False\n", done.stderr
