"""Building engines and what is known of them without a GPU, with TensorRT-RTX; running them as far as that goes."""

from __future__ import annotations

import ctypes
import gc
import importlib
import itertools
import json
import logging
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from enum import IntEnum
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import hgfast.runtime.cuda_memory
import hgfast.runtime.tensorrt_engine
from hgfast.architectures import PRESETS
from hgfast.checkpoints import build_model as build_network
from hgfast.errors import HgfastError
from hgfast.export.exporter import torch_trt, trt_builder
from hgfast.export.exporter.export_module import ExportModule, ExportSpec
from hgfast.export.exporter.precision_check import ConvWeights, check_engine_precision, onnx_conv_weights
from hgfast.export.exporter.trt_builder import BuilderNotFound, BuildOptions, TrtBackend, build, check_plan, find_backend
from hgfast.model import Meta
from hgfast.normalization import Normalization
from hgfast.runtime.cuda_memory import (
    CudaDevice,
    CudaStream,
    DeviceBuffer,
    GpuNotFound,
    PinnedBuffer,
    copy_to_device,
    copy_to_host,
)
from hgfast.runtime.sidecar import BatchRange, Precision, Sidecar, TensorSpec
from hgfast.runtime.tensorrt_engine import Engine, plan_version
from hgfast.skeletons import BODY16
from tests.conftest import ROOT

SIDE = PRESETS["tiny"].input_size
FREE, ONE = BatchRange(1, 2, 4), BatchRange(1, 1, 1)
OPTIONS = BuildOptions()


def deployed(preset: str, half: bool) -> ExportModule:
    torch.manual_seed(0)
    meta = Meta(BODY16, Normalization(), PRESETS[preset].input_size, "gaussian", "argmax", 0.0)
    return ExportModule(build_network(PRESETS[preset], meta).eval(), ExportSpec(fp16=half))


def export(preset: str, half: bool, path: Path) -> Path:
    network = deployed(preset, half)
    size = network.meta.input_size
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\).*", FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\..*|onnxscript\..*|onnx_ir\..*|onnx\..*")
        program = torch.onnx.export(
            network,
            (torch.zeros((2, size, size, 3), dtype=torch.uint8),),
            dynamo=True,
            input_names=["images"],
            output_names=["keypoints"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    program.save(path)
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="session")
def fp32(folder: Path) -> Path:
    return export("tiny", False, folder / "fp32.onnx")


@pytest.fixture(scope="session")
def fp16(folder: Path) -> Path:
    return export("tiny", True, folder / "fp16.onnx")


@pytest.fixture(scope="session")
def static(fp32: Path) -> Path:
    """For one image at once."""
    model = onnx.load(fp32)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    path = fp32.with_name("static.onnx")
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def rtx() -> TrtBackend:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed here")
    return find_backend("tensorrt_rtx", gpu=False)


@pytest.fixture(scope="session")
def plan(fp32: Path, rtx: TrtBackend) -> bytes:
    return build(fp32, FREE, rtx, OPTIONS).plan


def write_onnx(path: Path, nodes: list[Any], kind: int, shape: list[Any], stored: tuple[Any, ...] = ()) -> Path:
    """An ONNX file of some nodes, from x to y."""
    ends = [helper.make_tensor_value_info(name, kind, shape) for name in ("x", "y")]
    ends[1].type.tensor_type.ClearField("shape")
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], list(stored))
    sets = [helper.make_opsetid("", 20), helper.make_opsetid("strange", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=sets, ir_version=10).SerializeToString())
    return path


@pytest.mark.parametrize("name, batch", [("fp32", FREE), ("fp16", FREE), ("static", ONE), ("fp32", BatchRange(3, 3, 3))])
def test_build(name: str, batch: BatchRange, rtx: TrtBackend, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(name)
    built = build(path, batch, rtx, OPTIONS)
    check_plan(built.plan, rtx)
    assert built.library == "tensorrt_rtx" and built.layer_info is None and not built.warnings
    assert plan_version(built.plan) == tuple(map(int, rtx.version.split(".")))
    assert built.build_s > 0 and built.parse_s > 0
    assert built.builder_info["version"] == rtx.version and "8.6" in built.builder_info["hardware"]
    json.dumps(built.builder_info)
    precision: Precision = "fp16" if name == "fp16" else "fp32"
    assert onnx_conv_weights(path).precision == precision
    assert precision in check_engine_precision(path, len(built.plan), precision)
    other: Precision = "fp32" if name == "fp16" else "fp16"
    with pytest.raises(HgfastError, match=f"{other} was requested, but the convolutions of .* are {precision}"):
        check_engine_precision(path, len(built.plan), other)


@pytest.mark.slow
def test_fp16_halves_a_plan(folder: Path, rtx: TrtBackend) -> None:
    sizes = {}
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    for precision in precisions:
        path = export("hg1", precision == "fp16", folder / f"hg1-{precision}.onnx")
        sizes[precision] = len(build(path, FREE, rtx, OPTIONS).plan)
        assert "of its weights in fp32" in check_engine_precision(path, sizes[precision], precision) or precision == "fp32"
    assert 0.45 < sizes["fp16"] / sizes["fp32"] < 0.6
    with pytest.raises(HgfastError, match="so it is fp32"):
        check_engine_precision(path, sizes["fp32"], "fp16")


def test_options(static: Path, rtx: TrtBackend) -> None:
    options = BuildOptions(hardware_compatible=True, workspace_gb=1, optimization_level=2, compute_capabilities=("SM75", "SM120"))
    about = build(static, ONE, rtx, options).builder_info
    assert about["hardware"] == "compute capability 7.5, 12.0"
    assert about["optimization_level"] == 2 and about["workspace_gb"] == 1 and about["hardware_compatible"]


@pytest.mark.parametrize(
    "options, complaint",
    [
        (BuildOptions(version_compatible=True), "TensorRT-RTX cannot build version-compatible engines"),
        (BuildOptions(timing_cache=Path("times")), "TensorRT-RTX has no timing cache"),
        (BuildOptions(workspace_gb=0), "the workspace is 0 GB, must be above 0"),
        (BuildOptions(optimization_level=6), "the optimization level is 6, must be 0 to 5"),
        (BuildOptions(compute_capabilities=("SM90",)), "cannot build for 'SM90': choose from SM75, SM80, SM86"),
    ],
)
def test_bad_options(static: Path, rtx: TrtBackend, options: BuildOptions, complaint: str) -> None:
    with pytest.raises(HgfastError, match=complaint):
        build(static, ONE, rtx, options)


def test_options_of_others() -> None:
    with pytest.raises(HgfastError, match="tensorrt builds for the GPU of the machine, not for SM86"):
        BuildOptions(compute_capabilities=("SM86",)).check("tensorrt")
    with pytest.raises(HgfastError, match="do not run on their own"):
        BuildOptions(version_compatible=True).check("torch_tensorrt")
    BuildOptions(Path("times"), True, True, 1.5, 5).check("tensorrt")


def test_batch(static: Path, fp32: Path, rtx: TrtBackend) -> None:
    with pytest.raises(HgfastError, match="takes 1 images at once, not 1:2:4: export it with a free batch size"):
        build(static, FREE, rtx, OPTIONS)
    with pytest.raises(HgfastError, match="the batch 2:1:4 is not ascending from at least 1"):
        build(fp32, BatchRange(2, 1, 4), rtx, OPTIONS)


def test_no_profile(fp32: Path, rtx: TrtBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_builder, "_set_profile", lambda *_: None)
    with pytest.raises(HgfastError, match=r"cannot build .*fp32.onnx \(.*no optimization profile has been defined"):
        build(fp32, FREE, rtx, OPTIONS)


def test_refused_profile(fp32: Path, rtx: TrtBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_builder, "check_batch_range", lambda *_: None)
    with pytest.raises(HgfastError, match=r"cannot be built for a batch of .* \(.*MIN<=OPT<=MAX"):
        build(fp32, BatchRange(3, 2, 4), rtx, OPTIONS)


def test_broken_onnx(tmp_path: Path, fp32: Path, rtx: TrtBackend) -> None:
    cut, empty = tmp_path / "cut.onnx", tmp_path / "empty.onnx"
    cut.write_bytes(fp32.read_bytes()[:-1000])
    empty.touch()
    cases = [(cut, "MODEL_DESERIALIZE_FAILED: .*Failed to parse the ONNX model"), (empty, "has no network")]
    cases += [(tmp_path / "none.onnx", "cannot be read .No such file"), (tmp_path, "cannot be read .Is a directory")]
    for path, complaint in cases:
        with pytest.raises(HgfastError, match=complaint) as caught:
            build(path, FREE, rtx, OPTIONS)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    for path, complaint in ((cut, "cannot be read as ONNX"), (tmp_path / "none.onnx", "No such file"), (empty, "no convolution")):
        with pytest.raises(HgfastError, match=complaint):
            onnx_conv_weights(path)


def test_unsupported_onnx(tmp_path: Path, rtx: TrtBackend) -> None:
    turn = helper.make_node("Transpose", ["x"], ["y"], name="turn", perm=[0, 3, 1, 2])
    path = write_onnx(tmp_path / "turn.onnx", [turn], TensorProto.UINT8, [1, 4, 4, 3])
    with pytest.raises(HgfastError, match=r"INVALID_NODE at node turn \(Transpose\): .*first input has type UInt8"):
        build(path, ONE, rtx, OPTIONS)
    odd = helper.make_node("Mystery", ["x"], ["y"], name="odd", domain="strange")
    path = write_onnx(tmp_path / "odd.onnx", [odd], TensorProto.FLOAT, [1, 4])
    with pytest.raises(HgfastError, match=r"at node odd \(Mystery\): .*Plugin not found"):
        build(path, ONE, rtx, OPTIONS)
    relu = helper.make_node("Relu", ["x"], ["y"])
    path = write_onnx(tmp_path / "free.onnx", [relu], TensorProto.FLOAT, ["batch", "side"])
    with pytest.raises(HgfastError, match=r"the input x .* has more free dimensions than the batch size"):
        build(path, FREE, rtx, OPTIONS)


def weights(name: str, kind: int, number: int = 4) -> Any:
    """Weights of a convolution, all zero."""
    size = 4 if kind == TensorProto.FLOAT else 2 if kind == TensorProto.FLOAT16 else 1
    return helper.make_tensor(name, kind, [1, number, 1, 1], bytes(number * size), raw=True)


def test_precision_of_onnx(tmp_path: Path) -> None:
    node = helper.make_node
    conv, single, half = node("Conv", ["x", "w"], ["y"]), TensorProto.FLOAT, TensorProto.FLOAT16
    scale, point = helper.make_tensor("s", single, [], [1.0]), helper.make_tensor("z", TensorProto.INT8, [], [0])
    eighth = helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, [], bytes(1), raw=True)

    def precision(nodes: list[Any], *stored: Any) -> str:
        return onnx_conv_weights(write_onnx(tmp_path / "one.onnx", nodes, single, [1, 4, 1, 1], stored)).precision

    assert precision([conv], weights("w", single)) == "fp32"
    assert precision([conv], weights("w", half)) == "fp16"
    assert precision([node("Cast", ["v"], ["w"], to=half), conv], weights("v", single)) == "fp16"
    assert precision([node("Constant", [], ["w"], value=weights("", half)), conv]) == "fp16"
    restore = node("DequantizeLinear", ["q", "s", "z"], ["w"])
    assert precision([restore, conv], weights("q", TensorProto.INT8), scale, point) == "int8"
    both = [node("QuantizeLinear", ["v", "s", "z"], ["q"]), restore, conv]
    assert precision(both, weights("v", single), scale, point) == "int8"
    with pytest.raises(HgfastError, match="computes in float8e4m3fn, not in fp32, fp16 or int8"):
        precision(both, weights("v", single), scale, eighth)
    two = [node("Conv", ["x", "v"], ["m"]), node("Conv", ["m", "w"], ["y"])]
    assert precision(two, weights("v", single, 8), weights("w", half)) == "fp32"
    assert precision(two, weights("v", single), weights("w", half, 8)) == "fp16"
    with pytest.raises(HgfastError, match="has no convolution"):
        precision([node("Relu", ["x"], ["y"])])
    with pytest.raises(HgfastError, match="are not stored in it"):
        precision([node("Conv", ["x", "x"], ["y"])])


