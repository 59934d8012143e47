"""Synthetic hands: layout on disk, anatomy recomputed from the written joints, geometry against brute force."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from hgfast.errors import HgfastError
from hgfast.pipelines import processes, synthetic
from hgfast.pipelines.synthetic import generate_freihand
from hgfast.pipelines.synthetic_data.hand import freihand_layout
from hgfast.pipelines.synthetic_data.hand.skeleton import Hand, sample_hand
from hgfast.pipelines.synthetic_data.hand.solids import HandSolid
from hgfast.pipelines.synthetic_data.render.camera import sample_rotation
from hgfast.pipelines.synthetic_data.render.render import NO_PART, SUPERSAMPLING, empty_gbuffer, rasterize
from tests.conftest import TIMEOUT, ErrorOf

COUNT, NUM_EVALUATION, SEED = 40, 8, 3
FINGERS = np.arange(1, 21).reshape(5, 4)
BACK = np.array([0.0, 0, -1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn") / "set"
    generate_freihand(out, COUNT, SEED, NUM_EVALUATION, workers=1)
    return out


@pytest.fixture(scope="module")
def hands() -> list[Hand]:
    return [sample_hand(np.random.default_rng([11, i])) for i in range(400)]


@pytest.fixture(scope="module")
def xyz(hands: list[Hand]) -> NDArray[np.float64]:
    return np.array([hand.xyz for hand in hands])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def pixels(folder: Path, split: str) -> NDArray[np.float64]:
    """Project the joints (N, 21, 2) from the files alone."""
    xyz = np.array(json.loads((folder / f"{split}_xyz.json").read_text()))
    K = np.array(json.loads((folder / f"{split}_K.json").read_text()))
    uv = np.einsum("nij,nkj->nki", K, xyz)
    return np.asarray(uv[..., :2] / uv[..., 2:])


def angle(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the angle between vectors (..., 3) in degrees."""
    cosine = (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def test_layout_is_complete(folder: Path) -> None:
    names = {f"training/rgb/{i:08d}.jpg" for i in range(4 * COUNT)}
    names |= {f"training/mask/{i:08d}.jpg" for i in range(COUNT)}
    names |= {f"evaluation/rgb/{i:08d}.jpg" for i in range(NUM_EVALUATION)}
    names |= {f"{split}_{name}.json" for split in ("training", "evaluation") for name in ("K", "xyz", "scale")}
    assert set(contents(folder)) == names | {"synthetic.txt"}
    for split, count in (("training", COUNT), ("evaluation", NUM_EVALUATION)):
        for name, shape in (("K", (3, 3)), ("xyz", (21, 3)), ("scale", ())):
            assert np.array(json.loads((folder / f"{split}_{name}.json").read_text())).shape == (count, *shape)
    for file in folder.glob("*/rgb/*.jpg"):
        assert cv2.imread(str(file)).shape == (224, 224, 3)


def test_annotations_are_plausible(folder: Path) -> None:
    for split in ("training", "evaluation"):
        K, xyz, scale = (np.array(json.loads((folder / f"{split}_{n}.json").read_text())) for n in ("K", "xyz", "scale"))
        assert (K[:, :2, 2] == 112).all() and (K[:, 2] == [0, 0, 1]).all() and (K[:, 0, 0] == K[:, 1, 1]).all()
        assert (K[:, 0, 0] > 299).all() and (K[:, 0, 0] < 701).all()
        assert (xyz[..., 2] > 0.25).all() and (xyz[..., 2] < 1.4).all()
        np.testing.assert_allclose(scale, np.linalg.norm(xyz[:, 10] - xyz[:, 9], axis=-1))
        uv = pixels(folder, split)
        assert ((uv >= 0) & (uv <= 224)).all(-1).mean() > 0.97
        box = np.ptp(uv, axis=1).max(1) / 224
        assert (box > 0.3).all() and (box < 1).all()


def test_same_bytes_whatever_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "JOBS_PER_PROCESS", 2)
    for workers in (1, 2):
        generate_freihand(tmp_path / str(workers), 4, SEED, 2, workers=workers)
    assert contents(tmp_path / "2") == contents(tmp_path / "1")


