"""The crop cache: the network sees of a crop what it would see of the whole picture, and a cache that does not fit says so."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, Command
from numpy.typing import NDArray

from hgfast.config import AugmentConfig
from hgfast.draw import read_image
from hgfast.errors import HgfastError
from hgfast.geometry import move, square_matrices, warp
from hgfast.skeletons import BODY16
from pipelines import cache
from pipelines.cache import BuildReport, build, cached, prune
from pipelines.crops import boxes
from pipelines.freihand import read_freihand
from pipelines.mpii import read_mpii
from pipelines.plan import Plan, PlannedBatch
from pipelines.samples import Samples

SIZE = 128
STRONG = AugmentConfig(rotation=40, scale_min=0.7, scale_max=1.3, shift=0.1, flip=0.5)
MEAN, WORST = 2.0, 4.0  # grey levels: a picture's mean difference, of all of them and of the worst


class Extremes(Plan):
    """Nothing but the ends of every range."""

    def _draw_epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
        order, draws = super()._draw_epoch(epoch)
        return order, np.round(draws)


@pytest.fixture(scope="module")
def crowd(people: Path) -> Samples:
    return read_mpii(people, "train")


@pytest.fixture(scope="module")
def filled(crowd: Samples, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BuildReport]:
    """A cache of the crowd, made in one go. Not to be changed."""
    folder = tmp_path_factory.mktemp("cache") / "crops"
    return folder, make(crowd, folder)


@pytest.fixture
def few(tmp_path: Path) -> Samples:
    """Nine pictures of their own colour and 70 x 50 pixels, in a folder where they may be spoilt; the last two share one."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n in range(8):
        cv2.imwrite(str(folder / f"{n}.png"), np.full((50, 70, 3), 20 + 25 * n, np.uint8))
    names = [f"{min(n, 7)}.png" for n in range(9)]
    return at([folder / name for name in names], centre=[(35 - 3 * n, 25) for n in range(9)], side=[40] * 9)


def at(paths: list[Path], centre: list[tuple[float, float]], side: list[float]) -> Samples:
    """Samples with sixteen keypoints around the centre."""
    rng, count = np.random.default_rng(1), len(paths)
    middle, lengths = np.array(centre, np.float64), np.array(side, np.float64)
    keypoints = middle[:, None] + rng.normal(0, 5, (count, 16, 2))
    return Samples(
        np.array([str(path) for path in paths]), middle, lengths, keypoints, rng.random((count, 16)) < 0.8,
        np.linspace(5, 9, count), np.arange(count), 100 + np.arange(count), BODY16, -0.5,
    )  # fmt: skip


