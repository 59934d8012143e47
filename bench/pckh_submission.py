"""Files to be sent in: MPII's pred_keypoints_mpii.mat, and FreiHAND's pred.json as far as two dimensions go.

MPII ("Evaluation on MPII Human Pose Dataset", evaluatePCKh.m and flatten_annolist.m of the evaluation toolkit, and
prepareTestResults.m of anibali/eval-mpii-pose): a variable `pred`, the test pictures of RELEASE.annolist in their order with all
that it says of them, and for each sufficiently separated person annorect(ridx).annopoints.point(1..16) with x, y and id, from 0,
in the original pixel numbers, which count from 1. The script looks at people with objpos only, in that order, so
nobody may be added or left out.
What may enter: layouts that others prescribe.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pckh_truth import Array, Truth
from scipy.io import savemat

from hgfast.errors import HgfastError
from hgfast.files import complete, write_text
from pipelines.mat_file import BROKEN, read_mat
from pipelines.mpii_mat import MAT_FROM, PEOPLE

RELEASED = 24987
"""Pictures in RELEASE.annolist of mpii_human_pose_v1_u12_1.mat."""
NOTHING = np.zeros((0, 0))  # MATLAB's []
LEFT = (
    "give --release mpii_human_pose_v1_u12_1.mat to have it checked and made whole, or do in MATLAB: "
    "load mpii_human_pose_v1_u12_1; load {name}; pred = pred(RELEASE.img_train == 0); save('{name}', 'pred')"
)

Struct = NDArray[Any]


def write_mpii(path: Path, points: Array, truth: Truth, release: Path | None) -> str:
    """Write predictions (M, 16, 2) for the M people of `truth` as MPII's evaluation wants them; returns what to know, in words.

    With `release`, the path of mpii_human_pose_v1_u12_1.mat, the file is complete, and holds only people whom it calls
    sufficiently separated. Without, `pred` is numbered as the whole RELEASE.annolist and knows only the people of `truth`,
    with objpos and scale; a line of MATLAB, in the returned words, is left to do, and nothing is checked.

    Raises:
        HgfastError: annotations that do not tell who is who, people that the release does not have among its test
            pictures, or a file that cannot be written.
    """
    check_people(truth)
    if release is None:
        pred, words = _numbered(points, truth), f"{len(truth)} people; {LEFT.format(name=path.name)}"
    else:
        pred, words = _complete(points, truth, release)
    if truth.labelled.any():
        words += "; these people are annotated, so they are not of the test set, which alone is scored"
    try:
        with complete(path) as beside:
            savemat(str(beside), {"pred": pred}, appendmat=False, do_compression=True)
    except OSError as error:
        raise HgfastError(f"cannot write {path} ({error.strerror}): choose another place with --submission") from error
    return words


def check_people(truth: Truth) -> None:
    """Refuse annotations that do not tell who is who in MPII's release."""
    if truth.index is None or truth.person is None:
        raise HgfastError(f"{truth.source} does not say who is who in MPII's release: give --annotations test.h5 or valid.h5")
    twice = len({*zip(truth.index.tolist(), truth.person.tolist())}) < len(truth)
    if twice or truth.index.max() >= RELEASED or truth.person.max() >= PEOPLE:
        what = "names a person twice" if twice else "names more pictures or people than there are"
        raise HgfastError(f"{truth.source} {what}: a submission needs MPII's own test.h5")


def write_freihand(path: Path, points: Array, truth: Truth, expected: int) -> str:
    """Write predictions (M, 21, 2) nested as FreiHAND's pred.json, [xyz, verts], one hand a row in the order of its files.

    This is not what the official script scores: that measures joints in metres in space (and the vertices of a mesh), and
    a network for pictures has no depth. The first list holds 21 [u, v] in pixels for each hand, the second is empty.

    Raises:
        HgfastError: not all `expected` hands have a prediction, a point is not finite, or the file cannot be written.
    """
    if not np.isfinite(points).all():
        row, joint = np.argwhere(~np.isfinite(points))[0, :2].tolist()
        raise HgfastError(
            f"joint {joint} of row {truth.rows[row]} of {truth.source} is not finite: every joint must have a guess"
        )
    if len(points) != expected:
        raise HgfastError(
            f"{expected - len(points)} of the {expected} hands of {truth.source} have no prediction: all must have one"
        )
    write_text(path, json.dumps([points.round(3).tolist(), []]) + "\n", "--submission")
    return f"{len(points)} hands, two dimensions, pixels: FreiHAND's official script scores three, in metres, and will refuse it"


# ---- MPII ----


def _numbered(points: Array, truth: Truth) -> Struct:
    """`pred` (1, RELEASED) with the people of `truth` in their places, and nobody else."""
    assert truth.index is not None and truth.person is not None
    pred = _struct(RELEASED, ("image", "annorect"))
    for index in np.unique(truth.index):
        rows = np.flatnonzero(truth.index == index)
        annorect = _struct(int(truth.person[rows].max()) + 1, ("scale", "objpos", "annopoints"))
        for row in rows:
            person = annorect[0, truth.person[row]]
            person["annopoints"] = _annopoints(points[row])
            if truth.scale is not None and truth.objpos is not None:
                person["scale"], person["objpos"] = truth.scale[row], _one(x=truth.objpos[row, 0], y=truth.objpos[row, 1])
        pred[0, index]["annorect"] = annorect
        if truth.files is not None:
            pred[0, index]["image"] = _one(name=str(truth.files[rows[0]]))
    return pred


