"""The data sets by name, a loader for one split and its table of figures: the only place that knows which data sets exist.

What may enter: choosing by a data set's name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from hgfast.config import AugmentConfig, DataChoice, LoadingConfig
from hgfast.distributed import Ranks
from hgfast.errors import HgfastError
from hgfast.evaluation import Loader, not_finite, seen
from hgfast.machine import cores
from hgfast.metrics import body_table, hand_table, pck_table
from hgfast.preprocessing import Preprocessing
from hgfast.skeletons import BODY16, HAND21, Skeleton
from pipelines import coco, freihand, mpii, mpii_mat
from pipelines.check_result import without_bad
from pipelines.dali import DaliLoader
from pipelines.loading import FixedLoader
from pipelines.pictures import Bounds
from pipelines.plain import TorchLoader
from pipelines.plan import Plan
from pipelines.samples import Samples

Figures = dict[str, float]


@dataclass(frozen=True)
class DataSet:
    """What sets a data set apart.

    read: the choices and a split -> Samples. table: predictions (N, K, 2) in source pixels -> figures. best: the one that
    picks best.pt, higher is better. held_out: the choices -> the split to evaluate on. note: what the figures mean.
    shown: the figures that fit a line of the console. skeleton: where it is always the same.
    """

    read: Callable[[DataChoice, str], Samples]
    table: Callable[[Samples, NDArray[np.float64]], Figures]
    best: str
    held_out: Callable[[DataChoice], str]
    note: str
    shown: tuple[str, ...]
    skeleton: Skeleton | None = None

    @property
    def heads(self) -> bool:
        """Are its reference lengths head sizes, so that accuracy is PCKh in percent? Else it is PCK, a share."""
        return self.best == "pckh@0.5"


def _freihand(choice: DataChoice, split: str) -> Samples:
    root = _root(choice, freihand.WHERE_FROM)
    return freihand.read_freihand(root, split, choice.versions, choice.skip_missing, choice.shares, choice.data_outside)


def _mpii(choice: DataChoice, split: str) -> Samples:
    if choice.annotations is None:
        return mpii.read_mpii(_root(choice, mpii.WHERE_FROM), split, choice.skip_missing, choice.images, choice.data_outside)
    images = choice.images or _root(choice, "or --images DIR, the folder of the pictures") / "images"
    listed = choice.valid_annotations or (choice.data / "annot" / "valid.h5" if choice.data else None)
    if listed is None:
        raise HgfastError(f"--valid-annotations FILE is missing: the pictures to validate on, {mpii_mat.VALID_FROM}")
    return mpii_mat.read_mpii_mat(
        choice.annotations,
        images,
        split,
        mpii_mat.valid_names(listed),
        choice.skip_missing,
        chosen=mpii_mat.valid_people(listed) if h5py.is_hdf5(listed) else None,
        single_person=choice.single_person,
        bounds=_bounds(choice, choice.images),
    )


def _coco(choice: DataChoice, split: str) -> Samples:
    if split not in ("train", "valid"):
        raise HgfastError(f"COCO keypoints have the splits train (--annotations) and valid (--valid-annotations), not {split!r}")
    annotations, images = coco_files(choice, split)
    if annotations is None:
        flag = "--annotations" if split == "train" else "--valid-annotations"
        raise HgfastError(f"{flag} FILE is missing: a JSON file of COCO keypoints for the split {split}")
    if images is None:
        raise HgfastError("--images DIR is missing: the folder that the file names in the annotations start from")
    return coco.read_coco(
        annotations,
        images,
        skeleton=choice.skeleton,
        pixel_offset=choice.pixel_offset,
        normalise=choice.normalise,
        padding=choice.padding,
        skip_missing=choice.skip_missing,
        bounds=_bounds(choice, images),
    )


def _bounds(choice: DataChoice, images: Path | None) -> Bounds:
    """Where pictures may lie: a folder that is named for itself is their root."""
    named = images is not None and images in (choice.images, choice.valid_images)
    return Bounds(None if named else choice.data, choice.data_outside)


def coco_files(choice: DataChoice, split: str) -> tuple[Path | None, Path | None]:
    """The annotations of COCO's split "train" or "valid" and the folder of its pictures, as far as they were named."""
    images = choice.images or (choice.data and choice.data / "images")
    if split == "train":
        return choice.annotations, images
    return choice.valid_annotations, choice.valid_images or images