def layers(*kinds: str) -> str:
    """As an inspector tells of convolutions, in several of its ways, and of other layers."""
    found: list[Any] = ["a name alone", {"Name": "turn", "LayerType": "Shuffle", "Weights": {"Type": "Float"}}]
    for index, kind in enumerate(kinds):
        ports = [{"Name": "x", "Format/Datatype": f"Channel major {kind} format where channel % 8 == 0"}]
        if index % 2:
            found.append({"LayerType": "CaskConvolution", "Inputs": ports, "Weights": {"Type": "Half", "Count": 9}})
            found[-1]["Weights"]["Type"] = {"FP16": "Half", "FP32": "Float", "Int8": "Int8"}[kind]
        else:
            found.append({"LayerType": "gemm", "ParameterType": "Convolution", "Inputs": ports, "Weights": {"Type": "N/A"}})
    return json.dumps({"Layers": found})


def test_prove_precision() -> None:
    half, large = ConvWeights("fp16", 1_000_000), ConvWeights("fp16", 4_000_000)
    told = check_engine_precision(half, 10**7, "fp16", layers(*["FP16"] * 19, "FP32"))
    assert "19 of the engine's 20 convolutions are fp16" in told
    with pytest.raises(HgfastError, match="convolutions are 2 fp32, 1 fp16"):
        check_engine_precision(half, 10**6, "fp16", layers("FP32", "FP16", "FP32"))
    with pytest.raises(HgfastError, match="convolutions are 2 fp16"):
        check_engine_precision(ConvWeights("fp32", 9), 10**6, "fp32", layers("FP16", "FP16"))
    assert "2 of" in check_engine_precision(ConvWeights("int8", 9), 9, "int8", layers("Int8", "Int8"))
    with pytest.raises(HgfastError, match="returned invalid JSON"):
        check_engine_precision(half, 9, "fp16", "no JSON")
    assert "too small" in check_engine_precision(half, 10**7, "fp16")
    assert "51% of its weights in fp32" in check_engine_precision(large, 8_200_000, "fp16", layers())
    with pytest.raises(HgfastError, match=r"16.1 MB, more than 13.3 MB .* so it is fp32"):
        check_engine_precision(large, 16_100_000, "fp16")
    assert "can be verified only on a GPU" in check_engine_precision(ConvWeights("int8", 10**7), 10**9, "int8")
    with pytest.raises(HgfastError, match="int8 was requested, but the convolutions of the network are fp16"):
        check_engine_precision(half, 10**6, "int8")


