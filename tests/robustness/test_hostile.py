"""Malicious files: code in pickles, paths out of the data folder, a few bytes that claim gigabytes.

The peak memory of the process is measured, so that an error after the allocation is detected.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from hgfast import load_model, predict
from hgfast.architectures import PRESETS, Architecture
from hgfast.checkpoints import build_model, model_state
from hgfast.cli import parse
from hgfast.config import AugmentConfig, Config, DataConfig, LoadingConfig
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError
from hgfast.fileio.image_header import MAX_PIXELS, image_size_from_header
from hgfast.model import Meta, StackedHourglass
from hgfast.normalization import Normalization
from hgfast.pipelines.batch_plan import BatchPlan
from hgfast.pipelines.checks.images import decode
from hgfast.pipelines.checks.result import read_result
from hgfast.pipelines.crop_cache.folder import read_index
from hgfast.pipelines.datasets import open_samples
from hgfast.pipelines.loaders.dali import DaliLoader, find_undecodable
from hgfast.pipelines.loaders.opencv import OpenCVLoader
from hgfast.pipelines.readers import mat_file
from hgfast.pipelines.readers.base import READ_ERRORS
from hgfast.pipelines.readers.coco import read_coco
from hgfast.pipelines.readers.freihand import read_freihand
from hgfast.pipelines.readers.h5_file import MAX_BYTES
from hgfast.pipelines.readers.image_paths import AllowedRoots, find_images
from hgfast.pipelines.readers.mpii_h5 import read_columns
from hgfast.pipelines.readers.numpy_file import read_npy, read_npz
from hgfast.pipelines.readers.skeleton_yaml import read_skeleton
from hgfast.pipelines.synthetic import generate_freihand, generate_mpii
from hgfast.runtime.boxes import crop_squares
from hgfast.runtime.torch_predictor import predict_crops
from hgfast.skeletons import HAND21, Skeleton
from hgfast.visualization.draw import read_image, write_image
from tests.conftest import Command
from tests.robustness.fuzz_targets import make_samples
from tests.robustness.resource_monitor import outcome_of, peak_megabytes, reset_peak_memory

CPU = torch.device("cpu")


def assert_refused(work: Callable[[], object], sentence: str, megabytes: float = 300) -> None:
    """Check that `work` raises `HgfastError` with one sentence and allocates less than `megabytes`."""
    reset_peak_memory()
    before = peak_megabytes()
    with pytest.raises(HgfastError, match=sentence) as caught:
        work()
    assert "\n" not in str(caught.value)
    assert peak_megabytes() - before < megabytes


def tiny_network() -> StackedHourglass:
    return build_model(PRESETS["tiny"], Meta(HAND21, Normalization(), 64, "logits", "dark", 0.0)).eval()


# ---- checkpoints ----


class CodeOnUnpickle:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return (exec, (f"open({self.path!r}, 'w').close()",))


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "deep", "system"])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, form: str) -> None:
    proof, path = tmp_path / "executed", tmp_path / "evil.pt"
    content = model_state(tiny_network())
    if form == "zip":
        torch.save({**content, "epoch": CodeOnUnpickle(proof)}, path)
    elif form == "legacy":
        torch.save({"state_dict": content["weights"], "x": CodeOnUnpickle(proof)}, path, _use_new_zipfile_serialization=False)
    elif form == "pickle":
        path.write_bytes(pickle.dumps(CodeOnUnpickle(proof), protocol=2))
    elif form == "deep":
        torch.save({"model": {"a": [({"b": CodeOnUnpickle(proof)},)]}}, path)
    else:  # an existing callable, which a list of forbidden names would have to contain
        command = f"touch '{proof}'".encode()
        path.write_bytes(b"\x80\x02cposix\nsystem\nX" + struct.pack("<I", len(command)) + command + b"\x85R.")
    assert_refused(lambda: load_model(path), r"evil\.pt cannot be read as a checkpoint: it is not one, or it holds more")
    assert not proof.exists()
    if form == "pickle":  # pickle itself executes this file: the test could fail
        pickle.loads(path.read_bytes())  # noqa: S301
        assert proof.exists()


def test_compressed_checkpoint_is_refused(tmp_path: Path) -> None:
    """A zip bomb. Uncompressed, the same content is read, and refused only because it is not a whole network."""
    path, packed = tmp_path / "bomb.pt", tmp_path / "packed.pt"
    torch.save({"state_dict": {"pre.0.conv.weight": torch.zeros(3)}}, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for part in old.infolist():
            content = old.read(part)
            new.writestr(part.filename, content if not part.filename.endswith("data/0") else bytes(2**28))
    assert_refused(lambda: load_model(packed), r"packed\.pt cannot be read as a checkpoint \(ValueError\)", 50)
    assert_refused(lambda: load_model(path), "not a whole|not an hgfast")


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("architecture", "features", 2**14),
        ("architecture", "features", 10**9),
        ("architecture", "stacks", 10**9),
        ("architecture", "blocks", 10**4),
        ("architecture", "depth", 10**9),
        ("architecture", "input_size", 2**40),
        ("architecture", "growth", True),
        ("meta", "skeleton", "nested"),
    ],
)
def test_oversized_architecture_is_refused_before_it_is_built(tmp_path: Path, part: str, key: str, value: Any) -> None:
    content = model_state(tiny_network())
    if value == "nested":  # visited one by one, 2 ** 60 lists
        inner: list[Any] = []
        for _ in range(60):
            inner = [inner, inner]
        value = {**content["meta"]["skeleton"], "edges": inner}
    content[part][key] = value
    torch.save(content, tmp_path / "large.pt")
    assert_refused(lambda: load_model(tmp_path / "large.pt"), r"large\.pt does not describe a network of this version")


def test_expanded_weights_are_refused(tmp_path: Path) -> None:
    """Each weight of a large network is one number, expanded by strides of zero."""
    arch = Architecture(features=4096, depth=1, stem=(8, 16, 16), input_size=64)
    with torch.device("meta"):
        shapes = build_model(arch, Meta(HAND21, Normalization(), 64, "logits", "dark", 0.0))
    content = model_state(tiny_network())
    content["architecture"] |= {"features": 4096, "depth": 1}
    content["weights"] = {
        name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in shapes.state_dict().items()
    }
    torch.save(content, tmp_path / "expanded.pt")
    assert (tmp_path / "expanded.pt").stat().st_size < 100_000
    assert_refused(lambda: load_model(tmp_path / "expanded.pt"), "the tensors claim [0-9]+ bytes and hold")


# ---- paths out of the data folder ----


def write_face_coco(folder: Path, *names: str) -> Path:
    """Write COCO annotations with one point per image; returns their path."""
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    people = [
        {"id": 70 + number, "image_id": number, "category_id": 1, "bbox": [1, 1, 9, 9], "keypoints": [3, 3, 2]}
        for number in range(len(names))
    ]
    content = {"images": images, "annotations": people, "categories": [{"id": 1, "name": "face", "keypoints": ["nose"]}]}
    (folder / "points.json").write_text(json.dumps(content))
    return folder / "points.json"


@pytest.fixture
def data_folders(tmp_path: Path) -> Path:
    """A folder with a data root and a folder of secret images next to it."""
    (tmp_path / "data/images/sub").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    for name in ("data/images/a.jpg", "data/images/sub/b.jpg", "data/other.jpg", "secret/s.jpg"):
        write_image(tmp_path / name, np.full((20, 20, 3), 90, np.uint8))
    return tmp_path


def coco_config(data_folders: Path, **fields: Any) -> DataConfig:
    return DataConfig(**{"dataset": "coco", "data": data_folders / "data", "annotations": data_folders / "points.json", **fields})


def test_links_inside_the_data_are_followed(data_folders: Path) -> None:
    images = data_folders / "data/images"
    (images / "c.jpg").symlink_to("a.jpg")
    (images / "d.jpg").symlink_to(data_folders / "data/other.jpg")  # in the root, not in the image folder
    (images / "more").symlink_to(images / "sub")
    write_face_coco(data_folders, "c.jpg", "d.jpg", "more/b.jpg")
    samples = open_samples(coco_config(data_folders), "train")
    assert [Path(path).name for path in samples.paths] == ["c.jpg", "d.jpg", "b.jpg"]
    assert all(read_image(path).shape == (20, 20, 3) for path in samples.paths)


def test_root_and_image_folder_may_be_links(data_folders: Path) -> None:
    write_face_coco(data_folders, "a.jpg", "sub/b.jpg")
    (data_folders / "linked").symlink_to(data_folders / "data")
    (data_folders / "root").mkdir()
    (data_folders / "root/images").symlink_to(data_folders / "data/images")
    (data_folders / "photos").symlink_to(data_folders / "data/images")
    for fields in (
        {"data": data_folders / "linked"},
        {"data": data_folders / "root"},
        {"data": None, "images": data_folders / "photos"},
    ):
        assert len(open_samples(coco_config(data_folders, **fields), "train")) == 2


@pytest.mark.parametrize("form", ["file", "folder", "chain"])
def test_links_out_of_the_data_require_data_outside(data_folders: Path, form: str) -> None:
    images = data_folders / "data/images"
    name = "out/s.jpg" if form == "folder" else "out.jpg"
    if form == "folder":
        (images / "out").symlink_to(data_folders / "secret")
    elif form == "file":
        (images / "out.jpg").symlink_to(data_folders / "secret/s.jpg")
    else:
        (data_folders / "data/between.jpg").symlink_to("../secret/s.jpg")
        (images / "out.jpg").symlink_to("../between.jpg")
    write_face_coco(data_folders, "a.jpg", name)
    assert_refused(
        lambda: open_samples(coco_config(data_folders), "train"),
        rf"{name}, the image of annotation 71 of .*points\.json, is a link that leads out of the data.*--data-outside",
    )
    samples = open_samples(coco_config(data_folders, data_outside=True), "train")
    assert read_image(samples.paths[1]).shape == (20, 20, 3)


def test_image_folder_is_its_own_root(data_folders: Path) -> None:
    """With --images inside --data, the rest of --data is outside."""
    (data_folders / "data/images/d.jpg").symlink_to(data_folders / "data/other.jpg")
    write_face_coco(data_folders, "d.jpg")
    assert_refused(
        lambda: open_samples(coco_config(data_folders, images=data_folders / "data/images"), "train"), "leads out of the data"
    )


@pytest.mark.parametrize("form", ["absolute", "parent"])
def test_names_out_of_the_data_require_data_outside(data_folders: Path, form: str) -> None:
    name = str(data_folders / "secret/s.jpg") if form == "absolute" else "../../secret/s.jpg"
    write_face_coco(data_folders, "a.jpg", name)
    assert_refused(
        lambda: open_samples(coco_config(data_folders), "train"),
        r"annotation 71 of .*points\.json names the image '.*s\.jpg', which is no plain name .*--data-outside",
    )
    samples = open_samples(coco_config(data_folders, data_outside=True), "train")
    assert Path(samples.paths[1]).resolve() == data_folders / "secret/s.jpg"
    for invalid in ("", "a\0b", "\ud800", "sub/", "sub/.."):
        write_face_coco(data_folders, invalid)
        assert_refused(lambda: open_samples(coco_config(data_folders, data_outside=True), "train"), "no plain name")


def test_links_out_of_freihand_and_mpii(data_folders: Path, tmp_path: Path) -> None:
    generate_freihand(tmp_path / "freihand", 6, seed=5, workers=1)
    generate_mpii(tmp_path / "mpii", 3, seed=4, valid=2, workers=1)
    for dataset, image in (("freihand", "training/rgb/00000003.jpg"), ("mpii", "images/000000002.jpg")):
        root = tmp_path / dataset
        (root / image).unlink()
        (root / image).symlink_to(data_folders / "secret/s.jpg")
        assert_refused(partial(open_samples, DataConfig(dataset=dataset, data=root), "train"), "(sample|row) [0-9]+.* leads out")
        assert len(open_samples(DataConfig(dataset=dataset, data=root, data_outside=True), "train"))


def test_pipes_and_devices_are_not_opened(data_folders: Path) -> None:
    images = data_folders / "data/images"
    os.mkfifo(images / "pipe.jpg")
    (images / "link.jpg").symlink_to("pipe.jpg")
    (images / "null.jpg").symlink_to("/dev/zero")
    assert_refused(lambda: read_image(images / "pipe.jpg"), "is a device or a pipe")
    assert_refused(lambda: read_image("/dev/zero"), "is a device or a pipe")
    write_face_coco(data_folders, "a.jpg", "pipe.jpg")
    assert_refused(lambda: open_samples(coco_config(data_folders), "train"), r"1 of 2 images are missing .* the first pipe\.jpg")
    for name in ("link.jpg", "null.jpg"):
        write_face_coco(data_folders, name)
        assert_refused(lambda: open_samples(coco_config(data_folders), "train"), "is a link to a device or a pipe")


def test_many_links_are_checked_fast(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "real").mkdir()
    names = [f"{number:05d}.jpg" for number in range(5000)]
    for name in names:
        (tmp_path / "real" / name).touch()
        (tmp_path / "images" / name).symlink_to(tmp_path / "real" / name)
    began = time.perf_counter()
    assert find_images(tmp_path / "images", names, False, "", AllowedRoots(root=tmp_path))[1].all()
    assert time.perf_counter() - began < 20  # 0.2 on an idle machine


@pytest.mark.parametrize("form", ["external link", "soft link", "external storage", "virtual"])
def test_hdf5_links_to_other_files_are_refused(tmp_path: Path, form: str) -> None:
    (tmp_path / "secret.bin").write_bytes(np.arange(6.0).tobytes())
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["scale"] = np.arange(6.0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if form == "external link":
            file["scale"] = h5py.ExternalLink("secret.h5", "/scale")
        elif form == "soft link":
            file["inner"] = h5py.ExternalLink("secret.h5", "/")
            file["scale"] = h5py.SoftLink("/inner/scale")
        elif form == "external storage":
            file.create_dataset("scale", (6,), "f8", external=[(str(tmp_path / "secret.bin"), 0, 48)])
        else:
            layout = h5py.VirtualLayout((6,), "f8")
            layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "scale", (6,))
            file.create_virtual_dataset("scale", layout)
    with h5py.File(tmp_path / "a.h5") as file:  # h5py itself follows it
        assert file["scale"][()].tolist() == [0, 1, 2, 3, 4, 5]
    assert_refused(
        lambda: read_columns(tmp_path / "a.h5", ["scale"]), r"a\.h5 cannot be read as HDF5 \(scale (is a link|lies in other)"
    )


# ---- a few bytes that claim gigabytes ----


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def oversized_image(form: str) -> bytes:
    """Return a file of a few bytes whose header claims 60000 x 50000 pixels, 9 GB."""
    width, height = 60000, 50000
    if form == "png":
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    if form == "jpeg":  # the size follows a comment and invalid bytes, which libjpeg skips
        whole = bytearray(cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes())
        at = whole.index(b"\xff\xc0")
        struct.pack_into(">HH", whole, at + 5, height, width)
        return bytes(whole[:2] + b"\xff\xfe" + struct.pack(">H", 60_002) + bytes(60_000) + b"invalid\xff\xff" + whole[3:])
    if form == "bmp":
        return b"BM" + struct.pack("<IHHIIiiHHIIIIII", 60, 0, 0, 54, 40, width, -height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(100)
    if form == "gif":
        return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + b"," + bytes(20)
    if form == "tiff":
        tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 4)]
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    if form == "webp":
        body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
        return b"RIFF" + struct.pack("<I", len(body) + 104) + b"WEBP" + body + bytes(100)
    if form == "hdr":
        return f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {height} +X {width}\n".encode() + bytes(100)
    if form == "jp2":
        whole = bytearray(cv2.imencode(".jp2", np.zeros((64, 64, 3), np.uint8))[1].tobytes())
        struct.pack_into(">II", whole, whole.index(b"\xff\x4f\xff\x51") + 8, width, height)
        return bytes(whole)
    assert form == "ppm"
    return f"P6\n# 1 1\n{width} {height}\n255\n".encode() + bytes(100)


FORMS = ["png", "jpeg", "bmp", "gif", "tiff", "webp", "hdr", "jp2", "ppm"]


@pytest.mark.parametrize("form", FORMS)
def test_oversized_images_are_refused_before_allocation(tmp_path: Path, form: str) -> None:
    (tmp_path / "large.jpg").write_bytes(oversized_image(form))
    assert_refused(
        lambda: read_image(tmp_path / "large.jpg"), r"large\.jpg has 60000 x 50000 pixels, more than the \d+ that are", 20
    )
    (outcome,) = dict(decode([str(tmp_path / "large.jpg")], "opencv", 1)).values()
    assert str(outcome).startswith("has 60000 x 50000 pixels, more")


@pytest.mark.parametrize("form", ["png", "jpeg", "bmp", "tiff", "webp", "jp2", "ppm"])
def test_oversized_images_are_replaced_by_loaders(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """DALI's file check and its search for undecodable files reject them too."""
    (tmp_path / "large.jpg").write_bytes(oversized_image(form))
    write_image(tmp_path / "good.png", np.full((50, 50, 3), 99, np.uint8))
    samples = make_samples([str(tmp_path / "large.jpg"), str(tmp_path / "good.png")])
    paths = samples.paths
    options = LoadingConfig(storage_timeout=0)
    for loader in (
        DaliLoader(BatchPlan(samples, 32, 2, augment=AugmentConfig()), CPU, 1, Normalization(), options=options),
        OpenCVLoader(BatchPlan(samples, 32, 2, augment=AugmentConfig()), CPU, 0, Normalization(), options=options),
    ):
        reset_peak_memory()
        before = peak_megabytes()
        (batch,) = loader.epoch(0)
        assert batch.images.shape == (2, 3, 32, 32) and batch.index.tolist() == [1, 1]
        assert peak_megabytes() - before < 300
    messages = capsys.readouterr().err
    assert messages.count("large.jpg") == 2 and "another image takes its place" in messages
    assert list(find_undecodable(paths.tolist(), CPU)) == [paths[0]]
    (outcome,) = dict(decode([paths[0]], "dali", 1)).values()
    assert isinstance(outcome, str)


