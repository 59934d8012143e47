"""Read the ground truth of pckh.py: MPII's annotation files, recognized by content, or a split of a data set.

- valid.h5 of princeton-vl (part, visible, normalize): integer pixels, noted as "integer-truncated". A joint is absent if part is
  (0, 0) and visible is 0, or if part is (-1, -1), as everywhere in test.h5.
- detections_our_format.mat of bearpaw/pytorch-pose and anibali/eval-mpii-pose (pos_gt_src, jnt_missing, headboxes_src): with
  fractions, as in many papers. The head size is 0.6 times the diagonal of the head box; it equals normalize of valid.h5 within
  1e-4 px. 13 of its joints are clipped at the border of the image.
- a split of FreiHAND, of COCO keypoints or of MPII's original .mat, by their readers.

Points stay in the pixel coordinates of the files, in which predictions are written.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hgfast.config import DataConfig, DatasetName
from hgfast.errors import HgfastError, one_line
from hgfast.metrics import PCKH, Metric
from hgfast.pipelines.datasets import DATASETS, open_samples
from hgfast.pipelines.readers import h5_file
from hgfast.pipelines.readers.base import READ_ERRORS
from hgfast.pipelines.readers.mat_file import list_variables, read_mat
from hgfast.pipelines.readers.mpii_h5 import PIXEL_OFFSET, check_split, decode_names, read_columns, to_float_column
from hgfast.pipelines.readers.mpii_mat import CENTER_OFFSET_Y, HEAD, SCALE_FACTOR
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import BODY16, Skeleton

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
StrArray = NDArray[np.str_]

H5_COLUMNS = {"part": (16, 2), "visible": (16,), "normalize": (), "imgname": ()}
H5_PERSON_COLUMNS = {"index": (), "person": (), "center": (2,), "scale": ()}
DETECTION_FIELDS = {"pos_gt_src": (16, 2), "jnt_missing": (16,), "headboxes_src": (2, 2)}
KNOWN_FILES = (
    "MPII's valid.h5 (part, visible, normalize), detections_our_format.mat (pos_gt_src), or a data set's own file with --dataset"
)


@dataclass(frozen=True)
class GroundTruth:
    """N samples with K joints, in the pixel coordinates of their files.

    source: file or split. note: a property of it. points: (N, K, 2). labeled: (N, K) bool. reference: (N,) length that normalizes
    errors. side: (N,) of the square crop. rows: (N,) row of the annotations (`Samples.row`), by which predictions can identify a
    sample. pixel_offset: added to points to get corner coordinates. files: (N,) file names of the images, if known.
    index, person: (N,) 0-based indices in annolist and annorect of MPII's release, with its objpos (N, 2) and scale (N,); only
    for h5 files.
    """

    source: str
    dataset: DatasetName
    skeleton: Skeleton
    pixel_offset: float
    points: FloatArray
    labeled: NDArray[np.bool_]
    reference: FloatArray
    rows: IntArray
    side: FloatArray | None = None
    files: StrArray | None = None
    index: IntArray | None = None
    person: IntArray | None = None
    objpos: FloatArray | None = None
    scale: FloatArray | None = None
    note: str = ""

    @property
    def name(self) -> str:
        """The name in tables and records."""
        return f"{self.source}: {self.note}" if self.note else self.source

    @property
    def metric(self) -> Metric:
        return DATASETS[self.dataset].metric

    def __len__(self) -> int:
        return len(self.points)

    def take(self, indices: IntArray) -> GroundTruth:
        """Return the samples at 0-based indices (M,)."""
        arrays = {f.name: getattr(self, f.name)[indices] for f in fields(self) if isinstance(getattr(self, f.name), np.ndarray)}
        return replace(self, **arrays)

    @property
    def counted(self) -> int:
        """The number of labeled joints in the total; for bodies without pelvis and thorax."""
        joints = self.skeleton.grouped_joints if self.metric is PCKH else slice(None)
        return int(self.labeled[:, joints].sum())


def open_ground_truth(choice: DataConfig, split: str) -> GroundTruth:
    """Read the ground truth of the flags: --annotations FILE if it is one of MPII's, else a split of the data set.

    Raises:
        HgfastError: no flags, or files that are missing, broken or of an unknown format.
    """
    path = choice.annotations
    if path is None and choice.data is None and choice.valid_annotations is None:
        raise HgfastError(
            f"there is nothing to score against: give --annotations FILE, {KNOWN_FILES}, or --dataset NAME --data DIR"
        )
    if path is not None:
        if not path.is_file():
            raise HgfastError(f"there is no annotation file {path}: give {KNOWN_FILES}")
        if is_mpii_h5(path):
            return read_mpii_h5(path)
        if is_detections(path):
            return read_detections(path)
        if choice.dataset == "freihand" or h5py.is_hdf5(path):
            raise HgfastError(f"{path} is not a known annotation file ({_describe_content(path)}): give {KNOWN_FILES}")
    elif choice.dataset == "mpii" and choice.data is not None:
        check_split(split)
        split_file = choice.data / "annot" / f"{split}.h5"
        if split_file.is_file():  # read directly, because scoring needs no images
            return read_mpii_h5(split_file)
    return samples_ground_truth(open_samples(choice, split), choice, split)


def samples_ground_truth(samples: Samples, choice: DataConfig, split: str) -> GroundTruth:
    """Return the samples of a reader as ground truth."""
    return GroundTruth(
        source=f"{choice.dataset}, split {split}, {choice.data or choice.valid_annotations or choice.annotations}",
        dataset=choice.dataset,
        skeleton=samples.skeleton,
        pixel_offset=samples.pixel_offset,
        points=samples.keypoints - samples.pixel_offset,
        labeled=samples.labeled,
        reference=samples.reference,
        rows=samples.row,
        side=samples.side,
        files=np.array([Path(path).name for path in samples.paths]),
    )


def is_mpii_h5(path: Path) -> bool:
    """Return whether a file has the layout of princeton-vl's train.h5, valid.h5 and test.h5."""
    return h5py.is_hdf5(path) and {"part", "visible"} <= set(_h5_names(path))


