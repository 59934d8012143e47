"""Reader for COCO keypoint annotations (cocodataset.org/#format-data), including custom data sets, into `Samples`.

A sample is one annotation, so an image may have several. Keypoints are x, y, v: v is 0 for not labeled, 1 for occluded, 2 for
visible; both 1 and 2 are trained on. x and y are 0-based pixel numbers, hence a pixel_offset of 0.5; files converted from
FreiHAND already hold corner coordinates (0). `bbox` is x, y, width, height in corner coordinates in either case, without an
offset. The skeleton is the category's, or that of a YAML file (`hgfast.pipelines.readers.skeleton_yaml`). `Samples.row` is the
annotation's id; if an id of the file is missing, repeated or not an integer, it is the position in the list, from 0.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from hgfast.cli import did_you_mean
from hgfast.config import AllowedProblem, DataConfig
from hgfast.errors import HgfastError
from hgfast.geometry import FloatArray
from hgfast.pipelines.readers.base import DataSet, allowed_roots, image_folder
from hgfast.pipelines.readers.coco_file import (
    CocoFile,
    Entry,
    annotation_ids,
    box_table,
    image_names,
    is_crowd,
    keypoint_table,
    normalize_id,
    read_coco_file,
)
from hgfast.pipelines.readers.image_headers import read_headers, upright_points, upright_size
from hgfast.pipelines.readers.image_names import resolve_names
from hgfast.pipelines.readers.image_paths import FOLDER_ONLY, AllowedRoots, find_images
from hgfast.pipelines.readers.label_checks import MOST, Labels, Problem, check_labels, settle
from hgfast.pipelines.readers.skeleton_yaml import (
    joint_index,
    read_skeleton,
    shipped_skeletons,
    skeleton_from_category,
)
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import Skeleton

PIXEL_OFFSET = 0.5
MAX_HEADERS = 5000
"""Images whose headers are read to compare their sizes with the file's; of more, as many evenly spaced ones."""


@dataclass(frozen=True)
class CocoSamples(Samples):
    """`Samples` of a COCO file.

    names: (N,) names of the images, relative to their folder. size: (N, 2) width and height in the image's entry, NaN if unknown.
    categories: names of those that were read. excluded: reason -> number of the annotations that were left out.
    """

    names: NDArray[np.str_] = field(default_factory=lambda: np.empty(0, np.str_))
    size: FloatArray = field(default_factory=lambda: np.empty((0, 2)))
    categories: tuple[str, ...] = ()
    excluded: dict[str, int] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """As `Samples.summary`, with the categories if they are several, and the annotations that were left out."""
        categories = f" of {', '.join(self.categories)}" if len(self.categories) > 1 else ""
        reasons = _format_counts(self.excluded)
        return super().summary + categories + (f"; left out: {reasons}" if reasons else "")


@dataclass(frozen=True)
class CocoOptions:
    """How a COCO file is read.

    skeleton: YAML file that names the joints, in the file's order, instead of the category. category: names or ids of the
    categories to read. pixel_offset: added to the file's x and y to obtain corner coordinates. normalize: length in pixels that
    errors are divided by (`Samples.reference`): "box" for the box's longer side, or the distance of two joints, such as
    "left_shoulder,right_hip". The length is NaN if one of them is not labeled or both coincide: such samples are trained on, and
    PCK leaves them out. padding: side of the crop square over the box's longer side. box_size: side of the box of an annotation
    whose box and joints have no extent. box_format: meaning of a box's numbers. exif: whether points and boxes are of the
    upright image (apply) or of the stored one (ignore). skip_missing: leave out samples whose image is missing instead of
    raising. allow: problems of the whole file that only cause a note. bounds: where images may lie.
    """

    skeleton: Path | None = None
    category: Sequence[str] = ()
    pixel_offset: float = PIXEL_OFFSET
    normalize: str = "box"
    padding: float = 1.25
    box_size: float | None = None
    box_format: Literal["xywh", "xyxy", "cxcywh"] = "xywh"
    exif: Literal["apply", "ignore"] = "apply"
    skip_missing: bool = False
    allow: Collection[AllowedProblem] = ()
    bounds: AllowedRoots = FOLDER_ONLY


