"""Files that somebody made to do harm: code in pickles, ways out of the data, a few bytes that claim gigabytes.

What claims too much is opened in a process that is watched and may hold little, so that refusing it late would be seen.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
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
from conftest import Command
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat
from watched import ended, forget_peak, peak_megabytes

from hgfast import load_model
from hgfast.checkpoints import build, describe
from hgfast.cli import parse
from hgfast.config import AugmentConfig, Config, DataChoice, LoadingConfig
from hgfast.draw import read_image, write_image
from hgfast.errors import HgfastError
from hgfast.inference import look, squares
from hgfast.model import PRESETS, Architecture, Meta
from hgfast.picture_size import PIXELS, declared_size
from hgfast.preprocessing import Preprocessing
from hgfast.skeletons import HAND21, Skeleton
from pipelines import mat_file
from pipelines.check_pictures import decode
from pipelines.check_result import read_result
from pipelines.coco import read_coco
from pipelines.crop_folder import read_index
from pipelines.dali import DaliLoader, undecodable
from pipelines.datasets import open_samples
from pipelines.freihand import read_freihand
from pipelines.h5_file import BYTES
from pipelines.mpii import read_columns
from pipelines.numpy_file import BROKEN, read_npy, read_npz
from pipelines.pictures import Bounds, find_pictures
from pipelines.plain import TorchLoader
from pipelines.plan import Plan
from pipelines.samples import Samples
from pipelines.skeleton_files import read_skeleton

CPU = torch.device("cpu")


def refused(work: Callable[[], object], sentence: str, megabytes: float = 300) -> None:
    """`work` ends in a sentence, and on the way takes no more memory than so much."""
    forget_peak()
    before = peak_megabytes()
    with pytest.raises(HgfastError, match=sentence) as caught:
        work()
    assert "\n" not in str(caught.value)
    assert peak_megabytes() - before < megabytes


# ---- code in checkpoints ----


class Runs:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> Any:
        return (exec, (f"open({self.mark!r}, 'w').close()",))


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "deep", "torchvision"])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, form: str) -> None:
    mark, path = tmp_path / "it ran", tmp_path / "evil.pt"
    network = describe(build(PRESETS["tiny"], Meta(HAND21, Preprocessing(), 64, "logits", "dark", 0.0)))
    if form == "zip":
        torch.save({**network, "epoch": Runs(mark)}, path)
    elif form == "legacy":
        torch.save({"state_dict": network["weights"], "x": Runs(mark)}, path, _use_new_zipfile_serialization=False)
    elif form == "pickle":
        path.write_bytes(pickle.dumps(Runs(mark), protocol=2))
    elif form == "deep":
        torch.save({"model": {"a": [({"b": Runs(mark)},)]}}, path)
    else:  # a global that exists and may be called: what a list of forbidden names would have to know
        words = f"touch '{mark}'".encode()
        path.write_bytes(b"\x80\x02cposix\nsystem\nX" + struct.pack("<I", len(words)) + words + b"\x85R.")
    refused(lambda: load_model(path), r"evil\.pt cannot be read as a checkpoint: it is none, or holds more than tensors")
    assert not mark.exists()
    pickled = path.read_bytes()
    if form == "pickle":  # the same file does run where it is let: the proof that the test could fail
        pickle.loads(pickled)  # noqa: S301
        assert mark.exists()


def test_a_checkpoint_is_no_zip_bomb(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    torch.save({"state_dict": {"pre.0.conv.weight": torch.zeros(3)}}, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            content = old.read(part)
            new.writestr(part.filename, content if not part.filename.endswith("data/0") else bytes(2**29))
    refused(lambda: load_model(tmp_path / "packed.pt"), r"packed\.pt cannot be read as a checkpoint \(ValueError\)", 50)
    assert load_refusal(path).startswith("no")  # the same without the bomb is read, and is no hourglass


def load_refusal(path: Path) -> str:
    with pytest.raises(HgfastError) as caught:
        load_model(path)
    return "no hourglass" if "not a whole" in str(caught.value) or "not an hgfast" in str(caught.value) else str(caught.value)


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
def test_a_described_network_is_measured_before_it_is_built(tmp_path: Path, part: str, key: str, value: Any) -> None:
    content = describe(build(PRESETS["tiny"], Meta(HAND21, Preprocessing(), 64, "logits", "dark", 0.0)))
    if value == "nested":  # 2 ** 60 tuples to whoever walks through
        inner: list[Any] = []
        for _ in range(60):
            inner = [inner, inner]
        value = {**content["meta"]["skeleton"], "edges": inner}
    content[part][key] = value
    torch.save(content, tmp_path / "vast.pt")
    refused(lambda: load_model(tmp_path / "vast.pt"), r"vast\.pt does not describe a network of this version")


def test_weights_that_are_one_number_again_and_again(tmp_path: Path) -> None:
    arch = Architecture(features=4096, depth=1, stem=(8, 16, 16), input_size=64)
    with torch.device("meta"):
        shapes = build(arch, Meta(HAND21, Preprocessing(), 64, "logits", "dark", 0.0))
    content = describe(build(PRESETS["tiny"], Meta(HAND21, Preprocessing(), 64, "logits", "dark", 0.0)))
    content["architecture"] |= {"features": 4096, "depth": 1}
    content["weights"] = {
        name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in shapes.state_dict().items()
    }
    torch.save(content, tmp_path / "hollow.pt")
    assert (tmp_path / "hollow.pt").stat().st_size < 100_000
    refused(lambda: load_model(tmp_path / "hollow.pt"), "the tensors claim [0-9]+ bytes and hold")


# ---- ways out of the data ----


def face(folder: Path, *names: str) -> Path:
    """COCO annotations of a point in each picture."""
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    people = [
        {"id": 70 + number, "image_id": number, "category_id": 1, "bbox": [1, 1, 9, 9], "keypoints": [3, 3, 2]}
        for number in range(len(names))
    ]
    content = {"images": images, "annotations": people, "categories": [{"id": 1, "name": "face", "keypoints": ["nose"]}]}
    (folder / "points.json").write_text(json.dumps(content))
    return folder / "points.json"


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """A data root with a picture, and a secret beside it."""
    (tmp_path / "data/images/sub").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    for place in ("data/images/a.jpg", "data/images/sub/b.jpg", "data/other.jpg", "secret/s.jpg"):
        write_image(tmp_path / place, np.full((20, 20, 3), 90, np.uint8))
    return tmp_path


def choice(places: Path, **more: Any) -> DataChoice:
    return DataChoice(dataset="coco", data=places / "data", annotations=places / "points.json", **more)


def test_links_that_stay_inside_are_followed(places: Path) -> None:
    images = places / "data/images"
    (images / "c.jpg").symlink_to("a.jpg")
    (images / "d.jpg").symlink_to(places / "data/other.jpg")  # in the root, not in the folder
    (images / "more").symlink_to(images / "sub")
    face(places, "c.jpg", "d.jpg", "more/b.jpg")
    samples = open_samples(choice(places), "train")
    assert [Path(path).name for path in samples.paths] == ["c.jpg", "d.jpg", "b.jpg"]
    assert all(read_image(path).shape == (20, 20, 3) for path in samples.paths)


def test_the_root_and_the_folder_may_be_links(places: Path) -> None:
    face(places, "a.jpg", "sub/b.jpg")
    (places / "linked").symlink_to(places / "data")
    assert len(open_samples(DataChoice(dataset="coco", data=places / "linked", annotations=places / "points.json"), "train")) == 2
    (places / "root").mkdir()
    (places / "root/images").symlink_to(places / "data/images")
    assert len(open_samples(DataChoice(dataset="coco", data=places / "root", annotations=places / "points.json"), "train")) == 2
    (places / "pictures").symlink_to(places / "data/images")
    named = DataChoice(dataset="coco", images=places / "pictures", annotations=places / "points.json")
    assert len(open_samples(named, "train")) == 2


@pytest.mark.parametrize("kind", ["file", "folder", "chain"])
def test_links_that_lead_out_are_refused_unless_told(places: Path, kind: str) -> None:
    images = places / "data/images"
    name = "out/s.jpg" if kind == "folder" else "out.jpg"
    if kind == "folder":
        (images / "out").symlink_to(places / "secret")
    elif kind == "file":
        (images / "out.jpg").symlink_to(places / "secret/s.jpg")
    else:
        (places / "data/between.jpg").symlink_to("../secret/s.jpg")
        (images / "out.jpg").symlink_to("../between.jpg")
    face(places, "a.jpg", name)
    refused(
        lambda: open_samples(choice(places), "train"),
        rf"{name}, the picture of annotation 71 of .*points\.json, is a link that leads out of the data.*--data-outside",
    )
    samples = open_samples(choice(places, data_outside=True), "train")
    assert read_image(samples.paths[1]).shape == (20, 20, 3)


def test_a_named_folder_is_its_own_root(places: Path) -> None:
    """--images within --data: what lies in --data beside it is outside."""
    (places / "data/images/d.jpg").symlink_to(places / "data/other.jpg")
    face(places, "d.jpg")
    refused(lambda: open_samples(choice(places, images=places / "data/images"), "train"), "leads out of the data")


@pytest.mark.parametrize("form", ["absolute", "parent"])
def test_names_that_lead_out_are_refused_unless_told(places: Path, form: str) -> None:
    name = str(places / "secret/s.jpg") if form == "absolute" else "../../secret/s.jpg"
    face(places, "a.jpg", name)
    refused(
        lambda: open_samples(choice(places), "train"),
        r"the annotations name the picture '.*s\.jpg', which is no plain name .*annotation 71 of .*points\.json.*--data-outside",
    )
    samples = open_samples(choice(places, data_outside=True), "train")
    assert Path(samples.paths[1]).resolve() == places / "secret/s.jpg"
    for impossible in ("", "a\0b", "\ud800", "sub/", "sub/.."):
        face(places, impossible)
        refused(lambda: open_samples(choice(places, data_outside=True), "train"), "no plain name")


def test_links_out_of_freihand_and_mpii(hands: Path, people: Path, places: Path, tmp_path: Path) -> None:
    for root, picture, dataset in ((hands, "training/rgb/00000003.jpg", "freihand"), (people, "images/000000002.jpg", "mpii")):
        copy = tmp_path / dataset
        shutil.copytree(root, copy)
        (copy / picture).unlink()
        (copy / picture).symlink_to(places / "secret/s.jpg")
        refused(partial(open_samples, DataChoice(dataset=dataset, data=copy), "train"), "(sample|row) [0-9]+.* leads out")
        assert len(open_samples(DataChoice(dataset=dataset, data=copy, data_outside=True), "train"))


def test_nobody_waits_for_a_pipe(places: Path) -> None:
    images = places / "data/images"
    os.mkfifo(images / "pipe.jpg")
    (images / "link.jpg").symlink_to("pipe.jpg")
    (images / "null.jpg").symlink_to("/dev/zero")
    refused(lambda: read_image(images / "pipe.jpg"), "is a device or a pipe")
    refused(lambda: read_image("/dev/zero"), "is a device or a pipe")
    face(places, "a.jpg", "pipe.jpg")
    refused(lambda: open_samples(choice(places), "train"), r"1 of 2 pictures are missing .* the first pipe\.jpg")
    for name in ("link.jpg", "null.jpg"):
        face(places, name)
        refused(lambda: open_samples(choice(places), "train"), "is a link to a device or a pipe")


def test_links_among_many_pictures_cost_little(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "real").mkdir()
    names = [f"{number:05d}.jpg" for number in range(5000)]
    for name in names:
        (tmp_path / "real" / name).touch()
        (tmp_path / "images" / name).symlink_to(tmp_path / "real" / name)
    began = time.perf_counter()
    assert find_pictures(tmp_path / "images", names, False, "", Bounds(root=tmp_path))[1].all()
    assert time.perf_counter() - began < 20  # 0.2 on an idle machine


@pytest.mark.parametrize("form", ["external link", "soft link", "external storage", "virtual"])
def test_hdf5_reads_no_other_file(tmp_path: Path, form: str) -> None:
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
    with h5py.File(tmp_path / "a.h5") as file:  # which h5py itself would do
        assert file["scale"][()].tolist() == [0, 1, 2, 3, 4, 5]
    refused(lambda: read_columns(tmp_path / "a.h5", ["scale"]), r"a\.h5 cannot be read as HDF5 \(scale (is a link|lies in other)")


# ---- a few bytes that claim gigabytes ----


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def vast(form: str) -> bytes:
    """The header of a picture of 60000 x 50000 pixels, which takes 9 GB, and hardly anything after it."""
    width, height = 60000, 50000
    if form == "png":
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    if form == "jpeg":  # the size is said after a comment, and rubbish that libjpeg passes over
        whole = bytearray(cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes())
        at = whole.index(b"\xff\xc0")
        struct.pack_into(">HH", whole, at + 5, height, width)
        return bytes(whole[:2] + b"\xff\xfe" + struct.pack(">H", 60_002) + bytes(60_000) + b"rubbish\xff\xff" + whole[3:])
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
def test_vast_pictures_are_refused_before_there_is_room_for_them(tmp_path: Path, form: str) -> None:
    (tmp_path / "vast.jpg").write_bytes(vast(form))
    refused(lambda: read_image(tmp_path / "vast.jpg"), r"vast\.jpg has 60000 x 50000 pixels, more than the \d+ that are", 20)
    (outcome,) = dict(decode([str(tmp_path / "vast.jpg")], "torch", 1)).values()
    assert str(outcome).startswith("has 60000 x 50000 pixels, more")


def two_pictures(one: Path, other: Path) -> Samples:
    return Samples(
        paths=np.array([str(one), str(other)]),
        centre=np.full((2, 2), 25.0),
        side=np.full(2, 50.0),
        keypoints=np.full((2, 21, 2), 20.0),
        labelled=np.ones((2, 21), bool),
        reference=np.ones(2),
        group=np.arange(2),
        row=np.arange(2),
        skeleton=HAND21,
        pixel_offset=0.0,
    )


@pytest.mark.parametrize("form", ["png", "jpeg", "bmp", "tiff", "webp", "jp2", "ppm"])
def test_vast_pictures_in_either_loader(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The loaders go on with other pictures; DALI's check and its search for bad files leave them alone too."""
    (tmp_path / "vast.jpg").write_bytes(vast(form))
    write_image(tmp_path / "good.png", np.full((50, 50, 3), 99, np.uint8))
    samples = two_pictures(tmp_path / "vast.jpg", tmp_path / "good.png")
    paths = samples.paths
    options = LoadingConfig(wait_minutes=0)
    for loader in (
        DaliLoader(Plan(samples, 32, 2, augment=AugmentConfig()), CPU, 1, Preprocessing(), options=options),
        TorchLoader(Plan(samples, 32, 2, augment=AugmentConfig()), CPU, 0, Preprocessing(), options=options),
    ):
        forget_peak()
        before = peak_megabytes()
        (batch,) = loader.epoch(0)
        assert batch.images.shape == (2, 3, 32, 32) and batch.index.tolist() == [1, 1]
        assert peak_megabytes() - before < 300
    said = capsys.readouterr().err
    assert said.count("vast.jpg") == 2 and "another picture takes its place" in said
    assert list(undecodable(paths.tolist(), CPU)) == [paths[0]]
    (outcome,) = dict(decode([paths[0]], "dali", 1)).values()
    assert isinstance(outcome, str)


