"""Find the JSON files of a run (evaluations, benchmark records, sidecars of exported networks) and format them as tables.

Files are classified by their content, not by their names.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from hgfast.errors import HgfastError, one_line
from hgfast.fileio.files import read_text
from hgfast.runtime import sidecar
from hgfast.runtime.sidecar import Sidecar, sha256_of

MAX_JSON_BYTES = 64 << 20  # larger JSON files are ignored
RECORD_KEYS: dict[str, type] = {"machine": dict, "versions": dict, "revision": str, "command": str, "date": str, "rows": list}
"""Keys of a benchmark record and their types."""
EVALUATION_KEYS: dict[str, type] = {"checkpoint": str, "dataset": str, "split": str, "rows": list, "joints": list}
SIDECAR_KEYS: dict[str, type] = {"artefact": str, "sha256": str, "kind": str, "checkpoint_sha256": str}
MODEL_SUFFIXES = (".pt", ".onnx", ".torchscript", ".engine", ".pth", ".tar")
Content = dict[str, Any]
Row = Mapping[str, Any]


class JsonFile(NamedTuple):
    """A file and its content. warning: a sentence about its validity, or empty."""

    path: Path
    content: Content
    warning: str


class ExportedModel(NamedTuple):
    """An exported network. from_this_run: whether its checkpoint is in the run's folder now."""

    path: Path
    sidecar: Sidecar
    from_this_run: bool


@dataclass
class RunContents:
    """The files in a run's folder and those named by --records; evaluations from newest to oldest."""

    evaluations: list[JsonFile] = field(default_factory=list)
    records: list[JsonFile] = field(default_factory=list)
    exports: list[ExportedModel] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class RecordFinder:
    """Finds the files that belong to the run in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.contents = folder, RunContents()
        self._seen = set[Path]()

    def find(self, paths: Sequence[Path]) -> RunContents:
        """Return the files in the folder and in `paths`.

        Raises:
            HgfastError: one of `paths` does not exist or is not one of the three kinds.
        """
        for path in paths:
            if not path.exists():
                raise HgfastError(f"there is no {path}: --records takes JSON files of bench/ and export/, or folders with them")
            if path.is_dir():
                if not any([self._classify(file) for file in find_json_files(path)]):
                    raise HgfastError(
                        f"{path} has no record of bench/ and no sidecar of export/: choose another folder for --records"
                    )
            elif path.resolve() not in self._seen and not self._classify(path):
                default_reason = f"{path} is neither a record of bench/ nor a sidecar of export/"
                reason = self.contents.notes[-1].rstrip(".") if self.contents.notes else default_reason
                raise HgfastError(f"{reason}: remove it from --records")
        for path in find_json_files(self.folder):
            self._classify(path)
        self.contents.evaluations.sort(key=lambda file: -file.path.stat().st_mtime)
        return self.contents

    def _classify(self, path: Path) -> bool:
        """Add a file if it is of one of the three kinds and new. Returns whether it was added."""
        content = None if path.resolve() in self._seen else self._read(path)
        if content is None:
            return False
        if has_keys(content, RECORD_KEYS) and all(isinstance(row, dict) for row in content["rows"]):
            self.contents.records.append(JsonFile(path, content, self._record_warning(content)))
        elif has_keys(content, EVALUATION_KEYS) and all(isinstance(row, dict) for row in content["rows"] + content["joints"]):
            self.contents.evaluations.append(JsonFile(path, content, self._evaluation_warning(path, content)))
        elif not (has_keys(content, SIDECAR_KEYS) and self._add_export(path.with_suffix(""))):
            return False
        self._seen.add(path.resolve())
        return True

    def _read(self, path: Path) -> Content | None:
        """Return a file's content, or None if it is not a JSON object."""
        try:
            if path.stat().st_size > MAX_JSON_BYTES:
                return None
            content = json.loads(read_text(path))
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or one_line(error, 120)
            self.contents.notes.append(f"{path} cannot be read as JSON ({reason}) and is omitted.")
            return None
        return content if isinstance(content, dict) else None

    def _add_export(self, artifact: Path) -> bool:
        """Add an artifact that has a sidecar. Returns whether it was added."""
        try:
            description = sidecar.read_sidecar(artifact)
        except HgfastError as error:
            self.contents.notes.append(f"{error}.")
            return False
        self.contents.exports.append(ExportedModel(artifact, description, description.checkpoint_sha256 in self._checksums))
        return True

    @cached_property
    def _checksums(self) -> set[str]:
        """sha256 of each checkpoint in the folder."""
        return {sha256_of(path) for path in self.folder.glob("*.pt") if path.is_file()}

    def _record_warning(self, record: Content) -> str:
        """A warning if a record is not of this run's network, else an empty string."""
        networks = [Path(arg) for arg in command_words(record) if arg.endswith(MODEL_SUFFIXES)]
        if any(self._is_from_this_run(path) for path in networks):
            return ""
        if networks:
            return f"Its command names {', '.join(map(str, networks[:3]))}, not a checkpoint of this run."
        return "Its command names no checkpoint, so it is not of this run's weights."

    def _is_from_this_run(self, path: Path) -> bool:
        """Whether a file is in this run's folder, is a copy of one of its checkpoints, or was exported from one."""
        try:
            if path.resolve().is_relative_to(self.folder.resolve()):
                return True
            if path.suffix == ".pt" and path.is_file() and sha256_of(path) in self._checksums:  # the same file elsewhere
                return True
            sidecar_file = sidecar.sidecar_path(path)
            content = self._read(sidecar_file) if sidecar_file.is_file() else None
        except (OSError, ValueError):  # not a valid path
            return False
        return content is not None and content.get("checkpoint_sha256") in self._checksums

    def _evaluation_warning(self, path: Path, content: Content) -> str:
        """A warning if an evaluation is not of this run's current network, else an empty string."""
        checkpoint = Path(content["checkpoint"])
        run_checkpoint = self.folder / checkpoint.name
        if checkpoint.parent.name != self.folder.resolve().name:  # relative to whichever working directory
            return f"It is of {checkpoint}, not of this run's folder."
        if run_checkpoint in self.folder.glob("*.pt") and run_checkpoint.stat().st_mtime > path.stat().st_mtime:
            return f"{run_checkpoint.name} has been written since then: evaluate again."
        return ""


