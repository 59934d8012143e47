"""Build engines with TensorRT-RTX, which needs no GPU, and check them; the choice of the library; engines on a real GPU."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from hgfast import load_model
from hgfast.architectures import PRESETS
from hgfast.errors import HgfastError
from hgfast.export.exporter import onnx_export, torch_trt, trt_builder
from hgfast.export.exporter.export_module import ExportModule
from hgfast.export.exporter.options import BuildOptions, ExportSpec
from hgfast.export.exporter.precision_check import ConvWeights, check_engine_precision, onnx_conv_weights
from hgfast.export.exporter.trt_builder import BuilderNotFound, TrtBackend, build, check_plan, find_backend
from hgfast.runtime import cuda_memory, tensorrt_engine
from hgfast.runtime.sidecar import OUTPUT_NAMES, BatchRange, Precision, Sidecar
from hgfast.runtime.tensorrt_engine import Engine, plan_version
from tests.exports import save_checkpoint
from tests.hgfast.runtime.test_sidecar import make_sidecar
from tests.hgfast.runtime.test_tensorrt_engine import FakeCudart

SIDE = PRESETS["tiny"].input_size
FREE, ONE = BatchRange(1, 2, 4), BatchRange(1, 1, 1)
OPTIONS = BuildOptions()


pytestmark = pytest.mark.usefixtures("cached_exporter")


def export(checkpoint: Path, fp16: bool, path: Path) -> Path:
    """Write the network as ONNX in one precision, with keypoints only."""
    graph = ExportModule(load_model(checkpoint), ExportSpec(fp16=fp16, outputs=OUTPUT_NAMES))
    model = onnx_export.export_onnx_model(graph, FREE)
    onnx.save(onnx_export.select_outputs(model, ("keypoints",)), path)
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="session")
def fp32(tiny_checkpoint: Path, cached_exporter: None, folder: Path) -> Path:
    return export(tiny_checkpoint, False, folder / "fp32.onnx")


@pytest.fixture(scope="session")
def fp16(tiny_checkpoint: Path, cached_exporter: None, folder: Path) -> Path:
    return export(tiny_checkpoint, True, folder / "fp16.onnx")


@pytest.fixture(scope="session")
def static(fp32: Path) -> Path:
    """For a batch of one image."""
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
    """Write an ONNX file of some nodes, from x to y."""
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
    assert precision in check_engine_precision(path, "tensorrt_rtx", len(built.plan), precision)
    other: Precision = "fp32" if name == "fp16" else "fp16"
    with pytest.raises(HgfastError, match=f"{other} was requested, but the convolutions of .* are {precision}"):
        check_engine_precision(path, "tensorrt_rtx", len(built.plan), other)


@pytest.mark.slow
def test_fp16_halves_a_plan(folder: Path, rtx: TrtBackend) -> None:
    sizes = {}
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    checkpoint = save_checkpoint(folder / "hg1.pt", preset="hg1")
    for precision in precisions:
        path = export(checkpoint, precision == "fp16", folder / f"hg1-{precision}.onnx")
        sizes[precision] = len(build(path, FREE, rtx, OPTIONS).plan)
        assert (
            "of its weights in fp32" in check_engine_precision(path, "tensorrt_rtx", sizes[precision], precision)
            or precision == "fp32"
        )
    assert 0.45 < sizes["fp16"] / sizes["fp32"] < 0.6
    with pytest.raises(HgfastError, match="so it is fp32"):
        check_engine_precision(path, "tensorrt_rtx", sizes["fp32"], "fp16")


def test_options(static: Path, rtx: TrtBackend) -> None:
    options = BuildOptions(hardware_compatible=True, workspace_gb=1, optimization_level=2, compute_capabilities=["SM75", "SM120"])
    about = build(static, ONE, rtx, options).builder_info
    assert about["hardware"] == "compute capability 7.5, 12.0"
    assert about["optimization_level"] == 2 and about["workspace_gb"] == 1 and about["hardware_compatible"]


@pytest.mark.parametrize(
    "options, complaint",
    [
        (BuildOptions(version_compatible=True), "TensorRT-RTX cannot build version-compatible engines"),
        (BuildOptions(timing_cache=Path("times")), "TensorRT-RTX has no timing cache"),
        (BuildOptions(compute_capabilities=["SM90"]), "cannot build for 'SM90': choose from CURRENT, SM75, SM80, SM86"),
    ],
)
def test_bad_options(static: Path, rtx: TrtBackend, options: BuildOptions, complaint: str) -> None:
    with pytest.raises(HgfastError, match=complaint):
        build(static, ONE, rtx, options)


def test_options_of_others() -> None:
    with pytest.raises(HgfastError, match="tensorrt builds for the GPU of the machine, not for SM86"):
        BuildOptions(compute_capabilities=["SM86"]).check("tensorrt")
    with pytest.raises(HgfastError, match="do not run on their own"):
        BuildOptions(version_compatible=True).check("torch_tensorrt")
    BuildOptions(
        timing_cache=Path("times"), hardware_compatible=True, version_compatible=True, workspace_gb=1.5, optimization_level=5
    ).check("tensorrt")


def test_batch(static: Path, rtx: TrtBackend) -> None:
    with pytest.raises(HgfastError, match="takes 1 images at once, not 1:2:4: export it with a free batch size"):
        build(static, FREE, rtx, OPTIONS)


def test_no_profile(fp32: Path, rtx: TrtBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_builder, "_set_profile", lambda *_: None)
    with pytest.raises(HgfastError, match=r"cannot build .*fp32.onnx \(.*no optimization profile has been defined"):
        build(fp32, FREE, rtx, OPTIONS)


def test_refused_profile(fp32: Path, rtx: TrtBackend) -> None:
    batch: Any = SimpleNamespace(min=3, opt=2, max=4, as_flag="3:2:4")
    with pytest.raises(HgfastError, match=r"cannot be built for a batch of 3:2:4 \(.*MIN<=OPT<=MAX"):
        build(fp32, batch, rtx, OPTIONS)


def test_broken_onnx(tmp_path: Path, fp32: Path, rtx: TrtBackend) -> None:
    cut, empty = tmp_path / "cut.onnx", tmp_path / "empty.onnx"
    cut.write_bytes(fp32.read_bytes()[:-1000])
    empty.touch()
    cases = [(cut, "it is not a complete ONNX file"), (empty, "has no network")]
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
    """Return the weights of a convolution, all zero."""
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
    """Return an inspector's JSON with convolutions in its several formats, and with other layers."""
    found: list[Any] = ["a name alone", {"Name": "turn", "LayerType": "Shuffle", "Weights": {"Type": "Float"}}]
    for index, kind in enumerate(kinds):
        ports = [{"Name": "x", "Format/Datatype": f"Channel major {kind} format where channel % 8 == 0"}]
        if index % 2:
            found.append({"LayerType": "CaskConvolution", "Inputs": ports, "Weights": {"Type": "Half", "Count": 9}})
            found[-1]["Weights"]["Type"] = {"FP16": "Half", "FP32": "Float", "Int8": "Int8"}[kind]
        else:
            found.append({"LayerType": "gemm", "ParameterType": "Convolution", "Inputs": ports, "Weights": {"Type": "N/A"}})
    return json.dumps({"Layers": found})


