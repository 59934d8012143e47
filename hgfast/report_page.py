"""The page of a report: what was found of a run, put into `report.html.j2`.

Everything from files is escaped there; only SVG that `hgfast.report_charts` has drawn goes in as it is.
What may enter: sentences and the order of the page. Reading and drawing are done elsewhere.
"""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hgfast.costs import in_words
from hgfast.errors import HgfastError
from hgfast.machine import describe_machine
from hgfast.report_files import files
from hgfast.report_pictures import CURVE, GRID, from_events, galleries
from hgfast.report_records import Found, Json
from hgfast.report_run import Run, again, figures_of, number
from hgfast.report_tables import (
    Joint,
    Table,
    bench_table,
    epochs_table,
    exports_table,
    in_digits,
    joints,
    label,
    left_out,
    table,
    words,
)

try:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
except ImportError as error:
    raise HgfastError("a report is written with the package jinja2: pip install jinja2") from error

TEMPLATE = "report.html.j2"
HEADLINES = 12  # figures in large print


@dataclass(frozen=True)
class Evaluated:
    """An evaluation: where it lies, what it is of, its totals, and every joint's accuracy."""

    source: str
    about: str
    note: str
    totals: Table
    figure: str
    joints: Sequence[Joint]


@dataclass(frozen=True)
class Measured:
    """A record of benchmarks: where it lies, how and where it was made, what it concludes, its rows."""

    source: str
    command: str
    about: str
    notes: Sequence[str]
    conclusions: Sequence[str]
    rows: Table


def page(run: Run, found: Found, out: Path, now: datetime.datetime) -> str:
    """The whole page.

    Args:
        out: where it will lie.
        now: when it is made.
    """
    notes = [*run.notes, *found.notes]
    evaluations = [_evaluated(run, one) for one in found.evaluations]
    shown = galleries(run.folder, {"joints"} if any(one.joints for one in evaluations) else set(), notes)
    kinds = {gallery.kind for gallery in shown}
    for tag, instead in ((GRID, {"sheet", "predictions"}), (CURVE, {"curve"})):
        if not kinds & instead and (gallery := from_events(run.events, tag)) is not None:
            shown.append(gallery)
            kinds.add(gallery.kind)
    curves, no_curves = _curves(run)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    known = {one.path.resolve(): "result of an evaluation" for one in found.evaluations}
    known |= {one.path.resolve(): "record of a benchmark" for one in found.records}
    return environment.get_template(TEMPLATE).render(
        run=run,
        now=f"{now:%Y-%m-%d %H:%M %Z}",
        facts=facts(run),
        headlines=headlines(run),
        reached=_reached(run),
        notes=list(dict.fromkeys(notes)),
        curves=curves,
        no_curves=no_curves,
        epochs=epochs_table(run.lines) if run.lines else None,
        evaluations=evaluations,
        galleries=shown,
        kinds=kinds,
        exports=exports_table(found.exports, run.folder) if found.exports else None,
        records=[_measured(one) for one in found.records],
        files=files(run.folder, known, out),
        commands=commands(run),
    )


def facts(run: Run) -> list[tuple[str, str]]:
    """What the heading tells of a run: names and values, those that are known."""
    config, network = run.config, run.network
    model = _part(config, "model")
    found: list[tuple[str, Any]] = [
        ("data set", config.get("dataset")),
        ("data", config.get("data") or config.get("annotations")),
        ("network", model.get("preset")),
    ]
    if network is not None:
        found += [
            ("parameters", f"{network.parameters / 1e6:.2f} million"),
            ("form", f"{network.stacks} {'stacks' if network.stacks > 1 else 'stack'}, {network.features} features"),
            ("input", f"{network.input_size} × {network.input_size} pixels"),
            ("joints", f"{network.joints} ({network.skeleton})"),
            ("decoder", network.decoder),
        ]
    train = _part(config, "train")
    found += [
        ("batch size", config.get("batch_size")),
        ("loss", _part(config, "loss").get("name")),
        ("optimizer", " ".join(words(train[name]) for name in ("optimizer", "lr") if name in train)),
        ("done", _done(run)),
        ("trained", _when(run)),
        ("took", run.seconds and f"{in_words(run.seconds)}, without validations"),
        ("machine", _machine(run)),
        ("revision", network.revision if network else None),
    ]
    return [(name, words(value)) for name, value in found if value not in (None, "")]


