"""Build, use and prune a crop cache. Worker processes import this module, so it must not import torch."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hgfast.config import AugmentConfig
from hgfast.errors import HgfastError
from hgfast.fileio.files import lock_folder
from hgfast.pipelines.checks.result import FileStamp, file_stamp
from hgfast.pipelines.crop_cache.crops import JPEG_QUALITY, CropBoxes, boxes, encode_jpeg, extract_crop, to_crop_pixels
from hgfast.pipelines.crop_cache.folder import (
    REBUILD_HINT,
    CacheIndex,
    crop_file,
    is_complete,
    list_crops,
    read_index,
    write_crop,
    write_index,
)
from hgfast.pipelines.processes import map_with_progress
from hgfast.pipelines.samples import Samples
from hgfast.visualization.draw import read_image

FORMAT = 1
"""Version of the crops' content; part of their keys."""


@dataclass(frozen=True)
class BuildReport:
    """Content of a cache after `build`, for the samples that it was built for.

    created, reused: crops that were written, and that existed already. unreadable: images without crops -> reason. source_bytes:
    of the readable images. crop_bytes: of the crops. stale, stale_bytes: crops of other samples, flags or versions of the images.
    """

    created: int
    reused: int
    unreadable: dict[str, str]
    source_bytes: int
    crop_bytes: int
    stale: int
    stale_bytes: int

    @property
    def summary(self) -> str:
        """Everything except the stale crops, in one line."""
        before, after = self.source_bytes / 1e6, self.crop_bytes / 1e6
        bad = f", {len(self.unreadable)} unreadable images left out" if self.unreadable else ""
        return f"{self.created} crops created, {self.reused} reused{bad}; {before:.1f} MB of images, {after:.1f} MB of crops"


class CropJob(NamedTuple):
    """All crops to create of one image: by key, their rows of `CropBoxes`."""

    folder: str
    path: str
    crops: dict[str, tuple[NDArray[np.float32], NDArray[np.float32], np.float32]]


def build(samples: Samples, folder: Path, augment: AugmentConfig, size: int, workers: int | None) -> BuildReport:
    """Create the missing crops of all samples, with one process per core or `workers`. Images that cannot be read are left out.

    `samples` are in the pixels of whole images, `augment` and `size` those of the training run.
    """
    crop_boxes = boxes(samples, augment, size)
    stamps = _file_stamps(samples.paths)
    keys = _keys(samples.paths, crop_boxes, stamps)
    with lock_folder(folder, "--cache"), _report_write_errors(folder):
        old = read_index(folder) or CacheIndex()
        on_disk = list_crops(folder, clean=True)
        current = {key: on_disk[key] for key in dict.fromkeys(keys) if is_complete(folder, key, on_disk, old)}
        num_reused = len(current)
        unreadable = {}
        jobs = _missing_crops(folder, samples.paths, crop_boxes, keys, current)
        with _single_threaded_blas(), closing(map_with_progress(crop_image, jobs, workers, "image")) as results:
            for job, (sizes, reason) in zip(jobs, results, strict=True):
                current.update(sizes)
                if reason:
                    unreadable[job.path] = reason
        others = {key: length for key, length in old.sizes.items() if length == 0 or on_disk.get(key) == length}
        options = _crop_options(augment, size)
        write_index(folder, CacheIndex({**others, **current}, [*(o for o in old.options if o != options), options]))
    stale = [length for key, length in on_disk.items() if key not in current]
    return BuildReport(
        created=sum(length > 0 for length in current.values()) - num_reused,
        reused=num_reused,
        unreadable=unreadable,
        source_bytes=sum(length for path, (length, _) in stamps.items() if path not in unreadable),
        crop_bytes=sum(current.values()),
        stale=len(stale),
        stale_bytes=sum(stale),
    )


def use_cache(samples: Samples, folder: Path, augment: AugmentConfig, size: int) -> Samples:
    """Return the same samples, in the same order, in the pixels of their crops: for a `BatchPlan` with the same options.

    Samples whose image could not be read when the cache was built are left out, and counted in `Samples.unreadable`. No image is
    opened; only sizes and modification times are read.

    Raises:
        HgfastError: the cache was built with other options, is incomplete, or images have changed since.
    """
    crop_boxes = boxes(samples, augment, size)
    keys = _keys(samples.paths, crop_boxes, _file_stamps(samples.paths))
    index = read_index(folder)
    if index is None:
        raise HgfastError(f"the crop cache {folder} is missing or not finished: {REBUILD_HINT}")
    unknown = [str(path) for path, key in zip(samples.paths, keys) if key not in index.sizes]
    if unknown:
        reason = _mismatch_reason(unknown, len(samples), index, _crop_options(augment, size))
        raise HgfastError(f"the crop cache {folder} {reason}: {REBUILD_HINT}")
    on_disk = list_crops(folder)
    good = np.array([index.sizes[key] > 0 for key in keys])
    broken = [key for key in keys if on_disk.get(key, 0) != index.sizes[key]]
    if broken:
        raise HgfastError(
            f"{len(broken)} of {len(samples)} crops are missing or damaged, the first {crop_file(folder, broken[0])}: "
            f"{REBUILD_HINT}"
        )
    if not good.any():
        raise HgfastError(f"none of the {len(samples)} samples has an image that can be read, the first {samples.paths[0]}")
    paths = np.array([crop_file(folder, key) for key in keys])
    in_crops = to_crop_pixels(samples, crop_boxes, paths).take(good)
    return replace(in_crops, unreadable=in_crops.unreadable + int((~good).sum()))


