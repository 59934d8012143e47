"""What the file check needs to know of each data set: its splits, image sizes, joints in space, and names for rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hgfast.config import DataConfig
from hgfast.errors import HgfastError
from hgfast.pipelines.datasets import coco_files, open_samples
from hgfast.pipelines.readers import freihand, mpii_h5, mpii_mat
from hgfast.pipelines.readers.image_paths import MissingImages
from hgfast.pipelines.samples import Samples


@dataclass(frozen=True)
class CheckedSplit:
    """One split of the data set.

    samples: the samples whose image exists, if any. rows: (N,) numbers of the samples in the annotations; the versions of a
    FreiHAND hand share one. missing: paths of missing images. refused: reason why there are no samples.
    """

    name: str
    samples: Samples | None
    rows: NDArray[np.int64]
    missing: Sequence[str] = ()
    refused: str = ""


def existing_splits(config: DataConfig) -> list[str]:
    """Return the splits that have annotations; if none has, the first one, so that its reader reports what is missing."""
    root = config.data or Path()
    if config.dataset == "freihand":
        return ["all"] + (["evaluation"] if (root / "evaluation_xyz.json").exists() else [])
    if config.dataset == "coco":
        return [name for name in ("train", "valid") if coco_files(config, name)[0] is not None] or ["train"]
    if config.annotations is not None:
        return list(mpii_h5.SPLITS)
    return [name for name in mpii_h5.SPLITS if (root / "annot" / f"{name}.h5").exists()] or ["train"]


def open_splits(config: DataConfig) -> list[CheckedSplit]:
    """Read every existing split. Raises `HgfastError` with the first split's reason if no split has a sample."""
    splits = [open_split(config, name) for name in existing_splits(config)]
    if all(split.samples is None for split in splits):
        raise HgfastError(splits[0].refused)
    return splits


def open_split(config: DataConfig, name: str) -> CheckedSplit:
    """Read a split without samples whose image is missing, and collect the paths of those images."""
    missing: Sequence[str] = ()
    try:
        try:
            samples = open_samples(replace(config, skip_missing=False), name)
        except MissingImages as error:
            missing = error.missing
            samples = open_samples(replace(config, skip_missing=True), name)
    except HgfastError as error:
        return CheckedSplit(name, None, np.arange(0), missing, str(error))
    return CheckedSplit(name, samples, samples.group if config.dataset == "freihand" else samples.row, missing)


def expected_sizes(config: DataConfig, split: CheckedSplit) -> dict[str, tuple[int, int]]:
    """Return path -> (width, height) of the images whose size the layout or the annotations state."""
    if split.samples is None or config.dataset == "mpii":
        return {}
    if config.dataset == "freihand":
        return dict.fromkeys(split.samples.paths.tolist(), (freihand.IMAGE_SIZE, freihand.IMAGE_SIZE))
    return _coco_sizes(config, split.name)


def _coco_sizes(config: DataConfig, split: str) -> dict[str, tuple[int, int]]:
    """Return path -> (width, height) of the images whose entry has both; the reader has already validated the file."""
    file, images = coco_files(config, split)
    if file is None or images is None:
        return {}
    sizes = {}
    for image in json.loads(file.read_bytes())["images"]:
        match image:
            case {"file_name": str(name), "width": int(width), "height": int(height)} if width > 0 and height > 0:
                sizes[str(images / name)] = width, height
    return sizes


def camera_space_hands(
    config: DataConfig, splits: list[CheckedSplit]
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Return rows (N,) and joints (N, 21, 3) in meters of each FreiHAND split to train or evaluate on; {} for other data sets."""
    hands: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
    if config.dataset != "freihand" or config.data is None:
        return {}
    for split in splits:
        if split.samples is None:
            continue
        if split.name == "evaluation":
            xyz = _joints(config.data, "evaluation")
            hands["evaluation"] = np.arange(len(xyz)), xyz
            continue
        xyz = _joints(config.data, "training")
        train_end, valid_end = freihand.split_bounds(len(xyz), config.split_fractions)
        for name, start, end in (("train", 0, train_end), ("valid", train_end, valid_end), ("test", valid_end, len(xyz))):
            hands[name] = np.arange(start, end), xyz[start:end]
    return hands


def _joints(root: Path, part: str) -> NDArray[np.float64]:
    """Return the joints (N, 21, 3) in meters of a file that the reader has already validated."""
    return np.array(json.loads((root / f"{part}_xyz.json").read_bytes()), np.float64)


def describe_row(config: DataConfig, split: str, row: int) -> str:
    """Describe the location of an annotation: its file and the number that `CheckedSplit.rows` gives it there."""
    if config.dataset == "freihand":
        return f"{'evaluation' if split == 'evaluation' else 'training'}_xyz.json, row {row}"
    if config.dataset == "mpii" and config.annotations is None:
        return f"annot/{split}.h5, row {row}"
    if config.dataset == "mpii":
        return f"{config.annotations}, {mpii_mat.describe_row(row)}"
    return f"{coco_files(config, split)[0]}, annotation {row}"
