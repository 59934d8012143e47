"""Reader for COCO keypoint annotations (cocodataset.org/#format-data), including custom data sets, into `Samples`.

A sample is one annotation, so an image may have several. Keypoints are x, y, v: v is 0 for not labeled, 1 for occluded, 2 for
visible; both 1 and 2 are trained on. x and y are 0-based pixel numbers, hence a pixel_offset of 0.5; files converted from
FreiHAND already hold corner coordinates (0). `bbox` is x, y, width, height in corner coordinates in either case, without an
offset. The skeleton is the category's, or that of a YAML file (`hgfast.pipelines.readers.skeleton_yaml`). `Samples.row` is the
annotation's id; if an id of the file is missing, repeated or not an integer, it is the position in the list, from 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgfast.config import DataConfig
from hgfast.errors import HgfastError
from hgfast.geometry import FloatArray
from hgfast.pipelines.readers.base import DataSet, allowed_roots, image_folder, read_json
from hgfast.pipelines.readers.image_paths import FOLDER_ONLY, AllowedRoots, find_images
from hgfast.pipelines.readers.skeleton_yaml import joint_index, read_skeleton, skeleton_from_category
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import Skeleton

PIXEL_OFFSET = 0.5
MAX_COORDINATE = 1e9  # pixels; a larger number means a broken file


@dataclass(frozen=True)
class CocoSamples(Samples):
    """`Samples` with the number of annotations that were left out: `excluded` maps the reason to their number."""

    excluded: dict[str, int] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """As `Samples.summary`, with the annotations that were left out."""
        reasons = _format_counts(self.excluded)
        return super().summary + (f"; left out: {reasons}" if reasons else "")


def read_coco(
    annotations: Path,
    images: Path,
    *,
    skeleton: Path | None = None,
    pixel_offset: float = PIXEL_OFFSET,
    normalize: str = "box",
    padding: float = 1.25,
    skip_missing: bool = False,
    bounds: AllowedRoots = FOLDER_ONLY,
) -> CocoSamples:
    """Read the annotations of one file, one sample each, except crowds and annotations without a labeled joint or a box area.

    The crop square is centered on the box, and its side is `padding` times the box's longer side. If an annotation has no `bbox`,
    the bounding box of its labeled joints is used. Samples of one image form a group.

    Args:
        images: the folder that every `file_name` is relative to; names may contain sub-folders.
        skeleton: YAML file that names the joints, in the file's order, instead of the category.
        pixel_offset: added to the file's x and y to obtain corner coordinates.
        normalize: length in pixels that errors are divided by (`Samples.reference`): "box" for the box's longer side, or the
            distance of two joints, such as "left_shoulder,right_hip". The length is NaN if one of them is not labeled or both
            coincide: such samples are trained on, and PCK leaves them out.
        skip_missing: leave out samples whose image is missing, instead of raising.
        bounds: where images may lie.

    Raises:
        HgfastError: files are missing or broken, or names do not exist.
    """
    if not (0 < padding < math.inf and math.isfinite(pixel_offset)):
        raise HgfastError(f"the padding ({padding:g}) must be above 0 and the pixel offset ({pixel_offset:g}) finite")
    if not images.is_dir():
        raise HgfastError(f"there is no folder of images {images}: name the folder that every file_name is relative to")
    content = _load_json(annotations)
    yaml_skeleton = None if skeleton is None else read_skeleton(skeleton)
    category = _choose_category(content, annotations, yaml_skeleton is not None)
    coco_skeleton = skeleton_from_category(category, annotations) if yaml_skeleton is None else yaml_skeleton
    if yaml_skeleton is not None:
        _check_skeleton(yaml_skeleton, category, f"the skeleton {skeleton}", annotations)
    normalizing_joints = _normalizing_joints(normalize, coco_skeleton)
    entries, keypoints, box, excluded = _read_annotations(content, category, coco_skeleton, pixel_offset, annotations)
    names = _image_names(content["images"], entries, annotations)
    advice = "put them there, or name the folder that file_name is relative to"
    paths, exists = find_images(
        images, names, skip_missing, advice, bounds, lambda n: f"{_describe(entries[n])} of {annotations}"
    )
    longer_side = box[:, 2:].max(1)
    xy, labeled = keypoints[..., :2], keypoints[..., 2] > 0
    reference = longer_side if normalizing_joints is None else _joint_distance(xy, labeled, *normalizing_joints)
    if not np.isfinite(reference[exists]).any():
        raise HgfastError(f"{annotations}: no sample has both joints {normalize!r} labeled, apart: normalize by 'box'")
    return CocoSamples(
        paths=paths,
        center=(box[:, :2] + box[:, 2:] / 2)[exists],
        side=padding * longer_side[exists],
        keypoints=xy[exists],
        labeled=labeled[exists],
        reference=reference[exists],
        group=np.unique(names, return_inverse=True)[1][exists].astype(np.int64),
        row=_row_ids(entries, content["annotations"])[exists],
        skeleton=coco_skeleton,
        pixel_offset=pixel_offset,
        skipped=int((~exists).sum()),
        excluded=excluded,
    )


def _load_json(path: Path) -> dict[str, Any]:
    """Return the file's content with its lists checked to be lists of mappings; annotations without an id get a number."""
    if not path.is_file():
        raise HgfastError(f"there is no file of COCO annotations {path}: name the JSON file that lists images and annotations")
    content = read_json(path, "export it again")
    if not isinstance(content, dict):
        raise HgfastError(f"{path} is not a COCO annotation file: wanted a mapping with images, annotations and categories")
    content.setdefault("categories", [])  # a file with a skeleton of its own may lack them
    for key in ("images", "annotations", "categories"):
        if key not in content:
            raise HgfastError(f"{path} has no {key!r}: it is not a COCO annotation file, or only a part of one")
        if not isinstance(content[key], list) or not all(isinstance(entry, dict) for entry in content[key]):
            raise HgfastError(f"{path}: {key} must be a list of mappings; export it again")
    for row, annotation in enumerate(content["annotations"]):
        annotation.setdefault("id", f"number {row}")
    return content


