"""Sidecars: reading returns what was written, and errors are one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from hgfast.errors import HgfastError
from hgfast.runtime.sidecar import (
    SCHEMA_PATH,
    STORED_NAMES,
    BatchRange,
    Sidecar,
    TensorSpec,
    read_sidecar,
    sha256_of,
    sidecar_path,
    write,
)
from hgfast.skeletons import BODY16, HAND21, Skeleton

Content = dict[str, Any]


def make_sidecar(path: Path, skeleton: Skeleton = BODY16, **changed: Any) -> Sidecar:
    joints = len(skeleton.joints)
    whole = Sidecar(
        artifact=path.name,
        sha256=sha256_of(path),
        export_format="onnx",
        precision="fp32",
        skeleton=skeleton,
        input=TensorSpec("images", "uint8", ("batch", 64, 64, 3), "NHWC"),
        outputs=(TensorSpec("keypoints", "float32", ("batch", joints, 3), "image, joint, (x, y, score)"),),
        input_size=64,
        normalized=False,
        mean=(0.5, 0.4, 0.3),
        std=(0.25, 0.25, 0.25),
        batch=BatchRange(1, 8, 32),
        stride=4,
        heatmap_kind="logits",
        decoder="dark",
        flip_test=False,
        pixel_offset=-0.5,
        result_offset=0.25,
        checkpoint="best.pt",
        checkpoint_sha256="0" * 64,
        versions={"python": "3.12"},
        revision="abc+",
        created="2026-01-01T00:00:00+00:00",
    )
    return replace(whole, **changed)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A file with its sidecar."""
    path = tmp_path / "net.fp32.onnx"
    path.write_bytes(b"a network")
    write(make_sidecar(path), path)
    return path


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"skeleton": HAND21},
        {
            "export_format": "torchscript",
            "precision": "fp16",
            "flip_test": True,
            "decoder": "quarter",
            "heatmap_kind": "gaussian",
        },
        {
            "batch": BatchRange(4, 4, 4),
            "normalized": True,
            "input": TensorSpec("images", "float32", (4, 3, 64, 64), "NCHW"),
            "outputs": (
                TensorSpec("heatmaps", "float32", (4, 16, 16, 16), "-"),
                TensorSpec("keypoints", "float32", (4, 16, 3), "-"),
            ),
        },
        {
            "export_format": "tensorrt",
            "onnx_sha256": "1" * 64,
            "builder": {"backend": "tensorrt", "version": "10.13", "warnings": ["a"]},
        },
        {"verification": {"rows": [{"runtime": "openvino", "batch": 3, "verdict": "ok"}], "accuracy": None}},
        {"precision": "int8", "verification": {"rows": [], "accuracy": {"metric": "pck@0.2", "checkpoint": 92.5}}},
    ],
)
def test_round_trip(tmp_path: Path, changed: dict[str, Any]) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(bytes(range(256)) * 9000)  # more than one block
    written = make_sidecar(path, **changed)
    assert write(written, path) == sidecar_path(path) == tmp_path / "net.onnx.json"
    assert read_sidecar(path) == written
    assert isinstance(read_sidecar(path).skeleton, Skeleton) and isinstance(read_sidecar(path).input.shape, tuple)


def test_numbers_that_are_not_finite_become_null(artifact: Path) -> None:
    rows = [{"runtime": "openvino", "heatmaps": float("inf"), "verdict": "heatmaps differ"}]
    write(make_sidecar(artifact, verification={"rows": rows}), artifact)
    assert "Infinity" not in sidecar_path(artifact).read_text()
    verification = read_sidecar(artifact).verification
    assert verification is not None and verification["rows"][0]["heatmaps"] is None


def test_the_schema_knows_every_field() -> None:
    schema = json.loads(SCHEMA_PATH.read_text())
    names = {STORED_NAMES.get(field.name, field.name) for field in fields(Sidecar)}
    assert set(schema["properties"]) == set(schema["required"]) == names and schema["additionalProperties"] is False


