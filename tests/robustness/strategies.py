"""Hypothesis strategies that several tests share: points, squares, skeletons, texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from hgfast.skeletons import Skeleton, make_skeleton

pixels = st.floats(-2000, 4000, width=32)
sides = st.floats(2, 3000, width=32)
angles = st.floats(-4, 4, width=32)
sizes = st.integers(8, 300)
texts = st.text("abcdefghijklmnopqrstuvwxyzäßλ_ 0123456789", min_size=1, max_size=12).filter(lambda word: word.strip())


def points(shape: tuple[int, ...], low: float = -2000, high: float = 4000) -> st.SearchStrategy[NDArray[np.float64]]:
    """Return a strategy for arrays of points."""
    return arrays.arrays(np.float64, (*shape, 2), elements=st.floats(low, high, width=32))


@st.composite
def skeletons(draw: Any) -> Skeleton:
    """Draw a skeleton with any joint names and edges, and optional flip pairs, groups and colors."""
    joints = draw(st.lists(texts.map(str.strip), min_size=2, max_size=9, unique=True))  # readers strip names
    numbers = st.integers(0, len(joints) - 1)
    edges = draw(st.lists(st.tuples(numbers, numbers), max_size=6))
    order = draw(st.permutations(range(len(joints))))
    pairs = [tuple(order[2 * n : 2 * n + 2]) for n in range(draw(st.integers(0, len(joints) // 2)))]
    cut = draw(st.integers(0, len(joints)))
    groups = [(f"group {n}", tuple(part)) for n, part in enumerate((order[:cut], order[cut:])) if part]
    color = st.tuples(*[st.integers(0, 255)] * 3)
    return make_skeleton(
        draw(texts),
        joints,
        edges,
        flip_pairs=draw(st.sampled_from([None, pairs])),
        groups=draw(st.sampled_from([(), groups])),
        colors=draw(st.one_of(st.none(), st.lists(color, min_size=len(edges), max_size=len(edges)))),
    )


def create_files(folder: Path, names: Any) -> None:
    """Create empty files in place of images."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
