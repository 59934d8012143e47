"""Artifacts in their runtimes, with networks so small that numpy gives the expected outputs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from hgfast.errors import HgfastError
from hgfast.runtime.backends import (
    RUNTIMES_BY_FORMAT,
    Artifact,
    DeviceOptions,
    check_images,
    ignore_torchscript_deprecation,
    make_run_fn,
    run_in_batches,
)
from hgfast.runtime.sidecar import BatchRange, Sidecar, TensorSpec, sidecar_path, write
from hgfast.skeletons import make_skeleton
from tests.hgfast.runtime.test_sidecar import make_sidecar

SIDE = 8
KEYPOINT = make_skeleton("point", ("middle",))
Images = NDArray[np.uint8]


def mean_sidecar(path: Path, kind: str = "onnx", batch: BatchRange = BatchRange(1, 2, 4), normalized: bool = False) -> Sidecar:  # noqa: B008
    """Return the sidecar of a network for `SIDE` pixels with keypoints and heatmaps."""
    count: Any = "batch" if batch.max > batch.min else batch.max
    images = TensorSpec("images", "uint8", (count, SIDE, SIDE, 3), "NHWC")
    ports = TensorSpec("keypoints", "float32", (count, 1, 3), "-"), TensorSpec("heatmaps", "float32", (count, 1, SIDE, SIDE), "-")
    if normalized:
        images = TensorSpec("images", "float32", (count, 3, SIDE, SIDE), "NCHW")
    flags: dict[str, Any] = {"input_size": SIDE, "stride": 1, "batch": batch, "normalized": normalized}
    return make_sidecar(path, KEYPOINT, export_format=kind, input=images, outputs=ports, **flags)


def expected_outputs(images: Images) -> dict[str, NDArray[np.floating]]:
    """Return the outputs of the network of `make_onnx` and `MeanModel`."""
    values = images.astype(float)
    return {"keypoints": values.mean((1, 2))[:, None], "heatmaps": values.mean(3)[:, None]}


def make_onnx(path: Path, batch: BatchRange = BatchRange(1, 2, 4)) -> Path:  # noqa: B008
    """Write a network that returns the mean color as keypoints and the gray image as heatmaps."""
    count: Any = "batch" if batch.max > batch.min else batch.max
    stored = [numpy_helper.from_array(np.array(axes, np.int64), name) for name, axes in (("hw", [1, 2]), ("c", [3]), ("k", [1]))]
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "hw"], ["means"], keepdims=0),
        helper.make_node("Unsqueeze", ["means", "k"], ["keypoints"]),
        helper.make_node("ReduceMean", ["floats", "c"], ["gray"], keepdims=0),
        helper.make_node("Unsqueeze", ["gray", "k"], ["heatmaps"]),
    ]
    ends = [
        helper.make_tensor_value_info("images", TensorProto.UINT8, [count, SIDE, SIDE, 3]),
        helper.make_tensor_value_info("keypoints", TensorProto.FLOAT, [count, 1, 3]),
        helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, [count, 1, SIDE, SIDE]),
    ]
    graph = helper.make_graph(nodes, "means", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    write(mean_sidecar(path, batch=batch), path)
    return path


class MeanModel(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        values = images.float()
        return values.mean((1, 2)).unsqueeze(1), values.mean(3).unsqueeze(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as ONNX and as TorchScript."""
    folder = tmp_path_factory.mktemp("means")
    make_onnx(folder / "net.onnx")
    with ignore_torchscript_deprecation():
        torch.jit.save(torch.jit.script(MeanModel().eval()), str(folder / "net.torchscript"))
    write(mean_sidecar(folder / "net.torchscript", "torchscript"), folder / "net.torchscript")
    return folder


def random_images(count: int) -> Images:
    return np.random.default_rng(count).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


ALL = [(f"net.{kind}", runtime) for kind in ("onnx", "torchscript") for runtime in RUNTIMES_BY_FORMAT[kind]]