def _choose_category(content: dict[str, Any], path: Path, has_yaml_skeleton: bool) -> dict[str, Any]:
    """Return the only category with keypoints or, of several, the one that annotations use.

    With `has_yaml_skeleton`, the category need not name its keypoints, and {} is returned if the file has no category.
    """
    candidates = [category for category in content["categories"] if category.get("keypoints")]
    if has_yaml_skeleton and not candidates:
        candidates = content["categories"] or [{"id": None}]
    if len(candidates) > 1:
        used = [annotation.get("category_id") for annotation in content["annotations"] if annotation.get("keypoints")]
        candidates = [category for category in candidates if category.get("id") in used] or candidates
    if not candidates:
        raise HgfastError(f"{path}: no category has keypoints: add their names to the file, or give a skeleton file")
    if len(candidates) > 1:
        names = ", ".join(str(category.get("name", category.get("id"))) for category in candidates)
        raise HgfastError(f"{path}: several categories have keypoints ({names}): keep the annotations of one of them")
    if "id" not in candidates[0]:
        raise HgfastError(f"{path}: the category {candidates[0].get('name')!r} has no id; add it")
    return candidates[0] if content["categories"] else {}


def _check_skeleton(skeleton: Skeleton, category: dict[str, Any], where: str, path: Path) -> None:
    """Raise `HgfastError` if a skeleton has more or fewer joints than the file's category, or its joints in another order."""
    keypoints = category.get("keypoints")
    if not isinstance(keypoints, list) or not keypoints:
        return
    names = [str(name) for name in keypoints]
    if len(names) != len(skeleton.joints):
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


