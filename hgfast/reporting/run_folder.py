"""Read a run's folder for its report: configuration, metrics.jsonl, checkpoint, time and machine.

Missing or broken parts become sentences in `Run.notes`; the report shows the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hgfast import checkpoints
from hgfast.architectures import Architecture
from hgfast.config import Config
from hgfast.errors import HgfastError, one_line
from hgfast.fileio.files import read_text
from hgfast.fileio.yaml_file import read_yaml
from hgfast.model import Meta
from hgfast.reporting.records import to_float

CHECKPOINT_NAMES = ("best.pt", "checkpoint.pt")
"""In order of preference."""
MAX_NAMED_LINES = 3  # broken lines that are listed individually
MetricsLine = dict[str, Any]


@dataclass
class TensorBoardEvents:
    """Start, end and images of a run.

    first_time, last_time: of the first and the last record, in seconds since 1970; None without records. images: step and encoded
    bytes of the last image by tag.
    """

    first_time: float | None = None
    last_time: float | None = None
    images: dict[str, tuple[int, bytes]] = field(default_factory=dict)


class CheckpointInfo(NamedTuple):
    """Content of a checkpoint. metrics: of the validation after `epoch`. best_metric: the metric that selects best.pt.
    machine: where the network was trained. Older files lack the last two: they are None and empty."""

    path: Path
    parameters: int
    arch: Architecture
    meta: Meta
    epoch: int | None
    metrics: Mapping[str, float]
    best_metric: str | None
    revision: str
    machine: Mapping[str, Any]


class Run(NamedTuple):
    """Content of a run's folder. config: empty if config.yaml is missing or broken. lines: the valid lines of metrics.jsonl."""

    folder: Path
    config: Mapping[str, Any]
    config_text: str
    lines: Sequence[MetricsLine]
    network: CheckpointInfo | None
    events: TensorBoardEvents
    notes: list[str]

    @property
    def name(self) -> str:
        return str(self.config.get("exp") or self.folder.resolve().name)

    @property
    def checkpoint(self) -> Path:
        """The preferred checkpoint of the run, which may not exist."""
        paths = [self.folder / name for name in CHECKPOINT_NAMES]
        return next((path for path in paths if path.is_file()), paths[0])

    @property
    def validated_lines(self) -> list[MetricsLine]:
        """The lines with validation metrics."""
        return [line for line in self.lines if validation_metrics(line)]

    @property
    def training_seconds(self) -> float | None:
        """Seconds spent in training steps, without validation, computed from steps and throughput; None if unknown."""
        batch, previous_step, seconds = to_float(self.config.get("batch_size")), 0.0, 0.0
        for line in self.lines:
            step, images_per_s = to_float(line.get("step")), to_float(line.get("images_per_s"))
            if not (images_per_s > 0 and step >= previous_step and batch > 0):
                return None
            seconds += (step - previous_step) * batch / images_per_s
            previous_step = step
        return seconds or None