def test_predict_refuses_oversized_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """predict.py is run on images from any source."""
    torch.save(model_state(tiny_network()), tmp_path / "net.pt")
    (tmp_path / "large.png").write_bytes(oversized_image("png"))
    words = [str(tmp_path / "net.pt"), str(tmp_path / "large.png"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["predict.py", *words])
    with pytest.raises(SystemExit) as end:
        run_main(predict.main)
    assert end.value.code == 2
    assert "large.png has 60000 x 50000 pixels" in capsys.readouterr().err


def test_largest_allowed_images_are_read(tmp_path: Path) -> None:
    header = b"P5\n12000 9000\n255\n"
    with (tmp_path / "large.pgm").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 12000 * 9000)
    assert read_image(tmp_path / "large.pgm").shape == (9000, 12000, 3)
    assert 12000 * 9000 < MAX_PIXELS < 60000 * 50000


@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    ending=st.sampled_from([".jpg", ".png", ".webp", ".bmp", ".tiff", ".ppm", ".jp2", ".ras", ".gif", ".hdr", ".pam"]),
)
def test_header_sizes_equal_opencv(width: int, height: int, ending: str) -> None:
    assume(ending != ".jp2" or min(width, height) >= 32)  # OpenJPEG cannot write smaller ones
    image = np.full((height, width, 3), 100, np.uint8)
    encoded = cv2.imencode(ending, image.astype(np.float32) if ending == ".hdr" else image)[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None and image_size_from_header(encoded.data) == (width, height) == decoded.shape[1::-1]


@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    form=st.sampled_from(["lossless", "lossy", "extended", "big", "exif", "progressive"]),
)
def test_header_sizes_equal_pillow(width: int, height: int, form: str) -> None:
    memory = io.BytesIO()
    image = Image.new("RGBA" if form == "extended" else "RGB", (width, height), (9, 200, 30))
    if form == "big":
        image.save(memory, "TIFF", big_tiff=True)
    elif form in ("exif", "progressive"):
        exif = Image.Exif()
        exif[0x010E] = "x" * 3000
        image.save(memory, "JPEG", exif=exif, progressive=form == "progressive", icc_profile=bytes(200_000))
    else:
        image.save(memory, "WEBP", lossless=form == "lossless", exif=b"Exif\0\0" if form == "extended" else b"")
    with Image.open(memory) as decoded:
        assert image_size_from_header(memory.getbuffer()) == decoded.size == (width, height)


