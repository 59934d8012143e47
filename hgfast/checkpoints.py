"""Checkpoints that describe themselves: plain types and tensors that `torch.load(weights_only=True)` reads.

    python hgfast/checkpoints.py convert checkpoint.pt hourglass.pt

writes another project's weights, or a checkpoint in the middle of training, as a network ready for use. A file is written
beside its final name, flushed and renamed: a kill at any moment leaves the old one or the new one.
What may enter: what is stored with weights, and reading it back.
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

from hgfast.errors import HgfastError, run
from hgfast.files import complete, prepare_file
from hgfast.foreign import Foreign, is_nameless, misfit, outline, translate
from hgfast.model import Architecture, Meta, StackedHourglass
from hgfast.preprocessing import Preprocessing
from hgfast.skeletons import Skeleton, make_skeleton
from hgfast.zip_file import check_zip, is_zip

FORMAT = 1
NUMBER = np.float64(0).__reduce__()[0]  # how numpy pickles a number: other projects keep their accuracy as one
HARMLESS: list[Any] = [(NUMBER, "numpy.core.multiarray.scalar"), (NUMBER, "numpy._core.multiarray.scalar"), np.dtype]
HARMLESS += [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32")]


def build(arch: Architecture, meta: Meta) -> StackedHourglass:
    """A network with fresh weights and its meta, in channels_last memory."""
    model = StackedHourglass(arch, len(meta.skeleton.joints))
    model.meta = meta
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it


def describe(model: StackedHourglass) -> dict[str, Any]:
    """The weights and everything needed to build and use the network, as plain types."""
    return {
        "format": FORMAT,
        "weights": {name: value.detach().cpu() for name, value in model.state_dict().items()},
        "architecture": asdict(model.arch),
        "meta": asdict(model.meta),
        "revision": revision(),
    }


def save(content: dict[str, Any], path: Path) -> None:
    """Write atomically. Raises `HgfastError` where the folder cannot be written; what was there before stays."""
    try:
        with complete(path) as beside:
            torch.save(content, beside)
    except (OSError, RuntimeError) as error:
        raise HgfastError(f"cannot write {path} ({error}): free some space or choose another folder") from error


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's content; another project's weights are brought to the form of ours.

    Raises:
        HgfastError: a file that is missing, broken, or neither ours nor of a family that `hgfast.foreign` knows.
    """
    if not path.is_file():
        raise HgfastError(f"no checkpoint at {path}")
    try:
        if is_zip(path):
            check_zip(path)
        with torch.serialization.safe_globals(HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        beside = re.search(r"(?:GLOBAL|Unsupported (?:global|class)[^.]*?) ([\w.]+\.[\w.]+)", str(error))
        what = f" ({beside[1]})" if beside else ""
        raise HgfastError(
            f"{path} cannot be read as a checkpoint: it is none, or holds more than tensors and plain types{what}, which are not "
            "loaded as they could run code: save its state_dict alone"
        ) from error
    except Exception as error:  # of a broken file it may be any
        raise HgfastError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}): it is none, or was cut short"
        ) from error
    if isinstance(content, dict) and type(content.get("format")) is int and content["format"] == FORMAT:
        return content
    try:
        foreign = translate(content)
    except HgfastError as error:
        raise HgfastError(f"{path} is not a whole stacked hourglass: {error}") from error
    if foreign is None:
        raise HgfastError(
            f"{path} is not an hgfast checkpoint of format {FORMAT}, nor weights of princeton-vl's or bearpaw's stacked hourglass"
        )
    return _as_ours(foreign)


def _as_ours(foreign: Foreign) -> dict[str, Any]:
    """Other projects train with squared error on Gaussian maps, on the numbers of their files as they are."""
    meta = Meta(
        foreign.skeleton,
        foreign.preprocessing,
        foreign.arch.input_size,
        kind="gaussian",
        decoder="dark",
        pixel_offset=0.0,
        shift=foreign.shift,
    )
    return {
        "format": FORMAT,
        "weights": foreign.weights,
        "architecture": asdict(foreign.arch),
        "meta": asdict(meta),
        "family": foreign.family,
    }


