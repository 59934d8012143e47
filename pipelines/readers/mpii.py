"""MPII Human Pose, from the h5 files of princeton-vl's code, the JSON files of HRNet and mmpose, or the original .mat."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py

from hgfast.config import DataConfig
from hgfast.errors import HgfastError
from hgfast.metrics import PCKH
from hgfast.pipelines.readers import mpii_mat
from hgfast.pipelines.readers.base import DataSet, allowed_roots, require_root
from hgfast.pipelines.readers.mpii_h5 import DOWNLOAD_HINT, SPLITS, check_split, read_mpii
from hgfast.pipelines.readers.mpii_json import read_mpii_json
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import BODY16


def _read(config: DataConfig, split: str) -> Samples:
    check_split(split)
    if (json_file := _json_file(config, split)) is not None:
        images = config.images or require_root(config, "or --images DIR, the folder of the images") / "images"
        return read_mpii_json(json_file, images, config.skip_missing, allowed_roots(config, config.images))
    if config.annotations is None:
        root = require_root(config, DOWNLOAD_HINT)
        return read_mpii(root, split, config.skip_missing, config.images, config.data_outside)
    images = config.images or require_root(config, "or --images DIR, the folder of the images") / "images"
    valid_list = config.valid_annotations or (config.data / "annot" / "valid.h5" if config.data else None)
    if valid_list is None:
        raise HgfastError(f"--valid-annotations FILE is missing: the images to validate on, {mpii_mat.VALID_LIST_HINT}")
    return mpii_mat.read_mpii_mat(
        config.annotations,
        images,
        split,
        mpii_mat.valid_names(valid_list),
        config.skip_missing,
        only_people=mpii_mat.valid_people(valid_list) if h5py.is_hdf5(valid_list) else None,
        single_person=config.single_person,
        bounds=allowed_roots(config, config.images),
    )


def _json_file(config: DataConfig, split: str) -> Path | None:
    """Return the split's JSON file, if the flags name one or the folder has one and no h5 file; None for the other formats."""
    named = config.annotations if split == "train" else config.valid_annotations
    if named is None and (config.annotations is None or _is_json(config.annotations)) and config.data is not None:
        h5_file = config.data / "annot" / f"{split}.h5"
        named = h5_file.with_suffix(".json") if h5_file.with_suffix(".json").exists() and not h5_file.exists() else None
    if named is not None and _is_json(named):
        return named
    if split == "valid" and config.annotations is not None and _is_json(config.annotations):
        raise HgfastError(f"--valid-annotations FILE is missing: the JSON file to validate on, as {config.annotations}")
    return None


def _is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json"


def _splits(config: DataConfig) -> Sequence[str]:
    if config.annotations is not None and not _is_json(config.annotations):
        return SPLITS
    annot = (config.data or Path()) / "annot"
    named = {"train": config.annotations, "valid": config.valid_annotations}
    found = [name for name in SPLITS if named[name] or any((annot / f"{name}{end}").exists() for end in (".h5", ".json"))]
    return found or ["train"]


def _describe_row(config: DataConfig, split: str, row: int) -> str:
    if (json_file := _json_file(config, split)) is not None:
        return f"{json_file}, person {row}"
    return f"annot/{split}.h5, row {row}" if config.annotations is None else f"{config.annotations}, {mpii_mat.describe_row(row)}"


DATASET = DataSet(
    _read,
    metric=PCKH,
    splits=_splits,
    files=[*(f"annot/{split}.h5" for split in (*SPLITS, "test")), *(f"annot/{split}.json" for split in SPLITS)],
    item="people",
    skeleton=BODY16,
    describe_row=_describe_row,
)