def read_coco(annotations: Path, images: Path, options: CocoOptions = CocoOptions()) -> CocoSamples:
    """Read the annotations of one file, one sample each, except crowds and annotations without a labeled joint or an extent.

    The crop square is centered on the box, and its side is `padding` times the box's longer side. If an annotation has no `bbox`,
    or one without an area, the bounding box of its labeled joints is used. Samples of one image form a group.

    Args:
        annotations: the JSON file.
        images: the folder that every `file_name` is relative to; names may contain sub-folders.
        options: see there.

    Raises:
        HgfastError: files are missing or broken, names do not exist, or the labels look wrong as a whole (`label_checks`).
    """
    if not (0 < options.padding < np.inf and np.isfinite(options.pixel_offset)):
        padding, offset = options.padding, options.pixel_offset
        raise HgfastError(f"the padding ({padding:g}) must be above 0 and the pixel offset ({offset:g}) finite")
    if not images.is_dir():
        raise HgfastError(f"there is no folder of images {images}: name the folder that every file_name is relative to")
    file = read_coco_file(annotations)
    yaml_skeleton = None if options.skeleton is None else read_skeleton(options.skeleton)
    categories = _choose_categories(file, options.category, yaml_skeleton is not None)
    if yaml_skeleton is None:
        skeleton, skeleton_notes = skeleton_from_category(categories[0], annotations)
    else:
        skeleton, skeleton_notes = yaml_skeleton, ()
        for category in categories:
            _check_skeleton(yaml_skeleton, category, f"the skeleton {options.skeleton}", file)
    normalizing_joints = _normalizing_joints(options.normalize, skeleton)

    rows, table, excluded = _labeled_annotations(file, categories, skeleton)
    names, notes = resolve_names(images, image_names(file, rows))
    advice = "put them there, or name the folder that file_name is relative to"
    paths, exists = find_images(
        images, names, options.skip_missing, advice, options.bounds, lambda n: f"{file.annotation_name(rows[n])} of {annotations}"
    )
    group = np.unique(names, return_inverse=True)[1].astype(np.int64)[exists]
    rows, table = [row for row, keep in zip(rows, exists) if keep], table[exists]
    xy, labeled = table[..., :2] + options.pixel_offset, table[..., 2] > 0
    box = _own_boxes(file, rows, options.box_format)
    size = np.array([file.images[file.image_ids[row]][1:] for row in rows], np.float64).reshape(-1, 2)
    xy, box, size, upright, rotated, size_notes = _match_images(file, paths, xy, box, size, options)

    labels = Labels(
        keypoints=xy,
        labeled=labeled,
        box=box,
        size=upright,
        pixel_offset=options.pixel_offset,
        joints=skeleton.joints,
        image=group,
        rotated=rotated,
        describe=lambda n: file.annotation_name(rows[n]),
        where=str(annotations),
    )
    notes = [*skeleton_notes, *file.notes, *notes, *size_notes, *check_labels(labels, options.allow)]
    box, box_notes = _fill_boxes(box, labels.bounds, options.box_size)
    usable = box[:, 2:].max(1) > 0
    if not usable.all():
        excluded["without an extent"] = int((~usable).sum())
    if not usable.any():
        raise _nothing_left(file, excluded, "give --box-size PIXELS, the side of their boxes")
    longer_side = box[:, 2:].max(1)
    reference = longer_side if normalizing_joints is None else _joint_distance(xy, labeled, *normalizing_joints)
    if not np.isfinite(reference[usable]).any():
        raise HgfastError(f"{annotations}: no sample has both joints {options.normalize!r} labeled, apart: normalize by 'box'")
    samples = CocoSamples(
        paths=paths,
        center=box[:, :2] + box[:, 2:] / 2,
        side=options.padding * longer_side,
        keypoints=xy,
        labeled=labeled,
        reference=reference,
        group=group,
        row=annotation_ids(file, rows),
        skeleton=skeleton,
        pixel_offset=options.pixel_offset,
        skipped=int((~exists).sum()),
        notes=(*notes, *box_notes),
        names=np.array(names)[exists],
        size=size,
        categories=tuple(_category_name(category) for category in categories),
        excluded=excluded,
    )
    return samples if usable.all() else cast(CocoSamples, samples.take(usable))