@pytest.mark.parametrize(("file", "runtime"), ALL)
def test_answers(folder: Path, file: str, runtime: Any) -> None:
    artifact = Artifact(folder / file, runtime, DeviceOptions(1))
    assert artifact.runtime == runtime
    kept = []
    for number in (1, 3, 4):
        images = random_images(number)
        found = artifact(images)
        assert list(found) == ["keypoints", "heatmaps"]
        for name, wanted in expected_outputs(images).items():
            assert found[name].dtype == np.float32 and found[name].shape == wanted.shape
            assert np.abs(found[name] - wanted).max() < 1e-3
        kept.append((found, {name: value.copy() for name, value in found.items()}))
    for found, before in kept:  # later calls do not change earlier outputs
        assert all(np.array_equal(found[name], before[name]) for name in before)


@pytest.mark.parametrize(("file", "runtime"), ALL)
@pytest.mark.parametrize("count", [1, 4, 5, 11])
def test_any_number_of_images(folder: Path, file: str, runtime: Any, count: int) -> None:
    images = random_images(count)
    found = Artifact(folder / file, runtime, DeviceOptions(1)).all(images)
    for name, wanted in expected_outputs(images).items():
        assert found[name].shape == wanted.shape and np.abs(found[name] - wanted).max() < 1e-3


@pytest.mark.parametrize("runtime", RUNTIMES_BY_FORMAT["onnx"])
def test_fixed_batch_size(tmp_path: Path, runtime: Any) -> None:
    artifact = Artifact(make_onnx(tmp_path / "net.onnx", BatchRange(3, 3, 3)), runtime)
    images = random_images(7)
    found = artifact.all(images)
    assert np.abs(found["keypoints"] - expected_outputs(images)["keypoints"]).max() < 1e-3
    with pytest.raises(HgfastError, match="takes 3 to 3 images at once, not 2"):
        artifact(images[:2])


def test_last_batch_is_padded() -> None:
    seen = []

    def run(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        seen.append(images.ravel().tolist())
        return {"keypoints": images * 2}

    found = run_in_batches(run, BatchRange(2, 3, 4), np.arange(9))
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 8]] and found["keypoints"].tolist() == [2 * n for n in range(9)]


def test_the_first_runtime_is_taken(folder: Path) -> None:
    assert Artifact(folder / "net.onnx").runtime == "onnxruntime" and Artifact(folder / "net.torchscript").runtime == "torch"


def test_non_contiguous_views(folder: Path) -> None:
    """Such as OpenCV's BGR reversed."""
    images = random_images(2)[..., ::-1]
    assert not images.flags.c_contiguous
    for file, runtime in ALL:
        found = Artifact(folder / file, runtime, DeviceOptions(1))(images)
        assert np.abs(found["keypoints"] - expected_outputs(images)["keypoints"]).max() < 1e-3


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        (random_images(1)[0], r"takes images of 8 x 8 x 3 uint8 \(NHWC without N\), not 8 x 3 uint8"),
        (np.zeros((1, SIDE, SIDE, 4), np.uint8), "not 8 x 8 x 4 uint8"),
        (np.zeros((1, SIDE + 1, SIDE, 3), np.uint8), "not 9 x 8 x 3 uint8"),
        (np.zeros((1, 3, SIDE, SIDE), np.uint8), "not 3 x 8 x 8 uint8"),
        (np.zeros((1, SIDE, SIDE, 3), np.float32), "not 8 x 8 x 3 float32"),
        (np.zeros((1, SIDE, SIDE, 3), np.int8), "not 8 x 8 x 3 int8"),
        (random_images(5), "takes 1 to 4 images at once, not 5: give it fewer, or export it again with --batch 1:2:5"),
        (random_images(1)[:0], "takes 1 to 4 images at once, not 0"),
    ],
)
@pytest.mark.parametrize("file", ["net.onnx", "net.torchscript"])
def test_invalid_images(folder: Path, file: str, images: NDArray[Any], complaint: str) -> None:
    with pytest.raises(HgfastError, match=complaint):
        Artifact(folder / file, options=DeviceOptions(1))(images)


