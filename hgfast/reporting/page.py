"""Render a report: the content of a run in the template `report.html.j2`.

The template escapes everything from files; only the SVG of the curves is inserted unescaped.
"""

from __future__ import annotations

import datetime
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hgfast.errors import HgfastError
from hgfast.reporting.media import CURVE_TAG, GRID_TAG, find_galleries, gallery_from_events, training_curves
from hgfast.reporting.records import (
    JsonFile,
    RunContents,
    Table,
    bench_table,
    column_label,
    epochs_table,
    exports_table,
    format_number,
    format_size,
    format_value,
    joint_table,
    skipped_reasons,
    table,
    to_float,
)
from hgfast.reporting.run_folder import Run, validation_metrics
from hgfast.system_info import describe_machine
from hgfast.training.throughput import format_duration

try:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
except ImportError as error:
    raise HgfastError("a report requires jinja2: pip install jinja2") from error

TEMPLATE = "report.html.j2"
MAX_HEADLINES = 12  # metrics in large print
MAX_LISTED = 40  # a subfolder with more files is listed as one entry

FILE_DESCRIPTIONS = (
    (r"(.*/)?\.[^/]*\.writing(\.[^/]*)?", "incomplete because writing was interrupted: not used, remove it"),
    (r"best\.pt", "the network with the best validation: for hgfast evaluate, predict, export and load_model"),
    (r"checkpoint\.pt", "the latest training state, for hgfast train --resume"),
    (r"checkpoint-\d{8}\.pt", "an older training state, kept by --train.keep-checkpoints"),
    (r"bad-batch-rank\d+\.pt", "a batch with gradients that are not finite, and the network before it"),
    (r"config\.yaml", "the configuration, for --config"),
    (r"metrics\.jsonl", "metrics, one line per epoch"),
    (r"events/.*", "curves and images for tensorboard --logdir"),
    (r"(.*/)?predictions\.json|(.*/)?keypoints\.json", "predicted keypoints of each image"),
    (r".*\.(onnx|torchscript|engine)\.json", "sidecar of the exported network"),
    (r".*\.onnx", "exported network, ONNX"),
    (r".*\.torchscript", "exported network, TorchScript"),
    (r".*\.engine", "exported network, TensorRT"),
    (r".*\.pt", "weights"),
    (r"(.*/)?(sheet|predictions)\.(jpg|png)", "samples: ground truth and prediction"),
    (r"(.*/)?worst\.(jpg|png)", "worst samples: ground truth and prediction"),
    (r"(.*/)?joints\.(png|svg|pdf)", "chart of accuracy per joint"),
    (r"(.*/)?curve\.(png|svg|pdf)", "chart of accuracy against threshold"),
    (r".*\.html?", "report"),
    (r".*\.(jpe?g|png|svg|pdf)", "image"),
    (r".*\.(mp4|avi|mkv|webm)", "video"),
    (r".*\.jsonl?", "JSON"),
)
"""Descriptions of relative paths. The first pattern that matches the whole path applies."""


class FileEntry(NamedTuple):
    """A file, or a subfolder of many files: path relative to the run's folder, size and description."""

    name: str
    size: str
    description: str


def render_page(run: Run, contents: RunContents, out: Path, created: datetime.datetime) -> str:
    """Return the page as HTML.

    Args:
        out: the file that the page will be written to.
        created: the time that the page shows.
    """
    notes = [*run.notes, *contents.notes]
    evaluations = [_evaluation_section(run, file) for file in contents.evaluations]
    galleries = find_galleries(run.folder, {"joints"} if any(section["joints"] for section in evaluations) else set(), notes)
    gallery_names = {gallery.name for gallery in galleries}
    for tag, replacements in ((GRID_TAG, {"sheet", "predictions"}), (CURVE_TAG, {"curve"})):
        if not gallery_names & replacements and (gallery := gallery_from_events(run.events, tag)) is not None:
            galleries.append(gallery)
            gallery_names.add(gallery.name)
    curves, no_curves = _training_curves(run)
    templates = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    known_descriptions = {file.path.resolve(): "result of an evaluation" for file in contents.evaluations}
    known_descriptions |= {file.path.resolve(): "record of a benchmark" for file in contents.records}
    return environment.get_template(TEMPLATE).render(
        run=run,
        now=f"{created:%Y-%m-%d %H:%M %Z}",
        facts=summary_items(run),
        headlines=headline_metrics(run),
        reached=_metrics_source(run),
        notes=list(dict.fromkeys(notes)),
        curves=curves,
        no_curves=no_curves,
        epochs=epochs_table(run.lines) if run.lines else None,
        evaluations=evaluations,
        galleries=galleries,
        gallery_names=gallery_names,
        exports=exports_table(contents.exports, run.folder) if contents.exports else None,
        records=[_benchmark_section(file) for file in contents.records],
        files=Table(("file", "size", "description"), list_files(run.folder, known_descriptions, out), (False, True, False)),
        commands=suggested_commands(run),
    )


