"""DALI's graph for a GPU, built and serialized without one: its operators and arguments agree with DALI's own schemas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hgfast.cli import parse
from hgfast.config import Config, LoadingConfig
from hgfast.errors import HgfastError
from hgfast.normalization import Normalization
from hgfast.pipelines.batch_plan import BatchPlan
from hgfast.pipelines.loaders import dali as dali_module
from hgfast.pipelines.loaders.dali import DaliLoader, find_undecodable, hw_decoder_load
from hgfast.pipelines.readers.freihand import read_freihand

dali = pytest.importorskip("nvidia.dali", reason="needs NVIDIA DALI")
backend = dali.backend
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
REGISTERED = {
    "cpu": set(backend.RegisteredCPUOps()),
    "mixed": set(backend.RegisteredMixedOps()),
    "gpu": set(backend.RegisteredGPUOps()),
}
"""Names of the operators that DALI implements, by backend."""
BuildGraph = Callable[..., list[Any]]


@pytest.fixture
def no_gpu_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pipelines for a GPU be built up to the point where DALI needs one, on a GPU of compute capability 9.0."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(dali_module, "_device_id", lambda device: None)
    monkeypatch.setattr(dali.Pipeline, "build", lambda pipeline: None)


@pytest.fixture
def build_graph(hands: Path, no_gpu_needed: None) -> BuildGraph:
    """Return a function that serializes a loader's graph for a device and returns its operators."""
    plan = BatchPlan(read_freihand(hands, "valid"), 64, 4)

    def build(device: torch.device, **options: Any) -> list[Any]:
        pipeline = DaliLoader(plan, device, 1, Normalization(), **options)._pipeline
        assert pipeline.serialize()  # DALI's C++ code accepts every operator with its inputs and arguments
        return pipeline._ops

    return build


def name_of(operator: Any) -> str:
    return operator._op.schema.Name()


@pytest.mark.parametrize("preload_gb", [0.0, 1.0])
@pytest.mark.parametrize("warp", ["warp_affine", "warp_perspective"])
def test_gpu_graph_agrees_with_dalis_schemas(build_graph: BuildGraph, warp: str, preload_gb: float) -> None:
    operators = build_graph(GPU, warp=warp, options=LoadingConfig(preload_gb=preload_gb))
    for operator in operators:
        op, spec, schema = operator._op, operator.spec, operator._op.schema
        assert op.device in schema.GetSupportedBackends() and schema.Name() in REGISTERED[op.device]
        schema.CheckArgs(spec)  # raises for an argument that the operator lacks
        assert not schema.IsDeprecated() and not any(map(schema.IsDeprecatedArg, op._init_args.keys() & known_arguments(schema)))
        devices = [spec.InputDevice(number) for number in range(spec.NumInput())]
        regular = spec.NumRegularInput()
        assert all(device == "cpu" for device in devices[regular:])  # arguments are read by the host
        if op.device != "gpu":
            assert all(device == "cpu" for device in devices[:regular])
        assert {spec.OutputDevice(number) for number in range(spec.NumOutput())} == {"cpu" if op.device == "cpu" else "gpu"}
    on_gpu = {name_of(operator) for operator in operators if operator._op.device == "gpu"}
    warp_operator = {"warp_affine": "WarpAffine", "warp_perspective": "experimental__WarpPerspective"}[warp]
    assert on_gpu == {"Slice", "Resize", "_conditional__Split", "_conditional__Merge", warp_operator}
    assert [name_of(operator) for operator in operators if operator._op.device == "mixed"] == ["decoders__Image"]
    assert ("io__file__Read" in map(name_of, operators)) == (preload_gb == 0)


def known_arguments(schema: Any) -> set[str]:
    return set(schema.GetArgumentNames())


