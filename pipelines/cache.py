"""The crop cache: small JPEG files to train on instead of whole pictures, which take longer to decode.

    python pipelines/cache.py --config configs/mpii-hg2.yaml --data DIR --cache CACHE
    torchrun hgfast/train.py --config configs/mpii-hg2.yaml --data DIR --cache CACHE

The flags are those of hgfast/train.py. Size of the input, --augment.rotation, --augment.scale-min, --augment.scale-max and
--augment.shift decide what a crop must hold: with others of these, or after a picture has changed, run this again. It can be
interrupted at any moment; the next run makes what is missing. Crops of other flags stay until --prune.

What may enter: filling and reading a cache. What a crop shows is `pipelines.crops`, where it lies `pipelines.crop_folder`.
Worker processes import this module, so no torch at its top.
"""

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
from hgfast.draw import read_image
from hgfast.errors import HgfastError, run
from pipelines.crop_folder import ADVICE, Index, crop_file, is_whole, present, read_index, write_crop, write_index
from pipelines.crops import QUALITY, Boxes, boxes, crop, encode, moved
from pipelines.processes import spread
from pipelines.samples import Samples

if TYPE_CHECKING:
    from hgfast.config import AugmentConfig

FORMAT = 1
"""Counts changes of what a crop of the same name holds."""
SHORT = {"-e": "--exp", "-m": "--train.max-iters", "--max-iters": "--train.max-iters"}
SHOWN = 20
"""Unreadable pictures that the command names."""


@dataclass(frozen=True)
class BuildReport:
    """What a cache holds after it was filled, for the samples it was filled for.

    made, kept: crops that were written and that were there. unreadable: pictures without crops, each with what is wrong.
    source_bytes: of the pictures, without the unreadable ones. crop_bytes: of the crops. stale, stale_bytes: crops of other
    samples, flags or versions of the pictures.
    """

    made: int
    kept: int
    unreadable: dict[str, str]
    source_bytes: int
    crop_bytes: int
    stale: int
    stale_bytes: int

    @property
    def in_words(self) -> str:
        """Everything but the stale crops."""
        before, after = self.source_bytes / 1e6, self.crop_bytes / 1e6
        bad = f", {len(self.unreadable)} pictures left out that cannot be read" if self.unreadable else ""
        return f"{self.made} crops made, {self.kept} kept{bad}; {before:.1f} MB of pictures, {after:.1f} MB of crops"


class Wanted(NamedTuple):
    """One crop to make: its key, and its row of `Boxes`."""

    key: str
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    ratio: np.float32


class Job(NamedTuple):
    """All the crops to make of one picture."""

    folder: str
    path: str
    crops: list[Wanted]


class Done(NamedTuple):
    """A job's result: the bytes of its crops by their keys, 0 with a `reason` where the picture cannot be read."""

    sizes: dict[str, int]
    reason: str | None = None


def build(
    samples: Samples, folder: Path, augment: AugmentConfig, size: int, workers: int | None, progress: bool = True
) -> BuildReport:
    """Make the crops of all samples that are not there yet. Pictures that cannot be read are left out.

    Args:
        samples: in the pixels of whole pictures.
        folder: the cache; made if missing.
        augment, size: of the training run; size is the side of the network's input in pixels.
        workers: processes; one a core if None.
        progress: show a bar on a terminal.

    Raises:
        HgfastError: the folder cannot be written.
    """
    where = boxes(samples, augment, size)
    stamps = _stamps(samples.paths)
    keys = _keys(samples.paths, where, stamps)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        old = read_index(folder) or Index()
        there = present(folder, sweep=True)
        current = {key: there[key] for key in dict.fromkeys(keys) if is_whole(folder, key, there, old)}
        kept = len(current)
        unreadable = {}
        jobs = _jobs(folder, samples.paths, where, keys, current)
        with _one_thread_each():
            for job, done in zip(jobs, _work(jobs, workers, progress), strict=True):
                current.update(done.sizes)
                if done.reason is not None:
                    unreadable[job.path] = done.reason
        others = {key: length for key, length in old.sizes.items() if length == 0 or there.get(key) == length}
        ours = _options(augment, size)
        write_index(folder, Index({**others, **current}, [*(o for o in old.options if o != ours), ours]))
    stale = [length for key, length in there.items() if key not in current]
    return BuildReport(
        made=sum(length > 0 for length in current.values()) - kept,
        kept=kept,
        unreadable=unreadable,
        source_bytes=sum(length for path, (length, _) in stamps.items() if path not in unreadable),
        crop_bytes=sum(current.values()),
        stale=len(stale),
        stale_bytes=sum(stale),
    )


