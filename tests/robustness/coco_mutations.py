"""Mutate valid COCO files as annotation tools and people do: each must be read right, be warned about, or be refused.

    python -m tests.robustness.coco_mutations --seed 0 --count 10000 --json coco-mutations.json

A case draws people or animals whose joints lie in their boxes and whose boxes lie in their images, writes them as a COCO file,
applies one kind of mutation, and reads the file as training does. Because the mutation knows the true coordinates, it states what
may happen: the samples are the true ones ("right"), a warning names the reason ("warned"), or an error does ("refused"). Anything
else is a failure: other coordinates, boxes, edges or images without such a warning, an error for another reason, or an exception
that is no `HgfastError`. "unnoticed" counts files whose wrong numbers are as plausible as the true ones: every joint lies in its
image and in the square around its box, and no box is tiny, huge or far outside (`is_plausible`). The seed and the number of a
case determine it; `--first N --count 1` repeats one. The exit code is 1 if a case failed.
"""

from __future__ import annotations

import io
import json
import math
import os
import random
import re
import shutil
import tempfile
import time
import unicodedata
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from hgfast.cli import parse
from hgfast.config import DataConfig
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError
from hgfast.fileio.files import prepare_file, to_json, write_text
from hgfast.pipelines.readers.coco import DATASET
from hgfast.pipelines.readers.skeleton_yaml import sides_problem
from hgfast.pipelines.samples import Samples

Array = NDArray[np.float64]
Content = dict[str, Any]
SIZES = ((640, 480), (480, 640), (320, 240), (240, 320), (1280, 720), (720, 1280), (500, 500))
"""Width and height of the images."""
IMAGES_PER_SIZE = 8
ORIENTATIONS = (6, 8, 5, 7)
"""EXIF orientations of the rotated images of each size."""
SKELETONS: dict[str, tuple[list[str], list[list[int]]]] = {
    "person": (
        [
            *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow"),
            *("right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle"),
            "right_ankle",
        ],
        [[1, 2], [1, 3], [16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9], [8, 10]],
    ),
    "dog": (
        ["nose", "neck", "tail", "left_front_paw", "right_front_paw", "left_back_paw", "right_back_paw"],
        [[1, 2], [2, 3], [2, 4], [2, 5], [3, 6], [3, 7]],
    ),
    "fly": (["head", "thorax", "abdomen", "left_wing", "right_wing"], [[1, 2], [2, 3], [2, 4], [2, 5]]),
}
OUTCOMES = ("right", "warned", "refused", "unnoticed", "failed")

# Words that the reason must contain; each pattern is searched without regard to case.
OUTSIDE = r"outside|beyond|not touch"
NORMALIZED = r"normali[sz]ed|from 0 to 1|between 0 and 1"
PERCENT = r"percent"
CORNERS = r"xyxy|corner"
CENTERS = r"cxcy|cent(er|re)"
BOX_SIZE = r"pixels|tiny|larger|as large"
FALSE_ALARM = r"outside|normali|percent|corner|center|larger|tiny|few pixels|twice|same|EXIF"
REPEATED = r"twice|double|duplicate|repeat|same|identical"


@dataclass
class Person:
    """What is true of one annotation: its image's path in the folder, points (K, 2) and v (K,) as in the file, and its box as x,
    y, width, height; None if the box is that of the labeled joints."""

    path: str
    points: Array
    v: NDArray[np.int64]
    box: Array | None


@dataclass
class Expectation:
    """What may happen to a mutated file.

    right: whether its samples may be exactly `Case.people`. warned, refused: pattern of the words with which a warning suffices,
    and with which an error does; "" if neither does. needs_warning: whether true samples need the warning too. plausible: whether
    nothing shows that the numbers are wrong.
    """

    right: bool = True
    warned: str = ""
    refused: str = ""
    needs_warning: bool = False
    plausible: bool = False


