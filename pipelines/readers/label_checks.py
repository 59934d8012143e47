"""Checks of labels against their boxes and images, made whenever annotations are read: no wrong label trains without a word.

A mistake of the whole file is an error, unless `--allow` has its name; a mistake of some annotations is a note with their number
and the first of them. The checks open no image: sizes of images are those that the reader knows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hgfast.config import AllowedProblem
from hgfast.errors import HgfastError
from hgfast.geometry import FloatArray

MOST, HALF, QUARTER = 0.9, 0.5, 0.25
"""Fractions of the annotations or joints from which a mistake is one of the whole file."""
UNIT_LIMIT = 1.5  # coordinates up to this may be fractions of the image, slightly outside of it
PERCENT_ODDS = 1e-4  # odds of pixels that look like percent, below which they are an error
PERCENT_WARNING_ODDS = 0.02
CROP_PADDING = 1.25  # joints may lie this far outside of their box: side of the square over the box's longer side
TINY_BOX = 4  # pixels
LARGE_BOX = 4  # longer side of the box over that of the joints, if at least half of the joints are labeled
BOX_MARGIN = 0.1  # fraction of the image by which boxes may reach beyond it
MIN_BOXES = 3  # boxes from which their format can be guessed
MIN_SHIFTED_BOXES = 6  # boxes from which the place of the joints in them is no chance
MARGIN = 1.0  # pixels that joints may lie outside of their image, and boxes' corners for the guess of their format

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Labels:
    """N annotations of one file, with K joints. Points and boxes are in pixels, corner convention.

    keypoints: (N, K, 2). labeled: (N, K). box: (N, 4) as x, y, width, height, NaN for annotations without a usable box of their
    own. size: (N, 2) width and height of the image, NaN if unknown. pixel_offset: what was added to the file's coordinates.
    joints: the K names. image: (N,) int, equal for annotations of one image. rotated: whether EXIF rotates some images. describe:
    row -> name of the annotation. where: name of the file.
    """

    keypoints: FloatArray
    labeled: Mask
    box: FloatArray
    size: FloatArray
    pixel_offset: float
    joints: tuple[str, ...]
    image: NDArray[np.int64]
    rotated: bool
    describe: Callable[[int], str]
    where: str

    @cached_property
    def bounds(self) -> FloatArray:
        """Return the bounding box (N, 4) of the labeled joints as left, top, right, bottom; NaN if no joint is labeled."""
        points = np.where(self.labeled[..., None], self.keypoints, np.nan)
        empty = ~self.labeled.any(1)
        points[empty] = 0
        bounds = np.concatenate([np.nanmin(points, 1), np.nanmax(points, 1)], axis=1)
        bounds[empty] = np.nan
        return bounds


@dataclass(frozen=True)
class Problem:
    """A mistake in words. name: its name for `--allow`, if it is one of the whole file; None: it only causes a note."""

    message: str
    name: AllowedProblem | None = None


def check_labels(labels: Labels, allow: Collection[AllowedProblem]) -> tuple[str, ...]:
    """Return the notes on what may be wrong. Raises `HgfastError` for a mistake of the whole file that `allow` does not have."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return settle(find_problems(labels), labels.where, allow)


def settle(problems: Iterator[Problem], where: str, allow: Collection[AllowedProblem]) -> tuple[str, ...]:
    """Return the messages of problems that are not errors. Raises `HgfastError` for the first that is."""
    notes = []
    for problem in problems:
        if problem.name is not None and problem.name not in allow:
            raise HgfastError(f"{where}: {problem.message}; if that is right, give --allow {problem.name}")
        notes.append(problem.message)
    return tuple(notes)


def find_problems(labels: Labels) -> Iterator[Problem]:
    """Yield the problems, those that explain others first."""
    yield from _normalized(labels)
    yield from _percent(labels)
    yield from _box_format(labels)
    yield from _outside_image(labels)
    yield from _box_size(labels)
    yield from _outside_box(labels)
    yield from _box_outside_image(labels)
    yield from _at_origin(labels)
    yield from _doubled(labels)


def _normalized(labels: Labels) -> Iterator[Problem]:
    raw = labels.keypoints - labels.pixel_offset
    small = (np.abs(raw) <= UNIT_LIMIT).all(-1) | ~labels.labeled
    at_origin = ((raw == 0).all(-1) | ~labels.labeled).all(1)
    unit = small.all(1) & ~at_origin
    advice = "multiply x by the image's width and y by its height"
    yield from _share(labels, unit, MOST, "normalized", "coordinates that look normalized (from 0 to 1)", advice)
    known = _is_known(labels.box)
    unit_box = known & (np.abs(labels.box) <= UNIT_LIMIT).all(1) & ~unit
    yield from _share(labels, unit_box, MOST, "normalized", "a bbox that looks normalized (from 0 to 1)", advice)


