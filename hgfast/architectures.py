"""Architectures, presets, decoders and kinds of heatmaps, as plain values. Importing this module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from hgfast.errors import HgfastError

Decoder = Literal["argmax", "quarter", "dark"]
"""Methods that turn heatmaps into points, see `hgfast.heatmaps.decode`."""
HeatmapKind = Literal["gaussian", "logits"]
"""Gaussian maps, or logits whose softmax is a joint's distribution."""
DECODERS, HEATMAP_KINDS = get_args(Decoder), get_args(HeatmapKind)
STRIDE = 4
MAX_SIZE = 2**14  # channels or pixels; more fit no GPU
MAX_DEPTH, MAX_STACKS = 12, 256


@dataclass(frozen=True)
class Architecture:
    """Architecture parameters; together with the number of joints they determine the shapes of all weights.

    stacks: number of hourglasses.
    features: channels at the hourglasses' full resolution; every downsampling adds `growth`.
    depth: downsampling steps in an hourglass.
    blocks: consecutive residual blocks where the paper has one (bearpaw's num_blocks).
    stem: channels after the 7x7 convolution, the first and the second residual block.
    input_size: side of the square training input in pixels.
    """

    stacks: int = 1
    features: int = 256
    growth: int = 0
    depth: int = 4
    blocks: int = 1
    stem: tuple[int, int, int] = (64, 128, 128)
    input_size: int = 256

    def __post_init__(self) -> None:
        numbers = (self.stacks, self.features, self.growth, self.depth, self.blocks, *self.stem, self.input_size)
        if not all(type(number) is int and number <= MAX_SIZE for number in numbers) or len(self.stem) != 3:
            raise HgfastError(f"model: all sizes must be integers of at most {MAX_SIZE}, and stem must have three of them")
        if self.depth > MAX_DEPTH or self.stacks > MAX_STACKS:
            raise HgfastError(f"model: depth must be at most {MAX_DEPTH} and stacks at most {MAX_STACKS}")
        multiple = STRIDE * 2**self.depth
        if self.input_size < multiple or self.input_size % multiple:
            raise HgfastError(
                f"model.input_size {self.input_size} does not fit model.depth {self.depth}: take a multiple of {multiple}"
            )
        if min(self.stacks, self.depth, self.blocks, self.stem[0]) < 1 or self.growth < 0:
            raise HgfastError("model: stacks, depth, blocks and stem must be at least 1, growth at least 0")
        if any(width < 2 or width % 2 for width in (self.features, self.features + self.growth, *self.stem[1:])):
            raise HgfastError("model: features, growth and the second and third value of stem must be even")


PRESETS: dict[str, Architecture] = {
    "hg1": Architecture(stacks=1),
    "hg2": Architecture(stacks=2),
    "hg8": Architecture(stacks=8),
    "small": Architecture(features=64, growth=32, depth=3, stem=(16, 16, 32), input_size=96),  # trains in minutes on two cores
    "tiny": Architecture(features=16, depth=3, stem=(8, 16, 16), input_size=64),  # for tests
}


def architecture(preset: str, **changes: Any) -> Architecture:
    """Return the preset with the values of `changes` that are not None."""
    if preset not in PRESETS:
        raise HgfastError(f"model.preset {preset!r} is unknown; choose from {', '.join(PRESETS)}")
    return replace(PRESETS[preset], **{name: value for name, value in changes.items() if value is not None})
