"""Reader for MPII Human Pose as princeton-vl's code ships it: images/ and annot/train.h5, annot/valid.h5, into `Samples`.

The h5 files hold the original 1-based pixel numbers, hence a pixel_offset of -0.5; neck and head top (8, 9) lost their
fraction there, half a pixel on average. `center` and `scale` are adjusted already (15 pixels of scale further down, 1.25
times as large), so the square has a side of 200 scale. `normalize` is the head size that PCKh divides by. `Samples.row` is the
person's row in the split's h5 file, from 0.
What may enter: this layout, and what the original file's reader (`pipelines.mpii_mat`) shares with it; nothing after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgfast.errors import HgfastError
from hgfast.skeletons import BODY16
from pipelines.h5_file import BROKEN, NoSuchData, read_h5
from pipelines.pictures import INSIDE, Bounds, find_pictures
from pipelines.samples import Samples

SPLITS = ("train", "valid")
WHERE_FROM = (
    "put mpii_human_pose_v1.tar.gz's images/ (human-pose.mpi-inf.mpg.de) and the train.h5 and valid.h5 of "
    "princeton-vl/pytorch_stacked_hourglass into its images/ and annot/, "
    "or draw synthetic people with 'python pipelines/synthetic.py mpii --out {root}'"
)
PIXEL_OFFSET = -0.5
SCALE_PIXELS = 200.0  # a scale of 1 is a square of this side
SHAPES = {"center": (2,), "scale": (), "part": (16, 2), "visible": (16,), "normalize": (), "imgname": ()}


def read_mpii(root: Path, split: str, skip_missing: bool = False, images: Path | None = None, outside: bool = False) -> Samples:
    """The people of one split, one sample each.

    Args:
        root: the folder that holds images/ and annot/.
        split: "train" or "valid".
        skip_missing: leave out people whose picture is not there, instead of refusing.
        images: the folder of the pictures, if it is elsewhere.
        outside: pictures may lie outside of the root, or of `images` where that is given.

    Raises:
        HgfastError: files missing or of the wrong shape; the message says which and what to do.
    """
    check_split(split)
    path = root / "annot" / f"{split}.h5"
    bounds = Bounds(root if images is None else None, outside)
    images = images or root / "images"
    for wanted, present in ((images, images.is_dir()), (path, path.is_file())):
        if not present:
            what, empty = (f"{wanted} is missing", "DIR") if root.is_dir() else ("there is no such folder", root)
            raise HgfastError(f"no MPII data in {root} ({what}): {WHERE_FROM.format(root=empty)}")
    table = _read_table(path)
    names, part = as_names(table["imgname"]), table["part"]
    annotated = np.any(part != 0, axis=-1) | (table["visible"] != 0)  # an absent joint lies at (0, 0) and is not visible
    return as_samples(
        images,
        names,
        centre=table["center"],
        scale=table["scale"],
        points=part,
        labelled=annotated,
        reference=table["normalize"],
        row=np.arange(len(names)),
        skip_missing=skip_missing,
        bounds=bounds,
        called=lambda row: f"row {row} of {path}",
    )


def check_split(split: str) -> None:
    """Refuse a split that MPII does not have."""
    if split not in SPLITS:
        raise HgfastError(f"MPII has the splits {' and '.join(SPLITS)}, not {split!r}: the test set has no published joints")


def as_samples(
    images: Path,
    names: Sequence[str],
    centre: NDArray[np.float64],
    scale: NDArray[np.float64],
    points: NDArray[np.float64],
    labelled: NDArray[np.bool_],
    reference: NDArray[np.float64],
    row: NDArray[np.int64],
    skip_missing: bool,
    bounds: Bounds = INSIDE,
    called: Callable[[int], str] = "row {}".format,
) -> Samples:
    """N people as `Samples`: the one place that goes from MPII's pixel numbers, which count from 1, to the corner convention.

    Args:
        images: the folder of pictures; names (N,) of them.
        centre: (N, 2) and scale (N,), both adjusted. points: (N, 16, 2), (0, 0) where not labelled (N, 16).
        reference: (N,) head sizes in pixels. row: (N,) by which the file knows them.
        bounds: where pictures may lie. called: what to call one of them, by its `row`.

    Raises:
        HgfastError: pictures missing, as `find_pictures` puts it.
    """
    paths, there = find_pictures(
        images, names, skip_missing, "unpack the archive of pictures again", bounds, lambda n: called(int(row[n]))
    )
    return Samples(
        paths=paths,
        centre=(centre + PIXEL_OFFSET)[there],
        side=(SCALE_PIXELS * scale)[there],
        keypoints=(points + PIXEL_OFFSET)[there],
        labelled=labelled[there],
        reference=reference[there],
        group=np.unique(names, return_inverse=True)[1][there].astype(np.int64),
        row=row[there].astype(np.int64),
        skeleton=BODY16,
        pixel_offset=PIXEL_OFFSET,
        skipped=int((~there).sum()),
    )


def _read_table(path: Path) -> dict[str, NDArray[Any]]:
    """The data sets that are used, one row a person, checked."""
    table = read_columns(path, SHAPES)
    rows = len(table["part"]) if np.ndim(table["part"]) else 0
    if rows == 0:
        raise HgfastError(f"{path} annotates nobody; replace it")
    for name, shape in SHAPES.items():
        found = np.shape(table[name])
        if found != (rows, *shape):
            raise HgfastError(f"{path}: {name} has the shape {found}, wanted {(rows, *shape)}; replace the file")
        if name != "imgname":
            table[name] = as_numbers(table[name], name, path)
    for name in ("scale", "normalize"):
        if (table[name] <= 0).any():
            row = int(np.argmax(table[name] <= 0))
            raise HgfastError(f"{path}: {name} of row {row} is {table[name][row]:g}, must be above 0; replace the file")
    return table


def read_columns(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Data sets of an annotation file by name, as they are. Raises `HgfastError` where one of them or the file is missing."""
    try:
        return read_h5(path, names)
    except NoSuchData as error:
        raise HgfastError(f"{path} has no data set {error.name!r}: it is not an annotation file of MPII; replace it") from error
    except BROKEN as error:
        raise HgfastError(f"{path} cannot be read as HDF5 ({' '.join(str(error).split())[:120]}): replace it") from error


def as_names(column: NDArray[Any]) -> list[str]:
    """File names (N,) as text."""
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in column]


def as_numbers(column: NDArray[Any], name: str, path: Path) -> NDArray[np.float64]:
    """A column (N, ...) in float64. Raises `HgfastError` where it holds no numbers or one that is not finite."""
    if column.dtype.kind not in "fiub":
        raise HgfastError(f"{path}: {name} holds {column.dtype}, wanted numbers; replace the file")
    numbers = column.astype(np.float64)
    bad = ~np.isfinite(numbers.reshape(len(numbers), -1)).all(1)
    if bad.any():
        raise HgfastError(f"{path}: {name} of row {int(np.argmax(bad))} is not finite; replace the file")
    return numbers