def is_detections(path: Path) -> bool:
    """Return whether a file has the layout of detections_our_format.mat."""
    return not h5py.is_hdf5(path) and "pos_gt_src" in _mat_names(path)


def read_mpii_h5(path: Path) -> GroundTruth:
    """Read an annotation file of princeton-vl. Raises `HgfastError` if it is incomplete or broken."""
    person_columns = list(H5_PERSON_COLUMNS) if set(H5_PERSON_COLUMNS) <= set(_h5_names(path)) else []
    table: dict[str, NDArray[Any]] = read_columns(path, [*H5_COLUMNS, *person_columns])
    rows = len(table["part"]) if np.ndim(table["part"]) else 0
    for name in table:
        shape = (rows, *{**H5_COLUMNS, **H5_PERSON_COLUMNS}[name])
        if table[name].shape != shape or not rows:
            raise HgfastError(f"{path}: {name} has shape {table[name].shape}, expected {shape}: replace the file")
        if name != "imgname":
            table[name] = to_float_column(table[name], name, path)
    part, lengths = table["part"], table["normalize"]
    if (lengths <= 0).any():
        raise HgfastError(f"{path}: normalize of row {int(np.argmax(lengths <= 0))} is not above 0: replace the file")
    absent = ((part == 0).all(-1) | (part == -1).all(-1)) & (table["visible"] == 0)
    fractions = bool((part % 1).any())
    truth = GroundTruth(
        source=path.name,
        note="no annotations" if absent.all() else "with fractions" if fractions else "integer-truncated",
        dataset="mpii",
        skeleton=BODY16,
        pixel_offset=PIXEL_OFFSET,
        points=part,
        labeled=~absent,
        reference=lengths,
        rows=np.arange(rows),
        files=np.array(decode_names(table["imgname"])),
    )
    if not person_columns:
        return truth
    raw = table["scale"] / SCALE_FACTOR
    return replace(
        truth,
        index=_to_int(table["index"], "index", path),
        person=_to_int(table["person"], "person", path),
        objpos=table["center"] - np.stack([np.zeros(rows), CENTER_OFFSET_Y * raw], 1),
        scale=raw,
    )


def read_detections(path: Path) -> GroundTruth:
    """Read detections_our_format.mat. Raises `HgfastError` if it is incomplete or broken."""
    try:
        content = read_mat(path, list(DETECTION_FIELDS))
    except READ_ERRORS as error:
        raise HgfastError(f"{path} cannot be read as a MATLAB file ({one_line(error, 120)}): replace it") from error
    people = int(np.size(content.get("pos_gt_src", 0)) / 32)  # 16 joints, x and y
    table = {}
    for name, shape in DETECTION_FIELDS.items():
        array = content.get(name)
        if not isinstance(array, np.ndarray) or array.shape != (*shape, people) or array.dtype.kind not in "fiub":
            raise HgfastError(f"{path}: {name} must be a numeric array of shape {(*shape, people)}: replace the file")
        table[name] = to_float_column(np.moveaxis(array, -1, 0), name, path)
    corners = table["headboxes_src"]
    return GroundTruth(
        source=path.name,
        note="with fractions",
        dataset="mpii",
        skeleton=BODY16,
        pixel_offset=PIXEL_OFFSET,
        points=table["pos_gt_src"],
        labeled=table["jnt_missing"] == 0,
        reference=HEAD * np.hypot(*(corners[:, 1] - corners[:, 0]).T),
        rows=np.arange(people),
    )


def _mat_names(path: Path) -> list[str]:
    """Return the variable names of a MATLAB file; [] if it is not one."""
    try:
        return list_variables(path)
    except READ_ERRORS:
        return []


def _h5_names(path: Path) -> list[str]:
    try:
        return h5_file.list_datasets(path)
    except READ_ERRORS as error:
        raise HgfastError(f"{path} cannot be read as HDF5 ({one_line(error, 120)}): replace it") from error


def _describe_content(path: Path) -> str:
    """Describe the content of an unknown file for an error message."""
    names = _h5_names(path) if h5py.is_hdf5(path) else _mat_names(path)
    return f"it contains {', '.join(names[:8])}" if names else "it is neither HDF5 nor a MATLAB file"


def _to_int(column: FloatArray, name: str, path: Path) -> IntArray:
    if (column % 1).any() or (column < 0).any():
        raise HgfastError(f"{path}: {name} must contain whole numbers from 0: replace the file")
    return column.astype(np.int64)
