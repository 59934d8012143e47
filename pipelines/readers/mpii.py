"""MPII Human Pose, from the h5 files of princeton-vl's code or from the original .mat that --annotations names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py

from hgfast.config import DataConfig
from hgfast.errors import HgfastError
from hgfast.metrics import PCKH
from hgfast.pipelines.readers import mpii_mat
from hgfast.pipelines.readers.base import DataSet, allowed_roots, require_root
from hgfast.pipelines.readers.mpii_h5 import DOWNLOAD_HINT, SPLITS, read_mpii
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import BODY16


def _read(config: DataConfig, split: str) -> Samples:
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


def _splits(config: DataConfig) -> Sequence[str]:
    if config.annotations is not None:
        return SPLITS
    return [name for name in SPLITS if ((config.data or Path()) / "annot" / f"{name}.h5").exists()] or ["train"]


def _describe_row(config: DataConfig, split: str, row: int) -> str:
    return f"annot/{split}.h5, row {row}" if config.annotations is None else f"{config.annotations}, {mpii_mat.describe_row(row)}"


DATASET = DataSet(
    _read,
    metric=PCKH,
    splits=_splits,
    files=[f"annot/{split}.h5" for split in (*SPLITS, "test")],
    item="people",
    skeleton=BODY16,
    describe_row=_describe_row,
)
