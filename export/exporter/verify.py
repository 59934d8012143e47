"""Verify an artifact: compare its heatmaps and keypoints with the checkpoint's on the same images.

The reference is `hgfast.runtime.torch_predictor` in fp32. It shares with the exported graph only the network, `decode_keypoints`
and the skeleton's flip pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tabulate import tabulate

from hgfast.errors import HgfastError
from hgfast.heatmaps import decode
from hgfast.model import StackedHourglass
from hgfast.normalization import normalize_images
from hgfast.runtime.sidecar import HEATMAPS, KEYPOINTS, BatchRange, Precision
from hgfast.runtime.torch_predictor import decode_keypoints, forward_heatmaps

FloatArray = NDArray[np.float32]
RunFn = Callable[[NDArray[Any]], dict[str, NDArray[np.float32]]]
Row = dict[str, Any]

BATCH_SIZE = 4  # of the checkpoint
OK = "ok"  # start of the verdict on a row within the tolerances
MIN_SCORE = 0.2  # joints with at least this score count for the fp16 tolerance in pixels
FP32_ROUNDING, GPU_FP32_ROUNDING = 1e-5, 5e-5
"""Differences between fp32 networks as a fraction of the largest heatmap value, on a CPU and on a GPU, whose kernels sum in
blocks and use Winograd's F(4x4, 3x3). Emulated on hg2 and hg8 (input channels permuted, or in blocks of 4 and 16; Winograd), such
heatmaps differ from the CPU's by up to 1.1e-6 and 2.0e-6. The limit of a GPU is 25 times that, and a tenth of the rounding of a
factor in TF32 (2^-11)."""
MAX_OUTLIER_FRACTION = 0.02  # fraction of confident joints that may move to another peak if there are no heatmaps
NUM_NOISE_SAMPLES = 8  # random perturbations per heatmap


@dataclass(frozen=True)
class Tolerances:
    """Tolerances for an artifact of one precision.

    heatmaps: largest difference, as a fraction of the checkpoint's largest value. rounding: perturbation of a heatmap that this
    precision may cause, as such a fraction; a joint whose point such a perturbation moves by more than `pixels` is a tie. pixels:
    distance of the other points from the checkpoint's in input pixels: the maximum (fp32), or the 99th percentile over joints
    with a score of at least `MIN_SCORE` whose peak has not moved to another place (fp16).
    """

    heatmaps: float
    rounding: float
    pixels: float


def tolerances_for(precision: Precision, stacks: int) -> Tolerances | None:
    """Return the tolerances. fp32: sums in another order. fp16: eleven bits, with a higher tolerance for more than 4 stacks.
    int8: None, because its loss is measured in PCK."""
    if precision == "fp32":
        return Tolerances(1e-5, FP32_ROUNDING, 0.01)
    if precision == "fp16":
        return Tolerances(5e-3 if stacks <= 4 else 1e-2, 2**-11, 0.1)
    return None


def gpu_tolerances(limits: Tolerances | None) -> Tolerances | None:
    """Return the tolerances of a runtime on a GPU, which differ in fp32."""
    if limits is None or limits.rounding > FP32_ROUNDING:
        return limits
    return replace(limits, heatmaps=GPU_FP32_ROUNDING, rounding=GPU_FP32_ROUNDING)


@dataclass(frozen=True)
class Reference:
    """Outputs of the checkpoint for n images: the model, the images in the artifact's input format, keypoints (n, K, 3) and
    heatmaps (n, K, h, w)."""

    model: StackedHourglass
    images: NDArray[Any]
    keypoints: FloatArray
    heatmaps: FloatArray

    def ambiguous(self, limits: Tolerances) -> NDArray[np.bool_]:
        """Which joints (n, K) are ties: their heatmap does not determine the point at this precision."""
        random = torch.Generator().manual_seed(0)
        heatmaps = torch.from_numpy(self.heatmaps)
        size = limits.rounding * float(heatmaps.abs().max())
        jumped = torch.zeros(heatmaps.shape[:2], dtype=torch.bool)
        for _ in range(NUM_NOISE_SAMPLES):
            noise = (2 * torch.rand(heatmaps.shape, generator=random) - 1) * size
            points = decode_keypoints(self.model, heatmaps + noise)[..., :2]
            jumped |= (points - torch.from_numpy(self.keypoints[..., :2])).norm(dim=-1) > limits.pixels
        return np.asarray(jumped.numpy(), np.bool_)

    def score_tolerances(self, limits: Tolerances) -> FloatArray:
        """Return the tolerances of the scores (n, K) that follow from that of the heatmaps: the same for a peak, the exponential
        of twice that for a softmax mass."""
        size = limits.heatmaps * float(np.abs(self.heatmaps).max())
        if self.model.meta.heatmap_kind == "gaussian":
            return np.full(self.keypoints.shape[:2], size + 1e-6, np.float32)
        return np.asarray(self.keypoints[..., 2] * np.expm1(2 * size) + 1e-6, np.float32)


@torch.inference_mode()
def reference_outputs(model: StackedHourglass, crops: NDArray[np.uint8], flip_test: bool, normalized: bool) -> Reference:
    """Run a checkpoint's network (fp32, on the CPU) on images (n, S, S, 3). Raises `HgfastError` if all heatmaps are zero."""
    images = normalize_images(torch.from_numpy(crops), model.meta.normalization)
    heatmaps = torch.cat([forward_heatmaps(model, batch, flip_test) for batch in torch.split(images, BATCH_SIZE)])
    if not heatmaps.abs().max() > 0:
        raise HgfastError("the checkpoint's heatmaps are all zero or not finite and cannot be compared: train it first")
    keypoints = decode_keypoints(model, heatmaps)
    input_images = images.contiguous().numpy() if normalized else crops
    return Reference(model, input_images, keypoints.numpy(), heatmaps.contiguous().numpy())


