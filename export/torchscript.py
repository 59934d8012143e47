"""Export a network as TorchScript, for LibTorch in C++ and torch in Python, compared with the checkpoint.

    python export/torchscript.py exp/mpii/best.pt
    python export/torchscript.py exp/mpii/best.pt --precision fp16 --flip-test --outputs keypoints,heatmaps

The file is traced and frozen, takes any number of images at once, and its outputs are a tuple in the order of --outputs. Its
description lies beside it, FILE.json, and within it as the extra file hgfast.json. torch calls TorchScript deprecated since
2.13. A LibTorch of the same version or a newer one reads the file.
What may enter: the flags and the order of the work. The graph is `graph`'s, comparing `verify`'s.
"""

from __future__ import annotations

import io
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import onnx_file
import publish
import torch
from graph import Deployed
from options import ExportConfig
from publish import Published
from torch import Tensor, nn
from verify import Limits, Row, Witness, batches, compare

from hgfast.cli import parse
from hgfast.errors import HgfastError, run
from hgfast.files import to_json
from hgfast.model import StackedHourglass
from hgfast.runtimes import Place, quiet_torchscript, torchscript_runner
from hgfast.sidecar import HEATMAPS, KEYPOINTS, OUTPUTS

EXTRA = "hgfast.json"


class KeypointsOnly(nn.Module):
    """A traced graph without its heatmaps; scripted, so that nothing needs to be run again."""

    def __init__(self, whole: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.whole(images)[0],)


class HeatmapsOnly(KeypointsOnly):
    """Likewise without its keypoints."""

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.whole(images)[1],)


def trace(graph: Deployed) -> torch.jit.ScriptModule:
    """The graph for any number of images."""
    example = torch.zeros(onnx_file.input_shape(graph, 1), dtype=onnx_file.input_type(graph))
    with quiet_torchscript(), torch.inference_mode():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]  # the maps' size is a constant
        return torch.jit.trace(graph, example, check_trace=False)  # type: ignore[no-untyped-call]


def choose(whole: torch.jit.ScriptModule, names: tuple[str, ...]) -> torch.jit.ScriptModule:
    """The traced graph with only these of its `OUTPUTS`, frozen."""
    with quiet_torchscript():
        if names != OUTPUTS:
            only = KeypointsOnly if names == (KEYPOINTS,) else HeatmapsOnly
            whole = torch.jit.script(only(whole).eval())
        return torch.jit.freeze(whole)


def make_torchscript(config: ExportConfig, model: StackedHourglass, out: Path) -> Published:
    """Write the TorchScript and its sidecar. Raises `HgfastError` where it differs from the checkpoint, or cannot be written."""
    wiring = config.wiring
    whole = trace(Deployed(model, replace(wiring, outputs=OUTPUTS)))
    delivered = choose(whole, wiring.outputs)
    sidecar = publish.describe(config, model, "torchscript")
    emulated = config.precision == "fp16" and not torch.cuda.is_available()

    def write(path: Path) -> None:
        content = io.BytesIO()  # a full disk would end the process, and the file's name would be within it
        with quiet_torchscript():
            torch.jit.save(delivered, content, _extra_files={EXTRA: to_json(sidecar.metadata)})
        path.write_bytes(content.getvalue())

    def check(path: Path, witness: Witness, limits: Limits | None) -> list[Row]:
        run = torchscript_runner(path, list(wiring.outputs), Place())
        rows = []
        with tempfile.TemporaryDirectory() as folder, quiet_torchscript():
            file = Path(folder) / "whole"
            torch.jit.save(choose(whole, OUTPUTS), str(file))
            probe = run if HEATMAPS in wiring.outputs else torchscript_runner(file, list(OUTPUTS), Place())
            for number in batches(config.sizes)[: 1 if emulated else None]:
                rows.append({"runtime": "torch", **compare(run, probe, witness, number, limits, wiring.outputs)})
        return rows

    published = publish.publish(out, write, sidecar, check, config, model)
    if emulated and published.rows:
        print("fp16 is emulated on this CPU, and slow: compared on one picture, where there is a GPU on all of them")
    return published


def main() -> None:
    began = time.perf_counter()
    config = parse(ExportConfig, positional="checkpoint", description=__doc__ or "")
    if config.precision == "int8":
        raise HgfastError("int8 is for ONNX and TensorRT: use export/to_onnx.py or export/trt.py, or --precision fp16")
    config.validate("torchscript")
    published = make_torchscript(config, config.load(), config.target("torchscript"))
    publish.report(published, time.perf_counter() - began)


if __name__ == "__main__":
    run(main)
