"""Read files of predicted keypoints in the formats of several projects, recognized by content.

- HDF5 (.h5, and .mat of MATLAB 7.3), .mat of earlier versions, .npz: `preds`, `pos_pred_src` as in detections_our_format.mat, or
  `pred` as in LSP's official predictions (2 x 14 x n); .npy. The shape is n x K x 2 as written by Python, 2 x K x n as written by
  MATLAB, or K x 2 x n as in *_our_format; 3 instead of 2 (x, y, score) is accepted too.
- JSON: n x K x 2 nested lists, or the output of hgfast/evaluate.py --predictions: {"dataset", "joints", "pixel_offset",
  "samples": [{"row", "file", "keypoints"}]}, of which only samples and their keypoints are required. A point that is not finite
  is [null, null]. With `row` (row of the annotations, `Samples.row`) samples may be missing and come in any order; without it
  there must be all samples in order.

Points are in the pixel coordinates of the data set's files, or in those that pixel_offset specifies.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hgfast.bench.scoring.ground_truth import FloatArray, GroundTruth, IntArray
from hgfast.errors import HgfastError, one_line
from hgfast.metrics import PCKH
from hgfast.pipelines.readers import h5_file, mat_file, numpy_file
from hgfast.pipelines.readers.base import READ_ERRORS
from hgfast.skeletons import canonical_joints

ARRAY_NAMES = ("preds", "pos_pred_src", "pred")
MAX_ABS_PIXEL = 1e9  # pixels, beyond any image
FORMATS = "give HDF5, MATLAB (.mat), numpy (.npy, .npz) or JSON"


def read_predictions(path: Path, truth: GroundTruth) -> tuple[FloatArray, IntArray]:
    """Return points (M, K, 2) in the pixel coordinates of `truth`, and the ascending indices (M,) of their samples.

    Raises:
        HgfastError: the file is missing or broken, has other samples or joints than `truth`, or points that are not finite.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise HgfastError(f"the predictions {path} cannot be read ({error.strerror}): check --predictions") from error
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"["):
        return _read_json(path, truth)
    name, array = _read_array(path, head)
    return _check_finite(_reorder_axes(array, truth, f"{path}: {name}"), truth, path), np.arange(len(truth))


def _read_array(path: Path, head: bytes) -> tuple[str, Any]:
    """Return the name and the array of predictions in a file that begins with `head`."""
    kind, list_names, read = _find_reader(path, head)
    try:
        if list_names is None:
            return "the array", read(path)
        name = _find_array(list_names(path), path)
        return name, read(path, [name])[name]
    except READ_ERRORS as error:
        raise HgfastError(f"{path} cannot be read as {kind} ({one_line(error, 120)}): write it again") from error


def _find_reader(path: Path, head: bytes) -> tuple[str, Callable[[Path], Sequence[str]] | None, Callable[..., Any]]:
    """Return the format of a file, the function that lists its arrays (None if it has one without a name) and that reads them."""
    if h5py.is_hdf5(path):
        return "HDF5", h5_file.list_datasets, h5_file.read_h5
    if head.startswith(b"MATLAB 5.0"):
        return "a MATLAB file", mat_file.list_variables, mat_file.read_mat
    if head.startswith(b"PK"):
        return "numpy's arrays", numpy_file.list_arrays, numpy_file.read_npz
    if head.startswith(b"\x93NUMPY"):
        return "numpy's arrays", None, numpy_file.read_npy
    raise HgfastError(f"{path} is not a file of predictions of a known format: {FORMATS}")


def _find_array(names: Sequence[str], path: Path) -> str:
    for name in ARRAY_NAMES:
        if name in names:
            return name
    content = f"it contains {', '.join(names[:8])}" if names else "it is empty"
    raise HgfastError(
        f"{path} has no array {', '.join(ARRAY_NAMES[:-1])} or {ARRAY_NAMES[-1]} ({content}): rename the predictions"
    )


def _reorder_axes(array: Any, truth: GroundTruth, name: str) -> FloatArray:
    """Return an array of one of the known layouts as (n, K, 2)."""
    people, joints = truth.points.shape[:2]
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise HgfastError(f"{name} contains {getattr(array, 'dtype', type(array).__name__)}, expected numbers: write it again")
    layouts = [
        order
        for values in (2, 3)
        for order, shape in (
            ((0, 1, 2), (people, joints, values)),
            ((2, 1, 0), (values, joints, people)),
            ((2, 0, 1), (joints, values, people)),
        )
        if array.shape == shape
    ]
    shape = " x ".join(map(str, array.shape)) or "a single number"
    if not layouts:
        raise HgfastError(
            f"{name} is {shape}, expected {people} x {joints} x 2 (or 2 x {joints} x {people}, or {joints} x 2 x {people}) "
            f"because {truth.source} has {people} samples of {joints} joints: give the predictions for these"
        )
    if len(layouts) > 1:
        raise HgfastError(f"{name} is {shape}, whose axes are ambiguous: write it as JSON, {people} x {joints} x 2")
    return array.transpose(layouts[0])[..., :2].astype(np.float64)


