"""Look at every file of a data set before training on it: pictures that cannot be decoded, annotations that cannot be right.

python pipelines/check.py --dataset mpii --data DIR

Takes the flags that train.py has for data. Every picture that cannot be used is listed, one a line: missing, empty, cut short,
no picture, of another size than the layout says (FreiHAND: 224 x 224, COCO: width and height of the image's entry). What is
odd in the annotations is only a warning: labelled joints outside their picture, squares that do not touch it, and FreiHAND's
hands that are in two splits, seen by two cameras at the same instant.

The result is remembered in DIR/hgfast-check.json (--checked FILE: elsewhere). Training leaves its bad pictures out, and the
next check decodes only files that are new or have another size or time.

Exit code: 0 if every picture can be used, 1 if one cannot (missing ones count unless --skip-missing is given) or a split is
broken, 2 if nothing could be checked.
What may enter: the flags, the list and the file that is kept. What is looked at is in `check_pictures` and its neighbours.
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
from hgfast.config import DataChoice
from hgfast.errors import HgfastError, run
from hgfast.machine import cores
from pipelines.check_annotations import Problem, Twins, joints_outside, same_instants, squares_astray
from pipelines.check_pictures import decode, look_at
from pipelines.check_result import (
    NAME,
    Outcome,
    Result,
    State,
    check_writable,
    data_folder,
    names,
    read_result,
    result_file,
    write_result,
)
from pipelines.check_splits import Split, hands_in_space, open_splits, place_of, wanted_sizes

SHOWN, KEPT = 5, 1000  # of a split's odd annotations: on the screen, in the file


@dataclass(kw_only=True)
class CheckConfig(DataChoice):
    """One check of a data set's files."""

    loader: Literal["dali", "torch"] = "dali"
    """what training will decode with: NVIDIA DALI, or OpenCV; a picture is bad if this cannot decode it"""
    threads: int | None = None
    """decoding threads; none: one a core"""
    again: bool = False
    """decode every picture, whatever is remembered"""


@dataclass(frozen=True)
class Findings:
    """What a check found. bad: path -> what is wrong, without missing ones. odd: (split, kind) -> samples, the worst first.
    decoded: how many pictures the decoder had to look at this time."""

    splits: list[Split]
    states: dict[str, State | None]
    bad: dict[str, str]
    odd: dict[tuple[str, str], list[Problem]]
    twins: list[Twins]
    decoded: int

    @property
    def missing(self) -> list[str]:
        return list(dict.fromkeys(path for split in self.splits for path in split.missing))

    @property
    def table(self) -> list[dict[str, Any]]:
        """A row for each split."""
        rows = []
        for split in self.splits:
            pictures = set() if split.samples is None else set(split.samples.paths.tolist())
            rows.append(
                {
                    "split": split.name,
                    "samples": 0 if split.samples is None else len(split.samples),
                    "pictures": len(pictures),
                    "bad": len(pictures & self.bad.keys()),
                    "missing": len(split.missing),
                    **{
                        kind: sum(problem.count for problem in found)
                        for (name, kind), found in self.odd.items()
                        if name == split.name
                    },
                }
            )
        return rows


def check(config: CheckConfig) -> Findings:
    """Look at everything, and remember it. Raises `HgfastError` where there is nothing to look at, or nowhere to write."""
    if config.threads is not None and config.threads < 1:
        raise HgfastError(f"--threads {config.threads} must be at least 1")
    splits = open_splits(config)
    place, folder = result_file(config), data_folder(config)
    old = remembered(config, place)
    check_writable(place)
    paths = list(dict.fromkeys(path for split in splits if split.samples is not None for path in split.samples.paths.tolist()))
    named = dict(zip(paths, names(paths, folder)))
    states, outcomes, decoded = examine(named, config, old, place)
    bad = {path: outcome for path, outcome in outcomes.items() if isinstance(outcome, str)}
    for split in splits:
        bad |= wrong_sizes(config, split, outcomes)
    findings = Findings(
        splits,
        states,
        {path: bad[path] for path in paths if path in bad},
        odd(config, splits, outcomes, bad),
        same_instants(hands_in_space(config, splits)),
        decoded,
    )
    elsewhere = {name: entry for name, entry in old.bad.items() if name not in set(named.values())}
    result = replace(
        old,
        bad=elsewhere | {named[path]: (states[path], reason) for path, reason in findings.bad.items()},
        report=report(config, findings, folder),
    )
    write_result(result, place)
    return findings


def remembered(config: CheckConfig, place: Path) -> Result:
    """What is known of the files, if the same decoder looked at them. A broken result is replaced, but no file that --checked
    names and that may be something else."""
    if not place.exists():
        return Result(config.loader)
    try:
        old = read_result(place)
    except HgfastError as error:
        if place.name != NAME:
            raise
        tqdm.write(f"warning: {error}; everything is decoded anew", file=sys.stderr)
        return Result(config.loader)
    # what another decoder refused stays known as bad until this one has had its say
    return old if old.loader == config.loader and not config.again else Result(config.loader, bad=dict(old.bad))