class FakeInspectingTensorRT:
    """TensorRT-RTX whose builder returns the plan `content` of TensorRT, and a runtime with an inspector.

    lean_runtime: the plan contains a lean runtime, which NVIDIA's `IRuntime` loads only if host code is allowed.
    """

    def __init__(self, module: Any, content: bytes, lean_runtime: bool) -> None:
        self.module, self.content, self.lean_runtime, self.allowed = module, content, lean_runtime, list[bool]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def Builder(self, logger: Any) -> Any:
        builder = self.module.Builder(logger)
        return SimpleNamespace(
            create_network=builder.create_network,
            create_builder_config=builder.create_builder_config,
            create_optimization_profile=builder.create_optimization_profile,
            build_serialized_network=lambda network, config: self.content,
        )

    def Runtime(self, logger: Any) -> Any:
        runtime = SimpleNamespace(engine_host_code_allowed=False)

        def deserialize(plan: bytes) -> Any:
            assert plan == self.content
            self.allowed.append(runtime.engine_host_code_allowed)
            if self.lean_runtime and not runtime.engine_host_code_allowed:
                return None
            inspector = SimpleNamespace(get_engine_information=lambda kind: layers(*["FP16"] * 20))
            return SimpleNamespace(create_engine_inspector=lambda: inspector)

        runtime.deserialize_cuda_engine = deserialize
        return runtime