def summary_items(run: Run) -> list[tuple[str, str]]:
    """Return the facts in the heading as names and values; unknown values are omitted."""
    config, network = run.config, run.network
    model = _section(config, "model")
    items: list[tuple[str, Any]] = [
        ("data set", config.get("dataset")),
        ("data", config.get("data") or config.get("annotations")),
        ("network", model.get("preset")),
    ]
    if network is not None:
        arch, meta = network.arch, network.meta
        items += [
            ("parameters", f"{network.parameters / 1e6:.2f} million"),
            ("architecture", f"{arch.stacks} {'stacks' if arch.stacks > 1 else 'stack'}, {arch.features} features"),
            ("input", f"{meta.input_size} × {meta.input_size} pixels"),
            ("joints", f"{len(meta.skeleton.joints)} ({meta.skeleton.name})"),
            ("decoder", meta.decoder),
        ]
    train = _section(config, "train")
    items += [
        ("batch size", config.get("batch_size")),
        ("loss", _section(config, "loss").get("name")),
        ("optimizer", " ".join(format_value(train[name]) for name in ("optimizer", "lr") if name in train)),
        ("done", _progress(run)),
        ("trained", _time_range(run)),
        ("took", run.training_seconds and f"{format_duration(run.training_seconds)}, without validation"),
        ("machine", _machine(run)),
        ("revision", network.revision if network else None),
    ]
    return [(name, format_value(value)) for name, value in items if value not in (None, "")]


def headline_metrics(run: Run) -> list[tuple[str, str, bool]]:
    """Return names and values of the best network's metrics, and whether the metric selected it; that one comes first."""
    metrics, best = (dict(run.network.metrics), run.network.best_metric) if run.network else ({}, None)
    if not metrics and run.validated_lines:
        metrics = validation_metrics(run.validated_lines[-1])
    names = sorted(metrics, key=lambda name: name != best)[:MAX_HEADLINES]  # stable
    return [(column_label(name), format_number(metrics[name]), name == best) for name in names]


def suggested_commands(run: Run) -> dict[str, str]:
    """Return the commands that produce what the page may lack."""
    checkpoint, again = str(run.checkpoint), f"{run.folder.resolve().name}-again"
    commands = {
        "again": ["train", "--config", str(run.folder / "config.yaml"), "--exp", again],
        "evaluate": ["report", str(run.folder), "--evaluate"],
        "export": ["export", "onnx", checkpoint],
        "latency": ["bench", "latency", "--checkpoint", checkpoint, "--json", str(run.folder / "latency.json")],
    }
    return {name: shlex.join(["hgfast", *words]) for name, words in commands.items()}


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    return part if isinstance(part, dict) else {}


def _progress(run: Run) -> str | None:
    if not run.lines:
        return None
    last = run.lines[-1]
    return f"{format_number(int(to_float(last['epoch'])))} epochs, {format_number(int(to_float(last['step'])))} steps"


def _time_range(run: Run) -> str | None:
    """Start and end by the TensorBoard events, or else when metrics.jsonl was last written."""
    if run.events.first_time is not None and run.events.last_time is not None:
        first, last = (_format_time(seconds) for seconds in (run.events.first_time, run.events.last_time))
        return first if first == last else f"{first} to {last[11:] if last[:10] == first[:10] else last}"
    path = run.folder / "metrics.jsonl"
    return f"until {_format_time(path.stat().st_mtime)}" if path.is_file() else None


def _format_time(seconds: float) -> str:
    return f"{datetime.datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"