@given(
    data=st.binary(max_size=200), start=st.sampled_from([oversized_image(form)[:40] for form in FORMS]), cut=st.integers(0, 40)
)
def test_any_header_gives_a_size_or_none(data: bytes, start: bytes, cut: int) -> None:
    size = image_size_from_header(memoryview(start[:cut] + data))
    assert size is None or all(isinstance(side, int) and side >= 0 for side in size)


def test_expanding_and_deep_yaml_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    merged = ["b0: &b0 {k: v}", *(f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 9)}]}}" for n in range(1, 12))]
    loop = ["joints: &j [a, *j]"]
    deep = ["joints: " + "[" * 3_000]
    for text in (lines, merged, loop, deep, ["joints: [" + "a, " * 400_000 + "]"]):
        file = tmp_path / "bomb.yaml"
        file.write_text("\n".join(text))
        error = r"bomb\.yaml (holds more than|is not valid YAML|has more than)"
        assert_refused(partial(read_skeleton, file), "the skeleton .*" + error)
        assert_refused(partial(parse, Config, ["--config", str(file)]), "the configuration .*" + error)


def test_deeply_nested_json_is_refused(tmp_path: Path) -> None:
    deep = "[" * 1_000_000
    (tmp_path / "images").mkdir()
    (tmp_path / "a.json").write_text(deep)
    assert_refused(lambda: read_coco(tmp_path / "a.json", tmp_path / "images"), r"a\.json is not valid JSON")
    (tmp_path / "training/rgb").mkdir(parents=True)
    (tmp_path / "training_K.json").write_text(deep)
    (tmp_path / "training_xyz.json").write_text(deep)
    assert_refused(lambda: read_freihand(tmp_path, "all"), r"training_K\.json is not valid JSON")