def examine(
    named: dict[str, str], config: CheckConfig, known: Result, place: Path
) -> tuple[dict[str, State | None], dict[str, Outcome], int]:
    """State and outcome of every path, and how many had to be decoded; what is decoded is added to `known`.

    Broken off, it remembers what it has, so that the next check goes on from there.
    """
    states: dict[str, State | None] = {}
    outcomes: dict[str, Outcome] = {}
    unknown = []
    for path, name in named.items():
        states[path], complaint = look_at(path)
        state = states[path]
        outcome = complaint or (None if state is None else known.recall(name, state))
        if outcome is None:
            unknown.append(path)
        else:
            outcomes[path] = outcome
    with tqdm(total=len(unknown), unit="picture", desc="decode", disable=None, leave=False) as bar:
        try:
            for path, outcome in decode(unknown, config.loader, config.threads or cores()):
                outcomes[path] = outcome
                state = states[path]
                if state is not None:
                    known.remember(named[path], state, outcome)
                bar.update()
        except BaseException:
            if len(outcomes) + len(unknown) > len(named):  # something was decoded
                write_result(known, place)
            raise
    return states, outcomes, len(unknown)


def wrong_sizes(config: DataChoice, split: Split, outcomes: dict[str, Outcome]) -> dict[str, str]:
    """What is wrong with pictures that can be decoded and have another size than the layout or the annotations say."""
    wrong = {}
    for path, (width, height) in wanted_sizes(config, split).items():
        found = outcomes.get(path, "")
        if not isinstance(found, str) and found != (width, height):
            wrong[path] = f"is {found[0]} x {found[1]} pixels, wanted {width} x {height}"
    return wrong


def odd(
    config: DataChoice, splits: list[Split], outcomes: dict[str, Outcome], bad: dict[str, str]
) -> dict[tuple[str, str], list[Problem]]:
    """The samples whose annotations cannot be right, by split and kind."""
    found = {}
    for split in splits:
        if split.samples is None:
            continue
        samples, rows = split.samples, split.rows
        if config.dataset == "freihand":  # the versions of a hand share a row
            rows, first = np.unique(rows, return_index=True)
            samples = samples.take(first)
        nothing = (np.nan, np.nan)
        size = np.array([nothing if path in bad else outcomes[path] for path in samples.paths.tolist()], np.float64)
        found[split.name, "joints outside"] = joints_outside(samples, rows, size)
        found[split.name, "squares astray"] = squares_astray(samples, rows, size)
    return found


def report(config: CheckConfig, findings: Findings, folder: Path) -> dict[str, Any]:
    """What the check found, in plain types for other programs."""
    return {
        "dataset": config.dataset,
        "decoded": findings.decoded,
        "pictures": len(findings.states),
        "bad": len(findings.bad),
        "missing": names(findings.missing, folder),
        "splits": findings.table,
        "refused": {split.name: split.refused for split in findings.splits if split.refused},
        "annotations": [
            {"split": split, "kind": kind, "place": place_of(config, split, problem.row), **asdict(problem)}
            for (split, kind), problems in findings.odd.items()
            for problem in problems[:KEPT]
        ],
        "same_instant": [asdict(pair) for pair in findings.twins[:KEPT]],
    }


def in_words(config: CheckConfig, findings: Findings) -> list[str]:
    """What the check found, line by line."""
    lines = [f"{path}: {reason}" for path, reason in findings.bad.items()]
    lines += [f"{path}: is missing" for path in findings.missing]
    lines += [f"split {split.name}: {split.refused}" for split in findings.splits if split.refused]
    for (split, kind), problems in findings.odd.items():
        lines += [
            f"warning: {place_of(config, split, problem.row)} ({Path(problem.picture).name}): {problem.detail}"
            for problem in problems[:SHOWN]
        ]
        if len(problems) > SHOWN:
            lines.append(f"warning: {len(problems) - SHOWN} more samples of {split} with {kind}, less so")
    lines += [
        f"warning: row {pair.row} ({pair.split}) and row {pair.other_row} ({pair.other_split}) may be one hand at one instant: "
        f"their joints differ by {1000 * pair.difference:.2g} mm"
        for pair in findings.twins[:SHOWN]
    ]
    if len(findings.twins) > SHOWN:
        lines.append(f"warning: {len(findings.twins) - SHOWN} more pairs of hands that may be one")
    return [*lines, tabulate(findings.table, headers="keys"), *_verdict(config, findings)]


def _verdict(config: CheckConfig, findings: Findings) -> list[str]:
    pictures, decoder = len(findings.states), "DALI" if config.loader == "dali" else "OpenCV"
    count = f"{len(findings.bad)} of {pictures} pictures cannot be used, training leaves them out"
    lines = [count if findings.bad else f"all {pictures} pictures can be used"]
    if findings.missing:
        advice = "" if config.skip_missing else ": put them there, or train with --skip-missing"
        lines.append(f"{len(findings.missing)} more are missing{advice}")
    return [*lines, f"{findings.decoded} of them were decoded with {decoder} this time; result: {result_file(config)}"]


def exit_code(config: CheckConfig, findings: Findings) -> int:
    missing = findings.missing and not config.skip_missing
    return int(bool(findings.bad or missing or any(split.refused for split in findings.splits)))


def main() -> None:
    config = parse(CheckConfig, description=__doc__ or "")
    cv2.utils.logging.setLogLevel(0)  # what is wrong with a picture is said once, by us
    findings = check(config)
    print("\n".join(in_words(config, findings)), flush=True)
    raise SystemExit(exit_code(config, findings))


if __name__ == "__main__":
    run(main)