def cached(samples: Samples, folder: Path, augment: AugmentConfig, size: int) -> Samples:
    """The same samples, in the same order, in the pixels of their crops: for a `Plan` with the same options.

    Those whose pictures could not be read when the cache was filled are left out, and counted in `Samples.unreadable`.
    No picture is opened; each is asked for its size and date.

    Args:
        samples, folder, augment, size: as for `build`.

    Raises:
        HgfastError: the cache was not made with these options, is not complete, or pictures have changed since.
    """
    where = boxes(samples, augment, size)
    keys = _keys(samples.paths, where, _stamps(samples.paths))
    index = read_index(folder)
    if index is None:
        raise HgfastError(f"the crop cache {folder} is missing or not finished: {ADVICE}")
    unknown = [str(path) for path, key in zip(samples.paths, keys) if key not in index.sizes]
    if unknown:
        raise HgfastError(f"the crop cache {folder} {_why(unknown, len(samples), index, _options(augment, size))}: {ADVICE}")
    there = present(folder)
    good = np.array([index.sizes[key] > 0 for key in keys])
    broken = [key for key in keys if there.get(key, 0) != index.sizes[key]]
    if broken:
        raise HgfastError(
            f"{len(broken)} of {len(samples)} crops are missing or damaged, the first {crop_file(folder, broken[0])}: {ADVICE}"
        )
    if not good.any():
        raise HgfastError(f"none of the {len(samples)} samples has a picture that can be read, the first {samples.paths[0]}")
    paths = np.array([crop_file(folder, key) for key in keys])
    inside = moved(samples, where, paths).take(good)
    return replace(inside, unreadable=inside.unreadable + int((~good).sum()))


def prune(samples: Samples, folder: Path, augment: AugmentConfig, size: int) -> int:
    """Remove all crops but those of these samples with these options; returns how many.

    Raises:
        HgfastError: the folder cannot be written.
    """
    keys = set(_keys(samples.paths, boxes(samples, augment, size), _stamps(samples.paths)))
    with _writing(folder):
        index = read_index(folder)
        if index is not None:
            kept = {key: length for key, length in index.sizes.items() if key in keys}
            write_index(folder, Index(kept, [_options(augment, size)]))
        stale = [Path(crop_file(folder, key)) for key in present(folder) if key not in keys]
        for file in stale:
            file.unlink(missing_ok=True)
    return len(stale)


# ---- keys: what decides a crop's content ----


def _stamps(paths: NDArray[np.str_]) -> dict[str, tuple[int, int]]:
    """The bytes and the date of change, in ns, of every picture; (0, 0) where there is none."""
    stamps = {}
    for path in dict.fromkeys(paths.tolist()):
        try:
            found = Path(path).stat()
        except OSError:
            stamps[path] = (0, 0)
        else:
            stamps[path] = (found.st_size, found.st_mtime_ns)
    return stamps


def _keys(paths: NDArray[np.str_], where: Boxes, stamps: dict[str, tuple[int, int]]) -> list[str]:
    """A hash (N,) of each sample's picture, its size and date, and what the crop shows."""
    rows = np.column_stack([where.low, where.high, where.ratio]).astype("<f4")
    resolved = {folder: Path(folder).resolve() for folder in {os.path.split(path)[0] for path in stamps}}
    heads = {}
    for path, (length, changed) in stamps.items():
        folder, name = os.path.split(path)
        heads[path] = os.fsencode(f"{FORMAT} {QUALITY} {length} {changed} {resolved[folder]}/{name}\0")
    return [hashlib.blake2b(heads[p] + row.tobytes(), digest_size=16).hexdigest() for p, row in zip(paths.tolist(), rows)]


