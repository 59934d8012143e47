"""Reader for COCO keypoint annotations (cocodataset.org/#format-data), anyone's own included, into `Samples`.

A sample is an annotation, so that a picture may have several. Keypoints are x, y, v: v 0 is not labelled, 1 occluded, 2
visible, and both 1 and 2 are trained on. Their x, y are 0-based pixel numbers, hence a pixel_offset of 0.5; files that were
converted from FreiHAND hold corner coordinates already (0). `bbox` is x, y, width, height in corner coordinates in either
case: nothing is added. The skeleton is the category's, or a YAML file's (`pipelines.skeleton_files`). `Samples.row` is the
annotation's id; in a file in which an id is missing, not unique or no whole number, it is the place in the list, from 0.
What may enter: this layout, nothing after it.
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

from hgfast.errors import HgfastError
from hgfast.skeletons import Skeleton
from pipelines.pictures import INSIDE, Bounds, find_pictures
from pipelines.samples import Samples
from pipelines.skeleton_files import joint_number, read_skeleton, skeleton_of_category

Array = NDArray[np.float64]
PIXEL_OFFSET = 0.5
LARGEST = 1e9  # pixels; what is larger, or not a number at all, is a broken file


@dataclass(frozen=True)
class CocoSamples(Samples):
    """`Samples`, and how many annotations are no samples: `left_out` maps the reason, in words, to their number."""

    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def in_words(self) -> str:
        reasons = _listed(self.left_out)
        return super().in_words + (f"; left out: {reasons}" if reasons else "")


def read_coco(
    annotations: Path,
    images: Path,
    *,
    skeleton: Path | None = None,
    pixel_offset: float = PIXEL_OFFSET,
    normalise: str = "box",
    padding: float = 1.25,
    skip_missing: bool = False,
    bounds: Bounds = INSIDE,
) -> CocoSamples:
    """The annotations of one file, one sample each, but for crowds, those without a labelled joint or a box with an area.

    The square to crop has the middle of the box and `padding` times its longer side. Where an annotation has no `bbox`, the
    box of its labelled joints stands in. Samples of one picture form a group.

    Args:
        annotations: the JSON file.
        images: the folder that `file_name` starts from; it may lead into sub-folders.
        skeleton: a YAML file that names the joints, in the order of the file's, instead of the category.
        pixel_offset: what leads from the file's x and y to corner coordinates.
        normalise: the length in pixels that errors are divided by (`Samples.reference`): "box", the box's longer side, or two
            joints, "left_shoulder,right_hip" say, their distance. Where one of them is not labelled, or both are in one
            place, it is NaN: such samples are trained on, and PCK leaves them out.
        padding: side of the square in longer sides of the box.
        skip_missing: leave out samples whose picture is not there, instead of refusing.
        bounds: where pictures may lie.

    Raises:
        HgfastError: files missing or broken, names that do not exist; the message says where and what to do.
    """
    if not (0 < padding < math.inf and math.isfinite(pixel_offset)):
        raise HgfastError(f"the padding ({padding:g}) must be above 0 and the pixel offset ({pixel_offset:g}) finite")
    if not images.is_dir():
        raise HgfastError(f"there is no folder of pictures {images}: name the one that every file_name starts from")
    content = _read(annotations)
    described = None if skeleton is None else read_skeleton(skeleton)
    category = _choose_category(content, annotations, described is not None)
    found = skeleton_of_category(category, annotations) if described is None else described
    if described is not None:
        _check_fit(described, category, f"the skeleton {skeleton}", annotations)
    ends = _ends(normalise, found)
    people, keypoints, box, left_out = _read_people(content["annotations"], category, found, pixel_offset, annotations)
    names = _picture_names(content["images"], people, annotations)
    advice = "put them there, or name the folder that file_name starts from"
    paths, there = find_pictures(images, names, skip_missing, advice, bounds, lambda n: f"{_called(people[n])} of {annotations}")
    longer = box[:, 2:].max(1)
    points, labelled = keypoints[..., :2], keypoints[..., 2] > 0
    reference = longer if ends is None else _between(points, labelled, *ends)
    if not np.isfinite(reference[there]).any():
        raise HgfastError(f"{annotations}: no sample has both joints {normalise!r} labelled, apart: normalise by 'box'")
    return CocoSamples(
        paths=paths,
        centre=(box[:, :2] + box[:, 2:] / 2)[there],
        side=padding * longer[there],
        keypoints=points[there],
        labelled=labelled[there],
        reference=reference[there],
        group=np.unique(names, return_inverse=True)[1][there].astype(np.int64),
        row=_rows(people, content["annotations"])[there],
        skeleton=found,
        pixel_offset=pixel_offset,
        skipped=int((~there).sum()),
        left_out=left_out,
    )


def _read(path: Path) -> dict[str, Any]:
    """The file's content; its lists are lists of mappings, and annotations without an id are numbered."""
    if not path.is_file():
        raise HgfastError(f"there is no file of COCO annotations {path}: name the JSON file that lists images and annotations")
    try:
        content: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise HgfastError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise HgfastError(f"{path} is not valid JSON ({error}): export it again") from error
    if not isinstance(content, dict):
        raise HgfastError(f"{path} is no file of COCO annotations: wanted a mapping with images, annotations and categories")
    content.setdefault("categories", [])
    for key in ("images", "annotations", "categories"):
        if key not in content:
            raise HgfastError(f"{path} has no {key!r}: it is no file of COCO annotations, or only a part of one")
        if not isinstance(content[key], list) or not all(isinstance(entry, dict) for entry in content[key]):
            raise HgfastError(f"{path}: {key} must be a list of mappings; export it again")
    for row, annotation in enumerate(content["annotations"]):
        annotation.setdefault("id", f"number {row}")
    return content


