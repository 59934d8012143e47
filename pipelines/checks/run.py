"""The file check: decode every image that is new or changed, compare sizes, examine annotations, store and report the result."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from hgfast.errors import HgfastError, printable
from hgfast.fileio.files import prepare_file
from hgfast.pipelines.checks.annotations import (
    AnnotationIssue,
    DuplicateHand,
    crops_outside_image,
    find_duplicate_hands,
    joints_outside_image,
)
from hgfast.pipelines.checks.images import dark_images, decode, file_status
from hgfast.pipelines.checks.result import (
    FILE_NAME,
    CheckConfig,
    CheckRecord,
    DecodeOutcome,
    FileStamp,
    data_folder,
    read_result,
    relative_names,
    result_file,
    write_result,
)
from hgfast.pipelines.checks.shared_images import shared_images
from hgfast.pipelines.datasets import DATASETS, open_samples
from hgfast.pipelines.readers.base import DataSet
from hgfast.pipelines.readers.image_headers import read_headers
from hgfast.pipelines.readers.image_paths import MissingImages
from hgfast.pipelines.readers.skeleton_yaml import sides_problem
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import describe_flip
from hgfast.system_info import available_cores

MAX_PRINTED, MAX_SAVED = 5, 1000  # suspicious annotations of a split: on the screen, in the file


@dataclass(frozen=True)
class CheckedSplit:
    """One split.

    samples: the samples whose image exists, if any. missing: paths of missing images. refused: reason why there are no samples.
    """

    name: str
    samples: Samples | None
    missing: Sequence[str] = ()
    refused: str = ""

    @property
    def paths(self) -> list[str]:
        return [] if self.samples is None else self.samples.paths.tolist()


@dataclass(frozen=True)
class CheckFindings:
    """Results of a check.

    bad: path -> reason, without missing images. suspicious: (split, kind) -> samples with suspicious annotations, the worst
    first. duplicates: pairs of hands that may be the same. warnings: on the images as a whole. decoded: number of images that
    this check decoded.
    """

    splits: list[CheckedSplit]
    states: dict[str, FileStamp | None]
    bad: dict[str, str]
    suspicious: dict[tuple[str, str], list[AnnotationIssue]]
    duplicates: list[DuplicateHand]
    warnings: list[str]
    decoded: int

    @property
    def missing(self) -> list[str]:
        return list(dict.fromkeys(path for split in self.splits for path in split.missing))

    @property
    def table(self) -> list[dict[str, Any]]:
        """One row per split."""
        return [
            {
                "split": split.name,
                "samples": len(split.paths),
                "pictures": len(set(split.paths)),
                "bad": len(set(split.paths) & self.bad.keys()),
                "missing": len(split.missing),
                **{kind: sum(i.count for i in issues) for (name, kind), issues in self.suspicious.items() if name == split.name},
            }
            for split in self.splits
        ]


def check(config: CheckConfig) -> CheckFindings:
    """Check all files and store the result.

    Raises:
        HgfastError: there is nothing to check, or the result cannot be written.
    """
    data_set = DATASETS[config.dataset]
    splits = [open_split(config, name) for name in data_set.splits(config)]
    if all(split.samples is None for split in splits):
        raise HgfastError(splits[0].refused)
    result_path, folder = result_file(config), data_folder(config)
    old = load_previous(config, result_path)
    prepare_file(result_path, "--checked")
    paths = list(dict.fromkeys(path for split in splits for path in split.paths))
    names = dict(zip(paths, relative_names(paths, folder)))
    states, outcomes, decoded = decode_new_files(names, config, old, result_path)
    bad = {path: outcome for path, outcome in outcomes.items() if isinstance(outcome, str)}
    readable = {split.name: split.samples for split in splits if split.samples is not None}
    for split_name, samples in readable.items():
        for path, (width, height) in data_set.image_sizes(config, split_name, samples).items():
            outcome = outcomes.get(path, "")
            if (
                not isinstance(outcome, str)
                and outcome != (width, height)
                and not (
                    outcome == (height, width) and read_headers([path])[1][0] > 1  # the file gives the size before its rotation
                )
            ):
                bad[path] = f"is {outcome[0]} x {outcome[1]} pixels, wanted {width} x {height}"
    suspicious: dict[tuple[str, str], list[AnnotationIssue]] = {}
    for split_name, samples in readable.items():
        suspicious |= find_suspicious(data_set, split_name, samples, {**outcomes, **bad})
    hands = data_set.hands(config, list(readable))
    warnings = shared_images(readable["train"], readable["valid"]) if {"train", "valid"} <= readable.keys() else []
    if dark := dark_images([path for path in paths if path not in bad]):
        warnings.append(
            f"{len(dark)} images of 16 bits use less than an eighth of their range and are nearly black (the first {dark[0]}), "
            "as those of cameras with 10 or 12 bits; save them with 8 bits"
        )
    bad = {path: bad[path] for path in paths if path in bad}
    findings = CheckFindings(splits, states, bad, suspicious, find_duplicate_hands(hands), warnings, decoded)
    other_entries = {name: entry for name, entry in old.bad.items() if name not in set(names.values())}
    new_entries = {names[path]: (states[path], reason) for path, reason in bad.items()}
    write_result(replace(old, bad=other_entries | new_entries, report=report(config, findings, folder)), result_path)
    return findings


def open_split(config: CheckConfig, name: str) -> CheckedSplit:
    """Read a split without samples whose image is missing, and collect the paths of those images."""
    missing: Sequence[str] = ()
    try:
        try:
            samples = open_samples(replace(config, skip_missing=False), name)
        except MissingImages as error:
            missing = error.missing
            samples = open_samples(replace(config, skip_missing=True), name)
    except HgfastError as error:
        return CheckedSplit(name, None, missing, str(error))
    return CheckedSplit(name, samples, missing)


def load_previous(config: CheckConfig, path: Path) -> CheckRecord:
    """Return the stored result for these files if the same decoder produced it.

    A broken result is replaced, unless --checked names the file: that file may be something else.
    """
    if not path.exists():
        return CheckRecord(config.loader)
    try:
        old = read_result(path)
    except HgfastError as error:
        if path.name != FILE_NAME:
            raise
        tqdm.write(f"warning: {error}; decoding every image again", file=sys.stderr)
        return CheckRecord(config.loader)
    # images that another decoder refused stay bad until this decoder has read them
    return old if old.loader == config.loader and not config.again else CheckRecord(config.loader, bad=dict(old.bad))


def decode_new_files(
    names: dict[str, str], config: CheckConfig, known: CheckRecord, result_path: Path
) -> tuple[dict[str, FileStamp | None], dict[str, DecodeOutcome], int]:
    """Return the stamp and the outcome of every path, and the number of images decoded; add new outcomes to `known`.

    If the check is interrupted, the outcomes so far are stored, so that the next check continues from there.
    """
    states: dict[str, FileStamp | None] = {}
    outcomes: dict[str, DecodeOutcome] = {}
    for path, name in names.items():
        state, error = file_status(path)
        states[path] = state
        if outcome := error or (None if state is None else known.lookup(name, state)):
            outcomes[path] = outcome
    unknown = [path for path in names if path not in outcomes]
    with tqdm(total=len(unknown), unit="image", desc="decode", disable=None, leave=False) as bar:
        try:
            for path, outcome in decode(unknown, config.loader, config.threads or available_cores()):
                outcomes[path] = outcome
                if (state := states[path]) is not None:
                    known.add(names[path], state, outcome)
                bar.update()
        except BaseException:
            if len(outcomes) + len(unknown) > len(names):  # at least one image was decoded
                write_result(known, result_path)
            raise
    return states, outcomes, len(unknown)


def find_suspicious(
    data_set: DataSet, split: str, samples: Samples, outcomes: dict[str, DecodeOutcome]
) -> dict[tuple[str, str], list[AnnotationIssue]]:
    """Return a split's samples whose annotations are implausible, by split and kind."""
    rows, first = np.unique(getattr(samples, data_set.numbering), return_index=True)  # the versions of a hand share a row
    samples = samples.take(first)
    sizes = [outcomes[path] for path in samples.paths.tolist()]
    size = np.array([(np.nan, np.nan) if isinstance(size, str) else size for size in sizes], np.float64)
    return {
        (split, "joints outside"): joints_outside_image(samples, rows, size),
        (split, "squares astray"): crops_outside_image(samples, rows, size),
    }


