"""Check every file of a data set before training: report images that cannot be decoded and implausible annotations.

hgfast check --dataset mpii --data DIR

Takes the data flags of train.py. The check lists every unusable image, one per line: missing, empty, truncated, no image, or of
another size than the layout states (FreiHAND: 224 x 224; COCO: width and height of the image's entry). Annotations only cause
warnings: labeled joints outside their image, crop squares that do not touch it, and FreiHAND hands that appear in two splits,
seen by two cameras at the same instant.

The result is stored in DIR/hgfast-check.json (or in FILE, with --checked FILE). Training leaves the bad images out, and the next
check decodes only files that are new or whose size or modification time changed.

Exit code: 0 if every image can be used, 1 if an image cannot be used (missing images count unless --skip-missing is given) or a
split is broken, 2 if nothing could be checked.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from hgfast.cli import parse
from hgfast.config import DataConfig
from hgfast.errors import HgfastError, run_main
from hgfast.pipelines.checks.annotations import (
    AnnotationIssue,
    DuplicateHand,
    crops_outside_image,
    find_duplicate_hands,
    joints_outside_image,
)
from hgfast.pipelines.checks.images import decode, file_status
from hgfast.pipelines.checks.result import (
    FILE_NAME,
    CheckRecord,
    DecodeOutcome,
    FileStamp,
    check_writable,
    data_folder,
    read_result,
    relative_names,
    result_file,
    write_result,
)
from hgfast.pipelines.checks.splits import CheckedSplit, camera_space_hands, describe_row, expected_sizes, open_splits
from hgfast.system_info import available_cores

MAX_PRINTED, MAX_SAVED = 5, 1000  # suspicious annotations of a split: on the screen, in the file


@dataclass(kw_only=True)
class CheckConfig(DataConfig):
    """Settings of one check of a data set's files."""

    loader: Literal["dali", "opencv"] = "dali"
    """decoder that training will use: NVIDIA DALI or OpenCV; an image is bad if this decoder cannot read it"""
    threads: int | None = None
    """decoding threads; if not given, one per core"""
    again: bool = False
    """decode every image, including those that an earlier check decoded"""


@dataclass(frozen=True)
class CheckFindings:
    """Results of a check.

    bad: path -> reason, without missing images. suspicious: (split, kind) -> samples with suspicious annotations, the worst
    first. duplicates: pairs of hands that may be the same. decoded: number of images that this check decoded.
    """

    splits: list[CheckedSplit]
    states: dict[str, FileStamp | None]
    bad: dict[str, str]
    suspicious: dict[tuple[str, str], list[AnnotationIssue]]
    duplicates: list[DuplicateHand]
    decoded: int

    @property
    def missing(self) -> list[str]:
        return list(dict.fromkeys(path for split in self.splits for path in split.missing))

    @property
    def table(self) -> list[dict[str, Any]]:
        """One row per split."""
        rows = []
        for split in self.splits:
            image_paths = set() if split.samples is None else set(split.samples.paths.tolist())
            rows.append(
                {
                    "split": split.name,
                    "samples": 0 if split.samples is None else len(split.samples),
                    "pictures": len(image_paths),
                    "bad": len(image_paths & self.bad.keys()),
                    "missing": len(split.missing),
                    **{
                        kind: sum(issue.count for issue in issues)
                        for (name, kind), issues in self.suspicious.items()
                        if name == split.name
                    },
                }
            )
        return rows


def check(config: CheckConfig) -> CheckFindings:
    """Check all files and store the result.

    Raises:
        HgfastError: there is nothing to check, or the result cannot be written.
    """
    if config.threads is not None and config.threads < 1:
        raise HgfastError(f"--threads {config.threads} must be at least 1")
    splits = open_splits(config)
    result_path, folder = result_file(config), data_folder(config)
    old = load_previous(config, result_path)
    check_writable(result_path)
    paths = list(dict.fromkeys(path for split in splits if split.samples is not None for path in split.samples.paths.tolist()))
    name_of_path = dict(zip(paths, relative_names(paths, folder)))
    states, outcomes, decoded = decode_new_files(name_of_path, config, old, result_path)
    bad = {path: outcome for path, outcome in outcomes.items() if isinstance(outcome, str)}
    for split in splits:
        bad |= wrong_sizes(config, split, outcomes)
    findings = CheckFindings(
        splits,
        states,
        {path: bad[path] for path in paths if path in bad},
        find_suspicious(config, splits, outcomes, bad),
        find_duplicate_hands(camera_space_hands(config, splits)),
        decoded,
    )
    other_entries = {name: entry for name, entry in old.bad.items() if name not in set(name_of_path.values())}
    result = replace(
        old,
        bad=other_entries | {name_of_path[path]: (states[path], reason) for path, reason in findings.bad.items()},
        report=report(config, findings, folder),
    )
    write_result(result, result_path)
    return findings