def prune_cache(samples: Samples, folder: Path, augment: AugmentConfig, size: int) -> int:
    """Remove all crops except those of these samples with these options; return the number of removed crops."""
    keys = set(_keys(samples.paths, boxes(samples, augment, size), _file_stamps(samples.paths)))
    with lock_folder(folder, "--cache"), _report_write_errors(folder):
        index = read_index(folder)
        if index is not None:
            sizes = {key: length for key, length in index.sizes.items() if key in keys}
            write_index(folder, CacheIndex(sizes, [_crop_options(augment, size)]))
        stale = [Path(crop_file(folder, key)) for key in list_crops(folder) if key not in keys]
        for file in stale:
            file.unlink(missing_ok=True)
    return len(stale)


# ---- keys of crops ----


def _file_stamps(paths: NDArray[np.str_]) -> dict[str, FileStamp]:
    """Return the size and the modification time of every image; (0, 0) if it is missing."""
    return {path: file_stamp(path) or (0, 0) for path in dict.fromkeys(paths.tolist())}


def _keys(paths: NDArray[np.str_], crop_boxes: CropBoxes, stamps: dict[str, FileStamp]) -> list[str]:
    """Return a hash (N,) of each sample's image path, its size and time, and its crop box."""
    rows = np.column_stack([crop_boxes.low, crop_boxes.high, crop_boxes.ratio]).astype("<f4")
    resolved = {folder: Path(folder).resolve() for folder in {os.path.split(path)[0] for path in stamps}}
    prefixes = {}
    for path, (length, changed) in stamps.items():
        folder, name = os.path.split(path)
        prefixes[path] = os.fsencode(f"{FORMAT} {JPEG_QUALITY} {length} {changed} {resolved[folder]}/{name}\0")
    return [hashlib.blake2b(prefixes[p] + row.tobytes(), digest_size=16).hexdigest() for p, row in zip(paths.tolist(), rows)]


def _crop_options(augment: AugmentConfig, size: int) -> dict[str, float]:
    """Return the options that determine the boxes, by flag name."""
    names = ("rotation", "scale_min", "scale_max", "shift")
    return {"input size": float(size), **{f"augment.{name}": float(getattr(augment, name)) for name in names}}


def _mismatch_reason(unknown: list[str], count: int, index: CacheIndex, options: dict[str, float]) -> str:
    """Explain why a cache lacks the crops of some images."""
    if options in index.options:
        return f"does not hold {len(unknown)} of {count} samples, whose images are new or have changed, the first {unknown[0]}"
    last = index.options[-1]
    other = [
        f"{name} {last.get(name, math.nan):g} instead of {value:g}" for name, value in options.items() if last.get(name) != value
    ]
    return f"was built for {', '.join(other)}"


# ---- building ----


@contextmanager
def _report_write_errors(folder: Path) -> Iterator[None]:
    """Turn write errors into HgfastError."""
    try:
        yield
    except OSError as error:
        raise HgfastError(f"cannot write to {folder}: {error}; free some space or choose another --cache") from error


def _missing_crops(
    folder: Path, paths: NDArray[np.str_], crop_boxes: CropBoxes, keys: list[str], existing: dict[str, int]
) -> list[CropJob]:
    """Return the crops that do not exist, grouped by image, so that every image is decoded once."""
    jobs: dict[str, CropJob] = {}
    for row, (path, key) in enumerate(zip(paths.tolist(), keys)):
        if key not in existing:
            box = crop_boxes.low[row], crop_boxes.high[row], crop_boxes.ratio[row]
            jobs.setdefault(path, CropJob(str(folder), path, {})).crops[key] = box
    return list(jobs.values())


@contextmanager
def _single_threaded_blas() -> Iterator[None]:
    """Limit processes started inside the block to one BLAS thread: there is already one process per core."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


def crop_image(job: CropJob) -> tuple[dict[str, int], str]:
    """Write the crops of one image. Returns their bytes by key, or 0 and a reason if the image cannot be read."""
    try:
        image = read_image(job.path)
    except HgfastError as error:
        return dict.fromkeys(job.crops, 0), str(error)
    sizes = {}
    for key, box in job.crops.items():
        content = encode_jpeg(extract_crop(image, *box))
        write_crop(job.folder, key, content)
        sizes[key] = len(content)
    return sizes, ""