def test_check_plan(plan: bytes, rtx: TrtBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    other = TrtBackend("tensorrt", "11.4.0.106", None, "", False)
    for broken, complaint in (
        (plan[:-1], f"has {len(plan) - 1} bytes where its header says {len(plan)}"),
        (plan[:40], "is not a TensorRT-RTX engine"),
        (b"", "is not a TensorRT-RTX engine"),
        (b"garbage " * 100, "is not a TensorRT-RTX engine"),
        (b"ftrt" + plan[4:], "is an engine of TensorRT, not of TensorRT-RTX"),
    ):
        with pytest.raises(HgfastError, match=complaint):
            check_plan(broken, rtx)
    with pytest.raises(HgfastError, match="is an engine of TensorRT-RTX, not of TensorRT:"):
        check_plan(plan, other)
    monkeypatch.setitem(hgfast.runtime.tensorrt_engine.PLAN_MAGIC, b"odd ", "tensorrt_rtx")
    with pytest.raises(HgfastError, match="the header of the engine is broken according to TensorRT-RTX"):
        check_plan(b"odd " + plan[4:], rtx)
    check_plan(b"ftrt" + bytes(60), other)
    assert plan_version(plan[:40]) is None is plan_version(b"x" * 100)


class FailingImporter:
    """Imports but what is named, which it fails to as the real thing does."""

    def __init__(self, *absent: str, failures: dict[str, Exception] | None = None) -> None:
        self.absent, self.failures, self.real = absent, failures or {}, importlib.import_module

    def __call__(self, name: str, package: str | None = None) -> Any:
        if name in self.failures:
            raise self.failures[name]
        if name in self.absent:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return self.real(name, package)


RTX = ("tensorrt_rtx", "tensorrt_rtx_bindings")
FULL = ("tensorrt", "tensorrt_bindings", "torch_tensorrt")


@pytest.mark.usefixtures("rtx")
def test_auto_without_gpu() -> None:
    backend = find_backend("auto", gpu=False)
    assert backend.name == "tensorrt_rtx" and backend.version.count(".") == 3
    assert backend.reason == (
        f"tensorrt_rtx {backend.version}: builds engines that fit several kinds of GPU; TensorRT and Torch-TensorRT need a GPU "
        "to build, and torch finds none that it can use"
    )


@pytest.mark.usefixtures("rtx")
def test_auto_with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: dict[str, Exception] = {
        "tensorrt_bindings": ImportError("libnvinfer.so.11: cannot open shared object file"),
        "torch_tensorrt": Exception("import error when try to import _TensorRTProxyModule"),
    }
    monkeypatch.setattr(importlib, "import_module", FailingImporter("tensorrt", failures=failures))
    backend = find_backend("auto", gpu=True)
    assert backend.name == "tensorrt_rtx" and backend.has_gpu
    assert "TensorRT cannot be imported (libnvinfer.so.11" in backend.reason and "_TensorRTProxyModule" in backend.reason
    full = SimpleNamespace(__version__="11.0.0.1")
    importer = FailingImporter("tensorrt")
    monkeypatch.setattr(importlib, "import_module", lambda name, *_: full if name == "tensorrt" else importer(name))
    assert find_backend("auto", gpu=True).reason == "tensorrt 11.0.0.1: builds for this machine's GPU"
    assert find_backend("tensorrt", gpu=True).module is full
    with pytest.raises(HgfastError, match="tensorrt needs an NVIDIA GPU to build engines"):
        find_backend("tensorrt", gpu=False)
    torch_tensorrt = SimpleNamespace(__version__="2.13.0")
    found = {"torch_tensorrt": torch_tensorrt}
    monkeypatch.setattr(
        trt_builder,
        "import_tensorrt",
        lambda name: (_ for _ in ()).throw(hgfast.runtime.tensorrt_engine.LibraryNotFound("no", "pip")),
    )
    monkeypatch.setattr(importlib, "import_module", lambda name, *_: found.get(name, full))
    backend = find_backend("auto", gpu=True)
    assert (backend.name, backend.version, backend.module) == ("torch_tensorrt", "11.0.0.1", torch_tensorrt)


def test_missing_builders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib, "import_module", FailingImporter(*RTX, *FULL))
    for gpu in (False, True):
        with pytest.raises(
            BuilderNotFound, match=r"nothing here builds TensorRT engines .*No module named 'tensorrt_rtx'"
        ) as caught:
            find_backend("auto", gpu)
        assert "pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings" in str(caught.value)
    for name, packages in (
        ("tensorrt_rtx", "pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings"),
        ("tensorrt", "pip install tensorrt-cu13"),
        ("torch_tensorrt", "a torch built for CUDA .* and pip install torch-tensorrt"),
    ):
        with pytest.raises(HgfastError, match=packages):
            find_backend(name, gpu=False)
    with pytest.raises(HgfastError, match="no backend 'onnx': choose from auto, tensorrt"):
        find_backend("onnx", gpu=False)


def test_torch_tensorrt_import_is_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints what it raises, and raises more kinds than ImportError."""

    def fail(name: str) -> Any:
        print("import error when try to import")
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(HgfastError, match="Torch not compiled with CUDA enabled"):
        trt_builder.import_torch_tensorrt()
    assert capsys.readouterr().out == ""


class FakeTimingCacheConfig:
    """A builder's configuration as far as times of kernels go; it takes only those that begin with "ours"."""

    def __init__(self, none: bool = False) -> None:
        self.none, self.content = none, b""

    def create_timing_cache(self, content: bytes) -> Any:
        return None if self.none else content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        taken = cache == b"" or cache.startswith(b"ours")
        self.content = cache if taken else self.content
        return taken

    def get_timing_cache(self) -> Any:
        return None if self.none else SimpleNamespace(serialize=lambda: self.content + b"+")


def test_timing_cache(tmp_path: Path, rtx: TrtBackend) -> None:
    path, logger = tmp_path / "times", hgfast.runtime.tensorrt_engine.make_logger(rtx.module)
    times = FakeTimingCacheConfig()
    assert not trt_builder._load_timing_cache(times, path, logger) and not trt_builder._save_timing_cache(times, path)
    assert path.read_bytes() == b"+"
    path.write_bytes(b"ours")
    assert not trt_builder._load_timing_cache(times, path, logger) and times.content == b"ours"
    path.write_bytes(b"another GPU's")
    assert "is of another GPU or TensorRT" in trt_builder._load_timing_cache(times, path, logger)[0]
    assert times.content == b"" and not trt_builder._save_timing_cache(times, path) and path.read_bytes() == b"+"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(HgfastError, match="no timing cache can be created"):
        trt_builder._load_timing_cache(FakeTimingCacheConfig(none=True), path, logger)
    assert "returned no timing cache" in trt_builder._save_timing_cache(FakeTimingCacheConfig(none=True), path)[0]
    assert "cannot be written" in trt_builder._save_timing_cache(times, tmp_path / "nowhere" / "times")[0]
    with pytest.raises(HgfastError, match=r"choose another folder with --timing-cache|cannot make the folder"):
        build(path, ONE, replace(rtx, name="tensorrt"), BuildOptions(timing_cache=path / "under a file"))


def test_logger_is_one(rtx: TrtBackend) -> None:
    logger = hgfast.runtime.tensorrt_engine.make_logger(rtx.module)
    levels = rtx.module.ILogger
    for level, words in ((levels.INFO, "i"), (levels.WARNING, "w  \n w"), (levels.ERROR, "e"), (levels.INTERNAL_ERROR, "e")):
        logger.log(level, words)
    assert hgfast.runtime.tensorrt_engine.collected_messages(logger, "warning") == (
        "w w",
    ) and hgfast.runtime.tensorrt_engine.collected_messages(logger, "error") == ("e",)
    assert hgfast.runtime.tensorrt_engine.make_logger(rtx.module) is logger and not logger.lines
    assert hgfast.runtime.tensorrt_engine.last_errors(logger) == "it does not say why"


def sidecar(version: str, kind: Any = "tensorrt_rtx", outputs: tuple[str, ...] = ("keypoints",), **builder: Any) -> Sidecar:
    return Sidecar(
        artifact="hand.engine",
        sha256="0" * 64,
        export_format=kind,
        precision="fp32",
        skeleton=BODY16,
        input=TensorSpec("images", "uint8", ("batch", SIDE, SIDE, 3), "NHWC"),
        outputs=tuple(TensorSpec(name, "float32", ("batch", 16, 3), "batch, joint, x y score") for name in outputs),
        input_size=SIDE,
        normalized=False,
        mean=(0.5, 0.5, 0.5),
        std=(1.0, 1.0, 1.0),
        batch=FREE,
        stride=4,
        heatmap_kind="gaussian",
        decoder="argmax",
        flip_test=False,
        pixel_offset=0.0,
        result_offset=0.0,
        checkpoint="checkpoint.pt",
        checkpoint_sha256="0" * 64,
        versions={},
        revision="",
        created="",
        builder={"backend": kind, "version": version, **builder},
    )


