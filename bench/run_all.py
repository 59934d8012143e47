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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from hgfast.bench.gpu.step_runner import StepResult, run_step, shell_command
from hgfast.bench.gpu.steps import Step
from hgfast.bench.gpu_check import gpu_info, relative_to_root, slug
from hgfast.bench.harness.record import ROOT, Row, machine_info, make_record, require_checkout, write_record
from hgfast.bench.harness.records import Record, machine_words, read_record, without_outputs
from hgfast.bench.harness.run_all_steps import BENCHMARKS, BenchSettings, data_flags, make_step
from hgfast.bench.tables.ratio_checks import CheckResult, checks_table, run_checks
from hgfast.bench.tables.results_page import Section, render_page
from hgfast.cli import parse
from hgfast.config import DataConfig
from hgfast.errors import HgfastError, run_main
from hgfast.fileio.files import prepare_folder, write_text
from hgfast.system_info import available_cores
from hgfast.training.shutdown import raise_on_sigterm

StepNames = list[str]  # `list` is a flag inside RunAllConfig
DrawChart = Callable[[str, Sequence[Row], Path, str], bool]
"""`results_chart.draw_chart`, whose import requires matplotlib."""


@dataclass(kw_only=True)
class RunAllConfig(DataConfig):
    """Settings of a run of all benchmarks."""

    quick: bool = False
    """short runs, for a smoke test; the results are not meaningful"""
    steps: StepNames = field(default_factory=lambda: [])
    """run only these steps, for example [loader,latency]; none: all; --list prints their names"""
    checkpoint: Path | None = None
    """network for latency and, with the flags of a data set, for pckh; none: untrained networks"""
    out: Path | None = None
    """folder of the page, the record and the charts; none: bench/results, with --quick exp/bench/quick"""
    work: Path = Path("exp/bench")
    """folder of the exported files, which later runs reuse, and of the record of each step"""
    cli: Path | None = None
    """path of hgfast_cli, built in export/cpp, whose memory the embedding step measures too"""
    limit: float = 120.0
    """time limit of a step in minutes, after which it is terminated and fails"""
    check: bool = False
    """check the speedups over princeton, and exit with 1 if one is too low"""
    list: bool = False
    """print the commands without running them"""

    def validate(self) -> None:
        """Raise `HgfastError` for invalid settings, or outside a checkout."""
        require_checkout("run_all")
        if self.limit <= 0:
            raise HgfastError(f"--limit is {self.limit:g}, must be above 0")
        if unknown := [name for name in self.steps if name not in BENCHMARKS]:
            raise HgfastError(f"--steps: {unknown[0]!r} is unknown; choose from {', '.join(BENCHMARKS)}")
        if self.checkpoint is not None and not self.checkpoint.is_file():
            raise HgfastError(f"there is no checkpoint {self.checkpoint}: give one that training wrote")
        if self.cli is not None and not self.cli.is_file():
            raise HgfastError(f"there is no file {self.cli}: build it as export/cpp/README.md says")
        if self.checkpoint is None and data_flags(self):
            raise HgfastError(f"{data_flags(self)[0]} requires --checkpoint FILE: give both, or neither")

    @property
    def names(self) -> StepNames:
        """The steps to run, in order."""
        return [name for name in BENCHMARKS if not self.steps or name in self.steps]

    @property
    def results(self) -> Path:
        return self.out or Path("exp/bench/quick" if self.quick else "bench/results")


def main() -> None:
    config = parse(RunAllConfig, description=__doc__ or "")
    config.validate()
    settings = make_settings(config)
    if config.list:
        print("\n".join(describe_step(make_step(name, settings)) for name in config.names))
        return
    from hgfast.bench.tables.results_chart import draw_chart  # before measuring, because it fails without matplotlib

    prepare_folder(config.results, "--out")
    prepare_folder(ROOT / settings.record_path("").parent, "--work")
    machine = machine_info() | ({key: value for key, value in gpu_info().items() if value is not None} if settings.gpu_gb else {})
    with raise_on_sigterm():  # on SIGTERM the processes of a step are terminated too
        results = [run_benchmark(name, settings, config.limit) for name in config.names]
    raise SystemExit(write_results(config, machine, results, draw_chart))


# ---- running ----


@dataclass(frozen=True)
class BenchResult:
    """The result of a step and its record; None if the step failed."""

    step_result: StepResult
    record: Record | None

    @property
    def step(self) -> Step:
        return self.step_result.step

    @property
    def rows(self) -> Sequence[Row]:
        return [] if self.record is None else self.record["rows"]

    @property
    def command(self) -> str:
        return without_outputs(shell_command(self.step.command))