@pytest.mark.parametrize("dtype", ["f8", "S13", "texts"])
def test_oversized_hdf5_arrays_are_refused(tmp_path: Path, dtype: str) -> None:
    with h5py.File(tmp_path / "large.h5", "w") as file:
        if dtype == "texts":  # all elements refer to one long text
            data = file.create_dataset("imgname", (4096,), h5py.string_dtype(), chunks=(64,))
            data[0] = "x" * 2**20
            file.flush()
            where = data.id.read_direct_chunk((0,))[1][:16]
            for start in range(0, 4096, 64):
                data.id.write_direct_chunk((start,), where * 64)
        else:
            file.create_dataset("imgname", (2**40,), dtype, chunks=(1024,))
    assert (tmp_path / "large.h5").stat().st_size < 2_000_000
    sentence = "a string of more than" if dtype == "texts" else "claims to be .* more than there is room for"
    assert_refused(lambda: read_columns(tmp_path / "large.h5", ["imgname"]), sentence, 150 if dtype == "texts" else 20)
    assert MAX_BYTES < 2**31


def test_oversized_numpy_arrays_are_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**35,)})
    (tmp_path / "large.npy").write_bytes(header.getvalue() + bytes(64))
    with pytest.raises(ValueError, match="which the file does not hold"):
        read_npy(tmp_path / "large.npy")
    with zipfile.ZipFile(tmp_path / "large.npz", "w") as archive:
        archive.writestr("preds.npy", header.getvalue() + bytes(64))
    with pytest.raises(ValueError, match="which the file does not hold"):
        read_npz(tmp_path / "large.npz", ["preds"])
    bomb = zipfile.ZipFile(tmp_path / "index.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with bomb as archive, archive.open("preds.npy", "w", force_zip64=True) as part:
        for _ in range(1100):
            part.write(bytes(2**20))
    with pytest.raises(ValueError, match="claims to unpack to"):
        read_npz(tmp_path / "index.npz", ["preds"])
    assert read_index(tmp_path) is None


def test_code_in_numpy_files_is_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    np.save(tmp_path / "evil.npy", np.array([CodeOnUnpickle(proof)], object), allow_pickle=True)
    with pytest.raises(READ_ERRORS):
        read_npy(tmp_path / "evil.npy")
    assert not proof.exists()


def mat_file_of(body: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(body)) + body


def mat_matrix(kind: int, dims: tuple[int, ...], contents: bytes, name: bytes = b"RELEASE") -> bytes:
    sides = struct.pack(f"<{len(dims)}I", *dims)
    body = struct.pack("<IIII", 6, 8, kind, 0) + struct.pack("<II", 5, len(sides)) + sides + bytes(-len(sides) % 8)
    body += struct.pack("<II", 1, len(name)) + name + bytes(-len(name) % 8) + contents
    return struct.pack("<II", 14, len(body)) + body


def nested_cells(depth: int) -> bytes:
    inner = mat_matrix(6, (1, 1), struct.pack("<II", 9, 8) + bytes(8), b"")
    for _ in range(depth):
        inner = mat_matrix(1, (1, 1), inner, b"")
    return mat_matrix(1, (1, 1), inner)


MALICIOUS = {
    "unknown element type": mat_matrix(6, (1, 1), struct.pack("<II", 200, 8) + bytes(8)),
    "undefined element type": mat_matrix(6, (1, 1), struct.pack("<II", 8, 8) + bytes(8)),
    "unknown class": mat_matrix(77, (1, 1), struct.pack("<II", 9, 8) + bytes(8)),
    "field names without width": mat_matrix(
        2, (1, 1), struct.pack("<HHI", 5, 4, 0) + struct.pack("<II", 1, 8) + b"a\0\0\0\0\0\0\0"
    ),
    "text of 4 GB without characters": mat_matrix(4, (1, 2**31 - 1), struct.pack("<II", 4, 0)),
    "cells without content": mat_matrix(1, (2**31 - 1, 2**31 - 1), b""),
    "structs without fields": mat_matrix(2, (2**31 - 1, 2**31 - 1), struct.pack("<HHI", 5, 4, 8) + struct.pack("<II", 1, 0)),
    "too many dimensions": mat_matrix(6, (1,) * 100, struct.pack("<II", 9, 8) + bytes(8)),
    "length beyond the end": mat_matrix(6, (1, 1), struct.pack("<II", 9, 2**31) + bytes(8)),
    "nested cells": nested_cells(5000),
    "object": mat_matrix(17, (1, 1), bytes(64)),
}


@pytest.mark.parametrize("case", MALICIOUS)
@pytest.mark.parametrize("compressed", [True, False])
def test_malicious_mat_files_are_refused(tmp_path: Path, case: str, compressed: bool) -> None:
    """Some of these crash scipy's parser, others exhaust the memory."""
    data = mat_file_of(zlib.compress(MALICIOUS[case])) if compressed else mat_file_of(b"")[:128] + MALICIOUS[case]
    (tmp_path / "a.mat").write_bytes(data)
    reset_peak_memory()
    before = peak_megabytes()
    with pytest.raises(READ_ERRORS):
        mat_file.read_mat(tmp_path / "a.mat", ["RELEASE"])
    assert peak_megabytes() - before < 100


def test_compressed_variable_with_oversized_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mat_file.MAX_BYTES < 2**31
    monkeypatch.setattr(mat_file, "MAX_BYTES", 2**24)
    for size in (2**23, 2**27):
        (tmp_path / f"{size}.mat").write_bytes(mat_file_of(zlib.compress(bytes(size), 1)))
    with pytest.raises(ValueError, match="a compressed element is no variable"):  # the size is allowed
        mat_file.list_variables(tmp_path / f"{2**23}.mat")
    reset_peak_memory()
    before = peak_megabytes()
    with pytest.raises(ValueError, match="unpacks to more than there is room for"):
        mat_file.list_variables(tmp_path / f"{2**27}.mat")
    assert peak_megabytes() - before < 64


@given(data=st.data())
def test_mat_files_written_by_scipy_are_read(data: st.DataObject) -> None:
    arrays = st.sampled_from([np.zeros((0, 0)), np.arange(6.0).reshape(2, 3), 1j, np.array([["a", "bc"]], object)])
    leaf = st.floats(-9, 9) | st.text("abc", max_size=5) | arrays
    fields = st.sampled_from("abc")
    value = data.draw(st.recursive(leaf, lambda inner: st.dictionaries(fields, inner, min_size=1, max_size=3), max_leaves=8))
    memory = io.BytesIO()
    savemat(memory, {"RELEASE": value, "other": "x"}, do_compression=data.draw(st.booleans()))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.mat"
        path.write_bytes(memory.getvalue())
        assert sorted(mat_file.list_variables(path)) == ["RELEASE", "other"]
        assert set(mat_file.read_mat(path, ["RELEASE"])) == {"RELEASE"}


def test_deeply_nested_skeleton_is_refused() -> None:
    with pytest.raises(ValueError, match="nested deeper"):
        Skeleton.from_dict({"name": "x", "joints": ["a"], "edges": [[[[[0]]]]], "swap": [0], "colours": []})


def test_oversized_model_flags_are_refused() -> None:
    for flag, value in (("stacks", 10**12), ("depth", 10**12), ("input-size", 2**60), ("features", 2**40)):
        config = parse(Config, [f"--model.{flag}", str(value)])
        assert_refused(config.model.make_architecture, "model: ")


# ---- former bugs, found by fuzzing ----


def test_huge_numbers_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"dataset: coco\npixel_offset: 1{'0' * 400}\n")
    assert_refused(lambda: parse(Config, ["--config", str(file)]), "one of the numbers is too large")
    assert_refused(lambda: parse(Config, ["--pixel-offset", f"1{'0' * 400}"]), "one of the numbers is too large|bad value")


