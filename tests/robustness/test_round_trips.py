"""Round trips of writing and reading: data sets in every layout, skeletons, sidecars, configurations, checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import h5py
import numpy as np
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from hgfast import checkpoints, load_model
from hgfast.architectures import PRESETS
from hgfast.checkpoints import build_model
from hgfast.cli import parse
from hgfast.config import AllowedProblem, Config
from hgfast.model import Meta
from hgfast.normalization import Normalization
from hgfast.pipelines.readers.coco import CocoOptions, read_coco
from hgfast.pipelines.readers.freihand import read_freihand
from hgfast.pipelines.readers.mpii_h5 import read_mpii
from hgfast.pipelines.readers.mpii_mat import read_mpii_mat, valid_names, valid_people
from hgfast.pipelines.readers.skeleton_yaml import read_skeleton
from hgfast.runtime import sidecar
from hgfast.runtime.sidecar import BatchRange, Sidecar, TensorSpec
from hgfast.skeletons import BODY16, Skeleton
from tests.robustness.fuzz_targets import release, structs
from tests.robustness.strategies import create_files, points, skeletons

counts = st.integers(1, 5)
names = st.integers(0, 2).map("{:09d}.jpg".format)


@given(data=st.data(), skeleton=skeletons(), count=counts, offset=st.sampled_from([0.0, 0.5, -0.5]))
def test_coco(data: st.DataObject, skeleton: Skeleton, count: int, offset: float) -> None:
    joints = len(skeleton.joints)
    keypoints = data.draw(points((count, joints)))
    visibility = np.array(data.draw(st.lists(st.sampled_from([1, 2]), min_size=count * joints, max_size=count * joints)))
    visibility = visibility.reshape(count, joints)
    unlabeled = np.array(data.draw(st.lists(st.booleans(), min_size=count * joints, max_size=count * joints)))
    unlabeled = unlabeled.reshape(visibility.shape)
    unlabeled[:, 0] = False
    visibility[unlabeled] = 0
    low = data.draw(points((count,)))
    size = data.draw(points((count,), 1, 500))
    images = [data.draw(st.sampled_from(["a.jpg", "sub/ü b.jpg", "sub/deep/c.jpg"])) for _ in range(count)]
    edges = [[a + 1, b + 1] for a, b in skeleton.edges]
    content = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(dict.fromkeys(images))],
        "categories": [{"id": 7, "name": skeleton.name, "keypoints": skeleton.joints, "skeleton": edges}],
        "annotations": [
            {
                "id": 10 * row + 1,
                "image_id": list(dict.fromkeys(images)).index(images[row]),
                "category_id": 7,
                "bbox": [*low[row], *size[row]],
                "keypoints": np.column_stack([keypoints[row], visibility[row]]).ravel().tolist(),
            }
            for row in range(count)
        ],
    }
    with TemporaryDirectory() as folder:
        create_files(Path(folder) / "images", images)
        (Path(folder) / "points.json").write_text(json.dumps(content))
        options = CocoOptions(pixel_offset=offset, padding=1.5, allow=get_args(AllowedProblem))  # the points are arbitrary
        samples = read_coco(Path(folder) / "points.json", Path(folder) / "images", options)
        assert [Path(path).relative_to(Path(folder) / "images").as_posix() for path in samples.paths] == images
    assert np.array_equal(samples.keypoints, keypoints + offset) and np.array_equal(samples.labeled, visibility > 0)
    assert np.array_equal(samples.center, low + size / 2) and np.array_equal(samples.side, 1.5 * size.max(1))
    assert samples.row.tolist() == [10 * row + 1 for row in range(count)]
    assert samples.skeleton.joints == skeleton.joints and samples.skeleton.edges == skeleton.edges
    assert [[a == b for b in samples.group] for a in samples.group] == [[a == b for b in images] for a in images]


@given(data=st.data(), count=counts)
def test_mpii_h5_and_mat(data: st.DataObject, count: int) -> None:
    """The same people in both of MPII's layouts are read as they were written."""
    part = data.draw(points((count, 16), 1, 2000))
    labeled = np.array(data.draw(st.lists(st.booleans(), min_size=count * 16, max_size=count * 16))).reshape(count, 16)
    labeled[:, 0] = True
    part[~labeled] = 0
    center = data.draw(points((count,), -100, 3000))
    scale = np.array(data.draw(st.lists(st.floats(0.125, 16, width=32), min_size=count, max_size=count)))
    head = np.array(data.draw(st.lists(st.floats(1, 300, width=32), min_size=count, max_size=count)))
    images = sorted(data.draw(st.lists(names, min_size=count, max_size=count)))
    person = [images[:row].count(name) for row, name in enumerate(images)]
    people: dict[str, list[dict[str, Any]]] = {}
    for row, name in enumerate(images):
        joints = [{"x": part[row, j, 0], "y": part[row, j, 1], "id": float(j)} for j in range(16) if labeled[row, j]]
        people.setdefault(name, []).append(
            {
                "x1": 5.0,
                "y1": 7.0,
                "x2": 5.0 + head[row] / 0.6,
                "y2": 7.0,
                "scale": scale[row] / 1.25,
                "objpos": structs([{"x": center[row, 0], "y": center[row, 1] - 15 * scale[row] / 1.25}]),
                "annopoints": structs([{"point": structs(joints)}]),
            }
        )
    with TemporaryDirectory() as folder:
        root = Path(folder)
        create_files(root, [f"images/{name}" for name in images])
        (root / "annot").mkdir()
        with h5py.File(root / "annot/valid.h5", "w") as file:
            file["part"], file["visible"], file["center"] = part, labeled.astype(float), center
            file["scale"], file["normalize"], file["imgname"] = scale, head, np.array(images, "S13")
            file["person"] = np.array(person, float)
        savemat(root / "release.mat", {"RELEASE": release(list(people.items()))}, do_compression=data.draw(st.booleans()))
        h5 = read_mpii(root, "valid")
        valid_images, chosen = valid_names(root / "annot/valid.h5"), valid_people(root / "annot/valid.h5")
        mat = read_mpii_mat(root / "release.mat", root / "images", "valid", valid_images, only_people=chosen)
    assert valid_images == images and chosen == list(zip(images, person))
    for samples in (h5, mat):
        assert [Path(path).name for path in samples.paths] == images
        assert np.array_equal(samples.labeled, labeled) and np.allclose(samples.keypoints, part - 0.5, rtol=0, atol=1e-9)
        assert np.allclose(samples.center, center - 0.5, rtol=0, atol=1e-9) and np.allclose(samples.side, 200 * scale)
        assert np.allclose(samples.reference, head, rtol=1e-12) and samples.skeleton is BODY16


