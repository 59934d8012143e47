"""Export a network as a TensorRT engine, by way of an ONNX that is compared with the checkpoint first.

    python export/trt.py exp/mpii/best.pt --precision fp16
    python export/trt.py exp/mpii/best.pt --precision fp16 --batch 1:8:64 --backend tensorrt_rtx --compute-capabilities [SM86]

TensorRT builds for the GPU of the machine, TensorRT-RTX for several kinds and without any. Where there is a GPU the engine is run
and compared too. The ONNX stays beside the engine, also where nothing is installed that builds one.
What may enter: the flags and the order of the work. Building is `engines`' and `torch_trt`'s, comparing `verify`'s.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import engines
import publish
import torch
from accuracy import judge
from engines import Backend, Built, EngineOptions
from graph import Deployed
from onnx_file import input_shape, input_type
from options import ExportConfig
from proof import prove_precision
from publish import NOT_RUN, Published
from to_onnx import make_onnx
from verify import Limits, Row, Witness, batches, compare

from hgfast.cli import parse
from hgfast.engine import Engine, Missing
from hgfast.errors import HgfastError, run
from hgfast.files import check_apart, prepare_file
from hgfast.model import StackedHourglass
from hgfast.sidecar import KEYPOINTS, OUTPUTS, Sidecar, checksum, place
from pipelines.datasets import input_files


@dataclass(kw_only=True)
class TrtConfig(ExportConfig):
    """One export to TensorRT."""

    backend: Literal["auto", "tensorrt", "tensorrt_rtx", "torch_tensorrt"] = "auto"
    """what builds; auto: TensorRT or Torch-TensorRT where there is a GPU, else TensorRT-RTX"""
    timing_cache: Path | None = None
    """TensorRT: file of kernels' times, which makes the next build faster"""
    hardware_compatible: bool = False
    """an engine for all GPUs from Ampere on, perhaps slower; those of TensorRT-RTX are"""
    version_compatible: bool = False
    """TensorRT: an engine that later versions run too, perhaps slower"""
    workspace_gb: float | None = None
    """most scratch memory that a layer may take, gigabytes"""
    optimization_level: int | None = None
    """0 (fast to build) to 5 (fast to run)"""
    compute_capabilities: list[str] = field(default_factory=list)
    """TensorRT-RTX: GPUs to build for, such as [SM86,SM120]; none: 8.0, 8.6, 8.9, 12.0 and later"""

    def validate(self, suffix: str) -> None:
        """As of all exports, and for the ONNX beside the engine."""
        super().validate(suffix)
        out = self.target(suffix)
        if out.suffix == ".onnx":
            raise HgfastError(f"--out {out} names an engine and must not end in .onnx: the ONNX will be {onnx_beside(out)}")
        onnx = onnx_beside(out)
        check_apart([("the checkpoint", self.checkpoint), *input_files(self)], {"the ONNX": onnx, "its sidecar": place(onnx)})
        prepare_file(onnx, "--out")

    @property
    def engine(self) -> EngineOptions:
        return EngineOptions(
            self.timing_cache,
            self.hardware_compatible,
            self.version_compatible,
            self.workspace_gb,
            self.optimization_level,
            tuple(self.compute_capabilities),
        )


