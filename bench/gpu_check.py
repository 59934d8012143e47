"""Run everything that needs a GPU: tests, training, loaders, exports and engines; write records that can be committed.

    python bench/gpu_check.py
    python bench/gpu_check.py --plan
    python bench/gpu_check.py --minutes-in-all 9 --steps [tests-hgfast,data,training]
    python bench/gpu_check.py --rehearse

`make gpu-check` installs missing packages first. The other steps run even if one fails. A step is "not possible" if a library is
not installed or an earlier step did not write its input. The records are written after every step, and a run of other steps on
the same machine and revision adds to them, so the check can be stopped at any moment. SIGTERM, SIGINT and SIGHUP end the
processes of the running step; the exit code is then 128 + the signal's number, and 1 if a step failed. --rehearse runs the
commands on the CPU with the smallest sizes, to find errors in them; its results mean nothing. `bench/gpu/steps.py` contains the
steps.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tabulate import tabulate

from hgfast.bench.gpu import step_runner
from hgfast.bench.gpu.step_runner import (
    StepResult,
    StepsConfig,
    StopSignal,
    describe_step,
    relative_to_root,
    results_table,
    run_step,
    slug,
    verification_rows,
)
from hgfast.bench.gpu.steps import GpuCheckSettings, Step, gpu_check_steps
from hgfast.bench.harness.record import (
    ROOT,
    Row,
    gpu_info,
    machine_info,
    make_record,
    read_record,
    require_checkout,
    save_record,
)
from hgfast.cli import parse
from hgfast.config import METRICS_FILE, LoaderName
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError
from hgfast.fileio.files import prepare_folder
from hgfast.shutdown import SignalReceived
from hgfast.system_info import available_cores
from hgfast.validation import Range

PACKAGES = (
    *("torchvision", "triton", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino", "torch-tensorrt"),
    *("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx-cu13-bindings"),
)


@dataclass(kw_only=True)
class GpuCheckConfig(StepsConfig):
    """Settings of the GPU check."""

    out: Path | None = None
    """folder of the records; none: bench/results, with --quick WORK/results; --rehearse always uses WORK/rehearsal"""
    work: Path = Path("exp/gpu-check")
    """folder of data, checkpoints, engines and the output of each step"""
    loader: LoaderName = "opencv"
    """loader of training, evaluation and the accuracy of exports; the steps named after DALI use DALI in any case"""
    minutes: Annotated[float | None, Range(gt=0)] = None
    """training time of each run; none: 1, with --quick or --rehearse 0.2"""
    minutes_in_all: Annotated[float | None, Range(gt=0)] = None
    """time for everything: a step that takes longer than the rest of it is not run, the running step is ended; none: no limit"""
    plan: bool = False
    """print the steps with the minutes that each takes, without running them"""
    rehearse: bool = False
    """run the commands on the CPU with the smallest sizes; the results mean nothing and go to WORK/rehearsal"""

    def __post_init__(self) -> None:
        self.quick = self.quick or self.rehearse
        self.work = self.work / "rehearsal" if self.rehearse else self.work

    def validate(self) -> None:
        """Raise `HgfastError` if a training run cannot end within the limit of a step."""
        if self.training_minutes >= self.limit:
            raise HgfastError(f"--minutes is {self.training_minutes:g}, must be below --limit, which is {self.limit:g}")

    @property
    def results(self) -> Path:
        in_work = self.work / "results"
        return in_work if self.rehearse else self.out or (in_work if self.quick else Path("bench/results"))

    @property
    def training_minutes(self) -> float:
        return self.minutes or (0.2 if self.quick else 1.0)


def main() -> None:
    config = parse(GpuCheckConfig, description=__doc__ or "")
    require_checkout("gpu_check")
    config.validate()
    gpu = gpu_info()
    settings = make_settings(config, gpu)
    steps = {step.name: step for step in gpu_check_steps(settings)}
    selected = [steps[name] for name in config.select(list(steps))]
    if config.list or config.plan:
        print("\n".join(map(describe_step, selected)) if config.list else plan_table(selected, config.limit))
        return
    if not settings.gpus and not settings.rehearse:
        raise HgfastError(
            "no GPU is visible to torch: use a machine with an NVIDIA GPU and a driver for its CUDA; --list shows the commands"
        )
    prepare_folder(config.results, "--out")
    prepare_folder(config.work / "logs", "--work")
    with StopSignal() as stop:
        machine = {**machine_info(), **gpu, "driver": driver_version()}
        about = f"{settings.gpus} x {machine['gpu']}, {machine['gpu_memory_gb']} GB, CUDA {machine['cuda']}"
        print(f"{about}; results go to {settings.out}", flush=True)
        results = run_steps(selected, config, settings, machine, stop)
        print(f"\n{results_table(results, 'file', [make_row(result)['file'] or '' for result in results])}")
        print(f"record: {settings.record_path('gpu-check')}", flush=True)
    if stop.received:
        raise SignalReceived(stop.received, "")
    raise SystemExit(int(any(result.state == "failed" for result in results)))


def run_steps(
    steps: Sequence[Step], config: GpuCheckConfig, settings: GpuCheckSettings, machine: Row, stop: StopSignal
) -> list[StepResult]:
    """Run the steps and write the records before the first and after each."""
    records = Records(settings, machine)
    deadline = time.monotonic() + 60 * (config.minutes_in_all or float("inf")) - step_runner.GRACE_S
    results = [StepResult(step, "not run", reason="not reached") for step in steps]
    records.write(results)
    for number, step in enumerate(steps):
        seconds_left = deadline - time.monotonic()
        if stop.received:
            result = results[number]._replace(reason=f"ended by {stop.received.name} before")
        elif 60 * min(step.minutes, config.limit) > seconds_left and not step.skip_reason:
            expected = f"it takes about {min(step.minutes, config.limit):g} minutes, {max(seconds_left, 0) / 60:.1f} are left"
            result = results[number]._replace(reason=f"no time left: {expected}")
        else:
            result = run_step(
                step, min(60 * config.limit, seconds_left), stop, ROOT / settings.work / "logs" / f"{step.name}.txt"
            )
            if settings.rehearse and result.state == "ok":
                result = result._replace(state="rehearsed")
        results[number] = result
        records.write(results)
    return results


def plan_table(steps: Sequence[Step], limit: float) -> str:
    """Return the steps in order with the minutes that each takes, their sum so far, and their limit."""
    rows, total = [], 0.0
    for step in steps:
        total += min(step.minutes, limit)
        rows.append([step.name, f"{min(step.minutes, limit):g}", f"{total:g}", step.skip_reason or step.description])
    table = tabulate(rows, ["step", "minutes", "sum", ""], disable_numparse=True, colalign=("left", "right", "right", "left"))
    return f"{table}\nexpected minutes; a step is ended after {limit:g}"


def make_settings(config: GpuCheckConfig, gpu: Row) -> GpuCheckSettings:
    """Return the settings of the steps; without a GPU, placeholders for --list."""
    return GpuCheckSettings(
        slug="rehearsal" if config.rehearse else slug(gpu["gpu"]) if gpu["gpus"] else "gpu",
        gpus=gpu["gpus"],
        gpu_memory_gb=gpu["gpu_memory_gb"] or 0.0,
        threads=min(available_cores(), 8),
        out=relative_to_root(config.results),
        work=relative_to_root(config.work),
        quick=config.quick,
        loader=config.loader,
        train_minutes=config.training_minutes,
        rehearse=config.rehearse,
    )


def driver_version() -> str | None:
    """Return the version of the NVIDIA driver, and print what nvidia-smi reports; None without nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["--query-gpu=driver_version", "--format=csv,noheader"]
    outputs = [
        subprocess.run(["nvidia-smi", *flags], capture_output=True, text=True, check=False, timeout=60).stdout  # noqa: S607
        for flags in ([], query)
    ]
    print(outputs[0], flush=True)
    return outputs[1].strip().partition("\n")[0] or None