def test_engine_needs(tmp_path: Path, plan: bytes, rtx: TrtBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hand.engine"
    path.write_bytes(plan)

    def check_error(words: str, described: Sidecar, content: bytes = plan) -> None:
        path.write_bytes(content)
        with pytest.raises(HgfastError, match=words) as caught:
            Engine(path, described)
        assert str(path) in str(caught.value)

    good = sidecar(rtx.version)
    if not torch.cuda.is_available():
        check_error(r"running .* needs an NVIDIA GPU, and no NVIDIA driver is installed", good)
        with monkeypatch.context() as patch:
            patch.setattr(hgfast.runtime.cuda_memory, "import_cudart", lambda what: FakeCudart())
            check_error("cannot load .*cudaError", good)
    check_error("has .* bytes where its header says", good, plan[:-3])
    check_error("is not a TensorRT-RTX engine", good, b"garbage" * 99)
    check_error(
        "was built by TensorRT-RTX 1.6.1.120 according to its header, but its sidecar says 1.7",
        good,
        with_version(plan, 1, 6, 1, 120),
    )
    older = with_version(plan, 1, 6, 1, 120)
    check_error(
        f"was built by TensorRT-RTX 1.6.1.120, but {rtx.version} is installed here, .* or install TensorRT-RTX 1.6.1.120$",
        sidecar("1.6.1.120"),
        older,
    )
    newer = with_version(plan, 9, 0, 0, 1)
    check_error("install TensorRT-RTX 9.0.0.1 or newer", sidecar("9.0.0.1", version_compatible=True), newer)
    check_error("is not a TensorRT engine according to its sidecar", sidecar("", "onnx"))
    path.unlink()
    with pytest.raises(HgfastError, match=r"cannot be read .No such file"):
        Engine(path, good)
    path.write_bytes(plan)
    monkeypatch.setattr(importlib, "import_module", FailingImporter("cuda.bindings.runtime"))
    check_error("needs cuda-bindings, which manages its GPU memory: pip install cuda-bindings$", good)
    broken: dict[str, Exception] = {"cuda.bindings.runtime": ImportError("libcudart.so:\n cut")}
    monkeypatch.setattr(importlib, "import_module", FailingImporter(failures=broken))
    check_error(r"which manages its GPU memory \(libcudart.so: cut\): pip install cuda-bindings$", good)
    monkeypatch.setattr(importlib, "import_module", FailingImporter(*RTX))
    with pytest.raises(HgfastError, match=r"TensorRT-RTX cannot be imported .*: pip install tensorrt-rtx-cu13-libs"):
        Engine(path, good)


def with_version(plan: bytes, *version: int) -> bytes:
    """The plan as if another version had built it."""
    return plan[:24] + bytes(version) + plan[28:]


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = b"ftrt" + bytes(20) + bytes((10, 13, 3, 9)) + bytes(100)
    monkeypatch.setattr(hgfast.runtime.tensorrt_engine, "import_tensorrt", lambda name: SimpleNamespace(__version__="11.4.0.106"))
    with pytest.raises(HgfastError, match=r"was built by TensorRT 10.13.3.9, but 11.4.0.106 is installed here"):
        hgfast.runtime.tensorrt_engine.check_plan_version(plan, "tensorrt", "10.13.3.9", False, "it")
    hgfast.runtime.tensorrt_engine.check_plan_version(plan, "tensorrt", "10.13.3.9", True, "it")
    newer = b"ftrt" + bytes(20) + bytes((11, 4, 0, 300 % 256)) + bytes(100)
    with pytest.raises(HgfastError, match=r"11.4.0.300 or newer"):
        hgfast.runtime.tensorrt_engine.check_plan_version(newer, "tensorrt", "11.4.0.300", True, "it")
    hgfast.runtime.tensorrt_engine.check_plan_version(with_version(plan, 11, 4, 0, 106), "tensorrt", "11.4.0.106", False, "it")


class FakeCudart:
    """A CUDA runtime whose GPU memory is this process's. As on a GPU, what is put into a stream is done when somebody waits.

    devices: how many GPUs there are. code: of counting them. versions: of CUDA, of the driver and of the runtime.
    `alive` is what was made and not freed, by kind and handle; `log` what was asked for; `wrong` what no GPU would forgive.
    """

    cudaStreamNonBlocking = 1

    class cudaError_t(IntEnum):
        cudaSuccess = 0
        cudaErrorMemoryAllocation = 2
        cudaErrorInsufficientDriver = 35
        cudaErrorNoDevice = 100
        cudaErrorIllegalAddress = 700

    class cudaMemcpyKind(IntEnum):
        cudaMemcpyHostToDevice = 1
        cudaMemcpyDeviceToHost = 2

    class cudaStreamCaptureMode(IntEnum):
        cudaStreamCaptureModeThreadLocal = 1

    def __init__(self, devices: int | None = 2, code: int = 0, versions: tuple[int, int] = (13000, 13000)) -> None:
        self.devices, self.code, self.versions = devices, code, versions
        self.allocations: dict[tuple[str, Any], Any] = {}
        self.log: list[str] = []
        self.violations: list[str] = []
        self.failures: dict[str, list[int]] = {}
        self.queues: dict[int, list[Callable[[], None]]] = {}
        self.recording: dict[int, list[Callable[[], None]]] = {}
        self.thread = threading.local()
        self.handles = itertools.count(1000)
        self.busy = threading.Lock()

    def fail(self, name: str, code: int = 700, times: int = 1) -> None:
        """The next calls of a function fail."""
        self.failures[name] = [code] * times

    def respond(self, name: str, *given: Any) -> tuple[Any, ...]:
        """What a function returns once it has done its work, or has failed."""
        self.log.append(name)
        if self.failures.get(name):
            return (self.cudaError_t(self.failures[name].pop()), *(None for _ in given))
        return (self.cudaError_t.cudaSuccess, *given)

    def make(self, name: str, kind: str, content: Any, handle: Any = None) -> tuple[Any, ...]:
        handle = next(self.handles) if handle is None else handle
        answer = self.respond(name, handle)
        if answer[0] == 0:
            self.allocations[kind, handle] = content
        return answer

    def free(self, name: str, kind: str, handle: Any) -> tuple[Any, ...]:
        if (kind, handle) not in self.allocations:
            self.violations.append(f"{name} of what is not there")
        for stream, queue in self.queues.items():
            if queue and kind in ("device", "host", "executable", "stream"):
                self.violations.append(f"{name} while work waits in stream {stream}")
        self.allocations.pop((kind, handle), None)
        return self.respond(name)

    def cudaGetDeviceCount(self) -> Any:
        return self.cudaError_t(self.code), None if self.code else self.devices

    def cudaDriverGetVersion(self) -> Any:
        return self.cudaError_t.cudaSuccess, self.versions[0]

    def cudaRuntimeGetVersion(self) -> Any:
        return self.cudaError_t.cudaSuccess, self.versions[1]

    def cudaGetDevice(self) -> Any:
        return self.cudaError_t.cudaSuccess, getattr(self.thread, "device", 0)

    def cudaSetDevice(self, device: int) -> Any:
        if not self.failures.get("cudaSetDevice"):
            self.thread.device = device
        return self.respond("cudaSetDevice")

    def cudaGetErrorName(self, error: Any) -> Any:
        return self.cudaError_t.cudaSuccess, error.name.encode()

    def cudaGetErrorString(self, error: Any) -> Any:
        return self.cudaError_t.cudaSuccess, b"as CUDA puts it"

    def cudaGetLastError(self) -> Any:
        return self.respond("cudaGetLastError")

    def cudaMalloc(self, size: int) -> Any:
        content = (ctypes.c_ubyte * size)()
        return self.make("cudaMalloc", "device", content, ctypes.addressof(content))

    def cudaFree(self, devPtr: int) -> Any:
        return self.free("cudaFree", "device", devPtr)

    def cudaMallocHost(self, size: int) -> Any:
        content = (ctypes.c_ubyte * size)()
        return self.make("cudaMallocHost", "host", content, ctypes.addressof(content))

    def cudaFreeHost(self, ptr: int) -> Any:
        return self.free("cudaFreeHost", "host", ptr)

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        assert flags == self.cudaStreamNonBlocking
        return self.make("cudaStreamCreateWithFlags", "stream", None)

    def cudaStreamDestroy(self, stream: int) -> Any:
        return self.free("cudaStreamDestroy", "stream", stream)

    def cudaStreamSynchronize(self, stream: int) -> Any:
        if stream in self.recording:
            self.violations.append("waited for a stream that is being captured")
        for work in self.queues.pop(stream, []):
            work()
        return self.respond("cudaStreamSynchronize")

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: Any, stream: int) -> Any:
        to, of = ("device", "host") if kind == 1 else ("host", "device")

        def work() -> None:
            if (to, dst) not in self.allocations or (of, src) not in self.allocations:
                self.violations.append(f"a copy from {of} to {to} where one is not there")
            elif count > min(len(self.allocations[to, dst]), len(self.allocations[of, src])):
                self.violations.append(f"a copy of {count} bytes to or from where there are fewer")
            else:
                ctypes.memmove(dst, src, count)

        return self.enqueue(f"copy to {to}", stream, work)

    def enqueue(self, name: str, stream: int, *work: Callable[[], None]) -> tuple[Any, ...]:
        """Into a stream, or what is captured of it."""
        answer = self.respond(name)
        if answer[0] == 0:
            self.recording.get(stream, self.queues.setdefault(stream, [])).extend(work)
        return answer

    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> Any:
        if stream == 0 or stream in self.recording:
            self.violations.append(f"captured stream {stream}")
        answer = self.respond("cudaStreamBeginCapture")
        if answer[0] == 0:
            self.recording[stream] = []
        return answer

    def cudaStreamEndCapture(self, stream: int) -> Any:
        work = self.recording.pop(stream)
        return self.make("cudaStreamEndCapture", "graph", work)

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> Any:
        return self.make("cudaGraphInstantiate", "executable", list(self.allocations["graph", graph]))

    def cudaGraphDestroy(self, graph: Any) -> Any:
        return self.free("cudaGraphDestroy", "graph", graph)

    def cudaGraphExecDestroy(self, graphExec: Any) -> Any:
        return self.free("cudaGraphExecDestroy", "executable", graphExec)

    def cudaGraphLaunch(self, graphExec: Any, stream: int) -> Any:
        return self.enqueue("cudaGraphLaunch", stream, *self.allocations["executable", graphExec])

    def count(self, kind: str) -> int:
        return sum(made == kind for made, _ in self.allocations)

    def take_log(self) -> list[str]:
        """What was asked for since the last time, but for setting the device."""
        log = [name for name in self.log if name != "cudaSetDevice"]
        self.log.clear()
        return log


