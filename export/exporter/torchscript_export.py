"""Export the network to TorchScript: trace, select the outputs, freeze, verify, write."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from hgfast.export.exporter import artifact
from hgfast.export.exporter.artifact import ExportedArtifact
from hgfast.export.exporter.export_module import ExportModule
from hgfast.export.exporter.options import ExportConfig
from hgfast.export.exporter.verify import Reference, Row, Tolerances, compare_batches
from hgfast.fileio.files import temporary_folder, to_json
from hgfast.model import StackedHourglass
from hgfast.runtime.backends import DeviceOptions, ignore_torchscript_deprecation, make_torchscript_fn
from hgfast.runtime.sidecar import HEATMAPS, OUTPUT_NAMES, BatchRange

EXTRA_FILE = "hgfast.json"


class SingleOutput(nn.Module):
    """A traced graph that returns only one of its outputs. Scripting it avoids a second trace."""

    __constants__ = ("index",)  # a tuple needs a constant index

    def __init__(self, whole: torch.jit.ScriptModule, index: int) -> None:
        super().__init__()
        self.traced, self.index = whole, index

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.traced(images)[self.index],)


def trace(graph: ExportModule) -> torch.jit.ScriptModule:
    """Trace the graph for any batch size."""
    with ignore_torchscript_deprecation(), torch.inference_mode():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]  # the size of the heatmaps is constant
        return torch.jit.trace(graph, graph.example(1), check_trace=False)  # type: ignore[no-untyped-call]


def select_outputs(whole: torch.jit.ScriptModule, names: tuple[str, ...]) -> torch.jit.ScriptModule:
    """Return the traced graph with only the outputs `names` of its `OUTPUT_NAMES`, frozen."""
    with ignore_torchscript_deprecation():
        if names != OUTPUT_NAMES:
            whole = torch.jit.script(SingleOutput(whole, OUTPUT_NAMES.index(names[0])).eval())
        return torch.jit.freeze(whole)


def make_torchscript(config: ExportConfig, model: StackedHourglass, out: Path) -> ExportedArtifact:
    """Write the TorchScript file and its sidecar. Raises `HgfastError` if it differs from the checkpoint or cannot be written."""
    spec = config.spec
    whole = trace(ExportModule(model, replace(spec, outputs=OUTPUT_NAMES)))
    delivered = select_outputs(whole, spec.outputs)
    sidecar = artifact.make_sidecar(config, model, "torchscript")
    emulates_fp16 = config.precision == "fp16" and not torch.cuda.is_available()

    def write(path: Path) -> None:
        content = io.BytesIO()  # torch.jit.save aborts on a full disk, and would store the file name
        with ignore_torchscript_deprecation():
            torch.jit.save(delivered, content, _extra_files={EXTRA_FILE: to_json(sidecar.metadata)})
        path.write_bytes(content.getvalue())

    def check(path: Path, reference: Reference, limits: Tolerances | None) -> list[Row]:
        run = make_torchscript_fn(path, list(spec.outputs), DeviceOptions())
        with temporary_folder() as folder, ignore_torchscript_deprecation():
            file = folder / "all_outputs"
            torch.jit.save(select_outputs(whole, OUTPUT_NAMES), str(file))
            probe = run if HEATMAPS in spec.outputs else make_torchscript_fn(file, list(OUTPUT_NAMES), DeviceOptions())
            smallest = BatchRange(*[config.batch_range.min] * 3)
            sizes = smallest if emulates_fp16 else config.batch_range
            return compare_batches("torch", run, probe, reference, sizes, limits, spec.outputs, torch.cuda.is_available())

    exported = artifact.write_artifact(out, write, sidecar, check, config, model)
    if emulates_fp16 and exported.rows:
        print("fp16 is emulated on this CPU and slow: only the smallest batch size was verified; a GPU verifies all")
    return exported
