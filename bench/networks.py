"""Networks to be timed: a checkpoint and everything that export/ makes of it here, and fresh ones where nobody has trained any.

Exports are made by the commands that a user would type, once, and kept in the work folder; an artefact that lies beside its
checkpoint already is taken as it is. What cannot be made here is told with export/'s own sentence.
What may enter: making and finding the files. Running them is `latency_ways`'.
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
from hgfast import sidecar as sidecars
from hgfast.checkpoints import revision
from hgfast.errors import HgfastError
from hgfast.files import prepare_folder
from hgfast.model import PRESETS, Meta
from hgfast.preprocessing import Preprocessing
from hgfast.sidecar import checksum
from hgfast.skeletons import BODY16
from pipelines.drawn.pictures import draw_pictures
from pipelines.synthetic import draw_mpii

ROOT = Path(__file__).parent.parent
SEEN, PART = 12, 4  # pictures that BatchNorm's statistics are of, and how many at once
SHARP = 20  # how much larger the last heatmaps are made
DRAWN = 32  # people to calibrate int8 with, where there are no others


@dataclass(frozen=True)
class Export:
    """An artefact by the command that makes it. way: its row's. words: after `python`, without the checkpoint and --out."""

    way: str
    precision: str
    ending: str
    words: tuple[str, ...]


def exports(on_gpu: bool) -> list[Export]:
    """All that are timed; TorchScript in fp16, which on a CPU takes minutes, only where there is a GPU."""
    onnx, script, trt = (f"export/{name}.py" for name in ("to_onnx", "torchscript", "trt"))
    half = ["fp16"] if on_gpu else []
    found = [Export("torchscript", p, f"{p}.torchscript", (script, "--precision", p)) for p in ("fp32", *half)]
    found += [Export("onnx", p, f"{p}.onnx", (onnx, "--precision", p)) for p in ("fp32", "fp16", "int8")]
    for backend, precisions in ENGINES.items():
        words = (trt, "--backend", backend, "--precision")
        found += [Export(backend, p, f"{p}.{backend}.engine", (*words, p)) for p in precisions]
    return found


ONNX = Export("onnx", "fp32", "fp32.onnx", ("export/to_onnx.py", "--precision", "fp32"))
MAPS = Export("onnx", "fp32", "maps.onnx", ("export/to_onnx.py", "--input", "float", "--outputs", "heatmaps"))
"""The network alone: normalised floats in, heatmaps out."""
ENGINES = {
    "tensorrt": ("fp32", "fp16", "int8"),
    "tensorrt_rtx": ("fp32", "fp16", "int8"),
    "torch_tensorrt": ("fp32", "fp16"),
}
"""By --backend of export/trt.py, what it builds."""


def fresh(preset: str, work: Path) -> Path:
    """A checkpoint of an untrained network for 16 joints, whose maps are as large as a trained one's (see `settle`)."""
    path = work / preset / "fresh.pt"
    if not path.is_file():
        torch.manual_seed(0)
        arch = PRESETS[preset]
        meta = Meta(BODY16, Preprocessing(), arch.input_size, "logits", "dark", -0.5)
        model = checkpoints.build(arch, meta)
        settle(model, meta.preprocessing, arch.input_size)
        sharpen(model.last.score)
        prepare_folder(path.parent, "--work")
        checkpoints.save(checkpoints.describe(model), path)
    return path


def settle(net: nn.Module, preprocessing: Preprocessing, size: int, hands: bool = False) -> None:
    """Leave it in eval mode, with the statistics that BatchNorm finds in drawn pictures."""
    for module in net.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    pictures = (torch.from_numpy(draw_pictures(size, SEEN, hands)).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        for first in range(0, SEEN, PART):
            net(pictures[first : first + PART])
    net.eval()


def sharpen(last: nn.Module) -> None:
    """Larger heatmaps from the last layer, so that joints have scores that count; their relative errors stay."""
    with torch.no_grad():
        for value in last.parameters():
            value.mul_(SHARP)


def exported(checkpoint: Path, export: Export, most: int, work: Path, data: Sequence[str], quick: bool) -> Path:
    """The artefact, made if it is not there.

    Args:
        most: images at once that it must take.
        data: flags that name the pictures that int8 is calibrated with; none: drawn people.
        quick: calibrate with few.

    Raises:
        HgfastError: it cannot be made here, in export/'s words.
    """
    folder = work / f"{checkpoint.stem}-{checksum(checkpoint)[:12]}"
    name = f"{checkpoint.stem}.{export.ending}"
    for path in (checkpoint.with_name(name), folder / name):
        if fits(path, checkpoint, most):
            return path
    prepare_folder(folder, "--work")
    words = [*export.words, "--batch", f"1:{min(8, most)}:{most}", "--no-verify"]
    if export.precision == "int8":
        words += [*(data or drawn_people(checkpoint, work)), "--max-loss", "100"]
        words += ["--calibration", "16"] if quick else []
    done = subprocess.run(
        [sys.executable, ROOT / words[0], checkpoint.resolve(), *words[1:], "--out", (folder / name).resolve()],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise HgfastError(done.stderr.strip().rpartition("\n")[2].removeprefix("error: ") or f"{words[0]} failed")
    return folder / name


def fits(path: Path, checkpoint: Path, most: int) -> bool:
    """Is it there, of this checkpoint and of this revision of export/, and takes enough images at once?"""
    if not path.is_file() or not sidecars.place(path).is_file():
        return False
    found = sidecars.read(path)
    ours = path.parent == checkpoint.parent or found.revision == revision()  # what a user exported is what is to be timed
    return found.checkpoint_sha256 == checksum(checkpoint) and found.batch.max >= most and ours


def drawn_people(checkpoint: Path, work: Path) -> list[str]:
    """Flags that name drawn people. Raises `HgfastError` for a network of other joints."""
    if checkpoints.load_model(checkpoint).meta.skeleton.joints != BODY16.joints:
        raise HgfastError("int8 is calibrated with pictures of these joints: name them as in training, --dataset and --data")
    folder = work / "people"
    if not (folder / "annot" / "valid.h5").is_file():
        draw_mpii(folder, DRAWN, seed=0, valid=8, workers=1, progress=False)
    return ["--dataset", "mpii", "--data", str(folder.resolve())]