def test_metadata_holds_all_but_checksums(artifact: Path) -> None:
    found = read_sidecar(artifact).metadata
    left_out = {"artefact", "sha256", "onnx_sha256", "builder", "verification"}
    names = {STORED_NAMES.get(field.name, field.name) for field in fields(Sidecar)}
    assert set(found) == {f"hgfast.{name}" for name in names - left_out}
    assert all(isinstance(value, str) for value in found.values())
    assert found["hgfast.decoder"] == "dark" and json.loads(found["hgfast.shift"]) == 0.25
    assert Skeleton.from_dict(json.loads(found["hgfast.skeleton"])) == BODY16
    assert json.loads(found["hgfast.batch"]) == {"min": 1, "opt": 8, "max": 32}


def set_field(name: str, value: Any) -> Callable[[Content], object]:
    """Return a function that sets a key; `a.b` is the key b in a."""
    *path, last = name.split(".")

    def mutate(content: Content) -> None:
        inner: Any = content
        for part in path:
            inner = inner[int(part) if part.isdigit() else part]
        inner[int(last) if last.isdigit() else last] = value

    return mutate


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (set_field("color", 1), "'color' was unexpected"),
        (lambda content: content.pop("shift"), "'shift' is a required property"),
        (lambda content: content.pop("format"), "'format' is a required property"),
        (lambda content: content["batch"].pop("opt"), "batch: 'opt' is a required property"),
        (set_field("input_size", "64"), "input_size: '64' is not of type 'integer'"),
        (set_field("input_size", 64.5), "input_size: 64.5 is not of type 'integer'"),
        (set_field("input_size", 64.0), "input_size: 64.0 is not of type 'integer'"),
        (set_field("input_size", 10**6), "input_size: 1000000 is greater than the maximum of 8192"),
        (set_field("batch.max", 10**6), "batch.max: 1000000 is greater than the maximum of 4096"),
        (set_field("batch.max", 1e308), "batch.max: 1e+308 is not of type 'integer'"),
        (set_field("skeleton.edges.0.0", 1e308), "skeleton.edges.0.0: 1e+308 is not of type 'integer'"),
        (set_field("normalised", 0), "normalised: 0 is not of type 'boolean'"),
        (set_field("mean", [0.5, 0.5]), "mean: [0.5, 0.5] is too short"),
        (set_field("std", [1, 0, 1]), "std.1: 0 is less than or equal to the minimum of 0"),
        (set_field("kind", "tflite"), "kind: 'tflite' is not one of"),
        (set_field("precision", "fp8"), "precision: 'fp8' is not one of"),
        (set_field("decoder", "soft"), "decoder: 'soft' is not one of"),
        (set_field("maps", None), "maps: None is not one of"),
        (set_field("batch.max", 0), "batch.max: 0 is less than the minimum of 1"),
        (set_field("batch.most", 9), "batch: Additional properties are not allowed ('most' was unexpected)"),
        (set_field("input.dtype", "float64"), "input.dtype: 'float64' is not one of"),
        (set_field("input.shape", ["n", 64, 64, 3]), "input.shape.0: 'n' is not valid"),
        (set_field("outputs", []), "outputs: [] should be non-empty"),
        (set_field("outputs.0.axes", 3), "outputs.0.axes: 3 is not of type 'string'"),
        (set_field("skeleton.joints", ["a", "a"]), "skeleton.joints: ['a', 'a'] has non-unique elements"),
        (set_field("skeleton.swap", [0] * 16), "skeleton body16: swap must exchange joints in pairs"),
        (set_field("skeleton.colours", []), "skeleton body16: every edge must have a color"),
        (set_field("sha256", "abc"), "sha256: 'abc' does not match"),
        (set_field("artefact", "a/b.onnx"), "artefact: 'a/b.onnx' does not match"),
        (set_field("builder", {"backend": "tensorrt"}), "builder: 'version' is a required property"),
        (set_field("builder", {"backend": "trtexec", "version": "1"}), "builder.backend: 'trtexec' is not one of"),
        (set_field("verification", {}), "verification: 'rows' is a required property"),
        (set_field("format", True), "format: 1 was expected"),
        (set_field("batch.opt", 33), "its batch 1:33:32 is not ascending"),
        (
            set_field("batch", {"min": 4, "opt": 4, "max": 4}),
            "its input ('batch', 64, 64, 3) uint8 contradicts its other fields",
        ),
        (set_field("input_size", 128), "its input ('batch', 64, 64, 3) uint8 contradicts its other fields"),
        (set_field("normalised", True), "its input ('batch', 64, 64, 3) uint8 contradicts its other fields"),
        (set_field("outputs.0.shape", ["batch", 21, 3]), "its outputs contradict its other fields"),
        (set_field("outputs.0.name", "points"), "its outputs contradict its other fields"),
    ],
)
def test_schema_violations(artifact: Path, change: Callable[[Content], object], complaint: str) -> None:
    content = json.loads(sidecar_path(artifact).read_text())
    change(content)
    sidecar_path(artifact).write_text(json.dumps(content))
    with pytest.raises(HgfastError) as found:
        read_sidecar(artifact)
    assert complaint in str(found.value) and "\n" not in str(found.value)
    assert f"the sidecar {sidecar_path(artifact)} is invalid (" in str(found.value) and "export again" in str(found.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "cannot be read"),
        (b'{"format": 1', "cannot be read"),
        (b"\xff\xfe{}", "cannot be read"),
        (b"[]", "is invalid ([] is not of type 'object')"),
        (b"null", "is invalid (None is not of type 'object')"),
        (b"{}", "is invalid ('format' is a required property)"),
        (b'{"format": 2}', "has format 2, this hgfast reads 1: export again"),
        (b'{"format": "1"}', "has format 1, this hgfast reads 1: export again"),
    ],
)
def test_invalid_files(artifact: Path, content: bytes, complaint: str) -> None:
    sidecar_path(artifact).write_bytes(content)
    with pytest.raises(HgfastError) as found:
        read_sidecar(artifact)
    assert complaint in str(found.value) and str(sidecar_path(artifact)) in str(found.value) and "\n" not in str(found.value)


