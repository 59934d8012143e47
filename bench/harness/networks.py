"""Create the networks to be timed: exports of a checkpoint, and untrained checkpoints.

The commands of export/ write the exports once, into the work folder, where later runs find them; an export beside its checkpoint
is used as it is. If an export fails, the error is that of the command.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import runpy
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

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


class ExportCommand(NamedTuple):
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


class Exports:
    """Exports of checkpoints, found or written in the work folder.

    The commands run one after the other in a process of their own, which imports torch once: a crash does not end the benchmark,
    and their memory is free before it measures. Use `contextlib.closing`.

    Args:
        max_batch: largest batch that an export must accept.
        data: flags of the data set for int8 calibration; empty: synthetic people.
        quick: calibrate with few images.
    """

    def __init__(self, work: Path, max_batch: int, data: Sequence[str] = (), quick: bool = False) -> None:
        self._work, self._max_batch, self._data, self._quick = work, max_batch, data, quick
        self._process: Any = None
        self._pipe: Any = None

    def find_or_export(self, checkpoint: Path, export: ExportCommand) -> Path:
        """Return the path of an export, which is written if there is none.

        Raises:
            HgfastError: the export failed, with the message of the command.
        """
        folder = self._work / f"{checkpoint.stem}-{sha256_of(checkpoint)[:12]}"
        name = f"{checkpoint.stem}.{export.suffix}"
        for path in (checkpoint.with_name(name), folder / name):
            if is_current(path, checkpoint, self._max_batch):
                return path
        prepare_folder(folder, "--work")
        script, *args = export.args
        args = [str(checkpoint.resolve()), *args, "--out", str((folder / name).resolve()), "--no-verify"]
        args += ["--batch", f"1:{min(8, self._max_batch)}:{self._max_batch}"]
        if export.precision == "int8":
            args += [*(self._data or synthetic_people_flags(checkpoint, self._work)), "--max-loss", "100"]
            args += ["--calibration", "16"] if self._quick else []
        if error := self._run([str(ROOT / script), *args]):
            raise HgfastError(error)
        return folder / name

    def _run(self, command: list[str]) -> str:
        """Run a script in the process; return its error message, or ""."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, child_pipe = context.Pipe()
            self._process = context.Process(target=run_scripts, args=(child_pipe,), name="export")
            self._process.start()
            child_pipe.close()
        try:
            self._pipe.send(command)
            return str(self._pipe.recv())
        except (EOFError, OSError):
            self.close()
            return f"{command[0]} crashed"

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._pipe.close()
            self._process.join()
            self._process = None


def run_scripts(pipe: Connection) -> None:
    """Run the scripts that arrive, without their output, and send the error message of each, or "", until the pipe closes."""
    for descriptor in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    while True:
        try:
            sys.argv = pipe.recv()
        except EOFError:
            return
        errors, message = io.StringIO(), ""
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(errors):
                runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            last_line = errors.getvalue().strip().rpartition("\n")[2].removeprefix("error: ")
            message = last_line or f"{sys.argv[0]} failed" if end.code else ""
        except Exception as error:
            message = f"{sys.argv[0]} failed: {error!r}"
        pipe.send(message)


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
