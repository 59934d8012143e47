"""The record of a data set, and what readers share: where `--data` and `--images` say the files are."""

from __future__ import annotations

import json
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hgfast.config import DataConfig
from hgfast.errors import HgfastError
from hgfast.metrics import BOX_PCK, Metric
from hgfast.pipelines.readers.image_paths import AllowedRoots
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import Skeleton

READ_ERRORS = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, UnboundLocalError, EOFError, MemoryError, OverflowError),
    *(SyntaxError, RuntimeError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""Exceptions that reading a broken HDF5, MATLAB or numpy file may raise; callers add the file's name."""
Hands = dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]
"""Split -> rows (N,) and joints (N, 21, 3) in meters."""


@dataclass(frozen=True)
class DataSet:
    """What hgfast knows of a data set; each module named in `hgfast.config.DatasetName` has one as `DATASET`.

    read: (config, split) -> Samples. metric: how accuracy is reported. eval_split: the split to evaluate on by default. splits:
    the splits with annotations, for the file check. files: names in the root of the files that are not images. item: what a
    sample is. skeleton: the skeleton, if it is always the same. has_box_flags: whether --normalize and --padding apply.

    For the file check: numbering: the array of `Samples` that numbers the annotations. describe_row: (config, split, number) ->
    location of an annotation. image_sizes: (config, split, samples) -> path -> width and height of images that must have this
    size when they are upright. hands: (config, splits) -> joints in space, to find hands that are in two splits.
    """

    read: Callable[[DataConfig, str], Samples]
    metric: Metric = BOX_PCK
    eval_split: Callable[[DataConfig], str] = lambda _: "valid"
    splits: Callable[[DataConfig], Sequence[str]] = lambda _: ("train", "valid")
    files: Sequence[str] = ()
    item: str = "samples"
    skeleton: Skeleton | None = None
    has_box_flags: bool = False
    numbering: Literal["row", "group"] = "row"
    describe_row: Callable[[DataConfig, str, int], str] = lambda _, split, row: f"{split}, row {row}"
    image_sizes: Callable[[DataConfig, str, Samples], Mapping[str, tuple[int, int]]] = lambda *_: {}
    hands: Callable[[DataConfig, Sequence[str]], Hands] = lambda *_: {}

    def metrics(self, samples: Samples, predicted: NDArray[np.float64]) -> dict[str, float]:
        """Return the metric table of predictions (N, K, 2) in source pixels."""
        s = samples
        return self.metric.table(predicted, s.keypoints, s.labeled, s.reference, s.side, s.skeleton)


def read_json(path: Path, advice: str) -> Any:
    """Read a JSON file. Raises `HgfastError` with the advice if it is not valid."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise HgfastError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise HgfastError(f"{path} is not valid JSON ({error}): {advice}") from error


def require_root(config: DataConfig, download_hint: str) -> Path:
    """Return --data. Raises `HgfastError` if it is missing."""
    if config.data is None:
        raise HgfastError(f"--data DIR is missing: the folder of the {config.dataset} files; {download_hint.format(root='DIR')}")
    return config.data


def missing_data(name: str, root: Path, missing: str, download_hint: str) -> HgfastError:
    """Return the error for a data set's root that lacks a file or folder."""
    what, empty = (f"{missing} is missing", "DIR") if root.is_dir() else ("there is no such folder", root)
    return HgfastError(f"no {name} data in {root} ({what}): {download_hint.format(root=empty)}")


def image_folder(config: DataConfig, split: str) -> Path | None:
    """Return the folder that names of images start from: the one that a flag names, or DATA/images."""
    images = config.images or (config.data and config.data / "images")
    return images if split == "train" else config.valid_images or images


def allowed_roots(config: DataConfig, images: Path | None) -> AllowedRoots:
    """Return where images may lie: a folder that a flag names is its own root."""
    is_named = images is not None and images in (config.images, config.valid_images)
    return AllowedRoots(None if is_named else config.data, config.data_outside)