@given(data=st.data(), count=counts)
def test_freihand(data: st.DataObject, count: int) -> None:
    uv = data.draw(points((count, 21), 0, 224))
    depth = np.array(data.draw(st.lists(st.floats(0.25, 2, width=32), min_size=count, max_size=count)))
    focal_length = np.array(data.draw(st.lists(st.floats(100, 900, width=32), min_size=count, max_size=count)))
    k = np.array([[[f, 0, 112], [0, f, 112], [0, 0, 1]] for f in focal_length])
    xyz = np.concatenate(
        [(uv - 112) * (depth / focal_length)[:, None, None], np.broadcast_to(depth[:, None, None], (count, 21, 1))], -1
    )
    with TemporaryDirectory() as folder:
        root = Path(folder)
        create_files(root / "training/rgb", [f"{number:08d}.jpg" for number in range(4 * count)])
        (root / "training_K.json").write_text(json.dumps(k.tolist()))
        (root / "training_xyz.json").write_text(json.dumps(xyz.tolist()))
        samples = read_freihand(root, "all")
        assert [int(Path(path).stem) for path in samples.paths] == list(range(4 * count)) == samples.row.tolist()
    assert np.allclose(samples.keypoints, np.tile(uv, (4, 1, 1)), rtol=0, atol=1e-9)
    assert samples.group.tolist() == [*range(count)] * 4 and samples.labeled.all()


@given(skeleton=skeletons())
def test_skeletons_as_dict_and_yaml(skeleton: Skeleton) -> None:
    assert Skeleton.from_dict(json.loads(json.dumps(skeleton.to_dict()))) == skeleton
    named = {"edges": [[skeleton.joints[joint] for joint in edge] for edge in skeleton.edges]}
    pairs = [[skeleton.joints[a], skeleton.joints[b]] for a, b in enumerate(skeleton.flip_indices) if a < b]
    groups = {name: [skeleton.joints[joint] for joint in members] for name, members in skeleton.groups}
    content = {"name": skeleton.name, "joints": list(skeleton.joints), **named, "flip_pairs": pairs, "groups": groups}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "skeleton.yaml"
        file.write_text(yaml.safe_dump({**content, "colors": [list(color) for color in skeleton.colors]}), "utf-8")
        assert read_skeleton(file) == skeleton


positive = st.floats(1e-3, 1e3)


