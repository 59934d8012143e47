"""What the file check must know of each data set: its splits, the size of its pictures, hands in space, rows in words.

What may enter: what differs between the layouts and is of no use but for the check.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hgfast.config import DataChoice
from hgfast.errors import HgfastError
from pipelines import freihand, mpii, mpii_mat
from pipelines.datasets import coco_files, open_samples
from pipelines.pictures import MissingPictures
from pipelines.samples import Samples


@dataclass(frozen=True)
class Split:
    """A part of the data set. samples: those whose picture is there, if any; rows: (N,) the annotations' numbers for them, which
    the versions of a FreiHAND hand share. missing: paths of pictures that are not there. refused: why there are no samples,
    a sentence."""

    name: str
    samples: Samples | None
    rows: NDArray[np.int64]
    missing: Sequence[str] = ()
    refused: str = ""


def split_names(config: DataChoice) -> list[str]:
    """The splits that are there, going by their annotations; if none is, the first, so that its reader says what is missing."""
    root = config.data or Path()
    if config.dataset == "freihand":
        return ["all"] + (["evaluation"] if (root / "evaluation_xyz.json").exists() else [])
    if config.dataset == "coco":
        return [name for name in ("train", "valid") if coco_files(config, name)[0] is not None] or ["train"]
    if config.annotations is not None:
        return list(mpii.SPLITS)
    return [name for name in mpii.SPLITS if (root / "annot" / f"{name}.h5").exists()] or ["train"]


def open_splits(config: DataChoice) -> list[Split]:
    """Every split that is there. Raises `HgfastError` where none has a sample, with the first one's reason."""
    splits = [open_split(config, name) for name in split_names(config)]
    if all(split.samples is None for split in splits):
        raise HgfastError(splits[0].refused)
    return splits


def open_split(config: DataChoice, name: str) -> Split:
    """A split without the samples whose picture is missing, and with the names of those pictures."""
    missing: Sequence[str] = ()
    try:
        try:
            samples = open_samples(replace(config, skip_missing=False), name)
        except MissingPictures as error:
            missing = error.missing
            samples = open_samples(replace(config, skip_missing=True), name)
    except HgfastError as error:
        return Split(name, None, np.arange(0), missing, str(error))
    return Split(name, samples, samples.group if config.dataset == "freihand" else samples.row, missing)


def wanted_sizes(config: DataChoice, split: Split) -> dict[str, tuple[int, int]]:
    """Path -> width and height, where the layout or the annotations say what they must be."""
    if split.samples is None or config.dataset == "mpii":
        return {}
    if config.dataset == "freihand":
        return dict.fromkeys(split.samples.paths.tolist(), (freihand.SIZE, freihand.SIZE))
    return _coco_sizes(config, split.name)


def _coco_sizes(config: DataChoice, split: str) -> dict[str, tuple[int, int]]:
    """Path -> width and height, for those images of a file that has been read without complaint whose entry has both."""
    file, images = coco_files(config, split)
    if file is None or images is None:
        return {}
    sizes = {}
    for image in json.loads(file.read_bytes())["images"]:
        match image:
            case {"file_name": str(name), "width": int(width), "height": int(height)} if width > 0 and height > 0:
                sizes[str(images / name)] = width, height
    return sizes


def hands_in_space(config: DataChoice, splits: list[Split]) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """FreiHAND: for each split that can be trained on or evaluated, rows (N,) and joints (N, 21, 3) in metres; else nothing."""
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
        train_end, valid_end = freihand.split_bounds(len(xyz), config.shares)
        for name, start, end in (("train", 0, train_end), ("valid", train_end, valid_end), ("test", valid_end, len(xyz))):
            hands[name] = np.arange(start, end), xyz[start:end]
    return hands


def _joints(root: Path, part: str) -> NDArray[np.float64]:
    """The joints (N, 21, 3) in metres of a file that has been read without complaint."""
    return np.array(json.loads((root / f"{part}_xyz.json").read_bytes()), np.float64)


def place_of(config: DataChoice, split: str, row: int) -> str:
    """Where an annotation is, in words: the file, and what `Split.rows` says of the place in it."""
    if config.dataset == "freihand":
        return f"{'evaluation' if split == 'evaluation' else 'training'}_xyz.json, row {row}"
    if config.dataset == "mpii" and config.annotations is None:
        return f"annot/{split}.h5, row {row}"
    if config.dataset == "mpii":
        return f"{config.annotations}, {mpii_mat.place_of(row)}"
    return f"{coco_files(config, split)[0]}, annotation {row}"