def make_settings(config: RunAllConfig) -> BenchSettings:
    """Return the settings of the steps."""
    return BenchSettings(
        work=relative_to_root(config.work),
        quick=config.quick,
        checkpoint=None if config.checkpoint is None else relative_to_root(config.checkpoint),
        data_flags=data_flags(config),
        cores=available_cores(),
        gpu_gb=gpu_info()["gpu_memory_gb"] or 0.0,
        cli=None if config.cli is None else relative_to_root(config.cli),
    )


def describe_step(step: Step) -> str:
    return f"# {step.name}: {step.description}\n{f'# {step.skip_reason}' if step.skip_reason else shell_command(step.command)}"


def run_benchmark(name: str, settings: BenchSettings, limit: float) -> BenchResult:
    """Run a step for at most `limit` minutes and read its record."""
    step = make_step(name, settings)
    path = ROOT / settings.record_path(name)
    path.unlink(missing_ok=True)  # of an earlier run
    result = run_step(step, 60 * limit)
    if result.state != "ok":
        return BenchResult(result, None)
    try:
        return BenchResult(result, read_record(path))
    except HgfastError as error:
        return BenchResult(StepResult(step, "failed", result.seconds, str(error)), None)


# ---- results ----


def write_results(config: RunAllConfig, machine: Row, results: Sequence[BenchResult], draw: DrawChart) -> int:
    """Write the record, the charts and the page, print the tables and return the exit code."""
    check_results = run_checks({result.step.name: result.rows for result in results}) if config.check else []
    record = merge_records(machine, results, check_results)
    names = "" if len(results) == len(BENCHMARKS) else "-" + "-".join(result.step.name for result in results)
    stem = f"{slug(machine_name(machine))}-{record['date'][:10]}{names}"
    write_record(record, config.results / f"{stem}.json")
    sections = []
    for result in results:
        chart = config.results / f"{stem}-{result.step.name}.png"
        has_chart = draw(result.step.name, result.rows, chart, f"{result.command}\n{machine_words(record)}")
        sections.append(make_section(result, chart.name if has_chart else ""))
    write_text(config.results / f"{stem}.md", render_page(record, sections, check_results, config.quick), "--out")
    print(f"\n{results_table(results)}\n{config.results / stem}.md\n{config.results / stem}.json")
    if check_results:
        print(f"\n{checks_table(check_results)}")
    failed = any(result.step_result.state == "failed" for result in results)
    return int(failed or not all(check_result.ok for check_result in check_results))


def merge_records(machine: Row, results: Sequence[BenchResult], check_results: Sequence[CheckResult]) -> dict[str, Any]:
    """Return one record of all steps: rows have the key `bench`, and `commands` contains the command of each step."""
    records = {result.step.name: result.record for result in results if result.record is not None}
    rows = [{"bench": name, **row} for name, step_record in records.items() for row in step_record["rows"]]
    conclusions = [text for step_record in records.values() for text in step_record.get("conclusions", ())]
    measured = {key: value for step_record in records.values() for key, value in step_record["machine"].items()}
    record = make_record(rows, {**measured, **machine}, conclusions=conclusions)
    versions = {name: version for step_record in records.values() for name, version in step_record["versions"].items()}
    more: Row = {"commands": {result.step.name: result.command for result in results if result.record is not None}}
    more["steps"] = [
        {"step": done.step.name, "state": done.state, "seconds": round(done.seconds, 1), "why": done.reason}
        for done in (result.step_result for result in results)
    ]
    more |= {"checks": [check_result.row for check_result in check_results]} if check_results else {}
    return {**record, "versions": {**record["versions"], **versions}, **more}


def machine_name(machine: Row) -> str:
    """Return the name of the GPU, or of the CPU with its cores, for file names."""
    return str(machine["gpu"] or f"{machine['processor']} {machine['cores']} cores")


def make_section(result: BenchResult, chart: str) -> Section:
    """Return the section of a step on the page."""
    return Section(
        name=result.step.name,
        title=result.step.description,
        command=result.command,
        state=result.step_result.state,
        reason=result.step_result.reason,
        seconds=result.step_result.seconds,
        rows=result.rows,
        conclusions=[] if result.record is None else result.record.get("conclusions", []),
        chart=chart,
    )


def results_table(results: Sequence[BenchResult]) -> str:
    """Format the results of the steps for the terminal."""
    rows = []
    for result in results:
        done = result.step_result
        last_cell = done.reason or done.step.description
        rows.append([done.step.name, done.state, f"{done.seconds:.0f}", len(result.rows) or "", last_cell])
    return tabulate(rows, headers=["step", "", "s", "rows", ""], disable_numparse=True, maxcolwidths=[None] * 4 + [80])


if __name__ == "__main__":
    run_main(main)