def _read_annotations(
    content: dict[str, Any], category: dict[str, Any], skeleton: Skeleton, pixel_offset: float, path: Path
) -> tuple[list[dict[str, Any]], FloatArray, FloatArray, dict[str, int]]:
    """Select the N usable annotations.

    Returns:
        The annotations, their keypoints (N, K, 3) as x, y in corner coordinates and v, their boxes (N, 4), and the number of the
        other annotations by reason.
    """
    entries = content["annotations"]
    if category and (without_category := next((entry for entry in entries if "category_id" not in entry), None)) is not None:
        raise HgfastError(f"{path}: {_describe(without_category)} has no category_id; add it")
    of_category = [entry for entry in entries if not category or entry["category_id"] == category["id"]]
    not_crowd = [entry for entry in of_category if not entry.get("iscrowd")]
    people = [entry for entry in not_crowd if entry.get("num_keypoints") != 0]
    keypoints = _keypoint_table(people, len(skeleton.joints), path)
    keypoints[..., :2] += pixel_offset
    has_labeled_joint = np.any(keypoints[..., 2] > 0, axis=1)
    people, keypoints = _select(people, has_labeled_joint), keypoints[has_labeled_joint]
    box = _bounding_boxes(people, keypoints, path)
    has_area = np.all(box[:, 2:] > 0, axis=1)
    excluded = {
        "of other categories": len(entries) - len(of_category),
        "crowds": len(of_category) - len(not_crowd),
        "without a labeled joint": len(not_crowd) - len(people),
        "without a box that has an area": int((~has_area).sum()),
    }
    excluded = {reason: number for reason, number in excluded.items() if number}
    if not has_area.any():
        reasons = f" ({_format_counts(excluded)})" if excluded else ""
        raise HgfastError(f"{path} has no annotation to use{reasons}: choose another file")
    return _select(people, has_area), keypoints[has_area], box[has_area], excluded


def _keypoint_table(people: list[dict[str, Any]], joints: int, path: Path) -> FloatArray:
    """Return x, y, v (N, K, 3) as in the file."""
    table = _number_table(people, "keypoints", 3 * joints, f"x, y, v of {joints} joints", path).reshape(-1, joints, 3)
    invalid = ~np.isin(table[..., 2], (0, 1, 2)).all(1)
    if invalid.any():
        row = int(np.argmax(invalid))
        raise HgfastError(f"{path}: {_describe(people[row])} has a v that is not 0, 1 or 2; correct or remove it")
    return table


def _bounding_boxes(people: list[dict[str, Any]], keypoints: FloatArray, path: Path) -> FloatArray:
    """Return the boxes (N, 4) as x, y, width, height; without a `bbox`, the bounding box of the labeled joints."""
    has_bbox = np.array([entry.get("bbox") is not None for entry in people], bool)
    box = np.empty((len(people), 4))
    with_bbox = _select(people, has_bbox)
    box[has_bbox] = _number_table(with_bbox, "bbox", 4, "x, y, width, height", path)
    if (negative := (box[has_bbox][:, 2:] < 0).any(1)).any():
        row = int(np.argmax(negative))
        raise HgfastError(f"{path}: the bbox of {_describe(with_bbox[row])} has a negative size; correct or remove it")
    unlabeled = keypoints[~has_bbox][..., 2:] == 0
    low = np.where(unlabeled, np.inf, keypoints[~has_bbox][..., :2]).min(1)
    high = np.where(unlabeled, -np.inf, keypoints[~has_bbox][..., :2]).max(1)
    box[~has_bbox] = np.concatenate([low, high - low], axis=1)
    return box


def _number_table(people: list[dict[str, Any]], key: str, width: int, meaning: str, path: Path) -> FloatArray:
    """Return the lists under `key` as (N, width) float64; if that fails, raise `HgfastError` that names the first bad one."""
    rows = [entry.get(key) for entry in people]
    if all(isinstance(row, list) and len(row) == width for row in rows) and (table := _to_table(rows, width)) is not None:
        return table
    for entry, row in zip(people, rows):
        if complaint := _row_error(row, width, meaning):
            raise HgfastError(f"{path}: {key} of {_describe(entry)} {complaint}; correct or remove it")
    return np.array(rows, np.float64)


def _to_table(rows: list[Any], width: int) -> FloatArray | None:
    """Convert lists of `width` entries to (N, width) float64; None if an entry is not a number or exceeds `MAX_COORDINATE`."""
    try:
        table = np.array(rows) if rows else np.empty((0, width))
    except ValueError:  # lists in the lists
        return None
    if table.ndim != 2 or table.dtype.kind not in "if":
        return None
    table = table.astype(np.float64)
    return table if (np.abs(table) <= MAX_COORDINATE).all() else None


def _row_error(row: Any, width: int, meaning: str) -> str:
    """Describe the problem of a list of numbers, "" if none."""
    if row is None:
        return f"is missing, wanted {meaning}"
    if not isinstance(row, list):
        return f"is no list, wanted {meaning}"
    if len(row) != width:
        return f"holds {len(row)} numbers, wanted {width}: {meaning}"
    invalid = next(
        (n for n, value in enumerate(row) if type(value) not in (int, float) or not abs(value) <= MAX_COORDINATE), None
    )
    return "" if invalid is None else f"holds {json.dumps(row[invalid])[:40]}, which is not a finite number of pixels"