def report(config: CheckConfig, findings: CheckFindings, folder: Path) -> dict[str, Any]:
    """Return the findings as plain types for other programs."""
    return {
        "dataset": config.dataset,
        "decoded": findings.decoded,
        "pictures": len(findings.states),
        "bad": len(findings.bad),
        "missing": relative_names(findings.missing, folder),
        "splits": findings.table,
        "notes": {split.name: list(split.samples.notes) for split in findings.splits if split.samples and split.samples.notes},
        "warnings": findings.warnings,
        "refused": {split.name: split.refused for split in findings.splits if split.refused},
        "annotations": [
            {
                "split": split,
                "kind": kind,
                "place": DATASETS[config.dataset].describe_row(config, split, issue.row),
                "row": issue.row,
                "picture": issue.image,
                "detail": issue.detail,
                "amount": issue.distance,
                "count": issue.count,
            }
            for (split, kind), issues in findings.suspicious.items()
            for issue in issues[:MAX_SAVED]
        ],
        "same_instant": [asdict(pair) for pair in findings.duplicates[:MAX_SAVED]],
    }


def format_report(config: CheckConfig, findings: CheckFindings) -> list[str]:
    """Return the findings as lines of text."""
    describe_row = DATASETS[config.dataset].describe_row
    lines = [f"{path}: {reason}" for path, reason in findings.bad.items()]
    lines += [f"{path}: is missing" for path in findings.missing]
    lines += [f"split {split.name}: {split.refused}" for split in findings.splits if split.refused]
    lines += [
        f"warning: split {split.name}: {note}" for split in findings.splits if split.samples for note in split.samples.notes
    ]
    lines += [f"warning: {text}" for text in findings.warnings]
    skeleton = next(split.samples.skeleton for split in findings.splits if split.samples is not None)
    lines.append(f"{describe_flip(skeleton)} (--augment.flip)")
    if problem := sides_problem(skeleton, config.skeleton):
        lines.append(f"warning: {problem}")
    for (split, kind), issues in findings.suspicious.items():
        lines += [
            f"warning: {describe_row(config, split, issue.row)} ({Path(issue.image).name}): {issue.detail}"
            for issue in issues[:MAX_PRINTED]
        ]
        if len(issues) > MAX_PRINTED:
            lines.append(f"warning: {len(issues) - MAX_PRINTED} more samples of {split} with {kind}, by smaller distances")
    lines += [
        f"warning: row {pair.row} ({pair.split}) and row {pair.other_row} ({pair.other_split}) may be one hand at one instant: "
        f"their joints differ by {1000 * pair.difference:.2g} mm"
        for pair in findings.duplicates[:MAX_PRINTED]
    ]
    if len(findings.duplicates) > MAX_PRINTED:
        lines.append(f"warning: {len(findings.duplicates) - MAX_PRINTED} more pairs may be the same hand")
    lines = [*map(printable, lines), tabulate(findings.table, headers="keys")]
    images, bad, decoder = len(findings.states), len(findings.bad), "DALI" if config.loader == "dali" else "OpenCV"
    all_usable = f"all {images} images can be used"
    lines.append(f"{bad} of {images} images cannot be used; training leaves them out" if bad else all_usable)
    if findings.missing:
        advice = "" if config.skip_missing else ": add them, or train with --skip-missing"
        lines.append(f"{len(findings.missing)} more are missing{advice}")
    return [*lines, f"this check decoded {findings.decoded} of them with {decoder}; result: {printable(result_file(config))}"]


def exit_code(config: CheckConfig, findings: CheckFindings) -> int:
    missing = findings.missing and not config.skip_missing
    skeletons = [split.samples.skeleton for split in findings.splits if split.samples]
    is_half_mirrored = "sides" not in config.allow and any(sides_problem(skeleton, config.skeleton) for skeleton in skeletons)
    return int(bool(findings.bad or missing or is_half_mirrored or any(split.refused for split in findings.splits)))