def restore(content: dict[str, Any], path: Path, averaged: bool = True) -> StackedHourglass:
    """The network that a checkpoint's content describes, in eval mode. `path` is for error messages.

    averaged: with the weights averaged over training (EMA) where there are any; without, those that training goes on from.
    """
    try:
        arch = Architecture(**{**content["architecture"], "stem": tuple(content["architecture"]["stem"])})
        meta = dict(content["meta"])
        meta["skeleton"] = Skeleton.from_plain(meta["skeleton"])
        meta["preprocessing"] = Preprocessing(**{key: tuple(value) for key, value in meta["preprocessing"].items()})
        described = Meta(**meta)
        weights = content["ema"] if averaged and "ema" in content else content["weights"]
        if problem := misfit(outline(arch, len(described.skeleton.joints), len(weights)), weights):
            raise ValueError(problem)
        model = build(arch, described)
        model.load_state_dict(weights)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError, HgfastError) as error:
        raise HgfastError(f"{path} does not describe a network of this version ({' '.join(str(error).split())[:300]})") from error
    return model.eval()


def load_model(path: str | Path, device: str | torch.device = "cpu", decoder: str | None = None) -> StackedHourglass:
    """The network of a checkpoint, in eval mode on `device`, with `model.meta`; `decoder` replaces the one named there.

    Takes hgfast's files, `exp/NAME/checkpoint.pt` of princeton-vl/pytorch_stacked_hourglass and its forks, and the
    `*.pth.tar` or `*.pth` of bearpaw/pytorch-pose and anibali/pytorch-stacked-hourglass (see `hgfast.foreign`).

    Raises:
        HgfastError: a file that is missing, broken or not a checkpoint; it names the first tensor that does not fit.
    """
    model = restore(read(Path(path)), Path(path))
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
    """Write the network of any checkpoint that hgfast reads as a native one, without what only training needs.

    Args:
        source: another project's file, or one of ours
        out: file to write
        input_size: side of the network's square input in pixels, which other projects' files do not tell; 256 if not given
        joints: names such as [left_eye,right_eye], from which the flip test learns what to exchange; only for weights
            of another number of joints than MPII's 16 and FreiHAND's 21
        decoder: from maps to points; dark if not given
        mean: of red, green and blue in [0, 1], such as [0.5,0.5,0.5], if the weights were trained with another than the project's
        std: likewise
        shift: source pixels to be added to the points; -0.5 for weights trained on MPII's numbers, else 0
        overwrite: replace a file that is there
    """
    if out.exists() and not overwrite:
        raise HgfastError(f"{out} exists: choose another name, or give --overwrite")
    content = read(source)
    family = content.pop("family", None)
    model = restore(content, source)
    if input_size is not None:
        model.arch = replace(model.arch, input_size=input_size)
        model.meta = replace(model.meta, input_size=input_size)
    changes: dict[str, Any] = {"decoder": decoder, "shift": shift}
    if joints is not None:
        changes["skeleton"] = _named(joints, model.meta.skeleton)
    if mean is not None or std is not None:
        before = model.meta.preprocessing
        changes["preprocessing"] = Preprocessing(mean or before.mean, std or before.std)
        if min(changes["preprocessing"].std) <= 0:
            raise HgfastError("--std must be above 0")
    model.meta = replace(model.meta, **{name: value for name, value in changes.items() if value is not None})
    prepare_file(out, "OUT")
    save(describe(model), out)
    arch, meta = model.arch, model.meta
    mean, std = meta.preprocessing.mean, meta.preprocessing.std
    print(
        f"{out}: {f'{family} weights' if family else 'hgfast weights'}, {arch.stacks} stacks, {arch.features} features, "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(meta.skeleton.joints)} joints "
        f"({meta.skeleton.name})\n"
        f"input {arch.input_size} x {arch.input_size}, (rgb / 255 - {list(mean)}) / {list(std)}; {meta.kind} maps decoded by "
        f"{meta.decoder}; pixel_offset {meta.pixel_offset:g}, shift {meta.shift:g}",
        flush=True,
    )


def _named(joints: list[str], known: Skeleton) -> Skeleton:
    """A skeleton with these names in place of `known`. Raises `HgfastError` for the wrong number of them, or doubles."""
    if len(joints) != len(known.joints):
        raise HgfastError(f"--joints names {len(joints)} joints, the weights have {len(known.joints)}")
    if not is_nameless(known):
        raise HgfastError(f"--joints is for joints without names, these are {known.name}: leave it out")
    try:
        return make_skeleton(f"named{len(joints)}", joints)
    except ValueError as error:
        raise HgfastError(f"--joints: {error}") from error


def revision() -> str:
    """The git revision of the code, with + where it was changed; "unknown" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


if __name__ == "__main__":
    from hgfast.cli import dispatch  # not what a library call should wait for

    run(lambda: dispatch({"convert": convert}, positional=True, description=__doc__ or ""))
