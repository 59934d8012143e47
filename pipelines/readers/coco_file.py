"""Parse a COCO file (cocodataset.org/#format-data), as annotation tools really write it, into columns.

Ids may be text or floats that are whole, keypoints may be nested in triples, and numbers may be text; coordinates of unlabeled
joints may be null or NaN. What is used although it is odd causes a note, what cannot be understood raises.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgfast.errors import HgfastError
from hgfast.geometry import FloatArray
from hgfast.pipelines.readers.foreign_formats import describe_foreign_file

MAX_COORDINATE = 1e9
"""Pixels; a larger number means a broken file."""
CROWD_VALUES: dict[Any, bool] = {None: False, 0: False, 1: True, "": False, "0": False, "1": True, "false": False, "true": True}
"""Values of `iscrowd`, text in lower case; False and True equal 0 and 1."""

Id = int | str
Entry = dict[str, Any]


@dataclass(frozen=True)
class CocoFile:
    """The lists of a COCO file. Ids are normalized: `normalize_id`.

    images: id -> file_name (None if it has none), width and height (NaN if unknown). annotations: the A entries as they are in
    the file, and in the same order their image_ids and category_ids (None if there is none).
    """

    path: Path
    images: dict[Id, tuple[str | None, float, float]]
    categories: list[Entry]
    annotations: list[Entry]
    image_ids: list[Id]
    category_ids: list[Id | None]
    notes: list[str] = field(default_factory=list)

    def annotation_name(self, row: int) -> str:
        """Return the name of an annotation in messages."""
        number = self.annotations[row].get("id")
        return f"annotation number {row}" if number is None else f"annotation {number}"


def read_coco_file(path: Path) -> CocoFile:
    """Read the file. Raises `HgfastError` if it is missing or broken, or of another format."""
    if not path.is_file():
        raise HgfastError(f"there is no file of COCO annotations {path}: name the JSON file that lists images and annotations")
    collects = gc.isenabled()
    gc.disable()  # the collector would visit millions of new objects again and again, for a third of the time
    try:
        content = json.loads(_read_text(path), object_hook=_without_outlines)
    except OSError as error:
        raise HgfastError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise HgfastError(describe_foreign_file(path)) from error
    finally:
        if collects:
            gc.enable()
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise HgfastError(describe_foreign_file(path, content))
    content.setdefault("categories", [])  # a file with a skeleton of its own may lack them
    for key in ("images", "annotations", "categories"):
        if not isinstance(content[key], list) or not all(isinstance(entry, dict) for entry in content[key]):
            raise HgfastError(f"{path}: {key} must be a list of mappings; export it again")
    annotations, notes = content["annotations"], list[str]()
    file = CocoFile(path, {}, content["categories"], annotations, [], [], notes)
    _read_images(content["images"], file)
    image_ids = [normalize_id(entry.get("image_id")) for entry in annotations]
    _require_ids(image_ids, file.annotation_name, "image_id", path)
    file.image_ids.extend(value for value in image_ids if value is not None)
    file.category_ids.extend(normalize_id(entry.get("category_id")) for entry in annotations)
    return file


def _read_text(path: Path) -> str:
    """Return the file's text; `json.loads` would hold its bytes, too. Raises OSError, or ValueError if it is no text."""
    content = path.read_bytes()
    return content.decode(json.detect_encoding(content), "surrogatepass")


def _without_outlines(entry: Entry) -> Entry:
    """Remove the outline of an annotation, most of a file's numbers, as soon as it is parsed: it is not used."""
    entry.pop("segmentation", None)
    return entry


def normalize_id(value: Any) -> Id | None:
    """Return the id as it is compared: a whole number if it is one, also as float or text, else the text; None if it is no id."""
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdecimal() and len(value) < 19 and str(int(value)) == value else value
    return None


def _read_images(entries: list[Entry], file: CocoFile) -> None:
    """Fill `file.images`. An image may be listed twice under one id."""
    ids = [normalize_id(entry.get("id")) for entry in entries]
    _require_ids(ids, "image number {}".format, "id", file.path)
    repeated = 0
    for key, entry in zip(ids, entries):
        assert key is not None
        name = entry.get("file_name")
        if name is not None and not isinstance(name, str):
            raise HgfastError(f"{file.path}: the file_name of image {key!r} is {json.dumps(name)[:40]}, not text; correct it")
        if key in file.images:
            if file.images[key][0] != name:
                raise HgfastError(f"{file.path}: two images have the id {key!r}; give each a unique id")
            repeated += 1
        file.images[key] = (name, *_image_size(entry))
    if repeated:
        file.notes.append(f"{repeated} images are listed more than once under one id")


def _image_size(entry: Entry) -> tuple[float, float]:
    """Return width and height, NaN if one of them is not a number above 0."""
    size = [_number(entry.get(key)) for key in ("width", "height")]
    width, height = (value if value is not None and 0 < value <= MAX_COORDINATE else math.nan for value in size)
    return (width, height) if width == width and height == height else (math.nan, math.nan)


def _require_ids(ids: Sequence[Id | None], describe: Callable[[int], str], key: str, path: Path) -> None:
    if None in ids:
        row = list(ids).index(None)
        raise HgfastError(f"{path}: {describe(row)} has no {key} that is a whole number or text; add it")


def image_names(file: CocoFile, rows: Sequence[int]) -> list[str]:
    """Return the file_name of the image of each of the annotations `rows`. Raises `HgfastError` if one is not listed or named."""
    names = []
    for row in rows:
        key = file.image_ids[row]
        if key not in file.images:
            raise HgfastError(
                f"{file.path}: {file.annotation_name(row)} belongs to image {key!r}, which is not listed; "
                "add the image or remove the annotation"
            )
        name = file.images[key][0]
        if name is None:
            raise HgfastError(f"{file.path}: image {key!r} has no file_name; add it")
        names.append(name)
    return names


