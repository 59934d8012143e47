"""What predictions are scored against: MPII's annotation files, recognised by what is in them, or a split of a data set.

- valid.h5 of princeton-vl (part, visible, normalize): the joints' whole pixels only, which says "integer-truncated" of it.
  A joint is absent where part is (0, 0) in both and visible is 0; so is part (-1, -1), which test.h5 has everywhere.
- detections_our_format.mat of bearpaw/pytorch-pose and anibali/eval-mpii-pose (pos_gt_src, jnt_missing, headboxes_src): with
  fractions, as many papers score. Head size is 0.6 of the diagonal of the head's box; it equals valid.h5's normalize within
  1e-4 px. 13 of its joints are cut off at the picture's border.
- a split of FreiHAND, of COCO keypoints or of MPII's original .mat, by their readers.
Points stay in the files' own pixel numbers, for predictions are written in them.
What may enter: reading true points; nothing about predictions.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from hgfast.config import DataChoice
from hgfast.errors import HgfastError
from hgfast.skeletons import BODY16, Skeleton
from pipelines import h5_file
from pipelines.datasets import open_samples
from pipelines.mat_file import BROKEN, names, read_mat
from pipelines.mpii import PIXEL_OFFSET, as_names, as_numbers, check_split, read_columns
from pipelines.mpii_mat import DOWN, HEAD, WIDER
from pipelines.samples import Samples

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
Names = NDArray[np.str_]

COLUMNS = {"part": (16, 2), "visible": (16,), "normalize": (), "imgname": ()}
PLACES = {"index": (), "person": (), "center": (2,), "scale": ()}
DETECTIONS = {"pos_gt_src": (16, 2), "jnt_missing": (16,), "headboxes_src": (2, 2)}
KNOWN = (
    "MPII's valid.h5 (part, visible, normalize), detections_our_format.mat (pos_gt_src), or a data set's own file with --dataset"
)


@dataclass(frozen=True)
class Truth:
    """N samples with K joints, in the pixel numbers of their files.

    source: which file or split. note: what is special about it.
    points: (N, K, 2). labelled: (N, K) bool. reference: (N,) length that normalises errors; side: (N,) of the square that a
    network sees. rows: (N,) by which predictions may name a sample (`Samples.row`).
    pixel_offset: what leads from these numbers to the corner convention. files: (N,) names of the pictures, where known.
    index, person: (N,) places in annolist and annorect of MPII's release, from 0, with objpos (N, 2) and scale (N,) as
    there; only of h5 files.
    """

    source: str
    dataset: Literal["freihand", "mpii", "coco"]
    skeleton: Skeleton
    pixel_offset: float
    points: Array
    labelled: NDArray[np.bool_]
    reference: Array
    rows: Whole
    side: Array | None = None
    files: Names | None = None
    index: Whole | None = None
    person: Whole | None = None
    objpos: Array | None = None
    scale: Array | None = None
    note: str = ""

    @property
    def name(self) -> str:
        """The ground truth as tables and records name it."""
        return f"{self.source}: {self.note}" if self.note else self.source

    def __len__(self) -> int:
        return len(self.points)

    def take(self, chosen: Whole) -> Truth:
        """The samples at (M,) places, from 0."""
        arrays = {f.name: getattr(self, f.name)[chosen] for f in fields(self) if isinstance(getattr(self, f.name), np.ndarray)}
        return replace(self, **arrays)

    @property
    def counted(self) -> int:
        """How many labelled joints the total is made of: for bodies without pelvis and thorax."""
        joints = self.skeleton.grouped if self.dataset == "mpii" else slice(None)
        return int(self.labelled[:, joints].sum())


def open_truth(choice: DataChoice, split: str) -> Truth:
    """The ground truth that the flags name: --annotations FILE where that is one of MPII's, else a split of the data set.

    Raises:
        HgfastError: nothing named, files missing, broken or of an unknown kind.
    """
    path = choice.annotations
    if path is None and choice.data is None and choice.valid_annotations is None:
        raise HgfastError(f"there is nothing to score against: give --annotations FILE, {KNOWN}, or --dataset NAME --data DIR")
    if path is not None:
        if not path.is_file():
            raise HgfastError(f"there is no file of annotations {path}: give {KNOWN}")
        if is_mpii_h5(path):
            return from_h5(path)
        if is_detections(path):
            return from_detections(path)
        if choice.dataset == "freihand" or h5py.is_hdf5(path):
            raise HgfastError(f"{path} is no ground truth that is known ({_content(path)}): give {KNOWN}")
    elif choice.dataset == "mpii" and choice.data is not None:
        check_split(split)
        own = choice.data / "annot" / f"{split}.h5"
        if own.is_file():  # needs no pictures
            return from_h5(own)
    return from_samples(open_samples(choice, split), choice, split)


def from_samples(samples: Samples, choice: DataChoice, split: str) -> Truth:
    """A split that a reader has read."""
    return Truth(
        source=f"{choice.dataset}, split {split}, {choice.data or choice.valid_annotations or choice.annotations}",
        dataset=choice.dataset,
        skeleton=samples.skeleton,
        pixel_offset=samples.pixel_offset,
        points=samples.keypoints - samples.pixel_offset,
        labelled=samples.labelled,
        reference=samples.reference,
        rows=samples.row,
        side=samples.side,
        files=np.array([Path(path).name for path in samples.paths]),
    )


def is_mpii_h5(path: Path) -> bool:
    """Is it an annotation file in the layout of princeton-vl's train.h5, valid.h5 and test.h5?"""
    return h5py.is_hdf5(path) and {"part", "visible"} <= set(_keys(path))