def test_gpu_decodes_whole_images_with_the_arguments_of_the_cpu(build_graph: BuildGraph) -> None:
    """nvImageCodec 0.9.0 crashes on a GPU when it decodes a region of a JPEG."""
    arguments = {}
    for device, options in ((GPU, {}), (GPU, {"decode": "region"}), (CPU, {"decode": "image"}), (CPU, {})):
        (decoder,) = (operator for operator in build_graph(device, **options) if "decoders" in name_of(operator))
        arguments[device, decoder._op.schema.Name()] = {
            name: value for name, value in decoder._op._init_args.items() if not name.startswith("_")
        }
    whole, region = "decoders__Image", "decoders__ImageSlice"
    assert list(arguments) == [(GPU, whole), (GPU, region), (CPU, whole), (CPU, region)]
    assert arguments[GPU, whole] == {
        "output_type": dali.types.RGB, "jpeg_fancy_upsampling": True, "hw_decoder_load": 0.0
    }  # fmt: skip
    assert arguments[CPU, whole] == {**arguments[GPU, whole], "hw_decoder_load": 0.65}
    assert arguments[CPU, region] == {**arguments[CPU, whole], "axes": [0, 1]}


def test_search_for_undecodable_files_uses_the_loaders_decoder(
    hands: Path, no_gpu_needed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[list[Any]] = []

    def serialize(pipeline: Any) -> None:
        pipeline.serialize()
        graphs.append([operator for operator in pipeline._ops if "decoders" in name_of(operator)])

    monkeypatch.setattr(dali.Pipeline, "run", serialize)
    assert not find_undecodable(read_freihand(hands, "valid").paths[:1].tolist(), GPU, LoadingConfig(hw_decoder_load=0.25))
    ((decoder,),) = graphs
    assert name_of(decoder) == "decoders__Image" and decoder._op.device == "mixed"
    assert decoder._op._init_args["hw_decoder_load"] == 0.25 and decoder._op._init_args["jpeg_fancy_upsampling"]


@pytest.mark.parametrize(
    ("capability", "load"), [((7, 5), 0.65), ((8, 0), 0.65), ((8, 9), 0.65), ((9, 0), 0.0), ((10, 0), 0.65), ((12, 0), 0.65)]
)
def test_default_load_of_the_hardware_decoder(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], load: float) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    assert hw_decoder_load(GPU, LoadingConfig()) == load
    assert hw_decoder_load(GPU, LoadingConfig(hw_decoder_load=0.5)) == 0.5
    assert hw_decoder_load(GPU, LoadingConfig(hw_decoder_load=0.0)) == 0.0
    assert hw_decoder_load(CPU, LoadingConfig()) == 0.65


def test_configuration_of_the_hardware_decoder(tmp_path: Path) -> None:
    """Stored numbers stay; null is the default."""
    for text, load in (("0.65", 0.65), ("0", 0.0), ("null", None)):
        (tmp_path / "config.yaml").write_text(f"loading:\n  hw_decoder_load: {text}\n")
        config = parse(Config, ["--config", str(tmp_path / "config.yaml")])
        config.validate()
        assert config.loading.hw_decoder_load == load
        config.write_yaml(tmp_path / "again.yaml")
        assert parse(Config, ["--config", str(tmp_path / "again.yaml")]).loading == config.loading
        assert yaml.safe_load((tmp_path / "again.yaml").read_text())["loading"]["hw_decoder_load"] == load
    assert parse(Config, []).loading.hw_decoder_load is None
    with pytest.raises(HgfastError, match=r"hw_decoder_load is 1.5, must be in \[0, 1\]"):
        parse(Config, ["--loading.hw-decoder-load", "1.5"])


@pytest.mark.parametrize("broken", [False, True])
def test_gpu_that_fails_is_one_sentence_and_no_bad_file(
    hands: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: bool
) -> None:
    """After an illegal access, all of CUDA fails: no file can be decoded, and no pipeline can be built."""

    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later")

    loader = DaliLoader(BatchPlan(read_freihand(hands, "valid"), 64, 4), CPU, 1, Normalization())
    with monkeypatch.context() as patch:
        patch.setattr(loader, "device", GPU)
        patch.setattr(torch.cuda, "current_stream", lambda device: None)
        patch.setattr(torch.cuda, "synchronize", fail if broken else lambda device: None)
        patch.setattr(dali.Pipeline, "run", fail)
        patch.setattr(dali_module, "find_undecodable", lambda paths, device, loading: {})
        patch.setattr(loader, "_build", fail if broken else lambda: loader._pipeline)
        start = r"the GPU failed \(CUDA error: an illegal memory access" if broken else r"DALI failed: CUDA error"
        with pytest.raises(HgfastError, match=start):
            next(loader.epoch(0))
    assert not capsys.readouterr().err
    assert len(list(loader.epoch(0))) == len(loader)