def make_engine(config: TrtConfig, model: StackedHourglass, out: Path, backend: Backend) -> Published:
    """Write the engine and its sidecar, from an ONNX beside it, or, with Torch-TensorRT, from the network itself.

    Raises:
        HgfastError: it cannot be built, is of another precision or differs from the checkpoint; then only the ONNX is there.
    """
    sizes = config.sizes
    if backend.name == "torch_tensorrt":
        import torch_trt  # needs a GPU to be of any use

        graph = Deployed(model, config.wiring)
        weights = torch_trt.module_weights(graph)
        example = torch.zeros(input_shape(graph, 1), dtype=input_type(graph))
        built = torch_trt.build(graph, example, sizes, config.engine, backend)
        onnx, evidence = None, prove_precision(weights, len(built.plan), config.precision, built.layers)
    else:
        onnx = write_onnx(config, model, out)
        print(f"building with {backend.why}", flush=True)
        built = engines.build(onnx.path, sizes, backend, config.engine)
        evidence = prove_precision(onnx.path, len(built.plan), config.precision, built.layers)
    for warning in built.warnings:
        print(f"{backend.name} says: {warning}")
    print(f"{config.precision}: {evidence}; parsed in {built.parse_s:.2f} s, built in {built.build_s:.1f} s", flush=True)
    names = [name for name in OUTPUTS if name in config.wiring.outputs]
    numbered = backend.name == "torch_tensorrt"  # which calls outputs by their places
    tensors = {name: f"output{place}" if numbered else name for place, name in enumerate(names)}
    sidecar = replace(
        publish.describe(config, model, built.library, ("tensorrt", "tensorrt_cu13", "tensorrt-rtx-cu13-libs", "torch-tensorrt")),
        onnx_sha256=checksum(onnx.path) if onnx is not None else None,
        builder={**built.about, "precision": evidence, "warnings": list(built.warnings), "tensors": tensors},
    )

    accuracy = None if onnx is None else (onnx.sidecar.verification or {}).get("accuracy")  # of the ONNX, in onnxruntime
    if config.precision == "int8" and backend.gpu and KEYPOINTS in config.wiring.outputs:
        accuracy = judge_engine(built, sidecar, config, model)

    def check(path: Path, witness: Witness, limits: Limits | None) -> list[Row]:
        if not backend.gpu:
            return [{"runtime": built.library, "verdict": NOT_RUN}]
        return compare_engine(path, sidecar, config, witness, limits)

    return publish.publish(out, lambda path: write_plan(path, built), sidecar, check, config, model, accuracy)


def judge_engine(built: Built, sidecar: Sidecar, config: TrtConfig, model: StackedHourglass) -> dict[str, Any]:
    """As `accuracy.judge`, of an engine on the GPU that is not a file yet."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "engine"
        write_plan(path, built)
        with Engine(path, sidecar) as engine:
            return judge(config, model, engine, sidecar, sidecar.kind)


def write_plan(path: Path, built: Built) -> None:
    path.write_bytes(built.plan)


def compare_engine(path: Path, sidecar: Sidecar, config: TrtConfig, witness: Witness, limits: Limits | None) -> list[Row]:
    """The rows of an engine on a GPU. Its heatmaps are compared where it gives them."""
    engine = Engine(path, sidecar)
    numbers = batches(config.sizes)
    return [
        {"runtime": sidecar.kind, **compare(engine, None, witness, number, limits, config.wiring.outputs)} for number in numbers
    ]


def onnx_beside(out: Path) -> Path:
    """Where the ONNX of an engine lies: under a name that no other export has."""
    return out.with_name(f"{out.name}.onnx")


def write_onnx(config: TrtConfig, model: StackedHourglass, out: Path) -> Published:
    """The ONNX that an engine is built from, beside it, compared."""
    began = time.perf_counter()
    published = make_onnx(config, model, onnx_beside(out), for_tensorrt=True)
    publish.report(published, time.perf_counter() - began)
    return published


def find_backend(config: TrtConfig) -> Backend | HgfastError:
    """What builds, or why nothing does."""
    try:
        backend = engines.find_backend(config.backend)
        config.engine.check(backend.name)
    except (engines.NoBuilder, Missing) as error:
        return error
    if backend.name == "torch_tensorrt" and config.precision == "int8":
        raise HgfastError("Torch-TensorRT gets fp32 and fp16 here: build int8 with --backend tensorrt or tensorrt_rtx")
    return backend


def main() -> None:
    began = time.perf_counter()
    config = parse(TrtConfig, positional="checkpoint", description=__doc__ or "")
    config.validate("engine")
    backend, model, out = find_backend(config), config.load(), config.target("engine")
    if isinstance(backend, HgfastError):
        onnx = write_onnx(config, model, out)
        raise HgfastError(f"{onnx.path} is written, the engine is not: {backend}") from backend
    published = make_engine(config, model, out, backend)
    publish.report(published, time.perf_counter() - began)


if __name__ == "__main__":
    run(main)