def _root(choice: DataChoice, where_from: str) -> Path:
    if choice.data is None:
        raise HgfastError(f"--data DIR is missing: the folder of the {choice.dataset} files; {where_from.format(root='DIR')}")
    return choice.data


DATASETS = {
    "freihand": DataSet(
        read=_freihand,
        table=lambda s, found: hand_table(found, s.keypoints, s.labelled, s.reference, s.side),
        best="auc_0_30px",
        held_out=lambda _: "test",
        note="PCK: of the longer side of the hand's box, or of the picture's; AUC, EPE: source pixels; _mmpose, _freihand: by "
        "the definitions of those projects",
        shown=("pck@0.05", "pck@0.1", "pck@0.2", "auc_0_30px", "epe_px"),
        skeleton=HAND21,
    ),
    "mpii": DataSet(
        read=_mpii,
        table=lambda s, found: body_table(found, s.keypoints, s.labelled, s.reference, s.skeleton),
        best="pckh@0.5",
        held_out=lambda _: "valid",
        note="PCKh in percent by the official rule, groups at 0.5 of the head; pelvis and thorax do not count; AUC: 0 to 0.5; "
        "pooled16, mean14: princeton-vl's and bearpaw's totals",
        shown=(*(name for name, _ in BODY16.groups), "pckh@0.5", "pckh@0.1", "auc"),
        skeleton=BODY16,
    ),
    "coco": DataSet(
        read=_coco,
        table=lambda s, found: pck_table(found, s.keypoints, s.labelled, s.reference),
        best="pck@0.2",
        held_out=lambda choice: "valid" if choice.valid_annotations else "train",
        note="PCK: of the longer side of the box, or of the distance that --normalise names; EPE: source pixels",
        shown=("pck@0.05", "pck@0.1", "pck@0.2", "epe_px"),
    ),
}


def open_samples(choice: DataChoice, split: str) -> Samples:
    """One split of a data set. Raises `HgfastError` where it is not there or broken."""
    return DATASETS[choice.dataset].read(choice, split)


def usable_samples(choice: DataChoice, split: str) -> Samples:
    """`open_samples` without those that pipelines/check.py found to be bad, where it has been run."""
    return without_bad(open_samples(choice, split), choice)


def figures(dataset: str, samples: Samples, keypoints: NDArray[np.float64]) -> Figures:
    """The table of (N, K, 2) predictions in source pixels, as `hgfast.evaluation.predict` gives them; samples without one, for
    want of a picture, are left out.

    Where points are not finite, "not_finite" is how many: they are misses for every share, and EPE is of the others.
    """
    there = seen(keypoints)
    table, lost = DATASETS[dataset].table(samples.take(there), keypoints[there]), not_finite(keypoints[there])
    return {**table, "not_finite": lost} if lost else table


def input_files(choice: DataChoice) -> list[tuple[str, Path]]:
    """What a data set's files are and where they would be, there or not; without the pictures."""
    named = {
        "--annotations": choice.annotations,
        "--valid-annotations": choice.valid_annotations,
        "--skeleton": choice.skeleton,
        "--checked": choice.checked,
    }
    files = [(f"what {flag} names", path) for flag, path in named.items() if path is not None]
    if choice.data is not None:
        names = {
            "freihand": [f"{part}_{name}.json" for part in ("training", "evaluation") for name in ("K", "xyz")],
            "mpii": [f"annot/{split}.h5" for split in ("train", "valid", "test")],
        }
        files += [("a file of the data set", choice.data / name) for name in names.get(choice.dataset, [])]
    return files


def open_loader(
    samples: Samples,
    size: int,
    batch_size: int,
    preprocessing: Preprocessing,
    ranks: Ranks,
    *,
    augment: AugmentConfig | None = None,
    seed: int = 0,
    threads: int | None = None,
    kind: str = "dali",
    options: LoadingConfig | None = None,
) -> Loader:
    """Batches of this rank's share; augmented and in random order with `augment`, else as they are, each exactly once.

    `kind` is "dali", "torch", or "fixed" for DALI's first batch again and again. `threads` are DALI's, or torch's worker
    processes; None shares out the machine's cores.
    """
    plan = Plan(samples, size, batch_size, augment=augment, seed=seed, rank=ranks.rank, world=ranks.world)
    threads = threads or max(1, cores() // ranks.local_world)
    if kind == "torch":
        return TorchLoader(plan, ranks.device, threads, preprocessing, options=options)
    loader = DaliLoader(plan, ranks.device, threads, preprocessing, options=options)
    return FixedLoader(loader) if kind == "fixed" else loader