def is_crowd(file: CocoFile, row: int) -> bool:
    """Return whether an annotation is marked as a crowd. Raises `HgfastError` if the mark is neither yes nor no."""
    value = file.annotations[row].get("iscrowd")
    try:
        return CROWD_VALUES[value.lower() if isinstance(value, str) else value]
    except (KeyError, TypeError):
        shown = json.dumps(value)[:40]
        raise HgfastError(f"{file.path}: iscrowd of {file.annotation_name(row)} is {shown}, wanted 0 or 1; correct it") from None


def annotation_ids(file: CocoFile, rows: Sequence[int]) -> NDArray[np.int64]:
    """Return the number (N,) of each of the annotations `rows`: their ids, or their positions in the file if ids are unusable."""
    ids = [normalize_id(entry.get("id")) for entry in file.annotations]
    if all(isinstance(value, int) and abs(value) < 2**63 for value in ids) and len(set(ids)) == len(ids):
        return np.array([ids[row] for row in rows], np.int64)
    return np.array(rows, np.int64)


def keypoint_table(file: CocoFile, rows: Sequence[int], joints: int) -> FloatArray:
    """Return x, y, v (N, K, 3) of the annotations `rows` as in the file.

    Coordinates that are null, not finite or too large count as 0 if v is 0. Raises `HgfastError` for the first list that is of
    another length or holds something else, and for a v that is not 0, 1 or 2.
    """
    meaning = f"x, y, v of {joints} joints"
    table = _number_table(file, rows, "keypoints", 3 * joints, meaning).reshape(-1, joints, 3)
    v = table[..., 2]
    v[np.isnan(table).all(-1)] = 0  # a joint without any value
    if (invalid := ~np.isin(v, (0, 1, 2)).all(1)).any():
        row = int(np.argmax(invalid))
        raise HgfastError(f"{file.path}: {file.annotation_name(rows[row])} has a v that is not 0, 1 or 2; correct or remove it")
    unusable = ~(np.abs(table[..., :2]) <= MAX_COORDINATE)
    if (labeled := unusable.any(-1) & (v > 0)).any():
        row = int(np.argmax(labeled.any(1)))
        column = int(np.argmax((unusable[row] & (v[row] > 0)[:, None]).ravel()))
        value = _flatten(file.annotations[rows[row]]["keypoints"])[column // 2 * 3 + column % 2]
        raise HgfastError(
            f"{file.path}: keypoints of {file.annotation_name(rows[row])} holds {json.dumps(value)[:40]}, which is not a finite "
            "number of pixels, for a labeled joint (v above 0); correct or remove it"
        )
    table[..., :2][unusable] = 0
    return table


def box_table(file: CocoFile, rows: Sequence[int]) -> FloatArray:
    """Return the four numbers (N, 4) of each `bbox` of the annotations `rows`. Raises `HgfastError` for the first bad one."""
    table = _number_table(file, rows, "bbox", 4, "x, y, width, height")
    if (unusable := ~(np.abs(table) <= MAX_COORDINATE).all(1)).any():
        row = int(np.argmax(unusable))
        value = file.annotations[rows[row]]["bbox"][int(np.argmax(~(np.abs(table[row]) <= MAX_COORDINATE)))]
        raise HgfastError(
            f"{file.path}: bbox of {file.annotation_name(rows[row])} holds {json.dumps(value)[:40]}, which is not a finite "
            "number of pixels; correct or remove it"
        )
    return table


def _number_table(file: CocoFile, rows: Sequence[int], key: str, width: int, meaning: str) -> FloatArray:
    """Return the lists under `key` as (N, width) float64, NaN for null. Raises `HgfastError` for the first bad one."""
    lists = [file.annotations[row].get(key) for row in rows]
    if not lists:
        return np.empty((0, width))
    if all(type(values) is list and len(values) == width for values in lists):
        try:
            table = np.array(lists)
        except ValueError:  # lists in the lists
            table = np.empty(0)
        if table.ndim == 2 and table.dtype.kind in "if":
            return table.astype(np.float64)
    result = np.empty((len(lists), width))
    for number, (row, values) in enumerate(zip(rows, lists)):
        numbers = _number_list(values, width, meaning)
        if isinstance(numbers, str):
            raise HgfastError(f"{file.path}: {key} of {file.annotation_name(row)} {numbers}; correct or remove it")
        result[number] = numbers
    return result


def _number_list(values: Any, width: int, meaning: str) -> list[float] | str:
    """Return the numbers of a list, NaN for null, or the description of what is wrong with it. Triples in it are joined."""
    if values is None:
        return f"is missing, wanted {meaning}"
    if not isinstance(values, list):
        return f"is no list, wanted {meaning}"
    values = _flatten(values)
    if len(values) != width:
        without_v = " (x and y of each joint without v?)" if len(values) * 3 == width * 2 else ""
        return f"holds {len(values)} numbers{without_v}, wanted {width}: {meaning}"
    numbers = []
    for value in values:
        number = math.nan if value is None else _number(value)
        if number is None:
            return f"holds {json.dumps(value)[:40]}, which is not a finite number of pixels"
        numbers.append(number)
    return numbers


def _flatten(values: list[Any]) -> list[Any]:
    """Join triples: [[x, y, v], …] becomes [x, y, v, …]."""
    nested = values and all(isinstance(part, list) and len(part) == 3 for part in values)
    return [value for part in values for value in part] if nested else values


def _number(value: Any) -> float | None:
    """Return a number, or the number that a text holds; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
