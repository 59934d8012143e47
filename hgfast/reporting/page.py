"""Render a report: the content of a run in the template `report.html.j2`.

The template escapes everything from files; only the SVG of `hgfast.reporting.curves` is inserted unescaped.
"""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hgfast.errors import HgfastError
from hgfast.reporting.files import list_files
from hgfast.reporting.images import CURVE_TAG, GRID_TAG, find_galleries, gallery_from_events
from hgfast.reporting.records import JsonFile, RunContents
from hgfast.reporting.run_folder import Run, retrain_command, to_float, validation_metrics
from hgfast.reporting.tables import (
    JointRow,
    Table,
    bench_table,
    column_label,
    epochs_table,
    exports_table,
    format_number,
    format_value,
    joint_table,
    skipped_reasons,
    table,
)
from hgfast.system_info import describe_machine
from hgfast.training.throughput import format_duration

try:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
except ImportError as error:
    raise HgfastError("a report requires jinja2: pip install jinja2") from error

TEMPLATE = "report.html.j2"
MAX_HEADLINES = 12  # metrics in large print


@dataclass(frozen=True)
class EvaluationSection:
    """An evaluation: its file, data set and settings, totals, and the accuracy of each joint."""

    source: str
    description: str
    note: str
    totals: Table
    metric: str
    joints: Sequence[JointRow]


@dataclass(frozen=True)
class BenchmarkSection:
    """A benchmark record: its file, command, machine and date, conclusions, and rows."""

    source: str
    command: str
    description: str
    notes: Sequence[str]
    conclusions: Sequence[str]
    rows: Table


def render_page(run: Run, contents: RunContents, out: Path, created: datetime.datetime) -> str:
    """Return the page as HTML.

    Args:
        out: the file that the page will be written to.
        created: the time that the page shows.
    """
    notes = [*run.notes, *contents.notes]
    evaluations = [_evaluation_section(run, file) for file in contents.evaluations]
    galleries = find_galleries(run.folder, {"joints"} if any(part.joints for part in evaluations) else set(), notes)
    gallery_names = {gallery.name for gallery in galleries}
    for tag, replacements in ((GRID_TAG, {"sheet", "predictions"}), (CURVE_TAG, {"curve"})):
        if not gallery_names & replacements and (gallery := gallery_from_events(run.events, tag)) is not None:
            galleries.append(gallery)
            gallery_names.add(gallery.name)
    curves, no_curves_reason = _training_curves(run)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
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
        no_curves=no_curves_reason,
        epochs=epochs_table(run.lines) if run.lines else None,
        evaluations=evaluations,
        galleries=galleries,
        gallery_names=gallery_names,
        exports=exports_table(contents.exports, run.folder) if contents.exports else None,
        records=[_benchmark_section(file) for file in contents.records],
        files=list_files(run.folder, known_descriptions, out),
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
        items += [
            ("parameters", f"{network.parameters / 1e6:.2f} million"),
            ("architecture", f"{network.stacks} {'stacks' if network.stacks > 1 else 'stack'}, {network.features} features"),
            ("input", f"{network.input_size} × {network.input_size} pixels"),
            ("joints", f"{network.joints} ({network.skeleton})"),
            ("decoder", network.decoder),
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
    folder, checkpoint = shlex.quote(str(run.folder)), shlex.quote(str(run.checkpoint))
    return {
        "again": retrain_command(run.folder),
        "evaluate": f"hgfast report {folder} --evaluate",
        "export": f"hgfast export onnx {checkpoint}",
        "latency": f"hgfast bench latency --checkpoint {checkpoint} --json {shlex.quote(str(run.folder / 'latency.json'))}",
    }


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
        from hgfast.reporting import curves
    except HgfastError as error:
        return [], f"There are no curves: {error}."
    charts = curves.training_curves(run.lines)
    return [{"title": chart.title, "alt_text": chart.alt_text, "svg": Markup(chart.svg)} for chart in charts], ""  # noqa: S704  # escaped by matplotlib


def _evaluation_section(run: Run, file: JsonFile) -> EvaluationSection:
    content = file.content
    parts = [
        f"{format_value(content['dataset'])}, split {format_value(content['split'])}",
        f"{format_value(content.get('samples'))} samples",
    ]
    if content.get("unreadable") or content.get("skipped"):
        parts.append(
            f"{format_value(to_float(content.get('unreadable') or 0) + to_float(content.get('skipped') or 0))} without an image"
        )
    if content.get("decoder"):
        parts.append(f"decoded by {format_value(content['decoder'])}")
    if content.get("flip_test"):
        parts.append("with flip test")
    if content.get("normalise"):
        parts.append(f"PCK of {format_value(content['normalise'])}")
    metric, rows = joint_table(content["joints"])
    source = f"{content['checkpoint']} in {_relative_path(run.folder, file.path)}"
    return EvaluationSection(source, ", ".join(parts), file.warning, table(content["rows"]), column_label(metric), rows)


def _benchmark_section(file: JsonFile) -> BenchmarkSection:
    content = file.content
    conclusions = content.get("conclusions")
    parts = [describe_machine(content["machine"]), content["date"][:10]]
    return BenchmarkSection(
        str(file.path),
        content["command"],
        ", ".join([str(part) for part in parts if part] + [f"revision {content['revision']}"]),
        [*([file.warning] if file.warning else []), *skipped_reasons(content["rows"])],
        [str(line) for line in conclusions] if isinstance(conclusions, list) else [],
        bench_table(content["rows"]),
    )


def _relative_path(folder: Path, path: Path) -> str:
    """A path relative to the run's folder, or unchanged if it is outside."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