def test_hand_depends_on_seed_and_number_alone(folder: Path, tmp_path: Path) -> None:
    generate_freihand(tmp_path / "few", 2, SEED, 1, workers=1)
    generate_freihand(tmp_path / "other", 2, SEED + 1, 1, workers=1)
    first = "training/rgb/00000001.jpg"
    assert (tmp_path / "few" / first).read_bytes() == (folder / first).read_bytes()
    assert (tmp_path / "other" / first).read_bytes() != (folder / first).read_bytes()
    few, other = (pixels(tmp_path / name, "training") for name in ("few", "other"))
    assert np.abs(few - other).max() > 5
    assert np.abs(few[0] - pixels(tmp_path / "few", "evaluation")[0]).max() > 5


def test_bones_have_human_lengths(xyz: NDArray[np.float64]) -> None:
    bones = np.linalg.norm(np.diff(xyz[:, FINGERS], axis=2), axis=-1)  # (N, 5, 3)
    assert (bones[:, 1:, 0] > 0.022).all() and (bones[:, 1:, 0] < 0.062).all()
    assert (bones[:, :, 2] > 0.013).all() and (bones[:, :, 2] < 0.038).all()
    metacarpals = np.linalg.norm(xyz[:, [5, 9, 13, 17]] - xyz[:, :1], axis=-1)
    assert (metacarpals > 0.055).all() and (metacarpals < 0.125).all()
    assert (bones[:, 2].sum(1) > bones[:, 4].sum(1)).all()  # the middle finger is longer than the little one
    assert (bones[:, 1:, 0] > bones[:, 1:, 2]).all()
    assert np.std(metacarpals[:, 1]) > 0.004  # hands differ in width


def test_joint_limits(xyz: NDArray[np.float64]) -> None:
    bones = np.diff(xyz[:, FINGERS], axis=2)
    pip, dip = angle(bones[:, 1:, 0], bones[:, 1:, 1]), angle(bones[:, 1:, 1], bones[:, 1:, 2])
    assert pip.max() < 110.1 and dip.max() < 80.1
    assert pip.max() > 95 and pip.min() < 5
    assert angle(bones[:, 0, 1], bones[:, 0, 2]).max() < 80.1
    assert np.corrcoef(pip.ravel(), dip.ravel())[0, 1] > 0.9
    assert 0.2 < np.corrcoef(pip[:, 1], pip[:, 2])[0, 1] < 0.98  # neighbors curl together, but not strictly

    up = xyz[:, 9] - xyz[:, 0]
    across = xyz[:, 9] - xyz[:, 5]  # to the side of the little finger
    back = np.cross(across, up)  # out of the back of a right hand
    side = np.cross(up, back)
    back, side, up = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (back, side, up))
    hinge = np.cross(bones[:, 1:, 0], bones[:, 1:, 1])
    bent = pip > 20
    turn = (hinge * side[:, None]).sum(-1)
    assert (turn[bent] < 0).mean() > 0.99  # a left hand, or one bent backward, would turn the other way
    first = bones[:, 1:3, 0] / np.linalg.norm(bones[:, 1:3, 0], axis=-1, keepdims=True)
    flexion = np.degrees(np.arctan2(-(first * back[:, None]).sum(-1), (first * up[:, None]).sum(-1)))
    assert -30 < flexion.min() < 0 and 75 < flexion.max() < 100
    straight = np.abs(flexion) < 45
    fan = np.degrees(np.arcsin((first * side[:, None]).sum(-1)))
    assert np.abs(fan[straight]).max() < 26  # 15 degrees, and the roll of the plane through these knuckles


def test_poses_and_views_are_too_varied_for_the_mean_pose(hands: list[Hand], xyz: NDArray[np.float64]) -> None:
    uv = np.array([(hand.K @ hand.xyz.T).T for hand in hands])
    uv = uv[..., :2] / uv[..., 2:]
    box = np.ptp(uv, axis=1).max(1)
    inside_box = (uv - uv.min(1, keepdims=True)) / box[:, None, None]
    miss = np.linalg.norm(inside_box[200:] - inside_box[:200].mean(0), axis=-1)
    assert (miss < 0.2).mean() < 0.45
    back = np.cross(xyz[:, 9] - xyz[:, 5], xyz[:, 9] - xyz[:, 0])
    assert 0.4 < (back[:, 2] < 0).mean() < 0.6  # about as many backs as palms