@pytest.mark.parametrize("text", ["seed: null", "dataset: null", "augment: {rotation: null}", "train: {lr: ~}"])
def test_null_for_a_required_value_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert_refused(
        lambda: parse(Config, ["--config", str(tmp_path / "a.yaml")]), "has no value: give it one, or leave it out|bad value"
    )


def test_long_lists_in_a_configuration_are_refused_fast(tmp_path: Path) -> None:
    """jsonargparse takes minutes to parse this."""
    file = tmp_path / "a.yaml"
    file.write_text(f"split_fractions: [{'0, ' * 10_000}0]\n")
    began = time.perf_counter()
    assert_refused(lambda: parse(Config, ["--config", str(file)]), "holds more than 1000 values")
    assert time.perf_counter() - began < 10


def test_long_values_are_shortened_in_messages(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"joints: [a, b]\nedges: [[a, {'x' * 100_000}]]\n")
    with pytest.raises(HgfastError, match=r"edges: unknown joint 'xxx.* … .*there are a, b") as caught:
        read_skeleton(file)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("number", ["Infinity", "1e400", "NaN"])
def test_non_finite_sizes_in_a_check_result_are_refused(tmp_path: Path, number: str) -> None:
    text = f'{{"hgfast_check": 1, "loader": "dali", "report": {{}}, "bad": {{"a": [{number}, 2, "x"]}}, "decoded": {{}}}}'
    (tmp_path / "check.json").write_text(text)
    assert_refused(lambda: read_result(tmp_path / "check.json"), "is no result of hgfast check, or a broken one")


