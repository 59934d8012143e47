"""Everything that needs a GPU, one after the other: tests, loaders, training, exports, engines; results ready to commit.

    python bench/gpu_check.py
    python bench/gpu_check.py --list
    python bench/gpu_check.py --quick --steps [tests,data,training,engine-fp16]

`make gpu-check` installs what is missing and runs it. A step that fails does not stop the others; one whose library is not
installed here, or whose input an earlier step has not left, is not possible. Ends with 1 if a step failed.
What may enter: the flags, running steps and saying what came of them. The steps are in `gpu_steps`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from gpu_steps import Setting, Step, all_steps
from record import Row, machine, make_record, write_record
from tabulate import tabulate

from hgfast.cli import parse
from hgfast.errors import HgfastError, run
from hgfast.files import prepare_folder
from hgfast.machine import cores
from hgfast.sidecar import place

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    *("torchvision", "triton", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino", "torch-tensorrt"),
    *("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx-cu13-bindings"),
)
GRACE = 60.0  # seconds for a step to end by itself once it was told to
State = Literal["ok", "failed", "not possible"]


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
    steps: list[str] = field(default_factory=list)
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


@dataclass(frozen=True)
class Done:
    """What came of a step. why: of what failed or was not possible. said: its last line."""

    step: Step
    state: State
    seconds: float = 0.0
    why: str = ""
    said: str = ""


def main() -> None:
    config = parse(CheckConfig, description=__doc__ or "")
    config.validate()
    at = setting(config)
    steps = choose(all_steps(at), config.steps)
    if config.list:
        print("\n".join(f"# {step.name}: {step.words}\n{shown(step)}" for step in steps))
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
    """As the steps name it, which are run in the project's folder."""
    path = path.resolve()
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def choose(steps: Sequence[Step], names: Sequence[str]) -> list[Step]:
    """Those of these names, in their own order; all without names. Raises `HgfastError` for a name that is none."""
    known = [step.name for step in steps]
    if unknown := [name for name in names if name not in known]:
        raise HgfastError(f"--steps: {unknown[0]!r} is unknown; choose from {', '.join(known)}")
    return [step for step in steps if not names or step.name in names]


def shown(step: Step) -> str:
    """The command, as one could type it."""
    return shlex.join(["python", *step.command, *map(str, step.if_there)])


# ---- running ----


def carry_out(step: Step, limit: float) -> Done:
    """Run a step, printing what it prints, for at most `limit` seconds."""
    print(f"\n== {step.name}: {step.words}", flush=True)
    absent = [str(path) for path in step.needs if not (ROOT / path).is_file()]
    why = step.impossible or (f"there is no {absent[0]}, which an earlier step makes" if absent else "")
    if why:
        print(why, flush=True)
        return Done(step, "not possible", why=why)
    there = tuple(str(path) for path in step.if_there if (ROOT / path).is_file())
    if step.makes is not None:  # so that what an earlier run has left is not taken for this one's
        for path in (step.makes, place(step.makes)) if step.artefact else (step.makes,):
            (ROOT / path).unlink(missing_ok=True)
    before = stamp(step.result)
    print(shlex.join(["$ python", *step.command, *there])[1:].replace("$ python'", "$ python"), flush=True)
    began = time.perf_counter()
    code, lines = stream([sys.executable, *step.command, *there], limit)
    seconds = time.perf_counter() - began
    said = lines[-1] if lines else ""
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    last = errors[-1] if errors else said
    if code == 2 and step.missing and re.search(step.missing, last):
        return Done(step, "not possible", seconds, last, said)
    if code is None:
        return Done(step, "failed", seconds, f"it was ended after {limit / 60:.0f} minutes; its last words: {last}", said)
    if code:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return Done(step, "failed", seconds, f"{how}: {last}" if last else how, said)
    if step.result is not None and stamp(step.result) == before:
        return Done(step, "failed", seconds, f"it has not written {step.result}", said)
    if step.makes is not None and not (ROOT / step.makes).is_file():
        return Done(step, "failed", seconds, f"it has not written {step.makes}", said)
    if step.artefact and not verification(step):
        return Done(step, "failed", seconds, f"{step.makes} was written and not verified", said)
    return Done(step, "ok", seconds, said=said)


def stamp(path: Path | None) -> int | None:
    """When a file was written, in nanoseconds; None where there is none."""
    return (ROOT / path).stat().st_mtime_ns if path is not None and (ROOT / path).is_file() else None


def stream(command: Sequence[str], limit: float) -> tuple[int | None, list[str]]:
    """Run a command and pass its output on; its exit code, None where it was ended, and its last lines."""
    kept = bytearray()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    assert process.stdout is not None
    reader = threading.Thread(target=pass_on, args=(process.stdout, kept), daemon=True)
    reader.start()
    code: int | None = None
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        end(process)
    except BaseException:
        end(process)
        raise
    reader.join(5)  # what it may have started and left behind can hold the pipe open
    text = kept[-20_000:].decode(errors="replace")
    return code, [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def pass_on(pipe: IO[bytes], kept: bytearray) -> None:
    """Copy what comes to stdout, progress bars as they move, and keep it."""
    while block := os.read(pipe.fileno(), 65536):
        sys.stdout.write(block.decode(errors="replace"))
        sys.stdout.flush()
        kept += block
        del kept[:-40_000]


def end(process: subprocess.Popen[bytes]) -> None:
    """Tell a command and all that it started to end, and end them where they do not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE)
        except (subprocess.TimeoutExpired, ProcessLookupError):
            continue


# ---- what came of it ----


def verification(step: Step) -> list[Row]:
    """What the sidecar of the artefact that a step has made says of how far it is from the checkpoint."""
    if step.makes is None or not place(ROOT / step.makes).is_file():
        return []
    sidecar: dict[str, Any] = json.loads(place(ROOT / step.makes).read_text())
    builder, found = sidecar["builder"] or {}, sidecar["verification"] or {}
    same = {"step": step.name, "artefact": sidecar["artefact"], "kind": sidecar["kind"], "precision": sidecar["precision"]}
    same |= {"built_by": " ".join(str(builder[key]) for key in ("backend", "version") if key in builder) or None}
    accuracy = found.get("accuracy") or {}
    same |= {f"accuracy_{key}": accuracy.get(key) for key in ("metric", "checkpoint", "artefact")}
    return [{**same, **row} for row in found.get("rows", ())]


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