def find_json_files(folder: Path) -> Iterator[Path]:
    """Yield the JSON files in a folder and its subfolders, by name."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(parent) / name for name in sorted(files) if name.endswith(".json"))


def has_keys(content: Content, types: Mapping[str, type]) -> bool:
    """Whether it has all of these keys with values of these types."""
    return all(isinstance(content.get(name), expected_type) for name, expected_type in types.items())


def command_words(record: Row) -> list[str]:
    """Split a record's commands into words, including those in [a,b] and --flag=value; add its list of checkpoints."""
    more_commands, checkpoints = record.get("commands"), record.get("checkpoints")
    commands = [record["command"], *(more_commands.values() if isinstance(more_commands, dict) else [])]
    args = list[str]()
    for command in commands:
        try:
            args += shlex.split(str(command))
        except ValueError:
            args += str(command).split()
    args = [part for arg in args for part in re.split(r"[\[\],=]", arg) if part]
    return args + [str(path) for path in (checkpoints if isinstance(checkpoints, list) else [])]


# ---- tables ----

MISSING = "–"
HIDDEN_COLUMNS = {
    *("p90_ms", "noise", "speedup_noise", "memory_mb", "gpu_mb", "floor_ms", "mean_px_error", "rounds", "images_per_s_min"),
    *("images_per_s_max", "bench", "note", "runtime", "over_1px_percent", "joints_counted", "not_finite"),
}
"""Columns of benchmarks that a report omits if there are others."""
COLUMN_LABELS = {
    "auc_0_30px": "AUC, 0 to 30 px",
    "auc_0_30px_mmpose": "AUC, 0 to 30 px (mmpose)",
    "cached": "crops",
    "cpu_ms_per_image": "CPU ms/image",
    "data_wait": "waits for data",
    "epe_median_px": "median error, px",
    "epe_median_px_freihand": "median error, px (FreiHAND)",
    "epe_px": "mean error, px",
    "epe_px_freihand": "mean error, px (FreiHAND)",
    "error_bfloat16": "error, bf16",
    "error_float16": "error, fp16",
    "error_float32": "error, fp32",
    "floor_ms": "roofline, ms",
    "eager_memory_ms": "memory of eager, ms",
    "conv_memory_ms": "memory of convolutions, ms",
    "gpu_ms": "GPU, ms",
    "growth_kb": "memory growth, kB",
    "images_per_s": "images/s",
    "kind": "heatmaps",
    "loader_ms": "loader, ms",
    "lr": "learning rate",
    "max_px": "largest distance, px",
    "max_px_error": "largest error, px",
    "mean_px": "mean distance, px",
    "mean_px_error": "mean error, px",
    "median_ms": "median, ms",
    "memory_gb": "memory, GB",
    "memory_mb": "memory, MB",
    "network_images_per_s": "images/s, network alone",
    "noise": "±",
    "p90_ms": "p90, ms",
    "p99_ms": "p99, ms",
    "p99_px": "p99 distance, px",
    "preset": "network",
    "speedup": "× princeton",
    "start_memory_mb": "start, MB",
    "start_s": "start, s",
    "step_ms": "step, ms",
    "step_speedup": "step, × princeton",
    "tflops": "TFLOP/s",
    "times_one_thread": "× one thread",
    "times_seed_style": "× princeton",
    "way": "variant",
    "what": "run as",
}
"""Titles of columns by key, in reports and in the tables of bench/; other keys are their own titles."""
PCK_NAME = re.compile(r"(pckh?)(_image)?@([\d.]+)")
TIMING_COLUMNS = ("median_ms", "images_per_s", "step_ms")
"""A benchmark row with one of these columns and no value in it was not measured."""
MAX_ROWS = 200  # of a table