@pytest.mark.parametrize("compatible", [False, True])
def test_plan_with_a_lean_runtime_is_inspected(fp16: Path, rtx: TrtBackend, compatible: bool) -> None:
    library = FakeInspectingTensorRT(rtx.module, b"ftrt" + bytes(40_000_000), compatible)
    backend = TrtBackend("tensorrt", "11.4.0.106", library, "", True)
    built = build(fp16, FREE, backend, BuildOptions(version_compatible=compatible))
    assert library.allowed == [compatible] and built.layer_info is not None and not built.warnings
    summary = check_engine_precision(fp16, built.library, len(built.plan), "fp16", built.layer_info)
    assert "20 of the engine's 20 convolutions are fp16" in summary


@pytest.mark.parametrize("size", [9, 16_100_000, 10**9])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_size_of_a_tensorrt_plan_proves_nothing(precision: Precision, size: int) -> None:
    """The limits are those of TensorRT-RTX; a plan of TensorRT may also contain a lean runtime."""
    summary = check_engine_precision(ConvWeights(precision, 4_000_000), "tensorrt", size, precision, layers())
    assert summary.startswith(f"weights {precision} in the network; the precision of the kernels is not proved")
    other: Precision = "fp16" if precision == "fp32" else "fp32"
    with pytest.raises(HgfastError, match=f"{other} was requested, but the convolutions of the network are {precision}"):
        check_engine_precision(ConvWeights(precision, 4_000_000), "tensorrt", size, other)


def test_engine_precision() -> None:
    half, large = ConvWeights("fp16", 1_000_000), ConvWeights("fp16", 4_000_000)
    told = check_engine_precision(half, "tensorrt_rtx", 10**7, "fp16", layers(*["FP16"] * 19, "FP32"))
    assert "19 of the engine's 20 convolutions are fp16" in told
    with pytest.raises(HgfastError, match="convolutions are 2 fp32, 1 fp16"):
        check_engine_precision(half, "tensorrt_rtx", 10**6, "fp16", layers("FP32", "FP16", "FP32"))
    with pytest.raises(HgfastError, match="convolutions are 2 fp16"):
        check_engine_precision(ConvWeights("fp32", 9), "tensorrt_rtx", 10**6, "fp32", layers("FP16", "FP16"))
    assert "2 of" in check_engine_precision(ConvWeights("int8", 9), "tensorrt_rtx", 9, "int8", layers("Int8", "Int8"))
    with pytest.raises(HgfastError, match="returned invalid JSON"):
        check_engine_precision(half, "tensorrt_rtx", 9, "fp16", "no JSON")
    assert "not proved, because the network is too small" in check_engine_precision(half, "tensorrt_rtx", 10**7, "fp16")
    assert "51% of its weights in fp32" in check_engine_precision(large, "tensorrt_rtx", 8_200_000, "fp16", layers())
    with pytest.raises(HgfastError, match=r"16.1 MB, more than 13.3 MB .* so it is fp32"):
        check_engine_precision(large, "tensorrt_rtx", 16_100_000, "fp16")
    assert "not proved" in check_engine_precision(ConvWeights("int8", 10**7), "tensorrt_rtx", 10**9, "int8")
    with pytest.raises(HgfastError, match="int8 was requested, but the convolutions of the network are fp16"):
        check_engine_precision(half, "tensorrt_rtx", 10**6, "int8")


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
    monkeypatch.setitem(tensorrt_engine.PLAN_MAGIC, b"odd ", "tensorrt_rtx")
    with pytest.raises(HgfastError, match="the header of the engine is broken according to TensorRT-RTX"):
        check_plan(b"odd " + plan[4:], rtx)
    check_plan(b"ftrt" + bytes(60), other)
    assert plan_version(plan[:40]) is None is plan_version(b"x" * 100)


class FailingImporter:
    """Imports all modules but some, for which it raises the given or the usual errors."""

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
        lambda name: (_ for _ in ()).throw(tensorrt_engine.LibraryNotFound("no", "pip")),
    )
    monkeypatch.setattr(importlib, "import_module", lambda name, *_: found.get(name, full))
    backend = find_backend("auto", gpu=True)
    assert (backend.name, backend.version, backend.module) == ("torch_tensorrt", "11.0.0.1", torch_tensorrt)