def _choose_category(content: dict[str, Any], path: Path, described: bool) -> dict[str, Any]:
    """The one category with keypoints, or of several the one that annotations are of.

    Where a skeleton is `described` elsewhere, the category need not name its keypoints, and {} stands for none at all.
    """
    candidates = [category for category in content["categories"] if category.get("keypoints")]
    if described and not candidates:
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


def _check_fit(described: Skeleton, category: dict[str, Any], what: str, path: Path) -> None:
    """Refuse a skeleton that has another number of joints than the file's category, or its joints in another order."""
    own = category.get("keypoints")
    if not isinstance(own, list) or not own:
        return
    own = [str(name) for name in own]
    if len(own) != len(described.joints):
        raise HgfastError(f"{what} has {len(described.joints)} joints, {path} has {len(own)}: name them all, in its order")
    if list(described.joints) != own and set(described.joints) == set(own):
        raise HgfastError(f"{what} has the joints of {path} in another order: use the order {', '.join(own)}")


def _ends(normalise: str, skeleton: Skeleton) -> tuple[int, int] | None:
    """The numbers of the two joints whose distance normalises errors; None: the box does."""
    if normalise == "box":
        return None
    names = [name.strip() for name in normalise.split(",")]
    if len(names) != 2 or names[0] == names[1]:
        raise HgfastError(f"errors are normalised by 'box' or by two joints such as 'left_shoulder,right_hip', not {normalise!r}")
    one, other = (joint_number(name, skeleton.joints, "the length that normalises errors") for name in names)
    return one, other


def _between(points: Array, labelled: NDArray[np.bool_], one: int, other: int) -> Array:
    """The distance (N,) of two joints, NaN where it is not known or 0."""
    length = np.linalg.norm(points[:, one] - points[:, other], axis=-1)
    return np.where(labelled[:, one] & labelled[:, other] & (length > 0), length, np.nan)


def _read_people(
    entries: list[dict[str, Any]], category: dict[str, Any], skeleton: Skeleton, pixel_offset: float, path: Path
) -> tuple[list[dict[str, Any]], Array, Array, dict[str, int]]:
    """The N annotations to use, their keypoints (N, K, 3) as x, y in corner coordinates and v, their boxes (N, 4), and how
    many others there are, by reason."""
    if category and (stray := next((entry for entry in entries if "category_id" not in entry), None)) is not None:
        raise HgfastError(f"{path}: {_called(stray)} has no category_id; add it")
    numbers = {"of other categories": 0, "crowds": 0, "without a labelled joint": 0, "without a box that has an area": 0}
    ours = [entry for entry in entries if not category or entry["category_id"] == category["id"]]
    single = [entry for entry in ours if not entry.get("iscrowd")]
    people = [entry for entry in single if entry.get("num_keypoints") != 0]
    keypoints = _keypoints(people, len(skeleton.joints), path)
    keypoints[..., :2] += pixel_offset
    some = np.any(keypoints[..., 2] > 0, axis=1)
    people, keypoints = _kept(people, some), keypoints[some]
    box = _boxes(people, keypoints, path)
    real = np.all(box[:, 2:] > 0, axis=1)
    numbers["of other categories"] = len(entries) - len(ours)
    numbers["crowds"] = len(ours) - len(single)
    numbers["without a labelled joint"] = len(single) - len(people)
    numbers["without a box that has an area"] = int((~real).sum())
    if not real.any():
        reasons = _listed(numbers)
        raise HgfastError(f"{path} has no annotation to use{f' ({reasons})' if reasons else ''}: choose another file")
    return _kept(people, real), keypoints[real], box[real], {reason: n for reason, n in numbers.items() if n}


def _keypoints(people: list[dict[str, Any]], joints: int, path: Path) -> Array:
    """(N, K, 3) x, y, v as in the file."""
    table = _numbers(people, "keypoints", 3 * joints, f"x, y, v of {joints} joints", path).reshape(-1, joints, 3)
    strange = ~np.isin(table[..., 2], (0, 1, 2)).all(1)
    if strange.any():
        row = int(np.argmax(strange))
        raise HgfastError(f"{path}: {_called(people[row])} has a v that is not 0, 1 or 2; correct or remove it")
    return table