class FakeTensorRT:
    """A TensorRT whose engines give each image's mean, and the mean's double, from and to memory of this process.

    names: of its outputs. fails: what does not work. rtx: it is a TensorRT-RTX, which captures graphs by itself: "native", is
    of a version before that: "old", refuses to: "refuses", or finds that it cannot: "not capturable".
    """

    __version__ = "11.4.0.106"
    TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user", STATIC="static")
    CudaGraphStrategy = SimpleNamespace(DISABLED=0, WHOLE_GRAPH_CAPTURE=1)
    num_io_tensors = 3
    device_memory_size_v2 = 4096

    class ILogger:
        pass

    def __init__(self, names: tuple[str, str] = ("mean", "double"), fails: str = "", rtx: str = "") -> None:
        self.names, self.fails, self.rtx = names, fails, rtx
        self.cudart = FakeCudart()
        self.logger = SimpleNamespace(lines=[])
        self.allowed: bool | None = None
        self.contexts: weakref.WeakSet[FakeContext] = weakref.WeakSet()
        self.made = 0
        self.settings: list[Any] = []

    def succeeds(self, what: str) -> bool:
        """Or says why it does not."""
        if self.fails == what:
            self.logger.lines.append(("error", "the reason: none"))
        return self.fails != what

    def Runtime(self, logger: Any) -> Any:
        library = self

        class Runtime:
            engine_host_code_allowed = False

            def deserialize_cuda_engine(self, plan: bytes) -> Any:
                library.allowed = self.engine_host_code_allowed
                return library if library.succeeds("load") else None

        return Runtime()

    def get_tensor_name(self, index: int) -> str:
        return ("images", *self.names)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "images" else "out"

    def get_tensor_dtype(self, name: str) -> str:
        return "uint8" if name == "images" else "float32"

    def nptype(self, kind: str) -> Any:
        if self.fails == "type":
            raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
        return getattr(np, kind)

    def create_runtime_config(self) -> Any:
        class Settings:
            kernels = strategy = None

            def set_execution_context_allocation_strategy(self, strategy: str) -> None:
                self.strategy = strategy

            def create_runtime_cache(self) -> Any:
                return object()

            def set_runtime_cache(self, kernels: Any) -> bool:
                self.kernels = kernels
                return True

        class Native(Settings):
            cuda_graph_strategy = 0

        class Refuses(Settings):
            cuda_graph_strategy = property(lambda self: 0, lambda self, value: None)

        self.settings.append({"old": Settings, "refuses": Refuses}.get(self.rtx, Native)())
        return self.settings[-1]

    def create_execution_context(self, how: Any) -> Any:
        if self.rtx:
            assert how is self.settings[-1] and how.strategy == "user" and how.kernels is not None
        else:
            assert how == "user"
        self.made += 1
        context = FakeContext(self) if self.succeeds("context") else None
        if context is not None:
            self.contexts.add(context)
        return context


class FakeContext:
    """Notes in its `FakeCudart` when it is used as no context may be."""

    def __init__(self, library: FakeTensorRT) -> None:
        self.library, self.cudart = library, library.cudart
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()
        self.scratch = (0, 0)
        self.changes = 0  # since when a graph of it is void
        self.warm = -1  # the changes that have been run with

    def set_device_memory(self, memory: int, size: int) -> None:
        self.scratch, self.changes = (memory, size), self.changes + 1

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape, self.changes = shape, self.changes + 1
        return self.library.succeeds("shape")

    def get_tensor_shape(self, name: str) -> list[int]:
        return [-1 if self.library.fails == "size" else self.shape[0], 1]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name], self.changes = address, self.changes + 1
        return self.library.succeeds("address")

    def is_stream_capturable(self, stream: int) -> bool:
        return self.library.rtx != "not capturable"

    def execute_async_v3(self, stream_handle: int) -> bool:
        cudart, capturing = self.cudart, stream_handle in self.cudart.recording
        if capturing and self.warm != self.changes:
            cudart.violations.append("captured before it was run once")
        if cudart.cudaGetDevice()[1] != getattr(self.library, "device", 0):
            cudart.violations.append("run on another device")
        self.warm, changes, me = self.changes, self.changes, weakref.ref(self)
        cudart.enqueue("execute", stream_handle, lambda: run_fake_context(me(), cudart, changes))
        return self.library.succeeds("capture") if capturing else self.library.succeeds("run")


def run_fake_context(context: FakeContext | None, cudart: FakeCudart, changes: int) -> None:
    """On the fake GPU."""
    if context is None or context.changes != changes:
        cudart.violations.append("a context has gone or changed since work of it was put into a stream")
        return
    if not cudart.busy.acquire(blocking=False):
        cudart.violations.append("two at once have used the scratch memory")
        return
    memory, size = context.scratch
    if len(cudart.allocations.get(("device", memory), b"")) < size or size != context.library.device_memory_size_v2:
        cudart.violations.append("the scratch memory is not there")
    images = cudart.allocations.get(("device", context.addresses["images"]))
    if images is None or len(images) != max(1, int(np.prod(context.shape))):
        cudart.violations.append("the images are not there")
    else:
        means = np.frombuffer(images, np.uint8).reshape(context.shape[0], -1).mean(1)
        time.sleep(0.0005)
        for name, values in zip(context.library.names, (means, 2 * means)):
            content = cudart.allocations["device", context.addresses[name]]
            assert len(content) == 4 * len(means)
            np.frombuffer(content, np.float32)[:] = values
    cudart.busy.release()