def _machine(run: Run) -> str | None:
    """Description of the machine that trained the network."""
    if run.network is None:
        return None
    about = run.network.machine
    if not about:
        return f"not recorded in {run.network.path.name}"
    ranks = about.get("ranks")
    rank_count = f", {ranks} ranks" if isinstance(ranks, int) and ranks > 1 else ""
    return describe_machine(about) + rank_count


def _metrics_source(run: Run) -> str:
    """Source of the metrics in large print."""
    if run.network is not None and run.network.metrics:
        return f"{run.network.path.name}, validated after epoch {run.network.epoch}"
    return f"the validation after epoch {format_value(run.validated_lines[-1]['epoch'])}" if run.validated_lines else ""


def _training_curves(run: Run) -> tuple[list[dict[str, Any]], str]:
    """Return titles, SVG and alternative texts of the curves, or the reason why there are none."""
    if not run.lines:
        return [], "There are no curves, because metrics.jsonl has no lines. Training writes one after each epoch."
    try:
        curves = training_curves(run.lines)
    except HgfastError as error:
        return [], f"There are no curves: {error}."
    return [{**chart._asdict(), "svg": Markup(chart.svg)} for chart in curves], ""  # noqa: S704  # escaped by matplotlib


def _evaluation_section(run: Run, file: JsonFile) -> dict[str, Any]:
    """Return the content of an evaluation: source, data set and settings, warning, totals, and the accuracy of each joint."""
    content = file.content
    parts = [
        f"{format_value(content['dataset'])}, split {format_value(content['split'])}",
        f"{format_value(content.get('samples'))} samples",
    ]
    if without_image := sum(to_float(content.get(key) or 0) for key in ("unreadable", "skipped")):
        parts.append(f"{format_value(without_image)} without an image")
    if content.get("decoder"):
        parts.append(f"decoded by {format_value(content['decoder'])}")
    if content.get("flip_test"):
        parts.append("with flip test")
    if content.get("normalise"):
        parts.append(f"PCK of {format_value(content['normalise'])}")
    metric, joints = joint_table(content["joints"])
    name = file.path.relative_to(run.folder).as_posix() if file.path.is_relative_to(run.folder) else file.path
    return {
        "source": f"{content['checkpoint']} in {name}",
        "description": ", ".join(parts),
        "note": file.warning,
        "totals": table(content["rows"]),
        "metric": column_label(metric),
        "joints": joints,
    }


def _benchmark_section(file: JsonFile) -> dict[str, Any]:
    """Return the content of a benchmark record: file, command, machine and date, notes, conclusions and rows."""
    content, conclusions = file.content, file.content.get("conclusions")
    parts = [describe_machine(content["machine"]), content["date"][:10], f"revision {content['revision']}"]
    return {
        "source": str(file.path),
        "command": content["command"],
        "description": ", ".join(str(part) for part in parts if part),
        "notes": [*([file.warning] if file.warning else []), *skipped_reasons(content["rows"])],
        "conclusions": [str(line) for line in conclusions] if isinstance(conclusions, list) else [],
        "rows": bench_table(content["rows"]),
    }


def list_files(folder: Path, known_descriptions: Mapping[Path, str], report_path: Path) -> list[FileEntry]:
    """List the files below a folder by name; a subfolder with more than `MAX_LISTED` files is one entry.

    Args:
        known_descriptions: descriptions by resolved path, which take precedence.
        report_path: the report itself, which is omitted.
    """
    entries = list[FileEntry]()
    for parent, folders, names in os.walk(folder):
        folders.sort()
        paths = [Path(parent) / name for name in sorted(names)]
        paths = [path for path in paths if path.resolve() != report_path.resolve()]
        relative = Path(parent).relative_to(folder).as_posix()
        if len(paths) > MAX_LISTED and Path(parent) != folder:
            entries.append(FileEntry(f"{relative}/", format_size(sum(map(_size, paths))), f"{len(paths)} files"))
            continue
        for path in paths:
            name = path.relative_to(folder).as_posix()
            file_description = known_descriptions.get(path.resolve()) or next(
                (description for pattern, description in FILE_DESCRIPTIONS if re.fullmatch(pattern, name)), ""
            )
            link = f" (a link to {path.readlink()})" if path.is_symlink() else ""
            entries.append(FileEntry(name, format_size(_size(path)), file_description + link))
    return entries


def _size(path: Path) -> int:
    """Size in bytes; 0 for a broken link."""
    return path.stat().st_size if path.exists() else 0