def test_checksum_mismatch(artifact: Path) -> None:
    artifact.write_bytes(b"a networl")
    with pytest.raises(HgfastError, match=r"net.fp32.onnx.json does not belong to .*net.fp32.onnx \(another sha256\): copy both"):
        read_sidecar(artifact)


def test_a_file_may_be_renamed_with_its_sidecar(artifact: Path) -> None:
    before = read_sidecar(artifact)
    sidecar_path(artifact).rename(sidecar_path(artifact.with_name("a.onnx")))
    assert read_sidecar(artifact.rename(artifact.with_name("a.onnx"))) == before


def test_missing_files(artifact: Path) -> None:
    with pytest.raises(HgfastError, match=r"there is no file .*no\.onnx: create it with hgfast export onnx"):
        read_sidecar(artifact.with_name("no.onnx"))
    sidecar_path(artifact).unlink()
    with pytest.raises(
        HgfastError, match=r"net.fp32.onnx has no sidecar net.fp32.onnx.json in its folder, which is required: copy both"
    ):
        read_sidecar(artifact)


def test_a_bad_sidecar_is_not_written(artifact: Path) -> None:
    before = sidecar_path(artifact).read_bytes()
    for changed in ({"artifact": "folder/net.onnx"}, {"mean": (0.5, 0.5)}, {"result_offset": float("nan")}, {"sha256": ""}):
        with pytest.raises(ValueError, match="does not match the schema"):
            write(replace(make_sidecar(artifact), **changed), artifact)
    assert sidecar_path(artifact).read_bytes() == before
    (artifact.parent / "file").touch()
    with pytest.raises(HgfastError, match=r"cannot write .*choose another place with --out"):
        write(make_sidecar(artifact), artifact.parent / "file" / "net.onnx")


@pytest.mark.parametrize(
    ("batch", "words"), [(BatchRange(1, 8, 32), "1:8:32"), (BatchRange(4, 4, 4), "4"), (BatchRange(1, 1, 1), "1")]
)
def test_batch_range_as_flag(batch: BatchRange, words: str) -> None:
    assert batch.as_flag == words


def test_plain_types_only(artifact: Path) -> None:
    assert json.loads(sidecar_path(artifact).read_text()) == json.loads(json.dumps(read_sidecar(artifact).to_dict()))


def test_applications_need_no_torch() -> None:
    code = (
        "import sys, hgfast.runtime.sidecar, hgfast.runtime.backends; "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'jsonschema', 'tensorrt', 'cv2'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