@pytest.fixture
def run_fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Engine]]:
    """An `Engine` of a `FakeTensorRT`. At the end, nothing on its GPU may be left and nothing have gone wrong there."""
    used: list[FakeTensorRT] = []

    def start(library: FakeTensorRT, builder: dict[str, Any] | None = None, **options: Any) -> Engine:
        used.append(library)
        kind = "tensorrt_rtx" if library.rtx else "tensorrt"
        path = tmp_path / f"{kind}.engine"
        path.write_bytes((b"vtrt" if library.rtx else b"ftrt") + bytes(20) + bytes((11, 4, 0, 106)) + bytes(100))
        monkeypatch.setattr(hgfast.runtime.tensorrt_engine, "import_tensorrt", lambda name: library)
        monkeypatch.setattr(hgfast.runtime.tensorrt_engine, "check_plan_header", lambda *_: None)
        monkeypatch.setattr(hgfast.runtime.cuda_memory, "import_cudart", lambda what: library.cudart)
        monkeypatch.setattr(hgfast.runtime.tensorrt_engine, "make_logger", lambda trt: library.logger)
        return Engine(path, sidecar("11.4.0.106", kind, ("mean", "double"), **(builder or {})), **options)

    yield start
    gc.collect()  # what a test leaves open goes by itself
    for library in used:
        assert not library.cudart.allocations and not library.cudart.violations and not library.contexts


def some_images(number: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (number, SIDE, SIDE, 3), dtype=np.uint8)


def matches_means(found: dict[str, Any], images: Any) -> bool:
    means = images.mean((1, 2, 3), dtype=np.float32)[:, None]
    return list(found) == ["mean", "double"] and all(
        found[name].shape == means.shape and np.allclose(found[name], times * means, rtol=1e-4)
        for name, times in (("mean", 1), ("double", 2))
    )


IN, OUT = "copy to device", "copy to host"
BUFFERS = ["cudaMallocHost", "cudaMalloc"] * 3
ONE_RUN = [IN, "execute", OUT, OUT]
CAPTURE = ["cudaStreamBeginCapture", *ONE_RUN, "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphDestroy"]


@pytest.mark.parametrize("names", [("mean", "double"), ("output0", "output1")])
def test_engine_runs(run_fake: Callable[..., Engine], names: tuple[str, str]) -> None:
    library = FakeTensorRT(names)
    engine, cudart = run_fake(library), library.cudart
    assert library.allowed is False and cudart.take_log() == ["cudaStreamCreateWithFlags", "cudaMalloc"]
    images = some_images(3)
    images.flags.writeable = False
    first, wait = [*BUFFERS, *ONE_RUN, "cudaStreamSynchronize", *CAPTURE], "cudaStreamSynchronize"
    for given, calls in (
        (images, first),
        (images[::-1], ["cudaGraphLaunch", wait]),
        (images[:2], first),
        (images[1:], ["cudaGraphLaunch", wait]),
        (images, ["cudaGraphLaunch", wait]),
    ):
        assert matches_means(engine(given), given)
        assert cudart.take_log() == calls
    assert not engine.warnings and library.made == len(library.contexts) == 2
    assert sorted(len(content) for (kind, _), content in cudart.allocations.items() if kind == "host") == [
        *[8, 8, 12, 12],
        *[images[:2].nbytes, images.nbytes],
    ]
    with pytest.raises(HgfastError, match="takes uint8, not float32: convert the images"):
        engine(images.astype(np.float32))


def test_outputs_are_copies(run_fake: Callable[..., Engine]) -> None:
    with run_fake(FakeTensorRT()) as engine:
        found = [engine(some_images(2, seed)) for seed in range(3)]
    assert all(matches_means(one, some_images(2, seed)) for seed, one in enumerate(found))


def test_engine_without_graphs(run_fake: Callable[..., Engine]) -> None:
    library = FakeTensorRT()
    engine = run_fake(library, use_cuda_graphs=False)
    for seed in range(3):
        assert matches_means(engine(some_images(2, seed)), some_images(2, seed))
    assert not engine.warnings and "cudaStreamBeginCapture" not in library.cudart.log and library.cudart.log.count("execute") == 3


def test_least_recently_used_shape_is_evicted(run_fake: Callable[..., Engine]) -> None:
    library = FakeTensorRT()
    engine, cudart = run_fake(library), library.cudart

    def captured(number: int) -> bool:
        cudart.take_log()
        assert matches_means(engine(some_images(number)), some_images(number))
        return "cudaGraphInstantiate" in cudart.take_log()

    assert all(captured(number) for number in (1, 2, 3, 4))
    assert not captured(1)  # so 2 is the one that rested longest
    assert captured(5)
    assert cudart.count("executable") == len(library.contexts) == hgfast.runtime.tensorrt_engine.MAX_CACHED_SHAPES == 4
    assert cudart.count("host") == 3 * 4 and cudart.count("device") == 3 * 4 + 1
    assert not any(captured(number) for number in (1, 3, 4, 5))
    assert captured(2) and not captured(4) and captured(1)
    for number in range(100):
        engine(some_images(1 + number % 7))
    assert cudart.count("executable") == len(library.contexts) == 4 and len(cudart.allocations) == 4 * 7 + 2


def test_engine_in_a_given_stream(run_fake: Callable[..., Engine]) -> None:
    for handle in (0, 77):
        library = FakeTensorRT()
        cudart, done = library.cudart, []
        engine = run_fake(library, stream=handle)
        cudart.enqueue("theirs", handle, lambda done=done: done.append(True))
        for seed in range(3):
            assert matches_means(engine(some_images(2, seed)), some_images(2, seed))
        assert done and not engine.warnings and cudart.count("executable") == 1
        (aside,) = (made for kind, made in cudart.allocations if kind == "stream")
        assert aside != handle and set(cudart.queues) <= {handle, aside} and not any(cudart.queues.values())
        engine.close()
        assert not cudart.allocations


def test_engine_on_another_gpu(run_fake: Callable[..., Engine]) -> None:
    library = FakeTensorRT()
    library.device = 1
    engine = run_fake(library, device=1)
    assert library.cudart.cudaGetDevice()[1] == 0
    assert matches_means(engine(some_images(1)), some_images(1)) and library.cudart.cudaGetDevice()[1] == 0
    engine.close()
    assert library.cudart.cudaGetDevice()[1] == 0
    for device, complaint in ((2, "finds GPUs 0 to 1: choose another device"), (-1, "on GPU -1 is not possible")):
        with pytest.raises(HgfastError, match=complaint):
            run_fake(FakeTensorRT(), device=device)


@pytest.mark.parametrize("threads, engines", [(2, 1), (4, 1), (2, 2)])
def test_engine_in_threads(run_fake: Callable[..., Engine], threads: int, engines: int) -> None:
    libraries = [FakeTensorRT() for _ in range(engines)]
    made = [run_fake(library) for library in libraries]
    failures: list[Any] = []

    def work(index: int) -> None:
        for turn in range(40):
            images = some_images(1 + (turn + index) % 6, turn)
            try:
                if not matches_means(made[index % engines](images), images):
                    failures.append((index, turn))
            except Exception as error:
                failures.append(error)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not failures and all(not library.cudart.violations for library in libraries)


def test_engine_closed_while_others_use_it(run_fake: Callable[..., Engine]) -> None:
    engine, ends = run_fake(FakeTensorRT()), []

    def work() -> None:
        try:
            while True:
                engine(some_images(1))
        except Exception as error:
            ends.append(str(error))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    time.sleep(0.05)
    engine.close()
    for worker in workers:
        worker.join(60)
    assert ends == [f"{engine.path} is closed: create a new Engine"] * 2


def test_engine_closes(run_fake: Callable[..., Engine]) -> None:
    library = FakeTensorRT()
    with run_fake(library) as engine:
        engine(some_images(1))
        assert library.cudart.allocations
    assert not library.cudart.allocations and not library.contexts
    engine.close()
    with pytest.raises(HgfastError, match=r"engine is closed: create a new Engine"):
        engine(some_images(1))
    library = FakeTensorRT()
    engine = run_fake(library)
    engine(some_images(1))
    del engine
    assert not library.cudart.allocations and not library.contexts  # without waiting for a collection


