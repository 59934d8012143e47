"""bench/loader.py from the shell, and the parts whose figures nobody could check by looking."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import Command, Refusal, beside

sys.path.append(str(Path(__file__).parents[2] / "bench"))  # where Python looks for the modules beside a script

from contest import Lap, Made, Pace, Result, Start, cpu_seconds, run_lap
from likeness import FREIHAND, MPII, Likeness, carried, encode, enlarged, find_grain, make_pictures, placements, weigh
from loader import Entry, main
from record import machine, make_record, write_record
from seed_style import CELLS, SeedStyle, cut, jitter, seed_loader, stamp, targets
from ways import LoaderWay, shuffled

from hgfast.errors import HgfastError
from hgfast.skeletons import BODY16, HAND21, Skeleton
from pipelines.samples import Samples

KEYS = {"machine", "versions", "revision", "command", "date", "rows"}
LOADERS = {"read_only", "decode_only", "dali_cpu", "dali_gpu", "torch", "seed_style"}
BLOB = 3.0  # pixels: standard deviation of the spots below


def spot(width: int, height: int, x: float, y: float) -> np.ndarray:
    """A black picture with a white Gaussian spot at x, y in corner coordinates."""
    across = np.exp(-((np.arange(width) + 0.5 - x) ** 2) / (2 * BLOB**2))
    down = np.exp(-((np.arange(height) + 0.5 - y) ** 2) / (2 * BLOB**2))
    return np.round(255 * down[:, None, None] * across[None, :, None] * np.ones(3)).astype(np.uint8)


def centroid(picture: np.ndarray) -> np.ndarray:
    """Where the spot is, corner coordinates."""
    weights = picture.astype(np.float64).mean(2)
    rows, columns = np.indices(weights.shape) + 0.5
    return np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()


def spotted(folder: Path, skeleton: Skeleton, width: int, height: int, side: float) -> Samples:
    """A picture for every joint, with a spot where that joint is; no other is labelled."""
    joints, rng = len(skeleton.joints), np.random.default_rng(1)
    centre = np.array([width / 2 + 11, height / 2 - 7])
    points = centre + rng.uniform(-0.2, 0.2, (joints, 2)) * side
    paths = [str(folder / f"{joint}.png") for joint in range(joints)]
    for path, (x, y) in zip(paths, points):
        cv2.imwrite(path, spot(width, height, x, y))
    return Samples(
        paths=np.array(paths),
        centre=np.tile(centre, (joints, 1)),
        side=np.full(joints, side),
        keypoints=np.tile(points, (joints, 1, 1)),
        labelled=np.eye(joints, dtype=bool),
        reference=np.ones(joints),
        group=np.arange(joints),
        row=np.arange(joints),
        skeleton=skeleton,
        pixel_offset=0.0,
    )


# ---- the seed's way ----


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize(
    ("skeleton", "whole", "width", "height", "side"),
    [(BODY16, False, 500, 400, 300.0), (BODY16, False, 300, 260, 420.0), (HAND21, True, 224, 224, 224.0)],
)
def test_seed_style_moves_the_joints_with_the_picture(
    tmp_path: Path, skeleton: Skeleton, whole: bool, width: int, height: int, side: float, augmented: bool
) -> None:
    samples = spotted(tmp_path, skeleton, width, height, side)
    data = SeedStyle(samples, 256, whole=whole, augmented=augmented, seed=3)
    mirrored = 0
    for row in list(range(len(samples))) * 3:
        example = data.example(row)
        (joint,) = np.nonzero(example.labelled)[0]
        mirrored += joint != row
        assert example.chosen or joint == row
        assert joint in (row, skeleton.swap[row])
        assert np.abs(centroid(example.picture) - example.points[joint]).max() < 1.5
    assert (mirrored > 0) == (augmented and skeleton.has_sides)


def test_seed_style_mirrors_and_turns_as_much_as_it_says(tmp_path: Path) -> None:
    samples = spotted(tmp_path, BODY16, 300, 300, 300.0)
    data = SeedStyle(samples, 256, whole=False, augmented=True, seed=0)
    still = SeedStyle(samples, 256, whole=False, augmented=False).example(0).points @ [1, 1j]
    found = [data.example(0).points @ [1, 1j] for _ in range(200)]
    # bones between head top, neck and thorax, which mirroring leaves in their places, as complex numbers
    change = np.array([(p[9] - p[8]) / (still[9] - still[8]) for p in found])
    hand = np.array([((p[7] - p[8]) / (p[9] - p[8])).imag * ((still[7] - still[8]) / (still[9] - still[8])).imag for p in found])
    assert 0.75 <= abs(change).min() < 0.8 and 1.2 < abs(change).max() <= 1.25
    assert 0.35 < np.mean(hand < 0) < 0.65
    turned = np.degrees(np.angle(change[hand > 0]))
    assert -30.01 <= turned.min() < -25 and 25 < turned.max() <= 30.01


def test_a_crop_beyond_the_border_is_black_there() -> None:
    image = np.full((100, 80, 3), 200, np.uint8)
    picture, points = cut(image, np.array([[0.0, 0.0], [80.0, 100.0]]), np.array([0.0, 0.0]), 64.0, 128)
    assert (picture[66:, 66:] == 200).all() and (picture[:62] == 0).all() and (picture[:, :62] == 0).all()
    np.testing.assert_allclose(points, [[64, 64], [224, 264]])
    away, _ = cut(image, np.zeros((1, 2)), np.array([500.0, 500.0]), 50.0, 32)
    assert (away == 0).all()


def test_targets_peak_in_the_cell_of_the_joint() -> None:
    points = np.array([[10.2, 50.9], [0.0, 63.99], [63.5, 0.5], [-0.1, 5.0], [5.0, 64.0], [30.0, 30.0]])
    labelled = np.array([True, True, True, True, True, False])
    maps = targets(points, labelled, stamp(1.0))
    assert maps.shape == (6, CELLS, CELLS) and maps.dtype == np.float32
    for joint, (column, row) in enumerate([(10, 50), (0, 63), (63, 0)]):
        assert maps[joint, row, column] == maps[joint].max() == 1
        near = [maps[joint, row + dy, column + dx] for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0))
                if 0 <= row + dy < CELLS and 0 <= column + dx < CELLS]  # fmt: skip
        np.testing.assert_allclose(near, np.exp(-0.5), rtol=1e-6)
    assert not maps[3:].any()


def test_jitter_changes_colours_and_stays_in_range() -> None:
    rng = np.random.default_rng(0)
    picture = rng.random((32, 32, 3), np.float32)
    shown = [jitter(picture.copy(), rng) for _ in range(8)]
    assert all(s.min() >= 0 and s.max() <= 1 and s.dtype == np.float32 for s in shown)
    assert all(np.abs(s - picture).mean() > 0.01 for s in shown)
    grey = np.full((4, 4, 3), 0.5, np.float32)
    changed = jitter(grey.copy(), rng)
    assert np.ptp(changed, axis=2).max() < 1e-5 and 0.2 <= changed.mean() <= 0.8 and abs(changed.mean() - 0.5) > 0.01


def test_seed_loader_collates_what_the_seed_trains_on(tmp_path: Path) -> None:
    samples = spotted(tmp_path, BODY16, 200, 200, 200.0)
    pictures, maps = next(iter(seed_loader(SeedStyle(samples, 256, whole=False, augmented=True), 8, 0)))
    assert pictures.shape == (8, 256, 256, 3) and maps.shape == (8, 16, 64, 64)
    assert float(pictures.min()) >= 0 and 0.5 < float(pictures.max()) <= 1
    labelled = maps.amax((2, 3)) > 0
    assert (labelled.sum(1) == 1).all()


# ---- pictures that cost what real ones cost ----


def test_a_person_is_as_large_as_real_ones_and_stays_where_it_is_annotated(tmp_path: Path) -> None:
    samples = spotted(tmp_path, BODY16, 400, 300, 150.0)
    like = Likeness(((640, 360),), 0.1, 80, sides=(200.0, 210, 220, 250, 280, 290, 300))
    sizes = [(640, 360)] * len(samples)
    matrices = placements(samples, sizes, like)
    moved = carried(samples, matrices, samples.paths)
    assert moved.side.min() >= 200 and moved.side.max() <= 300
    for row in range(len(samples)):
        picture = enlarged(str(samples.paths[row]), matrices[row], (640, 360))
        x, y = moved.keypoints[row, row]
        if not (20 < x < 620 and 20 < y < 340):
            continue
        part = picture[int(y) - 15 : int(y) + 15, int(x) - 15 : int(x) + 15]
        assert np.abs(centroid(part) - 15 - np.array([x % 1, y % 1])).max() < 0.5


def test_grain_meets_the_bytes_that_are_wanted() -> None:
    rng = np.random.default_rng(0)
    flat = np.full((240, 320, 3), 90, np.uint8)
    rough = rng.integers(0, 256, (240, 320, 3), np.uint8)
    for picture in (flat, rough):
        grain = find_grain([picture], Likeness(((320, 240),), 0.3, 80))
        assert (grain > 0) == (picture is flat)
        assert len(encode(picture, grain, 80, 0)) / (240 * 320) == pytest.approx(0.3, rel=0.1)


def test_drawn_pictures_weigh_what_real_ones_do_and_are_used_again(tmp_path: Path) -> None:
    first = make_pictures("freihand", FREIHAND, tmp_path, 8, workers=1, progress=False)
    assert weigh(first.paths).bytes_per_pixel == pytest.approx(FREIHAND.bytes_per_pixel, rel=0.1)
    dates = [Path(path).stat().st_mtime_ns for path in first.paths]
    again = make_pictures("freihand", FREIHAND, tmp_path, 8, workers=1, progress=False)
    assert [Path(path).stat().st_mtime_ns for path in again.paths] == dates


@pytest.mark.real_data
def test_the_constants_are_those_of_real_pictures() -> None:
    hands = weigh([str(p) for p in beside("fixtures/FreiHAND_pub_v2_mini/training/rgb").glob("*.jpg")])
    assert hands.bytes_per_pixel == pytest.approx(FREIHAND.bytes_per_pixel, rel=0.01)
    people = [str(p) for p in beside("fixtures/mpii/images").glob("*.jpg")]
    large = weigh([p for p in people if weigh([p]).megapixels == pytest.approx(1280 * 720 / 1e6)])
    assert large.bytes_per_pixel == pytest.approx(MPII.bytes_per_pixel, rel=0.01)


# ---- measuring ----


def _spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_cpu_time_is_that_of_this_process_and_its_workers() -> None:
    begun, own = cpu_seconds(), time.process_time()
    worker = multiprocessing.get_context("fork").Process(target=_spin, args=(30.0,))
    worker.start()
    try:
        deadline = time.perf_counter() + 60
        while cpu_seconds() - begun < time.process_time() - own + 0.3 and time.perf_counter() < deadline:
            time.sleep(0.02)
        theirs = (cpu_seconds() - begun) - (time.process_time() - own)
    finally:
        worker.terminate()
        worker.join()
    assert 0.3 <= theirs < 5


def test_a_lap_counts_images_between_the_arrivals_of_batches() -> None:
    made = []

    def batches() -> Iterator[Made]:
        while True:
            time.sleep(0.005)
            made.append(1)
            yield Made(7)

    lap = run_lap(batches(), Pace(seconds=0.1, batches=4, warm=3))  # type: ignore[arg-type]
    assert lap.images == 7 * (len(made) - 3) and len(made) >= 7
    assert lap.seconds >= 0.1 and lap.images_per_s < 7 / 0.005
    assert lap.cpu_seconds < lap.seconds


def result(*rates: float) -> Result:
    return Result(Start(0.0, 0.0), [Lap(round(100 * rate), 100.0, 1.0) for rate in rates])


def test_ratios_are_taken_round_by_round(tmp_path: Path) -> None:
    way = LoaderWay("torch", "images", "mpii", False, spotted(tmp_path, BODY16, 64, 64, 64.0), 16)
    fast, slow = Entry(way, result(10, 30, 20)), Entry(way, result(5, 10, 20))
    assert fast.times(slow) == pytest.approx(2)
    assert fast.times(Entry(way, None, "no GPU here")) is None


def test_every_picture_comes_as_often_as_any_other(tmp_path: Path) -> None:
    samples = spotted(tmp_path, BODY16, 64, 64, 64.0)
    batches = shuffled(LoaderWay("decode_only", "dali", "mpii", False, samples, 16, batch_size=12))
    seen = [path for _ in range(4) for path in next(batches)]
    assert sorted(seen) == sorted([*map(str, samples.paths)] * 3)


# ---- the record, the chart, the command ----


def test_a_record_says_where_and_how(tmp_path: Path) -> None:
    record = make_record([{"loader": "torch"}], machine())
    assert set(record) == KEYS
    assert record["machine"]["cores"] >= 1 and record["versions"]["torch"] and record["date"].endswith("+00:00")
    write_record(record, tmp_path / "new" / "record.json")
    assert json.loads((tmp_path / "new" / "record.json").read_text()) == record
    with pytest.raises(HgfastError, match="cannot write"):
        write_record(record, tmp_path)


def test_a_chart_is_a_picture(tmp_path: Path) -> None:
    import chart

    row = {"loader": "torch", "variant": "images", "layout": "mpii", "threads": 2, "images_per_s": 9.0}
    row |= {"images_per_s_min": 8.0, "images_per_s_max": 9.5}
    chart.draw([{**row, "cached": c} for c in (False, True)], tmp_path / "chart.png", "a machine")
    assert cv2.imread(str(tmp_path / "chart.png")).std() > 10


@pytest.mark.slow
def test_quick_comparison_from_the_shell(command: Command, tmp_path: Path) -> None:
    done = command("bench/loader.py", "--quick", "--threads", 1, "--work", tmp_path / "work", "--json", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads((tmp_path / "r.json").read_text())
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
    assert weights["freihand"] == pytest.approx(FREIHAND.bytes_per_pixel, rel=0.1)
    assert weights["mpii"] == pytest.approx(MPII.bytes_per_pixel, rel=0.1)
    assert [row["entries"] for row in rows if row["variant"] == "index"] == [1000, 130240]
    for words in ("binds", "wanted", "130240 entries", "x CPU"):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--data-mpii", "nowhere", "--layouts", "[mpii]"), "no MPII data in nowhere"),
        (("--chart", "bars.pdf"), "must end in .png"),
        (("--rounds", "0"), "rounds is 0"),
        (("--round", "3"), "did you mean --rounds"),
    ],
)
def test_wrong_flags_are_one_sentence(refusal: Refusal, words: tuple[str, ...], complaint: str) -> None:
    assert complaint in refusal(main, *words)
