"""Reader for MPII Human Pose as princeton-vl's code ships it: images/ and annot/train.h5, annot/valid.h5, into `Samples`.

The h5 files hold the original 1-based pixel numbers, hence a pixel_offset of -0.5; neck and head top (8, 9) lost their fraction
there, half a pixel on average. `center` and `scale` are already adjusted (the center moved down by 15 pixels times scale, the
scale multiplied by 1.25), so the square has a side of 200 scale. `normalize` is the head size that PCKh divides by. `Samples.row`
is the person's row in the split's h5 file, from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgfast.errors import HgfastError
from hgfast.pipelines.readers.base import READ_ERRORS, missing_data
from hgfast.pipelines.readers.h5_file import MissingDataset, read_h5
from hgfast.pipelines.readers.image_paths import FOLDER_ONLY, AllowedRoots, find_images
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import BODY16

SPLITS = ("train", "valid")
DOWNLOAD_HINT = (
    "put mpii_human_pose_v1.tar.gz's images/ (human-pose.mpi-inf.mpg.de) and the train.h5 and valid.h5 of "
    "princeton-vl/pytorch_stacked_hourglass into its images/ and annot/, "
    "or render synthetic people with 'hgfast synthetic mpii --out {root}'"
)
PIXEL_OFFSET = -0.5
PIXELS_PER_SCALE = 200.0  # side of the square at scale 1
COLUMN_SHAPES = {"center": (2,), "scale": (), "part": (16, 2), "visible": (16,), "normalize": (), "imgname": ()}


def read_mpii(
    root: Path, split: str, skip_missing: bool = False, images: Path | None = None, allow_outside: bool = False
) -> Samples:
    """Read the people of one split ("train" or "valid"), one sample each.

    Args:
        root: the folder that holds images/ and annot/.
        skip_missing: leave out people whose image is missing, instead of raising.
        images: the folder of the images, if it is not in the root.
        allow_outside: images may lie outside of the root, or of `images` if that is given.

    Raises:
        HgfastError: files are missing or of the wrong shape.
    """
    check_split(split)
    path = root / "annot" / f"{split}.h5"
    bounds = AllowedRoots(root if images is None else None, allow_outside)
    images = images or root / "images"
    for wanted, present in ((images, images.is_dir()), (path, path.is_file())):
        if not present:
            raise missing_data("MPII", root, str(wanted), DOWNLOAD_HINT)
    table = _read_table(path)
    names, part = decode_names(table["imgname"]), table["part"]
    labeled = np.any(part != 0, axis=-1) | (table["visible"] != 0)  # an absent joint is at (0, 0) and not visible
    return build_samples(
        images,
        names,
        center=table["center"],
        scale=table["scale"],
        points=part,
        labeled=labeled,
        reference=table["normalize"],
        row=np.arange(len(names)),
        skip_missing=skip_missing,
        bounds=bounds,
        describe=lambda row: f"row {row} of {path}",
    )


def check_split(split: str) -> None:
    """Raise `HgfastError` for a split that MPII does not have."""
    if split not in SPLITS:
        raise HgfastError(f"MPII has the splits {' and '.join(SPLITS)}, not {split!r}: the test set has no joints to train on")


def build_samples(
    images: Path,
    names: Sequence[str],
    center: NDArray[np.float64],
    scale: NDArray[np.float64],
    points: NDArray[np.float64],
    labeled: NDArray[np.bool_],
    reference: NDArray[np.float64],
    row: NDArray[np.int64],
    skip_missing: bool,
    bounds: AllowedRoots = FOLDER_ONLY,
    describe: Callable[[int], str] = "row {}".format,
) -> Samples:
    """Convert N people to `Samples`. Only this function converts MPII's 1-based pixel numbers to the corner convention.

    Args:
        images: the folder of `names` (N,).
        center: (N, 2), adjusted, as `scale` (N,).
        points: (N, 16, 2), (0, 0) where not `labeled` (N, 16).
        reference: (N,) head sizes in pixels.
        row: (N,) numbers of the people in the file.
        skip_missing, bounds: see `find_images`.
        describe: names a person in messages, given its `row`.
    """
    advice = "unpack the archive of images again"
    paths, exists = find_images(images, names, skip_missing, advice, bounds, lambda n: describe(int(row[n])))
    return Samples(
        paths=paths,
        center=(center + PIXEL_OFFSET)[exists],
        side=(PIXELS_PER_SCALE * scale)[exists],
        keypoints=(points + PIXEL_OFFSET)[exists],
        labeled=labeled[exists],
        reference=reference[exists],
        group=np.unique(names, return_inverse=True)[1][exists].astype(np.int64),
        row=row[exists].astype(np.int64),
        skeleton=BODY16,
        pixel_offset=PIXEL_OFFSET,
        skipped=int((~exists).sum()),
    )


def _read_table(path: Path) -> dict[str, NDArray[Any]]:
    """Read and check the data sets that are used, one row per person."""
    table = read_columns(path, COLUMN_SHAPES)
    rows = len(table["part"]) if np.ndim(table["part"]) else 0
    if rows == 0:
        raise HgfastError(f"{path} annotates nobody; replace it")
    for name, shape in COLUMN_SHAPES.items():
        actual = np.shape(table[name])
        if actual != (rows, *shape):
            raise HgfastError(f"{path}: {name} has the shape {actual}, wanted {(rows, *shape)}; replace the file")
        if name != "imgname":
            table[name] = to_float_column(table[name], name, path)
    for name in ("scale", "normalize"):
        if (table[name] <= 0).any():
            row = int(np.argmax(table[name] <= 0))
            raise HgfastError(f"{path}: {name} of row {row} is {table[name][row]:g}, must be above 0; replace the file")
    return table


def read_columns(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Read data sets of an annotation file by name, unchanged. Raises `HgfastError` if the file or one of them is missing."""
    try:
        return read_h5(path, names)
    except MissingDataset as error:
        raise HgfastError(f"{path} has no data set {error.name!r}: it is not an annotation file of MPII; replace it") from error
    except READ_ERRORS as error:
        raise HgfastError(f"{path} cannot be read as HDF5 ({' '.join(str(error).split())[:120]}): replace it") from error


def decode_names(column: NDArray[Any]) -> list[str]:
    """Return file names (N,) as text."""
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in column]


def to_float_column(column: NDArray[Any], name: str, path: Path) -> NDArray[np.float64]:
    """Convert a column (N, ...) to float64. Raises `HgfastError` if it holds no numbers, or one that is not finite."""
    if column.dtype.kind not in "fiub":
        raise HgfastError(f"{path}: {name} holds {column.dtype}, wanted numbers; replace the file")
    numbers = column.astype(np.float64)
    bad = ~np.isfinite(numbers.reshape(len(numbers), -1)).all(1)
    if bad.any():
        raise HgfastError(f"{path}: {name} of row {int(np.argmax(bad))} is not finite; replace the file")
    return numbers
