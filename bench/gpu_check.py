"""Everything that needs a GPU, one after the other: tests, loaders, training, exports, engines; results ready to commit.

    python bench/gpu_check.py
    python bench/gpu_check.py --list
    python bench/gpu_check.py --quick --steps [tests,data,training,engine-fp16]

`make gpu-check` installs what is missing and runs it. A step that fails does not stop the others; one whose library is not
installed here, or whose input an earlier step has not left, is not possible. Ends with 1 if a step failed.
What may enter: the flags, the machine, the records and the table. The steps are in `gpu_steps`, running one is in `gpu_run`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gpu_run import ROOT, Done, carry_out, typed, verification
from gpu_steps import Setting, Step, all_steps
from record import Row, machine, make_record, write_record
from tabulate import tabulate

from hgfast.cli import parse
from hgfast.errors import HgfastError, run
from hgfast.files import prepare_folder
from hgfast.machine import cores

Names = list[str]  # in the flags' class, `list` is a flag
PACKAGES = (
    *("torchvision", "triton", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino", "torch-tensorrt"),
    *("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx-cu13-bindings"),
)


@dataclass(kw_only=True)
class CheckConfig:
    """One check of a machine with a GPU."""

    quick: bool = False
    """small sizes, to see that it works; the figures mean little and go to WORK/results"""
    out: Path | None = None
    """folder of the result files; none: bench/results, with --quick WORK/results"""
    work: Path = Path("exp/gpu-check")
    """folder of data, checkpoints and engines"""
    minutes: float | None = None
    """of training; none: 10, with --quick half a minute"""
    limit: float = 60.0
    """minutes after which a step is ended and has failed; beside those of training"""
    steps: Names = field(default_factory=lambda: [])
    """only these, such as [training,engine-fp16]; none: all; --list names them"""
    list: bool = False
    """print the commands and run nothing; needs no GPU"""

    def validate(self) -> None:
        """Raise `HgfastError` for the first value out of its range."""
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
    config = parse(CheckConfig, description=__doc__ or "")
    config.validate()
    at = setting(config)
    steps = choose(all_steps(at), config.steps)
    if config.list:
        print("\n".join(f"# {step.name}: {step.words}\n{typed([*step.command, *map(str, step.if_there)])}" for step in steps))
        return
    if not at.gpus:
        raise HgfastError(
            "no GPU is visible to torch: this needs an NVIDIA GPU with a driver that fits torch's CUDA; --list shows what it runs"
        )
    prepare_folder(config.results, "--out")
    prepare_folder(config.work, "--work")
    where = {**machine(), **graphics()}
    print(f"{at.gpus} x {where['gpu']}, {where['gpu_memory_gb']} GB, CUDA {where['cuda']}; results go to {at.out}", flush=True)
    done = [carry_out(step, 60 * (config.limit + config.training_minutes)) for step in steps]
    raise SystemExit(finish(done, at, where))


# ---- where it is run ----


def setting(config: CheckConfig) -> Setting:
    """What the steps are made for; without a GPU, as they would be listed for one."""
    about = graphics()
    return Setting(
        slug=slug(about["gpu"]) if about["gpus"] else "gpu",
        gpus=about["gpus"],
        memory_gb=about["gpu_memory_gb"] or 0.0,
        threads=min(cores(), 8),
        out=near(config.results),
        work=near(config.work),
        quick=config.quick,
        minutes=config.training_minutes,
    )


def graphics() -> Row:
    """The GPUs in numbers, for the record."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    about = torch.cuda.get_device_properties(0) if count else None
    return {
        "gpu": about.name if about else None,
        "gpus": count,
        "gpu_memory_gb": round(about.total_memory / 1e9, 1) if about else None,
        "compute_capability": f"{about.major}.{about.minor}" if about else None,
        "cuda": torch.version.cuda,
    }


def slug(name: str) -> str:
    """ "nvidia-h200" of "NVIDIA H200"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "gpu"


def near(path: Path) -> Path:
    """As the steps name it, which are run in the project's folder. Links stay: where they lead is nobody's business."""
    path = Path(os.path.normpath(path.absolute()))
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def choose(steps: Sequence[Step], names: Sequence[str]) -> list[Step]:
    """Those of these names, in their own order; all without names. Raises `HgfastError` for a name that is none."""
    known = [step.name for step in steps]
    if unknown := [name for name in names if name not in known]:
        raise HgfastError(f"--steps: {unknown[0]!r} is unknown; choose from {', '.join(known)}")
    return [step for step in steps if not names or step.name in names]


# ---- what came of it ----


def finish(done: Sequence[Done], at: Setting, where: Row) -> int:
    """Write the records and print the table; the exit code."""
    if exports := [row for one in done if one.state == "ok" and one.step.artefact for row in verification(one.step)]:
        write_record(make_record(exports, where, PACKAGES), ROOT / at.result("export"))
        print(f"\nverification of exports: {at.result('export')}")
    path = at.result("gpu-check")
    write_record(make_record([make_row(one) for one in done], where, PACKAGES), ROOT / path)
    print(f"\n{table(done)}\nrecord: {path}", flush=True)
    return int(any(one.state == "failed" for one in done))


def make_row(one: Done) -> Row:
    """A row of the record."""
    file = one.step.result or one.step.makes
    return {
        "step": one.step.name,
        "state": one.state,
        "seconds": round(one.seconds, 1),
        "file": str(file) if file is not None and one.state == "ok" else None,
        "words": one.step.words,
        "why": one.why,
        "said": one.said,
    }


def table(done: Sequence[Done]) -> str:
    """The rows for people."""
    rows = [
        [row["step"], row["state"], f"{row['seconds']:.0f}", row["file"] or "", row["why"] or row["words"]]
        for row in map(make_row, done)
    ]
    widths = [None, None, None, None, 70]
    return tabulate(rows, headers=["step", "", "s", "file", ""], disable_numparse=True, maxcolwidths=widths)


if __name__ == "__main__":
    run(main)
