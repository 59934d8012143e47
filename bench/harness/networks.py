"""Create the networks to be timed: exports of a checkpoint, and untrained checkpoints.

The commands of export/ write the exports once, into the work folder, where later runs find them; an export beside its checkpoint
is used as it is. If an export fails, the error is that of the command.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from hgfast import checkpoints
from hgfast.architectures import PRESETS
from hgfast.bench.harness.record import ROOT
from hgfast.errors import HgfastError
from hgfast.fileio.files import prepare_folder
from hgfast.model import Meta
from hgfast.normalization import Normalization
from hgfast.pipelines.synthetic_data.images import render_images
from hgfast.pipelines.synthetic_data.people.mpii_layout import generate_mpii
from hgfast.runtime import sidecar as sidecars
from hgfast.runtime.sidecar import sha256_of
from hgfast.skeletons import BODY16
from hgfast.system_info import git_revision

BN_IMAGES, BN_BATCH = 12, 4  # number of images for BatchNorm statistics, and their batch size
HEATMAP_GAIN = 20  # factor for the heatmaps of the last stack
CALIBRATION_PEOPLE = 32  # synthetic people for int8 calibration if no data set is given


@dataclass(frozen=True)
class ExportCommand:
    """The command that writes an artifact. method: name in rows. args: of `python`, without the checkpoint and --out."""

    method: str
    precision: str
    suffix: str
    args: tuple[str, ...]


def export_commands(on_gpu: bool) -> list[ExportCommand]:
    """Return all exports to time; TorchScript in fp16 only on a GPU, because it takes minutes on a CPU."""
    onnx, script, trt = (f"export/{name}.py" for name in ("to_onnx", "torchscript", "trt"))
    fp16 = ["fp16"] if on_gpu else []
    commands = [ExportCommand("torchscript", p, f"{p}.torchscript", (script, "--precision", p)) for p in ("fp32", *fp16)]
    commands += [ExportCommand("onnx", p, f"{p}.onnx", (onnx, "--precision", p)) for p in ("fp32", "fp16", "int8")]
    for backend, precisions in ENGINES.items():
        args = (trt, "--backend", backend, "--precision")
        commands += [ExportCommand(backend, p, f"{p}.{backend}.engine", (*args, p)) for p in precisions]
    return commands


ONNX = ExportCommand("onnx", "fp32", "fp32.onnx", ("export/to_onnx.py", "--precision", "fp32"))
ONNX_HEATMAPS = ExportCommand("onnx", "fp32", "maps.onnx", ("export/to_onnx.py", "--input", "float", "--outputs", "heatmaps"))
"""The network without pre- and postprocessing: normalized float input, heatmaps as output."""
ENGINES = {
    "tensorrt": ("fp32", "fp16", "int8"),
    "tensorrt_rtx": ("fp32", "fp16", "int8"),
    "torch_tensorrt": ("fp32", "fp16"),
}
"""Precisions by --backend of export/trt.py."""


def untrained_checkpoint(preset: str, work: Path) -> Path:
    """Write a checkpoint of an untrained network for 16 joints whose heatmaps have the magnitude of a trained one's.

    See `calibrate_batch_norms` and `scale_heatmaps`; an existing file is reused.
    """
    path = work / preset / "fresh.pt"
    if not path.is_file():
        torch.manual_seed(0)
        arch = PRESETS[preset]
        meta = Meta(BODY16, Normalization(), arch.input_size, "logits", "dark", -0.5)
        model = checkpoints.build_model(arch, meta)
        calibrate_batch_norms(model, meta.normalization, arch.input_size)
        scale_heatmaps(model.last.score)
        prepare_folder(path.parent, "--work")
        checkpoints.save(checkpoints.model_state(model), path)
    return path


def calibrate_batch_norms(net: nn.Module, normalization: Normalization, size: int, hands: bool = False) -> None:
    """Set the BatchNorm statistics of a network to those of synthetic images, and put it in eval mode."""
    for module in net.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # average over all batches
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (normalization.mean, normalization.std))
    images = (torch.from_numpy(render_images(size, BN_IMAGES, hands)).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        for first in range(0, BN_IMAGES, BN_BATCH):
            net(images[first : first + BN_BATCH])
    net.eval()


def scale_heatmaps(last: nn.Module) -> None:
    """Scale the last layer by `HEATMAP_GAIN`, so that joints have significant scores; relative errors do not change."""
    with torch.no_grad():
        for value in last.parameters():
            value.mul_(HEATMAP_GAIN)


def find_or_export(checkpoint: Path, export: ExportCommand, max_batch: int, work: Path, data: Sequence[str], quick: bool) -> Path:
    """Return the path of an export, which is written if there is none.

    Args:
        max_batch: largest batch that it must accept.
        data: flags of the data set for int8 calibration; empty: synthetic people.
        quick: calibrate with few images.

    Raises:
        HgfastError: the export failed, with the message of the command.
    """
    folder = work / f"{checkpoint.stem}-{sha256_of(checkpoint)[:12]}"
    name = f"{checkpoint.stem}.{export.suffix}"
    for path in (checkpoint.with_name(name), folder / name):
        if is_current(path, checkpoint, max_batch):
            return path
    prepare_folder(folder, "--work")
    args = [*export.args, "--batch", f"1:{min(8, max_batch)}:{max_batch}", "--no-verify"]
    if export.precision == "int8":
        args += [*(data or synthetic_people_flags(checkpoint, work)), "--max-loss", "100"]
        args += ["--calibration", "16"] if quick else []
    process = subprocess.run(
        [sys.executable, ROOT / args[0], checkpoint.resolve(), *args[1:], "--out", (folder / name).resolve()],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise HgfastError(process.stderr.strip().rpartition("\n")[2].removeprefix("error: ") or f"{args[0]} failed")
    return folder / name


def is_current(path: Path, checkpoint: Path, max_batch: int) -> bool:
    """Return whether an export exists, was written from this checkpoint by this revision, and accepts the batch size.

    The revision of an export beside its checkpoint does not matter: the user exported it.
    """
    if not path.is_file() or not sidecars.sidecar_path(path).is_file():
        return False
    sidecar = sidecars.read_sidecar(path)
    same_revision = path.parent == checkpoint.parent or sidecar.revision == git_revision()
    return sidecar.checkpoint_sha256 == sha256_of(checkpoint) and sidecar.batch.max >= max_batch and same_revision


def synthetic_people_flags(checkpoint: Path, work: Path) -> list[str]:
    """Return the flags of a synthetic data set of people, written if needed. Raises `HgfastError` for other joints."""
    if checkpoints.load_model(checkpoint).meta.skeleton.joints != BODY16.joints:
        raise HgfastError("int8 calibration needs images with these joints: give --dataset and --data as in training")
    folder = work / "people"
    if not (folder / "annot" / "valid.h5").is_file():
        generate_mpii(folder, CALIBRATION_PEOPLE, seed=0, valid=8, workers=1)
    return ["--dataset", "mpii", "--data", str(folder.resolve())]
