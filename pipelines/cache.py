"""The crop cache: small JPEG files to train on instead of whole images, which take longer to decode.

    hgfast cache --config configs/mpii-hg2.yaml --data DIR --cache CACHE
    hgfast train --config configs/mpii-hg2.yaml --data DIR --cache CACHE

The flags are those of hgfast train. The input size, --augment.rotation, --augment.scale-min, --augment.scale-max and
--augment.shift determine the content of a crop: run this command again after changing one of them or an image. It can be
interrupted at any time; the next run creates the missing crops. Crops of other flags stay until --prune.
"""

# Worker processes import this module, so it must not import torch at the top.

from __future__ import annotations

import hashlib
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hgfast.cli import parse
from hgfast.errors import HgfastError, run_main
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

if TYPE_CHECKING:
    from hgfast.config import AugmentConfig

FORMAT = 1
"""Version of the crops' content; part of their keys."""
SHORT_FLAGS = {"-e": "--exp", "-m": "--train.max-iters", "--max-iters": "--train.max-iters"}
MAX_LISTED = 20
"""Number of unreadable images that the command lists."""


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


class CropRequest(NamedTuple):
    """One crop to create: its key, and its row of `CropBoxes`."""

    key: str
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    ratio: np.float32


class CropJob(NamedTuple):
    """All crops to create of one image."""

    folder: str
    path: str
    crops: list[CropRequest]


class CropJobResult(NamedTuple):
    """Result of a job: the bytes of its crops by key, or 0 and a `reason` if the image cannot be read."""

    sizes: dict[str, int]
    reason: str | None = None


def build(
    samples: Samples, folder: Path, augment: AugmentConfig, size: int, workers: int | None, progress: bool = True
) -> BuildReport:
    """Create the missing crops of all samples. Images that cannot be read are left out.

    Args:
        samples: in the pixels of whole images.
        folder: the cache; created if missing.
        augment: augmentation of the training run.
        size: side of the network's input in pixels.
        workers: processes; None: one per core.
        progress: show a bar on a terminal.

    Raises:
        HgfastError: the folder is not writable.
    """
    crop_boxes = boxes(samples, augment, size)
    stamps = _file_stamps(samples.paths)
    keys = _keys(samples.paths, crop_boxes, stamps)
    with _report_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        old = read_index(folder) or CacheIndex()
        on_disk = list_crops(folder, remove_stale=True)
        current = {key: on_disk[key] for key in dict.fromkeys(keys) if is_complete(folder, key, on_disk, old)}
        num_reused = len(current)
        unreadable = {}
        jobs = _missing_crops(folder, samples.paths, crop_boxes, keys, current)
        with _single_threaded_blas():
            for job, result in zip(jobs, _run_jobs(jobs, workers, progress), strict=True):
                current.update(result.sizes)
                if result.reason is not None:
                    unreadable[job.path] = result.reason
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

    Args:
        samples: in the pixels of whole images.
        folder: the cache.
        augment: augmentation of the training run.
        size: side of the network's input in pixels.

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
    """Remove all crops except those of these samples with these options; return the number of removed crops.

    Raises:
        HgfastError: the folder is not writable.
    """
    keys = set(_keys(samples.paths, boxes(samples, augment, size), _file_stamps(samples.paths)))
    with _report_write_errors(folder):
        index = read_index(folder)
        if index is not None:
            sizes = {key: length for key, length in index.sizes.items() if key in keys}
            write_index(folder, CacheIndex(sizes, [_crop_options(augment, size)]))
        stale = [Path(crop_file(folder, key)) for key in list_crops(folder) if key not in keys]
        for file in stale:
            file.unlink(missing_ok=True)
    return len(stale)


# ---- keys of crops ----


def _file_stamps(paths: NDArray[np.str_]) -> dict[str, tuple[int, int]]:
    """Return the size in bytes and the modification time in ns of every image; (0, 0) if it is missing."""
    stamps = {}
    for path in dict.fromkeys(paths.tolist()):
        try:
            status = Path(path).stat()
        except OSError:
            stamps[path] = (0, 0)
        else:
            stamps[path] = (status.st_size, status.st_mtime_ns)
    return stamps


def _keys(paths: NDArray[np.str_], crop_boxes: CropBoxes, stamps: dict[str, tuple[int, int]]) -> list[str]:
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
    """Turn write errors and killed workers into HgfastError."""
    try:
        yield
    except OSError as error:
        raise HgfastError(f"cannot write to {folder}: {error}; free some space or choose another --cache") from error
    except BrokenProcessPool as error:
        raise HgfastError(f"a worker process was killed, possibly out of memory: {REBUILD_HINT} and fewer --threads") from error


def _missing_crops(
    folder: Path, paths: NDArray[np.str_], crop_boxes: CropBoxes, keys: list[str], existing: dict[str, int]
) -> list[CropJob]:
    """Return the crops that do not exist, grouped by image, so that every image is decoded once."""
    missing: dict[str, dict[str, CropRequest]] = {}
    for row, (path, key) in enumerate(zip(paths.tolist(), keys)):
        if key not in existing:
            box = crop_boxes.low[row], crop_boxes.high[row], crop_boxes.ratio[row]
            missing.setdefault(path, {})[key] = CropRequest(key, *box)
    return [CropJob(str(folder), path, list(crops.values())) for path, crops in missing.items()]


def _run_jobs(jobs: list[CropJob], workers: int | None, progress: bool) -> Iterable[CropJobResult]:
    """Return the results of all jobs in order."""
    return map_with_progress(crop_image, jobs, workers, "image", progress) if jobs else ()


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


def crop_image(job: CropJob) -> CropJobResult:
    """Write the crops of one image. Raises `OSError` if writing fails; an unreadable image is reported in the result."""
    try:
        image = read_image(job.path)
    except HgfastError as error:
        return CropJobResult(dict.fromkeys((request.key for request in job.crops), 0), str(error))
    sizes = {}
    for key, low, high, ratio in job.crops:
        content = encode_jpeg(extract_crop(image, low, high, ratio))
        write_crop(job.folder, key, content)
        sizes[key] = len(content)
    return CropJobResult(sizes)


# ---- the command ----


def main() -> None:
    from hgfast.config import Config  # not at the top: these import torch
    from hgfast.pipelines.datasets import open_samples

    @dataclass(kw_only=True)
    class Flags(Config):
        """The flags of hgfast train, and --prune."""

        prune: bool = False
        """afterwards, remove crops of other flags, other samples or older versions of the images"""

    flags = parse(Flags, flag_aliases=SHORT_FLAGS, description=__doc__ or "")
    flags.validate()
    if flags.cache is None:
        raise HgfastError("--cache DIR is missing: the folder for the crops, which is created if necessary")
    samples, size, start = open_samples(flags, flags.train.split), flags.model.make_architecture().input_size, time.perf_counter()
    report = build(samples, flags.cache, flags.augment, size, flags.threads)
    for reason in list(report.unreadable.values())[:MAX_LISTED]:
        print(f"warning: {reason}; left out", file=sys.stderr)
    if len(report.unreadable) > MAX_LISTED:
        print(f"warning: {len(report.unreadable) - MAX_LISTED} more images cannot be read; left out", file=sys.stderr)
    print(f"{flags.cache}: {report.summary}, {time.perf_counter() - start:.1f} s", flush=True)
    if flags.prune:
        print(f"{prune_cache(samples, flags.cache, flags.augment, size)} other crops removed", flush=True)
    elif report.stale:
        print(f"{report.stale} crops of other flags or images ({report.stale_bytes / 1e6:.1f} MB); --prune removes them")


if __name__ == "__main__":
    run_main(main)
