"""Write submissions: MPII's pred_keypoints_mpii.mat, and a two-dimensional variant of FreiHAND's pred.json.

MPII ("Evaluation on MPII Human Pose Dataset", evaluatePCKh.m and flatten_annolist.m of the evaluation toolkit, and
prepareTestResults.m of anibali/eval-mpii-pose): a variable `pred` with the test images of RELEASE.annolist in order with all
their fields, and for each sufficiently separated person annorect(ridx).annopoints.point(1..16) with x, y and id (0-based) in the
original 1-based pixel coordinates. The script reads the people with objpos in that order, so people must be neither added nor
removed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

from hgfast.bench.scoring.ground_truth import FloatArray, GroundTruth
from hgfast.errors import HgfastError, one_line
from hgfast.fileio.files import atomic_write, write_text
from hgfast.pipelines.readers.base import READ_ERRORS
from hgfast.pipelines.readers.mat_file import read_mat
from hgfast.pipelines.readers.mpii_mat import MAT_HINT, MAX_PEOPLE

NUM_RELEASE_IMAGES = 24987
"""Images in RELEASE.annolist of mpii_human_pose_v1_u12_1.mat."""
EMPTY = np.zeros((0, 0))  # MATLAB's []
MANUAL_STEP = (
    "give --release mpii_human_pose_v1_u12_1.mat to check and complete it, or run in MATLAB: "
    "load mpii_human_pose_v1_u12_1; load {name}; pred = pred(RELEASE.img_train == 0); save('{name}', 'pred')"
)

StructArray = NDArray[Any]


def write_mpii(path: Path, keypoints: FloatArray, truth: GroundTruth, release: Path | None) -> str:
    """Write predictions (M, 16, 2) for the M people of `truth` in the format of MPII's evaluation, and return a note.

    With `release`, the path of mpii_human_pose_v1_u12_1.mat, the file is complete and has only sufficiently separated people.
    Without it, `pred` has the length of the whole RELEASE.annolist and only the people of `truth`, with objpos and scale; the
    note contains the line of MATLAB that completes it, and nothing is checked.

    Raises:
        HgfastError: the annotations do not identify people of the release, people are not in its test images, or the file
            cannot be written.
    """
    check_people(truth)
    if release is None:
        pred, note = _pred_without_release(keypoints, truth), f"{len(truth)} people; {MANUAL_STEP.format(name=path.name)}"
    else:
        pred, note = _pred_with_release(keypoints, truth, release)
    if truth.labeled.any():
        note += "; these people are annotated, so they are not in the test set, which is evaluated"
    try:
        with atomic_write(path) as temp_path:
            savemat(str(temp_path), {"pred": pred}, appendmat=False, do_compression=True)
    except OSError as error:
        raise HgfastError(f"cannot write {path} ({error.strerror}): choose another file with --submission") from error
    return note


def check_people(truth: GroundTruth) -> None:
    """Raise `HgfastError` if the annotations do not identify the people in MPII's release."""
    if truth.index is None or truth.person is None:
        raise HgfastError(
            f"{truth.source} does not identify the people in MPII's release: give --annotations test.h5 or valid.h5"
        )
    duplicate = len({*zip(truth.index.tolist(), truth.person.tolist())}) < len(truth)
    if duplicate or truth.index.max() >= NUM_RELEASE_IMAGES or truth.person.max() >= MAX_PEOPLE:
        reason = "contains a person twice" if duplicate else "has an image or person number beyond those of the release"
        raise HgfastError(f"{truth.source} {reason}: give MPII's original test.h5")


def write_freihand(path: Path, keypoints: FloatArray, truth: GroundTruth, expected: int) -> str:
    """Write predictions (M, 21, 2) in the layout of FreiHAND's pred.json, [xyz, verts], one hand per row in file order.

    The official script does not accept this file: it evaluates 3D joints in meters and mesh vertices, and a 2D network has no
    depth. The first list contains 21 [u, v] in pixels for each hand, the second list is empty.

    Raises:
        HgfastError: not all `expected` hands have a prediction, a point is not finite, or the file cannot be written.
    """
    if not np.isfinite(keypoints).all():
        row, joint = np.argwhere(~np.isfinite(keypoints))[0, :2].tolist()
        raise HgfastError(f"joint {joint} of row {truth.rows[row]} of {truth.source} is not finite: predict every joint")
    if len(keypoints) != expected:
        raise HgfastError(
            f"{expected - len(keypoints)} of the {expected} hands of {truth.source} have no prediction: predict all hands"
        )
    write_text(path, json.dumps([keypoints.round(3).tolist(), []]) + "\n", "--submission")
    return f"{len(keypoints)} hands in 2D pixel coordinates: FreiHAND's official script requires 3D in meters and rejects this"


# ---- MPII ----