def _choose_categories(file: CocoFile, wanted: Sequence[str], has_yaml_skeleton: bool) -> list[Entry]:
    """Return the categories to read, which have the same joints: those of `wanted`, or all with keypoints that annotations use.

    With `has_yaml_skeleton`, categories need not name their keypoints, and [] is returned if no annotation is of a listed one.
    """
    path = file.path
    listed = {normalize_id(entry.get("id")) for entry in file.categories}
    if has_yaml_skeleton and not listed & set(file.category_ids):
        return []
    candidates = [category for category in file.categories if category.get("keypoints")]
    if has_yaml_skeleton and not candidates:
        candidates = file.categories
    if not candidates:
        raise HgfastError(f"{path}: no category has keypoints: {_advise_skeleton(file)}")
    if (without_id := next((entry for entry in candidates if normalize_id(entry.get("id")) is None), None)) is not None:
        raise HgfastError(f"{path}: the category {without_id.get('name')!r} has no id; add it")
    if wanted:
        names = {name: entry for entry in candidates for name in (str(entry["id"]), _category_name(entry))}
        if unknown := [name for name in wanted if name not in names]:
            known = [_category_name(entry) for entry in candidates]
            raise HgfastError(
                f"{path} has no category {unknown[0]!r}{did_you_mean(unknown[0], known)} with keypoints; --category may name "
                f"{', '.join(known)}"
            )
        candidates = [entry for entry in candidates if entry in [names[name] for name in wanted]]
    elif len(candidates) > 1:
        with_points = {key for key, entry in zip(file.category_ids, file.annotations) if entry.get("keypoints")}
        candidates = [entry for entry in candidates if normalize_id(entry["id"]) in with_points] or candidates
    joints = [entry.get("keypoints") or [] for entry in candidates]
    if other := next((number for number, names in enumerate(joints) if names != joints[0]), None):
        described = (f"{_category_name(candidates[number])} with {len(joints[number])} joints" for number in (0, other))
        raise HgfastError(
            f"{path}: its categories have different joints ({', '.join(described)}): choose one with --category "
            f"{_category_name(candidates[0])}"
        )
    return candidates