def _row_ids(people: list[dict[str, Any]], entries: list[dict[str, Any]]) -> NDArray[np.int64]:
    """Return the row (N,) of each of `people` among the file's `entries`: their ids, or their positions if ids are unusable."""
    ids = [entry["id"] for entry in entries]
    if all(type(value) is int and abs(value) < 2**63 for value in ids) and len(set(ids)) == len(ids):
        return np.array([entry["id"] for entry in people], np.int64)
    positions = {id(entry): place for place, entry in enumerate(entries)}
    return np.array([positions[id(entry)] for entry in people], np.int64)


def _image_names(images: list[dict[str, Any]], people: list[dict[str, Any]], path: Path) -> list[str]:
    """Return the file_name of every annotation's image."""
    _check_ids([image.get("id") for image in images], lambda row: f"image number {row}", "id", path)
    _check_ids([person.get("image_id") for person in people], lambda row: _describe(people[row]), "image_id", path)
    names: dict[Any, Any] = {}
    for image in images:
        if image["id"] in names:
            raise HgfastError(f"{path}: two images have the id {image['id']!r}; give each a unique id")
        names[image["id"]] = image.get("file_name")
    for person in people:
        if person["image_id"] not in names:
            raise HgfastError(
                f"{path}: {_describe(person)} belongs to image {person['image_id']!r}, which is not listed; "
                "add the image or remove the annotation"
            )
        if not isinstance(names[person["image_id"]], str):
            raise HgfastError(f"{path}: image {person['image_id']!r} has no file_name; add it")
    return [names[person["image_id"]] for person in people]


def _check_ids(ids: Sequence[Any], describe: Callable[[int], str], key: str, path: Path) -> None:
    invalid = next((row for row, value in enumerate(ids) if not isinstance(value, (int, str))), None)
    if invalid is not None:
        raise HgfastError(f"{path}: {describe(invalid)} has no {key} that is a whole number or text; add it")


def _select(people: list[dict[str, Any]], mask: NDArray[np.bool_]) -> list[dict[str, Any]]:
    return [entry for entry, keep in zip(people, mask) if keep]


def _describe(annotation: dict[str, Any]) -> str:
    return f"annotation {annotation['id']}"


def _format_counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in numbers.items())


def _read(config: DataConfig, split: str) -> Samples:
    if split not in ("train", "valid"):
        raise HgfastError(f"COCO keypoints have the splits train (--annotations) and valid (--valid-annotations), not {split!r}")
    annotations, images = _annotations(config, split), image_folder(config, split)
    if annotations is None:
        flag = "--annotations" if split == "train" else "--valid-annotations"
        raise HgfastError(f"{flag} FILE is missing: a JSON file of COCO keypoints for the split {split}")
    if images is None:
        raise HgfastError("--images DIR is missing: the folder that the file names in the annotations start from")
    return read_coco(
        annotations,
        images,
        skeleton=config.skeleton,
        pixel_offset=config.pixel_offset,
        normalize=config.normalize,
        padding=config.padding,
        skip_missing=config.skip_missing,
        bounds=allowed_roots(config, images),
    )


def _annotations(config: DataConfig, split: str) -> Path | None:
    return config.annotations if split == "train" else config.valid_annotations


def _image_sizes(config: DataConfig, split: str, samples: Samples) -> dict[str, tuple[int, int]]:
    """Return path -> (width, height) of the images whose entry has both; the reader has already validated the file."""
    file, images = _annotations(config, split), image_folder(config, split)
    if file is None or images is None:
        return {}
    sizes = {}
    for image in json.loads(file.read_bytes())["images"]:
        match image:
            case {"file_name": str(name), "width": int(width), "height": int(height)} if width > 0 and height > 0:
                sizes[str(images / name)] = width, height
    return sizes


DATASET = DataSet(
    _read,
    eval_split=lambda config: "valid" if config.valid_annotations else "train",
    splits=lambda config: [name for name in ("train", "valid") if _annotations(config, name) is not None] or ["train"],
    has_box_flags=True,
    describe_row=lambda config, split, row: f"{_annotations(config, split)}, annotation {row}",
    image_sizes=_image_sizes,
)