class Records:
    """The records of the check: the steps, the verification of exports, and the curves of training runs.

    Earlier rows of steps that have not run now stay if this revision wrote them on this machine.
    """

    def __init__(self, settings: GpuCheckSettings, machine: Row) -> None:
        self._paths = {name: ROOT / settings.record_path(name) for name in ("gpu-check", "export", "training")}
        self._machine = machine
        self._earlier = {name: self._earlier_rows(path) for name, path in self._paths.items()}

    def _earlier_rows(self, path: Path) -> list[Row]:
        if not path.is_file():
            return []
        record, now = read_record(path), make_record([], self._machine)
        same = record["revision"] == now["revision"] and record["machine"].get("gpu") == self._machine["gpu"]
        return list(record["rows"]) if same else []

    def write(self, results: Sequence[StepResult]) -> None:
        """Write the records of the results so far."""
        done = [result.step for result in results if result.state in ("ok", "rehearsed")]
        ran = {result.step.name for result in results if result.state != "not run"}
        kept = {name: [row for row in rows if row["step"] not in ran] for name, rows in self._earlier.items()}
        known = {row["step"] for row in kept["gpu-check"]}
        rows = {
            "gpu-check": [make_row(result) for result in results if result.step.name not in known],
            "export": [row for step in done if step.is_artifact for row in verification_rows(step)],
            "training": [row for step in done if step.is_training for row in training_rows(step)],
        }
        for name, path in self._paths.items():
            if kept[name] or rows[name]:
                save_record(make_record([*kept[name], *rows[name]], self._machine, PACKAGES), path)


def make_row(result: StepResult) -> Row:
    """Return the row of a step."""
    file = result.step.record or result.step.produces
    return {
        "step": result.step.name,
        "state": result.state,
        "seconds": round(result.seconds, 1),
        "file": str(file) if file is not None and result.has_output else None,
        "words": result.step.description,
        "why": result.reason,
        "said": result.last_line,
    }


def training_rows(step: Step) -> list[Row]:
    """Return a row for each epoch in the metrics.jsonl of a training run."""
    assert step.produces is not None
    lines = (ROOT / step.produces.with_name(METRICS_FILE)).read_text("utf-8").splitlines()
    keys = ("epoch", "step", "loss", "images_per_s", "data_wait")
    return [{"step": step.name, **{f"train_{key}": record.get(key) for key in keys}} for record in map(json.loads, lines)]


if __name__ == "__main__":
    run_main(main)