def headlines(run: Run) -> list[tuple[str, str, bool]]:
    """The figures of the network that validated best: names, values, and which of them picked it, which comes first."""
    figures, best = (dict(run.network.figures), run.network.best) if run.network else ({}, None)
    if not figures and run.validated:
        figures = figures_of(run.validated[-1])
    names = sorted(figures, key=lambda name: name != best)[:HEADLINES]  # stable
    return [(label(name), in_digits(figures[name]), name == best) for name in names]


def commands(run: Run) -> dict[str, str]:
    """How to get what a page may lack."""
    folder, checkpoint = shlex.quote(str(run.folder)), shlex.quote(str(run.checkpoint))
    return {
        "again": again(run.folder),
        "evaluate": f"python hgfast/report.py {folder} --evaluate",
        "export": f"python export/to_onnx.py {checkpoint}",
        "latency": f"python bench/latency.py --checkpoint {checkpoint} --json {shlex.quote(str(run.folder / 'latency.json'))}",
        "matplotlib": "pip install matplotlib",
    }


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    return part if isinstance(part, dict) else {}


def _done(run: Run) -> str | None:
    if not run.lines:
        return None
    last = run.lines[-1]
    return f"{in_digits(int(number(last['epoch'])))} epochs, {in_digits(int(number(last['step'])))} steps"


def _when(run: Run) -> str | None:
    """From when to when, by TensorBoard's events, else when the newest line of metrics.jsonl was written."""
    if run.events.began is not None and run.events.ended is not None:
        began, ended = (_local(seconds) for seconds in (run.events.began, run.events.ended))
        return began if began == ended else f"{began} to {ended[11:] if ended[:10] == began[:10] else ended}"
    path = run.folder / "metrics.jsonl"
    return f"until {_local(path.stat().st_mtime)}" if path.is_file() else None


def _local(seconds: float) -> str:
    return f"{datetime.datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"


def _machine(run: Run) -> str | None:
    """Where it was trained, in words."""
    if run.network is None:
        return None
    about = run.network.machine
    if not about:
        return f"not recorded in {run.network.path.name}"
    ranks = about.get("ranks")
    many = f", {ranks} ranks" if isinstance(ranks, int) and ranks > 1 else ""
    return describe_machine(about) + many


def _reached(run: Run) -> str:
    """Where the figures in large print come from."""
    if run.network is not None and run.network.figures:
        return f"{run.network.path.name}, validated after epoch {run.network.epoch}"
    return f"the validation after epoch {words(run.validated[-1]['epoch'])}" if run.validated else ""


def _curves(run: Run) -> tuple[list[dict[str, Any]], str]:
    """Titles, SVG and words of the curves, or why there are none."""
    if not run.lines:
        return [], "There are no curves, as metrics.jsonl has no lines: training writes one after each epoch."
    try:
        from hgfast import report_charts
    except HgfastError as error:
        return [], f"There are no curves: {error}."
    drawn = report_charts.charts(run.lines)
    return [{"title": one.title, "words": one.words, "svg": Markup(one.svg)} for one in drawn], ""  # noqa: S704  # ours, escaped by matplotlib


def _evaluated(run: Run, one: Json) -> Evaluated:
    content = one.content
    parts = [f"{words(content['dataset'])}, split {words(content['split'])}", f"{words(content.get('samples'))} samples"]
    if content.get("unreadable") or content.get("skipped"):
        parts.append(f"{words(number(content.get('unreadable') or 0) + number(content.get('skipped') or 0))} without a picture")
    if content.get("decoder"):
        parts.append(f"decoded by {words(content['decoder'])}")
    if content.get("flip_test"):
        parts.append("with the mirrored picture")
    if content.get("normalise"):
        parts.append(f"PCK of {words(content['normalise'])}")
    figure, rows = joints(content["joints"])
    source = f"{content['checkpoint']} in {_below(run.folder, one.path)}"
    return Evaluated(source, ", ".join(parts), one.note, table(content["rows"]), label(figure), rows)


def _measured(one: Json) -> Measured:
    content = one.content
    about, conclusions = content["machine"], content.get("conclusions")
    parts = [describe_machine(about), content["date"][:10]]
    return Measured(
        str(one.path),
        content["command"],
        ", ".join([str(part) for part in parts if part] + [f"revision {content['revision']}"]),
        [*([one.note] if one.note else []), *left_out(content["rows"])],
        [str(line) for line in conclusions] if isinstance(conclusions, list) else [],
        bench_table(content["rows"]),
    )


def _below(folder: Path, path: Path) -> str:
    """A path from the run's folder on, or as it is where it lies elsewhere."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