@pytest.mark.parametrize(
    "capability, requested, has_gpu, undocumented",
    [
        ((8, 6), [], True, False),
        ((12, 1), [], True, False),
        ((12, 9), [], True, False),  # of a GPU later than the library
        ((7, 5), ["SM75"], True, False),
        ((8, 6), ["CURRENT"], True, False),
        ((9, 0), ["CURRENT"], True, True),
        ((9, 0), ["SM86", "SM120"], False, False),
        (None, [], False, False),
    ],
)
def test_gpu_of_rtx(
    capability: Any, requested: list[str], has_gpu: bool, undocumented: bool, rtx: TrtBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt_builder, "gpu_capability", lambda: capability)
    backend = find_backend("tensorrt_rtx", compute_capabilities=requested)
    assert backend.has_gpu == has_gpu and (
        backend.undocumented_gpu == capability if undocumented else not backend.undocumented_gpu
    )


@pytest.mark.parametrize("capability", [(7, 5), (8, 7), (9, 0), (10, 0), (11, 0)])
def test_unsupported_gpu_of_rtx(capability: tuple[int, int], rtx: TrtBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_builder, "gpu_capability", lambda: capability)
    monkeypatch.setattr(importlib, "import_module", FailingImporter(*FULL))
    words = (
        "TensorRT-RTX does not support this GPU .compute capability {}.{}. by default, only compute capability 8.0, 8.6".format(
            *capability
        )
    )
    with pytest.raises(trt_builder.UnsupportedGpu, match=words):
        find_backend("tensorrt_rtx")
    with pytest.raises(BuilderNotFound, match=f"nothing here builds TensorRT engines .*{words}"):
        find_backend("auto")


def test_current_gpu_of_rtx(static: Path, rtx: TrtBackend) -> None:
    for backend, names in ((rtx, ["CURRENT"]), (replace(rtx, has_gpu=True), ["SM86", "CURRENT"])):
        with pytest.raises(HgfastError, match="CURRENT in --compute-capabilities is the GPU of this machine: give it alone"):
            build(static, ONE, backend, BuildOptions(compute_capabilities=names))


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


