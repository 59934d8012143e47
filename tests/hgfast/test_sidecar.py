"""Sidecars: what is written is what is read, and everything else is one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from hgfast.errors import HgfastError
from hgfast.sidecar import SCHEMA, Batch, Port, Sidecar, checksum, place, read, write
from hgfast.skeletons import BODY16, HAND21, Skeleton

Content = dict[str, Any]


def sidecar(path: Path, skeleton: Skeleton = BODY16, **changed: Any) -> Sidecar:
    joints = len(skeleton.joints)
    whole = Sidecar(
        artefact=path.name,
        sha256=checksum(path),
        kind="onnx",
        precision="fp32",
        skeleton=skeleton,
        input=Port("images", "uint8", ("batch", 64, 64, 3), "NHWC"),
        outputs=(Port("keypoints", "float32", ("batch", joints, 3), "image, joint, (x, y, score)"),),
        input_size=64,
        normalised=False,
        mean=(0.5, 0.4, 0.3),
        std=(0.25, 0.25, 0.25),
        batch=Batch(1, 8, 32),
        stride=4,
        maps="logits",
        decoder="dark",
        flip_test=False,
        pixel_offset=-0.5,
        shift=0.25,
        checkpoint="best.pt",
        checkpoint_sha256="0" * 64,
        versions={"python": "3.12"},
        revision="abc+",
        created="2026-01-01T00:00:00+00:00",
    )
    return replace(whole, **changed)


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    """A file with a sidecar."""
    path = tmp_path / "net.fp32.onnx"
    path.write_bytes(b"a network")
    write(sidecar(path), path)
    return path


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"skeleton": HAND21},
        {"kind": "torchscript", "precision": "fp16", "flip_test": True, "decoder": "quarter", "maps": "gaussian"},
        {
            "batch": Batch(4, 4, 4),
            "normalised": True,
            "input": Port("images", "float32", (4, 3, 64, 64), "NCHW"),
            "outputs": (Port("heatmaps", "float32", (4, 16, 16, 16), "-"), Port("keypoints", "float32", (4, 16, 3), "-")),
        },
        {"kind": "tensorrt", "onnx_sha256": "1" * 64, "builder": {"backend": "tensorrt", "version": "10.13", "warnings": ["a"]}},
        {"verification": {"rows": [{"runtime": "openvino", "batch": 3, "verdict": "ok"}], "accuracy": None}},
        {"precision": "int8", "verification": {"rows": [], "accuracy": {"metric": "pck@0.2", "checkpoint": 92.5}}},
    ],
)
def test_what_is_written_is_read(tmp_path: Path, changed: dict[str, Any]) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(bytes(range(256)) * 9000)  # more than is read at once
    written = sidecar(path, **changed)
    assert write(written, path) == place(path) == tmp_path / "net.onnx.json"
    assert read(path) == written
    assert isinstance(read(path).skeleton, Skeleton) and isinstance(read(path).input.shape, tuple)


def test_numbers_that_are_not_finite_become_null(artefact: Path) -> None:
    rows = [{"runtime": "openvino", "heatmaps": float("inf"), "verdict": "heatmaps differ"}]
    write(sidecar(artefact, verification={"rows": rows}), artefact)
    assert "Infinity" not in place(artefact).read_text()
    verification = read(artefact).verification
    assert verification is not None and verification["rows"][0]["heatmaps"] is None


def test_the_schema_knows_every_field() -> None:
    schema = json.loads(SCHEMA.read_text())
    names = {field.name for field in fields(Sidecar)}
    assert set(schema["properties"]) == set(schema["required"]) == names and schema["additionalProperties"] is False


def test_metadata_holds_all_but_checksums(artefact: Path) -> None:
    found = read(artefact).metadata
    left_out = {"artefact", "sha256", "onnx_sha256", "builder", "verification"}
    assert set(found) == {f"hgfast.{field.name}" for field in fields(Sidecar) if field.name not in left_out}
    assert all(isinstance(value, str) for value in found.values())
    assert found["hgfast.decoder"] == "dark" and json.loads(found["hgfast.shift"]) == 0.25
    assert Skeleton.from_plain(json.loads(found["hgfast.skeleton"])) == BODY16
    assert json.loads(found["hgfast.batch"]) == {"min": 1, "opt": 8, "max": 32}


def put(name: str, value: Any) -> Callable[[Content], object]:
    """Set a key, `a.b` being b within a."""
    *path, last = name.split(".")

    def change(content: Content) -> None:
        inner: Any = content
        for part in path:
            inner = inner[int(part) if part.isdigit() else part]
        inner[int(last) if last.isdigit() else last] = value

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (put("colour", 1), "'colour' was unexpected"),
        (lambda content: content.pop("shift"), "'shift' is a required property"),
        (lambda content: content.pop("format"), "'format' is a required property"),
        (lambda content: content["batch"].pop("opt"), "batch: 'opt' is a required property"),
        (put("input_size", "64"), "input_size: '64' is not of type 'integer'"),
        (put("input_size", 64.5), "input_size: 64.5 is not of type 'integer'"),
        (put("input_size", 64.0), "input_size: 64.0 is not of type 'integer'"),
        (put("input_size", 10**6), "input_size: 1000000 is greater than the maximum of 8192"),
        (put("batch.max", 10**6), "batch.max: 1000000 is greater than the maximum of 4096"),
        (put("batch.max", 1e308), "batch.max: 1e+308 is not of type 'integer'"),
        (put("skeleton.edges.0.0", 1e308), "skeleton.edges.0.0: 1e+308 is not of type 'integer'"),
        (put("normalised", 0), "normalised: 0 is not of type 'boolean'"),
        (put("mean", [0.5, 0.5]), "mean: [0.5, 0.5] is too short"),
        (put("std", [1, 0, 1]), "std.1: 0 is less than or equal to the minimum of 0"),
        (put("kind", "tflite"), "kind: 'tflite' is not one of"),
        (put("precision", "fp8"), "precision: 'fp8' is not one of"),
        (put("decoder", "soft"), "decoder: 'soft' is not one of"),
        (put("maps", None), "maps: None is not one of"),
        (put("batch.max", 0), "batch.max: 0 is less than the minimum of 1"),
        (put("batch.most", 9), "batch: Additional properties are not allowed ('most' was unexpected)"),
        (put("input.dtype", "float64"), "input.dtype: 'float64' is not one of"),
        (put("input.shape", ["n", 64, 64, 3]), "input.shape.0: 'n' is not valid"),
        (put("outputs", []), "outputs: [] should be non-empty"),
        (put("outputs.0.axes", 3), "outputs.0.axes: 3 is not of type 'string'"),
        (put("skeleton.joints", ["a", "a"]), "skeleton.joints: ['a', 'a'] has non-unique elements"),
        (put("skeleton.swap", [0] * 16), "skeleton body16: swap must exchange joints in pairs"),
        (put("skeleton.colours", []), "skeleton body16: every edge must have a colour"),
        (put("sha256", "abc"), "sha256: 'abc' does not match"),
        (put("artefact", "a/b.onnx"), "artefact: 'a/b.onnx' does not match"),
        (put("builder", {"backend": "tensorrt"}), "builder: 'version' is a required property"),
        (put("builder", {"backend": "trtexec", "version": "1"}), "builder.backend: 'trtexec' is not one of"),
        (put("verification", {}), "verification: 'rows' is a required property"),
        (put("format", True), "format: 1 was expected"),
        (put("batch.opt", 33), "its batch 1:33:32 does not rise"),
        (
            put("batch", {"min": 4, "opt": 4, "max": 4}),
            "its input ('batch', 64, 64, 3) uint8 is not what its other fields make it",
        ),
        (put("input_size", 128), "its input ('batch', 64, 64, 3) uint8 is not what its other fields make it"),
        (put("normalised", True), "its input ('batch', 64, 64, 3) uint8 is not what its other fields make it"),
        (put("outputs.0.shape", ["batch", 21, 3]), "its outputs are not what its other fields make them"),
        (put("outputs.0.name", "points"), "its outputs are not what its other fields make them"),
    ],
)
def test_what_is_not_of_the_schema_is_refused(artefact: Path, change: Callable[[Content], object], complaint: str) -> None:
    content = json.loads(place(artefact).read_text())
    change(content)
    place(artefact).write_text(json.dumps(content))
    with pytest.raises(HgfastError) as found:
        read(artefact)
    assert complaint in str(found.value) and "\n" not in str(found.value)
    assert f"the sidecar {place(artefact)} is not one of hgfast's (" in str(found.value) and "export again" in str(found.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "cannot be read"),
        (b'{"format": 1', "cannot be read"),
        (b"\xff\xfe{}", "cannot be read"),
        (b"[]", "is not one of hgfast's ([] is not of type 'object')"),
        (b"null", "is not one of hgfast's (None is not of type 'object')"),
        (b"{}", "is not one of hgfast's ('format' is a required property)"),
        (b'{"format": 2}', "is of format 2, this hgfast reads 1: export again"),
        (b'{"format": "1"}', "is of format 1, this hgfast reads 1: export again"),
    ],
)
def test_what_is_no_sidecar_is_refused(artefact: Path, content: bytes, complaint: str) -> None:
    place(artefact).write_bytes(content)
    with pytest.raises(HgfastError) as found:
        read(artefact)
    assert complaint in str(found.value) and str(place(artefact)) in str(found.value) and "\n" not in str(found.value)


def test_a_sidecar_of_another_file_is_found_out(artefact: Path) -> None:
    artefact.write_bytes(b"a networl")
    with pytest.raises(HgfastError, match=r"net.fp32.onnx.json does not belong to .*net.fp32.onnx \(another sha256\): copy both"):
        read(artefact)


def test_a_file_may_be_renamed_with_its_sidecar(artefact: Path) -> None:
    before = read(artefact)
    place(artefact).rename(place(artefact.with_name("a.onnx")))
    assert read(artefact.rename(artefact.with_name("a.onnx"))) == before


def test_what_is_missing_is_said(artefact: Path) -> None:
    with pytest.raises(HgfastError, match=r"there is no file .*no\.onnx: make it with export/to_onnx\.py"):
        read(artefact.with_name("no.onnx"))
    place(artefact).unlink()
    with pytest.raises(HgfastError, match=r"net.fp32.onnx has no sidecar net.fp32.onnx.json beside it, .*: copy both"):
        read(artefact)


def test_a_bad_sidecar_is_not_written(artefact: Path) -> None:
    before = place(artefact).read_bytes()
    for changed in ({"artefact": "folder/net.onnx"}, {"mean": (0.5, 0.5)}, {"shift": float("nan")}, {"sha256": ""}):
        with pytest.raises(ValueError, match="is not as its schema wants it"):
            write(replace(sidecar(artefact), **changed), artefact)
    assert place(artefact).read_bytes() == before
    (artefact.parent / "file").touch()
    with pytest.raises(HgfastError, match=r"cannot write .*choose another place with --out"):
        write(sidecar(artefact), artefact.parent / "file" / "net.onnx")


@pytest.mark.parametrize(("batch", "words"), [(Batch(1, 8, 32), "1:8:32"), (Batch(4, 4, 4), "4"), (Batch(1, 1, 1), "1")])
def test_batch_in_words(batch: Batch, words: str) -> None:
    assert batch.words == words


def test_plain_types_only(artefact: Path) -> None:
    assert json.loads(place(artefact).read_text()) == json.loads(json.dumps(asdict(read(artefact))))


def test_applications_need_no_torch() -> None:
    code = (
        "import sys, hgfast.sidecar, hgfast.runtimes; "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'jsonschema', 'tensorrt', 'cv2'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