def test_truncated_numpy_header_is_refused(tmp_path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (3,"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(READ_ERRORS):
        read_npy(tmp_path / "a.npy")


def test_oversized_png_chunk_is_refused(tmp_path: Path) -> None:
    """OpenCV allocates 4 GB for this file, and so does DALI, which falls back to OpenCV."""
    whole = bytearray(cv2.imencode(".png", np.zeros((48, 64, 3), np.uint8))[1].tobytes())
    struct.pack_into(">I", whole, 33, 0xFF00068E)
    (tmp_path / "a.png").write_bytes(whole)
    assert_refused(lambda: read_image(tmp_path / "a.png"), r"a\.png is broken: a part of it claims 4278191758 bytes", 20)
    reset_peak_memory()
    before = peak_megabytes()
    (outcome,) = dict(decode([str(tmp_path / "a.png")], "dali", 1)).values()
    assert str(outcome).startswith("is broken: a part of it claims")
    write_image(tmp_path / "good.png", np.full((50, 50, 3), 99, np.uint8))
    plan = BatchPlan(make_samples([str(tmp_path / "a.png"), str(tmp_path / "good.png")]), 32, 2, augment=AugmentConfig())
    for preload_gb in (0.0, 1.0):
        options = LoadingConfig(storage_timeout=0, preload_gb=preload_gb)
        (batch,) = DaliLoader(plan, CPU, 1, Normalization(), options=options).epoch(0)
        assert batch.index.tolist() == [1, 1]
    assert peak_megabytes() - before < 300


def test_boxes_far_larger_than_the_image_are_refused() -> None:
    image, network = np.zeros((20, 20, 3), np.uint8), tiny_network()
    assert_refused(lambda: predict_crops(network, image, *crop_squares(image, [(0, 0, 1e9, 1e9)], 1.0)), "times as large")
    assert outcome_of(lambda: predict_crops(network, image, *crop_squares(image, [(0, 0, 20, 20)], 1.0))) == "answered"


def test_image_of_600_million_pixels_is_refused(tmp_path: Path, tiny_checkpoint: Path, in_process: Command) -> None:
    """A valid PNG of 30 000 x 20 000 black pixels, which takes 75 kB."""
    row = bytes(1 + 30_000 // 8)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 20_000, 1, 0, 0, 0, 0)
    path = tmp_path / "huge.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 20_000)) + chunk(b"IEND", b"")
    )
    sentence = f"{path} has 30000 x 20000 pixels, more than the {MAX_PIXELS} that are decoded: replace it or leave it out"
    with pytest.raises(HgfastError, match=re.escape(sentence)):
        read_image(path)
    assert find_undecodable([str(path)], torch.device("cpu")) == {str(path): sentence}
    for loader in ("dali", "opencv"):
        assert [reason for _, reason in decode([str(path)], loader, 1)] == [sentence.removeprefix(f"{path} ")]
    result = in_process(predict.main, tiny_checkpoint, path, "--out", tmp_path / "out")
    assert result.returncode == 2 and sentence in result.stderr
