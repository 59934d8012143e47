"""Run everything that needs a GPU: tests, loaders, training, exports and engines; write records that can be committed.

    python bench/gpu_check.py
    python bench/gpu_check.py --list
    python bench/gpu_check.py --quick --steps [tests,data,training,engine-fp16]

`make gpu-check` installs missing packages first. The other steps run even if one fails. A step is "not possible" if a library is
not installed or an earlier step did not write its input. The exit code is 1 if a step failed. `bench/gpu/steps.py` contains the
steps.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tabulate import tabulate

from hgfast.bench.gpu.step_runner import StepResult, run_step, shell_command, verification_rows
from hgfast.bench.gpu.steps import GpuCheckSettings, Step, gpu_check_steps
from hgfast.bench.harness.record import ROOT, Row, machine_info, make_record, require_checkout, write_record
from hgfast.cli import parse
from hgfast.errors import HgfastError, run_main
from hgfast.fileio.files import prepare_folder
from hgfast.system_info import available_cores

StepNames = list[str]  # `list` is a flag inside GpuCheckConfig
PACKAGES = (
    *("torchvision", "triton", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino", "torch-tensorrt"),
    *("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx-cu13-bindings"),
)


@dataclass(kw_only=True)
class GpuCheckConfig:
    """Settings of the GPU check."""

    quick: bool = False
    """use small sizes, for a smoke test; the results are not meaningful and go to WORK/results"""
    out: Path | None = None
    """folder of the records; none: bench/results, with --quick WORK/results"""
    work: Path = Path("exp/gpu-check")
    """folder of data, checkpoints and engines"""
    minutes: float | None = None
    """training time; none: 10, with --quick 0.5"""
    limit: float = 60.0
    """time limit of a step in minutes, in addition to the training time"""
    steps: StepNames = field(default_factory=lambda: [])
    """run only these steps, for example [training,engine-fp16]; none: all; --list prints their names"""
    list: bool = False
    """print the commands without running them; needs no GPU"""

    def validate(self) -> None:
        """Raise `HgfastError` for the first value out of range, or outside a checkout."""
        require_checkout("gpu_check")
        for flag, value in (("--minutes", self.minutes), ("--limit", self.limit)):
            if value is not None and value <= 0:
                raise HgfastError(f"{flag} is {value:g}, must be above 0")

    @property
    def results(self) -> Path:
        return self.out or (self.work / "results" if self.quick else Path("bench/results"))

    @property
    def training_minutes(self) -> float:
        return self.minutes or (0.5 if self.quick else 10.0)


def main() -> None:
    config = parse(GpuCheckConfig, description=__doc__ or "")
    config.validate()
    settings = make_settings(config)
    steps = select_steps(gpu_check_steps(settings), config.steps)
    if config.list:
        print(
            "\n".join(
                f"# {step.name}: {step.description}\n{shell_command([*step.command, *map(str, step.optional_args)])}"
                for step in steps
            )
        )
        return
    if not settings.gpus:
        raise HgfastError(
            "no GPU is visible to torch: use a machine with an NVIDIA GPU and a driver for its CUDA; --list shows the commands"
        )
    prepare_folder(config.results, "--out")
    prepare_folder(config.work, "--work")
    where = {**machine_info(), **gpu_info()}
    print(
        f"{settings.gpus} x {where['gpu']}, {where['gpu_memory_gb']} GB, CUDA {where['cuda']}; results go to {settings.out}",
        flush=True,
    )
    results = [run_step(step, 60 * (config.limit + config.training_minutes)) for step in steps]
    raise SystemExit(write_results(results, settings, where))


# ---- the machine ----


def make_settings(config: GpuCheckConfig) -> GpuCheckSettings:
    """Return the settings of the steps; without a GPU, placeholders for --list."""
    properties = gpu_info()
    return GpuCheckSettings(
        slug=slug(properties["gpu"]) if properties["gpus"] else "gpu",
        gpus=properties["gpus"],
        gpu_memory_gb=properties["gpu_memory_gb"] or 0.0,
        threads=min(available_cores(), 8),
        out=relative_to_root(config.results),
        work=relative_to_root(config.work),
        quick=config.quick,
        train_minutes=config.training_minutes,
    )


def gpu_info() -> Row:
    """Return the properties of the GPUs for the record."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    properties = torch.cuda.get_device_properties(0) if count else None
    return {
        "gpu": properties.name if properties else None,
        "gpus": count,
        "gpu_memory_gb": round(properties.total_memory / 1e9, 1) if properties else None,
        "compute_capability": f"{properties.major}.{properties.minor}" if properties else None,
        "cuda": torch.version.cuda,
    }


def slug(name: str) -> str:
    """Return a name as part of a file name: "nvidia-h200" for "NVIDIA H200"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "gpu"


def relative_to_root(path: Path) -> Path:
    """Return a path relative to the repository root, where the steps run; symbolic links are not resolved."""
    path = Path(os.path.normpath(path.absolute()))
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def select_steps(steps: Sequence[Step], names: Sequence[str]) -> list[Step]:
    """Return the steps with these names in their original order; all if `names` is empty. Raises `HgfastError` if unknown."""
    step_names = [step.name for step in steps]
    if unknown := [name for name in names if name not in step_names]:
        raise HgfastError(f"--steps: {unknown[0]!r} is unknown; choose from {', '.join(step_names)}")
    return [step for step in steps if not names or step.name in names]


# ---- results ----


def write_results(results: Sequence[StepResult], settings: GpuCheckSettings, machine: Row) -> int:
    """Write the records, print the table and return the exit code."""
    exported_steps = [result.step for result in results if result.state == "ok" and result.step.is_artifact]
    if exports := [row for step in exported_steps for row in verification_rows(step)]:
        write_record(make_record(exports, machine, PACKAGES), ROOT / settings.record_path("export"))
        print(f"\nverification of exports: {settings.record_path('export')}")
    path = settings.record_path("gpu-check")
    write_record(make_record([make_row(result) for result in results], machine, PACKAGES), ROOT / path)
    print(f"\n{results_table(results)}\nrecord: {path}", flush=True)
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


def results_table(results: Sequence[StepResult]) -> str:
    """Format the results for the terminal."""
    rows = [
        [row["step"], row["state"], f"{row['seconds']:.0f}", row["file"] or "", row["why"] or row["words"]]
        for row in map(make_row, results)
    ]
    widths = [None, None, None, None, 70]
    return tabulate(rows, headers=["step", "", "s", "file", ""], disable_numparse=True, maxcolwidths=widths)


if __name__ == "__main__":
    run_main(main)
