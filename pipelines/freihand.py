"""Reader for FreiHAND_pub_v2 as its authors publish it, into `Samples`.

uv = K xyz / z lies in the corner convention as it is (pixel_offset 0): the published K have their principal point at
exactly W / 2. Image number = unique id + (number of unique ids) * version, versions in the order of `VERSIONS`; the
four versions of a hand share one annotation, so splits are made by unique id. `Samples.row` is the image number.
Layout: github.com/lmb-freiburg/freihand (README, utils/fh_utils.py). What may enter: this layout, nothing after it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgfast.draw import read_image
from hgfast.errors import HgfastError
from hgfast.skeletons import HAND21
from pipelines.pictures import Bounds, find_pictures
from pipelines.samples import Samples

VERSIONS = ("gs", "hom", "sample", "auto")
WHERE_FROM = (
    "unpack FreiHAND_pub_v2.zip (lmb.informatik.uni-freiburg.de/projects/freihand) there, "
    "or draw synthetic hands with 'python pipelines/synthetic.py freihand --out {root}'"
)
SIZE = 224  # side of every picture, pixels
LOOKED_AT = 5  # pictures at most, to see whether they are FreiHAND's
# The seed's ranges of the 32560 unique ids: train below the first, valid below the second, test the rest.
SEED_IDS, SEED_TRAIN_END, SEED_VALID_END = 32560, 28000, 30800


def read_freihand(
    root: Path,
    split: str,
    versions: Sequence[str] = VERSIONS,
    skip_missing: bool = False,
    shares: Sequence[float] | None = None,
    outside: bool = False,
) -> Samples:
    """The samples of one split.

    Args:
        root: the folder that holds training/, training_K.json and training_xyz.json.
        split: "train", "valid" or "test" (ranges of unique ids, the seed's in proportion), "all" (the whole training set),
            or "evaluation" (the official evaluation set; without its published annotations no joint is labelled).
        versions: which of `VERSIONS`; the evaluation set has no others than its own pictures.
        skip_missing: leave out samples whose picture is not there, instead of refusing.
        shares: of the hands that train and valid get; test gets the rest. None: the seed's ranges.
        outside: pictures may be links that lead out of the root.

    Raises:
        HgfastError: files missing or of the wrong shape, or an empty split; the message says which and what to do.
    """
    part = "evaluation" if split == "evaluation" else "training"
    if unknown := [v for v in versions if v not in VERSIONS]:
        raise HgfastError(f"FreiHAND version {unknown[0]!r} is unknown; choose from {', '.join(VERSIONS)}")
    if not versions or len(set(versions)) < len(versions):
        raise HgfastError(f"--versions must name one or more of {', '.join(VERSIONS)}, each once")
    _check_present(root, part)
    k_matrices = _read_rows(root / f"{part}_K.json", (3, 3))
    annotated = part == "training" or (root / f"{part}_xyz.json").is_file()
    uv = _read_points(root, part, k_matrices) if annotated else np.zeros((len(k_matrices), 21, 2))
    ids = _split_ids(len(uv), split, root, shares)
    columns = [0] if part == "evaluation" else [VERSIONS.index(v) for v in versions]
    numbers = np.concatenate([ids + len(uv) * column for column in columns])
    names = [f"{number:08d}.jpg" for number in numbers]
    advice = "unpack the archive again, or leave out absent versions with --versions"
    paths, there = find_pictures(root / part / "rgb", names, skip_missing, advice, Bounds(root, outside))
    _check_size(paths)
    group = np.tile(ids, len(columns))[there]
    keypoints = uv[group]
    return Samples(
        paths=paths,
        centre=np.full((len(paths), 2), SIZE / 2),
        side=np.full(len(paths), float(SIZE)),
        keypoints=keypoints,
        labelled=np.full(keypoints.shape[:2], annotated),
        reference=np.ptp(keypoints, axis=1).max(axis=1) if annotated else np.full(len(paths), np.nan),
        group=group,
        row=numbers[there],
        skeleton=HAND21,
        pixel_offset=0.0,
        skipped=int((~there).sum()),
    )


def split_bounds(count: int, shares: Sequence[float] | None = None) -> tuple[int, int]:
    """Where train ends and where valid ends among `count` unique ids: by shares, or the seed's ranges in proportion."""
    if shares is None:
        return round(count * SEED_TRAIN_END / SEED_IDS), round(count * SEED_VALID_END / SEED_IDS)
    if len(shares) != 2 or not all(0 <= share <= 1 for share in shares) or sum(shares) > 1 + 1e-9:
        raise HgfastError(f"--shares {list(shares)} must be two numbers from 0 to 1 for train and valid, together at most 1")
    return round(count * shares[0]), round(count * min(1.0, sum(shares)))


def _split_ids(count: int, split: str, root: Path, shares: Sequence[float] | None) -> NDArray[np.int64]:
    train_end, valid_end = split_bounds(count, shares)
    ranges = {"train": (0, train_end), "valid": (train_end, valid_end), "test": (valid_end, count)}
    start, end = {**ranges, "all": (0, count), "evaluation": (0, count)}[split]
    if start == end:
        raise HgfastError(f"the {split} split of the {count} hands in {root} is empty: use more hands, or the split 'all'")
    return np.arange(start, end)


def _read_points(root: Path, part: str, k_matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """The joints (N, 21, 2) in pixels."""
    xyz = _read_rows(root / f"{part}_xyz.json", (21, 3))
    if len(k_matrices) != len(xyz):
        raise HgfastError(
            f"{part}_K.json has {len(k_matrices)} rows and {part}_xyz.json {len(xyz)} in {root}: "
            "they must be equally long; unpack both again from the same archive"
        )
    return _project(k_matrices, xyz, root / f"{part}_xyz.json")


def _check_present(root: Path, part: str) -> None:
    needed = [f"{part}_K.json"] + ([f"{part}_xyz.json"] if part == "training" else [])
    missing = [name for name in needed if not (root / name).is_file()]
    missing += [f"{part}/rgb"] if not (root / part / "rgb").is_dir() else []
    if missing and part == "evaluation" and (root / "training_xyz.json").exists():
        raise HgfastError(
            f"{missing[0]} is not in {root}: the evaluation set comes in FreiHAND_pub_v2.zip and FreiHAND_pub_v2_eval.zip, "
            "to be unpacked there"
        )
    if missing:
        what, empty = (f"{missing[0]} is missing", "DIR") if root.is_dir() else ("there is no such folder", root)
        raise HgfastError(f"no FreiHAND data in {root} ({what}): {WHERE_FROM.format(root=empty)}")


def _read_rows(path: Path, shape: tuple[int, int]) -> NDArray[np.float64]:
    """A json list of matrices as (N, *shape) float64; the first bad row is named."""
    try:
        rows: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise HgfastError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise HgfastError(f"{path} is not valid JSON ({error}): unpack it again") from error
    if not isinstance(rows, list) or not rows:
        raise HgfastError(f"{path} must hold a non-empty list of {shape[0]} x {shape[1]} rows")
    table = _as_floats(rows)
    if table is not None and table.shape[1:] == shape and np.isfinite(table).all():
        return table
    for number, row in enumerate(rows):
        matrix = _as_floats(row)
        if matrix is None or matrix.shape != shape:
            found = "something else" if matrix is None else " x ".join(map(str, matrix.shape)) or "a single number"
            raise HgfastError(f"{path}: row {number} is {found}, wanted {shape[0]} x {shape[1]} numbers; unpack it again")
        if not np.isfinite(matrix).all():
            raise HgfastError(f"{path}: row {number} holds a number that is not finite; unpack it again")
    raise HgfastError(f"{path} could not be read as rows of {shape[0]} x {shape[1]} numbers")


def _as_floats(value: Any) -> NDArray[np.float64] | None:
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None


def _project(k_matrices: NDArray[np.float64], xyz: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    """(N, 3, 3) and (N, 21, 3) metres in the camera's frame -> (N, 21, 2) pixels."""
    homogeneous = xyz @ k_matrices.transpose(0, 2, 1)
    behind = np.nonzero((homogeneous[..., 2] <= 0).any(1))[0]
    if len(behind):
        raise HgfastError(f"{path}: row {behind[0]} has a joint at or behind the camera (z <= 0); unpack it again")
    return np.asarray(homogeneous[..., :2] / homogeneous[..., 2:], np.float64)


def _check_size(paths: NDArray[np.str_]) -> None:
    """Refuse a folder of other pictures: of a few from its beginning to its end, those that can be read have another size.

    One that cannot be read, or one of another size among right ones, is left to the file check and to the loader.
    """
    wrong = ""
    for path in paths[np.linspace(0, len(paths) - 1, min(LOOKED_AT, len(paths))).astype(int)]:
        try:
            height, width, _ = read_image(path).shape
        except HgfastError:
            continue
        if (height, width) == (SIZE, SIZE):
            return
        wrong = wrong or f"{path} is {width} x {height} pixels, FreiHAND's are {SIZE} x {SIZE}: unpack it again"
    if wrong:
        raise HgfastError(wrong)