def test_a_network_is_not_shown_a_vast_picture(tmp_path: Path, command: Command) -> None:
    """hgfast/predict.py, whose pictures are anybody's: one sentence each, and exit code 2."""
    network = build(PRESETS["tiny"], Meta(HAND21, Preprocessing(), 64, "logits", "dark", 0.0))
    torch.save(describe(network), tmp_path / "net.pt")
    (tmp_path / "vast.png").write_bytes(vast("png"))
    done = command("hgfast/predict.py", tmp_path / "net.pt", tmp_path / "vast.png", "--out", tmp_path / "out")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "vast.png has 60000 x 50000 pixels" in done.stderr


def test_pictures_as_large_as_may_be_are_read(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "large.png"), np.zeros((9000, 12000), np.uint8))
    assert read_image(tmp_path / "large.png").shape == (9000, 12000, 3)
    assert 12000 * 9000 < PIXELS < 60000 * 50000


@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    ending=st.sampled_from([".jpg", ".png", ".webp", ".bmp", ".tiff", ".ppm", ".jp2", ".ras", ".gif", ".hdr", ".pam"]),
)
def test_sizes_are_those_that_opencv_finds(width: int, height: int, ending: str) -> None:
    picture = np.full((height, width, 3), 100, np.uint8)
    encoded = cv2.imencode(ending, picture.astype(np.float32) if ending == ".hdr" else picture)[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None and declared_size(encoded.data) == (width, height) == decoded.shape[1::-1]


@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    form=st.sampled_from(["lossless", "lossy", "extended", "big", "exif", "progressive"]),
)
def test_sizes_are_those_that_pillow_finds(width: int, height: int, form: str) -> None:
    memory = io.BytesIO()
    picture = Image.new("RGBA" if form == "extended" else "RGB", (width, height), (9, 200, 30))
    if form == "big":
        picture.save(memory, "TIFF", big_tiff=True)
    elif form in ("exif", "progressive"):
        exif = Image.Exif()
        exif[0x010E] = "x" * 3000
        picture.save(memory, "JPEG", exif=exif, progressive=form == "progressive", icc_profile=bytes(200_000))
    else:
        picture.save(memory, "WEBP", lossless=form == "lossless", exif=b"Exif\0\0" if form == "extended" else b"")
    with Image.open(memory) as again:
        assert declared_size(memory.getbuffer()) == again.size == (width, height)