def _percent(labels: Labels) -> Iterator[Problem]:
    """Compare with what pixels would do: that all are below 100 although images are far larger is improbable."""
    raw = np.where(labels.labeled[..., None], labels.keypoints - labels.pixel_offset, 0)
    known = _is_known(labels.size) & labels.labeled.any(1)
    if not known.any() or raw[known].max() > 100.5 or raw[known].min() < -0.5 or (raw[known].max((0, 1)) < 50).any():
        return
    odds = float(np.exp(np.log(np.minimum(1, 100 / labels.size[known])).sum()))
    width, height = np.median(labels.size[known], 0)
    if odds < PERCENT_WARNING_ODDS:
        message = (
            f"the coordinates look like percent: all lie between 0 and 100, in images of about {width:g} x {height:g} pixels; "
            "multiply x by the image's width / 100 and y by its height / 100"
        )
        yield Problem(message, "percent" if odds < PERCENT_ODDS else None)


def _box_format(labels: Labels) -> Iterator[Problem]:
    """Compare how the joints lie in the boxes if their four numbers mean something else."""
    bounds, box, size = labels.bounds, labels.box, labels.size
    known = _is_known(box) & _is_known(bounds)
    if known.sum() < MIN_BOXES:
        return
    bounds, box, size = bounds[known], box[known], size[known]
    low, length = box[:, :2], box[:, 2:]
    as_is = _inside(bounds, low, low + length)
    as_center = _inside(bounds, low - length / 2, low + length / 2)
    if as_center.mean() >= MOST > 0.8 >= as_is.mean():
        yield _box_format_problem("their center, width and height", "cxcywh", as_center, as_is)
    ordered = (length > low).all(1) & ~(length > size + MARGIN).any(1)
    as_corners: Mask = _inside(bounds, low, length) & ordered
    leaves_image = np.asarray((low + length > size + MARGIN).any(1), np.bool_)
    shift = ((bounds[:, :2] + bounds[:, 2:]) / 2 - (low + length / 2)) / length  # joints lie up and left in too large boxes
    is_shifted = len(box) >= MIN_SHIFTED_BOXES and (np.median(shift, 0) < -0.1).all()
    if as_corners.mean() >= 0.97 and low.any() and (leaves_image.mean() >= QUARTER or is_shifted):
        yield _box_format_problem("two corners", "xyxy", as_corners, as_is & ~leaves_image)


def _is_known(values: FloatArray) -> Mask:
    """Return which rows (N,) of the values (N, C) are numbers."""
    return np.asarray(np.isfinite(values).all(1), np.bool_)


def _inside(bounds: FloatArray, low: FloatArray, high: FloatArray) -> Mask:
    return np.asarray((bounds[:, :2] >= low - MARGIN).all(1) & (bounds[:, 2:] <= high + MARGIN).all(1), np.bool_)


def _box_format_problem(meaning: str, name: str, fitting: Mask, as_is: Mask) -> Problem:
    return Problem(
        f"the boxes look like {meaning}, not x, y, width, height: so {fitting.sum()} of {len(fitting)} hold their joints, else "
        f"{as_is.sum()}; give --box-format {name}",
        "box-format",
    )


def _outside_image(labels: Labels) -> Iterator[Problem]:
    overshoot = np.maximum(-labels.keypoints, labels.keypoints - labels.size[:, None]).max(-1)
    outside = labels.labeled & (overshoot > MARGIN)
    known = labels.labeled & _is_known(labels.size)[:, None]
    exif = " or whether they are of the stored images (--exif ignore)," * labels.rotated
    advice = f"check whether the images were resized or rotated after labeling,{exif}".removesuffix(",")
    yield from _share_of_joints(labels, outside, known, QUARTER, "outside-image", "outside of their image", advice)


def _outside_box(labels: Labels) -> Iterator[Problem]:
    center, half = labels.box[:, :2] + labels.box[:, 2:] / 2, labels.box[:, 2:].max(1) * CROP_PADDING / 2
    distance = np.abs(labels.keypoints - center[:, None]).max(-1) - half[:, None]
    outside = labels.labeled & (distance > MARGIN)
    known = labels.labeled & _is_known(labels.box)[:, None]
    advice = "check whether the boxes belong to these joints"
    yield from _share_of_joints(labels, outside, known, HALF, "outside-box", "outside of the square around their bbox", advice)