def _advise_skeleton(file: CocoFile) -> str:
    """Return how to name the joints of a file without names. The number of joints alone does not tell which ones they are."""
    rows = (entry["keypoints"] for entry in file.annotations if isinstance(entry.get("keypoints"), list))
    number = max((len(row) if isinstance(row[0], list) else len(row) // 3 for row in rows if row), default=0)
    shipped = [f"--skeleton {name}" for name in shipped_skeletons(number)]
    choice = f", or, if the {number} joints are those of one of these sets, give {' or '.join(shipped)}" if shipped else ""
    return f"name them in the file, or in the YAML file of --skeleton{choice}"


def _category_name(category: Entry) -> str:
    return str(category.get("name", category.get("id")))


def _check_skeleton(skeleton: Skeleton, category: Entry, where: str, file: CocoFile) -> None:
    """Raise `HgfastError` if a skeleton has more or fewer joints than the file's category, or its joints in another order.

    If the annotations have as many joints as the skeleton, and not as many as their category, the category does not count.
    """
    path = file.path
    keypoints = category.get("keypoints")
    if not isinstance(keypoints, list) or not keypoints:
        return
    names = [str(name) for name in keypoints]
    if len(names) != len(skeleton.joints):
        lengths = {len(row) for entry in file.annotations if isinstance(row := entry.get("keypoints"), list) and row}
        if lengths == {3 * len(skeleton.joints)}:
            return
        raise HgfastError(f"{where} has {len(skeleton.joints)} joints, {path} has {len(names)}: name them all, in its order")
    if list(skeleton.joints) != names and set(skeleton.joints) == set(names):
        raise HgfastError(f"{where} has the joints of {path} in another order: use the order {', '.join(names)}")


def _normalizing_joints(normalize: str, skeleton: Skeleton) -> tuple[int, int] | None:
    """Return the indices of the two joints whose distance normalizes errors; None for the box."""
    if normalize == "box":
        return None
    names = [name.strip() for name in normalize.split(",")]
    if len(names) != 2 or names[0] == names[1]:
        raise HgfastError(f"errors are normalized by 'box' or by two joints such as 'left_shoulder,right_hip', not {normalize!r}")
    first, second = (joint_index(name, skeleton.joints, "the length that normalizes errors") for name in names)
    return first, second


def _joint_distance(points: FloatArray, labeled: NDArray[np.bool_], first: int, second: int) -> FloatArray:
    """Return the distance (N,) of two joints, NaN where it is unknown or 0."""
    length = np.linalg.norm(points[:, first] - points[:, second], axis=-1)
    return np.where(labeled[:, first] & labeled[:, second] & (length > 0), length, np.nan)


def _labeled_annotations(
    file: CocoFile, categories: Sequence[Entry], skeleton: Skeleton
) -> tuple[list[int], FloatArray, dict[str, int]]:
    """Select the N annotations of the categories, no crowds, with a labeled joint.

    Returns:
        Their rows in the file, their keypoints (N, K, 3) as x, y and v of the file, and the number of the others by reason.
    """
    wanted = {normalize_id(category["id"]) for category in categories}
    if len(file.categories) == 1:
        wanted.add(None)  # an annotation without category_id can be of no other
    elif categories and None in file.category_ids:
        raise HgfastError(f"{file.path}: {file.annotation_name(file.category_ids.index(None))} has no category_id; add it")
    of_category = [row for row, key in enumerate(file.category_ids) if not categories or key in wanted]
    not_crowd = [row for row in of_category if not is_crowd(file, row)]
    with_points = [row for row in not_crowd if file.annotations[row].get("keypoints") not in (None, [])]
    table = keypoint_table(file, with_points, len(skeleton.joints))
    has_labeled_joint = np.any(table[..., 2] > 0, axis=1)
    rows = [row for row, keep in zip(with_points, has_labeled_joint) if keep]
    other_ids = sorted({str(key) for key in file.category_ids if key not in wanted}) if categories else []
    excluded = {
        f"of other categories (category_id {', '.join(other_ids[:5])})": len(file.annotations) - len(of_category),
        "crowds": len(of_category) - len(not_crowd),
        "without keypoints": len(not_crowd) - len(with_points),
        "without a labeled joint": len(with_points) - len(rows),
    }
    excluded = {reason: number for reason, number in excluded.items() if number}
    if not rows:
        has_points = bool(table[..., :2].any())
        raise _nothing_left(
            file, excluded, "all v are 0: set those of labeled joints to 2" if has_points else "label joints in it"
        )
    if count := sum(normalize_id(file.annotations[row].get("num_keypoints")) == 0 for row in rows):
        first = next(row for row in rows if normalize_id(file.annotations[row].get("num_keypoints")) == 0)
        labeled = int((table[rows.index(first), :, 2] > 0).sum())
        file.notes.append(
            f"{count} annotations have num_keypoints 0 although joints are labeled ({file.annotation_name(first)}: {labeled} by "
            "their v); their v counts"
        )
    return rows, table[has_labeled_joint], excluded


def _nothing_left(file: CocoFile, excluded: dict[str, int], advice: str) -> HgfastError:
    reasons = f" ({_format_counts(excluded)})" if excluded else ""
    return HgfastError(f"{file.path} has no annotation to use{reasons}: {advice}")


def _own_boxes(file: CocoFile, rows: Sequence[int], box_format: str) -> FloatArray:
    """Return each annotation's own bbox (N, 4) as x, y, width, height; NaN if it has none or one without an area."""
    has_box = np.array([file.annotations[row].get("bbox") not in (None, []) for row in rows], bool)
    with_box = [row for row, has in zip(rows, has_box) if has]
    table = box_table(file, with_box)
    if box_format == "xyxy":
        table[:, 2:] -= table[:, :2]
    elif box_format == "cxcywh":
        table[:, :2] -= table[:, 2:] / 2
    if (negative := (table[:, 2:] < 0).any(1)).any():
        row = with_box[int(np.argmax(negative))]
        raise HgfastError(
            f"{file.path}: the bbox of {file.annotation_name(row)} has a negative size; correct it, or give its --box-format"
        )
    flat = (table[:, 2:] == 0).any(1)
    if flat.any():
        first = file.annotation_name(with_box[int(np.argmax(flat))])
        file.notes.append(f"{int(flat.sum())} annotations have a bbox without an area ({first}); that of their joints is used")
    table[flat] = np.nan
    box = np.full((len(rows), 4), np.nan)
    box[has_box] = table
    return box


def _fill_boxes(box: FloatArray, bounds: FloatArray, box_size: float | None) -> tuple[FloatArray, list[str]]:
    """Return the boxes (N, 4) with those of the joints, whose `bounds` (N, 4) are given, in place of NaN; then with squares of
    `box_size` in place of boxes without an extent, and a note on them."""
    low, extent = bounds[:, :2], bounds[:, 2:] - bounds[:, :2]
    box = np.where(np.isnan(box), np.concatenate([low, extent], axis=1), box)
    empty = box[:, 2:].max(1) == 0
    if box_size is None or not empty.any():
        return box, []
    box[empty, :2] -= box_size / 2
    box[empty, 2:] = box_size
    return box, [f"{int(empty.sum())} annotations whose box and joints have no extent have a box of {box_size:g} pixels"]


def _match_images(
    file: CocoFile, paths: NDArray[np.str_], xy: FloatArray, box: FloatArray, size: FloatArray, options: CocoOptions
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, bool, tuple[str, ...]]:
    """Compare the sizes (N, 2) of the images' entries with the images' headers; with `exif` ignore, rotate labels with images.

    Returns:
        Keypoints (N, K, 2), boxes (N, 4) and the entries' sizes (N, 2) in the upright images, the best known sizes (N, 2) of
        these, NaN if unknown, whether EXIF rotates some of the images, and notes on what differs.
    """
    distinct, first, index = np.unique(paths, return_index=True, return_inverse=True)
    examined = np.arange(len(distinct))
    if options.exif == "apply" and len(distinct) > MAX_HEADERS:
        examined = np.linspace(0, len(distinct) - 1, MAX_HEADERS).astype(np.int64)
    stored, orientation = np.full((len(distinct), 2), np.nan), np.ones(len(distinct), np.int64)
    stored[examined], orientation[examined] = read_headers(distinct[examined].tolist())
    orientation[np.isnan(stored[:, 0])] = 1
    if options.exif == "ignore":
        turned, turned_size = orientation[index], stored[index]
        xy = upright_points(xy, turned_size, turned)
        corners = upright_points(np.stack([box[:, :2], box[:, :2] + box[:, 2:]], axis=1), turned_size, turned)
        box = np.concatenate([corners.min(1), np.abs(corners[:, 1] - corners[:, 0])], axis=1)
        size = upright_size(size, turned)
    upright = upright_size(stored, orientation)
    stated = size[first]
    compared = np.isfinite(upright).all(1) & np.isfinite(stated).all(1)
    differs = compared & (upright != stated).any(1)
    as_stored = differs & (orientation >= 5) & (stored == stated).all(1)
    problems = []
    turned_images = orientation > 1
    unclear = turned_images & ~(compared & ~differs & (orientation >= 5) & (upright[:, 0] != upright[:, 1]))
    if options.exif == "apply" and unclear.any():
        sizes = f", and for {int(as_stored.sum())} of them the file gives the size of the stored image" if as_stored.any() else ""
        problems.append(
            Problem(
                f"{int(unclear.sum())} images are rotated by EXIF (the first {distinct[np.argmax(unclear)]}){sizes}: the points "
                "are read as those of the upright image; if the annotation tool ignored EXIF, give --exif ignore"
            )
        )
    wrong = differs & ~as_stored
    if wrong.any():
        worst = int(np.argmax(wrong))
        (width, height), (stated_width, stated_height) = upright[worst], stated[worst]
        problems.append(
            Problem(
                f"{int(wrong.sum())} of {int(compared.sum())} images are not of the size that the file gives (the first "
                f"{distinct[worst]}: {width:g} x {height:g}, in the file {stated_width:g} x {stated_height:g}); check whether "
                "they were resized after labeling",
                "image-size" if wrong.sum() >= MOST * compared.sum() else None,
            )
        )
    known = np.where(np.isnan(upright[index]), size, upright[index])
    return xy, box, size, known, bool(turned_images.any()), settle(iter(problems), str(file.path), options.allow)


def _format_counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in numbers.items())


def validation_mask(names: Sequence[str], fraction: float, pattern: str | None) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Choose the images to validate on by a hash of their names, so that a longer list keeps the choice nearly the same.

    Args:
        names: N names of images.
        fraction: of the distinct images, at least one image and not all.
        pattern: regular expression; images for which its first group, or else its whole match, is the same stay together.

    Returns:
        A mask (N,) of `names`, and numbers (N,) that are equal for images that stay together.

    Raises:
        HgfastError: the pattern is invalid, does not occur in a name, or leaves all images together.
    """
    distinct = list(dict.fromkeys(names))
    keys = distinct if pattern is None else [_group_key(name, pattern) for name in distinct]
    members: dict[str, int] = {}
    for key in keys:
        members[key] = members.get(key, 0) + 1
    if len(members) < 2:
        raise HgfastError(
            f"--valid-fraction: all {len(distinct)} images are one group, of which nothing can be left to validate on: "
            + ("give more images" if pattern is None else "give another --group-by")
        )
    chosen: set[str] = set()
    count = 0
    for key in sorted(members, key=lambda key: hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest())[:-1]:
        if chosen and abs(count + members[key] - fraction * len(distinct)) >= abs(count - fraction * len(distinct)):
            break
        chosen.add(key)
        count += members[key]
    key_of = dict(zip(distinct, keys))
    mask = np.array([key_of[name] in chosen for name in names], bool)
    return mask, np.unique([key_of[name] for name in names], return_inverse=True)[1].astype(np.int64)


def _group_key(name: str, pattern: str) -> str:
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise HgfastError(f"--group-by {pattern!r} is not a regular expression ({error}); correct it") from error
    if match is None:
        raise HgfastError(f"--group-by {pattern!r} does not occur in the image name {name!r}; make it match all names")
    return next((group for group in match.groups() if group is not None), match[0])


def _read(config: DataConfig, split: str) -> Samples:
    if split not in ("train", "valid"):
        raise HgfastError(f"COCO keypoints have the splits train (--annotations) and valid (--valid-annotations), not {split!r}")
    if config.group_by is not None and config.valid_fraction is None:
        raise HgfastError("--group-by requires --valid-fraction")
    if config.valid_fraction is not None and config.valid_annotations is not None:
        raise HgfastError("--valid-fraction splits --annotations: leave out --valid-annotations, or --valid-fraction")
    annotations, images = _annotations(config, split), image_folder(config, split)
    if annotations is None and split == "valid":
        raise HgfastError(
            "--valid-annotations FILE is missing: name a file to validate on, or hold images back with --valid-fraction"
        )
    if annotations is None:
        raise HgfastError(f"--annotations FILE is missing: a JSON file of COCO keypoints for the split {split}")
    if images is None:
        raise HgfastError("--images DIR is missing: the folder that the file names in the annotations start from")
    options = CocoOptions(
        skeleton=config.skeleton,
        category=config.category,
        pixel_offset=config.pixel_offset,
        normalize=config.normalize,
        padding=config.padding,
        box_size=config.box_size,
        box_format=config.box_format,
        exif=config.exif,
        skip_missing=config.skip_missing,
        allow=config.allow,
        bounds=allowed_roots(config, images),
    )
    samples = read_coco(annotations, images, options)
    if config.valid_fraction is None:
        return samples
    mask, group = validation_mask(samples.names.tolist(), config.valid_fraction, config.group_by)
    return replace(samples, group=group).take(mask if split == "valid" else ~mask)


def _annotations(config: DataConfig, split: str) -> Path | None:
    return config.annotations if split == "train" or config.valid_fraction is not None else config.valid_annotations


def _image_sizes(samples: Samples) -> dict[str, tuple[int, int]]:
    """Return path -> (width, height) of the images whose entry has both."""
    assert isinstance(samples, CocoSamples)
    known = np.isfinite(samples.size).all(1)
    return {path: (int(w), int(h)) for path, (w, h) in zip(samples.paths[known].tolist(), samples.size[known].tolist())}


DATASET = DataSet(
    _read,
    eval_split=lambda config: "valid" if _annotations(config, "valid") else "train",
    splits=lambda config: [name for name in ("train", "valid") if _annotations(config, name) is not None] or ["train"],
    has_box_flags=True,
    describe_row=lambda config, split, row: f"{_annotations(config, split)}, annotation {row}",
    image_sizes=lambda _config, _split, samples: _image_sizes(samples),
)
