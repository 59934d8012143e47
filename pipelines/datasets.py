"""Registry of the data sets: their splits, loaders and metric tables. The only module that compares data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from hgfast.config import AugmentConfig, DataConfig, LoadingConfig
from hgfast.errors import HgfastError
from hgfast.metrics import flat_body_metrics, hand_metrics, pck_metrics
from hgfast.normalization import Normalization
from hgfast.pipelines.batch_plan import BatchPlan
from hgfast.pipelines.checks.result import exclude_bad_images
from hgfast.pipelines.loaders.base import FixedLoader
from hgfast.pipelines.loaders.dali import DaliLoader
from hgfast.pipelines.loaders.opencv import OpenCVLoader
from hgfast.pipelines.readers import coco, freihand, mpii_h5, mpii_mat
from hgfast.pipelines.readers.image_paths import AllowedRoots
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import BODY16, HAND21, Skeleton
from hgfast.system_info import available_cores
from hgfast.training.distributed import Ranks
from hgfast.training.evaluator import Loader, count_non_finite, seen

MetricValues = dict[str, float]


@dataclass(frozen=True)
class DataSet:
    """Properties of one data set.

    reader: (config, split) -> Samples. metric_table: (samples, predictions (N, K, 2) in source pixels) -> metrics. best_metric:
    the metric that selects best.pt, higher is better. eval_split: config -> split to evaluate on. metric_note: definitions of the
    metrics. console_metrics: metrics that fit on a line of the console. skeleton: the skeleton, if it is always the same.
    """

    reader: Callable[[DataConfig, str], Samples]
    metric_table: Callable[[Samples, NDArray[np.float64]], MetricValues]
    best_metric: str
    eval_split: Callable[[DataConfig], str]
    metric_note: str
    console_metrics: tuple[str, ...]
    skeleton: Skeleton | None = None

    @property
    def uses_pckh(self) -> bool:
        """True if reference lengths are head sizes, so that accuracy is PCKh in percent; otherwise it is PCK, a fraction."""
        return self.best_metric == "pckh@0.5"


def _read_freihand(choice: DataConfig, split: str) -> Samples:
    root = _require_root(choice, freihand.DOWNLOAD_HINT)
    return freihand.read_freihand(root, split, choice.versions, choice.skip_missing, choice.split_fractions, choice.data_outside)


def _read_mpii(choice: DataConfig, split: str) -> Samples:
    if choice.annotations is None:
        return mpii_h5.read_mpii(
            _require_root(choice, mpii_h5.DOWNLOAD_HINT), split, choice.skip_missing, choice.images, choice.data_outside
        )
    images = choice.images or _require_root(choice, "or --images DIR, the folder of the images") / "images"
    valid_list = choice.valid_annotations or (choice.data / "annot" / "valid.h5" if choice.data else None)
    if valid_list is None:
        raise HgfastError(f"--valid-annotations FILE is missing: the images to validate on, {mpii_mat.VALID_LIST_HINT}")
    return mpii_mat.read_mpii_mat(
        choice.annotations,
        images,
        split,
        mpii_mat.valid_names(valid_list),
        choice.skip_missing,
        only_people=mpii_mat.valid_people(valid_list) if h5py.is_hdf5(valid_list) else None,
        single_person=choice.single_person,
        bounds=_allowed_roots(choice, choice.images),
    )


def _read_coco(choice: DataConfig, split: str) -> Samples:
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
        normalize=choice.normalize,
        padding=choice.padding,
        skip_missing=choice.skip_missing,
        bounds=_allowed_roots(choice, images),
    )


def _allowed_roots(choice: DataConfig, images: Path | None) -> AllowedRoots:
    """Return where images may lie: a folder that a flag names is its own root."""
    is_named = images is not None and images in (choice.images, choice.valid_images)
    return AllowedRoots(None if is_named else choice.data, choice.data_outside)


def coco_files(choice: DataConfig, split: str) -> tuple[Path | None, Path | None]:
    """Return the annotations of COCO's split "train" or "valid" and its image folder; None for each one that no flag names."""
    images = choice.images or (choice.data and choice.data / "images")
    if split == "train":
        return choice.annotations, images
    return choice.valid_annotations, choice.valid_images or images


def _require_root(choice: DataConfig, download_hint: str) -> Path:
    if choice.data is None:
        raise HgfastError(f"--data DIR is missing: the folder of the {choice.dataset} files; {download_hint.format(root='DIR')}")
    return choice.data


