"""All benchmarks, one after the other, and a page of what they found.

    python bench/all.py
    python bench/all.py --quick --check
    python bench/all.py --checkpoint exp/mpii/best.pt --dataset mpii --data MPII
    python bench/all.py --steps [loader,latency] --list

Leaves bench/results/MACHINE-DATE.md, the same figures as .json, a record that bench/compare.py takes, and a chart a step; with
--steps the names of the steps are in the files' names, with --quick they go to exp/bench/quick. With --checkpoint that network is
timed instead of untrained ones and scored, with what was made of it, on the data set that flags name. A step that fails does not
stop the others; it ends with 1 then. --check ends with 1 where hgfast is not as many times as fast as the seed's way, in the same
run, as `ratio_checks` has it; no times are looked at.
What may enter: the flags, running the steps, and writing what they left. The steps are in `all_steps`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from all_steps import STEPS, Setting, data_flags, make_step
from gpu_check import graphics, near, slug
from gpu_run import ROOT, Done, carry_out, typed
from gpu_steps import Step
from ratio_checks import Checked, checks_table, make_checks
from record import Row, machine, make_record, write_record
from records import Record, machine_words, read_record, without_outputs
from results_page import Section, page
from tabulate import tabulate

from hgfast.cli import parse
from hgfast.config import DataChoice
from hgfast.errors import HgfastError, run
from hgfast.files import prepare_folder, write_text
from hgfast.machine import cores
from hgfast.signals import raising

Names = list[str]  # in the flags' class, `list` is a flag
Draw = Callable[[str, Sequence[Row], Path, str], bool]
"""`results_chart.draw`, which needs matplotlib."""


@dataclass(kw_only=True)
class AllConfig(DataChoice):
    """One run of all benchmarks."""

    quick: bool = False
    """short runs, to see that everything works; the figures mean little"""
    steps: Names = field(default_factory=lambda: [])
    """only these, such as [loader,latency]; none: all; --list names them"""
    checkpoint: Path | None = None
    """a network of one's own for latency and, with the flags that name a data set, pckh; none: untrained ones"""
    out: Path | None = None
    """folder of the page, the record and the charts; none: bench/results, with --quick exp/bench/quick"""
    work: Path = Path("exp/bench")
    """folder for what is exported, kept and used again, and the record of each step"""
    cli: Path | None = None
    """hgfast_cli, as export/cpp builds it, whose memory embedding looks at too"""
    limit: float = 120.0
    """minutes after which a step is ended and has failed"""
    check: bool = False
    """see that hgfast is as many times as fast as the seed's way as it should be, and end with 1 where it is not"""
    list: bool = False
    """print the commands and run nothing"""

    def validate(self) -> None:
        """Raise `HgfastError` for what is out of its range or does not go together."""
        if self.limit <= 0:
            raise HgfastError(f"--limit is {self.limit:g}, must be above 0")
        if unknown := [name for name in self.steps if name not in STEPS]:
            raise HgfastError(f"--steps: {unknown[0]!r} is unknown; choose from {', '.join(STEPS)}")
        if self.checkpoint is not None and not self.checkpoint.is_file():
            raise HgfastError(f"there is no checkpoint {self.checkpoint}: give one that training has written")
        if self.cli is not None and not self.cli.is_file():
            raise HgfastError(f"there is no file {self.cli}: build it as export/cpp/README.md says")
        if self.checkpoint is None and data_flags(self):
            raise HgfastError(f"{data_flags(self)[0]} names pictures for a network of one's own: give --checkpoint FILE too")

    @property
    def names(self) -> Names:
        """The steps, in their order."""
        return [name for name in STEPS if not self.steps or name in self.steps]

    @property
    def results(self) -> Path:
        return self.out or Path("exp/bench/quick" if self.quick else "bench/results")


def main() -> None:
    config = parse(AllConfig, description=__doc__ or "")
    config.validate()
    at = setting(config)
    if config.list:
        print("\n".join(listed(make_step(name, at)) for name in config.names))
        return
    from results_chart import draw  # before the work: it says what is missing

    prepare_folder(config.results, "--out")
    prepare_folder(ROOT / at.record("").parent, "--work")
    where = machine() | ({key: value for key, value in graphics().items() if value is not None} if at.gpu_gb else {})
    with raising():  # so that what a step has started ends with this
        done = [run_step(name, at, config.limit) for name in config.names]
    raise SystemExit(finish(config, where, done, draw))


# ---- running ----


