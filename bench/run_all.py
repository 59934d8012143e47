"""Run all benchmarks and write a page with their results.

    python bench/run_all.py
    python bench/run_all.py --quick --check
    python bench/run_all.py --checkpoint exp/mpii/best.pt --dataset mpii --data MPII
    python bench/run_all.py --steps [loader,latency] --list

Writes bench/results/MACHINE-DATE.md, a record of the same rows as .json, which bench/compare.py reads, and a chart per step. With
--steps the file names contain the steps; with --quick the files go to exp/bench/quick. With --checkpoint that network is timed
instead of untrained ones, and it and its exports are evaluated on the data set of the flags. The other steps run even if one
fails; the exit code is then 1. --check also exits with 1 if a speedup over princeton in this run is below its limit in
`bench/tables/ratio_checks.py`; times themselves are not checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from hgfast.bench.gpu.step_runner import (
    StepNames,
    StepResult,
    StepsConfig,
    StopSignal,
    describe_step,
    relative_to_root,
    results_table,
    run_step,
    slug,
)
from hgfast.bench.harness.record import (
    ROOT,
    Row,
    gpu_info,
    machine_info,
    machine_words,
    make_record,
    read_record,
    require_checkout,
    write_record,
)
from hgfast.bench.harness.run_all_steps import BENCHMARKS, BenchSettings, data_flags, make_step
from hgfast.bench.tables.charts import draw_chart
from hgfast.bench.tables.columns import text_table
from hgfast.bench.tables.page import BenchResult, render_page
from hgfast.bench.tables.ratio_checks import CHECK_COLUMNS, CheckResult, run_checks
from hgfast.cli import parse
from hgfast.config import DataConfig
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError
from hgfast.fileio.files import prepare_folder, write_text
from hgfast.shutdown import SignalReceived
from hgfast.system_info import available_cores
from hgfast.validation import Range


@dataclass(kw_only=True)
class RunAllConfig(DataConfig, StepsConfig):  # in this order, jsonargparse finds the types of both
    """Settings of a run of all benchmarks."""

    checkpoint: Path | None = None
    """network for latency and, with the flags of a data set, for pckh; none: untrained networks"""
    out: Path | None = None
    """folder of the page, the record and the charts; none: bench/results, with --quick exp/bench/quick"""
    work: Path = Path("exp/bench")
    """folder of the exported files, which later runs reuse, and of the record of each step"""
    cli: Path | None = None
    """path of hgfast_cli, built in export/cpp, whose memory the embedding step measures too"""
    limit: Annotated[float, Range(gt=0)] = 120.0
    check: bool = False
    """check the speedups over princeton, and exit with 1 if one is too low"""

    def validate(self) -> None:
        """Raise `HgfastError` for invalid settings, or outside a checkout."""
        require_checkout("run_all")
        self.select(list(BENCHMARKS))
        if self.checkpoint is not None and not self.checkpoint.is_file():
            raise HgfastError(f"there is no checkpoint {self.checkpoint}: give one that training wrote")
        if self.cli is not None and not self.cli.is_file():
            raise HgfastError(f"there is no file {self.cli}: build it as export/cpp/README.md says")
        if self.checkpoint is None and data_flags(self):
            raise HgfastError(f"{data_flags(self)[0]} requires --checkpoint FILE: give both, or neither")

    @property
    def results(self) -> Path:
        return self.out or Path("exp/bench/quick" if self.quick else "bench/results")


def main() -> None:
    config = parse(RunAllConfig, description=__doc__ or "")
    config.validate()
    names: StepNames = config.select(list(BENCHMARKS))
    gpu = gpu_info()
    settings = BenchSettings(
        work=relative_to_root(config.work),
        quick=config.quick,
        checkpoint=None if config.checkpoint is None else relative_to_root(config.checkpoint),
        data_flags=data_flags(config),
        cores=available_cores(),
        gpu_gb=gpu["gpu_memory_gb"] or 0.0,
        cli=None if config.cli is None else relative_to_root(config.cli),
    )
    if config.list:
        steps = [make_step(name, settings) for name in names]
        print("\n".join(f"# {s.name}: {s.description}\n# {s.skip_reason}" if s.skip_reason else describe_step(s) for s in steps))
        return
    if find_spec("matplotlib") is None:
        raise HgfastError("bench/run_all.py requires matplotlib for its charts: pip install matplotlib")
    prepare_folder(config.results, "--out")
    prepare_folder(ROOT / settings.record_path("").parent, "--work")
    machine = machine_info() | ({key: value for key, value in gpu.items() if value is not None} if settings.gpu_gb else {})
    with StopSignal() as stop:
        results = [run_benchmark(name, settings, config.limit, stop) for name in names]
    raise SystemExit(write_results(config, machine, results))


def run_benchmark(name: str, settings: BenchSettings, limit: float, stop: StopSignal) -> BenchResult:
    """Run a step for at most `limit` minutes and read its record. Raises `SignalReceived` after a signal."""
    step = make_step(name, settings)
    path = ROOT / settings.record_path(name)
    path.unlink(missing_ok=True)  # of an earlier run
    done = run_step(step, 60 * limit, stop)
    if stop.received:
        raise SignalReceived(stop.received, "")
    try:
        return BenchResult(done, read_record(path) if done.has_output else None)
    except HgfastError as error:
        return BenchResult(StepResult(step, "failed", done.seconds, str(error)), None)


def write_results(config: RunAllConfig, machine: Row, results: Sequence[BenchResult]) -> int:
    """Write the record, the charts and the page, print the tables and return the exit code."""
    checks = run_checks({result.name: result.rows for result in results}) if config.check else []
    record = merge_records(machine, results, checks)
    names = "" if len(results) == len(BENCHMARKS) else "-" + "-".join(result.name for result in results)
    machine_name = str(machine["gpu"] or f"{machine['processor']} {machine['cores']} cores")
    stem = f"{slug(machine_name)}-{record['date'][:10]}{names}"
    charts = []
    for result in results:
        chart, title = config.results / f"{stem}-{result.name}.png", f"{result.command}\n{machine_words(record)}"
        charts.append(chart.name if draw_chart(result.name, result.rows, chart, title, "--out") else "")
    write_text(config.results / f"{stem}.md", render_page(record, results, charts, checks, config.quick), "--out")
    print(f"\n{results_table([result.done for result in results], 'rows', [len(result.rows) or '' for result in results])}")
    print(f"page: {config.results / stem}.md")
    write_record(record, config.results / f"{stem}.json")
    if checks:
        print(f"\n{text_table([check.cells for check in checks], CHECK_COLUMNS)}")
    failed = any(result.done.state == "failed" for result in results)
    return int(failed or not all(check.ok for check in checks))


def merge_records(machine: Row, results: Sequence[BenchResult], checks: Sequence[CheckResult]) -> dict[str, Any]:
    """Return one record of all steps: rows have the key `bench`, and `commands` contains the command of each step."""
    records = {result.name: result.record for result in results if result.record is not None}
    rows = [{"bench": name, **row} for name, step_record in records.items() for row in step_record["rows"]]
    measured = {key: value for step_record in records.values() for key, value in step_record["machine"].items()}
    conclusions = [text for result in results for text in result.conclusions]
    record = make_record(rows, {**measured, **machine}, conclusions=conclusions)
    versions = {name: version for step_record in records.values() for name, version in step_record["versions"].items()}
    more: Row = {"commands": {result.name: result.command for result in results if result.record is not None}}
    more["steps"] = [
        {"step": result.name, "state": done.state, "seconds": round(done.seconds, 1), "why": done.reason}
        for result in results
        for done in [result.done]
    ]
    more |= {"checks": [check.row for check in checks]} if checks else {}
    return {**record, "versions": {**record["versions"], **versions}, **more}


if __name__ == "__main__":
    run_main(main)