@pytest.mark.parametrize(
    "fails, complaint",
    [
        ("load", r"TensorRT cannot load .* \(the reason: none\): build it on this machine"),
        ("context", r"cannot start \(the reason: none\)"),
        ("shape", r"does not accept input shape \(1, 2\) \(the reason: none\)"),
        ("address", r"takes no buffer for images \(the reason: none\)"),
        ("run", r"failed \(the reason: none\)"),
        ("size", r"does not give the size of mean for input shape \(1, 2\)"),
        ("type", "the type of images in .* does not exist in numpy"),
    ],
)
def test_engine_fails(run_fake: Callable[..., Engine], fails: str, complaint: str) -> None:
    library = FakeTensorRT(fails=fails)
    with pytest.raises(HgfastError, match=complaint):
        run_fake(library)(np.zeros((1, 2), np.uint8))
    library = FakeTensorRT()
    engine = run_fake(library)
    for used in (False, True):
        library.fails = fails
        if fails not in ("load", "type") and not (fails == "context" and not used):
            with pytest.raises(HgfastError, match=complaint):
                engine(np.zeros((1, 2), np.uint8))
        library.fails = ""
        assert matches_means(engine(some_images(2)), some_images(2))


SETUP_CALLS = ["cudaSetDevice", "cudaStreamCreateWithFlags", "cudaMalloc"]
RUN_CALLS = ["cudaSetDevice", "cudaMallocHost", "cudaMalloc", IN, OUT, "cudaStreamSynchronize", "cudaGraphLaunch"]


@pytest.mark.parametrize("name", SETUP_CALLS)
def test_cuda_fails_at_the_start(run_fake: Callable[..., Engine], name: str) -> None:
    library = FakeTensorRT()
    library.cudart.fail(name)
    with pytest.raises(
        HgfastError, match=r"engine cannot .* \(cudaErrorIllegalAddress, as CUDA puts it\): restart the program, or"
    ):
        run_fake(library)
    assert matches_means(run_fake(library)(some_images(1)), some_images(1))
    library = FakeTensorRT()
    library.cudart.fail("cudaMalloc", 2)
    with pytest.raises(
        HgfastError, match=r"cannot allocate 4096 bytes on GPU 0 \(cudaErrorMemoryAllocation, .*: free GPU memory"
    ):
        run_fake(library)


@pytest.mark.parametrize("name", RUN_CALLS)
def test_cuda_fails_in_a_call(run_fake: Callable[..., Engine], name: str) -> None:
    library = FakeTensorRT()
    engine, cudart = run_fake(library), library.cudart
    if name == "cudaGraphLaunch":
        engine(some_images(2))
    for _ in range(3):
        cudart.fail(name)
        with pytest.raises(
            HgfastError, match=r"engine cannot .* \(cudaErrorIllegalAddress, as CUDA puts it\): restart the program"
        ):
            engine(some_images(2))
        assert name == "cudaSetDevice" or not cudart.count("host")
        for seed in range(2):
            assert matches_means(engine(some_images(2, seed)), some_images(2, seed))
        if name != "cudaGraphLaunch":
            engine._release_shape(some_images(2).shape)


@pytest.mark.parametrize("name", ["cudaStreamBeginCapture", IN, OUT, "capture", "cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_missing_graph_is_reported(run_fake: Callable[..., Engine], name: str) -> None:
    library = FakeTensorRT(fails="capture" if name == "capture" else "")
    engine, cudart = run_fake(library), library.cudart
    real = cudart.cudaStreamSynchronize

    def and_fail(stream: int) -> Any:  # what comes after the first run
        if name != "capture" and not cudart.log.count("cudaStreamSynchronize"):
            cudart.fail(name)
        return real(stream)

    cudart.cudaStreamSynchronize = and_fail  # type: ignore[method-assign]
    for seed in range(3):
        assert matches_means(engine(some_images(2, seed)), some_images(2, seed))
    assert cudart.count("executable") == cudart.count("graph") == 0 and not cudart.recording
    assert cudart.log.count("execute") >= 3 and "cudaGraphLaunch" not in cudart.log
    reason = "the reason: none" if name == "capture" else "cudaErrorIllegalAddress, as CUDA puts it"
    (note,) = engine.warnings
    assert note.startswith(f"images of shape (2, {SIDE}, {SIDE}, 3) run without a CUDA graph: {engine.path} ")
    assert note.endswith(f"({reason})")
    library.fails = ""
    engine(some_images(1))
    assert cudart.count("executable") == len(engine.warnings) == 1


def test_interrupted_while_capturing(run_fake: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeTensorRT()
    engine, cudart = run_fake(library), library.cudart
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        works = {"capture": lambda: (_ for _ in ()).throw(KeyboardInterrupt)}
        patch.setattr(library, "succeeds", lambda what: next(works[what]()) if what in works else True)
        engine(some_images(1))
    assert not cudart.recording and cudart.count("graph") == cudart.count("host") == 0
    assert matches_means(engine(some_images(1)), some_images(1)) and cudart.count("executable") == 1


@pytest.mark.parametrize("rtx, graphs", [("native", 0), ("not capturable", 0), ("old", 1), ("refuses", 1)])
def test_rtx_captures_by_itself(run_fake: Callable[..., Engine], rtx: str, graphs: int) -> None:
    library = FakeTensorRT(rtx=rtx)
    engine, cudart = run_fake(library), library.cudart
    for seed in range(3):
        assert matches_means(engine(some_images(2, seed)), some_images(2, seed))
        assert matches_means(engine(some_images(1, seed)), some_images(1, seed))
    assert cudart.count("executable") == 2 * graphs and len(library.settings) == 1
    assert getattr(library.settings[0], "cuda_graph_strategy", 0) == 1 - graphs
    said = [f"of shape ({number}, {SIDE}, {SIDE}, 3) run without a CUDA graph: " for number in (2, 1)]
    assert len(engine.warnings) == 2 * (rtx == "not capturable")
    assert all(words in note and note.endswith("according to TensorRT-RTX") for words, note in zip(said, engine.warnings))
    notes = []
    for number in range(20):
        engine(some_images(1 + number % 6))
        notes.append(len(engine.warnings))
    assert notes[-1] == 6 * (rtx == "not capturable") and notes[5:] == notes[5:6] * 15  # each is said once, however often made
    engine = run_fake(library, use_cuda_graphs=False)
    for seed in range(2):
        engine(some_images(2, seed))
    assert getattr(library.settings[1], "cuda_graph_strategy", 0) == 0 and not engine.warnings


def test_engine_ports(run_fake: Callable[..., Engine]) -> None:
    with pytest.raises(HgfastError, match="gives mean, median, but its sidecar has images and mean, double"):
        run_fake(FakeTensorRT(("mean", "median")))
    library = FakeTensorRT()
    run_fake(library, {"version_compatible": True})
    assert library.allowed is True


@pytest.mark.parametrize(
    "cudart, complaint",
    [
        (FakeCudart(code=35, versions=(0, 13000)), "no NVIDIA driver is installed: use a machine that has one"),
        (
            FakeCudart(code=35, versions=(12040, 13050)),
            r"supports CUDA up to 12.4, but cuda-bindings needs 13.5: update the driver, or pip install 'cuda-bindings==12.\*'$",
        ),
        (FakeCudart(code=35, versions=(11080, 13050)), r"supports CUDA up to 11.8, .* needs 13.5: update the driver$"),
        (FakeCudart(code=100), r"CUDA finds none that it can use \(cudaErrorNoDevice, as CUDA puts it\): use a machine"),
        (FakeCudart(devices=0), "CUDA finds none: use a machine that has one, or export to ONNX"),
    ],
)
def test_no_gpu(monkeypatch: pytest.MonkeyPatch, cudart: FakeCudart, complaint: str) -> None:
    monkeypatch.setattr(hgfast.runtime.cuda_memory, "import_cudart", lambda what: cudart)
    with pytest.raises(GpuNotFound, match=f"running hand.engine needs an NVIDIA GPU, and .*{complaint}"):
        CudaDevice(what="hand.engine")


def test_one_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hgfast.runtime.cuda_memory, "import_cudart", lambda what: FakeCudart(devices=1))
    with pytest.raises(HgfastError, match=r"running hand\.engine on GPU 1 is not possible, because CUDA finds only GPU 0"):
        CudaDevice(1, "hand.engine")


def test_gpu_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cudart = FakeCudart()
    monkeypatch.setattr(hgfast.runtime.cuda_memory, "import_cudart", lambda what: cudart)
    gpu = CudaDevice()
    with PinnedBuffer(gpu, (2, 3), np.float16) as host, DeviceBuffer(gpu, 12) as device, CudaStream(gpu) as stream:
        host.array[:] = [[1, 2, 3], [4, 5, 6]]
        copy_to_device(gpu, device, host, stream)
        stream.synchronize()
        host.array[:] = 0
        copy_to_host(gpu, host, device, stream)
        assert not host.array.any()
        stream.synchronize_quietly()
        assert host.array.tolist() == [[1, 2, 3], [4, 5, 6]]
        assert host.array.dtype == np.float16 and (host.nbytes, device.nbytes) == (12, 12)
    assert not cudart.allocations and host.array.size == 0
    host.close()
    for shape in ((0, 5), (), (1,)):
        empty = PinnedBuffer(gpu, shape, np.float32)
        assert empty.array.shape == shape and empty.nbytes == 4 * empty.array.size
    DeviceBuffer(gpu, 0).close()
    del empty
    assert not cudart.allocations and not cudart.violations
    left = DeviceBuffer(gpu, 1)
    cudart.fail("cudaFree")
    cudart.fail("cudaSetDevice")
    left.close()  # nobody could do anything about it
    assert not cudart.violations


def test_fake_cudart_is_called_as_the_real_one() -> None:
    real = pytest.importorskip("cuda.bindings.runtime", reason="pip install cuda-bindings")
    for name, function in vars(FakeCudart).items():
        if name.startswith("cuda") and callable(function) and not isinstance(function, type):
            assert list(signature(function).parameters)[1:] == list(signature(getattr(real, name)).parameters), name
        elif isinstance(function, type):
            members = getattr(real, name).__members__
            assert {one.name: one.value for one in function} == {one.name: int(members[one.name]) for one in function}


def test_real_cuda_without_a_gpu() -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="pip install cuda-bindings")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(GpuNotFound, match=r"running it needs an NVIDIA GPU, and .*: \w+"):
        CudaDevice(what="it")


def test_no_torch_to_import_it() -> None:
    code = "import sys, hgfast.runtime.tensorrt_engine; assert not {'torch', 'cuda'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_a_real_engine(name: Any, fp32: Path, tmp_path: Path) -> None:
    """An engine built and run here agrees with torch, with and without a CUDA graph, in torch's stream and from threads."""
    pytest.importorskip("cuda.bindings.runtime", reason="pip install cuda-bindings")
    try:
        backend = find_backend(name, gpu=True)
        built = build(fp32, FREE, backend, OPTIONS)
    except HgfastError as error:
        pytest.skip(str(error))
    path, described = tmp_path / "hand.engine", sidecar(backend.version, name)
    path.write_bytes(built.plan)
    network, external_stream = deployed("tiny", False), torch.cuda.Stream()
    with Engine(path, described) as engine, Engine(path, described, use_cuda_graphs=False) as plain:
        with Engine(path, described, stream=external_stream.cuda_stream) as given:
            for number in (1, 4, 2, 3, 1, 4):
                images = some_images(number, number)
                wanted = plain(images)["keypoints"]
                with torch.inference_mode():
                    expected = network(torch.from_numpy(images))[0].numpy()
                assert wanted.shape == expected.shape == (number, 16, 3)
                # the highest cell of an untrained network's map may be another for the smallest of differences
                assert np.abs(wanted[..., 2] - expected[..., 2]).max() < 1e-2 * np.abs(expected[..., 2]).max()
                assert np.mean(np.abs(wanted[..., :2] - expected[..., :2]).max(-1) < 0.5) > 0.8
                for runner in (engine, given):
                    for _ in range(3):
                        assert np.allclose(runner(images)["keypoints"][..., 2], wanted[..., 2], rtol=1e-3, atol=1e-5)
            assert not engine.warnings and not given.warnings and not plain.warnings
            if name == "tensorrt":
                assert (
                    all(shape_context.graph is not None for shape_context in engine._shape_contexts.values())
                    and len(engine._shape_contexts) == 4
                )
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda seed: engine(some_images(2, seed))["keypoints"], range(64)))
        for seed in (0, 1, 63):
            assert np.allclose(found[seed][..., 2], plain(some_images(2, seed))["keypoints"][..., 2], rtol=1e-3, atol=1e-5)
        free = torch.cuda.mem_get_info()[0]
        for turn in range(500):
            engine(some_images(1 + turn % 4))
        assert free - torch.cuda.mem_get_info()[0] < 5 << 20
    with pytest.raises(HgfastError, match="is closed"):
        engine(some_images(1))


