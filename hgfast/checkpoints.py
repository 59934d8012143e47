"""Self-describing checkpoints of plain types and tensors, readable with `torch.load(weights_only=True)`.

Files are written to a temporary name, flushed and renamed: a kill at any moment leaves the old or the new file.
"""

from __future__ import annotations

import os
import pickle
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hgfast.architectures import Architecture
from hgfast.config import BEST_FILE, CHECKPOINT_FILE
from hgfast.converters import ConvertedModel, convert_state_dict, expected_state, find_mismatch
from hgfast.errors import HgfastError, one_line
from hgfast.fileio.files import atomic_write
from hgfast.fileio.zip_file import check_zip, is_zip
from hgfast.model import Meta, StackedHourglass
from hgfast.system_info import git_revision

FORMAT = 1
ROTATED_PATTERN = f"checkpoint-{'[0-9]' * 8}.pt"  # glob pattern of older checkpoints of a run
NUMPY_SCALAR = np.float64(0).__reduce__()[0]  # numpy's pickle constructor of scalars: other projects store the accuracy as one
SAFE_GLOBALS: list[Any] = [
    (NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
]
SAFE_GLOBALS += [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32")]


def build_model(arch: Architecture, meta: Meta) -> StackedHourglass:
    """Create a network with fresh weights and its meta, in channels_last memory format."""
    model = StackedHourglass(arch, len(meta.skeleton.joints))
    model.meta = meta
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it


def model_state(model: StackedHourglass) -> dict[str, Any]:
    """Return the weights and everything needed to build and use the network, as plain types."""
    return {
        "format": FORMAT,
        "weights": {name: value.detach().cpu() for name, value in model.state_dict().items()},
        "architecture": asdict(model.arch),
        "meta": model.meta.to_dict(),
        "revision": git_revision(),
    }


def save(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint atomically. Raises `HgfastError` if that fails; an existing file then stays unchanged."""
    try:
        with atomic_write(path) as temp_path, temp_path.open("wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        cause: BaseException = error
        while not isinstance(cause, OSError) and cause.__context__ is not None:  # torch's writer hides the error of a full disk
            cause = cause.__context__
        raise HgfastError(f"cannot write {path} ({cause}): free some space or choose another folder") from error


def write_checkpoint(content: dict[str, Any], folder: Path, keep_checkpoints: int, previous_step: int) -> None:
    """Write checkpoint.pt, keeping the existing one, of `previous_step`, as checkpoint-STEP.pt; `keep_checkpoints` files in all.

    Raises `HgfastError` if the folder cannot be written; checkpoint.pt is then unchanged.
    """
    latest = folder / CHECKPOINT_FILE
    if keep_checkpoints > 1:
        if latest.exists() and previous_step < content["training"]["step"]:
            _link_or_copy(latest, folder / f"checkpoint-{previous_step:08d}.pt")
        try:
            for old in sorted(folder.glob(ROTATED_PATTERN))[: 1 - keep_checkpoints]:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise HgfastError(
                f"cannot remove {error.filename or folder}, which exceeds --train.keep-checkpoints ({error.strerror})"
            ) from error
    save(content, latest)


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of a run. Raises `OSError`."""
    for path in (folder / CHECKPOINT_FILE, folder / BEST_FILE, *folder.glob(ROTATED_PATTERN)):
        path.unlink(missing_ok=True)


def _link_or_copy(path: Path, copy_path: Path) -> None:
    """Keep a file that is about to be replaced under another name: as a hard link, or as a copy if links are not supported."""
    try:
        copy_path.unlink(missing_ok=True)
        try:
            os.link(path, copy_path)
        except OSError:
            with atomic_write(copy_path) as temp_path:
                shutil.copyfile(path, temp_path)
    except OSError as error:
        raise HgfastError(
            f"cannot keep {path} as {copy_path.name} ({error.strerror}): leave out --train.keep-checkpoints"
        ) from error


def read(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content; weights of other projects are converted (`hgfast.converters`)."""
    if not path.is_file():
        raise HgfastError(f"no checkpoint at {path}")
    try:
        if is_zip(path):
            check_zip(path)
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        match = re.search(r"(?:GLOBAL|Unsupported (?:global|class)[^.]*?) ([\w.]+\.[\w.]+)", str(error))
        reason = f" ({match[1]})" if match else ""
        raise HgfastError(
            f"{path} cannot be read as a checkpoint: it is not one, or it holds more than tensors and plain types{reason}, which "
            "hgfast does not load because they could run code: save only its state_dict"
        ) from error
    except Exception as error:  # a broken file may raise anything
        raise HgfastError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}): it is not one, or it is truncated"
        ) from error
    if isinstance(content, dict) and type(content.get("format")) is int and content["format"] == FORMAT:
        return content
    try:
        foreign = convert_state_dict(content)
    except HgfastError as error:
        raise HgfastError(f"{path} is not a whole stacked hourglass: {error}") from error
    if foreign is None:
        raise HgfastError(
            f"{path} is not an hgfast checkpoint of format {FORMAT}, nor weights of princeton-vl's or bearpaw's stacked hourglass"
        )
    return _to_native(foreign)


def _to_native(foreign: ConvertedModel) -> dict[str, Any]:
    """Return the checkpoint content of foreign weights, which were trained with MSE on Gaussian maps and raw coordinates."""
    meta = Meta(
        foreign.skeleton,
        foreign.normalization,
        foreign.arch.input_size,
        heatmap_kind="gaussian",
        decoder="dark",
        pixel_offset=0.0,
        shift=foreign.shift,
    )
    return {
        "format": FORMAT,
        "weights": foreign.weights,
        "architecture": asdict(foreign.arch),
        "meta": meta.to_dict(),
        "family": foreign.family,
    }


def model_from_checkpoint(content: dict[str, Any], path: Path, use_ema: bool = True) -> StackedHourglass:
    """Build the network that a checkpoint's content describes, in eval mode. `path` is for error messages.

    use_ema: load the EMA weights if the checkpoint has them; otherwise the weights from which training resumes.
    """
    try:
        arch = Architecture(**{**content["architecture"], "stem": tuple(content["architecture"]["stem"])})
        model_meta = Meta.from_dict(content["meta"])
        weights = content["ema"] if use_ema and "ema" in content else content["weights"]
        if problem := find_mismatch(expected_state(arch, len(model_meta.skeleton.joints), len(weights)), weights):
            raise ValueError(problem)
        model = build_model(arch, model_meta)
        model.load_state_dict(weights)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError, HgfastError) as error:
        raise HgfastError(f"{path} does not describe a network of this version ({one_line(error)})") from error
    return model.eval()


def load_model(path: str | Path, device: str | torch.device = "cpu", decoder: str | None = None) -> StackedHourglass:
    """Load the network of a checkpoint, in eval mode on `device`, with `model.meta`; `decoder` overrides the stored one.

    Reads hgfast's files, `exp/NAME/checkpoint.pt` of princeton-vl/pytorch_stacked_hourglass and its forks, and
    `*.pth.tar` or `*.pth` of bearpaw/pytorch-pose and anibali/pytorch-stacked-hourglass (see `hgfast.converters`).

    Raises:
        HgfastError: the file is missing, broken or not a checkpoint; the message names the first tensor that does not fit.
    """
    model = model_from_checkpoint(read(Path(path)), Path(path))
    if decoder is not None:
        model.meta = replace(model.meta, decoder=decoder)
    return model.to(device)