def _box_size(labels: Labels) -> Iterator[Problem]:
    bounds = labels.bounds
    extent, side = (bounds[:, 2:] - bounds[:, :2]).max(1), labels.box[:, 2:].max(1)
    known = np.isfinite(side)
    if not known.any():
        return
    tiny = known & (side <= TINY_BOX) & (extent > side)
    advice = "check whether it is in other units"
    yield from _share(labels, tiny, MOST, "box-size", f"a bbox of at most {TINY_BOX} pixels", advice)
    beyond = np.asarray((labels.box[:, 2:] > 1.5 * labels.size).any(1), np.bool_)
    large = known & (labels.labeled.mean(1) >= HALF) & (side > LARGE_BOX * extent) & (extent > 0)
    if large.any():
        text = f"a bbox more than {LARGE_BOX} times as large as the joints"
        advice = "check whether it is in other units, or of the whole image"
        name = "box-size" if (large & beyond).mean() >= HALF else None
        yield from _share(labels, large, MOST if name else np.inf, "box-size", text, advice)


def _box_outside_image(labels: Labels) -> Iterator[Problem]:
    low, high = labels.box[:, :2], labels.box[:, :2] + labels.box[:, 2:]
    far = np.asarray((np.maximum(-low, high - labels.size) > BOX_MARGIN * labels.size).any(1), np.bool_)
    advice = "check whether it is in another format (--box-format)"
    yield from _share(labels, far, np.inf, "box-format", "a bbox that reaches more than a tenth beyond its image", advice)


def _at_origin(labels: Labels) -> Iterator[Problem]:
    at_origin = labels.labeled & (labels.keypoints == labels.pixel_offset).all(-1)
    if (number := int(at_origin.sum())) > 1:
        yield Problem(
            f"{number} labeled joints lie at exactly (0, 0), where tools put missing ones ({_example(labels, at_origin)}); "
            "set their v to 0"
        )


def _doubled(labels: Labels) -> Iterator[Problem]:
    values = np.where(labels.labeled[..., None], labels.keypoints, 0).reshape(len(labels.labeled), -1)
    weights = np.random.default_rng(0).integers(2**62, size=values.shape[1] + 1, dtype=np.uint64) | np.uint64(1)
    keys = (values.view(np.uint64) * weights[1:]).sum(1) + labels.image.astype(np.uint64) * weights[0]  # modulo 2**64
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    again = np.nonzero(first[inverse] != np.arange(len(keys)))[0]
    if len(again):
        row, before = int(again[0]), int(first[inverse][again[0]])
        yield Problem(
            f"{len(again)} of {len(keys)} annotations repeat another one of the same image with the same points "
            f"({labels.describe(row)} that of {labels.describe(before)}), as after a merge; remove them"
        )


def _share(labels: Labels, mask: Mask, limit: float, name: AllowedProblem, text: str, advice: str) -> Iterator[Problem]:
    """Yield a problem if the mask (N,) of annotations has any; it is one of the whole file from the fraction `limit`."""
    if number := int(mask.sum()):
        row = int(np.argmax(mask))
        joint = int(np.argmax(labels.labeled[row]))
        x, y = labels.keypoints[row, joint] - labels.pixel_offset
        box = f", bbox {np.round(labels.box[row], 2).tolist()}" if np.isfinite(labels.box[row]).all() else ""
        example = f"such as {labels.describe(row)}: {labels.joints[joint]} at ({x:.4g}, {y:.4g}){box}"
        message = f"{number} of {len(mask)} annotations have {text}, {example}; {advice}"
        yield Problem(message, name if number >= limit * len(mask) else None)


def _share_of_joints(
    labels: Labels, mask: Mask, known: Mask, limit: float, name: AllowedProblem, text: str, advice: str
) -> Iterator[Problem]:
    """Yield a problem if the mask (N, K) of joints has any, of those that are `known`; see `_share`."""
    if number := int(mask.sum()):
        total = int(known.sum())
        message = f"{number} of {total} labeled joints lie {text} ({_example(labels, mask)}); {advice}"
        yield Problem(message, name if number >= limit * total else None)


def _example(labels: Labels, mask: Mask) -> str:
    """Return the first annotations of the mask (N, K) in words."""
    parts = []
    for row in np.nonzero(mask.any(1))[0][:3]:
        names = [labels.joints[joint] for joint in np.nonzero(mask[row])[0][:3]]
        parts.append(f"{labels.describe(int(row))}: {', '.join(names)}")
    return "; ".join(parts)