@given(data=st.data(), skeleton=skeletons(), min_batch=st.integers(1, 4), extra=st.integers(0, 4))
def test_sidecars(data: st.DataObject, skeleton: Skeleton, min_batch: int, extra: int) -> None:
    size, normalized = data.draw(st.sampled_from([32, 64, 256])), data.draw(st.booleans())
    batch = BatchRange(min_batch, min_batch + extra // 2, min_batch + extra)
    number: int | str = "batch" if extra else min_batch
    shape = (number, 3, size, size) if normalized else (number, size, size, 3)
    written = Sidecar(
        artifact="a.onnx",
        sha256="",
        export_format="onnx",
        precision=data.draw(st.sampled_from(["fp32", "fp16", "int8"])),
        skeleton=skeleton,
        input=TensorSpec("images", "float32" if normalized else "uint8", shape, "NCHW" if normalized else "NHWC"),
        outputs=(TensorSpec("keypoints", "float32", (number, len(skeleton.joints), 3), "x, y, score"),),
        input_size=size,
        normalized=normalized,
        mean=data.draw(st.tuples(*[st.floats(-1, 1)] * 3)),
        std=data.draw(st.tuples(*[positive] * 3)),
        batch=batch,
        stride=4,
        heatmap_kind=data.draw(st.sampled_from(["gaussian", "logits"])),
        decoder=data.draw(st.sampled_from(["argmax", "quarter", "dark"])),
        flip_test=data.draw(st.booleans()),
        pixel_offset=data.draw(st.sampled_from([0.0, -0.5, 0.5])),
        result_offset=data.draw(st.floats(-1, 1)),
        checkpoint="best.pt",
        checkpoint_sha256="0" * 64,
        versions={"torch": "2.0"},
        revision="unknown",
        created="2026-11-26T00:00:00+00:00",
    )
    with TemporaryDirectory() as folder:
        artifact = Path(folder) / "a.onnx"
        artifact.write_bytes(data.draw(st.binary(max_size=64)))
        written = replace(written, sha256=sidecar.sha256_of(artifact))
        sidecar.write(written, artifact)
        assert sidecar.read_sidecar(artifact) == written


split_fractions = st.lists(st.floats(0, 0.5), min_size=2, max_size=2)
folders = st.text("abcXYZ012 -_.äλ", min_size=1, max_size=12).filter(lambda name: name.strip(" .-") == name).map(Path)


@given(data=st.data())
def test_configurations_as_yaml(data: st.DataObject) -> None:
    config = Config(
        dataset=data.draw(st.sampled_from(["freihand", "mpii", "coco"])),
        data=data.draw(st.none() | folders),
        images=data.draw(st.none() | folders),
        split_fractions=data.draw(st.none() | split_fractions),
        pixel_offset=data.draw(st.floats(-2, 2)),
        skip_missing=data.draw(st.booleans()),
        data_outside=data.draw(st.booleans()),
        seed=data.draw(st.integers(0, 2**63 - 1)),
        batch_size=data.draw(st.integers(1, 10**6)),
        threads=data.draw(st.none() | st.integers(1, 64)),
        exp=data.draw(st.sampled_from(["a", "no", "1e5", "0x10", "12:30", "null", "~", "true", "ä λ"])),
    )
    config.train.lr = data.draw(st.floats(1e-12, 1e3))
    config.train.lr_milestones = sorted(data.draw(st.lists(st.floats(1e-3, 1e4), max_size=3)))
    config.train.max_iters = data.draw(st.none() | st.floats(1e-3, 1e6))
    config.model.stem = data.draw(st.none() | st.tuples(*[st.integers(1, 99)] * 3))
    config.augment.flip = data.draw(st.none() | st.floats(0, 1))
    with TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        config.write_yaml(file)
        assert parse(Config, ["--config", str(file)]) == config


@given(
    skeleton=skeletons(),
    mean=st.tuples(*[st.floats(-1, 1)] * 3),
    std=st.tuples(*[positive] * 3),
    shift=st.floats(-1, 1),
    decoder=st.sampled_from(["argmax", "quarter", "dark"]),
)
def test_checkpoints(skeleton: Skeleton, mean: Any, std: Any, shift: float, decoder: str) -> None:
    meta = Meta(skeleton, Normalization(mean, std), 64, "logits", decoder, 0.5, shift=shift)
    model = build_model(replace(PRESETS["tiny"], depth=1), meta)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "net.pt"
        checkpoints.save(checkpoints.model_state(model), file)
        loaded = load_model(file)
    assert loaded.meta == meta and loaded.arch == model.arch
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