class JointRow(NamedTuple):
    """A joint: its name, its accuracy as text and as a fraction of 1, its mean error as text."""

    name: str
    accuracy: str
    fraction: float
    error: str


class Table(NamedTuple):
    """Text in columns. numeric: which columns are numbers. caption: what all rows have in common."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[bool]
    caption: str = ""


def to_float(value: Any) -> float:
    """Convert a number to float, anything else to NaN."""
    if not is_number(value):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def is_number(value: Any) -> bool:
    """Whether a value is a number and not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def format_value(value: Any) -> str:
    """Format a value: four digits of a number, a dash for a missing value."""
    if value is None or value == "":
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if is_number(value):
        return format_number(value)
    return value if isinstance(value, str) else json.dumps(value)[:120]


def format_number(value: float) -> str:
    """Format a number to four digits, with thin spaces between thousands; very small and very large ones with an exponent."""
    if not math.isfinite(to_float(value)):
        return MISSING
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u2009")
    if value and not 1e-3 <= abs(value) < 1e7:
        return f"{value:.2e}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}".replace(",", "\u2009")


def format_size(size: int) -> str:
    """Format a file size in bytes."""
    if size < 1000:
        return f"{size} bytes"
    power = min(int(math.log10(size)) // 3, 4)
    return f"{size / 1000**power:.3g} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


def column_label(name: str) -> str:
    """Return a column's heading."""
    if match := PCK_NAME.fullmatch(name):
        return f"{match[1].replace('pck', 'PCK')}@{match[3]}{' of the image' if match[2] else ''}"
    return COLUMN_LABELS.get(name, name.replace("_", " "))


def table(rows: Sequence[Row], columns: Iterable[str] | None = None, merge_constant: bool = False) -> Table:
    """Return rows as a table with every column that has a value in any row.

    Args:
        columns: columns to choose from; None: all, in their order.
        merge_constant: move columns with the same value in all of several rows to the caption, except floats.
    """
    candidates = dict.fromkeys(str(name) for row in rows for name in row) if columns is None else columns
    names = [name for name in candidates if any(format_value(row.get(name)) != MISSING for row in rows)]
    constant = list[str]()
    if merge_constant and len(rows) > 1:
        first = rows[0]
        constant = [
            n for n in names[1:] if all(row.get(n) == first.get(n) for row in rows) and not isinstance(first.get(n), float)
        ]
        names = [name for name in names if name not in constant]
    numeric = [all(row.get(name) is None or is_number(row.get(name)) for row in rows) for name in names]
    common = ", ".join(f"{column_label(name)} {format_value(rows[0][name])}" for name in constant)
    captions = [f"In all rows: {common}."] if common else []
    if len(rows) > MAX_ROWS:
        captions.append(f"The first {MAX_ROWS} of {len(rows)} rows.")
    cells = [[format_value(row.get(name)) for name in names] for row in rows[:MAX_ROWS]]
    return Table([column_label(name) for name in names], cells, numeric, " ".join(captions))


def bench_table(rows: Sequence[Row]) -> Table:
    """Return the rows of a benchmark that were measured."""
    measured = [row for row in rows if not is_skipped(row)]
    names = list(dict.fromkeys(str(name) for row in measured for name in row))
    return table(measured, [name for name in names if name not in HIDDEN_COLUMNS] or names, merge_constant=True)


def skipped_reasons(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each reason why rows of a benchmark were not measured."""
    reasons: dict[str, list[str]] = {}
    for row in filter(is_skipped, rows):
        name = " ".join(format_value(row[key]) for key in ("way", "loader", "precision") if row.get(key))
        reasons.setdefault(format_value(row.get("note") or row.get("reason")), []).append(name)
    return [f"Not measured, {reason}: {', '.join(dict.fromkeys(names))}." for reason, names in reasons.items()]


def is_skipped(row: Row) -> bool:
    """Whether a row was not measured."""
    candidates = [name for name in TIMING_COLUMNS if name in row]
    return bool(candidates) and all(row[name] is None for name in candidates)


def epochs_table(lines: Sequence[Row]) -> Table:
    """Return metrics.jsonl as a table, validation metrics in separate columns."""
    rows = [dict(line) for line in lines[-MAX_ROWS:]]
    for row in rows:
        valid = row.pop("valid", None)
        row |= valid if isinstance(valid, dict) else {}
    return table(rows)


def joint_table(rows: Sequence[Row]) -> tuple[str, list[JointRow]]:
    """Return the metric of the joints and a row for each; see `visualization.overlays.joint_metrics`."""
    metric = next((str(name) for name in (rows[0] if rows else {}) if name not in ("joint", "epe_px")), "")
    if not metric:
        return "", []
    joint_rows = []
    for row in rows:
        fraction = to_float(row.get(metric)) / (100.0 if metric.startswith("pckh") else 1.0)
        name, accuracy, error = (format_value(row.get(key)) for key in ("joint", metric, "epe_px"))
        joint_rows.append(JointRow(name, accuracy, min(max(fraction, 0.0), 1.0) if math.isfinite(fraction) else 0.0, error))
    return metric, joint_rows


def exports_table(exports: Sequence[ExportedModel], folder: Path) -> Table:
    """Return a table of exported networks with the results of their verification."""
    rows: list[Row] = []
    for artifact, description, from_this_run in exports:
        resolved, root = artifact.resolve(), folder.resolve()
        rows.append(
            {
                "file": str(resolved.relative_to(root) if resolved.is_relative_to(root) else artifact),
                "precision": description.precision,
                "size": format_size(artifact.stat().st_size),
                **verification_cells(description.verification),
                "exported from": "this checkpoint" if from_this_run else "another checkpoint",
                "created": description.created[:10],
                "format": description.export_format,
                "input": f"{' × '.join(map(str, description.input.shape))} {description.input.dtype}",
                "batch": description.batch.as_flag,
            }
        )
    return table(rows)


def verification_cells(verification: Row | None) -> dict[str, Any]:
    """Return the largest distance, accuracy and verdict of a sidecar's verification."""
    rows = [row for row in (verification or {}).get("rows", []) if isinstance(row, dict)]
    accuracy = (verification or {}).get("accuracy")
    distances = [value for row in rows if math.isfinite(value := to_float(row.get("max_px")))]
    verdicts = list(dict.fromkeys(str(row["verdict"]) for row in rows if row.get("verdict")))
    scores = None
    if isinstance(accuracy, dict):
        metric, checkpoint_score, exported_score = (format_value(accuracy.get(k)) for k in ("metric", "checkpoint", "artefact"))
        scores = f"{metric}: {checkpoint_score} → {exported_score} %"
    return {
        "max_px": max(distances, default=None),
        "accuracy, checkpoint → this": scores,
        "compared with the checkpoint": "; ".join(verdicts) or ("by accuracy" if isinstance(accuracy, dict) else "no"),
    }