@given(data=st.binary(max_size=200), start=st.sampled_from([vast(form)[:40] for form in FORMS]), cut=st.integers(0, 40))
def test_any_header_has_a_size_or_none(data: bytes, start: bytes, cut: int) -> None:
    found = declared_size(memoryview(start[:cut] + data))
    assert found is None or all(isinstance(side, int) and side >= 0 for side in found)


def test_yaml_of_aliases_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    merged = ["b0: &b0 {k: v}", *(f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 9)}]}}" for n in range(1, 12))]
    loop = ["joints: &j [a, *j]"]
    deep = ["joints: " + "[" * 20_000]
    for text in (lines, merged, loop, deep, ["joints: [" + "a, " * 400_000 + "]"]):
        file = tmp_path / "bomb.yaml"
        file.write_text("\n".join(text))
        said = r"bomb\.yaml (holds more than|is not valid YAML|has more than)"
        refused(partial(read_skeleton, file), "the skeleton .*" + said)
        refused(partial(parse, Config, ["--config", str(file)]), "the configuration .*" + said)


def test_json_of_brackets_is_refused(tmp_path: Path, hands: Path) -> None:
    deep = "[" * 1_000_000
    (tmp_path / "images").mkdir()
    (tmp_path / "a.json").write_text(deep)
    refused(lambda: read_coco(tmp_path / "a.json", tmp_path / "images"), r"a\.json is not valid JSON")
    (tmp_path / "training/rgb").mkdir(parents=True)
    (tmp_path / "training_K.json").write_text(deep)
    (tmp_path / "training_xyz.json").write_text(deep)
    refused(lambda: read_freihand(tmp_path, "all"), r"training_K\.json is not valid JSON")