@dataclass
class Case:
    """A COCO file with the truth about it.

    file: content of the file. people: the true samples, in the order of the annotations. links: path in the folder of images ->
    name of the image it is a link to. flags: fields of `DataConfig`. edges: the true edges, from 0. text: writes the content.
    """

    rng: random.Random
    file: Content
    people: list[Person]
    links: dict[str, str]
    edges: set[frozenset[int]]
    pool: ImagePool
    folder: Path
    flags: dict[str, Any] = field(default_factory=dict)
    text: Callable[[Content], bytes] = lambda content: json.dumps(content).encode()

    @property
    def annotations(self) -> list[Content]:
        return self.file["annotations"]

    @property
    def joints(self) -> int:
        return len(self.file["categories"][0]["keypoints"])

    def entry(self, person: int) -> Content:
        """Return the image entry of an annotation."""
        return next(image for image in self.file["images"] if image["id"] == self.annotations[person]["image_id"])

    def size(self, person: int) -> Array:
        """Return width and height of a person's image."""
        return np.array(self.pool.sizes[self.links[self.people[person].path]], float)

    def some(self, least: int = 1) -> list[int]:
        """Return the positions of all, half or a few annotations."""
        count = len(self.annotations)
        number = self.rng.choice((count, max(least, count // 2), least))
        return sorted(self.rng.sample(range(count), number))

    def drop(self, people: Iterable[int]) -> None:
        """Expect no samples of these people."""
        gone = set(people)
        self.people = [person for number, person in enumerate(self.people) if number not in gone]


class ImagePool:
    """Images on disk, written once, to which cases link. `sizes`: name -> width and height of the upright image."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sizes: dict[str, tuple[int, int]] = {}
        rng = np.random.default_rng(0)
        for width, height in SIZES:
            for number in range(IMAGES_PER_SIZE):
                blocks = rng.integers(0, 255, (height // 40, width // 40, 3), dtype=np.uint8)
                image = Image.fromarray(blocks).resize((width, height))
                self._write(f"{width}x{height}-{number}.jpg", image, 1)
                if number < len(ORIENTATIONS):
                    self._write(f"{width}x{height}-{number}-exif.jpg", image, ORIENTATIONS[number])
                self._write(f"{width}x{height}-{number}-half.jpg", image.resize((width // 2, height // 2)), 1)

    def _write(self, name: str, image: Image.Image, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        stream = io.BytesIO()
        image.save(stream, "JPEG", exif=exif)
        (self.folder / name).write_bytes(stream.getvalue())
        width, height = image.size
        self.sizes[name] = (height, width) if orientation > 4 else (width, height)


# ---- valid files ----


def draw_case(rng: random.Random, pool: ImagePool, folder: Path) -> Case:
    """Draw a valid file: one or several people in each of three to eight images, with joints that fill their boxes."""
    name = rng.choice(list(SKELETONS))
    joints, edges = SKELETONS[name]
    size = rng.choice(SIZES)
    category_ids = rng.choice(([1], [1], [7], [3, 8]))
    categories = [
        {"id": number, "name": f"{name}{number}" if len(category_ids) > 1 else name, "keypoints": joints, "skeleton": edges}
        for number in category_ids
    ]
    style = rng.choice(("{:06d}.jpg", "train/{:03d}.jpg", "photo {}.jpg", "größe-{}.JPG", "a/b/IMG_{}.jpeg"))
    count, first, crowded = rng.randint(3, IMAGES_PER_SIZE), rng.choice((0, 1, 1000)), rng.random() < 0.5
    whole_numbers = rng.random() < 0.5
    images, annotations, people, links = [], [], list[Person](), dict[str, str]()
    for number in range(count):
        path = style.format(number + 1)
        links[path] = f"{size[0]}x{size[1]}-{number}.jpg"
        images.append({"id": first + number, "file_name": path, "width": size[0], "height": size[1]})
        for _ in range(rng.randint(1, 4) if crowded else 1 + (number < 3)):
            person = draw_person(rng, len(joints), path, size, len(people), whole_numbers)
            people.append(person)
            annotations.append(annotation(person, 10 + 3 * len(annotations), first + number, rng.choice(category_ids)))
    if rng.random() < 0.5:
        order = rng.sample(range(len(people)), len(people))
        annotations, people = [annotations[n] for n in order], [people[n] for n in order]
    file = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
    flags = {"pixel_offset": rng.choice((0.5, 0.5, 0.0, -0.5)), "padding": rng.choice((1.25, 1.25, 1.5))}
    return Case(rng, file, people, links, {frozenset((a - 1, b - 1)) for a, b in edges}, pool, folder, flags)


def draw_person(rng: random.Random, joints: int, path: str, size: tuple[int, int], number: int, whole_numbers: bool) -> Person:
    """Draw joints that reach close to all sides of their box. The first two people of a file lie in opposite corners."""
    draw = np.random.default_rng(rng.getrandbits(63))
    room = np.array(size, float)
    extent = room * draw.uniform(0.15, 0.45, 2)
    corner = (draw.uniform(0, 1, 2) if number > 1 else np.full(2, 0.02 + 0.96 * number)) * (room - extent - 2) + 1
    v = draw.choice(3, joints, p=(0.25, 0.25, 0.5))
    v[draw.choice(joints, 4, replace=False)] = 2
    labeled = draw.uniform(0, 1, (joints, 2))
    low, high = labeled[v > 0].min(0), labeled[v > 0].max(0)
    margin = draw.uniform(0.03, 0.12)
    inside = margin + (1 - 2 * margin) * (labeled - low) / (high - low)
    points = np.round(corner + inside * extent, 0 if whole_numbers else 2)
    points[v == 0] = 0
    return Person(path, points, v, np.round(np.concatenate([corner, extent]), 2))


def annotation(person: Person, number: int, image: int, category: int) -> Content:
    """Return a person as a COCO annotation."""
    assert person.box is not None
    table = np.column_stack([person.points, person.v])
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "iscrowd": 0,
        "area": round(float(person.box[2:].prod()), 1),
        "bbox": person.box.tolist(),
        "num_keypoints": int((person.v > 0).sum()),
        "keypoints": [int(value) if value == int(value) else value for value in table.ravel().tolist()],
    }


# ---- plausibility, as a person would judge the numbers in the file ----


def is_plausible(case: Case, person: int) -> bool:
    """Return True if an annotation in the file looks right: its labeled joints lie in its image and in the square around its box,
    and the box is neither a few pixels small nor far larger than the joints, nor reaches far beyond the image."""
    entry = case.annotations[person]
    table = np.array(entry["keypoints"], float).reshape(-1, 3)
    points = table[table[:, 2] > 0, :2]
    size, box = case.size(person), np.array(entry["bbox"], float)
    center, half = box[:2] + box[2:] / 2, case.flags["padding"] * box[2:].max() / 2
    joints_inside = (points >= -1).all() and (points <= size + 1).all()
    in_square = (np.abs(points - center) <= half + 1).all()
    box_inside = (box[:2] >= -0.1 * size).all() and (box[:2] + box[2:] <= 1.1 * size).all()
    ratio = box[2:].max() / max(1e-9, (points.max(0) - points.min(0)).max())
    return bool(joints_inside and in_square and box_inside and box[2:].max() > 8 and ratio < 4)


def set_points(case: Case, person: int, points: Array) -> None:
    """Replace the coordinates of an annotation's labeled joints in the file."""
    entry = case.annotations[person]
    table = np.array(entry["keypoints"], float).reshape(-1, 3)
    labeled = table[:, 2] > 0
    table[labeled, :2] = points[labeled]
    entry["keypoints"] = table.ravel().tolist()


def moved(case: Case, chosen: Sequence[int], words: str, obvious: bool = False) -> Expectation:
    """Expect a warning or an error about changed numbers, unless they are plausible in every changed annotation.

    With `obvious`, the change of a whole file shows in all annotations together even if each of them is plausible.
    """
    plausible = all(is_plausible(case, person) for person in chosen)
    everything = len(chosen) == len(case.annotations)
    reason = f"{words}|{OUTSIDE}|{BOX_SIZE}"
    return Expectation(right=False, warned=reason, refused=reason, plausible=plausible and not (obvious and everything))


# ---- kinds of mutations ----

Mutation = Callable[[Case], Expectation]
KINDS: dict[str, Mutation] = {}


def kind(name: str) -> Callable[[Mutation], Mutation]:
    """Register a mutation."""

    def register(mutation: Mutation) -> Mutation:
        assert name not in KINDS, name
        KINDS[name] = mutation
        return mutation

    return register


@kind("nothing changed")
def _nothing(case: Case) -> Expectation:
    return Expectation()


def scale_numbers(case: Case, what: str, factor: Callable[[Array], Array], words: str, whole: bool = False) -> Expectation:
    """Multiply points, boxes or both by a factor of the image's width and height."""
    chosen = list(range(len(case.annotations))) if whole else case.some()
    for person in chosen:
        scale = factor(case.size(person))
        if what != "boxes":
            set_points(case, person, case.people[person].points * scale)
        if what != "points":
            box = case.annotations[person]["bbox"]
            case.annotations[person]["bbox"] = (np.array(box) * np.tile(scale, 2)).tolist()
    return moved(case, chosen, words, obvious=True)


for _what in ("points and boxes", "points", "boxes"):
    kind(f"normalized: {_what}")(
        lambda case, what=_what: scale_numbers(case, what, lambda size: 1 / size, NORMALIZED)  # type: ignore[misc]
    )
    kind(f"percent: {_what}")(
        lambda case, what=_what: scale_numbers(  # type: ignore[misc]
            case, what, lambda size: 100 / size, PERCENT, whole=what == "points and boxes"
        )
    )
    kind(f"ten times as large: {_what}")(
        lambda case, what=_what: scale_numbers(case, what, lambda size: np.full(2, 10.0), "scale")  # type: ignore[misc]
    )


def change_boxes(case: Case, change: Callable[[Array], Array | list[float]], words: str) -> Expectation:
    chosen = case.some()
    for person in chosen:
        box = np.asarray(change(np.array(case.annotations[person]["bbox"])))
        case.annotations[person]["bbox"] = box.round(3).tolist()
    return moved(case, chosen, words, obvious=True)


kind("box: x1, y1, x2, y2")(lambda case: change_boxes(case, lambda box: [*box[:2], *(box[:2] + box[2:])], CORNERS))
kind("box: center, width, height")(lambda case: change_boxes(case, lambda box: [*(box[:2] + box[2:] / 2), *box[2:]], CENTERS))
kind("box: y, x, height, width")(lambda case: change_boxes(case, lambda box: [box[1], box[0], box[3], box[2]], "swap"))
kind("box: 3 px")(lambda case: change_boxes(case, lambda box: [*(box[:2] + box[2:] / 2 - 1.5), 3, 3], BOX_SIZE))
kind("box: of another annotation")(lambda case: exchange_boxes(case))


def exchange_boxes(case: Case) -> Expectation:
    """Give two people each other's boxes."""
    first, second = case.rng.sample(range(len(case.annotations)), 2)
    one, other = case.annotations[first], case.annotations[second]
    one["bbox"], other["bbox"] = other["bbox"], one["bbox"]
    return moved(case, [first, second], OUTSIDE)


@kind("box: a negative size")
def _negative_box(case: Case) -> Expectation:
    for person in case.some():
        x, y, width, height = case.annotations[person]["bbox"]
        sides = case.rng.choice(((-width, height), (width, -height), (-width, -height)))
        case.annotations[person]["bbox"] = [x, y, *sides]
        case.people[person].box = None
    return Expectation(warned="negative", refused="negative")


def use_joints(case: Case, change: Callable[[Content], object]) -> Expectation:
    """Change an annotation so that the box is that of its labeled joints."""
    for person in case.some():
        change(case.annotations[person])
        case.people[person].box = None
    return Expectation()


kind("box: all 0")(lambda case: use_joints(case, lambda entry: entry.update(bbox=[0, 0, 0, 0])))
kind("box: no area")(lambda case: use_joints(case, lambda entry: entry.update(bbox=[*entry["bbox"][:2], 0, 0])))
kind("box: missing")(lambda case: use_joints(case, lambda entry: entry.pop("bbox")))
kind("box: null")(lambda case: use_joints(case, lambda entry: entry.update(bbox=None)))
kind("box: empty list")(lambda case: use_joints(case, lambda entry: entry.update(bbox=[])))


@kind("box: flat")
def _flat_box(case: Case) -> Expectation:
    """Joints on a line, in a box without a height or width, as CVAT exports a polyline's points."""
    for person in case.some():
        truth, entry, axis = case.people[person], case.annotations[person], case.rng.randrange(2)
        truth.points[truth.v > 0, axis] = truth.points[truth.v > 0, axis][0]
        set_points(case, person, truth.points)
        points = truth.points[truth.v > 0]
        low, extent = points.min(0), points.max(0) - points.min(0)
        entry["bbox"] = [*low.tolist(), *extent.tolist()]
        truth.box = None
    return Expectation()


@kind("box: not four numbers")
def _odd_box(case: Case) -> Expectation:
    entry = case.annotations[case.some()[0]]
    entry["bbox"] = case.rng.choice((entry["bbox"][:3], [*entry["bbox"], 1], "1 2 3 4", [None] * 4, [math.nan] * 4, 12, {"x": 1}))
    return Expectation(right=False, warned="box", refused="bbox")


@kind("box: numbers as text")
def _text_box(case: Case) -> Expectation:
    for person in case.some():
        case.annotations[person]["bbox"] = [str(number) for number in case.annotations[person]["bbox"]]
    return Expectation(refused="bbox")


@kind("x and y swapped: points and boxes")
def _swapped(case: Case) -> Expectation:
    chosen = list(range(len(case.annotations)))
    for person in chosen:
        set_points(case, person, case.people[person].points[:, ::-1])
        x, y, width, height = case.annotations[person]["bbox"]
        case.annotations[person]["bbox"] = [y, x, height, width]
    return moved(case, chosen, "swap")


@kind("x and y swapped: points")
def _swapped_points(case: Case) -> Expectation:
    chosen = case.some()
    for person in chosen:
        set_points(case, person, case.people[person].points[:, ::-1])
    return moved(case, chosen, "swap")


@kind("offset by an image: points and boxes")
def _offset(case: Case) -> Expectation:
    return offset_by_image(case, ("points", "boxes"))


@kind("offset by an image: points")
def _offset_points(case: Case) -> Expectation:
    return offset_by_image(case, ("points",))


@kind("offset by an image: boxes")
def _offset_boxes(case: Case) -> Expectation:
    return offset_by_image(case, ("boxes",))


@kind("offset by an image: no sizes in the file")
def _offset_without_sizes(case: Case) -> Expectation:
    for image in case.file["images"]:
        del image["width"], image["height"]
    return offset_by_image(case, ("points", "boxes"))


def offset_by_image(case: Case, what: Sequence[str]) -> Expectation:
    chosen, sign = case.some(), np.array(case.rng.choice(((1, 0), (0, 1), (1, 1), (-1, 0), (0, -1), (-1, -1))))
    for person in chosen:
        shift = sign * case.size(person)
        if "points" in what:
            set_points(case, person, case.people[person].points + shift)
        if "boxes" in what:
            box = np.array(case.annotations[person]["bbox"])
            case.annotations[person]["bbox"] = [*(box[:2] + shift), *box[2:]]
    return moved(case, chosen, "offset")


@kind("images half as large, sizes of the images")
def _half_images(case: Case) -> Expectation:
    return halve_images(case, update_sizes=True)


@kind("images half as large, sizes of the annotations")
def _half_images_old_sizes(case: Case) -> Expectation:
    return halve_images(case, update_sizes=False)


def halve_images(case: Case, update_sizes: bool) -> Expectation:
    """Link to images of half the size. The annotations of a person in the left upper quarter alone do not show it."""
    case.links = {path: name.replace(".jpg", "-half.jpg") for path, name in case.links.items()}
    for image in case.file["images"]:
        if update_sizes:
            image["width"], image["height"] = image["width"] // 2, image["height"] // 2
    return replace(moved(case, range(len(case.annotations)), r"pixels, wanted|size|resized"), plausible=False)


# ---- keypoints ----


def change_keypoints(case: Case, change: Callable[[list[Any]], Any], refused: str = "", least: int = 1) -> Expectation:
    for person in case.some(least):
        case.annotations[person]["keypoints"] = change(case.annotations[person]["keypoints"])
    return Expectation(refused=refused)


def triplets(flat: list[Any]) -> list[list[Any]]:
    return [flat[n : n + 3] for n in range(0, len(flat), 3)]


kind("keypoints: [[x, y, v], …]")(lambda case: change_keypoints(case, triplets))
kind("keypoints: numbers as text")(lambda case: change_keypoints(case, lambda flat: [str(n) for n in flat], "keypoints"))
kind("keypoints: as floats")(lambda case: change_keypoints(case, lambda flat: [float(n) for n in flat]))


@kind("keypoints: x, y without v")
def _pairs(case: Case) -> Expectation:
    nested = case.rng.random() < 0.5
    for person in case.some():
        pairs = [triplet[:2] for triplet in triplets(case.annotations[person]["keypoints"])]
        case.annotations[person]["keypoints"] = pairs if nested else [n for pair in pairs for n in pair]
    return Expectation(right=False, refused=r"keypoints")


@kind("keypoints: another number of joints")
def _other_count(case: Case) -> Expectation:
    for person in case.some():
        flat = case.annotations[person]["keypoints"]
        case.annotations[person]["keypoints"] = case.rng.choice((flat[:-3], [*flat, 1, 1, 2], flat[:-1]))
    return Expectation(right=False, refused="keypoints|joints")


def without_value(case: Case, value: Any, labeled: bool) -> Expectation:
    """Replace x and y of a joint that is not labeled, or that is."""
    for person in case.some():
        flat, v = case.annotations[person]["keypoints"], case.people[person].v
        joints = [n for n in range(len(v)) if (v[n] > 0) == labeled]
        for joint in joints[: 1 if labeled else None]:
            flat[3 * joint : 3 * joint + 2] = [value, value]
    if labeled:
        return Expectation(right=False, warned="NaN|null|finite|number", refused="NaN|null|finite|number")
    return Expectation()


kind("keypoints: NaN where v is 0")(lambda case: without_value(case, math.nan, labeled=False))
kind("keypoints: null where v is 0")(lambda case: without_value(case, None, labeled=False))
kind("keypoints: -1 where v is 0")(lambda case: without_value(case, -1, labeled=False))
kind("keypoints: far outside where v is 0")(lambda case: without_value(case, 99999, labeled=False))
kind("keypoints: NaN where v is not 0")(lambda case: without_value(case, math.nan, labeled=True))
kind("keypoints: null where v is not 0")(lambda case: without_value(case, None, labeled=True))
kind("keypoints: infinite where v is not 0")(lambda case: without_value(case, math.inf, labeled=True))


@kind("keypoints: 0, 0 labeled as visible")
def _zero_points(case: Case) -> Expectation:
    """Tools that know no v write 2 for joints that were never placed."""
    chosen = case.some()
    for person in chosen:
        truth = case.people[person]
        joint = case.rng.choice([n for n in range(len(truth.v)) if truth.v[n] > 0])
        case.annotations[person]["keypoints"][3 * joint : 3 * joint + 2] = [0, 0]
    return moved(case, chosen, r"\(0, 0\)")


def change_v(case: Case, values: dict[int, Any], refused: str = "", right: bool = True) -> Expectation:
    for person in case.some():
        flat = case.annotations[person]["keypoints"]
        case.annotations[person]["keypoints"] = [values.get(n, n) if at % 3 == 2 else n for at, n in enumerate(flat)]
    return Expectation(right=right, warned="" if right else refused, refused=refused)


kind("v: 2.0")(lambda case: change_v(case, {0: 0.0, 1: 1.0, 2: 2.0}))
kind("v: text")(lambda case: change_v(case, {0: "0", 1: "1", 2: "2"}, r"\bv\b|keypoints"))
kind("v: 3 or -1")(lambda case: change_v(case, {2: case.rng.choice((3, -1, 0.5))}, r"\bv\b", right=False))
kind("v: null")(lambda case: change_v(case, {2: None}, r"\bv\b|keypoints", right=False))


@kind("v: true and false")
def _bool_v(case: Case) -> Expectation:
    for person in case.some():
        flat = case.annotations[person]["keypoints"]
        case.annotations[person]["keypoints"] = [bool(n) if at % 3 == 2 else n for at, n in enumerate(flat)]
    return Expectation(refused=r"\bv\b|keypoints|true")


def leave_out(case: Case, change: Callable[[Content], object]) -> Expectation:
    """Change less than half of the annotations so that they have no labeled joint."""
    chosen = case.rng.sample(range(len(case.annotations)), case.rng.randint(1, max(1, len(case.annotations) // 2)))
    for person in chosen:
        change(case.annotations[person])
    case.drop(chosen)
    return Expectation()


kind("keypoints: missing")(lambda case: leave_out(case, lambda entry: entry.pop("keypoints")))
kind("keypoints: null")(lambda case: leave_out(case, lambda entry: entry.update(keypoints=None)))
kind("keypoints: empty list")(lambda case: leave_out(case, lambda entry: entry.update(keypoints=[])))
kind("keypoints: all v 0")(
    lambda case: leave_out(case, lambda entry: entry.update(keypoints=[0] * 3 * case.joints, num_keypoints=0))
)


@kind("keypoints: missing from all")
def _no_keypoints(case: Case) -> Expectation:
    value = case.rng.choice((None, [], "missing"))
    for entry in case.annotations:
        entry["keypoints"] = value
        if value == "missing":
            del entry["keypoints"]
    return Expectation(right=False, refused="annotation|keypoints")


# ---- crowds and counts ----


def set_crowd(case: Case, value: Any, is_crowd: bool) -> Expectation:
    chosen = case.some()
    if is_crowd:
        chosen = chosen[: len(case.annotations) - 1]
    for person in chosen:
        case.annotations[person]["iscrowd"] = value
    if is_crowd:
        case.drop(chosen)
    return Expectation()


for _value, _is_crowd in (("0", False), (None, False), (False, False), (0.0, False), ("false", False)):
    kind(f"iscrowd: {_value!r}")(lambda case, value=_value: set_crowd(case, value, False))  # type: ignore[misc]
for _value in (1, "1", True, 1.0):
    kind(f"iscrowd: {_value!r}")(lambda case, value=_value: set_crowd(case, value, True))  # type: ignore[misc]
kind("iscrowd: missing")(lambda case: change_entries(case, lambda entry: entry.pop("iscrowd")))


def change_entries(case: Case, change: Callable[[Content], object], warned: str = "", refused: str = "") -> Expectation:
    for person in case.some():
        change(case.annotations[person])
    return Expectation(warned=warned, refused=refused)


kind("num_keypoints: 0")(
    lambda case: change_entries(case, lambda entry: entry.update(num_keypoints=0), "num_keypoints", "num_keypoints")
)
kind("num_keypoints: another number")(
    lambda case: change_entries(case, lambda entry: entry.update(num_keypoints=case.rng.choice((1, 99, -1))))
)
kind("num_keypoints: missing or no number")(
    lambda case: change_entries(case, lambda entry: entry.update(num_keypoints=case.rng.choice((None, "4", "", [1]))))
)


# ---- ids ----


def map_ids(case: Case, change: Callable[[Any], Any], image_ids: Callable[[Any], Any] | None = None) -> None:
    """Change the ids of images, and those of the annotations' images the same way or by `image_ids`."""
    for image in case.file["images"]:
        image["id"] = change(image["id"])
    for entry in case.annotations:
        entry["image_id"] = (image_ids or change)(entry["image_id"])


ID_STYLES: dict[str, Callable[[int], Any]] = {
    "floats": float,
    "text": str,
    "file-like text": "img-{}".format,
    "beyond 64 bits": lambda number: 2**70 + number,
    "negative": lambda number: -1 - number,
}
for _name, _style in ID_STYLES.items():
    kind(f"image ids: {_name}")(lambda case, style=_style: (map_ids(case, style), Expectation())[1])  # type: ignore[misc]
kind("image ids: text in the images only")(
    lambda case: (map_ids(case, str, lambda number: number), Expectation(refused="image"))[1]
)
kind("image ids: floats in the annotations only")(lambda case: (map_ids(case, int, float), Expectation())[1])


@kind("image ids: numbers and text that are equal")
def _mixed_ids(case: Case) -> Expectation:
    """Ids 1 and "1" of two images: whoever reads them as one id takes the wrong image."""
    first, second = case.file["images"][:2]
    old, new = second["id"], str(first["id"])
    second["id"] = new
    for entry in case.annotations:
        entry["image_id"] = new if entry["image_id"] == old else entry["image_id"]
    return Expectation(refused=r"\bid\b")


@kind("image ids: one id twice")
def _doubled_ids(case: Case) -> Expectation:
    first, second = case.file["images"][:2]
    for entry in case.annotations:
        entry["image_id"] = first["id"] if entry["image_id"] == second["id"] else entry["image_id"]
    second["id"] = first["id"]
    return Expectation(right=False, refused=r"\bid\b")


@kind("image ids: missing, null or a list")
def _missing_image_id(case: Case) -> Expectation:
    image = case.rng.choice(case.file["images"])
    image["id"] = case.rng.choice((None, [1], {}, math.nan, 1.5))
    if case.rng.random() < 0.5:
        del image["id"]
    return Expectation(right=False, refused=r"\bid\b|image")


@kind("image ids: an image that is not listed")
def _foreign_image_id(case: Case) -> Expectation:
    chosen = case.rng.sample(range(len(case.annotations)), 1)
    case.annotations[chosen[0]]["image_id"] = case.rng.choice((10**6, "x", -5))
    case.drop(chosen)
    return Expectation(warned="image", refused="image", needs_warning=True)


def map_annotation_ids(case: Case, change: Callable[[int, Content], Any]) -> Expectation:
    for number, entry in enumerate(case.annotations):
        entry["id"] = change(number, entry)
    return Expectation()


kind("annotation ids: floats")(lambda case: map_annotation_ids(case, lambda _, entry: float(entry["id"])))
kind("annotation ids: text")(lambda case: map_annotation_ids(case, lambda _, entry: str(entry["id"])))
kind("annotation ids: numbers and text")(lambda case: map_annotation_ids(case, lambda n, _: n if n % 2 else str(n)))
kind("annotation ids: all equal")(lambda case: map_annotation_ids(case, lambda *_: 1))
kind("annotation ids: beyond 64 bits")(lambda case: map_annotation_ids(case, lambda n, _: 2**80 + n))
kind("annotation ids: null")(lambda case: map_annotation_ids(case, lambda *_: None))
kind("annotation ids: lists")(lambda case: map_annotation_ids(case, lambda n, _: [n]))
kind("annotation ids: missing")(lambda case: change_entries(case, lambda entry: entry.pop("id")))


# ---- categories ----


def map_category_ids(case: Case, change: Callable[[int], Any], keep: str = "", refused: str = "") -> Expectation:
    """Change the ids of the categories, except in the section `keep`."""
    for category in case.file["categories"] if keep != "categories" else ():
        category["id"] = change(category["id"])
    for entry in case.annotations if keep != "annotations" else ():
        entry["category_id"] = change(entry["category_id"])
    return Expectation(refused=refused)


kind("category ids: text")(lambda case: map_category_ids(case, str))
kind("category ids: floats")(lambda case: map_category_ids(case, float))
kind("category ids: text in the annotations only")(lambda case: map_category_ids(case, str, "categories", "categor"))
kind("category ids: text in the categories only")(lambda case: map_category_ids(case, str, "annotations", "categor"))
kind("category ids: floats in the annotations only")(lambda case: map_category_ids(case, float, "categories"))
kind("category ids: huge")(lambda case: map_category_ids(case, lambda number: 2**66 + number))


@kind("category ids: a category that is not listed")
def _foreign_category(case: Case) -> Expectation:
    everything = case.rng.random() < 0.3
    chosen = range(len(case.annotations)) if everything else case.rng.sample(range(len(case.annotations)), 1)
    for person in chosen:
        case.annotations[person]["category_id"] = 99
    if everything:
        return Expectation(right=False, refused="categor")
    case.drop(chosen)
    return Expectation(refused="categor")


@kind("category ids: missing")
def _missing_category_id(case: Case) -> Expectation:
    chosen = case.some()
    for person in chosen:
        del case.annotations[person]["category_id"]
    return Expectation(warned="category_id", refused="category_id")


@kind("categories: another one without keypoints")
def _box_category(case: Case) -> Expectation:
    case.file["categories"].insert(case.rng.randrange(2), {"id": 50, "name": "car", **case.rng.choice(({}, {"keypoints": []}))})
    template = case.annotations[0]
    box = {key: template[key] for key in ("image_id", "bbox", "area", "iscrowd")}
    case.annotations.insert(
        case.rng.randrange(3), {**box, "id": 5000, "category_id": 50, **case.rng.choice(({}, {"keypoints": []}))}
    )
    return Expectation()


@kind("categories: another one with other joints")
def _other_joints(case: Case) -> Expectation:
    """Two categories with different joints: only --category can say which is meant."""
    case.file["categories"].append({"id": 60, "name": "tool", "keypoints": ["tip", "grip"], "skeleton": [[1, 2]]})
    entry = {**case.annotations[0], "id": 6000, "category_id": 60, "keypoints": [30, 30, 2, 60, 60, 2]}
    case.annotations.append(entry)
    if case.rng.random() < 0.5:
        case.flags["category"] = [category["name"] for category in case.file["categories"][:-1]]
        return Expectation()
    return Expectation(right=False, refused="--category")


@kind("categories: several with the same joints")
def _same_joints(case: Case) -> Expectation:
    first = case.file["categories"][0]
    case.file["categories"] += [{**first, "id": 70 + n, "name": f"species{n}"} for n in range(3)]
    for entry in case.annotations:
        entry["category_id"] = case.rng.choice(case.file["categories"])["id"]
    return Expectation()


@kind("categories: --category selects one of several")
def _select_category(case: Case) -> Expectation:
    first = case.file["categories"][0]
    case.file["categories"] = [{**first, "id": 70 + n, "name": f"species{n}"} for n in range(3)]
    ids = [70 + n % 3 for n in range(len(case.annotations))]
    for entry, number in zip(case.annotations, ids):
        entry["category_id"] = number
    case.flags["category"] = [case.rng.choice(("species1", "71"))]
    case.drop(n for n, number in enumerate(ids) if number != 71)
    return Expectation()


# ---- annotations and images that occur twice ----


def repeat_annotations(case: Case, chosen: Iterable[int], change: Callable[[Content], Content]) -> Expectation:
    copies = [change(json.loads(json.dumps(case.annotations[person]))) for person in chosen]
    case.annotations.extend(copies)
    return Expectation(right=True, warned=REPEATED, refused=REPEATED, needs_warning=True)


kind("twice: annotations")(lambda case: repeat_annotations(case, case.some(), lambda entry: entry))
kind("twice: annotations with new ids")(
    lambda case: repeat_annotations(case, case.some(), lambda entry: {**entry, "id": entry["id"] + 10**6})
)
kind("twice: annotations, the copies shuffled")(lambda case: shuffle_copies(case))


def shuffle_copies(case: Case) -> Expectation:
    expectation = repeat_annotations(case, case.some(), lambda entry: {**entry, "id": entry["id"] + 10**6, "area": 1})
    case.rng.shuffle(case.annotations)
    return expectation


@kind("twice: the whole file with new ids")
def _concatenated(case: Case) -> Expectation:
    """Two exports of one project in one file: every image is listed twice."""
    images = [{**image, "id": image["id"] + 5000} for image in case.file["images"]]
    case.file["images"] += images
    return repeat_annotations(
        case,
        range(len(case.annotations)),
        lambda entry: {**entry, "id": entry["id"] + 10**6, "image_id": entry["image_id"] + 5000},
    )


@kind("twice: images listed twice, annotations once")
def _images_twice(case: Case) -> Expectation:
    case.file["images"] += [{**image, "id": image["id"] + 5000} for image in case.file["images"]]
    for entry in case.annotations:
        entry["image_id"] += case.rng.choice((0, 5000))
    return Expectation()


@kind("twice: image entries that are equal")
def _entries_twice(case: Case) -> Expectation:
    case.file["images"] += [dict(image) for image in case.file["images"]]
    return Expectation(refused=r"\bid\b")


# ---- file names ----


def rename(case: Case, change: Callable[[str], str], refused: str = "") -> Expectation:
    """Change the file names in the JSON; the files stay."""
    for image in case.file["images"]:
        image["file_name"] = change(image["file_name"])
    return Expectation(refused=refused)


def relink(case: Case, change: Callable[[str], str]) -> None:
    """Change the paths of the files; the JSON stays."""
    case.links = {change(path): name for path, name in case.links.items()}
    for person in case.people:
        person.path = change(person.path)


kind("file_name: ./")(lambda case: rename(case, lambda name: case.rng.choice(("./", "././", ".//")) + name))
kind("file_name: //")(lambda case: (relink(case, "x/{}".format), rename(case, lambda name: f"x//{name}"))[1])
kind("file_name: sub/../")(lambda case: rename(case, lambda name: f"nowhere/../{name}", "plain name|outside|folder"))
kind("file_name: backslashes")(
    lambda case: (relink(case, "x/{}".format), rename(case, lambda name: f"x\\{name}".replace("/", "\\")))[1]
)
kind("file_name: images\\, the folder's own name")(
    lambda case: rename(case, lambda name: case.rng.choice(("images\\", "images/", "./images/")) + name, r"missing")
)
kind("file_name: absolute, in the folder")(lambda case: rename(case, lambda name: str(case.folder / "images" / name)))


@kind("file_name: absolute, elsewhere")
def _absolute_elsewhere(case: Case) -> Expectation:
    """The files exist in another folder, and their names are also in the folder of images or not at all."""
    elsewhere = str(case.pool.folder)
    return replace(rename(case, lambda name: f"{elsewhere}/{case.links[name]}", r"--data-outside|outside|leads out"), right=False)


@kind("file_name: .. to another folder")
def _parent_folder(case: Case) -> Expectation:
    relative = os.path.relpath(case.pool.folder, case.folder / "images")
    return replace(rename(case, lambda name: f"{relative}/{case.links[name]}", r"--data-outside|outside|leads out"), right=False)


@kind("file_name: absolute on another machine")
def _other_machine(case: Case) -> Expectation:
    root = case.rng.choice(("/home/someone/data/", "C:\\Users\\someone\\data\\", "s3://bucket/", "file:///data/"))
    return rename(case, lambda name: root + name, r"--data-outside|outside|leads out|missing|plain name|folder")


@kind("file_name: another case")
def _other_case(case: Case) -> Expectation:
    change = case.rng.choice((str.upper, str.lower, str.swapcase))
    names = "|".join(re.escape(Path(path).name) for path in case.links)
    return rename(case, change, names)


@kind("file_name: another case exists too")
def _case_decoy(case: Case) -> Expectation:
    """Files whose names differ in case only: the one of the exact name is meant."""
    other = list(case.links.values())
    for path, name in list(case.links.items()):
        case.links.setdefault(path.swapcase(), other[(other.index(name) + 1) % len(other)])
    return Expectation()


def other_form(case: Case, decoy: bool) -> Expectation:
    """Write names in another Unicode normal form than the files have, or (decoy) have files of both forms."""
    forms = case.rng.choice((("NFC", "NFD"), ("NFD", "NFC")))
    on_disk, in_file = (lambda name, form=form: unicodedata.normalize(form, f"ü{name}é") for form in forms)
    suffixed = {path: f"{Path(path).parent}/é{Path(path).stem}ü.jpg" for path in case.links}
    relink(case, lambda path: on_disk(suffixed[path]).removeprefix("./"))
    if decoy:
        other = list(case.links.values())
        for path, name in list(case.links.items()):
            case.links[unicodedata.normalize(forms[1], path)] = other[(other.index(name) + 1) % len(other)]
        return rename(case, lambda name: on_disk(suffixed[name]).removeprefix("./"))
    return rename(case, lambda name: in_file(suffixed[name]).removeprefix("./"), "unicode|NFC|NFD|normal")


kind("file_name: NFC and NFD")(lambda case: other_form(case, decoy=False))
kind("file_name: NFC and NFD, both exist")(lambda case: other_form(case, decoy=True))


@kind("file_name: percent-encoded")
def _percent_encoded(case: Case) -> Expectation:
    relink(case, lambda path: path.replace(".", " é+%."))
    for image in case.file["images"]:
        image["file_name"] = urllib.parse.quote(image["file_name"].replace(".", " é+%."))
    return Expectation(refused="percent|decoded")


@kind("file_name: with percent signs, a decoded name exists too")
def _percent_decoy(case: Case) -> Expectation:
    other = list(case.links.values())
    truth = dict(case.links)
    relink(case, lambda path: path.replace(".", "%20."))
    for path, name in truth.items():
        case.links[path.replace(".", " .")] = other[(other.index(name) + 1) % len(other)]
    return rename(case, lambda name: name.replace(".", "%20."))


@kind("file_name: without its folder")
def _base_name(case: Case) -> Expectation:
    """Files in sub-folders, names without them: found by the name alone, or missing; the same name is in two folders."""
    relink(case, "deep/{}".format)
    case.links |= {path.replace("deep/", "other/"): name for path, name in case.links.items()}
    return Expectation(right=False, refused="missing")


@kind("file_name: some missing")
def _missing_images(case: Case) -> Expectation:
    gone = set(case.rng.sample(sorted(case.links), case.rng.randint(1, len(case.links) - 1)))
    used = {person.path for person in case.people}
    case.links = {path: name for path, name in case.links.items() if path not in gone}
    if case.rng.random() < 0.5 and not used <= gone:
        case.flags["skip_missing"] = True
        case.people = [person for person in case.people if person.path not in gone]
        return Expectation()
    return Expectation(right=not gone & used, refused="missing")


@kind("file_name: all missing")
def _all_missing(case: Case) -> Expectation:
    case.links = {"other.jpg": next(iter(case.links.values()))}
    case.flags["skip_missing"] = case.rng.random() < 0.5
    return Expectation(right=False, refused="missing")


@kind("file_name: not there, empty or no text")
def _no_name(case: Case) -> Expectation:
    for image in case.file["images"]:
        image["file_name"] = case.rng.choice((None, "", 12, [], ".", "..", "/", "\ud800", "a\0b"))
        if case.rng.random() < 0.2:
            del image["file_name"]
    return Expectation(right=False, refused="file_name|image|name")


# ---- joints and edges ----


def set_joints(case: Case, names: list[Any], edges_stay: bool = True) -> None:
    for category in case.file["categories"]:
        category["keypoints"] = names
        if not edges_stay:
            del category["skeleton"]


@kind("joints: numbers")
def _number_joints(case: Case) -> Expectation:
    start = case.rng.randrange(2)
    set_joints(case, list(range(start, start + case.joints)))
    return Expectation()


@kind("joints: numbers as text")
def _number_text_joints(case: Case) -> Expectation:
    set_joints(case, [str(n) for n in range(case.joints)])
    return Expectation()


@kind("joints: a name twice")
def _joint_twice(case: Case) -> Expectation:
    names = list(case.file["categories"][0]["keypoints"])
    names[-1] = names[0]
    set_joints(case, names)
    return Expectation(right=False, refused="two joints|called|twice|unique")


@kind("joints: too few or too many names")
def _other_joint_count(case: Case) -> Expectation:
    names = list(case.file["categories"][0]["keypoints"])
    set_joints(case, case.rng.choice((names[:-1], [*names, "extra"])))
    return Expectation(right=False, warned="", refused="joints|keypoints")


@kind("joints: no names")
def _no_joint_names(case: Case) -> Expectation:
    set_joints(case, case.rng.choice(([], None, "nose", [None] * case.joints, [""] * case.joints)))
    return Expectation(right=False, refused="keypoints|name")


@kind("joints: sides that are half recognized")
def _half_sides(case: Case) -> Expectation:
    """A mirrored image would swap the eyes and not the paws, whose names differ in more than the side."""
    paws = case.rng.choice((("left_paw", "right_forepaw"), ("LF_paw", "RH_paw"), ("pawLeft", "paw2Right")))
    names = ["left_eye", "right_eye", *paws]
    names += [f"joint{n}" for n in range(case.joints - 4)]
    set_joints(case, names)
    return Expectation(warned="mirror|swap|flip", refused="mirror|swap|flip", needs_warning=True)


@kind("joints: a side without a partner")
def _lone_side(case: Case) -> Expectation:
    names = [f"joint{n}" for n in range(case.joints - 3)] + ["left_hand", "right_hand", "left_foot"]
    set_joints(case, names)
    return Expectation(warned="mirror|swap|flip", refused="mirror|swap|flip", needs_warning=True)


def set_edges(case: Case, change: Callable[[list[list[int]]], Any], true_edges: bool) -> Expectation:
    """Change the skeleton of all categories. Where no edge of the result is true, edges may be left out with a warning."""
    for category in case.file["categories"]:
        category["skeleton"] = change([list(edge) for edge in category["skeleton"]])
    words = "skeleton|edge"
    return Expectation(warned="" if true_edges else words, refused="" if true_edges else words, needs_warning=not true_edges)


kind("edges: from 0")(lambda case: set_edges(case, lambda edges: [[a - 1, b - 1] for a, b in edges], true_edges=False))
kind("edges: beyond the joints")(
    lambda case: set_edges(case, lambda edges: [*edges, [1, case.joints + 1], [500, 2]], true_edges=False)
)
kind("edges: of other ids")(
    lambda case: set_edges(case, lambda edges: [[a + 1000, b + 1000] for a, b in edges], true_edges=False)
)
kind("edges: names of joints")(lambda case: named_edges(case))
kind("edges: as text")(lambda case: set_edges(case, lambda edges: [[str(a), str(b)] for a, b in edges], true_edges=True))
kind("edges: no pairs")(
    lambda case: set_edges(
        case,
        lambda edges: case.rng.choice(([1, 2, 3], [[1, 2, 3]], [[1]], "1-2", {"a": 1}, [None], [[1, None]])),
        true_edges=False,
    )
)
kind("edges: twice and reversed")(
    lambda case: set_edges(case, lambda edges: edges + [edge[::-1] for edge in edges], true_edges=True)
)
kind("edges: as floats")(lambda case: set_edges(case, lambda edges: [[float(a), float(b)] for a, b in edges], true_edges=True))
kind("edges: none")(lambda case: set_edges(case, lambda _: case.rng.choice(([], None)), true_edges=True))
kind("edges: missing")(
    lambda case: (set_joints(case, case.file["categories"][0]["keypoints"], edges_stay=False), Expectation())[1]
)


def named_edges(case: Case) -> Expectation:
    names = case.file["categories"][0]["keypoints"]
    expectation = set_edges(case, lambda edges: [[names[a - 1], names[b - 1]] for a, b in edges], true_edges=False)
    return replace(expectation, needs_warning=False)  # names are clear, so the true edges are right too


# ---- other parts of the file ----


def change_file(case: Case, change: Callable[[Content], object], refused: str = "") -> Expectation:
    change(case.file)
    return Expectation(right=not refused, refused=refused)


def as_mapping(case: Case, section: str) -> Expectation:
    case.file[section] = {str(entry["id"]): entry for entry in case.file[section]}
    return Expectation(right=False, refused=section)


for _section in ("images", "annotations", "categories"):
    kind(f"file: {_section} as a mapping")(lambda case, section=_section: as_mapping(case, section))  # type: ignore[misc]
    kind(f"file: no {_section}")(
        lambda case, section=_section: change_file(case, lambda file: file.pop(section), section[:6])  # type: ignore[misc]
    )
    kind(f"file: {_section} empty")(
        lambda case, section=_section: change_file(  # type: ignore[misc]
            case, lambda file: file.update({section: []}), f"{section[:5]}|keypoints"
        )
    )
kind("file: extra keys")(lambda case: extra_keys(case))
kind("file: without info and licenses")(lambda case: change_file(case, lambda file: (file.pop("info"), file.pop("licenses"))))
kind("file: sections in another order")(lambda case: reorder(case))
kind("file: UTF-8 with a byte order mark")(lambda case: encode(case, "utf-8-sig"))
kind("file: UTF-16")(lambda case: encode(case, "utf-16"))
kind("file: indented")(lambda case: (setattr(case, "text", lambda file: json.dumps(file, indent=2).encode()), Expectation())[1])


def extra_keys(case: Case) -> Expectation:
    case.file["type"] = "keypoints"
    for image in case.file["images"]:
        image |= {"coco_url": "http://example.org/x.jpg", "license": 3, "date_captured": None, "id_str": "x"}
    for entry in case.annotations:
        x, y, width, height = entry["bbox"]
        entry["segmentation"] = case.rng.choice(
            ([], [[x, y, x + width, y, x, y + height]], {"counts": "abc", "size": [1, 1]}, None)
        )
        entry |= {"attributes": {"occluded": False}, "score": 0.5, "track_id": case.rng.randrange(9), "keypoints_score": [1]}
    return Expectation()


def reorder(case: Case) -> Expectation:
    case.file = dict(sorted(case.file.items(), key=lambda _: case.rng.random()))
    case.file["annotations"] = [dict(sorted(entry.items())) for entry in case.annotations]
    case.rng.shuffle(case.file["images"])
    return Expectation()


def encode(case: Case, encoding: str) -> Expectation:
    case.text = lambda file: json.dumps(file, ensure_ascii=False).encode(encoding)
    return Expectation(refused="UTF-8|JSON|encod")


# ---- sizes of images ----


def change_sizes(case: Case, change: Callable[[Content], object]) -> Expectation:
    """Change width and height of images; the annotations stay right, with or without a warning."""
    for image in case.rng.sample(case.file["images"], case.rng.randint(1, len(case.file["images"]))):
        change(image)
    return Expectation(refused="width|height|size|pixels")


kind("size: missing")(lambda case: change_sizes(case, lambda image: (image.pop("width"), image.pop("height"))))
kind("size: text")(
    lambda case: change_sizes(case, lambda image: image.update(width=str(image["width"]), height=str(image["height"])))
)
kind("size: floats")(lambda case: change_sizes(case, lambda image: image.update(width=float(image["width"]))))
kind("size: 0, negative or null")(
    lambda case: change_sizes(case, lambda image: image.update(width=case.rng.choice((0, -1, None, []))))
)
kind("size: width and height swapped")(
    lambda case: change_sizes(case, lambda image: image.update(width=image["height"], height=image["width"]))
)


STORED_POINT: dict[int, Callable[[Array, Array], Array]] = {
    5: lambda point, size: point[..., ::-1],
    6: lambda point, size: np.stack([point[..., 1], size[0] - point[..., 0]], -1),
    7: lambda point, size: np.stack([size[1] - point[..., 1], size[0] - point[..., 0]], -1),
    8: lambda point, size: np.stack([size[1] - point[..., 1], point[..., 0]], -1),
}
"""EXIF orientation -> function of a point and the size of the upright image that returns the point in the stored image."""


def rotate(case: Case, sizes: str, points: str) -> Expectation:
    """Link to rotated images. `sizes` and `points` in the file are of the "upright" or the "stored" image; "none": no sizes."""
    case.file["images"] = case.file["images"][: len(ORIENTATIONS)]
    known = [image["id"] for image in case.file["images"]]
    used = [n for n, entry in enumerate(case.annotations) if entry["image_id"] in known]
    case.file["annotations"], case.people = [case.annotations[n] for n in used], [case.people[n] for n in used]
    width, height = case.file["images"][0]["width"], case.file["images"][0]["height"]
    case.links = {image["file_name"]: f"{height}x{width}-{n}-exif.jpg" for n, image in enumerate(case.file["images"])}
    for image in case.file["images"]:
        if sizes == "stored":
            image["width"], image["height"] = height, width
        elif sizes == "none":
            del image["width"], image["height"]
    for person, entry in enumerate(case.annotations if points == "stored" else ()):
        to_stored = STORED_POINT[ORIENTATIONS[known.index(entry["image_id"])]]
        offset, size, truth = case.flags["pixel_offset"], case.size(person), case.people[person]
        assert truth.box is not None
        set_points(case, person, to_stored(truth.points + offset, size) - offset)
        corners = to_stored(np.array([truth.box[:2], truth.box[:2] + truth.box[2:]]), size)
        entry["bbox"] = [*corners.min(0).tolist(), *np.ptp(corners, axis=0).tolist()]
    if points == "upright":
        return Expectation(warned="EXIF", needs_warning=sizes == "stored" and width != height)
    shows = sizes == "stored" and width != height
    plausible = not shows and all(is_plausible(case, person) for person in range(len(case.annotations)))
    words = "EXIF" if shows else f"EXIF|{OUTSIDE}"
    return Expectation(right=False, warned=words, refused=words, plausible=plausible)


kind("EXIF: sizes and points of the upright image")(lambda case: rotate(case, "upright", "upright"))
kind("EXIF: sizes of the stored image, points of the upright one")(lambda case: rotate(case, "stored", "upright"))
kind("EXIF: sizes and points of the stored image")(lambda case: rotate(case, "stored", "stored"))
kind("EXIF: no sizes, points of the stored image")(lambda case: rotate(case, "none", "stored"))


@kind("EXIF: points of the stored image, --exif ignore")
def _ignored_rotation(case: Case) -> Expectation:
    rotate(case, case.rng.choice(("stored", "none")), "stored")
    case.flags["exif"] = "ignore"
    return Expectation()


# ---- running ----


@dataclass(frozen=True)
class Result:
    """Outcome of a case, one of `OUTCOMES`, and what was read or said."""

    number: int
    kind: str
    outcome: str
    detail: str = ""


def expected_samples(case: Case) -> list[tuple[str, Array, NDArray[np.bool_], Array, float]]:
    """Return path, points, mask, center and side of the true samples in corner coordinates."""
    rows = []
    for person in case.people:
        points, labeled = person.points + case.flags["pixel_offset"], person.v > 0
        if person.box is None:
            low, high = points[labeled].min(0), points[labeled].max(0)
            box = np.concatenate([low, high - low])
        else:
            box = person.box
        rows.append((person.path, points, labeled, box[:2] + box[2:] / 2, case.flags["padding"] * float(box[2:].max())))
    return rows


def first_difference(case: Case, samples: Samples) -> str:
    """Return "" if the samples are the true ones, each as often as it is annotated, in any order; else what differs."""
    root = os.path.realpath(case.folder / "images")
    expected = expected_samples(case)
    matched: set[int] = set()
    for n in range(len(samples)):
        path = os.path.relpath(os.path.normpath(str(samples.paths[n])), root)
        found = -1
        for number, (name, points, labeled, center, side) in enumerate(expected):
            if (
                path == name
                and np.array_equal(samples.labeled[n], labeled)
                and np.allclose(samples.keypoints[n][labeled], points[labeled], rtol=0, atol=1e-6)
                and np.allclose(samples.center[n], center, rtol=0, atol=1e-6)
                and math.isclose(samples.side[n], side, abs_tol=1e-6)
            ):
                found = number
                break
        if found < 0:
            return f"no annotation is {path}, center {samples.center[n].tolist()}, side {samples.side[n]:g}"
        matched.add(found)
    if missing := set(range(len(expected))) - matched:
        return f"{len(missing)} of {len(expected)} annotations are not used"
    edges = {frozenset(edge) for edge in samples.skeleton.edges}
    return "" if edges <= case.edges else f"edges {sorted(map(sorted, edges - case.edges))} are not in the file"


def make_case(seed: int, number: int, pool: ImagePool, folder: Path) -> tuple[Case, Expectation]:
    """Draw and mutate the case of a number, and write its file and links to images into an empty folder."""
    case = draw_case(random.Random(f"{seed} {number}"), pool, folder)  # noqa: S311
    expectation = KINDS[kind_of(number)](case)
    for path, name in case.links.items():
        target = folder / "images" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(pool.folder / name, target)
    (folder / "train.json").write_bytes(case.text(case.file))
    return case, expectation


def kind_of(number: int) -> str:
    names = list(KINDS)
    return names[number % len(names)]


def run_case(seed: int, number: int, pool: ImagePool, folder: Path) -> Result:
    """Make a case and read it as training does."""
    case, expected = make_case(seed, number, pool, folder)
    config = DataConfig(dataset="coco", annotations=folder / "train.json", images=folder / "images", **case.flags)

    def result(outcome: str, detail: str) -> Result:
        return Result(number, kind_of(number), outcome, detail.replace(str(folder), "…"))

    try:
        samples = DATASET.read(config, "train")
        if problem := sides_problem(samples.skeleton, config.skeleton):  # an error of training
            raise HgfastError(problem)
    except HgfastError as error:
        allowed = expected.refused and re.search(expected.refused, str(error), re.IGNORECASE)
        return result("refused" if allowed else "failed", f"error: {error}")
    except Exception as error:  # any other exception is a failure of the reader
        return result("failed", f"{type(error).__name__}: {error}")
    notes = "; ".join(samples.notes)
    warned = bool(expected.warned and re.search(expected.warned, notes, re.IGNORECASE))
    difference = first_difference(case, samples)
    if expected.right and not difference:
        if expected.needs_warning:
            return result("warned" if warned else "failed", notes or "no warning")
        false_alarm = kind_of(number) == "nothing changed" and re.search(FALSE_ALARM, notes, re.IGNORECASE)
        return result("failed" if false_alarm else "right", notes)
    if warned:
        return result("warned", notes)
    if expected.plausible:
        return result("unnoticed", difference)
    return result("failed", f"read without a fitting warning: {difference or 'as if nothing were wrong'}; notes: {notes}")


def run_cases(seed: int, numbers: Iterable[int], folder: Path) -> list[Result]:
    """Run the cases of these numbers in a folder."""
    pool_folder = folder / "pool"
    pool_folder.mkdir()
    pool, results = ImagePool(pool_folder), []
    for number in numbers:
        case_folder = folder / "case"
        (case_folder / "images").mkdir(parents=True)
        results.append(run_case(seed, number, pool, case_folder))
        shutil.rmtree(case_folder)
    return results


def table(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return a row per kind with the number of each outcome, and one for all."""
    rows = []
    for name in [*KINDS, "all"]:
        group = [result for result in results if name in ("all", result.kind)]
        if group:
            counts = {outcome: sum(result.outcome == outcome for result in group) for outcome in OUTCOMES}
            rows.append({"kind": name, "cases": len(group), **counts})
    return rows


@dataclass(kw_only=True)
class MutationConfig:
    """Settings of the mutations."""

    count: int = 10000
    """number of cases; the kinds take turns"""
    first: int = 0
    """number of the first case"""
    seed: int = 0
    """random seed; with the number of a case it determines the file"""
    json: Path | None = None
    """write the table and the failures to this file"""
    verbose: bool = False
    """print how each case ended"""

    def validate(self) -> None:
        """Raise `HgfastError` for values out of range."""
        if self.count < 1 or self.first < 0:
            raise HgfastError("--count must be at least 1, --first at least 0")


def main() -> None:
    config = parse(MutationConfig, description=__doc__ or "")
    config.validate()
    if config.json is not None:
        prepare_file(config.json, "--json")
    began = time.perf_counter()
    numbers = tqdm(range(config.first, config.first + config.count), disable=None, unit="case")
    with tempfile.TemporaryDirectory(prefix="hgfast-coco-") as folder:
        results = run_cases(config.seed, numbers, Path(folder).resolve())
    failures = [result for result in results if result.outcome == "failed"]
    for result in results if config.verbose else failures:
        print(f"case {result.number} ({result.kind}) {result.outcome}: {result.detail}")
    rows, seconds = table(results), round(time.perf_counter() - began)
    print(tabulate(rows, headers="keys"))
    print(f"{len(results)} cases with seed {config.seed} in {seconds} s, {len(failures)} failed", flush=True)
    if config.json is not None:
        run = {"seed": config.seed, "first": config.first, "cases": len(results), "seconds": seconds}
        record = {**run, "rows": rows, "failures": {result.number: result.detail for result in failures}}
        write_text(config.json, to_json(record, indent=1) + "\n", "--json")
    if failures:
        raise SystemExit(1)


if __name__ == "__main__":
    run_main(main)