def batch_sizes_to_check(sizes: BatchRange) -> list[int]:
    """Return the batch sizes to verify: the minimum, three, the maximum."""
    return sorted({size for size in (sizes.min, 3, sizes.max) if sizes.min <= size <= sizes.max})


def compare_batches(
    runtime: str, run: RunFn, probe: RunFn | None, reference: Reference, sizes: BatchRange, limits: Tolerances | None,
    output_names: Sequence[str], on_gpu: bool = False,
) -> list[Row]:  # fmt: skip
    """Return a row of `compare` for each batch size to verify; those of a GPU contain their tolerances."""
    limits = gpu_tolerances(limits) if on_gpu else limits
    used = {"limits": limits and asdict(limits)} if on_gpu else {}
    batch_sizes = batch_sizes_to_check(sizes)
    return [{"runtime": runtime, **compare(run, probe, reference, size, limits, output_names), **used} for size in batch_sizes]


def compare(
    run: RunFn, probe: RunFn | None, reference: Reference, batch_size: int, limits: Tolerances | None, output_names: Sequence[str]
) -> Row:
    """Compare one batch of `batch_size` images, with the reference's images repeated to fill it.

    Args:
        run: the artifact.
        probe: the same network with heatmaps among its outputs, if `run` has none; None if there is none.
        limits: None if there are no tolerances.
        output_names: the artifact's outputs.

    Returns:
        heatmaps (difference as a fraction of the largest value), joints, ties, flips (peaks in another place, of joints that are
        not ties), counted, mean_px, p99_px, max_px (distances in input pixels of the joints counted: not ties and, except for
        fp32, confident and not flips), score (largest difference); verdict: "ok", the violations, or "" without tolerances.
    """
    repeated = np.resize(np.arange(len(reference.images)), batch_size)
    images = np.ascontiguousarray(reference.images[repeated])
    outputs = run(images)
    heatmaps = outputs.get(HEATMAPS) if probe is None or HEATMAPS in outputs else probe(images)[HEATMAPS]
    row: Row = {"batch": batch_size}
    problems = []
    if heatmaps is not None:
        true = reference.heatmaps[repeated]
        max_value = float(np.abs(true).max())
        row["heatmaps"] = error = (
            float(np.abs(heatmaps - true).max()) / max_value if np.isfinite(heatmaps).all() else float("inf")
        )
        if limits is not None and error > limits.heatmaps:
            problems.append(f"heatmaps differ by {error:.1e} of the largest value, {limits.heatmaps:.0e} is the limit")
    if KEYPOINTS in output_names:
        metrics, point_problems = compare_points(outputs[KEYPOINTS], heatmaps, reference, repeated, limits)
        row |= metrics
        problems += point_problems
    suffix = "" if row.get("counted", 1) else ": no keypoint to compare"
    row["verdict"] = "; ".join(problems) or (f"{OK}{suffix}" if limits is not None else "")
    return row