def test_normalized_input_is_float(folder: Path) -> None:
    known = mean_sidecar(folder / "net.onnx", normalized=True)
    check_images(np.zeros((1, 3, SIDE, SIDE), np.float32), known, folder)
    for wrong in (np.zeros((1, 3, SIDE, SIDE)), np.zeros((1, SIDE, SIDE, 3), np.float32), random_images(1)):
        with pytest.raises(HgfastError, match="takes images of 3 x 8 x 8 float32"):
            check_images(wrong, known, folder)


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_last_byte(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("damage", [truncate, flip_last_byte, lambda content: b"", lambda content: b"?" * 99])
@pytest.mark.parametrize(("file", "runtime"), ALL)
def test_damaged_files(folder: Path, tmp_path: Path, file: str, runtime: Any, damage: Callable[[bytes], bytes]) -> None:
    """The sidecar's checksum detects damage and, if it is corrected, the runtime does."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(HgfastError, match=rf"the sidecar .*{file}.json does not belong to .*{file} \(another sha256\)"):
        Artifact(path, runtime)
    if damage is flip_last_byte:
        return  # a runtime may not detect this
    write(mean_sidecar(path, path.suffix[1:]), path)
    with pytest.raises(HgfastError) as found:
        Artifact(path, runtime)
    assert f"{path} cannot be read by" in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize("place", ["initializer", "sparse initializer", "constant", "subgraph", "function"])
@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "link", "weights"])
@pytest.mark.parametrize("runtime", RUNTIMES_BY_FORMAT["onnx"])
def test_weights_in_another_file(tmp_path: Path, runtime: Any, location: str, place: str) -> None:
    (tmp_path / "weights").write_bytes(bytes(999))
    (tmp_path / "link").symlink_to("/etc/passwd")
    path = make_onnx(tmp_path / "net.onnx")
    model = onnx.load(path)
    tensor = onnx.TensorProto(dims=[8], data_type=TensorProto.FLOAT, name="more", data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    constant = onnx.NodeProto(op_type="Constant", output=["more"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    if place == "initializer":
        model.graph.initializer.append(tensor)
    elif place == "sparse initializer":
        model.graph.sparse_initializer.add(dims=[8]).values.CopyFrom(tensor)
    elif place == "constant":
        model.graph.node.append(constant)
    elif place == "subgraph":
        branch = onnx.AttributeProto(name="then_branch", type=onnx.AttributeProto.GRAPH)
        branch.g.node.append(constant)
        model.graph.node.add(op_type="If", input=["condition"], output=["chosen"]).attribute.append(branch)
    else:
        model.functions.add(name="made", domain="own").node.append(constant)
    path.write_bytes(model.SerializeToString())
    write(mean_sidecar(path), path)
    with pytest.raises(HgfastError) as found:
        Artifact(path, runtime)
    assert f"{path} cannot be read by" in str(found.value)
    assert "(it keeps weights in another file, which is not read): export it again" in str(found.value)


def test_missing_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(HgfastError, match="there is no file"):
        Artifact(tmp_path / "net.onnx")
    shutil.copy(folder / "net.onnx", tmp_path)
    with pytest.raises(HgfastError, match=r"has no sidecar net.onnx.json in its folder"):
        Artifact(tmp_path / "net.onnx")
    shutil.copy(sidecar_path(folder / "net.torchscript"), sidecar_path(tmp_path / "net.onnx"))
    with pytest.raises(HgfastError, match="does not belong to"):
        Artifact(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("file", "runtime", "complaint"),
    [
        ("net.onnx", "torch", "is onnx, which torch does not run: use onnxruntime or openvino"),
        ("net.torchscript", "openvino", "is torchscript, which openvino does not run: use torch"),
        ("net.onnx", "tensorrt", "is onnx, which tensorrt does not run"),
    ],
)
def test_runtimes_of_other_formats(folder: Path, file: str, runtime: Any, complaint: str) -> None:
    with pytest.raises(HgfastError, match=complaint):
        Artifact(folder / file, runtime)


@pytest.mark.parametrize(("file", "runtime"), ALL)
def test_missing_runtimes(folder: Path, monkeypatch: pytest.MonkeyPatch, file: str, runtime: Any) -> None:
    monkeypatch.setitem(sys.modules, runtime, None)
    with pytest.raises(
        HgfastError, match=f"{runtime} is needed to run this artifact and is not installed: pip install {runtime}"
    ):
        Artifact(folder / file, runtime)


@pytest.mark.parametrize("runtime", RUNTIMES_BY_FORMAT["onnx"])
def test_files_that_contradict_their_sidecar(tmp_path: Path, runtime: Any) -> None:
    path = make_onnx(tmp_path / "net.onnx")
    known = mean_sidecar(path)
    heatmaps = replace(known.outputs[1], shape=("batch", 1, SIDE // 2, SIDE // 2))
    write(replace(known, outputs=(known.outputs[0], heatmaps), stride=2), path)
    with pytest.raises(HgfastError, match=rf"heatmaps of shape \(2, 1, {SIDE}, {SIDE}\), which is not what its sidecar says"):
        Artifact(path, runtime)(random_images(2))
    model = onnx.load(path)
    del model.graph.output[0]
    onnx.save(model, path)
    write(mean_sidecar(path), path)
    with pytest.raises(HgfastError, match="gives no keypoints, which is not what its sidecar says"):
        Artifact(path, runtime)(random_images(2))


@pytest.mark.parametrize("runtime", RUNTIMES_BY_FORMAT["onnx"])
def test_files_that_fail_when_they_run(tmp_path: Path, runtime: Any) -> None:
    """A batch size that the sidecar allows and the graph does not."""
    path = make_onnx(tmp_path / "net.onnx", BatchRange(2, 2, 2))
    write(mean_sidecar(path, batch=BatchRange(1, 2, 4)), path)
    with pytest.raises(HgfastError, match=rf"net.onnx failed in {runtime} \(.*\): export it again"):
        Artifact(path, runtime)(random_images(3))


@pytest.mark.parametrize("runtime", RUNTIMES_BY_FORMAT["onnx"])
def test_bytes_run_as_files_do(folder: Path, runtime: Any) -> None:
    known, content, images = mean_sidecar(folder / "net.onnx"), (folder / "net.onnx").read_bytes(), random_images(2)
    found = make_run_fn(content, known, runtime, DeviceOptions(1))(images)
    assert np.abs(found["keypoints"] - expected_outputs(images)["keypoints"]).max() < 1e-3
    with pytest.raises(HgfastError, match="the ONNX cannot be read by"):
        make_run_fn(content[:50], known, runtime, DeviceOptions(1))
    with pytest.raises(ValueError, match="torch runs files"):
        make_run_fn(content, known, "torch")


@pytest.mark.parametrize("runtime", RUNTIMES_BY_FORMAT["onnx"])
def test_onnx_runs_without_torch(folder: Path, runtime: str) -> None:
    code = (
        "import sys, numpy, pathlib; from hgfast.runtime.backends import Artifact; "
        f"artifact = Artifact(pathlib.Path(sys.argv[1]), {runtime!r}); "
        f"assert artifact(numpy.full((2, {SIDE}, {SIDE}, 3), 7, 'uint8'))['keypoints'].tolist() == [[[7.0] * 3]] * 2; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(folder / "net.onnx")], check=True)


def test_sigint_works_after_openvino_is_freed(folder: Path) -> None:
    """OpenVINO replaces the stack of signal handlers, and with several cores frees it too early."""
    code = (
        "import gc, os, pathlib, signal, sys; from hgfast.runtime.backends import DeviceOptions, make_openvino_fn; "
        "signal.signal(signal.SIGUSR1, lambda *_: print('received')); "
        "path = pathlib.Path(sys.argv[1]); "
        "first, second = (make_openvino_fn(path, DeviceOptions(1)) for _ in range(2)); "
        "del first; gc.collect(); del second; gc.collect(); os.kill(os.getpid(), signal.SIGUSR1)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder / "net.onnx")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "received\n"), done.stderr
