"""What a person wants to see of predictions: every joint's figure, the curve of accuracy, and pictures.

What may enter: making figures and pictures of a network's predictions. Data sets come in from outside; files are written by
others.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hgfast.draw import Image, caption, draw_skeleton, glow, overlay, read_image, sheet
from hgfast.errors import HgfastError
from hgfast.evaluation import evaluating, seen
from hgfast.gallery import TILE, Pictured, evenly, in_words
from hgfast.geometry import move, square_matrices, warp
from hgfast.inference import look
from hgfast.logbook import Logbook
from hgfast.metrics import BOX_SHARES, HEAD_SHARES, distances, epe, pck, pck_shares, pckh, pckh_curve
from hgfast.model import StackedHourglass

Array = NDArray[np.float64]


class Curves(NamedTuple):
    """What `hgfast.charts` draws: (T,) thresholds, (T,) shares of `whole` by name, and the labels of both axes."""

    thresholds: Array
    shares: Mapping[str, Array]
    labels: tuple[str, str]
    whole: float


def joint_rows(samples: Pictured, predicted: Array, heads: bool) -> list[dict[str, Any]]:
    """Every joint's figures: "joint", its name; "pckh@0.5" in percent where the reference lengths are `heads`, else "pck@0.2";
    "epe_px".

    Args:
        predicted: (N, K, 2) in source pixels. Samples that nobody looked at (`hgfast.evaluation.seen`) do not count.
    """
    true, labelled, reference = samples.keypoints, _counted(samples, predicted), samples.reference
    near = (
        {"pckh@0.5": pckh(predicted, true, labelled, reference, samples.skeleton).joints}
        if heads
        else {"pck@0.2": pck(predicted, true, labelled, reference, 0.2).joints}
    )
    figures = {**near, "epe_px": epe(predicted, true, labelled).joints}
    return [
        {"joint": joint, **{name: float(values[k]) for name, values in figures.items()}}
        for k, joint in enumerate(samples.skeleton.joints)
    ]


def accuracy_curves(samples: Pictured, found: Mapping[str, Array], heads: bool) -> Curves:
    """By name of a method: the total PCKh at `HEAD_SHARES`, in percent, or the total PCK at `BOX_SHARES`. Arguments as
    `joint_rows`."""
    true, reference = samples.keypoints, samples.reference
    shares = {}
    for method, predicted in found.items():
        labelled = _counted(samples, predicted)
        if heads:
            shares[method] = pckh_curve(predicted, true, labelled, reference, samples.skeleton).total
        else:
            shares[method] = pck_shares(predicted, true, labelled, reference).total
    if heads:
        return Curves(HEAD_SHARES, shares, ("distance / head size", "PCKh, percent"), 100.0)
    return Curves(BOX_SHARES, shares, ("distance / reference length", "PCK"), 1.0)


def _counted(samples: Pictured, predicted: Array) -> NDArray[np.bool_]:
    """Which joints (N, K) are labelled, in samples of which there is a prediction."""
    return samples.labelled & seen(predicted)[:, None]


def grid(model: StackedHourglass, samples: Pictured, count: int = 8) -> Image:
    """`count` samples, evenly spread over those that are labelled and always the same: two in a row, three tiles each.

    They are the ground truth, what the network finds now, and how likely it thinks a place for any of the joints, each in its
    own measure. Only labelled joints are drawn. A picture that cannot be read has dark tiles that say so.

    Args:
        model: on any device, in any mode, in which it stays.
        samples: N, one of them labelled at least.
    """
    chosen = evenly(np.flatnonzero(samples.labelled.any(1)), count)
    with evaluating(model):
        tiles = [tile for sample in chosen.tolist() for tile in _tiles(model, samples, sample)]
    return sheet(tiles, 6 if len(chosen) > 1 else 3)


def _tiles(model: StackedHourglass, samples: Pictured, sample: int) -> list[Image]:
    """A sample's three tiles."""
    name, one = f"row {samples.row[sample]}", slice(sample, sample + 1)
    try:
        image = read_image(samples.paths[sample])
    except HgfastError:
        dark = np.zeros((TILE, TILE, 3), np.uint8)
        return [caption(dark, f"{name}: cannot be read"), dark, dark]
    centre, side, true, shown = samples.centre[one], samples.side[one], samples.keypoints[one], samples.labelled[sample]
    keypoints, _, heatmaps = look(model, image, centre, side)
    found, matrices = np.where(np.isfinite(keypoints[..., :2]), keypoints[..., :2], np.nan), square_matrices(centre, side, TILE)
    crop = warp(image, matrices[0], TILE)
    truth, guess = (draw_skeleton(crop, move(points, matrices)[0], samples.skeleton, shown) for points in (true, found))
    heat = overlay(crop, glow(heatmaps[0], model.meta.kind).max(0))
    off = float(distances(found, true)[0][shown].mean())
    return [caption(truth, f"{name}: truth"), caption(guess, f"predicted, {in_words(off)}"), caption(heat, "heatmaps")]


def show(
    samples: Pictured, heads: bool, log: Logbook, step: int, predicted: Array, network: StackedHourglass, count: int = 8
) -> None:
    """Give TensorBoard what there is to see of a validation: figures joints/NAME as `joint_rows` has them first, the pictures
    valid/curve, where matplotlib is installed, and valid/grid.

    Args:
        samples: of the validation split, N.
        heads: are the reference lengths head sizes, so that accuracy is PCKh?
        step: after which it was.
        predicted: (N, K, 2) in source pixels, as `hgfast.evaluation.predict` gives it.
        network: what was validated.
    """
    figures = [tuple(row.values())[:2] for row in joint_rows(samples, predicted, heads)]
    log.steps(step, {f"joints/{name}": value for name, value in figures if np.isfinite(value)})
    try:
        from hgfast import charts  # needs matplotlib, which not everybody has
    except HgfastError:
        log.remark("TensorBoard gets no curve of accuracy: it would be drawn by matplotlib (pip install matplotlib)")
    else:
        curve = charts.curve_picture(*accuracy_curves(samples, {"network": predicted}, heads), f"step {step}")
        log.picture(step, "valid/curve", curve, ".png")
        gc.collect()  # figures are knots of objects, some 30 MB of which would lie about until Python looks for such itself
    log.picture(step, "valid/grid", grid(network, samples, count))
