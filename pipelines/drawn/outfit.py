"""What people wear and how they wear their hair.

What may enter: garments, hair and their colours as plain choices. Their shapes are `drawn.body`, their look
`drawn.dress`. Colours are BGR, linear light.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator

from pipelines.drawn.camera import Floats
from pipelines.drawn.people import Physique
from pipelines.drawn.skin import sample_skin

Hair = Literal["bald", "short", "long", "bun", "tail"]
Pattern = Literal["plain", "hoops", "stripes", "checks", "mottled", "halves", "fading"]

HAIRS = np.array([[18, 20, 24], [24, 32, 44], [36, 56, 84], [70, 120, 165], [110, 170, 205], [40, 70, 130], [150, 152, 155]])
"""Black, dark brown, brown, dark blond, blond, red, grey; BGR picture values."""


@dataclass(frozen=True)
class Cloth:
    """A garment's two colours (3,), its pattern, and the pattern's repeats a stature."""

    main: Floats
    other: Floats
    pattern: Pattern
    repeats: float


@dataclass(frozen=True)
class Outfit:
    """Somebody's clothes and hair.

    `sleeves` and `legs` are how far garments reach along a limb, 0 at its root, 1 at elbow or knee, 2 at wrist or ankle;
    `loose` is the radius of garments over that of the flesh; `neckline` the depth of the V in front, `front` what is on the
    chest, `back` what is on the back.
    """

    skin: Floats
    hair: Hair
    hair_colour: Floats
    hat: Floats | None
    beard: bool
    glasses: bool
    top: Cloth
    sleeves: float
    neckline: float
    front: Literal["nothing", "print", "buttons", "zip", "pocket"]
    back: Literal["nothing", "number", "bag"]
    accent: Floats
    waist: float
    bottom: Cloth
    legs: float
    skirt: bool
    shoes: Floats | None
    sole: Floats
    socks: float
    loose: tuple[float, float]
    tile: tuple[int, int]


def linear(colour: object) -> Floats:
    """BGR picture values in [0, 255] as linear light."""
    return ((np.clip(np.asarray(colour, np.float32), 4, 252) / 255) ** 2).astype(np.float32)


def sample_colour(rng: Generator) -> Floats:
    """A colour cloth may have (3,): a grey, black, white, blue of jeans, or anything else."""
    kind = rng.random()
    if kind < 0.3:
        return linear(rng.choice([22, 40, 90, 150, 225, 245]) + rng.normal(0, 7, 3))
    if kind < 0.42:
        return linear(np.array([120, 85, 60]) * rng.uniform(0.5, 1.4) + rng.normal(0, 6, 3))
    vivid = rng.uniform(0, 1, 3)
    vivid = vivid.mean() + rng.uniform(0.3, 1.2) * (vivid - vivid.mean())
    return linear(255 * vivid * rng.uniform(0.5, 1.1))


def sample_cloth(rng: Generator, plain: float) -> Cloth:
    """A garment's cloth, without any pattern in a share `plain` of cases."""
    patterns: tuple[Pattern, ...] = ("hoops", "stripes", "checks", "mottled", "halves", "fading")
    pattern: Pattern = "plain" if rng.random() < plain else patterns[rng.integers(0, len(patterns))]
    return Cloth(sample_colour(rng), sample_colour(rng), pattern, float(rng.uniform(14, 60)))


def sample_outfit(rng: Generator, physique: Physique) -> Outfit:
    """Clothes for somebody, from bathing things to a coat."""
    warm = rng.random()  # how much is covered
    woman = physique.bosom > 0
    hairs: tuple[Hair, ...] = ("bald", "short", "long", "bun", "tail")
    likely = [0.02, 0.26, 0.40, 0.12, 0.20] if woman else [0.12 * physique.age, 0.76, 0.06, 0.03, 0.03]
    hair = hairs[rng.choice(5, p=np.array(likely) / np.sum(likely))]
    skirt = bool(woman and rng.random() < 0.22)
    sleeves = 0.0 if warm < 0.18 else rng.uniform(0.3, 0.75) if warm < 0.55 else rng.uniform(1.0, 1.7) if warm < 0.65 else 1.98
    legs = rng.uniform(0.25, 0.5) if warm < 0.1 else rng.uniform(0.5, 1.0) if warm < 0.4 else rng.uniform(1.1, 1.98)
    bare = rng.random() < (0.6 if warm < 0.12 else 0.08)
    fronts: tuple[Literal["nothing", "print", "buttons", "zip", "pocket"], ...] = ("nothing", "print", "buttons", "zip", "pocket")
    backs: tuple[Literal["nothing", "number", "bag"], ...] = ("nothing", "number", "bag")
    tight = rng.random() < 0.35
    top = sample_cloth(rng, 0.5)
    one_piece = rng.random() < 0.1
    skin = linear(sample_skin(rng))
    bare_chest = bool(warm < 0.1 and not woman)
    if bare_chest:
        top, one_piece = Cloth(skin, skin, "plain", 1.0), False
    return Outfit(
        skin=skin,
        hair=hair,
        hair_colour=linear(HAIRS[rng.integers(0, len(HAIRS))] * rng.uniform(0.7, 1.2) + rng.normal(0, 4, 3)),
        hat=sample_colour(rng) if rng.random() < 0.16 else None,
        beard=bool(not woman and physique.age == 1 and rng.random() < 0.3),
        glasses=bool(rng.random() < 0.15),
        top=top,
        sleeves=float(sleeves),
        neckline=float(rng.uniform(0.01, 0.08)),
        front="nothing" if bare_chest else fronts[rng.integers(0, 5)],
        back=backs[rng.choice(3, p=[0.62, 0.2, 0.18])],
        accent=sample_colour(rng),
        waist=float(rng.uniform(0.0, 0.075)),
        bottom=top if one_piece else sample_cloth(rng, 0.75),
        legs=float(rng.uniform(0.5, 1.3) if skirt else legs),
        skirt=skirt,
        shoes=None if bare else sample_colour(rng),
        sole=linear(rng.choice([30, 120, 240]) + rng.normal(0, 6, 3)),
        socks=float(rng.uniform(1.5, 1.95)),
        loose=(rng.uniform(1.04, 1.10), rng.uniform(1.04, 1.10)) if tight else (rng.uniform(1.06, 1.22), rng.uniform(1.06, 1.25)),
        tile=(int(rng.integers(0, 512)), int(rng.integers(0, 512))),
    )
