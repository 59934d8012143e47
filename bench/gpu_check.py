"""Run everything that needs a GPU: tests, loaders, training, exports and engines; write records that can be committed.

    python bench/gpu_check.py
    python bench/gpu_check.py --list
    python bench/gpu_check.py --quick --steps [tests,data,training,engine-fp16]

`make gpu-check` installs missing packages first. The other steps run even if one fails. A step is "not possible" if a library is
not installed or an earlier step did not write its input. The exit code is 1 if a step failed. `bench/gpu/steps.py` contains the
steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from hgfast.bench.gpu.step_runner import (
    StepResult,
    StepsConfig,
    describe_step,
    relative_to_root,
    results_table,
    run_step,
    slug,
    verification_rows,
)
from hgfast.bench.gpu.steps import GpuCheckSettings, gpu_check_steps
from hgfast.bench.harness.record import ROOT, Row, gpu_info, machine_info, make_record, require_checkout, write_record
from hgfast.cli import parse
from hgfast.errors import HgfastError, run_main
from hgfast.fileio.files import prepare_folder
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
    """folder of the records; none: bench/results, with --quick WORK/results"""
    work: Path = Path("exp/gpu-check")
    """folder of data, checkpoints and engines"""
    minutes: Annotated[float | None, Range(gt=0)] = None
    """training time, which the time limit of a step does not include; none: 10, with --quick 0.5"""

    @property
    def results(self) -> Path:
        return self.out or (self.work / "results" if self.quick else Path("bench/results"))

    @property
    def training_minutes(self) -> float:
        return self.minutes or (0.5 if self.quick else 10.0)


def main() -> None:
    config = parse(GpuCheckConfig, description=__doc__ or "")
    require_checkout("gpu_check")
    gpu = gpu_info()
    settings = make_settings(config, gpu)
    steps = {step.name: step for step in gpu_check_steps(settings)}
    selected = [steps[name] for name in config.select(list(steps))]
    if config.list:
        print("\n".join(map(describe_step, selected)))
        return
    if not settings.gpus:
        raise HgfastError(
            "no GPU is visible to torch: use a machine with an NVIDIA GPU and a driver for its CUDA; --list shows the commands"
        )
    prepare_folder(config.results, "--out")
    prepare_folder(config.work, "--work")
    machine = {**machine_info(), **gpu}
    about = f"{settings.gpus} x {machine['gpu']}, {machine['gpu_memory_gb']} GB, CUDA {machine['cuda']}"
    print(f"{about}; results go to {settings.out}", flush=True)
    results = [run_step(step, 60 * (config.limit + config.training_minutes)) for step in selected]
    raise SystemExit(write_results(results, settings, machine))


def make_settings(config: GpuCheckConfig, gpu: Row) -> GpuCheckSettings:
    """Return the settings of the steps; without a GPU, placeholders for --list."""
    return GpuCheckSettings(
        slug=slug(gpu["gpu"]) if gpu["gpus"] else "gpu",
        gpus=gpu["gpus"],
        gpu_memory_gb=gpu["gpu_memory_gb"] or 0.0,
        threads=min(available_cores(), 8),
        out=relative_to_root(config.results),
        work=relative_to_root(config.work),
        quick=config.quick,
        train_minutes=config.training_minutes,
    )


def write_results(results: Sequence[StepResult], settings: GpuCheckSettings, machine: Row) -> int:
    """Write the records, print the table and return the exit code."""
    exported_steps = [result.step for result in results if result.state == "ok" and result.step.is_artifact]
    if exports := [row for step in exported_steps for row in verification_rows(step)]:
        print("\nverification of exports:")
        write_record(make_record(exports, machine, PACKAGES), ROOT / settings.record_path("export"))
    rows = [make_row(result) for result in results]
    print(f"\n{results_table(results, 'file', [row['file'] or '' for row in rows])}")
    write_record(make_record(rows, machine, PACKAGES), ROOT / settings.record_path("gpu-check"))
    return int(any(result.state == "failed" for result in results))


def make_row(result: StepResult) -> Row:
    """Return the row of a step."""
    file = result.step.record or result.step.produces
    return {
        "step": result.step.name,
        "state": result.state,
        "seconds": round(result.seconds, 1),
        "file": str(file) if file is not None and result.state == "ok" else None,
        "words": result.step.description,
        "why": result.reason,
        "said": result.last_line,
    }


if __name__ == "__main__":
    run_main(main)