DATASETS = {
    "freihand": DataSet(
        reader=_read_freihand,
        metric_table=lambda s, predicted: hand_metrics(predicted, s.keypoints, s.labeled, s.reference, s.side),
        best_metric="auc_0_30px",
        eval_split=lambda _: "test",
        metric_note="PCK: of the longer side of the hand's box, or of the image's; AUC, EPE: source pixels; "
        "_mmpose, _freihand: by the definitions of those projects",
        console_metrics=("pck@0.05", "pck@0.1", "pck@0.2", "auc_0_30px", "epe_px"),
        skeleton=HAND21,
    ),
    "mpii": DataSet(
        reader=_read_mpii,
        metric_table=lambda s, predicted: flat_body_metrics(predicted, s.keypoints, s.labeled, s.reference, s.skeleton),
        best_metric="pckh@0.5",
        eval_split=lambda _: "valid",
        metric_note="PCKh in percent by the official rule, groups at 0.5 of the head; pelvis and thorax do not count; "
        "AUC: 0 to 0.5; pooled16, mean14: princeton-vl's and bearpaw's totals",
        console_metrics=(*(name for name, _ in BODY16.groups), "pckh@0.5", "pckh@0.1", "auc"),
        skeleton=BODY16,
    ),
    "coco": DataSet(
        reader=_read_coco,
        metric_table=lambda s, predicted: pck_metrics(predicted, s.keypoints, s.labeled, s.reference),
        best_metric="pck@0.2",
        eval_split=lambda choice: "valid" if choice.valid_annotations else "train",
        metric_note="PCK: of the longer side of the box, or of the distance that --normalize names; EPE: source pixels",
        console_metrics=("pck@0.05", "pck@0.1", "pck@0.2", "epe_px"),
    ),
}


def open_samples(choice: DataConfig, split: str) -> Samples:
    """Read one split of a data set. Raises `HgfastError` if it is missing or broken."""
    return DATASETS[choice.dataset].reader(choice, split)


def usable_samples(choice: DataConfig, split: str) -> Samples:
    """Return `open_samples` without the images that `hgfast check` found to be bad, if it has been run."""
    return exclude_bad_images(open_samples(choice, split), choice)


def figures(dataset: str, samples: Samples, keypoints: NDArray[np.float64]) -> MetricValues:
    """Return the metric table of predictions (N, K, 2) in source pixels, as `hgfast.training.evaluator.predict` returns them.

    Samples without a prediction, because their image is missing, are left out. If some points are not finite, "not_finite" is
    their number: they count as misses in every fraction, and EPE leaves them out.
    """
    predicted = seen(keypoints)
    table = DATASETS[dataset].metric_table(samples.take(predicted), keypoints[predicted])
    num_not_finite = count_non_finite(keypoints[predicted])
    return {**table, "not_finite": num_not_finite} if num_not_finite else table


def input_files(choice: DataConfig) -> list[tuple[str, Path]]:
    """Return descriptions and paths of a data set's files other than images, whether or not they exist."""
    named_files = {
        "--annotations": choice.annotations,
        "--valid-annotations": choice.valid_annotations,
        "--skeleton": choice.skeleton,
        "--checked": choice.checked,
    }
    files = [(f"what {flag} names", path) for flag, path in named_files.items() if path is not None]
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
    normalization: Normalization,
    ranks: Ranks,
    *,
    augment: AugmentConfig | None = None,
    seed: int = 0,
    threads: int | None = None,
    loader: str = "dali",
    loading: LoadingConfig | None = None,
) -> Loader:
    """Return a loader of this rank's part of each batch.

    With `augment`, samples are augmented and in random order; otherwise every sample comes once, unchanged and in order. `loader`
    is "dali", "opencv", or "fixed", which repeats DALI's first batch. `threads` are DALI's threads or OpenCV's worker processes;
    None divides the machine's cores among its ranks.
    """
    plan = BatchPlan(samples, size, batch_size, augment=augment, seed=seed, rank=ranks.rank, world_size=ranks.world_size)
    threads = threads or max(1, available_cores() // ranks.local_world_size)
    if loader == "opencv":
        return OpenCVLoader(plan, ranks.device, threads, normalization, options=loading)
    dali_loader = DaliLoader(plan, ranks.device, threads, normalization, options=loading)
    return FixedLoader(dali_loader) if loader == "fixed" else dali_loader