def _read_json(path: Path, truth: GroundTruth) -> tuple[FloatArray, IntArray]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise HgfastError(f"{path} is not valid JSON ({one_line(error, 120)}): write it again") from error
    if content == []:
        raise HgfastError(f"{path} has no samples: write it again")
    if isinstance(content, list):
        keypoints = _to_array(content, truth, f"{path}")
        if len(keypoints) != len(truth):
            raise HgfastError(f"{path} has {len(keypoints)} samples, {truth.source} has {len(truth)}: give all of them, in order")
        return _check_finite(keypoints, truth, path), np.arange(len(truth))
    samples = content.get("samples")
    if samples == []:
        raise HgfastError(f"{path} has no samples: write it again")
    if not isinstance(samples, list) or not samples or not all(isinstance(s, dict) and "keypoints" in s for s in samples):
        raise HgfastError(f"{path} has no list 'samples' with 'keypoints' in each: write it as evaluate.py --predictions does")
    _check_dataset(content, truth, path)
    offset = content.get("pixel_offset", truth.pixel_offset)
    if isinstance(offset, bool) or not isinstance(offset, (int, float)) or not abs(offset) <= MAX_ABS_PIXEL:
        raise HgfastError(f"{path}: pixel_offset is {json.dumps(offset)[:40]}, must be a number such as -0.5: correct it")
    keypoints = _to_array([_with_nan(sample["keypoints"]) for sample in samples], truth, f"{path}: keypoints")
    sample_indices = _sample_indices(samples, truth, path)
    _check_files(samples, sample_indices, truth, path)
    order = np.argsort(sample_indices)
    return (_check_finite(keypoints, truth, path) + (offset - truth.pixel_offset))[order], sample_indices[order]


def _with_nan(keypoints: Any) -> Any:
    """Replace [null, null], which stands for a point that is not finite, by NaN."""
    return (
        [[math.nan] * 2 if point == [None, None] else point for point in keypoints] if isinstance(keypoints, list) else keypoints
    )


def _check_dataset(content: dict[str, Any], truth: GroundTruth, path: Path) -> None:
    """Raise `HgfastError` for predictions for another data set, or with joints in another order."""
    dataset, joints = content.get("dataset", truth.dataset), content.get("joints")
    if dataset != truth.dataset:
        raise HgfastError(f"{path} has predictions for {dataset}, but {truth.source} is {truth.dataset}: give matching files")
    if isinstance(joints, list) and all(isinstance(joint, str) for joint in joints):
        joints = list(canonical_joints(joints))
    if joints is None or joints == list(truth.skeleton.joints):
        return
    wanted = truth.skeleton.joints
    if not isinstance(joints, list) or len(joints) != len(wanted):
        count = len(joints) if isinstance(joints, list) else "no list of"
        raise HgfastError(f"{path} has {count} joints, but {truth.source} has {len(wanted)}: give matching files")
    first = next(joint for joint, name in enumerate(wanted) if joints[joint] != name)
    raise HgfastError(f"{path}: joint {first} is {joints[first]!r}, in {truth.source} {wanted[first]!r}: reorder the joints")


def _to_array(lists: list[Any], truth: GroundTruth, name: str) -> FloatArray:
    """Return nested lists as (M, K, 2), without scores."""
    joints = truth.points.shape[1]
    try:
        array = np.array(lists)
    except ValueError:  # lists of different lengths
        array = np.empty(0)
    if array.ndim != 3 or array.shape[1] != joints or array.shape[2] not in (2, 3) or array.dtype.kind not in "fiu":
        type_note = "" if array.dtype.kind in "fiu" else ", not all of them numbers"
        shape = " x ".join(map(str, array.shape)) if array.size else "lists of different lengths"
        raise HgfastError(f"{name} is {shape}{type_note}, expected n x {joints} x 2 numbers for {truth.source}: write it again")
    return array[..., :2].astype(np.float64)


def _sample_indices(samples: list[dict[str, Any]], truth: GroundTruth, path: Path) -> IntArray:
    """Return the indices (M,) of the samples in `truth`: by `row`, or all in order if no sample has a row."""
    rows = [sample.get("row") for sample in samples]
    if all(row is None for row in rows):
        if len(samples) != len(truth):
            raise HgfastError(
                f"{path} has {len(samples)} samples without 'row', {truth.source} has {len(truth)}: add 'row' to each"
            )
        return np.arange(len(truth))
    index_by_row = dict(zip(truth.rows.tolist(), range(len(truth))))
    seen: set[int] = set()
    for index, row in enumerate(rows):
        if type(row) is not int or row not in index_by_row or row in seen:
            reason = "a duplicate" if type(row) is int and row in seen else f"not a row of {truth.source}"
            raise HgfastError(f"{path}: row of sample {index} is {json.dumps(row)[:40]}, which is {reason}: correct it")
        seen.add(row)
    return np.array([index_by_row[row] for row in rows if row is not None])


def _check_files(samples: list[dict[str, Any]], sample_indices: IntArray, truth: GroundTruth, path: Path) -> None:
    """Raise `HgfastError` if the image of a sample is not that of its row."""
    if truth.files is None:
        return
    for number, (sample, index) in enumerate(zip(samples, sample_indices)):
        name, wanted = sample.get("file"), str(truth.files[index])
        if name is not None and Path(str(name)).name != wanted:
            raise HgfastError(
                f"{path}: the image of sample {number} is {name!r}, that of its row of {truth.source} is {wanted!r}: "
                "give the annotations for which it was written"
            )


def _check_finite(points: FloatArray, truth: GroundTruth, path: Path) -> FloatArray:
    """Raise `HgfastError` for points that are not finite, except for bodies, where they are misses as in evalMPII.m (NaN <= t is
    false)."""
    bad = np.asarray(~np.isfinite(points).all(-1))
    if bad.any() and truth.metric is not PCKH:
        sample, joint = np.argwhere(bad)[0].tolist()
        raise HgfastError(
            f"{path}: joint {joint} of sample {sample} is not finite ({int(bad.sum())} joints are not): predict every joint"
        )
    return np.where(bad[..., None], np.nan, points)
