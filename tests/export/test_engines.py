"""Building engines and what is known of them without a GPU, with TensorRT-RTX; running them as far as that goes."""

from __future__ import annotations

import ctypes
import importlib
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

sys.path.append(str(Path(__file__).parents[2] / "export"))  # where Python looks for the modules beside a script

import engines
import torch_trt
from engines import Backend, EngineOptions, NoBuilder, build, check_plan, find_backend
from graph import Deployed, Wiring
from proof import Weights, onnx_weights, prove_precision

import hgfast.engine
from hgfast.checkpoints import Meta
from hgfast.checkpoints import build as build_network
from hgfast.engine import Engine, plan_version
from hgfast.errors import HgfastError
from hgfast.model import PRESETS
from hgfast.preprocessing import Preprocessing
from hgfast.sidecar import Batch, Port, Precision, Sidecar
from hgfast.skeletons import BODY16

SIDE = PRESETS["tiny"].input_size
FREE, ONE = Batch(1, 2, 4), Batch(1, 1, 1)
OPTIONS = EngineOptions()


def deployed(preset: str, half: bool) -> Deployed:
    torch.manual_seed(0)
    meta = Meta(BODY16, Preprocessing(), PRESETS[preset].input_size, "gaussian", "argmax", 0.0)
    return Deployed(build_network(PRESETS[preset], meta).eval(), Wiring(half=half))


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
def rtx() -> Backend:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed here")
    return find_backend("tensorrt_rtx", gpu=False)


@pytest.fixture(scope="session")
def plan(fp32: Path, rtx: Backend) -> bytes:
    return build(fp32, FREE, rtx, OPTIONS).plan


def small(path: Path, nodes: list[Any], kind: int, shape: list[Any], stored: tuple[Any, ...] = ()) -> Path:
    """An ONNX file of some nodes, from x to y."""
    ends = [helper.make_tensor_value_info(name, kind, shape) for name in ("x", "y")]
    ends[1].type.tensor_type.ClearField("shape")
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], list(stored))
    sets = [helper.make_opsetid("", 20), helper.make_opsetid("strange", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=sets, ir_version=10).SerializeToString())
    return path