class FakeTorchTensorRT:
    """Notes what it is asked for."""

    __version__ = "2.13.0"

    def __init__(self, error: Exception | None = None) -> None:
        self.received: dict[str, Any] = {}
        self.dynamo = SimpleNamespace(convert_exported_program_to_serialized_trt_engine=self.convert)
        self.error = error

    def Input(self, **keywords: Any) -> Any:
        return keywords

    def convert(self, program: Any, **keywords: Any) -> bytes:
        self.program, self.received = program, keywords
        times = Path(keywords["timing_cache_path"])
        self.before = times.read_bytes() if times.exists() else b""
        times.write_bytes(self.before + b"+")
        logging.getLogger("torch_tensorrt [TensorRT Conversion Context]").warning("slow\nkernels")
        if self.error is not None:
            raise self.error
        return b"ftrt" + bytes(100)


@contextmanager
def fake_gpu(patch: pytest.MonkeyPatch) -> Iterator[None]:
    with patch.context() as inner:
        inner.setattr(torch.cuda, "is_available", lambda: True)
        inner.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
        inner.setattr(torch.nn.Module, "cuda", lambda self: self)
        inner.setattr(torch.Tensor, "cuda", lambda self: self)
        inner.setattr(torch_trt, "engine_layer_info", lambda *_: None)
        yield


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning")
def test_torch_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, example = deployed("tiny", True), torch.zeros((1, SIDE, SIDE, 3), dtype=torch.uint8)
    assert torch_trt.module_conv_weights(network) == ConvWeights(
        "fp16", torch_trt.module_conv_weights(deployed("tiny", False)).count
    )
    library = FakeTorchTensorRT()
    backend = TrtBackend("torch_tensorrt", "11.0.0.1", library, "", True)
    if not torch.cuda.is_available():
        with pytest.raises(HgfastError, match="Torch-TensorRT needs an NVIDIA GPU"):
            torch_trt.build(network, example, FREE, OPTIONS, backend)
    times = tmp_path / "times"
    times.write_bytes(b"before")
    with fake_gpu(monkeypatch):
        options = BuildOptions(times, True, workspace_gb=0.5, optimization_level=4)
        built = torch_trt.build(network, example, FREE, options, backend)
        assert built.warnings == ("slow kernels",) and built.library == "tensorrt"
        assert times.read_bytes() == b"before+" and library.before == b"before"
        assert built.builder_info["torch_tensorrt"] == "2.13.0" and built.builder_info["version"] == "11.0.0.1"
        assert library.received["workspace_size"] == 1 << 29 and library.received["hardware_compatible"]
        shape = (SIDE, SIDE, 3)
        images = {"min_shape": (1, *shape), "opt_shape": (2, *shape), "max_shape": (4, *shape), "dtype": torch.uint8}
        assert library.received["arg_inputs"] == [images]
        built = torch_trt.build(network, example, BatchRange(3, 3, 3), OPTIONS, backend)
        assert library.received["arg_inputs"] == [{"shape": (3, *shape), "dtype": torch.uint8}] and library.before == b""
        assert built.builder_info["hardware"] == "compute capability 9.0"
        broken = replace(backend, module=FakeTorchTensorRT(RuntimeError("no converter")))
        with pytest.raises(HgfastError, match=r"cannot convert the network \(no converter; slow kernels\)"):
            torch_trt.build(network, example, BatchRange(1, 1, 1), OPTIONS, broken)
