"""A run's folder, read for its report: configuration, lines of metrics.jsonl, the network, when and where it was trained.

What is missing or broken becomes a sentence in `Run.notes`, as the rest is still worth seeing.
What may enter: reading what training leaves. Records and artefacts are read by `hgfast.report_records`.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hgfast import checkpoints
from hgfast.errors import HgfastError
from hgfast.report_events import Events, read_events
from hgfast.yaml_file import read_yaml

CHECKPOINTS = ("best.pt", "checkpoint.pt")
"""In the order of which one stands for the run."""
NAMED = 3  # broken lines that are named one by one
Line = dict[str, Any]


@dataclass(frozen=True)
class Network:
    """What a checkpoint says of itself. figures: of the validation after `epoch`. best: the one of them that picks best.pt.
    machine: where it was trained. Files from before these two were recorded have None, and nothing."""

    path: Path
    parameters: int
    stacks: int
    features: int
    input_size: int
    joints: int
    skeleton: str
    decoder: str
    epoch: int | None
    figures: Mapping[str, float]
    best: str | None
    revision: str
    machine: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """All that was found. config: empty where config.yaml is missing or broken. lines: those of metrics.jsonl that are whole."""

    folder: Path
    config: Mapping[str, Any]
    config_text: str
    lines: Sequence[Line]
    network: Network | None
    events: Events
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.config.get("exp") or self.folder.resolve().name)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that stands for the run, there or not."""
        return next((path for name in CHECKPOINTS if (path := self.folder / name).is_file()), self.folder / CHECKPOINTS[0])

    @property
    def validated(self) -> list[Line]:
        """The lines that have figures of a validation."""
        return [line for line in self.lines if figures_of(line)]

    @property
    def seconds(self) -> float | None:
        """How long its steps took, from how many they were and how fast: validations are not in it. None where lines do not
        say."""
        batch, before, seconds = number(self.config.get("batch_size")), 0.0, 0.0
        for line in self.lines:
            step, speed = number(line.get("step")), number(line.get("images_per_s"))
            if not (speed > 0 and step >= before and batch > 0):
                return None
            seconds += (step - before) * batch / speed
            before = step
        return seconds or None


def number(value: Any) -> float:
    """A number as a float, everything else as NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def figures_of(line: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a line's validation that are numbers, by name."""
    figures = line.get("valid")
    found = {str(name): number(value) for name, value in figures.items()} if isinstance(figures, dict) else {}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def read_run(folder: Path) -> Run:
    """What there is of a run in a folder.

    Raises:
        HgfastError: no folder, or one that no run has written to.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise HgfastError(f"{folder} {what}: name the folder of a run, such as exp/NAME")
    parts = ("config.yaml", "metrics.jsonl", *CHECKPOINTS)
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise HgfastError(f"{folder} cannot be read ({error.strerror}): make it readable") from error
    if not names & set(parts):
        what = "is no run's folder" if names else "is empty"
        raise HgfastError(f"{folder} {what}: it has none of {', '.join(parts)}; name one that hgfast/train.py has written")
    notes: list[str] = []
    text, config = _config(folder, notes)
    try:
        events = read_events(folder)
    except HgfastError as error:
        events = Events()
        notes.append(f"{error}.")
    lines = _lines(folder / "metrics.jsonl", notes)
    return Run(folder, config, text, lines, _network(folder, notes), events, notes)


def again(folder: Path) -> str:
    """The command that trains with the same configuration, beside this run."""
    config, name = shlex.quote(str(folder / "config.yaml")), shlex.quote(f"{folder.resolve().name}-again")
    return f"python hgfast/train.py --config {config} --exp {name}"


def _config(folder: Path, notes: list[str]) -> tuple[str, Mapping[str, Any]]:
    """The text of config.yaml and its content."""
    path = folder / "config.yaml"
    try:
        text = path.read_text(errors="replace")
        content = read_yaml(path, "the configuration")
    except FileNotFoundError:
        notes.append(f"There is no {path.name}, which train.py writes when a run begins: how it was trained is not known.")
        return "", {}
    except (OSError, HgfastError) as error:
        notes.append(f"{path.name} cannot be read as YAML ({error}): how it was trained is not known.")
        return "", {}
    if not isinstance(content, dict):
        notes.append(f"{path.name} holds no keys and values: how it was trained is not known.")
        return text, {}
    return text, content


def _lines(path: Path, notes: list[str]) -> list[Line]:
    """The lines of metrics.jsonl that are JSON with numbers as epoch and step; the others are named in a note."""
    try:
        texts = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        notes.append(f"There is no {path.name} yet: training writes a line of it after each epoch.")
        return []
    except OSError as error:
        notes.append(f"{path.name} cannot be read ({error.strerror}).")
        return []
    found, broken = list[Line](), list[int]()
    for row, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if isinstance(line, dict) and all(math.isfinite(number(line.get(name))) for name in ("epoch", "step")):
            found.append(line)
        elif text.strip():
            broken.append(row)
    if broken:
        named = ", ".join(map(str, broken[:NAMED])) + (f" and {len(broken) - NAMED} more" if len(broken) > NAMED else "")
        notes.append(
            f'{path.name}, {"lines" if len(broken) > 1 else "line"} {named}: not what training writes (JSON with "epoch" and '
            '"step"), left out; what a kill cut short goes away when the run is continued.'
        )
    return found


def _network(folder: Path, notes: list[str]) -> Network | None:
    """What the first checkpoint that can be read says."""
    for name in CHECKPOINTS:
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = checkpoints.read(path)
            model = checkpoints.restore(content, path)
        except HgfastError as error:
            notes.append(f"{error}.")
            continue
        meta, arch, epoch = model.meta, model.arch, content.get("epoch")
        machine, best, figures = content.get("machine"), content.get("best_by"), figures_of({"valid": content.get("metrics")})
        return Network(
            path,
            sum(weights.numel() for weights in model.parameters()),
            arch.stacks,
            arch.features,
            meta.input_size,
            len(meta.skeleton.joints),
            meta.skeleton.name,
            meta.decoder,
            epoch if isinstance(epoch, int) else None,
            figures,
            best if isinstance(best, str) and best in figures else None,
            str(content.get("revision", "unknown")),
            machine if isinstance(machine, dict) else {},
        )
    if not any((folder / name).is_file() for name in CHECKPOINTS):
        notes.append("There is no checkpoint yet: training writes best.pt and checkpoint.pt after its first validation.")
    return None