def make(samples: Samples, folder: Path, augment: AugmentConfig = STRONG, size: int = SIZE, workers: int = 1) -> BuildReport:
    return build(samples, folder, augment, size, workers, progress=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def batches(
    kind: type[Plan], samples: Samples, other: Samples, augment: AugmentConfig = STRONG
) -> list[tuple[PlannedBatch, ...]]:
    """Two epochs of both, planned with the same seed."""
    plans = [kind(one, SIZE, len(one), augment=augment, seed=3) for one in (samples, other)]
    return [tuple(plan.batch(epoch, 0) for plan in plans) for epoch in range(2)]


def seen(samples: Samples, planned: PlannedBatch) -> NDArray[np.float64]:
    """What the network is shown (n, SIZE, SIZE, 3)."""
    pictures = [read_image(path) for path in samples.paths[planned.index]]
    return np.array([warp(image, m, SIZE) for image, m in zip(pictures, planned.input_from_source)], np.float64)


def refusal(samples: Samples, folder: Path, augment: AugmentConfig = STRONG, size: int = SIZE) -> str:
    with pytest.raises(HgfastError) as caught:
        cached(samples, folder, augment, size)
    sentence = str(caught.value)
    assert sentence.endswith(": run python pipelines/cache.py with the same flags") and "\n" not in sentence
    return sentence


@pytest.mark.parametrize("kind", [Plan, Extremes])
def test_the_network_sees_the_same(kind: type[Plan], crowd: Samples, filled: tuple[Path, BuildReport]) -> None:
    crops = cached(crowd, filled[0], STRONG, SIZE)
    assert len(crops) == len(crowd) == filled[1].made and crops.unreadable == 0
    differences = []
    for whole, small in batches(kind, crowd, crops):
        assert np.array_equal(whole.index, small.index) and np.array_equal(whole.labelled, small.labelled)
        np.testing.assert_allclose(small.keypoints, whole.keypoints, atol=1e-6)
        differences += list(np.abs(seen(crowd, whole) - seen(crops, small)).mean((1, 2, 3)))
    assert np.mean(differences) < MEAN
    assert max(differences) < WORST


def test_hands_too(hands: Path, tmp_path: Path) -> None:
    samples = read_freihand(hands, "valid")
    make(samples, tmp_path)
    crops = cached(samples, tmp_path, STRONG, SIZE)
    for whole, small in batches(Extremes, samples, crops):
        np.testing.assert_allclose(small.keypoints, whole.keypoints, atol=1e-6)
        differences = np.abs(seen(samples, whole) - seen(crops, small)).mean((1, 2, 3))
        assert differences.mean() < MEAN and differences.max() < WORST


def test_lengths_scale_with_the_crop(crowd: Samples, filled: tuple[Path, BuildReport]) -> None:
    crops = cached(crowd, filled[0], STRONG, SIZE)
    np.testing.assert_allclose(crops.reference / crops.side, crowd.reference / crowd.side)
    assert (crops.side <= crowd.side).all() and (crops.side < 0.7 * crowd.side).any()
    assert np.array_equal(crops.group, crowd.group) and crops.pixel_offset == crowd.pixel_offset
    finest = SIZE * STRONG.scale_max  # what a side is worth where the content is largest
    assert (crops.side > 0.999 * np.minimum(crowd.side, finest)).all()


def test_nothing_is_cut_off_and_nothing_added(tmp_path: Path) -> None:
    """White pictures: what is black is outside, but for the outermost pixels of an edge; squares in, across and off them."""
    sizes = [(640, 360), (300, 500), (90, 70), (1, 1), (1, 400), (37, 1)]
    paths = []
    for width, height in sizes:
        paths.append(tmp_path / f"{width}x{height}.png")
        cv2.imwrite(str(paths[-1]), np.full((height, width, 3), 255, np.uint8))
    rng, rows = np.random.default_rng(2), np.repeat(np.arange(len(sizes)), 30)
    centre = rng.uniform(-0.3, 1.3, (len(rows), 2)) * np.array(sizes)[rows]
    centre[::30] = 5000  # so far off that the box does not touch the picture
    samples = at(
        [paths[row] for row in rows], list(map(tuple, centre)), list(np.exp(rng.uniform(np.log(20), np.log(900), len(rows))))
    )
    make(samples, tmp_path / "cache")
    crops = cached(samples, tmp_path / "cache", STRONG, SIZE)
    assert all(not read_image(path).any() and read_image(path).size == 3 for path in crops.paths[::30])
    for whole, small in batches(Extremes, samples, crops):
        a, b = seen(samples, whole)[..., 0], seen(crops, small)[..., 0]
        assert 0.1 < (a > 200).mean() < 0.9
        for one, other in zip(a, b):  # two pixels' thickness differs nowhere
            for apart in ((one > 200) & (other < 60), (one < 60) & (other > 200)):
                assert not cv2.erode(np.pad(apart, 1).astype(np.uint8), np.ones((3, 3), np.uint8)).any()


def test_boxes_are_as_small_as_can_be(crowd: Samples) -> None:
    """Against all combinations of many values, from low to high, without the picture's edge."""
    away = replace(crowd, centre=crowd.centre + 5000)
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
                    centre = away.centre + np.array([x, y]) * away.side[:, None]
                    shown = move(corners, np.linalg.inv(square_matrices(centre, away.side / scale, SIZE, rotation=turn)))
                    least, most = np.minimum(least, shown.min(1)), np.maximum(most, shown.max(1))
        assert (where.low <= least + 1e-3).all() and (where.high >= most - 1e-3).all()
        assert (where.low > least - 1.5).all() and (where.high < most + 1.5).all()


def test_without_shrinking_and_losses_it_is_the_same_to_the_grey_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "encode", lambda image: cv2.imencode(".png", image[..., ::-1])[1].tobytes())
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "noise.png"), noise)
    samples = at([tmp_path / "noise.png"] * 40, [(8.0 * n, 6.0 * n) for n in range(40)], [60 + n for n in range(40)])
    make(samples, tmp_path / "cache")
    crops = cached(samples, tmp_path / "cache", STRONG, SIZE)
    assert np.array_equal(crops.side, samples.side)
    for whole, small in batches(Extremes, samples, crops):
        assert np.abs(seen(samples, whole) - seen(crops, small)).max() <= 1