def _options(augment: AugmentConfig, size: int) -> dict[str, float]:
    """What decides the boxes, by the names of the flags."""
    ours = {f"augment.{name}": float(getattr(augment, name)) for name in ("rotation", "scale_min", "scale_max", "shift")}
    return {"input size": float(size), **ours}


def _why(unknown: list[str], count: int, index: Index, options: dict[str, float]) -> str:
    """What is wrong with a cache that has never heard of the crops of some pictures."""
    if options in index.options:
        return f"does not hold {len(unknown)} of {count} samples, whose pictures are new or have changed, the first {unknown[0]}"
    last = index.options[-1]
    other = [
        f"{name} {last.get(name, math.nan):g} instead of {value:g}" for name, value in options.items() if last.get(name) != value
    ]
    return f"was made for {', '.join(other)}"


# ---- the work ----


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Failures to write, in one sentence."""
    try:
        yield
    except OSError as error:
        raise HgfastError(f"cannot write to {folder}: {error}; free some space or choose another --cache") from error
    except BrokenProcessPool as error:
        raise HgfastError(f"a worker process was killed, for want of memory perhaps: {ADVICE} and fewer --threads") from error


def _jobs(folder: Path, paths: NDArray[np.str_], where: Boxes, keys: list[str], kept: dict[str, int]) -> list[Job]:
    """What is not `kept`, picture by picture: each is decoded once, whoever is in it."""
    todo: dict[str, dict[str, Wanted]] = {}
    for row, (path, key) in enumerate(zip(paths.tolist(), keys)):
        if key not in kept:
            todo.setdefault(path, {})[key] = Wanted(key, where.low[row], where.high[row], where.ratio[row])
    return [Job(str(folder), path, list(crops.values())) for path, crops in todo.items()]


def _work(jobs: list[Job], workers: int | None, progress: bool) -> Iterable[Done]:
    """The results of all jobs in their order."""
    return spread(perform, jobs, workers, "picture", progress) if jobs else ()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Keep the matrix products of processes that are started meanwhile to one thread: there is a process a core already."""
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


def perform(job: Job) -> Done:
    """Write the crops of one picture. Raises `OSError` where that fails; a picture that cannot be read is a result."""
    try:
        image = read_image(job.path)
    except HgfastError as error:
        return Done(dict.fromkeys((wanted.key for wanted in job.crops), 0), str(error))
    sizes = {}
    for key, low, high, ratio in job.crops:
        content = encode(crop(image, low, high, ratio))
        write_crop(job.folder, key, content)
        sizes[key] = len(content)
    return Done(sizes)


# ---- the command ----


def main() -> None:
    from hgfast.config import Config  # not at the top: these bring torch
    from pipelines.datasets import open_samples

    @dataclass(kw_only=True)
    class Flags(Config):
        """Those of hgfast/train.py, and one."""

        prune: bool = False
        """afterwards, remove crops in the cache that were made with other flags or of pictures that have changed since"""

    flags = parse(Flags, short=SHORT, description=(__doc__ or "").partition("What may enter")[0])
    flags.validate()
    if flags.cache is None:
        raise HgfastError("--cache DIR is missing: the folder for the crops, which is made if need be")
    samples, size, start = open_samples(flags, flags.train.split), flags.model.architecture().input_size, time.perf_counter()
    report = build(samples, flags.cache, flags.augment, size, flags.threads)
    for reason in list(report.unreadable.values())[:SHOWN]:
        print(f"warning: {reason}; left out", file=sys.stderr)
    if len(report.unreadable) > SHOWN:
        print(f"warning: {len(report.unreadable) - SHOWN} more pictures cannot be read; left out", file=sys.stderr)
    print(f"{flags.cache}: {report.in_words}, {time.perf_counter() - start:.1f} s", flush=True)
    if flags.prune:
        print(f"{prune(samples, flags.cache, flags.augment, size)} other crops removed", flush=True)
    elif report.stale:
        print(f"{report.stale} crops of other flags or pictures ({report.stale_bytes / 1e6:.1f} MB); --prune removes them")


if __name__ == "__main__":
    run(main)
