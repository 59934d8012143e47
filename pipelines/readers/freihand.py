"""Reader for FreiHAND_pub_v2 as its authors publish it, into `Samples`.

uv = K xyz / z is already in the corner convention (pixel_offset 0): the principal point of the published K is exactly W / 2.
Image number = unique id + (number of unique ids) * version, with versions in the order of `VERSIONS`; the four versions of a hand
share one annotation, so splits are ranges of unique ids. `Samples.row` is the image number. Layout:
github.com/lmb-freiburg/freihand (README, utils/fh_utils.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgfast.config import DataConfig
from hgfast.errors import HgfastError
from hgfast.metrics import HAND_PCK
from hgfast.pipelines.readers.base import DataSet, Hands, missing_data, read_json, require_root
from hgfast.pipelines.readers.image_paths import AllowedRoots, find_images
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import HAND21
from hgfast.visualization.draw import read_image

VERSIONS = ("gs", "hom", "sample", "auto")
DOWNLOAD_HINT = (
    "unpack FreiHAND_pub_v2.zip (lmb.informatik.uni-freiburg.de/projects/freihand) there, "
    "or render synthetic hands with 'hgfast synthetic freihand --out {root}'"
)
IMAGE_SIZE = 224  # side of every image, pixels
CHECKED_IMAGES = 5  # images, at most, whose size the reader checks
# princeton-vl's ranges of the 32560 unique ids: train below the first bound, valid below the second, test the rest
PRINCETON_IDS, PRINCETON_TRAIN_END, PRINCETON_VALID_END = 32560, 28000, 30800


def read_freihand(
    root: Path,
    split: str,
    versions: Sequence[str] = VERSIONS,
    skip_missing: bool = False,
    split_fractions: Sequence[float] | None = None,
    allow_outside: bool = False,
) -> Samples:
    """Read the samples of one split.

    Args:
        root: the folder that holds training/, training_K.json and training_xyz.json.
        split: "train", "valid" or "test" (ranges of unique ids), "all" (the whole training set), or "evaluation" (the official
            evaluation set; without its published annotations no joint is labeled).
        versions: a selection of `VERSIONS`; the evaluation set has its own images only.
        skip_missing: leave out samples whose image is missing, instead of raising.
        split_fractions: of the hands for train and valid; test gets the rest. None: in proportion to princeton-vl's ranges.
        allow_outside: images may be links to places outside of the root.

    Raises:
        HgfastError: files are missing or of the wrong shape, or the split is empty.
    """
    part = "evaluation" if split == "evaluation" else "training"
    if unknown_versions := [v for v in versions if v not in VERSIONS]:
        raise HgfastError(f"FreiHAND version {unknown_versions[0]!r} is unknown; choose from {', '.join(VERSIONS)}")
    if not versions or len(set(versions)) < len(versions):
        raise HgfastError(f"--versions must name one or more of {', '.join(VERSIONS)}, each once")
    _check_present(root, part)
    k_matrices = _read_rows(root / f"{part}_K.json", (3, 3))
    annotated = part == "training" or (root / f"{part}_xyz.json").is_file()
    uv = _read_keypoints(root, part, k_matrices) if annotated else np.zeros((len(k_matrices), 21, 2))
    ids = _split_ids(len(uv), split, root, split_fractions)
    columns = [0] if part == "evaluation" else [VERSIONS.index(v) for v in versions]
    numbers = np.concatenate([ids + len(uv) * column for column in columns])
    names = [f"{number:08d}.jpg" for number in numbers]
    advice = "unpack the archive again, or leave out absent versions with --versions"
    paths, exists = find_images(root / part / "rgb", names, skip_missing, advice, AllowedRoots(root, allow_outside))
    _check_size(paths)
    group = np.tile(ids, len(columns))[exists]
    keypoints = uv[group]
    return Samples(
        paths=paths,
        center=np.full((len(paths), 2), IMAGE_SIZE / 2),
        side=np.full(len(paths), float(IMAGE_SIZE)),
        keypoints=keypoints,
        labeled=np.full(keypoints.shape[:2], annotated),
        reference=np.ptp(keypoints, axis=1).max(axis=1) if annotated else np.full(len(paths), np.nan),
        group=group,
        row=numbers[exists],
        skeleton=HAND21,
        pixel_offset=0.0,
        skipped=int((~exists).sum()),
    )


def split_bounds(count: int, split_fractions: Sequence[float] | None = None) -> tuple[int, int]:
    """Return the ends of train and valid among `count` unique ids, by fractions or in proportion to princeton-vl's ranges."""
    if split_fractions is None:
        return round(count * PRINCETON_TRAIN_END / PRINCETON_IDS), round(count * PRINCETON_VALID_END / PRINCETON_IDS)
    if len(split_fractions) != 2 or not all(0 <= f <= 1 for f in split_fractions) or sum(split_fractions) > 1 + 1e-9:
        raise HgfastError(
            f"--split-fractions {list(split_fractions)} must be two numbers from 0 to 1 for train and valid, together at most 1"
        )
    return round(count * split_fractions[0]), round(count * min(1.0, sum(split_fractions)))


def _split_ids(count: int, split: str, root: Path, split_fractions: Sequence[float] | None) -> NDArray[np.int64]:
    train_end, valid_end = split_bounds(count, split_fractions)
    ranges = {"train": (0, train_end), "valid": (train_end, valid_end), "test": (valid_end, count)}
    start, end = {**ranges, "all": (0, count), "evaluation": (0, count)}[split]
    if start == end:
        raise HgfastError(f"the {split} split of the {count} hands in {root} is empty: use more hands, or the split 'all'")
    return np.arange(start, end)