def load_previous(config: CheckConfig, place: Path) -> CheckRecord:
    """Return the stored result for these files if the same decoder produced it.

    A broken result is replaced, unless --checked names the file: that file may be something else.
    """
    if not place.exists():
        return CheckRecord(config.loader)
    try:
        old = read_result(place)
    except HgfastError as error:
        if place.name != FILE_NAME:
            raise
        tqdm.write(f"warning: {error}; decoding every image again", file=sys.stderr)
        return CheckRecord(config.loader)
    # images that another decoder refused stay bad until this decoder has read them
    return old if old.loader == config.loader and not config.again else CheckRecord(config.loader, bad=dict(old.bad))


def decode_new_files(
    named: dict[str, str], config: CheckConfig, known: CheckRecord, place: Path
) -> tuple[dict[str, FileStamp | None], dict[str, DecodeOutcome], int]:
    """Return the stamp and the outcome of every path, and the number of images decoded; add new outcomes to `known`.

    If the check is interrupted, the outcomes so far are stored, so that the next check continues from there.
    """
    states: dict[str, FileStamp | None] = {}
    outcomes: dict[str, DecodeOutcome] = {}
    unknown = []
    for path, name in named.items():
        states[path], error = file_status(path)
        state = states[path]
        outcome = error or (None if state is None else known.lookup(name, state))
        if outcome is None:
            unknown.append(path)
        else:
            outcomes[path] = outcome
    with tqdm(total=len(unknown), unit="image", desc="decode", disable=None, leave=False) as bar:
        try:
            for path, outcome in decode(unknown, config.loader, config.threads or available_cores()):
                outcomes[path] = outcome
                state = states[path]
                if state is not None:
                    known.add(named[path], state, outcome)
                bar.update()
        except BaseException:
            if len(outcomes) + len(unknown) > len(named):  # at least one image was decoded
                write_result(known, place)
            raise
    return states, outcomes, len(unknown)


def wrong_sizes(config: DataConfig, split: CheckedSplit, outcomes: dict[str, DecodeOutcome]) -> dict[str, str]:
    """Return the decodable images whose size differs from the one that the layout or the annotations state: path -> reason."""
    wrong = {}
    for path, (width, height) in expected_sizes(config, split).items():
        outcome = outcomes.get(path, "")
        if not isinstance(outcome, str) and outcome != (width, height):
            wrong[path] = f"is {outcome[0]} x {outcome[1]} pixels, wanted {width} x {height}"
    return wrong


def find_suspicious(
    config: DataConfig, splits: list[CheckedSplit], outcomes: dict[str, DecodeOutcome], bad: dict[str, str]
) -> dict[tuple[str, str], list[AnnotationIssue]]:
    """Return the samples whose annotations are implausible, by split and kind."""
    suspicious = {}
    for split in splits:
        if split.samples is None:
            continue
        samples, rows = split.samples, split.rows
        if config.dataset == "freihand":  # the versions of a hand share a row
            rows, first = np.unique(rows, return_index=True)
            samples = samples.take(first)
        unknown_size = (np.nan, np.nan)
        size = np.array([unknown_size if path in bad else outcomes[path] for path in samples.paths.tolist()], np.float64)
        suspicious[split.name, "joints outside"] = joints_outside_image(samples, rows, size)
        suspicious[split.name, "squares astray"] = crops_outside_image(samples, rows, size)
    return suspicious


def report(config: CheckConfig, findings: CheckFindings, folder: Path) -> dict[str, Any]:
    """Return the findings as plain types for other programs."""
    return {
        "dataset": config.dataset,
        "decoded": findings.decoded,
        "pictures": len(findings.states),
        "bad": len(findings.bad),
        "missing": relative_names(findings.missing, folder),
        "splits": findings.table,
        "refused": {split.name: split.refused for split in findings.splits if split.refused},
        "annotations": [
            {
                "split": split,
                "kind": kind,
                "place": describe_row(config, split, issue.row),
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
    lines = [f"{path}: {reason}" for path, reason in findings.bad.items()]
    lines += [f"{path}: is missing" for path in findings.missing]
    lines += [f"split {split.name}: {split.refused}" for split in findings.splits if split.refused]
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
    return [*lines, tabulate(findings.table, headers="keys"), *_summary_lines(config, findings)]


def _summary_lines(config: CheckConfig, findings: CheckFindings) -> list[str]:
    images, decoder = len(findings.states), "DALI" if config.loader == "dali" else "OpenCV"
    count = f"{len(findings.bad)} of {images} images cannot be used; training leaves them out"
    lines = [count if findings.bad else f"all {images} images can be used"]
    if findings.missing:
        advice = "" if config.skip_missing else ": add them, or train with --skip-missing"
        lines.append(f"{len(findings.missing)} more are missing{advice}")
    return [*lines, f"this check decoded {findings.decoded} of them with {decoder}; result: {result_file(config)}"]


def exit_code(config: CheckConfig, findings: CheckFindings) -> int:
    missing = findings.missing and not config.skip_missing
    return int(bool(findings.bad or missing or any(split.refused for split in findings.splits)))


def main() -> None:
    config = parse(CheckConfig, description=__doc__ or "")
    cv2.utils.logging.setLogLevel(0)  # the check reports bad images itself, once
    findings = check(config)
    print("\n".join(format_report(config, findings)), flush=True)
    raise SystemExit(exit_code(config, findings))


if __name__ == "__main__":
    run_main(main)