def is_detections(path: Path) -> bool:
    """Is it detections_our_format.mat?"""
    return not h5py.is_hdf5(path) and "pos_gt_src" in _variables(path)


def from_h5(path: Path) -> Truth:
    """princeton-vl's annotation files. Raises `HgfastError` where one is not whole."""
    also = list(PLACES) if set(PLACES) <= set(_keys(path)) else []
    table: dict[str, NDArray[Any]] = read_columns(path, [*COLUMNS, *also])
    rows = len(table["part"]) if np.ndim(table["part"]) else 0
    for name in table:
        shape = (rows, *{**COLUMNS, **PLACES}[name])
        if table[name].shape != shape or not rows:
            raise HgfastError(f"{path}: {name} has the shape {table[name].shape}, wanted {shape}; replace the file")
        if name != "imgname":
            table[name] = as_numbers(table[name], name, path)
    part, lengths = table["part"], table["normalize"]
    if (lengths <= 0).any():
        raise HgfastError(f"{path}: normalize of row {int(np.argmax(lengths <= 0))} is not above 0; replace the file")
    absent = ((part == 0).all(-1) | (part == -1).all(-1)) & (table["visible"] == 0)
    fractions = bool((part % 1).any())
    truth = Truth(
        source=path.name,
        note="nobody is annotated" if absent.all() else "with fractions" if fractions else "integer-truncated",
        dataset="mpii",
        skeleton=BODY16,
        pixel_offset=PIXEL_OFFSET,
        points=part,
        labelled=~absent,
        reference=lengths,
        rows=np.arange(rows),
        files=np.array(as_names(table["imgname"])),
    )
    if not also:
        return truth
    raw = table["scale"] / WIDER
    return replace(
        truth,
        index=_counted(table["index"], "index", path),
        person=_counted(table["person"], "person", path),
        objpos=table["center"] - np.stack([np.zeros(rows), DOWN * raw], 1),
        scale=raw,
    )


def from_detections(path: Path) -> Truth:
    """detections_our_format.mat. Raises `HgfastError` where it is not whole."""
    try:
        content = read_mat(path, list(DETECTIONS))
    except BROKEN as error:
        raise HgfastError(f"{path} cannot be read as a MATLAB file ({short(error)}): replace it") from error
    people = int(np.size(content.get("pos_gt_src", 0)) / 32)  # 16 joints, x and y
    table = {}
    for name, shape in DETECTIONS.items():
        found = content.get(name)
        if not isinstance(found, np.ndarray) or found.shape != (*shape, people) or found.dtype.kind not in "fiub":
            raise HgfastError(f"{path}: {name} must hold numbers of the shape {(*shape, people)}; replace the file")
        table[name] = as_numbers(np.moveaxis(found, -1, 0), name, path)
    corners = table["headboxes_src"]
    return Truth(
        source=path.name,
        note="with fractions",
        dataset="mpii",
        skeleton=BODY16,
        pixel_offset=PIXEL_OFFSET,
        points=table["pos_gt_src"],
        labelled=table["jnt_missing"] == 0,
        reference=HEAD * np.hypot(*(corners[:, 1] - corners[:, 0]).T),
        rows=np.arange(people),
    )


def _variables(path: Path) -> list[str]:
    """The names in a MATLAB file; none where it is no such file."""
    try:
        return names(path)
    except BROKEN:
        return []


def _keys(path: Path) -> list[str]:
    try:
        return h5_file.keys(path)
    except h5_file.BROKEN as error:
        raise HgfastError(f"{path} cannot be read as HDF5 ({short(error)}): replace it") from error


def _content(path: Path) -> str:
    """What is in a file of an unknown kind, for an error."""
    names = _keys(path) if h5py.is_hdf5(path) else _variables(path)
    return f"it holds {', '.join(names[:8])}" if names else "it is neither HDF5 nor a MATLAB file"


def _counted(column: Array, name: str, path: Path) -> Whole:
    if (column % 1).any() or (column < 0).any():
        raise HgfastError(f"{path}: {name} must hold whole numbers from 0; replace the file")
    return column.astype(np.int64)


def short(error: Exception) -> str:
    """What an exception says, on one line."""
    return " ".join(str(error).split())[:120]