def _complete(points: Array, truth: Truth, release: Path) -> tuple[Struct, str]:
    """The test pictures of the release with predictions for separated people, and how many have one."""
    assert truth.index is not None and truth.person is not None
    annolist, img_train, single = _read_release(release)
    test = np.flatnonzero(img_train == 0)
    position = dict(zip(test.tolist(), range(len(test))))
    separated = {(i, int(ridx) - 1) for i in test.tolist() for ridx in np.asarray(single[i]).ravel()}
    wanted = {(i, ridx) for i, ridx in separated if _has_objpos(annolist[i]["annorect"], ridx)}
    pred = annolist[test].reshape(1, -1).copy()
    written = set()
    for row, (index, person) in enumerate(zip(truth.index.tolist(), truth.person.tolist())):
        where = f"{release}: RELEASE.annolist({index + 1})"
        if index not in position:
            raise HgfastError(f"{where}, row {truth.rows[row]} of {truth.source}, is no test picture: give --annotations test.h5")
        record = pred[0, position[index]]
        name = _name(record)
        if truth.files is not None and name != truth.files[row]:
            raise HgfastError(
                f"{where} is {name!r}, row {truth.rows[row]} of {truth.source} is {str(truth.files[row])!r}: they differ"
            )
        if (index, person) not in separated:
            continue
        if person >= np.size(record["annorect"]):
            raise HgfastError(f"{where} has no person {person + 1}, as row {truth.rows[row]} of {truth.source} says: they differ")
        annorect = _with_annopoints(record["annorect"])
        annorect.ravel()[person]["annopoints"] = _annopoints(points[row])
        record["annorect"] = annorect
        written.add((index, person))
    others = f", {len(truth) - len(written)} left out" if len(truth) > len(written) else ""
    missing = len(wanted - written)
    lack = f"; {missing} without one, who will count as wrong" if missing else ""
    return pred, f"{len(test)} test pictures, {len(written)} sufficiently separated people with a prediction{others}{lack}"


def _read_release(path: Path) -> tuple[Struct, NDArray[Any], NDArray[Any]]:
    """annolist, img_train and single_person, (N,) each. Raises `HgfastError` where the file does not have them."""
    try:
        content = read_mat(path, ["RELEASE"])
        release = content["RELEASE"].ravel()[0]
        annolist, img_train, single = (release[name].ravel() for name in ("annolist", "img_train", "single_person"))
        if not len(annolist) == len(img_train) == len(single) or not {"image", "annorect"} <= set(annolist.dtype.names or ()):
            raise ValueError("its lists are of different lengths, or annolist is no struct")
    except (*BROKEN, AttributeError) as error:
        words = " ".join(str(error).split())[:120]
        raise HgfastError(f"{path} cannot be read as MPII's release ({words}): {MAT_FROM} as --release") from error
    return annolist, img_train, single


def _name(record: Any) -> str:
    """The file name of a picture of annolist; empty where there is none."""
    image = record["image"]
    names = image.ravel()[0]["name"].ravel() if image.size and "name" in (image.dtype.names or ()) else []
    return str(names[0]) if len(names) else ""


def _has_objpos(annorect: Any, person: int) -> bool:
    """What flatten_annolist.m asks of a person."""
    names = annorect.dtype.names or ()
    return "objpos" in names and person < annorect.size and bool(np.size(annorect.ravel()[person]["objpos"]))


def _with_annopoints(annorect: Struct) -> Struct:
    """The same struct array with the field annopoints, which the release's test pictures need not have."""
    names = list(annorect.dtype.names or ())
    wider = _struct(annorect.size, (*names, *(["annopoints"] if "annopoints" not in names else [])))
    for name in names:
        wider[name] = annorect[name].reshape(1, -1)
    return wider


def _annopoints(points: Array) -> Struct:
    """annopoints with its struct array `point`: x, y, and id from 0."""
    point = _struct(len(points), ("x", "y", "id"))
    for joint, (x, y) in enumerate(points.tolist()):
        point[0, joint]["x"], point[0, joint]["y"], point[0, joint]["id"] = x, y, float(joint)
    return _one(point=point)


def _struct(count: int, names: tuple[str, ...]) -> Struct:
    """A MATLAB struct array (1, count) whose fields are all []."""
    array = np.empty((1, count), [(name, object) for name in names])
    for name in names:
        for place in range(count):
            array[name][0, place] = NOTHING
    return array


def _one(**values: Any) -> Struct:
    """A MATLAB struct."""
    array = _struct(1, tuple(values))
    for name, value in values.items():
        array[0, 0][name] = value
    return array