def test_torch_tensorrt_import_is_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its import prints the error and raises other classes than ImportError."""

    def fail(name: str) -> Any:
        print("import error when try to import")
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(HgfastError, match="Torch not compiled with CUDA enabled"):
        trt_builder.import_torch_tensorrt()
    assert capsys.readouterr().out == ""


class FakeTimingCacheConfig:
    """A builder configuration with timing caches; it accepts only those that begin with "ours"."""

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
    path, logger = tmp_path / "times", tensorrt_engine.make_logger(rtx.module)
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
    logger = tensorrt_engine.make_logger(rtx.module)
    levels = rtx.module.ILogger
    for level, words in ((levels.INFO, "i"), (levels.WARNING, "w  \n w"), (levels.ERROR, "e"), (levels.INTERNAL_ERROR, "e")):
        logger.log(level, words)
    assert tensorrt_engine.collected_messages(logger, "warning") == ("w w",) and tensorrt_engine.collected_messages(
        logger, "error"
    ) == ("e",)
    assert tensorrt_engine.make_logger(rtx.module) is logger and not logger.lines
    assert tensorrt_engine.last_errors(logger) == "it does not say why"


def engine_sidecar(path: Path, version: str, kind: Any = "tensorrt_rtx", **builder: Any) -> Sidecar:
    return make_sidecar(path, export_format=kind, batch=FREE, builder={"backend": kind, "version": version, **builder})


def with_version(plan: bytes, *version: int) -> bytes:
    """Return the plan as if another version had built it."""
    return plan[:24] + bytes(version) + plan[28:]


def test_engine_needs(tmp_path: Path, plan: bytes, rtx: TrtBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hand.engine"
    path.write_bytes(plan)

    def check_error(words: str, described: Sidecar, content: bytes = plan) -> None:
        path.write_bytes(content)
        with pytest.raises(HgfastError, match=words) as caught:
            Engine(path, described)
        assert str(path) in str(caught.value)

    good = engine_sidecar(path, rtx.version)
    if not torch.cuda.is_available():
        check_error(r"running .* needs an NVIDIA GPU, and no NVIDIA driver is installed", good)
        with monkeypatch.context() as patch:
            patch.setattr(cuda_memory, "import_cudart", lambda what: FakeCudart())
            check_error("cannot load .*cudaError", good)
    check_error("has .* bytes where its header says", good, plan[:-3])
    check_error("is not a TensorRT-RTX engine", good, b"garbage" * 99)
    older, newer = with_version(plan, 1, 6, 1, 120), with_version(plan, 9, 0, 0, 1)
    check_error("was built by TensorRT-RTX 1.6.1.120 according to its header, but its sidecar says 1.7", good, older)
    refused = f"was built by TensorRT-RTX 1.6.1.120, but {rtx.version} is installed here, .* or install TensorRT-RTX 1.6.1.120$"
    check_error(refused, engine_sidecar(path, "1.6.1.120"), older)
    check_error("install TensorRT-RTX 9.0.0.1 or newer", engine_sidecar(path, "9.0.0.1", version_compatible=True), newer)
    check_error("is not a TensorRT engine according to its sidecar", engine_sidecar(path, "", "onnx"))
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


def some_images(number: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (number, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_a_real_engine(name: Any, fp32: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """An engine agrees with torch, with and without CUDA graphs, in torch's stream and from threads; memory stays constant."""
    pytest.importorskip("cuda.bindings.runtime", reason="pip install cuda-bindings")
    try:
        backend = find_backend(name, gpu=True)
        built = build(fp32, FREE, backend, OPTIONS)
    except HgfastError as error:
        pytest.skip(str(error))
    path = tmp_path / "hand.engine"
    path.write_bytes(built.plan)
    described = engine_sidecar(path, backend.version, name)
    network, external_stream = ExportModule(load_model(tiny_checkpoint), ExportSpec()), torch.cuda.Stream()
    with Engine(path, described) as engine, Engine(path, described, use_cuda_graphs=False) as plain:
        with Engine(path, described, stream=external_stream.cuda_stream) as given:
            for number in (1, 4, 2, 3, 1, 4):
                images = some_images(number, number)
                wanted = plain(images)["keypoints"]
                with torch.inference_mode():
                    expected = network(torch.from_numpy(images))[0].numpy()
                assert wanted.shape == expected.shape == (number, 16, 3)
                # the highest cell of a map may be another for the smallest of differences
                assert np.abs(wanted[..., 2] - expected[..., 2]).max() < 1e-2 * np.abs(expected[..., 2]).max()
                assert np.mean(np.abs(wanted[..., :2] - expected[..., :2]).max(-1) < 0.5) > 0.8
                for runner in (engine, given):
                    for _ in range(3):
                        assert np.allclose(runner(images)["keypoints"][..., 2], wanted[..., 2], rtol=1e-3, atol=1e-5)
            assert not engine.warnings and not given.warnings and not plain.warnings
            contexts = list(engine._shape_contexts.values())
            assert len(contexts) == 4 and all((context.graph is not None) == (name == "tensorrt") for context in contexts)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda seed: engine(some_images(2, seed))["keypoints"], range(64)))
        for seed in (0, 1, 63):
            assert np.allclose(found[seed][..., 2], plain(some_images(2, seed))["keypoints"][..., 2], rtol=1e-3, atol=1e-5)
        free = torch.cuda.mem_get_info()[0]
        for turn in range(500):
            engine(some_images(1 + turn % 4))
            if turn % 50 == 0:  # as if another shape had taken its place
                engine._release_shape(some_images(1 + turn % 4).shape)
        assert free - torch.cuda.mem_get_info()[0] < 5 << 20
    with pytest.raises(HgfastError, match="is closed"):
        engine(some_images(1))


class FakeTorchTensorRT:
    """Records its arguments."""

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
def test_torch_tensorrt(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full, network = (ExportModule(load_model(tiny_checkpoint), ExportSpec(fp16=fp16)) for fp16 in (False, True))
    example = network.example(1)
    assert torch_trt.module_conv_weights(network) == ConvWeights("fp16", torch_trt.module_conv_weights(full).count)
    library = FakeTorchTensorRT()
    backend = TrtBackend("torch_tensorrt", "11.0.0.1", library, "", True)
    if not torch.cuda.is_available():
        with pytest.raises(HgfastError, match="Torch-TensorRT needs an NVIDIA GPU"):
            torch_trt.build(network, example, FREE, OPTIONS, backend)
    times = tmp_path / "times"
    times.write_bytes(b"before")
    with fake_gpu(monkeypatch):
        options = BuildOptions(timing_cache=times, hardware_compatible=True, workspace_gb=0.5, optimization_level=4)
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
