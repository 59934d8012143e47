"""Self-describing checkpoints of plain types and tensors, readable with `torch.load(weights_only=True)`.

    python hgfast/checkpoints.py convert checkpoint.pt hourglass.pt

converts another project's weights, or a training checkpoint, to a checkpoint for inference. Files are written to a temporary
name, flushed and renamed: a kill at any moment leaves the old or the new file.
"""

from __future__ import annotations

import pickle
import re
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from hgfast.architectures import Architecture
from hgfast.converters import ConvertedModel, convert_state_dict, expected_state, find_mismatch, is_anonymous
from hgfast.errors import HgfastError, run_main
from hgfast.fileio.files import atomic_write, prepare_file
from hgfast.fileio.zip_file import check_zip, is_zip
from hgfast.model import Meta, StackedHourglass
from hgfast.normalization import Normalization
from hgfast.skeletons import Skeleton, make_skeleton

FORMAT = 1
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
        with atomic_write(path) as temp_path:
            torch.save(content, temp_path)
    except (OSError, RuntimeError) as error:
        raise HgfastError(f"cannot write {path} ({error}): free some space or choose another folder") from error


def read(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content; weights of other projects are converted.

    Raises:
        HgfastError: the file is missing, broken, or of a format that neither hgfast nor `hgfast.converters` knows.
    """
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
        raise HgfastError(f"{path} does not describe a network of this version ({' '.join(str(error).split())[:300]})") from error
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


def convert(
    source: Path,
    out: Path,
    input_size: int | None = None,
    joints: list[str] | None = None,
    decoder: Literal["argmax", "quarter", "dark"] | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    shift: float | None = None,
    overwrite: bool = False,
) -> None:
    """Convert any checkpoint that hgfast reads to a native one without training state.

    Args:
        source: another project's file, or a checkpoint of hgfast
        out: file to write
        input_size: side of the network's square input in pixels, which other projects' files do not store; 256 if not given
        joints: joint names such as [left_eye,right_eye], which tell the flip test which joints to swap; only for weights with
            a number of joints other than MPII's 16 and FreiHAND's 21
        decoder: method that turns heatmaps into points; dark if not given
        mean: red, green and blue in [0, 1], such as [0.5,0.5,0.5], if the weights were not trained with their project's mean
        std: likewise
        shift: source pixels to add to the points; -0.5 for weights trained on MPII's coordinates, else 0
        overwrite: replace an existing file
    """
    if out.exists() and not overwrite:
        raise HgfastError(f"{out} exists: choose another name or add --overwrite")
    content = read(source)
    family = content.pop("family", None)
    model = model_from_checkpoint(content, source)
    if input_size is not None:
        model.arch = replace(model.arch, input_size=input_size)
        model.meta = replace(model.meta, input_size=input_size)
    changes: dict[str, Any] = {"decoder": decoder, "shift": shift}
    if joints is not None:
        changes["skeleton"] = _rename_joints(joints, model.meta.skeleton)
    if mean is not None or std is not None:
        normalization = model.meta.normalization
        changes["normalization"] = Normalization(mean or normalization.mean, std or normalization.std)
        if min(changes["normalization"].std) <= 0:
            raise HgfastError("--std must be above 0")
    model.meta = replace(model.meta, **{name: value for name, value in changes.items() if value is not None})
    prepare_file(out, "OUT")
    save(model_state(model), out)
    arch, meta = model.arch, model.meta
    mean, std = meta.normalization.mean, meta.normalization.std
    print(
        f"{out}: {f'{family} weights' if family else 'hgfast weights'}, {arch.stacks} stacks, {arch.features} features, "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(meta.skeleton.joints)} joints "
        f"({meta.skeleton.name})\n"
        f"input {arch.input_size} x {arch.input_size}, (rgb / 255 - {list(mean)}) / {list(std)}; {meta.heatmap_kind} maps "
        f"decoded by {meta.decoder}; pixel_offset {meta.pixel_offset:g}, shift {meta.shift:g}",
        flush=True,
    )


def _rename_joints(joints: list[str], skeleton: Skeleton) -> Skeleton:
    """Return a skeleton with these joint names. Raises `HgfastError` for a wrong number of names or for duplicates."""
    if len(joints) != len(skeleton.joints):
        raise HgfastError(f"--joints names {len(joints)} joints, the weights have {len(skeleton.joints)}")
    if not is_anonymous(skeleton):
        raise HgfastError(f"--joints is for joints without names, the weights have {skeleton.name}: leave it out")
    try:
        return make_skeleton(f"named{len(joints)}", joints)
    except ValueError as error:
        raise HgfastError(f"--joints: {error}") from error


def git_revision() -> str:
    """Return the git revision of the code, with + if the working tree has changes; "unknown" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


if __name__ == "__main__":
    from hgfast.cli import dispatch  # slow to import, and only needed here

    run_main(lambda: dispatch({"convert": convert}, positional=True, description=__doc__ or ""))
