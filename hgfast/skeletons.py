"""Skeletons as data: joint names, edges, flip pairs and colours, in one place for drawing, metrics and flips."""

from __future__ import annotations

from dataclasses import dataclass

from hgfast.errors import HgfastError


@dataclass(frozen=True)
class Skeleton:
    """K named joints. `edges` are pairs of joint numbers; `swap` is the joint order after mirroring; one RGB colour an edge."""

    name: str
    joints: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    swap: tuple[int, ...]
    colours: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        assert sorted(self.swap) == list(range(len(self.joints))), "swap is a permutation of the joints"
        assert len(self.colours) == len(self.edges), "one colour an edge"


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

SKELETONS = {skeleton.name: skeleton for skeleton in (HAND21,)}


def by_name(name: str) -> Skeleton:
    """The skeleton a checkpoint or data set names; `HgfastError` where this version does not know it."""
    if name not in SKELETONS:
        raise HgfastError(f"skeleton {name!r} is unknown; this version knows {', '.join(SKELETONS)}")
    return SKELETONS[name]