@pytest.mark.parametrize("kind", ["f8", "S13", "texts"])
def test_hdf5_claims_are_not_believed(tmp_path: Path, kind: str) -> None:
    with h5py.File(tmp_path / "vast.h5", "w") as file:
        if kind == "texts":  # every one a long text, which the file holds once
            data = file.create_dataset("imgname", (4096,), h5py.string_dtype(), chunks=(64,))
            data[0] = "x" * 2**20
            file.flush()
            where = data.id.read_direct_chunk((0,))[1][:16]
            for start in range(0, 4096, 64):
                data.id.write_direct_chunk((start,), where * 64)
        else:
            file.create_dataset("imgname", (2**40,), kind, chunks=(1024,))
    assert (tmp_path / "vast.h5").stat().st_size < 2_000_000
    sentence = "a text of more than" if kind == "texts" else "claims to be .* more than there is room for"
    refused(lambda: read_columns(tmp_path / "vast.h5", ["imgname"]), sentence, 150 if kind == "texts" else 20)
    assert BYTES < 2**31


def test_numpy_claims_are_not_believed(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**35,)})
    (tmp_path / "vast.npy").write_bytes(header.getvalue() + bytes(64))
    with pytest.raises(ValueError, match="which the file does not hold"):
        read_npy(tmp_path / "vast.npy")
    with zipfile.ZipFile(tmp_path / "vast.npz", "w") as archive:
        archive.writestr("preds.npy", header.getvalue() + bytes(64))
    with pytest.raises(ValueError, match="which the file does not hold"):
        read_npz(tmp_path / "vast.npz", ["preds"])
    bomb = zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED)
    with bomb as archive, archive.open("preds.npy", "w", force_zip64=True) as part:
        for _ in range(1100):
            part.write(bytes(2**20))
    with pytest.raises(ValueError, match="claims to unpack to"):
        read_npz(tmp_path / "bomb.npz", ["preds"])
    (tmp_path / "index.npz").write_bytes((tmp_path / "bomb.npz").read_bytes())
    assert read_index(tmp_path) is None