def _boxes(people: list[dict[str, Any]], keypoints: Array, path: Path) -> Array:
    """(N, 4) x, y, width, height; where the file has none, those of the labelled joints."""
    own = np.array([entry.get("bbox") is not None for entry in people], bool)
    box = np.empty((len(people), 4))
    given = _kept(people, own)
    box[own] = _numbers(given, "bbox", 4, "x, y, width, height", path)
    if (negative := (box[own][:, 2:] < 0).any(1)).any():
        row = int(np.argmax(negative))
        raise HgfastError(f"{path}: the bbox of {_called(given[row])} has a negative size; correct or remove it")
    hidden = keypoints[~own][..., 2:] == 0
    low = np.where(hidden, np.inf, keypoints[~own][..., :2]).min(1)
    high = np.where(hidden, -np.inf, keypoints[~own][..., :2]).max(1)
    box[~own] = np.concatenate([low, high - low], axis=1)
    return box


def _numbers(people: list[dict[str, Any]], key: str, width: int, meaning: str, path: Path) -> Array:
    """The lists under `key` as (N, width) float64. Only where that fails, each is looked at, to name the first bad one."""
    rows = [entry.get(key) for entry in people]
    if all(isinstance(row, list) and len(row) == width for row in rows) and (table := _as_table(rows, width)) is not None:
        return table
    for entry, row in zip(people, rows):
        if complaint := _complaint(row, width, meaning):
            raise HgfastError(f"{path}: {key} of {_called(entry)} {complaint}; correct or remove it")
    return np.array(rows, np.float64)


def _as_table(rows: list[Any], width: int) -> Array | None:
    """Lists of `width` entries as (N, width) float64, or None where an entry is no number or beyond `LARGEST`."""
    try:
        table = np.array(rows) if rows else np.empty((0, width))
    except ValueError:  # lists in the lists
        return None
    if table.ndim != 2 or table.dtype.kind not in "if":
        return None
    table = table.astype(np.float64)
    return table if (np.abs(table) <= LARGEST).all() else None


def _complaint(row: Any, width: int, meaning: str) -> str:
    """What is wrong with a list of numbers, or nothing."""
    if row is None:
        return f"is missing, wanted {meaning}"
    if not isinstance(row, list):
        return f"is no list, wanted {meaning}"
    if len(row) != width:
        return f"holds {len(row)} numbers, wanted {width}: {meaning}"
    strange = next((n for n, value in enumerate(row) if type(value) not in (int, float) or not abs(value) <= LARGEST), None)
    return "" if strange is None else f"holds {json.dumps(row[strange])[:40]}, which is no finite number of pixels"


def _rows(people: list[dict[str, Any]], entries: list[dict[str, Any]]) -> NDArray[np.int64]:
    """The number (N,) of each of `people`, all of them among the file's `entries`: their ids, or where these will not do their
    places."""
    ids = [entry["id"] for entry in entries]
    if all(type(value) is int and abs(value) < 2**63 for value in ids) and len(set(ids)) == len(ids):
        return np.array([entry["id"] for entry in people], np.int64)
    places = {id(entry): place for place, entry in enumerate(entries)}
    return np.array([places[id(entry)] for entry in people], np.int64)


def _picture_names(images: list[dict[str, Any]], people: list[dict[str, Any]], path: Path) -> list[str]:
    """The file_name of every annotation's picture."""
    _check_ids([image.get("id") for image in images], lambda row: f"image number {row}", "id", path)
    _check_ids([person.get("image_id") for person in people], lambda row: _called(people[row]), "image_id", path)
    names: dict[Any, Any] = {}
    for image in images:
        if image["id"] in names:
            raise HgfastError(f"{path}: two images have the id {image['id']!r}; give each an id of its own")
        names[image["id"]] = image.get("file_name")
    for person in people:
        if person["image_id"] not in names:
            raise HgfastError(
                f"{path}: {_called(person)} belongs to image {person['image_id']!r}, which is not listed; "
                "add the image or remove the annotation"
            )
        if not isinstance(names[person["image_id"]], str):
            raise HgfastError(f"{path}: image {person['image_id']!r} has no file_name; add it")
    return [names[person["image_id"]] for person in people]


def _check_ids(ids: Sequence[Any], called: Callable[[int], str], key: str, path: Path) -> None:
    strange = next((row for row, value in enumerate(ids) if not isinstance(value, (int, str))), None)
    if strange is not None:
        raise HgfastError(f"{path}: {called(strange)} has no {key} that is a whole number or text; add it")


def _kept(people: list[dict[str, Any]], mask: NDArray[np.bool_]) -> list[dict[str, Any]]:
    return [entry for entry, keep in zip(people, mask) if keep]


def _called(annotation: dict[str, Any]) -> str:
    return f"annotation {annotation['id']}"


def _listed(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in numbers.items() if number)