def _read_keypoints(root: Path, part: str, k_matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the joints (N, 21, 2) in pixels."""
    path = root / f"{part}_xyz.json"
    xyz = _read_rows(path, (21, 3))
    if len(k_matrices) != len(xyz):
        raise HgfastError(
            f"{part}_K.json has {len(k_matrices)} rows and {part}_xyz.json {len(xyz)} in {root}: "
            "they must be equally long; unpack both again from the same archive"
        )
    homogeneous = xyz @ k_matrices.transpose(0, 2, 1)
    behind = np.nonzero((homogeneous[..., 2] <= 0).any(1))[0]
    if len(behind):
        raise HgfastError(f"{path}: row {behind[0]} has a joint at or behind the camera (z <= 0); unpack it again")
    return np.asarray(homogeneous[..., :2] / homogeneous[..., 2:], np.float64)


def _check_present(root: Path, part: str) -> None:
    needed = [f"{part}_K.json"] + ([f"{part}_xyz.json"] if part == "training" else [])
    missing = [name for name in needed if not (root / name).is_file()]
    missing += [f"{part}/rgb"] if not (root / part / "rgb").is_dir() else []
    if missing and part == "evaluation" and (root / "training_xyz.json").exists():
        raise HgfastError(
            f"{missing[0]} is not in {root}: the evaluation set comes in FreiHAND_pub_v2.zip and FreiHAND_pub_v2_eval.zip, "
            "unpack both there"
        )
    if missing:
        raise missing_data("FreiHAND", root, missing[0], DOWNLOAD_HINT)


def _read_rows(path: Path, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Read a JSON list of matrices as (N, *shape) float64. Raises `HgfastError` that names the first bad row."""
    rows = read_json(path, "unpack it again")
    if not isinstance(rows, list) or not rows:
        raise HgfastError(f"{path} must hold a non-empty list of {shape[0]} x {shape[1]} rows")
    table = _as_floats(rows)
    if table is not None and table.shape[1:] == shape and np.isfinite(table).all():
        return table
    for number, row in enumerate(rows):
        matrix = _as_floats(row)
        if matrix is None or matrix.shape != shape:
            actual = "something else" if matrix is None else " x ".join(map(str, matrix.shape)) or "a single number"
            raise HgfastError(f"{path}: row {number} is {actual}, wanted {shape[0]} x {shape[1]} numbers; unpack it again")
        if not np.isfinite(matrix).all():
            raise HgfastError(f"{path}: row {number} holds a number that is not finite; unpack it again")
    raise HgfastError(f"{path} cannot be read as rows of {shape[0]} x {shape[1]} numbers; unpack it again")


def _as_floats(value: Any) -> NDArray[np.float64] | None:
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None


def _check_size(paths: NDArray[np.str_]) -> None:
    """Raise `HgfastError` if a few evenly spaced images all have another size than FreiHAND's.

    An unreadable image, or one of another size among right ones, is left to the file check and to the loader.
    """
    wrong_size = ""
    for path in paths[np.linspace(0, len(paths) - 1, min(CHECKED_IMAGES, len(paths))).astype(int)]:
        try:
            height, width, _ = read_image(path).shape
        except HgfastError:
            continue
        if (height, width) == (IMAGE_SIZE, IMAGE_SIZE):
            return
        wrong_size = wrong_size or f"{path} is {width} x {height} pixels"
    if wrong_size:
        raise HgfastError(f"{wrong_size}, FreiHAND's are {IMAGE_SIZE} x {IMAGE_SIZE}: unpack it again")


def _read(config: DataConfig, split: str) -> Samples:
    root = require_root(config, DOWNLOAD_HINT)
    return read_freihand(root, split, config.versions, config.skip_missing, config.split_fractions, config.data_outside)


def _splits(config: DataConfig) -> list[str]:
    root = config.data or Path()
    evaluation = (root / "evaluation_xyz.json").exists()
    only_evaluation = (root / "evaluation_K.json").exists() and not any(root.glob("training*"))
    return ["evaluation"] if only_evaluation else ["all", *(["evaluation"] if evaluation else [])]


def _hands(config: DataConfig, splits: Sequence[str]) -> Hands:
    """Return the joints of each split to train or evaluate on, from files that the reader has already validated."""
    hands: Hands = {}
    for split in splits:
        part = "evaluation" if split == "evaluation" else "training"
        path = (config.data or Path()) / f"{part}_xyz.json"
        if not path.exists():  # the evaluation set without its annotations
            continue
        xyz = np.array(json.loads(path.read_bytes()), np.float64)
        train_end, valid_end = split_bounds(len(xyz), config.split_fractions)
        bounds = {"train": (0, train_end), "valid": (train_end, valid_end), "test": (valid_end, len(xyz))}
        for name, (start, end) in (bounds if part == "training" else {split: (0, len(xyz))}).items():
            hands[name] = np.arange(start, end), xyz[start:end]
    return hands


DATASET = DataSet(
    _read,
    metric=HAND_PCK,
    eval_split=lambda _: "test",
    splits=_splits,
    files=[f"{part}_{name}.json" for part in ("training", "evaluation") for name in ("K", "xyz")],
    item="hands",
    skeleton=HAND21,
    numbering="group",  # the versions of a hand share an annotation
    describe_row=lambda _, split, row: f"{'evaluation' if split == 'evaluation' else 'training'}_xyz.json, row {row}",
    image_sizes=lambda _, split, samples: dict.fromkeys(samples.paths.tolist(), (IMAGE_SIZE, IMAGE_SIZE)),
    hands=_hands,
)