def test_joints_lie_on_the_mask(folder: Path) -> None:
    masks = np.array([cv2.imread(str(f), cv2.IMREAD_GRAYSCALE) for f in sorted((folder / "training/mask").iterdir())])
    uv = pixels(folder, "training")

    def share(which: NDArray[np.int64]) -> float:
        cells = np.floor(uv[which]).astype(int)
        seen = ((cells >= 0) & (cells < 224)).all(-1)
        x, y = np.clip(cells, 0, 223).transpose(2, 0, 1)
        return float((masks[np.arange(COUNT)[:, None], y, x] > 127)[seen].mean())

    assert share(np.arange(COUNT)) > 0.97
    assert share(np.roll(np.arange(COUNT), 1)) < 0.75  # joints of another hand do not match


def ball(x: float, y: float, z: float, radius: float) -> HandSolid:
    return HandSolid(np.array([[x, y, z], [x, y, z]]), np.array([radius, radius]), 1, 0, BACK)


@pytest.mark.parametrize("place", [(0, 0, 0.6), (0.07, -0.06, 0.5), (-0.0831, 0.0417, 0.7)])
def test_ball_is_rendered_where_it_projects(place: tuple[float, float, float]) -> None:
    K = np.array([[480.0, 0, 112], [0, 480, 112], [0, 0, 1]])
    surface = empty_gbuffer((224, 224))
    rasterize([ball(*place, 0.012)], K, surface)
    cover = (surface.part != NO_PART).reshape(224, SUPERSAMPLING, 224, SUPERSAMPLING).mean((1, 3))
    rows, columns = np.mgrid[:224, :224] + 0.5  # the center of pixel 0 is at 0.5
    centroid = np.array([(columns * cover).sum(), (rows * cover).sum()]) / cover.sum()
    expected = 480 * np.array(place[:2]) / place[2] + 112
    assert np.abs(centroid - expected).max() < 0.1
    assert np.sqrt(cover.sum() / np.pi) == pytest.approx(480 * 0.012 / place[2], rel=0.02)


