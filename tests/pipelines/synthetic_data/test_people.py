"""Synthetic people: the official layout, anatomy, and annotations against images with a plain background."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from hgfast.errors import HgfastError
from hgfast.pipelines import processes, synthetic
from hgfast.pipelines.synthetic import generate_mpii
from hgfast.pipelines.synthetic_data.people import mpii_layout
from hgfast.pipelines.synthetic_data.people.clothing import Outfit, sample_outfit
from hgfast.pipelines.synthetic_data.people.kinematics import (
    BONE_INDEX,
    PosedBody,
    axis_rotation,
    forward_kinematics,
    sample_body,
    sample_shape,
)
from hgfast.pipelines.synthetic_data.people.layout import SceneLayout, in_image, sample_layout, sample_view
from hgfast.pipelines.synthetic_data.people.mpii_layout import annotate, to_official_pixels
from hgfast.pipelines.synthetic_data.people.poses import ACTIVITIES, LEFT_ARM, LIMITS, Poses, mirror, sample_poses
from hgfast.pipelines.synthetic_data.people.scene import ScenePerson, render_person, render_scene
from hgfast.pipelines.synthetic_data.people.solids import body_solids
from hgfast.pipelines.synthetic_data.people.surroundings import Obstacle
from hgfast.pipelines.synthetic_data.render.camera import project
from hgfast.pipelines.synthetic_data.render.light import Light
from tests.conftest import TIMEOUT, ErrorOf, shared_path

COUNT, HELD, SEED = 34, 8, 3
SHAPES = {
    "center": (2,), "imgname": (), "index": (), "normalize": (), "part": (16, 2), "person": (), "scale": (),
    "torsoangle": (), "visible": (16,),
}  # fmt: skip
LIMBS = {"left": (13, 14, 15, 3, 4, 5), "right": (12, 11, 10, 2, 1, 0)}
"""Shoulder, elbow, wrist, hip, knee, ankle."""
Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn") / "set"
    generate_mpii(out, COUNT, SEED, HELD, workers=1)
    return out


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[str, Array]:
    """Concatenate both splits."""
    both = [read(folder / "annot" / f"{split}.h5") for split in ("train", "valid")]
    return {name: np.concatenate([each[name] for each in both]) for name in SHAPES}


@pytest.fixture(scope="module")
def figures() -> list[PosedBody]:
    return [sample_body(np.random.default_rng([11, i])) for i in range(300)]


def read(file: Path) -> dict[str, Array]:
    with h5py.File(file) as h5:
        return {name: h5[name][:] for name in h5}


def digests(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def layout(file: Path) -> tuple[object, dict[str, object]]:
    with h5py.File(file) as h5:
        attributes = {name: (type(value), value) for name, value in h5.attrs.items()}
        return attributes, {
            name: (data.dtype, data.shape[1:], data.chunks, data.compression, dict(data.attrs)) for name, data in h5.items()
        }


def make_body(activity: str = "stand", **changes: float) -> PosedBody:
    """Return a person of 1.7 meters in exactly this pose, such as `left_elevation=90`."""
    physique = sample_shape(np.random.default_rng(4))
    angles = ACTIVITIES[activity].angles()[None].copy()
    names = {"left_plane": 6, "left_elevation": 7, "left_rotation": 8, "left_elbow": 9, "right_plane": 10}
    names |= {"right_elevation": 11, "right_rotation": 12, "right_elbow": 13, "turn": 5}
    for name, value in changes.items():
        angles[0, names[name]] = value
    bodies = forward_kinematics(physique, Poses(angles, np.array([ACTIVITIES[activity].pitch]), np.zeros(1), False))
    return PosedBody(physique, bodies.joints[0], bodies.origins[0], bodies.frames[0], False)


def make_outfit(figure: PosedBody, **changes: object) -> Outfit:
    return replace(sample_outfit(np.random.default_rng(2), figure.shape), back="nothing", skirt=False, **changes)  # type: ignore[arg-type]


def place_before_camera(
    figure: PosedBody, yaw: float = 0, depth: float = 4.0, x: float = 0, size: tuple[int, int] = (480, 400)
) -> SceneLayout:
    """Put a figure in front of a level camera, turned to its left by `yaw` degrees; at 0 it faces the camera."""
    view = np.diag([1.0, -1.0, -1.0])
    K = np.array([[800.0, 0, size[1] / 2], [0, 800, size[0] / 2], [0, 0, 1]])
    turned = figure.transformed(view @ axis_rotation(1, np.array([yaw]))[0], np.array([x, 0.0, depth]))
    return SceneLayout(size, K, [turned], view[:, 1], 0.9)


def uniform_light() -> Light:
    white = np.ones(3, np.float32)
    direction = np.array([0, 0, -1], np.float32)
    return Light(direction, direction, 0.5 * white, 0 * white, 0.5 * white, 0.0)


def render(crowd: SceneLayout, things: list[Obstacle] | None = None) -> list[ScenePerson]:
    """Render a crowd and return its people."""
    rng = np.random.default_rng(0)
    outfits = [make_outfit(figure) for figure in crowd.figures]
    ground = np.zeros((*crowd.size, 3), np.uint8)
    return render_scene(rng, crowd, outfits, uniform_light(), ground, things or []).subjects


def all_layouts(*crowds: SceneLayout) -> SceneLayout:
    return replace(crowds[0], figures=[figure for crowd in crowds for figure in crowd.figures])


def test_layout_is_complete(folder: Path) -> None:
    names = {f"images/{i:09d}.jpg" for i in range(COUNT + HELD)} | {"annot/train.h5", "annot/valid.h5"}
    assert set(digests(folder)) == names | {"synthetic.txt"}
    images = []
    for split, numbers in (("train", range(COUNT)), ("valid", range(COUNT, COUNT + HELD))):
        attributes, data = layout(folder / "annot" / f"{split}.h5")
        assert attributes == {"name": (str, "mpii")}
        wanted = {n: (np.dtype("S13" if n == "imgname" else "f8"), shape, None, None, {}) for n, shape in SHAPES.items()}
        assert data == wanted
        found = read(folder / "annot" / f"{split}.h5")
        assert len({len(values) for values in found.values()}) == 1
        assert set(found["index"].astype(int)) == set(numbers), "every image shows somebody annotated"
        assert [name.decode() for name in found["imgname"]] == [f"{int(i):09d}.jpg" for i in found["index"]]
        assert len(set(zip(found["index"], found["person"], strict=True))) == len(found["index"])
        images.append(set(found["imgname"].tolist()))
    assert not images[0] & images[1]


@pytest.mark.real_data
def test_scale_is_a_twentieth_of_normalize_as_officially() -> None:
    official = read(shared_path("fixtures/mpii/annot/valid.h5"))
    assert official["normalize"] == pytest.approx(20 * official["scale"], rel=1e-5)


def test_real_data_set_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "annot").mkdir()
    (tmp_path / "images").mkdir()
    photograph = tmp_path / "images" / "015601864.jpg"
    photograph.write_bytes(b"a photograph")
    with pytest.raises(HgfastError, match="that this command did not write"):
        generate_mpii(tmp_path, 2, SEED, 1, workers=1, overwrite=True)
    assert photograph.read_bytes() == b"a photograph"


@pytest.mark.real_data
def test_layout_is_the_official_one(folder: Path) -> None:
    official_file = shared_path("fixtures/mpii/annot/valid.h5")
    for split in ("train", "valid"):
        assert layout(folder / "annot" / f"{split}.h5") == layout(official_file)


@pytest.mark.real_data
def test_the_torso_angle_is_the_official_one() -> None:
    found = read(shared_path("fixtures/mpii/annot/valid.h5"))
    mine = [mpii_layout.torso_angle(part) for part in found["part"]]
    np.testing.assert_allclose(mine, found["torsoangle"], atol=1e-9)


def test_torso_angle() -> None:
    part = np.ones((16, 2)) * 100
    for along, angle in (((0, -50), 0), ((50, 0), 90), ((0, 50), 180), ((-50, 1), 270 - np.degrees(1 / 50)), ((-50, -50), -45)):
        part[7] = part[6] + along
        assert mpii_layout.torso_angle(part) == pytest.approx(angle, abs=0.01)
    part[6] = 0
    assert mpii_layout.torso_angle(part) == 0


def test_same_bytes_whatever_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "JOBS_PER_PROCESS", 2)
    for workers in (1, 2):
        generate_mpii(tmp_path / str(workers), 3, SEED, 1, workers=workers)
    assert digests(tmp_path / "2") == digests(tmp_path / "1")


def test_image_depends_only_on_seed_and_number(folder: Path, tmp_path: Path) -> None:
    generate_mpii(tmp_path / "few", 2, SEED, 1, workers=1)
    generate_mpii(tmp_path / "other", 2, SEED + 1, 1, workers=1)
    few, other, many = digests(tmp_path / "few"), digests(tmp_path / "other"), digests(folder)
    assert few["images/000000001.jpg"] == many["images/000000001.jpg"]
    assert few["images/000000002.jpg"] == many[f"images/{COUNT:09d}.jpg"]  # the first for validation
    assert set(few.values()) & set(other.values()) == {few["synthetic.txt"]}


def test_annotations_follow_the_official_rules(folder: Path, rows: dict[str, Array]) -> None:
    part, visible = rows["part"], rows["visible"]
    present = (part != 0).any(-1)
    assert (part == np.round(part)).all() and set(np.unique(visible)) == {0.0, 1.0}
    assert (visible[~present] == 0).all() and (visible[:, 8:10] == present[:, 8:10]).all()
    assert (present.sum(1) >= 6).all() and (~present).any() and ((visible == 0) & present).any()
    raw = rows["scale"] / 1.25
    objpos = rows["center"] - np.stack([np.zeros_like(raw), 15 * raw], axis=-1)
    np.testing.assert_allclose(objpos, np.round(objpos), atol=1e-6)
    for name, points, there, middle, unit in zip(rows["imgname"], part, present, objpos, raw, strict=True):
        height, width = cv2.imread(str(folder / "images" / name.decode())).shape[:2]
        assert (points[there] >= 1).all() and (points[there] <= [width, height]).all()
        box = (points[there].min(0) + points[there].max(0)) / 2
        assert np.abs(middle - box).max() < 10 * unit + 1.5  # a twentieth of the height
    assert rows["normalize"] == pytest.approx(20 * rows["scale"], rel=1e-12)


def test_images_and_people_vary(folder: Path) -> None:
    sizes = np.array([cv2.imread(str(file)).shape[:2] for file in sorted((folder / "images").iterdir())])
    assert (sizes.max(1) >= 320).all() and (sizes.max(1) <= 960).all() and np.ptp(sizes.max(1)) > 300
    ratio = sizes[:, 1] / sizes[:, 0]
    assert ratio.min() < 0.8 and ratio.max() > 1.7 and len(np.unique(ratio.round(1))) >= 5
    crowds = [sample_layout(np.random.default_rng([1, i])) for i in range(150)]
    people = np.array([len(crowd.figures) for crowd in crowds])
    assert 0.5 < (people == 1).mean() < 0.75 and people.max() == 4
    tall = [crowd.K[0, 0] * crowd.figures[0].shape.stature / crowd.figures[0].joints[6, 2] for crowd in crowds]
    assert min(tall) < 130 and max(np.array(tall) / [crowd.size[0] for crowd in crowds]) > 1.1
    assert (np.quantile([crowd.figures[0].shape.stature for crowd in crowds], [0.05, 0.95]) - [1.3, 1.88] < 0.2).all()
    for crowd in crowds:
        joints = project(crowd.figures[0].joints, crowd.K)
        assert in_image(joints, crowd.size).sum() >= 6
    front = np.array([crowd.figures[0].frames[BONE_INDEX["chest"]][2, 2] for crowd in crowds])  # forward along the optical axis
    assert 0.5 < (front < 0).mean() < 0.8  # chests rather than backs, but both
    upside_down = np.mean([figure.joints[9, 1] > figure.joints[6, 1] for crowd in crowds for figure in crowd.figures])
    assert 0.01 < upside_down < 0.3


def test_people_stand_on_one_floor() -> None:
    checked = 0
    for i in range(60):
        crowd = sample_layout(np.random.default_rng([2, i]))
        heights = []
        for figure in crowd.figures:
            ankles = (figure.joints[[0, 5]] @ crowd.up).min() + crowd.floor
            if not figure.airborne:
                heights.append(((figure.joints @ crowd.up).min() + crowd.floor) / figure.shape.stature)
                checked += len(crowd.figures) > 1
            assert ankles > -1e-9
        assert all(-1e-9 < height < 0.12 for height in heights)
    assert checked > 20


def test_bones_have_human_lengths(figures: list[PosedBody]) -> None:
    joints = np.array([figure.joints / figure.shape.stature for figure in figures])

    def length(one: int, other: int) -> Array:
        return np.asarray(np.linalg.norm(joints[:, one] - joints[:, other], axis=-1))

    np.testing.assert_allclose((joints[:, 2] + joints[:, 3]) / 2, joints[:, 6], atol=1e-9)  # the pelvis is between the hips
    shares = {(3, 4): (0.2, 0.28), (4, 5): (0.2, 0.28), (13, 14): (0.14, 0.19), (14, 15): (0.12, 0.165), (8, 9): (0.11, 0.21)}
    for (one, other), (low, high) in (shares | {(6, 7): (0.22, 0.33), (2, 3): (0.08, 0.12), (12, 13): (0.17, 0.26)}).items():
        assert (length(one, other) > low).all() and (length(one, other) < high).all(), (one, other)
    for left, right in zip(LIMBS["left"], LIMBS["right"], strict=True):
        assert left != right
    np.testing.assert_allclose(length(3, 4), length(2, 1))
    np.testing.assert_allclose(length(14, 15), length(11, 10))
    straight = forward_kinematics(
        sample_shape(np.random.default_rng(1)), Poses(np.zeros((1, 24)), np.zeros(1), np.zeros(1), False)
    ).joints[0]
    stature = sample_shape(np.random.default_rng(1)).stature
    assert straight[9, 1] - straight[[0, 5], 1].min() == pytest.approx((1 - 0.045) * stature, rel=1e-6)
    children = np.array([figure.shape.stature < 1.3 for figure in figures])
    assert length(8, 9)[children].min() > np.median(length(8, 9)[~children])  # larger heads


def test_joints_bend_as_people_do(figures: list[PosedBody]) -> None:
    joints = np.array([figure.joints for figure in figures])
    for side, (shoulder, elbow, wrist, hip, knee, ankle) in LIMBS.items():
        thigh, shin = joints[:, knee] - joints[:, hip], joints[:, ankle] - joints[:, knee]
        upper, fore = joints[:, elbow] - joints[:, shoulder], joints[:, wrist] - joints[:, elbow]
        for one, other, greatest in ((thigh, shin, 150), (upper, fore, 145)):
            cosine = (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)
            bend = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
            assert bend.max() < greatest + 0.1 and bend.max() > 100 and bend.min() < 12
        # a knee bends to where heels are, an elbow to where thumbs are
        for bone, tip, sign in ((f"{side} thigh", shin, -1), (f"{side} arm", fore, 1)):
            forwards = np.array([figure.frames[BONE_INDEX[bone]][:, 2] for figure in figures])
            assert (sign * (tip * forwards).sum(-1) > -1e-6).all()
        toes = np.array([figure.frames[BONE_INDEX[f"{side} foot"]][:, 2] for figure in figures])
        assert ((toes * shin).sum(-1) / np.linalg.norm(shin, axis=-1) < np.sin(np.radians(48.1))).all()
    poses = np.concatenate([sample_poses(np.random.default_rng([3, i]), 4).angles for i in range(100)])
    assert (poses >= LIMITS[:, 0]).all() and (poses <= LIMITS[:, 1]).all()
    assert (poses[poses[:, LEFT_ARM][:, 0] < -88][:, LEFT_ARM.start + 1] <= 64).all()


def test_every_frame_is_a_rotation(figures: list[PosedBody]) -> None:
    frames = np.array([figure.frames for figure in figures])
    np.testing.assert_allclose(frames @ frames.transpose(0, 1, 3, 2), np.broadcast_to(np.eye(3), frames.shape), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(frames), 1)
    np.testing.assert_allclose(np.linalg.det(sample_view(np.random.default_rng(0))), 1)


def test_a_mirrored_pose_is_the_mirror_image() -> None:
    physique = sample_shape(np.random.default_rng(0))
    swap = [5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 15, 14, 13, 12, 11, 10]
    for i in range(20):
        poses = sample_poses(np.random.default_rng(i), 1)
        other = Poses(mirror(poses.angles[0])[None], poses.pitch, -poses.roll, poses.airborne)
        np.testing.assert_allclose(
            forward_kinematics(physique, other).joints[0],
            forward_kinematics(physique, poses).joints[0][swap] * [-1, 1, 1],
            atol=1e-9,
        )


def test_left_and_right_are_the_person_s_own() -> None:
    for activity in ("stand", "walk", "sit", "cross"):
        facing = render(place_before_camera(make_body(activity)))[0].pixels
        away = render(place_before_camera(make_body(activity), yaw=180))[0].pixels
        for left, right in ((13, 12), (3, 2)):
            assert facing[left, 0] > facing[right, 0] and away[left, 0] < away[right, 0]
    left_up = render(place_before_camera(make_body("stand", left_plane=0, left_elevation=160)))[0].pixels
    assert left_up[15, 1] < left_up[9, 1] + 40 and left_up[15, 0] > 200 and left_up[10, 1] > left_up[7, 1] + 50
    sitting = make_body("sit")
    assert (sitting.joints[[1, 4], 2] > 0.3).all()  # knees are in front
    assert (make_body("reach").joints[[10, 15], 2] > 0.4).all()  # and so are reaching hands


def test_faces_are_seen_from_the_front_alone() -> None:
    """White of the eyes next to dark pupils, in the upper middle of the head."""
    figure = make_body()
    outfit = make_outfit(figure, hat=None, hair="short", glasses=False, beard=False, hair_color=np.full(3, 0.02, np.float32),
                       skin=np.array([0.2, 0.3, 0.5], np.float32))  # fmt: skip
    counts = {}
    for yaw in (0, 90, 180):
        crowd = place_before_camera(figure, yaw, depth=3.0, size=(960, 960))
        crowd.K[:2, :2] *= 1.5
        layer = render_person(crowd.figures[0], outfit, uniform_light(), crowd)
        assert layer is not None
        top = int(project(crowd.figures[0].joints[9:10], crowd.K)[0, 1]) - layer.top
        neck = int(project(crowd.figures[0].joints[8:9], crowd.K)[0, 1]) - layer.top
        head = layer.colors[max(top, 0) : neck]
        skin = (head[..., 2] > 1.25 * head[..., 0]) & (head[..., 3] > 0.9)
        white = (head[..., :3].min(-1) > 150) & (head[..., 2] < 1.15 * head[..., 0])
        counts[yaw] = (int(white.sum()), float(skin.sum() / (head[..., 3] > 0.9).sum()))
    assert counts[0][0] > 40 and counts[180][0] == 0 and counts[90][0] < counts[0][0]
    assert counts[0][1] > 0.45 and counts[180][1] < 0.3


def test_joints_lie_within_the_rendered_body() -> None:
    """On a black background, joints lie on their limbs, near the middle; joints of another person do not."""
    hits, misses, total = 0, 0, 0
    for i in range(30):
        figure = sample_body(np.random.default_rng([5, i]))
        crowd = place_before_camera(figure, yaw=37.0 * i)
        layer = render_person(crowd.figures[0], make_outfit(figure), uniform_light(), crowd)
        assert layer is not None
        alpha = np.zeros(crowd.size, np.float32)
        alpha[layer.top :, layer.left :][: layer.colors.shape[0], : layer.colors.shape[1]] = layer.colors[..., 3]
        points = np.floor(project(crowd.figures[0].joints, crowd.K)).astype(int)
        cells = [(x, y) for j, (x, y) in enumerate(points) if j != 9 and 0 <= x < 400 and 0 <= y < 480]
        hits += sum(alpha[y, x] > 0.5 for x, y in cells)
        misses += sum(alpha[(y + 97) % 480, (x + 131) % 400] > 0.5 for x, y in cells)
        total += len(cells)
    assert hits == total and misses < 0.5 * total


def test_parts_count_pixel_centers_from_one() -> None:
    """Wrist and elbow of an arm stretched to the side, in front of black, lie in the middle of its pixel rows."""
    figure = make_body("cross", left_rotation=0, left_elbow=0, left_elevation=90, left_plane=0)
    crowd = place_before_camera(figure, depth=3.0, size=(720, 900))
    subject = render(crowd)[0]
    part = to_official_pixels(subject.pixels, subject.present, crowd.size)
    layer = render_person(crowd.figures[0], make_outfit(figure, sleeves=0.0), uniform_light(), crowd)
    assert layer is not None
    for joint in (14, 15):
        x, y = part[joint]
        column = np.zeros(crowd.size[0])
        column[layer.top : layer.top + len(layer.colors)] = layer.colors[:, int(x) - 1 - layer.left, 3]  # column x of 1, 2, 3, …
        numbers = np.arange(1, crowd.size[0] + 1)
        near = np.abs(numbers - y) < 40
        assert (column * numbers)[near].sum() / column[near].sum() == pytest.approx(y, abs=1.6)
    exact = np.full((16, 2), 7.25)
    assert (to_official_pixels(exact, np.ones(16, bool), (99, 99))[[0, 15]] == 8).all()  # 7.75, counted from 1
    assert (to_official_pixels(exact, np.ones(16, bool), (99, 99))[[8, 9]] == 7).all()  # truncated
    assert (to_official_pixels(np.full((16, 2), 0.2), np.ones(16, bool), (99, 99)) == 1).all()  # in the first pixel
    assert (to_official_pixels(np.full((16, 2), 98.9), np.ones(16, bool), (99, 99)) == 99).all()
    assert (to_official_pixels(exact, np.zeros(16, bool), (99, 99)) == 0).all()


def test_joints_beyond_the_border_are_absent() -> None:
    crowd = place_before_camera(make_body("cross"), depth=2.2, size=(300, 300))
    subject = render(crowd)[0]
    wanted = ((subject.pixels >= 0) & (subject.pixels < 300)).all(-1)
    assert (subject.present == wanted).all() and wanted.any() and not wanted[[0, 5, 10, 15]].any()
    row = annotate(np.random.default_rng(0), subject, crowd.K, crowd.size, "000000000.jpg", 0, 0)
    assert (row.part[~wanted] == 0).all() and (row.part[wanted] > 0).all() and (row.visible[~wanted] == 0).all()


def test_a_person_hides_those_behind() -> None:
    near, far = (place_before_camera(make_body(), depth=depth, x=x) for depth, x in ((3.0, -0.3), (4.5, 0.0)))
    for crowd in (all_layouts(near, far), all_layouts(far, near)):  # in either order
        subjects = render(crowd)
        front, back = sorted(subjects, key=lambda subject: subject.figure.joints[6, 2])
        alone = render_person(front.figure, make_outfit(front.figure), uniform_light(), near)
        assert alone is not None
        alpha = np.zeros(near.size, np.float32)
        alpha[alone.top :, alone.left :][: alone.colors.shape[0], : alone.colors.shape[1]] = alone.colors[..., 3]
        under = np.array([alpha[int(y), int(x)] > 0.5 if 0 <= x < 400 and 0 <= y < 480 else False for x, y in back.pixels])
        assert under.any() and not under.all()
        assert not back.visible[under].any() and back.visible[[3, 13]].tolist() == (~under[[3, 13]]).tolist()
        assert front.visible[[12, 13, 2, 3]].all()
        assert back.present.sum() > back.visible.sum()


def test_obstacle_hides_joints() -> None:
    crowd = place_before_camera(make_body())
    free = render(crowd)[0]
    x, y = (int(v) for v in free.pixels[4] - 20)
    thing = Obstacle(np.full((40, 40), 255, np.uint8), np.zeros((40, 40, 3), np.float32), x, y)
    subject = render(crowd, [thing])[0]
    assert free.visible[4] and not subject.visible[4] and subject.present[4]
    assert (subject.visible == free.visible)[[j for j in range(16) if j != 4]].all()
    wall = Obstacle(np.full((480, 400), 255, np.uint8), np.zeros((480, 400, 3), np.float32), 0, 0)
    assert (render(crowd, [wall])[0].visible == free.visible).all()  # the main person is never completely hidden


def test_a_body_hides_its_own_joints() -> None:
    front = render(place_before_camera(make_body()))[0]
    assert front.visible[front.present].all()
    aside = render(place_before_camera(make_body("arms up"), yaw=-90))[0]  # turned to its right, with its left side to the camera
    assert aside.visible[[13, 3, 4, 5]].all() and not aside.visible[[12, 2]].any()
    other = render(place_before_camera(make_body("arms up"), yaw=90))[0]
    assert other.visible[[12, 2, 1, 0]].all() and not other.visible[[13, 3]].any()
    hands = {"left_plane": 70.0, "left_elevation": 25.0, "left_rotation": -70.0, "left_elbow": 85.0}
    belly = make_body("stand", **hands)
    assert render(place_before_camera(belly))[0].visible[15] and not render(place_before_camera(belly, yaw=180))[0].visible[15]


@pytest.mark.parametrize("depth", [2.5, 5.0])
def test_center_scale_and_head_follow_from_the_body(depth: float) -> None:
    figure = make_body()
    crowd = place_before_camera(figure, depth=depth, size=(1200, 900))
    subject = render(crowd)[0]
    head = figure.shape.head
    many = [annotate(np.random.default_rng(i), subject, crowd.K, crowd.size, "000000004.jpg", 4, 0) for i in range(200)]
    scale = np.array([row.scale for row in many])
    assert scale == pytest.approx([row.normalize / 20 for row in many], rel=1e-12)  # as in every row of the official file
    box = project(crowd.figures[0].joints, crowd.K)
    objpos = np.array([row.center - [0, 12 * row.scale] for row in many])
    assert np.abs(objpos.mean(0) - ((box.min(0) + box.max(0)) / 2 + 0.5)).max() < 0.8 * scale.mean()
    assert (objpos.std(0) > 1).all()
    # upright, a head of this length and three quarters of it wide: sides 3 and 4, diagonal 5
    assert many[0].normalize == pytest.approx(0.6 * 1.25 * 800 * head / crowd.figures[0].joints[8, 2], rel=0.02)
    assert abs(many[0].torsoangle) < 5 and many[0].index == 4 and many[0].person == 0
    layer = render_person(crowd.figures[0], make_outfit(figure), uniform_light(), crowd)
    assert layer is not None
    tall = np.ptp(np.flatnonzero((layer.colors[..., 3] > 0.5).any(1)))
    assert tall == pytest.approx(200 * scale.mean() / 1.25, rel=0.15)  # a standing person is 200 raw scale units tall


def test_solids_stay_few_enough_to_be_numbered(figures: list[PosedBody]) -> None:
    for i, figure in enumerate(figures[:60]):
        pieces = body_solids(figure, sample_outfit(np.random.default_rng(i), figure.shape))
        assert len(pieces) < 255
        assert all(np.isfinite(piece.points).all() and (piece.radii > 0).all() for piece in pieces)


def test_refuses_to_mix_data_sets_and_overwrites_on_demand(tmp_path: Path) -> None:
    generate_mpii(tmp_path, 3, SEED, 2, workers=1)
    (tmp_path / "images/notes.txt").write_text("mine")
    before = digests(tmp_path)
    with pytest.raises(HgfastError, match="--overwrite"):
        generate_mpii(tmp_path, 2, SEED, 1, workers=1)
    assert digests(tmp_path) == before
    generate_mpii(tmp_path, 2, SEED, 1, workers=1, overwrite=True)
    assert len(list((tmp_path / "images").glob("*.jpg"))) == 3
    assert (tmp_path / "images/notes.txt").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interrupted_run_leaves_no_annotations(overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if overwrite:
        generate_mpii(tmp_path, 3, SEED, 1, workers=1)
    real = mpii_layout.render_job

    def stop_at_third(job: mpii_layout.Job) -> list[mpii_layout.MpiiRow]:
        if job.number == 2:
            raise KeyboardInterrupt
        return real(job)

    monkeypatch.setattr(mpii_layout, "render_job", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        generate_mpii(tmp_path, 4, SEED, 1, workers=1, overwrite=overwrite)
    assert list((tmp_path / "annot").iterdir()) == []
    assert len(list((tmp_path / "images").iterdir())) == 2


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--count", "0"], "--count is 0"),
        (["--count", "3", "--valid", "0"], "--valid is 0"),
        (["--workers", "0"], "--workers is 0"),
        (["--seed", "-1"], "--seed is -1"),
        (["--count", "2", "--out", __file__], "cannot make the folder"),
        (["--vaild", "2"], "--valid"),
    ],
)
def test_bad_input_is_one_sentence(flags: list[str], complaint: str, tmp_path: Path, error_of: ErrorOf) -> None:
    assert complaint in error_of(synthetic.main, "mpii", "--out", tmp_path / "set", *flags)
    assert not (tmp_path / "set").exists()


def test_command_says_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["synthetic.py", "mpii", "--out", str(tmp_path), "--count", "2", "--valid", "1"])
    synthetic.main()
    people = [len(read(tmp_path / "annot" / f"{split}.h5")["index"]) for split in ("train", "valid")]
    out, err = capsys.readouterr()
    assert out.startswith(f"2 training images of {people[0]} people and 1 validation images of {people[1]} in {tmp_path}")
    assert err == ""


def test_workers_start_without_torch() -> None:
    module = "hgfast.pipelines.synthetic_data.people.mpii_layout"
    words = f"import sys, {module}; print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    root = Path(synthetic.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=TIMEOUT, cwd=root)
    assert done.stdout == "[]\n", done.stderr
