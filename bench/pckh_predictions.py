"""Files of predicted keypoints, in the formats that projects write, recognised by what is in them.

- HDF5 (.h5, and .mat of MATLAB's version 7.3), .mat of earlier versions, .npz: `preds`, or `pos_pred_src` as in
  detections_our_format.mat; .npy. n x K x 2 as Python writes it, 2 x K x n as MATLAB does, or K x 2 x n as in *_our_format;
  x, y and a score, 3 instead of 2, is taken as well.
- JSON: n x K x 2 nested lists, or what hgfast/evaluate.py --predictions writes: {"dataset", "joints", "pixel_offset",
  "samples": [{"row", "file", "keypoints"}]}, of which only samples and their keypoints must be there. A point that is not
  finite is [null, null]. With `row` (the row of
  the annotations, `Samples.row`) samples may be left out and come in any order; without, they must be all, in order.
Points are in the pixel numbers of the data set's files, or in those that pixel_offset says.
What may enter: reading such files and refusing what cannot be right; nothing that scores.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from pckh_truth import Array, Truth, Whole, short

from hgfast.errors import HgfastError
from pipelines import h5_file, mat_file, numpy_file

NAMES = ("preds", "pos_pred_src")
FAR = 1e9  # pixels, beyond any picture
FORMATS = "give HDF5, MATLAB (.mat), numpy (.npy, .npz) or JSON"


def read_predictions(path: Path, truth: Truth) -> tuple[Array, Whole]:
    """Points (M, K, 2) in the pixel numbers of `truth`, and which of its samples they are of, (M,), ascending.

    Raises:
        HgfastError: the file is missing or broken, has other samples or joints than `truth`, or a number that is not finite.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise HgfastError(f"the predictions {path} cannot be read ({error.strerror}): check --predictions") from error
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"["):
        return _from_json(path, truth)
    if h5py.is_hdf5(path):
        name, found = _from_hdf5(path)
    elif head.startswith(b"MATLAB 5.0"):
        name, found = _from_mat(path)
    elif head.startswith((b"\x93NUMPY", b"PK")):
        name, found = _from_numpy(path, zipped=head.startswith(b"PK"))
    else:
        raise HgfastError(f"{path} is no file of predictions of a known format: {FORMATS}")
    return _finite(_arrange(found, truth, f"{path}: {name}"), truth, path), np.arange(len(truth))


def _from_hdf5(path: Path) -> tuple[str, Any]:
    try:
        name = _pick(h5_file.keys(path), path)
        return name, h5_file.read_h5(path, [name])[name]
    except h5_file.BROKEN as error:
        raise HgfastError(f"{path} cannot be read as HDF5 ({short(error)}): write it again") from error


def _from_mat(path: Path) -> tuple[str, Any]:
    try:
        name = _pick(mat_file.names(path), path)
        return name, mat_file.read_mat(path, [name])[name]
    except mat_file.BROKEN as error:
        raise HgfastError(f"{path} cannot be read as a MATLAB file ({short(error)}): write it again") from error


def _from_numpy(path: Path, zipped: bool) -> tuple[str, Any]:
    try:
        if not zipped:
            return "the array", numpy_file.read_npy(path)
        name = _pick(numpy_file.names(path), path)
        return name, numpy_file.read_npz(path, [name])[name]
    except numpy_file.BROKEN as error:
        raise HgfastError(f"{path} cannot be read as numpy's arrays ({short(error)}): write it again") from error


def _pick(names: Sequence[str], path: Path) -> str:
    for name in NAMES:
        if name in names:
            return name
    found = f"it holds {', '.join(names[:8])}" if names else "it holds nothing"
    raise HgfastError(f"{path} has no predictions called {' or '.join(NAMES)} ({found}): rename them")


def _arrange(found: Any, truth: Truth, where: str) -> Array:
    """An array of one of the known layouts as (n, K, 2)."""
    people, joints = truth.points.shape[:2]
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
        raise HgfastError(f"{where} holds {getattr(found, 'dtype', type(found).__name__)}, wanted numbers; write it again")
    layouts = [
        order
        for values in (2, 3)
        for order, shape in (
            ((0, 1, 2), (people, joints, values)),
            ((2, 1, 0), (values, joints, people)),
            ((2, 0, 1), (joints, values, people)),
        )
        if found.shape == shape
    ]
    shape = " x ".join(map(str, found.shape)) or "a single number"
    if not layouts:
        raise HgfastError(
            f"{where} is {shape}, wanted {people} x {joints} x 2 (or 2 x {joints} x {people}, or {joints} x 2 x {people}) "
            f"as {truth.source} has {people} samples of {joints} joints; give the predictions that belong to it"
        )
    if len(layouts) > 1:
        raise HgfastError(f"{where} is {shape}, which can be read in two ways: write it as JSON, {people} x {joints} x 2")
    return found.transpose(layouts[0])[..., :2].astype(np.float64)


