"""Checkpoints that describe themselves: plain types and tensors that `torch.load(weights_only=True)` reads.

A file is written beside its final name, flushed and renamed: a kill at any moment leaves the old one or the new one.
What may enter: what is stored with weights, and reading it back.
"""

from __future__ import annotations

import pickle
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hgfast.errors import HgfastError
from hgfast.files import complete
from hgfast.heatmaps import KINDS, METHODS
from hgfast.model import STRIDE, Architecture, StackedHourglass
from hgfast.preprocessing import Preprocessing
from hgfast.skeletons import Skeleton

FORMAT = 1


@dataclass(frozen=True)
class Meta:
    """What a network needs to be used: `model.meta`.

    kind and decoder go to `hgfast.heatmaps.decode`; pixel_offset is what was added to the training files' coordinates.
    """

    skeleton: Skeleton
    preprocessing: Preprocessing
    input_size: int
    kind: str
    decoder: str
    pixel_offset: float
    stride: int = STRIDE

    def __post_init__(self) -> None:
        if self.decoder not in METHODS or self.kind not in KINDS:
            raise ValueError(f"unknown decoder {self.decoder!r} or kind of maps {self.kind!r}")


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
    """A checkpoint's content. Raises `HgfastError` for a file that is missing, broken or not one of ours."""
    if not path.is_file():
        raise HgfastError(f"no checkpoint at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise HgfastError(
            f"{path} cannot be read as a checkpoint: it is none, or holds more than tensors and plain types"
        ) from error
    except (RuntimeError, OSError, EOFError, LookupError, ValueError, AttributeError) as error:
        raise HgfastError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}): it is none, or was cut short"
        ) from error
    if not isinstance(content, dict) or type(content.get("format")) is not int or content["format"] != FORMAT:
        raise HgfastError(f"{path} is not an hgfast checkpoint of format {FORMAT}: foreign weights are not read yet")
    return content


def restore(content: dict[str, Any], path: Path) -> StackedHourglass:
    """The network that a checkpoint's content describes, in eval mode. `path` is for error messages."""
    try:
        arch = Architecture(**{**content["architecture"], "stem": tuple(content["architecture"]["stem"])})
        meta = dict(content["meta"])
        meta["skeleton"] = Skeleton(**{key: _tuples(value) for key, value in meta["skeleton"].items()})
        meta["preprocessing"] = Preprocessing(**{key: tuple(value) for key, value in meta["preprocessing"].items()})
        model = build(arch, Meta(**meta))
        model.load_state_dict(content["weights"])
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise HgfastError(f"{path} does not describe a network of this version ({' '.join(str(error).split())[:300]})") from error
    return model.eval()


def load_model(path: str | Path, device: str | torch.device = "cpu") -> StackedHourglass:
    """The network of a checkpoint, in eval mode on `device`, with `model.meta`.

    Raises:
        HgfastError: a file that is missing, broken or not a checkpoint.
    """
    return restore(read(Path(path)), Path(path)).to(device)


def revision() -> str:
    """The git revision of the code, with + where it was changed; "unknown" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value
