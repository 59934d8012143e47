"""Skeletons as data: joint names, edges, flip pairs and colours, in one place for drawing, metrics and flips."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Skeleton:
    """K named joints. `edges` are pairs of joint numbers; `swap` is the joint order after mirroring; one RGB colour an edge."""

    name: str
    joints: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    swap: tuple[int, ...]
    colours: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if sorted(self.swap) != list(range(len(self.joints))) or len(self.colours) != len(self.edges):
            raise ValueError(f"skeleton {self.name}: swap must be a permutation of the joints, and every edge have a colour")


_FINGERS = ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
_FINGER_COLOURS = ((255, 128, 0), (255, 90, 200), (80, 160, 255), (255, 60, 60), (40, 220, 40))

# Order of FreiHAND's files; names and the identity flip (a mirrored right hand has no joints to swap) as in mmpose.
HAND21 = Skeleton(
    name="hand21",
    joints=("wrist", *(f"{finger}{i}" for finger in _FINGERS for i in range(1, 5))),
    edges=tuple((0 if i == 0 else 4 * f + i, 4 * f + i + 1) for f in range(5) for i in range(4)),
    swap=tuple(range(21)),
    colours=tuple(colour for colour in _FINGER_COLOURS for _ in range(4)),
)