def _pred_without_release(points: FloatArray, truth: GroundTruth) -> StructArray:
    """Return `pred` (1, NUM_RELEASE_IMAGES) with only the people of `truth`."""
    assert truth.index is not None and truth.person is not None
    pred = _struct_array(NUM_RELEASE_IMAGES, ("image", "annorect"))
    for index in np.unique(truth.index):
        rows = np.flatnonzero(truth.index == index)
        annorect = _struct_array(int(truth.person[rows].max()) + 1, ("scale", "objpos", "annopoints"))
        for row in rows:
            person = annorect[0, truth.person[row]]
            person["annopoints"] = _annopoints(points[row])
            if truth.scale is not None and truth.objpos is not None:
                person["scale"], person["objpos"] = (
                    truth.scale[row],
                    _struct(x=truth.objpos[row, 0], y=truth.objpos[row, 1]),
                )
        pred[0, index]["annorect"] = annorect
        if truth.files is not None:
            pred[0, index]["image"] = _struct(name=str(truth.files[rows[0]]))
    return pred


def _pred_with_release(points: FloatArray, truth: GroundTruth, release: Path) -> tuple[StructArray, str]:
    """Return the test images of the release with predictions for separated people, and a note with their number."""
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
            raise HgfastError(
                f"{where}, row {truth.rows[row]} of {truth.source}, is not a test image: give --annotations test.h5"
            )
        record = pred[0, position[index]]
        name = _image_name(record)
        if truth.files is not None and name != truth.files[row]:
            raise HgfastError(
                f"{where} is {name!r}, but row {truth.rows[row]} of {truth.source} is {str(truth.files[row])!r}: use one release"
            )
        if (index, person) not in separated:
            continue
        if person >= np.size(record["annorect"]):
            raise HgfastError(
                f"{where} has no person {person + 1}, but row {truth.rows[row]} of {truth.source} is that person: use one release"
            )
        annorect = _with_annopoints(record["annorect"])
        annorect.ravel()[person]["annopoints"] = _annopoints(points[row])
        record["annorect"] = annorect
        written.add((index, person))
    left_out_note = f", {len(truth) - len(written)} omitted" if len(truth) > len(written) else ""
    missing = len(wanted - written)
    missing_note = f"; {missing} without a prediction, which count as wrong" if missing else ""
    return (
        pred,
        f"{len(test)} test images, {len(written)} sufficiently separated people with a prediction{left_out_note}{missing_note}",
    )


def _read_release(path: Path) -> tuple[StructArray, NDArray[Any], NDArray[Any]]:
    """Return annolist, img_train and single_person, (N,) each. Raises `HgfastError` if the file does not contain them."""
    try:
        content = read_mat(path, ["RELEASE"])
        release = content["RELEASE"].ravel()[0]
        annolist, img_train, single = (release[name].ravel() for name in ("annolist", "img_train", "single_person"))
        if not len(annolist) == len(img_train) == len(single) or not {"image", "annorect"} <= set(annolist.dtype.names or ()):
            raise ValueError("its lists differ in length, or annolist is not a struct")
    except READ_ERRORS as error:
        raise HgfastError(f"{path} cannot be read as MPII's release ({one_line(error, 120)}): {MAT_HINT} as --release") from error
    return annolist, img_train, single


def _image_name(record: Any) -> str:
    """Return the file name of an image of annolist; "" if there is none."""
    image = record["image"]
    names = image.ravel()[0]["name"].ravel() if image.size and "name" in (image.dtype.names or ()) else []
    return str(names[0]) if len(names) else ""


def _has_objpos(annorect: Any, person: int) -> bool:
    """Return whether a person has objpos, the condition of flatten_annolist.m."""
    names = annorect.dtype.names or ()
    return "objpos" in names and person < annorect.size and bool(np.size(annorect.ravel()[person]["objpos"]))


def _with_annopoints(annorect: StructArray) -> StructArray:
    """Return the struct array with the field annopoints, which test images of the release may lack."""
    names = list(annorect.dtype.names or ())
    extended = _struct_array(annorect.size, (*names, *(["annopoints"] if "annopoints" not in names else [])))
    for name in names:
        extended[name] = annorect[name].reshape(1, -1)
    return extended


def _annopoints(keypoints: FloatArray) -> StructArray:
    """Return annopoints with its struct array `point`: x, y and 0-based id."""
    point = _struct_array(len(keypoints), ("x", "y", "id"))
    for joint, (x, y) in enumerate(keypoints.tolist()):
        point[0, joint]["x"], point[0, joint]["y"], point[0, joint]["id"] = x, y, float(joint)
    return _struct(point=point)


def _struct_array(count: int, names: tuple[str, ...]) -> StructArray:
    """Return a MATLAB struct array (1, count) whose fields are all []."""
    array = np.empty((1, count), [(name, object) for name in names])
    for name in names:
        for column in range(count):
            array[name][0, column] = EMPTY
    return array


def _struct(**values: Any) -> StructArray:
    """Return a MATLAB struct."""
    array = _struct_array(1, tuple(values))
    for name, value in values.items():
        array[0, 0][name] = value
    return array