@pytest.mark.parametrize("name, batch", [("fp32", FREE), ("fp16", FREE), ("static", ONE), ("fp32", Batch(3, 3, 3))])
def test_build(name: str, batch: Batch, rtx: Backend, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(name)
    built = build(path, batch, rtx, OPTIONS)
    check_plan(built.plan, rtx)
    assert built.library == "tensorrt_rtx" and built.layers is None and not built.warnings
    assert plan_version(built.plan) == tuple(map(int, rtx.version.split(".")))
    assert built.build_s > 0 and built.parse_s > 0
    assert built.about["version"] == rtx.version and "8.6" in built.about["hardware"]
    json.dumps(built.about)
    precision: Precision = "fp16" if name == "fp16" else "fp32"
    assert onnx_weights(path).precision == precision
    assert precision in prove_precision(path, len(built.plan), precision)
    other: Precision = "fp32" if name == "fp16" else "fp16"
    with pytest.raises(HgfastError, match=f"{other} was asked for and the convolutions of .* are {precision}"):
        prove_precision(path, len(built.plan), other)


@pytest.mark.slow
def test_fp16_halves_a_plan(folder: Path, rtx: Backend) -> None:
    sizes = {}
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    for precision in precisions:
        path = export("hg1", precision == "fp16", folder / f"hg1-{precision}.onnx")
        sizes[precision] = len(build(path, FREE, rtx, OPTIONS).plan)
        assert "of its weights in fp32" in prove_precision(path, sizes[precision], precision) or precision == "fp32"
    assert 0.45 < sizes["fp16"] / sizes["fp32"] < 0.6
    with pytest.raises(HgfastError, match="came out as fp32"):
        prove_precision(path, sizes["fp32"], "fp16")


def test_options(static: Path, rtx: Backend) -> None:
    options = EngineOptions(
        hardware_compatible=True, workspace_gb=1, optimization_level=2, compute_capabilities=("SM75", "SM120")
    )
    about = build(static, ONE, rtx, options).about
    assert about["hardware"] == "compute capability 7.5, 12.0"
    assert about["optimization_level"] == 2 and about["workspace_gb"] == 1 and about["hardware_compatible"]


@pytest.mark.parametrize(
    "options, complaint",
    [
        (EngineOptions(version_compatible=True), "TensorRT-RTX cannot build version-compatible engines"),
        (EngineOptions(timing_cache=Path("times")), "TensorRT-RTX times no kernels"),
        (EngineOptions(workspace_gb=0), "a workspace of 0 GB is none"),
        (EngineOptions(optimization_level=6), "the optimization level is 6, must be 0 to 5"),
        (EngineOptions(compute_capabilities=("SM90",)), "cannot build for 'SM90': choose from SM75, SM80, SM86"),
    ],
)
def test_bad_options(static: Path, rtx: Backend, options: EngineOptions, complaint: str) -> None:
    with pytest.raises(HgfastError, match=complaint):
        build(static, ONE, rtx, options)


def test_options_of_others() -> None:
    with pytest.raises(HgfastError, match="tensorrt builds for the GPU of the machine, not for SM86"):
        EngineOptions(compute_capabilities=("SM86",)).check("tensorrt")
    with pytest.raises(HgfastError, match="do not run by themselves"):
        EngineOptions(version_compatible=True).check("torch_tensorrt")
    EngineOptions(Path("times"), True, True, 1.5, 5).check("tensorrt")


def test_batch(static: Path, fp32: Path, rtx: Backend) -> None:
    with pytest.raises(HgfastError, match="takes 1 images at once, not 1:2:4: export it with a free batch size"):
        build(static, FREE, rtx, OPTIONS)
    with pytest.raises(HgfastError, match="a batch of 2:1:4 is not at least 1 and ascending"):
        build(fp32, Batch(2, 1, 4), rtx, OPTIONS)


def test_no_profile(fp32: Path, rtx: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_set_profile", lambda *_: None)
    with pytest.raises(HgfastError, match=r"cannot build .*fp32.onnx \(.*no optimization profile has been defined"):
        build(fp32, FREE, rtx, OPTIONS)


def test_refused_profile(fp32: Path, rtx: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "check_batch", lambda *_: None)
    with pytest.raises(HgfastError, match=r"cannot be built for a batch of .* \(.*MIN<=OPT<=MAX"):
        build(fp32, Batch(3, 2, 4), rtx, OPTIONS)


def test_broken_onnx(tmp_path: Path, fp32: Path, rtx: Backend) -> None:
    cut, empty = tmp_path / "cut.onnx", tmp_path / "empty.onnx"
    cut.write_bytes(fp32.read_bytes()[:-1000])
    empty.touch()
    cases = [(cut, "MODEL_DESERIALIZE_FAILED: .*Failed to parse the ONNX model"), (empty, "holds no network")]
    cases += [(tmp_path / "none.onnx", "cannot be read .No such file"), (tmp_path, "cannot be read .Is a directory")]
    for path, complaint in cases:
        with pytest.raises(HgfastError, match=complaint) as caught:
            build(path, FREE, rtx, OPTIONS)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    for path, complaint in ((cut, "cannot be read as ONNX"), (tmp_path / "none.onnx", "No such file"), (empty, "no convolution")):
        with pytest.raises(HgfastError, match=complaint):
            onnx_weights(path)


def test_unknown_to_the_parser(tmp_path: Path, rtx: Backend) -> None:
    turn = helper.make_node("Transpose", ["x"], ["y"], name="turn", perm=[0, 3, 1, 2])
    path = small(tmp_path / "turn.onnx", [turn], TensorProto.UINT8, [1, 4, 4, 3])
    with pytest.raises(HgfastError, match=r"INVALID_NODE at node turn \(Transpose\): .*first input has type UInt8"):
        build(path, ONE, rtx, OPTIONS)
    odd = helper.make_node("Mystery", ["x"], ["y"], name="odd", domain="strange")
    path = small(tmp_path / "odd.onnx", [odd], TensorProto.FLOAT, [1, 4])
    with pytest.raises(HgfastError, match=r"at node odd \(Mystery\): .*Plugin not found"):
        build(path, ONE, rtx, OPTIONS)
    relu = helper.make_node("Relu", ["x"], ["y"])
    path = small(tmp_path / "free.onnx", [relu], TensorProto.FLOAT, ["batch", "side"])
    with pytest.raises(HgfastError, match=r"leaves more of its input x .* free than the batch size"):
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
        return onnx_weights(small(tmp_path / "one.onnx", nodes, single, [1, 4, 1, 1], stored)).precision

    assert precision([conv], weights("w", single)) == "fp32"
    assert precision([conv], weights("w", half)) == "fp16"
    assert precision([node("Cast", ["v"], ["w"], to=half), conv], weights("v", single)) == "fp16"
    assert precision([node("Constant", [], ["w"], value=weights("", half)), conv]) == "fp16"
    restore = node("DequantizeLinear", ["q", "s", "z"], ["w"])
    assert precision([restore, conv], weights("q", TensorProto.INT8), scale, point) == "int8"
    both = [node("QuantizeLinear", ["v", "s", "z"], ["q"]), restore, conv]
    assert precision(both, weights("v", single), scale, point) == "int8"
    with pytest.raises(HgfastError, match="computes in float8e4m3fn, which is none of fp32, fp16 and int8"):
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
    half, large = Weights("fp16", 1_000_000), Weights("fp16", 4_000_000)
    assert "3 of the engine's 4 convolutions are fp16" in prove_precision(
        half, 10**7, "fp16", layers("FP16", "FP16", "FP32", "FP16")
    )
    with pytest.raises(HgfastError, match="came out as 2 fp32, 1 fp16"):
        prove_precision(half, 10**6, "fp16", layers("FP32", "FP16", "FP32"))
    with pytest.raises(HgfastError, match="came out as 2 fp16"):
        prove_precision(Weights("fp32", 9), 10**6, "fp32", layers("FP16", "FP16"))
    assert "2 of" in prove_precision(Weights("int8", 9), 9, "int8", layers("Int8", "Int8"))
    with pytest.raises(HgfastError, match="gave no JSON"):
        prove_precision(half, 9, "fp16", "no JSON")
    assert "too small" in prove_precision(half, 10**7, "fp16")
    assert "51% of its weights in fp32" in prove_precision(large, 8_200_000, "fp16", layers())
    with pytest.raises(HgfastError, match=r"16.1 MB, where 13.3 MB would be the most .* so it came out as fp32"):
        prove_precision(large, 16_100_000, "fp16")
    assert "shows only on a GPU" in prove_precision(Weights("int8", 10**7), 10**9, "int8")
    with pytest.raises(HgfastError, match="int8 was asked for and the convolutions of the network are fp16"):
        prove_precision(half, 10**6, "int8")


def test_check_plan(plan: bytes, rtx: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Backend("tensorrt", "11.4.0.106", None, "", False)
    for broken, complaint in (
        (plan[:-1], f"has {len(plan) - 1} bytes where its header says {len(plan)}"),
        (plan[:40], "is no TensorRT-RTX engine"),
        (b"", "is no TensorRT-RTX engine"),
        (b"garbage " * 100, "is no TensorRT-RTX engine"),
        (b"ftrt" + plan[4:], "is an engine of TensorRT, not of TensorRT-RTX"),
    ):
        with pytest.raises(HgfastError, match=complaint):
            check_plan(broken, rtx)
    with pytest.raises(HgfastError, match="is an engine of TensorRT-RTX, not of TensorRT:"):
        check_plan(plan, other)
    monkeypatch.setitem(hgfast.engine.MAGIC, b"odd ", "tensorrt_rtx")
    with pytest.raises(HgfastError, match="the header of the engine is broken, as TensorRT-RTX finds"):
        check_plan(b"odd " + plan[4:], rtx)
    check_plan(b"ftrt" + bytes(60), other)
    assert plan_version(plan[:40]) is None is plan_version(b"x" * 100)


class Importer:
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
    assert backend.why == (
        f"tensorrt_rtx {backend.version}: builds engines that fit several kinds of GPU; TensorRT and Torch-TensorRT build only "
        "with a GPU, and torch finds none that it can use"
    )


@pytest.mark.usefixtures("rtx")
def test_auto_with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: dict[str, Exception] = {
        "tensorrt_bindings": ImportError("libnvinfer.so.11: cannot open shared object file"),
        "torch_tensorrt": Exception("import error when try to import _TensorRTProxyModule"),
    }
    monkeypatch.setattr(importlib, "import_module", Importer("tensorrt", failures=failures))
    backend = find_backend("auto", gpu=True)
    assert backend.name == "tensorrt_rtx" and backend.gpu
    assert "TensorRT cannot be imported (libnvinfer.so.11" in backend.why and "_TensorRTProxyModule" in backend.why
    full = SimpleNamespace(__version__="11.0.0.1")
    importer = Importer("tensorrt")
    monkeypatch.setattr(importlib, "import_module", lambda name, *_: full if name == "tensorrt" else importer(name))
    assert find_backend("auto", gpu=True).why == "tensorrt 11.0.0.1: builds for this machine's GPU"
    assert find_backend("tensorrt", gpu=True).module is full
    with pytest.raises(HgfastError, match="tensorrt builds engines only where there is an NVIDIA GPU"):
        find_backend("tensorrt", gpu=False)
    torch_tensorrt = SimpleNamespace(__version__="2.13.0")
    found = {"torch_tensorrt": torch_tensorrt}
    monkeypatch.setattr(engines, "import_tensorrt", lambda name: (_ for _ in ()).throw(hgfast.engine.Missing("no", "pip")))
    monkeypatch.setattr(importlib, "import_module", lambda name, *_: found.get(name, full))
    backend = find_backend("auto", gpu=True)
    assert (backend.name, backend.version, backend.module) == ("torch_tensorrt", "11.0.0.1", torch_tensorrt)


def test_missing_builders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib, "import_module", Importer(*RTX, *FULL))
    for gpu in (False, True):
        with pytest.raises(NoBuilder, match=r"nothing here builds TensorRT engines .*No module named 'tensorrt_rtx'") as caught:
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


def test_quiet_about_torch_tensorrt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints what it raises, and raises more kinds than ImportError."""

    def fail(name: str) -> Any:
        print("import error when try to import")
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(HgfastError, match="Torch not compiled with CUDA enabled"):
        engines.import_torch_tensorrt()
    assert capsys.readouterr().out == ""


class Times:
    """A builder's configuration as far as times of kernels go; it takes only those that begin with "ours"."""

    def __init__(self, none: bool = False) -> None:
        self.none, self.kept = none, b""

    def create_timing_cache(self, content: bytes) -> Any:
        return None if self.none else content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        taken = cache == b"" or cache.startswith(b"ours")
        self.kept = cache if taken else self.kept
        return taken

    def get_timing_cache(self) -> Any:
        return None if self.none else SimpleNamespace(serialize=lambda: self.kept + b"+")


def test_timing_cache(tmp_path: Path, rtx: Backend) -> None:
    path, logger = tmp_path / "times", hgfast.engine.listen(rtx.module)
    times = Times()
    assert not engines._read_times(times, path, logger) and not engines._write_times(times, path)
    assert path.read_bytes() == b"+"
    path.write_bytes(b"ours")
    assert not engines._read_times(times, path, logger) and times.kept == b"ours"
    path.write_bytes(b"another GPU's")
    assert "is not of this GPU" in engines._read_times(times, path, logger)[0]
    assert times.kept == b"" and not engines._write_times(times, path) and path.read_bytes() == b"+"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(HgfastError, match="no timing cache can be made"):
        engines._read_times(Times(none=True), path, logger)
    assert "gave no times" in engines._write_times(Times(none=True), path)[0]
    assert "cannot be written" in engines._write_times(times, tmp_path / "nowhere" / "times")[0]
    with pytest.raises(HgfastError, match=r"choose another folder with --timing-cache|cannot make the folder"):
        build(path, ONE, replace(rtx, name="tensorrt"), EngineOptions(timing_cache=path / "under a file"))


def test_logger_is_one(rtx: Backend) -> None:
    logger = hgfast.engine.listen(rtx.module)
    levels = rtx.module.ILogger
    for level, words in ((levels.INFO, "i"), (levels.WARNING, "w  \n w"), (levels.ERROR, "e"), (levels.INTERNAL_ERROR, "e")):
        logger.log(level, words)
    assert hgfast.engine.heard(logger, "warning") == ("w w",) and hgfast.engine.heard(logger, "error") == ("e",)
    assert hgfast.engine.listen(rtx.module) is logger and not logger.lines
    assert hgfast.engine.reasons(logger) == "it does not say why"


def sidecar(version: str, kind: Any = "tensorrt_rtx", outputs: tuple[str, ...] = ("keypoints",), **builder: Any) -> Sidecar:
    return Sidecar(
        artefact="hand.engine",
        sha256="0" * 64,
        kind=kind,
        precision="fp32",
        skeleton=BODY16,
        input=Port("images", "uint8", ("batch", SIDE, SIDE, 3), "NHWC"),
        outputs=tuple(Port(name, "float32", ("batch", 16, 3), "batch, joint, x y score") for name in outputs),
        input_size=SIDE,
        normalised=False,
        mean=(0.5, 0.5, 0.5),
        std=(1.0, 1.0, 1.0),
        batch=FREE,
        stride=4,
        maps="gaussian",
        decoder="argmax",
        flip_test=False,
        pixel_offset=0.0,
        shift=0.0,
        checkpoint="checkpoint.pt",
        checkpoint_sha256="0" * 64,
        versions={},
        revision="",
        created="",
        builder={"backend": kind, "version": version, **builder},
    )


def test_engine_needs(tmp_path: Path, plan: bytes, rtx: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hand.engine"
    path.write_bytes(plan)

    def complains(words: str, described: Sidecar, content: bytes = plan) -> None:
        path.write_bytes(content)
        with pytest.raises(HgfastError, match=words) as caught:
            Engine(path, described)
        assert str(path) in str(caught.value)

    good = sidecar(rtx.version)
    if not torch.cuda.is_available():
        complains(r"running .* needs an NVIDIA GPU, and torch .* finds none", good)
        with monkeypatch.context() as patch:
            patch.setattr(hgfast.engine, "_torch_with_gpu", lambda *_: torch)
            complains("cannot load .*cudaError", good)
    complains("has .* bytes where its header says", good, plan[:-3])
    complains("is no TensorRT-RTX engine", good, b"garbage" * 99)
    complains(
        "was built by TensorRT-RTX 1.6.1.120, as its header says, and its sidecar says 1.7", good, changed(plan, 1, 6, 1, 120)
    )
    older = changed(plan, 1, 6, 1, 120)
    complains(
        f"was built by TensorRT-RTX 1.6.1.120 and {rtx.version} is installed here, .* or install TensorRT-RTX 1.6.1.120$",
        sidecar("1.6.1.120"),
        older,
    )
    newer = changed(plan, 9, 0, 0, 1)
    complains("install TensorRT-RTX 9.0.0.1 or newer", sidecar("9.0.0.1", version_compatible=True), newer)
    complains("is no TensorRT engine, as its sidecar says", sidecar("", kind="onnx"))
    path.unlink()
    with pytest.raises(HgfastError, match=r"cannot be read .No such file"):
        Engine(path, good)
    path.write_bytes(plan)
    monkeypatch.setattr(importlib, "import_module", Importer("torch"))
    complains("needs torch, which keeps its memory on the GPU: pip install torch", good)
    monkeypatch.setattr(importlib, "import_module", Importer(*RTX))
    with pytest.raises(HgfastError, match=r"TensorRT-RTX cannot be imported .*: pip install tensorrt-rtx-cu13-libs"):
        Engine(path, good)


def changed(plan: bytes, *version: int) -> bytes:
    """The plan as if another version had built it."""
    return plan[:24] + bytes(version) + plan[28:]


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = b"ftrt" + bytes(20) + bytes((10, 13, 3, 9)) + bytes(100)
    monkeypatch.setattr(hgfast.engine, "import_tensorrt", lambda name: SimpleNamespace(__version__="11.4.0.106"))
    with pytest.raises(HgfastError, match=r"was built by TensorRT 10.13.3.9 and 11.4.0.106 is installed here"):
        hgfast.engine.check_version(plan, "tensorrt", "10.13.3.9", False, "it")
    hgfast.engine.check_version(plan, "tensorrt", "10.13.3.9", True, "it")
    newer = b"ftrt" + bytes(20) + bytes((11, 4, 0, 300 % 256)) + bytes(100)
    with pytest.raises(HgfastError, match=r"11.4.0.300 or newer"):
        hgfast.engine.check_version(newer, "tensorrt", "11.4.0.300", True, "it")
    hgfast.engine.check_version(changed(plan, 11, 4, 0, 106), "tensorrt", "11.4.0.106", False, "it")


class FakeTensorRT:
    """A TensorRT whose engines give each image's mean, and the mean's double, from and to memory of this process.

    names: of its outputs. fails: what does not work.
    """

    __version__ = "11.4.0.106"
    TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")

    class ILogger:
        pass

    def __init__(self, names: tuple[str, str], fails: str = "") -> None:
        self.names, self.fails, self.prepared = names, fails, 0
        self.addresses: dict[str, int] = {}
        self.allowed: bool | None = None

    def Runtime(self, logger: Any) -> Any:
        library = self

        class Runtime:
            engine_host_code_allowed = False

            def deserialize_cuda_engine(self, plan: bytes) -> Any:
                library.allowed = self.engine_host_code_allowed
                return None if library.fails == "load" else library

        return Runtime()

    @property
    def num_io_tensors(self) -> int:
        return 3

    def get_tensor_name(self, index: int) -> str:
        return ("images", *self.names)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "images" else "out"

    def get_tensor_dtype(self, name: str) -> str:
        return "uint8" if name == "images" else "float32"

    def nptype(self, kind: str) -> Any:
        return getattr(np, kind)

    def create_execution_context(self) -> Any:
        return None if self.fails == "context" else self

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape, self.prepared = shape, self.prepared + 1
        return self.fails != "shape"

    def get_tensor_shape(self, name: str) -> list[int]:
        return [self.shape[0], 1]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return self.fails != "address"

    def execute_async_v3(self, stream: int) -> bool:
        means = self.array("images", ctypes.c_uint8, int(np.prod(self.shape))).reshape(self.shape[0], -1).mean(1)
        for name, values in zip(self.names, (means, 2 * means)):
            self.array(name, ctypes.c_float, len(means))[:] = values
        return self.fails != "run"

    def array(self, name: str, kind: Any, size: int) -> Any:
        """What lies at the address that was given for a tensor."""
        return np.ctypeslib.as_array((kind * size).from_address(self.addresses[name]))


@pytest.fixture
def run_fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Engine]:
    """An `Engine` of a `FakeTensorRT`, with a torch whose GPU is this process."""
    stream = SimpleNamespace(cuda_stream=7, synchronize=lambda: None)
    cuda = SimpleNamespace(Stream=lambda: stream, stream=lambda _: nullcontext(), synchronize=lambda: None)
    fake = SimpleNamespace(cuda=cuda, from_numpy=torch.from_numpy, empty=lambda size, dtype, **_: torch.empty(size, dtype=dtype))
    path = tmp_path / "hand.engine"
    path.write_bytes(b"ftrt" + bytes(20) + bytes((11, 4, 0, 106)) + bytes(100))

    def start(library: FakeTensorRT, **builder: Any) -> Engine:
        monkeypatch.setattr(hgfast.engine, "import_tensorrt", lambda name: library)
        monkeypatch.setattr(hgfast.engine, "_torch_with_gpu", lambda *_: fake)
        monkeypatch.setattr(hgfast.engine, "listen", lambda trt: SimpleNamespace(lines=[("error", "the reason")]))
        return Engine(path, sidecar("11.4.0.106", "tensorrt", ("mean", "double"), **builder))

    return start


@pytest.mark.parametrize("names", [("mean", "double"), ("output0", "output1")])
def test_engine_runs(run_fake: Callable[..., Engine], names: tuple[str, str]) -> None:
    library = FakeTensorRT(names)
    engine = run_fake(library)
    assert library.allowed is False
    images = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    images.flags.writeable = False
    for given in (images, images[::-1], images[:2]):
        found = engine(given)
        assert list(found) == ["mean", "double"]
        assert np.allclose(found["mean"][:, 0], given.mean((1, 2, 3))) and np.allclose(found["double"], 2 * found["mean"])
    assert library.prepared == 2
    with pytest.raises(HgfastError, match="takes uint8, not float32: convert the images"):
        engine(images.astype(np.float32))


@pytest.mark.parametrize(
    "fails, complaint",
    [
        ("load", r"TensorRT cannot load .* \(the reason\): build it on this machine"),
        ("context", r"cannot start \(the reason\)"),
        ("shape", r"takes no images of shape \(1, 2\)"),
        ("address", "takes no buffer for images"),
        ("run", r"failed \("),
    ],
)
def test_engine_fails(run_fake: Callable[..., Engine], fails: str, complaint: str) -> None:
    with pytest.raises(HgfastError, match=complaint):
        run_fake(FakeTensorRT(("mean", "double"), fails))(np.zeros((1, 2), np.uint8))


def test_engine_ports(run_fake: Callable[..., Engine]) -> None:
    with pytest.raises(HgfastError, match="gives mean, median, where its sidecar has images and mean, double"):
        run_fake(FakeTensorRT(("mean", "median")))
    library = FakeTensorRT(("mean", "double"))
    run_fake(library, version_compatible=True)
    assert library.allowed is True


def test_no_torch_to_import_it() -> None:
    code = "import sys, hgfast.engine; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


class FakeTorchTensorRT:
    """Notes what it is asked for."""

    __version__ = "2.13.0"

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: dict[str, Any] = {}
        self.dynamo = SimpleNamespace(convert_exported_program_to_serialized_trt_engine=self.convert)
        self.error = error

    def Input(self, **keywords: Any) -> Any:
        return keywords

    def convert(self, program: Any, **keywords: Any) -> bytes:
        self.program, self.asked = program, keywords
        times = Path(keywords["timing_cache_path"])
        self.before = times.read_bytes() if times.exists() else b""
        times.write_bytes(self.before + b"+")
        logging.getLogger("torch_tensorrt [TensorRT Conversion Context]").warning("slow\nkernels")
        if self.error is not None:
            raise self.error
        return b"ftrt" + bytes(100)


@contextmanager
def pretended_gpu(patch: pytest.MonkeyPatch) -> Iterator[None]:
    with patch.context() as inner:
        inner.setattr(torch.cuda, "is_available", lambda: True)
        inner.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
        inner.setattr(torch.nn.Module, "cuda", lambda self: self)
        inner.setattr(torch.Tensor, "cuda", lambda self: self)
        inner.setattr(torch_trt, "inspect", lambda *_: None)
        yield


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning")
def test_torch_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, example = deployed("tiny", True), torch.zeros((1, SIDE, SIDE, 3), dtype=torch.uint8)
    assert torch_trt.module_weights(network) == Weights("fp16", torch_trt.module_weights(deployed("tiny", False)).numbers)
    library = FakeTorchTensorRT()
    backend = Backend("torch_tensorrt", "11.0.0.1", library, "", True)
    if not torch.cuda.is_available():
        with pytest.raises(HgfastError, match="Torch-TensorRT needs an NVIDIA GPU"):
            torch_trt.build(network, example, FREE, OPTIONS, backend)
    times = tmp_path / "times"
    times.write_bytes(b"before")
    with pretended_gpu(monkeypatch):
        options = EngineOptions(times, True, workspace_gb=0.5, optimization_level=4)
        built = torch_trt.build(network, example, FREE, options, backend)
        assert built.warnings == ("slow kernels",) and built.library == "tensorrt"
        assert times.read_bytes() == b"before+" and library.before == b"before"
        assert built.about["torch_tensorrt"] == "2.13.0" and built.about["version"] == "11.0.0.1"
        assert library.asked["workspace_size"] == 1 << 29 and library.asked["hardware_compatible"]
        shape = (SIDE, SIDE, 3)
        images = {"min_shape": (1, *shape), "opt_shape": (2, *shape), "max_shape": (4, *shape), "dtype": torch.uint8}
        assert library.asked["arg_inputs"] == [images]
        built = torch_trt.build(network, example, Batch(3, 3, 3), OPTIONS, backend)
        assert library.asked["arg_inputs"] == [{"shape": (3, *shape), "dtype": torch.uint8}] and library.before == b""
        assert built.about["hardware"] == "compute capability 9.0"
        broken = replace(backend, module=FakeTorchTensorRT(RuntimeError("no converter")))
        with pytest.raises(HgfastError, match=r"cannot convert the network \(no converter; slow kernels\)"):
            torch_trt.build(network, example, Batch(1, 1, 1), OPTIONS, broken)
