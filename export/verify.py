"""Is an artefact the network that it was made of? Its heatmaps and keypoints beside the checkpoint's own, picture by picture.

The witness is `hgfast.inference` in fp32, which shares nothing with the exported graph but the network and the decoder.
What may enter: comparing what two ways say of the same pictures, and the limits that they must keep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tabulate import tabulate

from hgfast.errors import HgfastError
from hgfast.heatmaps import decode
from hgfast.inference import keypoints_of, last_heatmaps
from hgfast.model import StackedHourglass
from hgfast.preprocessing import apply, fold
from hgfast.sidecar import HEATMAPS, KEYPOINTS, Batch, Precision

Floats = NDArray[np.float32]
Run = Callable[[NDArray[Any]], dict[str, NDArray[np.float32]]]
Row = dict[str, Any]

PART = 4  # pictures that the checkpoint looks at together
OK = "ok"  # how the verdict on a row within its limits begins
SCORED = 0.2  # joints scored at least this count for fp16's limit in pixels
EXACT = 1e-5  # rounding of fp32, where every joint counts
STRAY = 0.02  # share of scored joints that may be somewhere else where there are no heatmaps to show why
DRAWS = 8  # random roundings that a point must stand


@dataclass(frozen=True)
class Limits:
    """What an artefact of a precision must keep.

    heatmaps: largest difference, as a share of the checkpoint's largest value. rounding: what this precision may change in a
    map, as such a share; a point that such changes move by more than `pixels` is a tie, about which the map says too little.
    pixels: how far a point that is no tie may be from the checkpoint's, in input pixels: at most (fp32), or at the 99th
    percentile of joints scored at least `SCORED` whose peak has not moved to another place (fp16).
    """

    heatmaps: float
    rounding: float
    pixels: float


def limits_of(precision: Precision, stacks: int) -> Limits | None:
    """fp32: rounding of sums in another order. fp16: eleven bits, through twice as many layers where there are 8 stacks.
    int8: none, for what it costs is measured in PCK."""
    if precision == "fp32":
        return Limits(1e-5, EXACT, 0.01)
    if precision == "fp16":
        return Limits(5e-3 if stacks <= 4 else 1e-2, 2**-11, 0.1)
    return None


@dataclass(frozen=True)
class Witness:
    """What the checkpoint says of n pictures: images as the artefact takes them, keypoints (n, K, 3), heatmaps (n, K, h, w),
    and what they were made with."""

    model: StackedHourglass
    images: NDArray[Any]
    keypoints: Floats
    heatmaps: Floats

    def ties(self, limits: Limits) -> NDArray[np.bool_]:
        """Joints (n, K) whose point the map does not fix at this precision."""
        random = torch.Generator().manual_seed(0)
        maps = torch.from_numpy(self.heatmaps)
        size = limits.rounding * float(maps.abs().max())
        moved = torch.zeros(maps.shape[:2], dtype=torch.bool)
        for _ in range(DRAWS):
            noise = (2 * torch.rand(maps.shape, generator=random) - 1) * size
            points = keypoints_of(self.model, maps + noise)[..., :2]
            moved |= (points - torch.from_numpy(self.keypoints[..., :2])).norm(dim=-1) > limits.pixels
        return np.asarray(moved.numpy(), np.bool_)

    def score_limits(self, limits: Limits) -> Floats:
        """How far the scores (n, K) may be off where the maps are off by as much as they may: a peak as much, a softmax mass by
        the exponential of twice that."""
        size = limits.heatmaps * float(np.abs(self.heatmaps).max())
        if self.model.meta.kind == "gaussian":
            return np.full(self.keypoints.shape[:2], size + 1e-6, np.float32)
        return np.asarray(self.keypoints[..., 2] * np.expm1(2 * size) + 1e-6, np.float32)


@torch.inference_mode()
def ask(model: StackedHourglass, pictures: NDArray[np.uint8], flip_test: bool, normalised: bool) -> Witness:
    """What a checkpoint's network (fp32, on the CPU) says of pictures (n, S, S, 3). Raises `HgfastError` if it is nothing."""
    affine = fold(np.tile(np.eye(3, 4, dtype=np.float32), (len(pictures), 1, 1)), model.meta.preprocessing)
    images = apply(torch.from_numpy(pictures), torch.from_numpy(affine))
    heatmaps = torch.cat([last_heatmaps(model, part, flip_test) for part in torch.split(images, PART)])
    if not heatmaps.abs().max() > 0:
        raise HgfastError("the checkpoint's heatmaps are all zero or not finite, so that nothing can be compared: train it first")
    keypoints = keypoints_of(model, heatmaps)
    given = images.contiguous().numpy() if normalised else pictures
    return Witness(model, given, keypoints.numpy(), heatmaps.contiguous().numpy())


def batches(sizes: Batch) -> list[int]:
    """The numbers of pictures to try at once: the fewest, three, the most."""
    return sorted({number for number in (sizes.min, 3, sizes.max) if sizes.min <= number <= sizes.max})


