"""Export a network as ONNX: one graph from a uint8 image to keypoints, compared with the checkpoint before it gets its name.

    python export/to_onnx.py exp/mpii/best.pt
    python export/to_onnx.py exp/mpii/best.pt --precision fp16 --batch 1:8:64 --flip-test --outputs keypoints,heatmaps

The file runs as it is in onnxruntime and OpenVINO. Its description lies beside it, FILE.json, and within it, as metadata.
What may enter: the flags and the order of the work. The graph is `graph`'s, the file `onnx_file`'s, comparing `verify`'s.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_file
import publish
from accuracy import calibration, judge
from graph import Deployed
from options import ExportConfig
from proof import model_weights
from publish import Published
from quantise import quantise
from verify import Limits, Row, Witness, batches, compare

from hgfast.cli import parse
from hgfast.errors import HgfastError, run
from hgfast.model import StackedHourglass
from hgfast.runtimes import RUNTIMES, Place, onnxruntime_runner, open_runner
from hgfast.sidecar import KEYPOINTS, OUTPUTS, Precision


def make_onnx(config: ExportConfig, model: StackedHourglass, out: Path, for_tensorrt: bool = False) -> Published:
    """Write the ONNX and its sidecar.

    Raises:
        HgfastError: it differs from the checkpoint, loses too much (int8), or cannot be written; nothing is.
    """
    wiring = config.wiring
    whole = onnx_file.trace(Deployed(model, replace(wiring, outputs=OUTPUTS)), config.sizes)
    sidecar, accuracy = publish.describe(config, model, "onnx"), None
    if config.precision == "int8":
        whole = quantise(whole, calibration(config, model), config.sizes, for_tensorrt)
    check_precision(whole, config.precision, out)
    onnx_file.add_metadata(whole, sidecar.metadata)
    delivered = onnx_file.with_outputs(whole, wiring.outputs)
    if config.precision == "int8":
        judged = delivered if KEYPOINTS in wiring.outputs else whole
        runner = onnxruntime_runner(judged.SerializeToString(), Place(config.threads))
        accuracy = judge(config, model, runner, sidecar, "onnxruntime")

    def check(path: Path, witness: Witness, limits: Limits | None) -> list[Row]:
        rows = []
        for runtime in RUNTIMES["onnx"]:
            run = open_runner(path, sidecar, runtime, Place(config.threads))
            probe = open_runner(whole.SerializeToString(), sidecar, runtime, Place(config.threads))
            for number in batches(config.sizes):
                row = compare(run, probe, witness, number, limits, wiring.outputs)
                rows.append({"runtime": runtime, **row})
        return rows

    return publish.publish(out, lambda path: onnx.save(delivered, path), sidecar, check, config, model, accuracy)


def check_precision(model: onnx.ModelProto, wanted: Precision, out: Path) -> None:
    """Raises `HgfastError` where the model does not compute in the precision that was asked for."""
    if (found := model_weights(model, str(out)).precision) != wanted:
        raise HgfastError(f"{out} was asked for in {wanted} and came out {found}: nothing was written; please report this")


def main() -> None:
    began = time.perf_counter()
    config = parse(ExportConfig, positional="checkpoint", description=__doc__ or "")
    config.validate("onnx")
    published = make_onnx(config, config.load(), config.target("onnx"))
    publish.report(published, time.perf_counter() - began)


if __name__ == "__main__":
    run(main)