@dataclass(frozen=True)
class Left:
    """A step, what came of it and the record that it left; none where it failed."""

    done: Done
    record: Record | None

    @property
    def step(self) -> Step:
        return self.done.step

    @property
    def rows(self) -> Sequence[Row]:
        return [] if self.record is None else self.record["rows"]

    @property
    def command(self) -> str:
        return without_outputs(typed(self.step.command))


def setting(config: AllConfig) -> Setting:
    """What the steps are made for."""
    return Setting(
        work=near(config.work),
        quick=config.quick,
        checkpoint=None if config.checkpoint is None else near(config.checkpoint),
        data=data_flags(config),
        cores=cores(),
        gpu_gb=graphics()["gpu_memory_gb"] or 0.0,
        cli=None if config.cli is None else near(config.cli),
    )


def listed(step: Step) -> str:
    return f"# {step.name}: {step.words}\n{f'# {step.impossible}' if step.impossible else typed(step.command)}"


def run_step(name: str, at: Setting, limit: float) -> Left:
    """Run a step for at most `limit` minutes, and read its record."""
    step = make_step(name, at)
    path = ROOT / at.record(name)
    path.unlink(missing_ok=True)  # an earlier run's
    done = carry_out(step, 60 * limit)
    if done.state != "ok":
        return Left(done, None)
    try:
        return Left(done, read_record(path))
    except HgfastError as error:
        return Left(Done(step, "failed", done.seconds, str(error)), None)


# ---- what came of it ----


def finish(config: AllConfig, where: Row, left: Sequence[Left], draw: Draw) -> int:
    """Write the record, the charts and the page, and print the tables; the exit code."""
    checked = make_checks({one.step.name: one.rows for one in left}) if config.check else []
    record = combined(where, left, checked)
    names = "" if len(left) == len(STEPS) else "-" + "-".join(one.step.name for one in left)
    stem = f"{slug(machine_name(where))}-{record['date'][:10]}{names}"
    write_record(record, config.results / f"{stem}.json")
    charts = [config.results / f"{stem}-{one.step.name}.png" for one in left]
    drawn = [draw(one.step.name, one.rows, path, f"{one.command}\n{machine_words(record)}") for one, path in zip(left, charts)]
    sections = [section(one, path.name if there else "") for one, path, there in zip(left, charts, drawn)]
    write_text(config.results / f"{stem}.md", page(record, sections, checked, config.quick), "--out")
    print(f"\n{table(left)}\n{config.results / stem}.md\n{config.results / stem}.json")
    if checked:
        print(f"\n{checks_table(checked)}")
    return int(any(one.done.state == "failed" for one in left) or not all(one.ok for one in checked))


def combined(where: Row, left: Sequence[Left], checked: Sequence[Checked]) -> dict[str, Any]:
    """One record of all; its rows say which step they are of, `commands` what repeats each."""
    records = {one.step.name: one.record for one in left if one.record is not None}
    rows = [{"bench": name, **row} for name, found in records.items() for row in found["rows"]]
    said = [text for found in records.values() for text in found.get("conclusions", ())]
    measured = {key: value for found in records.values() for key, value in found["machine"].items()}
    record = make_record(rows, {**measured, **where}, conclusions=said)
    versions = {name: version for found in records.values() for name, version in found["versions"].items()}
    more: Row = {"commands": {one.step.name: one.command for one in left if one.record is not None}}
    more["steps"] = [
        {"step": one.step.name, "state": one.done.state, "seconds": round(one.done.seconds, 1), "why": one.done.why}
        for one in left
    ]
    more |= {"checks": [one.row for one in checked]} if checked else {}
    return {**record, "versions": {**record["versions"], **versions}, **more}


def machine_name(where: Row) -> str:
    """For the files' names."""
    return str(where["gpu"] or f"{where['processor']} {where['cores']} cores")


def section(one: Left, chart: str) -> Section:
    """What the page says of a step."""
    said = [] if one.record is None else one.record.get("conclusions", [])
    return Section(
        name=one.step.name,
        words=one.step.words,
        command=one.command,
        state=one.done.state,
        why=one.done.why,
        seconds=one.done.seconds,
        rows=one.rows,
        conclusions=said,
        chart=chart,
    )


def table(left: Sequence[Left]) -> str:
    """The steps, for people."""
    rows = [
        [one.step.name, one.done.state, f"{one.done.seconds:.0f}", len(one.rows) or "", one.done.why or one.step.words]
        for one in left
    ]
    return tabulate(rows, headers=["step", "", "s", "rows", ""], disable_numparse=True, maxcolwidths=[None] * 4 + [80])


if __name__ == "__main__":
    run(main)