def _from_json(path: Path, truth: Truth) -> tuple[Array, Whole]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise HgfastError(f"{path} is not valid JSON ({short(error)}): write it again") from error
    if content == []:
        raise HgfastError(f"{path} is empty, it has no samples: write it again")
    if isinstance(content, list):
        points = _stack(content, truth, f"{path}")
        if len(points) != len(truth):
            raise HgfastError(f"{path} has {len(points)} samples, {truth.source} has {len(truth)}: give all of them, in order")
        return _finite(points, truth, path), np.arange(len(truth))
    samples = content.get("samples")
    if samples == []:
        raise HgfastError(f"{path} is empty, it has no samples: write it again")
    if not isinstance(samples, list) or not samples or not all(isinstance(s, dict) and "keypoints" in s for s in samples):
        raise HgfastError(f"{path} has no list 'samples' with 'keypoints' in each, as evaluate.py --predictions writes it")
    _check_kind(content, truth, path)
    offset = content.get("pixel_offset", truth.pixel_offset)
    if isinstance(offset, bool) or not isinstance(offset, (int, float)) or not abs(offset) <= FAR:
        raise HgfastError(f"{path}: pixel_offset is {json.dumps(offset)[:40]}, must be a number such as -0.5; correct it")
    points = _stack([_with_nan(sample["keypoints"]) for sample in samples], truth, f"{path}: keypoints")
    places = _places(samples, truth, path)
    _check_files(samples, places, truth, path)
    order = np.argsort(places)
    return (_finite(points, truth, path) + (offset - truth.pixel_offset))[order], places[order]


def _with_nan(points: Any) -> Any:
    """A sample's points with NaN in place of null, which is what JSON has for a point that is not finite."""
    return [[math.nan] * 2 if point == [None, None] else point for point in points] if isinstance(points, list) else points


def _check_kind(content: dict[str, Any], truth: Truth, path: Path) -> None:
    """Refuse predictions for another data set, or of joints in another order."""
    dataset, joints = content.get("dataset", truth.dataset), content.get("joints")
    if dataset != truth.dataset:
        raise HgfastError(
            f"{path} has predictions for {dataset}, {truth.source} is {truth.dataset}: choose what belongs together"
        )
    if joints is None or joints == list(truth.skeleton.joints):
        return
    wanted = truth.skeleton.joints
    if not isinstance(joints, list) or len(joints) != len(wanted):
        count = len(joints) if isinstance(joints, list) else "no list of"
        raise HgfastError(f"{path} has {count} joints, {truth.source} has {len(wanted)}: choose what belongs together")
    first = next(joint for joint, name in enumerate(wanted) if joints[joint] != name)
    raise HgfastError(f"{path}: joint {first} is {joints[first]!r}, in {truth.source} {wanted[first]!r}: put them in its order")


def _stack(lists: list[Any], truth: Truth, where: str) -> Array:
    """Nested lists as (M, K, 2), a score left out."""
    joints = truth.points.shape[1]
    try:
        found = np.array(lists)
    except ValueError:  # of different lengths
        found = np.empty(0)
    if found.ndim != 3 or found.shape[1] != joints or found.shape[2] not in (2, 3) or found.dtype.kind not in "fiu":
        kind = "" if found.dtype.kind in "fiu" else ", not all of them numbers"
        shape = " x ".join(map(str, found.shape)) if found.size else "lists of different lengths"
        raise HgfastError(f"{where} is {shape}{kind}, wanted n x {joints} x 2 numbers for {truth.source}; write it again")
    return found[..., :2].astype(np.float64)


def _places(samples: list[dict[str, Any]], truth: Truth, path: Path) -> Whole:
    """Which samples of `truth` these are, (M,): by `row`, or all of them in order where nobody has one."""
    rows = [sample.get("row") for sample in samples]
    if all(row is None for row in rows):
        if len(samples) != len(truth):
            raise HgfastError(
                f"{path} has {len(samples)} samples without 'row', {truth.source} has {len(truth)}: write 'row' into each, or all"
            )
        return np.arange(len(truth))
    numbers = dict(zip(truth.rows.tolist(), range(len(truth))))
    seen: set[int] = set()
    for place, row in enumerate(rows):
        if type(row) is not int or row not in numbers or row in seen:
            why = "twice" if type(row) is int and row in seen else f"no row of {truth.source}"
            raise HgfastError(f"{path}: row of sample {place} is {json.dumps(row)[:40]}, which is {why}; correct it")
        seen.add(row)
    return np.array([numbers[row] for row in rows if row is not None])


def _check_files(samples: list[dict[str, Any]], places: Whole, truth: Truth, path: Path) -> None:
    """Refuse samples whose picture is another one than that of their row."""
    if truth.files is None:
        return
    for number, (sample, place) in enumerate(zip(samples, places)):
        name, wanted = sample.get("file"), str(truth.files[place])
        if name is not None and Path(str(name)).name != wanted:
            raise HgfastError(
                f"{path}: sample {number} is of {name!r}, that row of {truth.source} is of {wanted!r}: "
                "give the annotations that it was made with"
            )


def _finite(points: Array, truth: Truth, path: Path) -> Array:
    """Refuse points that are not finite, but for bodies, where such a joint is a miss as in evalMPII.m (NaN <= t is false)."""
    bad = np.asarray(~np.isfinite(points).all(-1))
    if bad.any() and truth.dataset != "mpii":
        sample, joint = np.argwhere(bad)[0].tolist()
        raise HgfastError(
            f"{path}: joint {joint} of sample {sample} is not finite ({int(bad.sum())} joints are not): "
            "every joint must have a guess, a wrong one if need be"
        )
    return np.where(bad[..., None], np.nan, points)