def compare(run: Run, probe: Run | None, witness: Witness, number: int, limits: Limits | None, names: Sequence[str]) -> Row:
    """One row: `number` pictures at once, the witness's repeated as often as it takes.

    Args:
        run: the artefact.
        probe: the same with heatmaps among its outputs, where it has none itself; None where there is no such thing.
        limits: None where there are none to keep.
        names: the artefact's outputs.

    Returns:
        heatmaps (share of the largest value), joints, ties, flips (peaks in another place, of joints that are no tie),
        counted, mean_px, p99_px, max_px (distances in input pixels of the joints counted: those that are no tie, and, but
        for fp32, no flip and scored), score (largest difference); verdict: "ok", what breaks the limits, or "" without any.
    """
    repeated = np.resize(np.arange(len(witness.images)), number)
    images = np.ascontiguousarray(witness.images[repeated])
    found = run(images)
    maps = found.get(HEATMAPS) if probe is None or HEATMAPS in found else probe(images)[HEATMAPS]
    row: Row = {"batch": number}
    complaints = []
    if maps is not None:
        true = witness.heatmaps[repeated]
        largest = float(np.abs(true).max())
        row["heatmaps"] = error = float(np.abs(maps - true).max()) / largest if np.isfinite(maps).all() else float("inf")
        if limits is not None and error > limits.heatmaps:
            complaints.append(f"heatmaps differ by {error:.1e} of the largest value, {limits.heatmaps:.0e} is the limit")
    if KEYPOINTS in names:
        figures, more = compare_points(found[KEYPOINTS], maps, witness, repeated, limits)
        row |= figures
        complaints += more
    nothing = "" if row.get("counted", 1) else ": no keypoint to compare"
    row["verdict"] = "; ".join(complaints) or (f"{OK}{nothing}" if limits is not None else "")
    return row


def compare_points(
    found: Floats, maps: Floats | None, witness: Witness, repeated: NDArray[np.int64], limits: Limits | None
) -> tuple[Row, list[str]]:
    """The part of `compare` about keypoints (n, K, 3), and what breaks the limits."""
    true, meta = witness.keypoints[repeated], witness.model.meta
    exact = limits is not None and limits.rounding <= EXACT
    tie = witness.ties(limits)[repeated] if limits is not None else np.zeros(true.shape[:2], np.bool_)
    distance = np.linalg.norm(found[..., :2].astype(np.float64) - true[..., :2], axis=-1)
    scored = ~tie & (true[..., 2] >= SCORED)
    moved = distance > 2 * meta.stride  # unless the maps tell more
    if maps is not None:
        moved = np.abs(_peaks(maps) - _peaks(witness.heatmaps[repeated])).max(-1) > 1
    counted = ~tie if exact else scored & ~moved
    off = np.abs(found[..., 2] - true[..., 2])
    row: Row = {
        "joints": int(tie.size),
        "ties": int(tie.sum()),
        "flips": int((moved & ~tie).sum()),
        "counted": int(counted.sum()),
        **_distances(distance[counted]),
        "score": float(off.max()),
    }
    if not np.isfinite(found).all():
        return row, ["there are keypoints that are not finite"]
    if limits is None:
        return row, []
    complaints = []
    figure, words = (row["max_px"], "") if exact else (row["p99_px"], " at the 99th percentile")
    if figure is not None and figure > limits.pixels:
        complaints.append(f"keypoints differ by {figure:.3g} px{words}, {limits.pixels:g} is the limit")
    strayed = int((moved & scored).sum())
    if not exact and maps is None and strayed > max(1, STRAY * scored.sum()):
        complaints.append(f"{strayed} of {int(scored.sum())} keypoints are somewhere else")
    worst = off - witness.score_limits(limits)[repeated]
    if (worst[counted] > 0).any():
        complaints.append(f"scores differ by up to {off[counted].max():.1e}")
    if maps is not None:
        own = decode(torch.from_numpy(maps), meta.decoder, meta.kind).numpy()
        apart = np.abs(found[..., :2] - own[..., :2] * meta.stride)[~tie].max(initial=0)
        if apart > limits.pixels:
            complaints.append(f"keypoints are {apart:.3g} px from what the artefact's own heatmaps decode to")
    return row, complaints


def _distances(pixels: NDArray[np.float64]) -> Row:
    """Figures of distances (n,); None where there are none."""
    if not len(pixels):
        return {"mean_px": None, "p99_px": None, "max_px": None}
    return {"mean_px": float(pixels.mean()), "p99_px": float(np.percentile(pixels, 99)), "max_px": float(pixels.max())}


def _peaks(maps: Floats) -> NDArray[np.int64]:
    """Column and row of the highest cell, (n, K, 2)."""
    flat = maps.reshape(*maps.shape[:2], -1).argmax(-1)
    return np.stack([flat % maps.shape[-1], flat // maps.shape[-1]], -1)


def table(rows: Sequence[Row]) -> str:
    """The rows for people."""
    columns = ["runtime", "batch", "heatmaps", "joints", "ties", "flips", "counted", "mean_px", "p99_px", "max_px", "score"]
    shown = [[_short(name, row.get(name, "")) for name in columns] + [row["verdict"] or "no limits"] for row in rows]
    headers = [f"{name} off" if name in ("heatmaps", "score") else name for name in columns]
    return tabulate(shown, headers=[*headers, "verdict"], disable_numparse=True, stralign="right")


def _short(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1e}" if name in ("heatmaps", "score") else f"{value:.4f}"
    return str(value)