def test_a_cone_is_the_union_of_its_balls() -> None:
    K = np.array([[400.0, 0, 112], [0, 400, 112], [0, 0, 1]])
    surface = empty_gbuffer((224, 224))
    for far in ((0.05, 0.03, 0.62), (0.01, 0.0, 0.5), (-0.03, 0.04, 0.7)):  # sideways, toward the camera, away from it
        ends, radii = np.array([[-0.02, -0.01, 0.6], far]), np.array([0.018, 0.010])
        rasterize([HandSolid(ends, radii, 1, 0, BACK)], K, surface)
        uvw = SUPERSAMPLING * np.column_stack([(q := ends @ K.T)[:, :2] / q[:, 2:], 400 * np.log(ends[:, 2])])
        uvw[:, 2] -= uvw[0, 2]
        sizes = SUPERSAMPLING * 400 * radii / ends[:, 2]
        rows, columns = np.mgrid[: 224 * SUPERSAMPLING, : 224 * SUPERSAMPLING] + 0.5
        nearest = np.full(rows.shape, np.inf)
        for t in np.linspace(0, 1, 200):
            (x, y, w), r = uvw[0] + t * (uvw[1] - uvw[0]), sizes[0] + t * (sizes[1] - sizes[0])
            inside = r * r - (columns - x) ** 2 - (rows - y) ** 2
            nearest = np.minimum(nearest, np.where(inside > 0, w - np.sqrt(np.maximum(inside, 0)), np.inf))
        wanted = np.isfinite(nearest)
        assert (wanted != (surface.part != NO_PART)).sum() < 0.01 * wanted.sum()
        both = cv2.erode((wanted & (surface.part != NO_PART)).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert np.abs(surface.depth - nearest)[both].max() < 0.6  # subpixels; the radii are more than ten


def test_the_nearer_bone_hides_the_farther() -> None:
    K = np.array([[400.0, 0, 112], [0, 400, 112], [0, 0, 1]])
    near = HandSolid(np.array([[-0.05, 0, 0.5], [0.05, 0, 0.5]]), np.array([0.01, 0.008]), 1, 0, BACK)
    far = HandSolid(np.array([[0, -0.06, 0.6], [0, 0.06, 0.6]]), np.array([0.01, 0.008]), 2, 0, BACK)
    for parts, top in (([near, far], 0), ([far, near], 1)):
        surface = empty_gbuffer((224, 224))
        rasterize(parts, K, surface)
        assert surface.part[112 * SUPERSAMPLING, 112 * SUPERSAMPLING] == top
        assert surface.part[88 * SUPERSAMPLING, 112 * SUPERSAMPLING] == 1 - top
        assert surface.part[112 * SUPERSAMPLING, 85 * SUPERSAMPLING] == top
        assert not (surface.part != NO_PART)[:20].any()


def test_versions_share_the_hand_but_not_the_background(folder: Path) -> None:
    alike, apart = [], []
    for i in range(COUNT):
        mask = cv2.imread(str(folder / f"training/mask/{i:08d}.jpg"), cv2.IMREAD_GRAYSCALE)
        hand = cv2.erode(mask, np.ones((5, 5), np.uint8)) > 127
        rest = cv2.dilate(mask, np.ones((9, 9), np.uint8)) < 128
        versions = [cv2.imread(str(folder / f"training/rgb/{i + v * COUNT:08d}.jpg"), 0) for v in range(4)]
        alike.append(min(np.corrcoef(versions[0][hand], other[hand])[0, 1] for other in versions[1:]))
        pairs = [(a, b) for a in range(4) for b in range(a)]
        apart.append(min(np.abs(versions[a].astype(int) - versions[b])[rest].mean() for a, b in pairs))
        screen = cv2.imread(str(folder / f"training/rgb/{i:08d}.jpg"))[rest].mean(0)
        assert screen[1] > 1.1 * max(screen[0], screen[2]), "version gs stands before a green screen"
    assert np.median(alike) > 0.9
    assert min(apart) > 8


def test_overwrite(folder: Path, tmp_path: Path) -> None:
    generate_freihand(tmp_path, 3, SEED, 2, workers=1)
    (tmp_path / "training/rgb/notes.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(HgfastError, match="--overwrite"):
        generate_freihand(tmp_path, 2, SEED, 1, workers=1)
    assert contents(tmp_path) == before
    generate_freihand(tmp_path, 2, SEED, 1, workers=1, overwrite=True)
    assert len(list((tmp_path / "training/rgb").glob("*.jpg"))) == 8
    assert len(list((tmp_path / "training/mask").glob("*.jpg"))) == 2
    assert len(list((tmp_path / "evaluation/rgb").glob("*.jpg"))) == 1
    assert (tmp_path / "training/rgb/notes.txt").read_text() == "mine"


def test_an_interrupted_run_leaves_no_annotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = freihand_layout.render_job

    def stop_at_third(job: freihand_layout.Job) -> freihand_layout.Annotation:
        if job.number == 2:
            raise KeyboardInterrupt
        return real(job)

    monkeypatch.setattr(freihand_layout, "render_job", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        generate_freihand(tmp_path, 4, SEED, 1, workers=1)
    assert list(tmp_path.glob("*.json*")) == []
    assert len(list((tmp_path / "training/rgb").iterdir())) == 8


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--count", "0"], "--count is 0"),
        (["--seed", "-1"], "--seed is -1"),
        (["--count", "2", "--out", __file__], "cannot make the folder"),
        (["--cuont", "2"], "--count"),
    ],
)
def test_bad_input_is_one_sentence(flags: list[str], complaint: str, tmp_path: Path, error_of: ErrorOf) -> None:
    assert complaint in error_of(synthetic.main, "freihand", "--out", tmp_path / "set", *flags)
    assert not (tmp_path / "set").exists()


def test_command_output(tmp_path: Path) -> None:
    script = Path(synthetic.__file__)
    command = [sys.executable, str(script), "freihand", "--out", str(tmp_path), "--count", "2", "--evaluation", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"8 training and 1 evaluation images in {tmp_path}")
    assert done.stderr == ""


def test_viewpoints() -> None:
    """The tilt of palm or back out of the image, in degrees; its cosine is uniform if the orientation is."""
    tilts = {}
    for viewpoints in ("facing", "uniform"):
        turned = [sample_rotation(np.random.default_rng([7, i]), viewpoints) for i in range(2000)]
        palm = np.array([rotation[2, 2] for rotation in turned])  # the hand's z is its back, the camera's points away
        assert abs((palm > 0).mean() - 0.5) < 0.04
        spin = np.array([np.arctan2(rotation[1, 1], rotation[0, 1]) for rotation in turned])
        assert np.histogram(spin, 8, (-np.pi, np.pi))[0].min() > 190  # every direction in the image, of 250 each
        tilts[viewpoints] = np.degrees(np.arccos(np.abs(palm)))
    assert np.median(tilts["uniform"]) == pytest.approx(60, abs=2)
    assert 18 < np.median(tilts["facing"]) < 26
    assert 0.05 < (tilts["facing"] > 60).mean() < 0.15