def compare_points(
    keypoints: FloatArray, maps: FloatArray | None, reference: Reference, repeated: NDArray[np.int64], limits: Tolerances | None
) -> tuple[Row, list[str]]:
    """Return the columns of `compare` about keypoints (n, K, 3), and the violations."""
    true, meta = reference.keypoints[repeated], reference.model.meta
    is_fp32 = limits is not None and limits.rounding <= GPU_FP32_ROUNDING
    is_tie = reference.ambiguous(limits)[repeated] if limits is not None else np.zeros(true.shape[:2], np.bool_)
    distance = np.linalg.norm(keypoints[..., :2].astype(np.float64) - true[..., :2], axis=-1)
    confident = ~is_tie & (true[..., 2] >= MIN_SCORE)
    jumped = distance > 2 * meta.stride  # the heatmaps are more precise if there are any
    if maps is not None:
        jumped = np.abs(_peaks(maps) - _peaks(reference.heatmaps[repeated])).max(-1) > 1
    compared = ~is_tie if is_fp32 else confident & ~jumped
    score_error = np.abs(keypoints[..., 2] - true[..., 2])
    row: Row = {
        "joints": int(is_tie.size),
        "ties": int(is_tie.sum()),
        "flips": int((jumped & ~is_tie).sum()),
        "counted": int(compared.sum()),
        **_distances(distance[compared]),
        "score": float(score_error.max()),
    }
    if not np.isfinite(keypoints).all():
        return row, ["there are keypoints that are not finite"]
    if limits is None:
        return row, []
    problems = []
    error, qualifier = (row["max_px"], "") if is_fp32 else (row["p99_px"], " at the 99th percentile")
    if error is not None and error > limits.pixels:
        problems.append(f"keypoints differ by {error:.3g} px{qualifier}, {limits.pixels:g} is the limit")
    num_outliers = int((jumped & confident).sum())
    if not is_fp32 and maps is None and num_outliers > max(1, MAX_OUTLIER_FRACTION * confident.sum()):
        problems.append(f"{num_outliers} of {int(confident.sum())} keypoints are somewhere else")
    excess = score_error - reference.score_tolerances(limits)[repeated]
    if (excess[compared] > 0).any():
        problems.append(f"scores differ by up to {score_error[compared].max():.1e}")
    if maps is not None:
        decoded = decode(torch.from_numpy(maps), meta.decoder, meta.heatmap_kind).numpy()
        max_distance = np.abs(keypoints[..., :2] - decoded[..., :2] * meta.stride)[~is_tie].max(initial=0)
        if max_distance > limits.pixels:
            problems.append(f"keypoints are {max_distance:.3g} px from what the artifact's own heatmaps decode to")
    return row, problems


def _distances(pixels: NDArray[np.float64]) -> Row:
    """Statistics of distances (n,); None if there are none."""
    if not len(pixels):
        return {"mean_px": None, "p99_px": None, "max_px": None}
    return {"mean_px": float(pixels.mean()), "p99_px": float(np.percentile(pixels, 99)), "max_px": float(pixels.max())}


def _peaks(maps: FloatArray) -> NDArray[np.int64]:
    """Return column and row of the highest cell, (n, K, 2)."""
    flat = maps.reshape(*maps.shape[:2], -1).argmax(-1)
    return np.stack([flat % maps.shape[-1], flat // maps.shape[-1]], -1)


def format_table(rows: Sequence[Row]) -> str:
    """Format the rows as a text table."""
    columns = ["runtime", "batch", "heatmaps", "joints", "ties", "flips", "counted", "mean_px", "p99_px", "max_px", "score"]
    cells = [[_format_cell(name, row.get(name, "")) for name in columns] + [row["verdict"] or "no limits"] for row in rows]
    headers = [f"{name} off" if name in ("heatmaps", "score") else name for name in columns]
    return tabulate(cells, headers=[*headers, "verdict"], disable_numparse=True, stralign="right")


def _format_cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1e}" if name in ("heatmaps", "score") else f"{value:.4f}"
    return str(value)