def test_numpy_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    np.save(tmp_path / "evil.npy", np.array([Runs(mark)], object), allow_pickle=True)
    with pytest.raises(BROKEN):
        read_npy(tmp_path / "evil.npy")
    assert not mark.exists()


def packed(body: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(body)) + body


def matrix(kind: int, dims: tuple[int, ...], contents: bytes, name: bytes = b"RELEASE") -> bytes:
    sides = struct.pack(f"<{len(dims)}I", *dims)
    body = struct.pack("<IIII", 6, 8, kind, 0) + struct.pack("<II", 5, len(sides)) + sides + bytes(-len(sides) % 8)
    body += struct.pack("<II", 1, len(name)) + name + bytes(-len(name) % 8) + contents
    return struct.pack("<II", 14, len(body)) + body


def nested_cells(depth: int) -> bytes:
    inner = matrix(6, (1, 1), struct.pack("<II", 9, 8) + bytes(8), b"")
    for _ in range(depth):
        inner = matrix(1, (1, 1), inner, b"")
    return matrix(1, (1, 1), inner)


HOSTILE = {
    "an unknown type of numbers": matrix(6, (1, 1), struct.pack("<II", 200, 8) + bytes(8)),
    "an undefined type of numbers": matrix(6, (1, 1), struct.pack("<II", 8, 8) + bytes(8)),
    "an unknown class": matrix(77, (1, 1), struct.pack("<II", 9, 8) + bytes(8)),
    "names of no width": matrix(2, (1, 1), struct.pack("<HHI", 5, 4, 0) + struct.pack("<II", 1, 8) + b"a\0\0\0\0\0\0\0"),
    "a text of 4 GB without letters": matrix(4, (1, 2**31 - 1), struct.pack("<II", 4, 0)),
    "cells without bytes": matrix(1, (2**31 - 1, 2**31 - 1), b""),
    "structs without fields": matrix(2, (2**31 - 1, 2**31 - 1), struct.pack("<HHI", 5, 4, 8) + struct.pack("<II", 1, 0)),
    "too many dimensions": matrix(6, (1,) * 100, struct.pack("<II", 9, 8) + bytes(8)),
    "a length beyond the end": matrix(6, (1, 1), struct.pack("<II", 9, 2**31) + bytes(8)),
    "cells in cells": nested_cells(5000),
    "an object": matrix(17, (1, 1), bytes(64)),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("compressed", [True, False])
def test_matlabs_files_are_looked_through_first(tmp_path: Path, what: str, compressed: bool) -> None:
    """Some of these crash scipy's parser, others have it take all memory."""
    data = packed(zlib.compress(HOSTILE[what])) if compressed else packed(b"")[:128] + HOSTILE[what]
    (tmp_path / "a.mat").write_bytes(data)
    forget_peak()
    before = peak_megabytes()
    with pytest.raises(mat_file.BROKEN):
        mat_file.read_mat(tmp_path / "a.mat", ["RELEASE"])
    assert peak_megabytes() - before < 100


def test_a_compressed_variable_is_no_bomb(tmp_path: Path) -> None:
    stream = zlib.compressobj(9)
    body = b"".join(stream.compress(bytes(2**20)) for _ in range(600)) + stream.flush()
    (tmp_path / "a.mat").write_bytes(packed(body))
    with pytest.raises(ValueError, match="unpacks to more than there is room for"):
        mat_file.names(tmp_path / "a.mat")


@given(data=st.data())
def test_matlabs_files_that_scipy_writes_pass(data: st.DataObject) -> None:
    arrays = st.sampled_from([np.zeros((0, 0)), np.arange(6.0).reshape(2, 3), 1j, np.array([["a", "bc"]], object)])
    leaf = st.floats(-9, 9) | st.text("abc", max_size=5) | arrays
    fields = st.sampled_from("abc")
    value = data.draw(st.recursive(leaf, lambda inner: st.dictionaries(fields, inner, min_size=1, max_size=3), max_leaves=8))
    memory = io.BytesIO()
    savemat(memory, {"RELEASE": value, "other": "x"}, do_compression=data.draw(st.booleans()))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.mat"
        path.write_bytes(memory.getvalue())
        assert sorted(mat_file.names(path)) == ["RELEASE", "other"]
        assert set(mat_file.read_mat(path, ["RELEASE"])) == {"RELEASE"}


def test_skeletons_of_endless_lists() -> None:
    with pytest.raises(ValueError, match="nested deeper"):
        Skeleton.from_plain({"name": "x", "joints": ["a"], "edges": [[[[[0]]]]], "swap": [0], "colours": []})


def test_a_model_of_any_size_cannot_be_asked_for() -> None:
    for flag, value in (("stacks", 10**12), ("depth", 10**12), ("input-size", 2**60), ("features", 2**40)):
        config = parse(Config, [f"--model.{flag}", str(value)])
        refused(config.model.architecture, "model: ")


# ---- found by fuzzing, and mended ----


def test_numbers_that_no_computer_has(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"dataset: coco\npixel_offset: 1{'0' * 400}\n")
    refused(lambda: parse(Config, ["--config", str(file)]), "one of the numbers is too large")
    refused(lambda: parse(Config, ["--pixel-offset", f"1{'0' * 400}"]), "one of the numbers is too large|bad value")


@pytest.mark.parametrize("text", ["seed: null", "dataset: null", "augment: {rotation: null}", "train: {lr: ~}"])
def test_nothing_where_something_must_be(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    refused(lambda: parse(Config, ["--config", str(tmp_path / "a.yaml")]), "has no value: give it one, or leave it out|bad value")


def test_long_lists_in_a_configuration(tmp_path: Path) -> None:
    """jsonargparse took minutes for this."""
    file = tmp_path / "a.yaml"
    file.write_text(f"shares: [{'0, ' * 10_000}0]\n")
    began = time.perf_counter()
    refused(lambda: parse(Config, ["--config", str(file)]), "holds more than 1000 values")
    assert time.perf_counter() - began < 10


def test_endless_quotations_are_cut(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"joints: [a, b]\nedges: [[a, {'x' * 100_000}]]\n")
    with pytest.raises(HgfastError, match=r"edges: unknown joint 'xxx.* … .*there are a, b") as caught:
        read_skeleton(file)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("number", ["Infinity", "1e400", "NaN"])
def test_sizes_that_are_no_numbers_in_the_result_of_a_check(tmp_path: Path, number: str) -> None:
    text = f'{{"hgfast_check": 1, "loader": "dali", "report": {{}}, "bad": {{"a": [{number}, 2, "x"]}}, "decoded": {{}}}}'
    (tmp_path / "check.json").write_text(text)
    refused(lambda: read_result(tmp_path / "check.json"), "is no result of pipelines/check.py, or a broken one")


def test_headers_of_numpy_that_are_no_python(tmp_path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (3,"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(BROKEN):
        read_npy(tmp_path / "a.npy")


def test_a_part_of_a_png_that_claims_more_than_the_file(tmp_path: Path) -> None:
    """OpenCV took 4 GB for this one, and so did DALI, which falls back on it."""
    whole = bytearray(cv2.imencode(".png", np.zeros((48, 64, 3), np.uint8))[1].tobytes())
    struct.pack_into(">I", whole, 33, 0xFF00068E)
    (tmp_path / "a.png").write_bytes(whole)
    refused(lambda: read_image(tmp_path / "a.png"), r"a\.png is broken: a part of it claims 4278191758 bytes", 20)
    forget_peak()
    before = peak_megabytes()
    (outcome,) = dict(decode([str(tmp_path / "a.png")], "dali", 1)).values()
    assert str(outcome).startswith("is broken: a part of it claims")
    write_image(tmp_path / "good.png", np.full((50, 50, 3), 99, np.uint8))
    plan = Plan(two_pictures(tmp_path / "a.png", tmp_path / "good.png"), 32, 2, augment=AugmentConfig())
    for room in (0.0, 1.0):
        options = LoadingConfig(wait_minutes=0, preload_gb=room)
        (batch,) = DaliLoader(plan, CPU, 1, Preprocessing(), options=options).epoch(0)
        assert batch.index.tolist() == [1, 1]
    assert peak_megabytes() - before < 300


def test_squares_of_a_picture_are_not_vast() -> None:
    """A box that is far larger than the picture, which would be warped for ever: refused by `squares` since it was written."""
    image = np.zeros((20, 20, 3), np.uint8)
    network = build(PRESETS["tiny"], Meta(HAND21, Preprocessing(), 64, "logits", "dark", 0.0)).eval()
    refused(lambda: look(network, image, *squares(image, [(0, 0, 1e9, 1e9)], 1.0)), "times as large")
    assert ended(lambda: look(network, image, *squares(image, [(0, 0, 20, 20)], 1.0))) == "answered"
