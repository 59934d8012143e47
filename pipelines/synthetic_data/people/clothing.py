"""Random clothes and hair of people. Colors are BGR, linear light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.random import Generator

from hgfast.pipelines.synthetic_data.hand.shading import sample_skin_tone
from hgfast.pipelines.synthetic_data.people.kinematics import BodyShape
from hgfast.pipelines.synthetic_data.render.camera import Float32Array

HairStyle = Literal["bald", "short", "long", "bun", "tail"]
Pattern = Literal["plain", "hoops", "stripes", "checks", "mottled", "halves", "fading"]
Front = Literal["nothing", "print", "buttons", "zip", "pocket"]
Back = Literal["nothing", "number", "bag"]

HAIR_COLORS = np.array(
    [[18, 20, 24], [24, 32, 44], [36, 56, 84], [70, 120, 165], [110, 170, 205], [40, 70, 130], [150, 152, 155]]
)
"""Black, dark brown, brown, dark blond, blond, red, gray; BGR image values."""


@dataclass(frozen=True)
class Fabric:
    """A garment's two colors (3,), its pattern, and the pattern's repeats per stature."""

    color: Float32Array
    second_color: Float32Array
    pattern: Pattern
    repeats: float


@dataclass(frozen=True)
class Outfit:
    """One person's clothes and hair.

    `sleeves` and `legs`: how far garments reach along a limb, 0 at its root, 1 at elbow or knee, 2 at wrist or ankle. `neckline`:
    depth of the V in front. `front`, `back`: what is on the chest and on the back. `looseness`: radius of garments over that of
    the flesh, of sleeves and legs. `texture_offset`: row and column of the noise tile where textures begin.
    """

    skin: Float32Array
    hair: HairStyle
    hair_color: Float32Array
    hat: Float32Array | None
    beard: bool
    glasses: bool
    top: Fabric
    sleeves: float
    neckline: float
    front: Front
    back: Back
    accent: Float32Array
    waist: float
    bottom: Fabric
    legs: float
    skirt: bool
    shoes: Float32Array | None
    sole: Float32Array
    socks: float
    looseness: tuple[float, float]
    texture_offset: tuple[int, int]


def to_linear(color: object) -> Float32Array:
    """Convert BGR image values in [0, 255] to linear light."""
    return ((np.clip(np.asarray(color, np.float32), 4, 252) / 255) ** 2).astype(np.float32)


def sample_cloth_color(rng: Generator) -> Float32Array:
    """Sample a color of cloth (3,): gray, black, white, denim blue, or any other."""
    kind = rng.random()
    if kind < 0.3:
        return to_linear(rng.choice([22, 40, 90, 150, 225, 245]) + rng.normal(0, 7, 3))
    if kind < 0.42:
        return to_linear(np.array([120, 85, 60]) * rng.uniform(0.5, 1.4) + rng.normal(0, 6, 3))
    vivid = rng.uniform(0, 1, 3)
    vivid = vivid.mean() + rng.uniform(0.3, 1.2) * (vivid - vivid.mean())
    return to_linear(255 * vivid * rng.uniform(0.5, 1.1))


def sample_fabric(rng: Generator, plain: float) -> Fabric:
    """Sample the fabric of a garment, without a pattern with the probability `plain`."""
    pattern: Pattern = "plain" if rng.random() < plain else get_args(Pattern)[1 + rng.integers(0, 6)]
    return Fabric(sample_cloth_color(rng), sample_cloth_color(rng), pattern, float(rng.uniform(14, 60)))


def sample_outfit(rng: Generator, shape: BodyShape) -> Outfit:
    """Sample the clothes of a person, from swimwear to a coat."""
    coverage = rng.random()  # 0: swimwear, 1: all covered
    woman = shape.bosom > 0
    hair_probabilities = [0.02, 0.26, 0.40, 0.12, 0.20] if woman else [0.12 * shape.age, 0.76, 0.06, 0.03, 0.03]
    hair: HairStyle = get_args(HairStyle)[rng.choice(5, p=np.array(hair_probabilities) / np.sum(hair_probabilities))]
    skirt = bool(woman and rng.random() < 0.22)
    sleeves = 1.98
    if coverage < 0.65:
        sleeves = 0.0 if coverage < 0.18 else rng.uniform(0.3, 0.75) if coverage < 0.55 else rng.uniform(1.0, 1.7)
    legs = rng.uniform(0.25, 0.5) if coverage < 0.1 else rng.uniform(0.5, 1.0) if coverage < 0.4 else rng.uniform(1.1, 1.98)
    bare = rng.random() < (0.6 if coverage < 0.12 else 0.08)
    low, high = (1.04, (1.10, 1.10)) if rng.random() < 0.35 else (1.06, (1.22, 1.25))  # tight or loose
    top = sample_fabric(rng, 0.5)
    one_piece = rng.random() < 0.1
    skin = to_linear(sample_skin_tone(rng))
    bare_chest = bool(coverage < 0.1 and not woman)
    if bare_chest:
        top, one_piece = Fabric(skin, skin, "plain", 1.0), False
    return Outfit(
        skin=skin,
        hair=hair,
        hair_color=to_linear(HAIR_COLORS[rng.integers(0, len(HAIR_COLORS))] * rng.uniform(0.7, 1.2) + rng.normal(0, 4, 3)),
        hat=sample_cloth_color(rng) if rng.random() < 0.16 else None,
        beard=bool(not woman and shape.age == 1 and rng.random() < 0.3),
        glasses=bool(rng.random() < 0.15),
        top=top,
        sleeves=float(sleeves),
        neckline=float(rng.uniform(0.01, 0.08)),
        front="nothing" if bare_chest else get_args(Front)[rng.integers(0, 5)],
        back=get_args(Back)[rng.choice(3, p=[0.62, 0.2, 0.18])],
        accent=sample_cloth_color(rng),
        waist=float(rng.uniform(0.0, 0.075)),
        bottom=top if one_piece else sample_fabric(rng, 0.75),
        legs=float(rng.uniform(0.5, 1.3) if skirt else legs),
        skirt=skirt,
        shoes=None if bare else sample_cloth_color(rng),
        sole=to_linear(rng.choice([30, 120, 240]) + rng.normal(0, 6, 3)),
        socks=float(rng.uniform(1.5, 1.95)),
        looseness=(rng.uniform(low, high[0]), rng.uniform(low, high[1])),
        texture_offset=(int(rng.integers(0, 512)), int(rng.integers(0, 512))),
    )