def test_a_picture_is_decoded_once_for_all_its_people(crowd: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(cache, "read_image", lambda path: opened.append(path) or read_image(path))
    make(crowd, tmp_path)
    assert len(opened) == len(set(opened)) == len(set(crowd.paths)) < len(crowd)
    names = [crop.name for crop in tmp_path.glob("*/*.jpg")]
    assert len(names) == len(crowd)


def test_any_number_of_workers_makes_the_same_bytes(
    crowd: Samples, filled: tuple[Path, BuildReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    before = dict(os.environ)
    report = make(crowd, tmp_path, workers=2)
    assert contents(tmp_path) == contents(filled[0])
    assert report == filled[1]
    assert dict(os.environ) == before


def test_interrupted_and_run_again(
    crowd: Samples, filled: tuple[Path, BuildReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, real, stop = [0], Path.write_bytes, len(crowd) // 2

    def interrupted(self: Path, data: bytes) -> int:
        calls[0] += 1
        if calls[0] == stop:
            real(self, data[: len(data) // 2])  # in the middle of a file
            raise KeyboardInterrupt
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(crowd, tmp_path)
    assert "not finished" in refusal(crowd, tmp_path)
    assert len(contents(tmp_path)) == stop - 1
    report = make(crowd, tmp_path)
    assert (report.made, report.kept) == (len(crowd) - stop + 1, stop - 1)
    assert calls[0] == len(crowd) + 1
    assert contents(tmp_path) == contents(filled[0])


def test_what_a_killed_process_leaves(few: Samples, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    make(few, folder)
    wanted = contents(folder)
    crops = sorted(folder.glob("*/*.jpg"))
    (folder / "index.npz").unlink()
    crops[0].write_bytes(b"")
    crops[1].write_bytes(crops[1].read_bytes()[:-5])
    crops[2].write_bytes(bytes(crops[2].stat().st_size))
    old, new = (crops[3].with_name(f"{crops[3].name}.{n}.partial") for n in (17, 18))
    for partial in (old, new):
        partial.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    report = make(few, folder)
    assert (report.made, report.kept) == (3, 6)
    assert new.read_bytes() == b"half" and not old.exists()  # somebody else may be at it
    new.unlink()
    assert contents(folder) == wanted


@pytest.mark.parametrize(
    ("name", "value"), [("rotation", 41.0), ("scale_min", 0.69), ("scale_max", 1.31), ("shift", 0.11), ("input size", 96)]
)
def test_other_options(name: str, value: float, crowd: Samples, filled: tuple[Path, BuildReport], tmp_path: Path) -> None:
    augment, size = (STRONG, int(value)) if name == "input size" else (replace(STRONG, **{name: value}), SIZE)
    sentence = refusal(crowd, filled[0], augment, size)
    assert f"{name} " in sentence and f"instead of {value:g}" in sentence


def test_what_changes_no_crop_is_allowed(crowd: Samples, filled: tuple[Path, BuildReport]) -> None:
    other = replace(STRONG, flip=0.0, brightness=0.9, contrast=0, saturation=0.5, hue=90, rotation=-40.0)
    wanted = cached(crowd, filled[0], STRONG, SIZE)
    assert np.array_equal(cached(crowd, filled[0], other, SIZE).paths, wanted.paths)
    rows = np.array([5, 3, 11])
    assert np.array_equal(cached(crowd.take(rows), filled[0], STRONG, SIZE).paths, wanted.paths[rows])
    assert np.array_equal(cached(crowd.take(rows), filled[0], STRONG, SIZE).row, crowd.row[rows])


def later(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


@pytest.mark.parametrize(
    ("change", "complaint", "made"),
    [
        (lambda pictures, crops: later(pictures / "3.png"), "have changed, the first {pictures}/3.png", 1),
        (lambda pictures, crops: later(pictures / "7.png"), "does not hold 2 of 9 samples", 2),
        (lambda pictures, crops: (pictures / "0.png").rename(pictures / "3.png"), "does not hold 2 of 9 samples", 1),
        (lambda pictures, crops: (pictures / "3.png").unlink(), "have changed", 0),
        (lambda pictures, crops: crops[4].unlink(), "1 of 9 crops are missing or damaged, the first {crops[4]}", 1),
        (lambda pictures, crops: crops[4].write_bytes(b"x"), "1 of 9 crops are missing or damaged", 1),
        (
            lambda pictures, crops: crops[4].write_bytes(crops[4].read_bytes() + b"\xff\xd9"),
            "1 of 9 crops are missing or damaged",
            1,
        ),
        (lambda pictures, crops: (crops[0].parents[1] / "index.npz").unlink(), "is missing or not finished", 0),
        (lambda pictures, crops: (crops[0].parents[1] / "index.npz").write_bytes(b"PK\3\4"), "is missing or not finished", 0),
        (lambda pictures, crops: np.savez(crops[0].parents[1] / "index.npz", keys=np.arange(3)), "is missing or not finished", 0),
    ],
)
def test_what_has_changed_is_said_and_made_again(
    change: Callable[[Path, list[Path]], object], complaint: str, made: int, few: Samples, tmp_path: Path
) -> None:
    folder, pictures = tmp_path / "cache", tmp_path / "pictures"
    make(few, folder)
    before = contents(folder)
    crops = sorted(folder.glob("*/*.jpg"))
    change(pictures, crops)
    assert complaint.format(pictures=pictures, crops=crops) in refusal(few, folder)
    report = make(few, folder)
    assert report.made == made
    cached(few, folder, STRONG, SIZE)
    if "crops are" in complaint or "not finished" in complaint:
        assert contents(folder) == before


def test_no_cache_at_all(few: Samples, tmp_path: Path) -> None:
    assert str(tmp_path / "none") in refusal(few, tmp_path / "none")


def test_pictures_that_cannot_be_read_are_left_out(few: Samples, tmp_path: Path) -> None:
    folder, pictures = tmp_path / "cache", tmp_path / "pictures"
    good = (pictures / "7.png").read_bytes()
    (pictures / "1.png").write_text("no picture")
    (pictures / "4.png").write_bytes(b"")
    (pictures / "5.png").unlink()
    (pictures / "7.png").write_bytes(good[:20])
    report = make(few, folder)
    assert [Path(path).name for path in report.unreadable] == ["1.png", "4.png", "5.png", "7.png"]
    assert all(path in reason for path, reason in report.unreadable.items())
    assert (report.made, report.kept) == (4, 0) and "4 pictures left out" in report.in_words
    crops = cached(few, folder, STRONG, SIZE)
    assert crops.unreadable == 5 and len(crops) == 4
    assert [few.paths[row - 100] for row in crops.row] == [few.paths[n] for n in (0, 2, 3, 6)]
    assert [round(read_image(path).mean()) for path in crops.paths] == [20, 70, 95, 170]
    make(few.take(np.array([0, 2])), folder, replace(STRONG, rotation=10))  # others know nothing of these
    assert cached(replace(few, unreadable=2), folder, STRONG, SIZE).unreadable == 7

    (pictures / "7.png").write_bytes(good)
    assert "have changed" in refusal(few, folder)
    report = make(few, folder)
    assert (report.made, report.kept, len(report.unreadable)) == (2, 4, 3)
    assert cached(few, folder, STRONG, SIZE).unreadable == 3


def test_not_one_picture_can_be_read(few: Samples, tmp_path: Path) -> None:
    for picture in (tmp_path / "pictures").iterdir():
        picture.write_bytes(b"")
    assert make(few, tmp_path / "cache").made == 0
    with pytest.raises(HgfastError, match=r"none of the 9 samples has a picture that can be read, the first .*0\.png"):
        cached(few, tmp_path / "cache", STRONG, SIZE)


def test_two_sets_of_options_share_a_folder_until_one_is_pruned(few: Samples, tmp_path: Path) -> None:
    folder, weak = tmp_path / "cache", replace(STRONG, rotation=10)
    make(few, folder)
    wanted = contents(folder)
    report = make(few, folder, weak)
    assert (report.made, report.stale) == (9, 9) and report.stale_bytes == sum(map(len, wanted.values())) - len(
        wanted["index.npz"]
    )
    cached(few, folder, STRONG, SIZE)
    cached(few, folder, weak, SIZE)
    mine = [folder / "notes.jpg", folder / "ab" / "photo.jpg", folder / "index.txt"]
    for file in mine:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    assert prune(few, folder, STRONG, SIZE) == 9
    assert all(file.read_text() == "mine" for file in mine)
    assert {name for name in contents(folder) if folder / name not in mine} == set(wanted)
    assert "rotation" in refusal(few, folder, replace(weak, rotation=12))
    cached(few, folder, STRONG, SIZE)


def test_a_folder_that_cannot_be_written(few: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HgfastError, match=r"cannot write to .*file/cache: .*choose another --cache"):
        make(few, tmp_path / "file" / "cache")

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(HgfastError, match=r"cannot write to .*cache: .*No space left on device; free some space"):
        make(few, tmp_path / "cache")
    assert contents(tmp_path / "cache") == {}


def test_the_command(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    count = len(read_mpii(people, "train"))
    words = ["cache.py", "--dataset", "mpii", "--data", str(people), "--model.preset", "tiny", "-e", "x", "--threads", "1"]

    def said(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", [*words, *more])
        cache.main()
        return capsys.readouterr().out

    folder = tmp_path / "cache"
    assert f"{folder}: {count} crops made, 0 kept; " in said("--cache", str(folder))
    assert f"{folder}: 0 crops made, {count} kept; " in said("--cache", str(folder))
    out = said("--cache", str(folder), "--augment.shift", "0.2")
    assert f"{count} crops made, 0 kept" in out and f"{count} crops of other flags or pictures" in out
    assert f"{count} other crops removed" in said("--cache", str(folder), "--prune", "--augment.shift", "0.2")
    with pytest.raises(HgfastError, match="--cache DIR is missing"):
        said()


def test_the_command_in_a_process_of_its_own(command: Command, people: Path, tmp_path: Path) -> None:
    flags = ["--dataset", "mpii", "--data", people, "--model.preset", "tiny", "--threads", 2]
    done = command("pipelines/cache.py", *flags, "--cache", tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert " crops made, 0 kept; " in done.stdout and done.stderr == ""


def test_workers_start_without_torch(command: Command) -> None:
    """What a worker process does first with the command's script."""
    path = str(ROOT / "pipelines" / "cache.py")
    words = f"import runpy, sys; runpy.run_path({path!r}, run_name='__mp_main__'); print('torch' in sys.modules)"
    done = command("-c", words)
    assert done.stdout == "False\n", done.stderr