def validation_metrics(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite validation metrics of a line by name."""
    content = line.get("valid")
    metrics = {str(name): to_float(value) for name, value in content.items()} if isinstance(content, dict) else {}
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def read_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        HgfastError: no folder, or one that no run has written to.
    """
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise HgfastError(f"{folder} {problem}: name the folder of a run, such as exp/NAME")
    expected_files = ("config.yaml", "metrics.jsonl", *CHECKPOINT_NAMES)
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise HgfastError(f"{folder} cannot be read ({error.strerror}): make it readable") from error
    if not names & set(expected_files):
        problem = "is not the folder of a run" if names else "is empty"
        raise HgfastError(
            f"{folder} {problem}: it has none of {', '.join(expected_files)}; give a folder that hgfast train has written"
        )
    notes: list[str] = []
    text, config = _read_config(folder, notes)
    try:
        events = read_events(folder)
    except HgfastError as error:
        events = TensorBoardEvents()
        notes.append(f"{error}.")
    lines = _read_metrics(folder / "metrics.jsonl", notes)
    return Run(folder, config, text, lines, _read_checkpoint(folder, notes), events, notes)


def read_events(folder: Path) -> TensorBoardEvents:
    """Read the TensorBoard events in a run's folder: when it ran, and its images; metrics.jsonl has the metrics.

    Records after a truncated one in the same file are omitted.

    Raises:
        HgfastError: a file cannot be read, or its records are not events.
    """
    events = TensorBoardEvents()
    paths = sorted(filter(Path.is_file, (folder / "events").glob("events.out.tfevents.*")))
    if not paths:
        return events
    try:
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader  # type: ignore[import-untyped]
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
    except ImportError as error:
        raise HgfastError("reading the events of a run requires tensorboard: pip install tensorboard") from error
    for path in paths:
        try:
            for raw in RawEventFileLoader(str(path)).Load():
                event = Event.FromString(raw)
                events.first_time = event.wall_time if events.first_time is None else events.first_time
                events.last_time = event.wall_time
                for value in event.summary.value:
                    if value.HasField("image"):
                        events.images[value.tag] = (event.step, value.image.encoded_image_string)
        except (OSError, DecodeError) as error:
            raise HgfastError(f"{path} cannot be read as events ({one_line(error, 120)}): remove it") from error
    return events


def _read_config(folder: Path, notes: list[str]) -> tuple[str, Mapping[str, Any]]:
    """Return the text of config.yaml and its content."""
    path, text = folder / "config.yaml", ""
    try:
        content = read_text(path)
        values = read_yaml(path, "the configuration")
        text = content
        if isinstance(values, dict):
            return text, Config.upgrade(values)
        problem = "has no keys and values"
    except FileNotFoundError:
        notes.append(f"There is no {path.name}, which training writes when a run begins: the configuration is unknown.")
        return "", {}
    except (OSError, HgfastError) as error:
        problem = f"cannot be read ({error})"
    notes.append(f"{path.name} {problem}: the configuration is unknown.")
    return text, {}


def _read_metrics(path: Path, notes: list[str]) -> list[MetricsLine]:
    """Return the lines of metrics.jsonl that are JSON objects with numeric epoch and step; a note lists the others."""
    try:
        texts = read_text(path).splitlines()
    except FileNotFoundError:
        notes.append(f"There is no {path.name} yet: training writes a line of it after each epoch.")
        return []
    except OSError as error:
        notes.append(f"{path.name} cannot be read ({error.strerror}).")
        return []
    lines, broken = list[MetricsLine](), list[int]()
    for row, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if isinstance(line, dict) and all(math.isfinite(to_float(line.get(name))) for name in ("epoch", "step")):
            lines.append(line)
        elif text.strip():
            broken.append(row)
    if broken:
        more = f" and {len(broken) - MAX_NAMED_LINES} more" if len(broken) > MAX_NAMED_LINES else ""
        notes.append(
            f"{path.name}, {'lines' if len(broken) > 1 else 'line'} {', '.join(map(str, broken[:MAX_NAMED_LINES]))}{more}: not "
            "JSON with epoch and step, omitted; resuming the run removes a truncated line."
        )
    return lines


def _read_checkpoint(folder: Path, notes: list[str]) -> CheckpointInfo | None:
    """Return the content of the first readable checkpoint."""
    for name in CHECKPOINT_NAMES:
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = checkpoints.read(path)
            model = checkpoints.model_from_checkpoint(content, path)
        except HgfastError as error:
            notes.append(f"{error}.")
            continue
        epoch, machine, best_metric = (content.get(key) for key in ("epoch", "machine", "best_by"))
        metrics = validation_metrics({"valid": content.get("metrics")})
        return CheckpointInfo(
            path,
            sum(weights.numel() for weights in model.parameters()),
            model.arch,
            model.meta,
            epoch if isinstance(epoch, int) else None,
            metrics,
            best_metric if isinstance(best_metric, str) and best_metric in metrics else None,
            str(content.get("revision", "unknown")),
            machine if isinstance(machine, dict) else {},
        )
    if not any((folder / name).is_file() for name in CHECKPOINT_NAMES):
        notes.append("There is no checkpoint yet. Training writes best.pt and checkpoint.pt after its first validation.")
    return None
