"""Steps of `run_all.py` in order: the command and the record of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hgfast.bench.gpu.steps import LARGE_GPU_GB, Step
from hgfast.bench.gpu_check import relative_to_root
from hgfast.bench.harness.record import ROOT
from hgfast.bench.harness.records import read_record, script_of
from hgfast.config import DataConfig
from hgfast.runtime.sidecar import sha256_of

MAX_LOADER_THREADS = 8  # threads per loader on larger machines
UNTRAINED_PRESET = "hg1"  # preset of latency.py's untrained network that pckh evaluates
ONNX_RUNTIMES = ("onnxruntime", "openvino", "openvino-bf16")  # runtimes in which pckh evaluates an ONNX


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """Settings of the steps. checkpoint: the user's network, or None. data_flags: flags of its data set. cores: of the CPU.
    gpu_gb: memory of the first GPU, 0 without one. cli: the program of export/cpp, if it was built."""

    work: Path
    quick: bool
    checkpoint: Path | None
    data_flags: tuple[str, ...]
    cores: int
    gpu_gb: float
    cli: Path | None = None

    def record_path(self, name: str) -> Path:
        """Path of a step's record."""
        return self.work / "all" / f"{name}.json"

    @property
    def quick_flags(self) -> tuple[str, ...]:
        return ("--quick",) if self.quick else ()


def make_step(name: str, settings: BenchSettings) -> Step:
    """Return a step by its name; call it for pckh after latency has run, whose exports it evaluates."""
    description, flags = BENCHMARKS[name]
    path = settings.record_path(name)
    needs_data = name == "pckh" and settings.checkpoint is not None and not settings.data_flags
    skip_reason = "--checkpoint requires the flags of a data set" if needs_data else ""
    command = (f"bench/{script_of(name)}.py", *flags(settings), "--json", str(path))
    return Step(name=name, description=description, command=command, record=path, skip_reason=skip_reason)


def loader_flags(settings: BenchSettings) -> tuple[str, ...]:
    return ("--threads", str(min(settings.cores, MAX_LOADER_THREADS)), *settings.quick_flags)


def train_step_flags(settings: BenchSettings) -> tuple[str, ...]:
    gpu_flags = ("--presets", "[hg1,hg2]", "--batch-size", "32" if settings.gpu_gb >= LARGE_GPU_GB else "8")
    return (*(gpu_flags if settings.gpu_gb else ()), *loader_flags(settings))


def latency_flags(settings: BenchSettings) -> tuple[str, ...]:
    checkpoint_flags = ("--checkpoint", str(settings.checkpoint), *settings.data_flags) if settings.checkpoint is not None else ()
    return (*checkpoint_flags, "--work", str(settings.work), *settings.quick_flags)


def session_overhead_flags(settings: BenchSettings) -> tuple[str, ...]:
    path_flags = [("--checkpoint", settings.checkpoint), ("--cli", settings.cli)]
    flags = [word for flag, path in path_flags if path is not None for word in (flag, str(path))]
    return (*flags, "--work", str(settings.work), *settings.quick_flags)


def decode_flags(settings: BenchSettings) -> tuple[str, ...]:
    return settings.quick_flags


def pckh_flags(settings: BenchSettings) -> tuple[str, ...]:
    """Return the flags of pckh; without --checkpoint an untrained network and the synthetic people of latency's int8
    calibration, for which only the distances between exports are meaningful."""
    checkpoint = settings.checkpoint or settings.work / UNTRAINED_PRESET / "fresh.pt"
    artifacts = exported_files(settings, checkpoint)
    data = (
        settings.data_flags if settings.checkpoint is not None else ("--dataset", "mpii", "--data", str(settings.work / "people"))
    )
    runtime_flags = (
        ("--runtimes", f"[{','.join(ONNX_RUNTIMES)}]")
        if any(path.suffix == ".onnx" for path in artifacts) and not settings.quick
        else ()
    )
    return (str(checkpoint), *map(str, artifacts), *runtime_flags, *data)


BENCHMARKS: dict[str, tuple[str, Callable[[BenchSettings], tuple[str, ...]]]] = {
    "loader": ("loader throughput compared with princeton", loader_flags),
    "train_step": ("training throughput compared with princeton", train_step_flags),
    "latency": ("a network in every runtime", latency_flags),
    "embedding": ("overhead of a session over the network", session_overhead_flags),
    "decode": ("heatmap decoders", decode_flags),
    "pckh": ("accuracy of the checkpoint and its exports", pckh_flags),
}
"""Description and flags (except --json) of each script, by its bench name."""


def exported_files(settings: BenchSettings, checkpoint: Path) -> list[Path]:
    """Return the exports of the checkpoint that latency timed."""
    record_file = ROOT / settings.record_path("latency")
    if not record_file.is_file() or not (ROOT / checkpoint).is_file():
        return []
    from hgfast.bench.harness.networks import is_current  # imports torch, which takes seconds

    rows = [row for row in read_record(record_file)["rows"] if row.get("batch")]
    max_batch = max((int(row["batch"]) for row in rows), default=1)
    checkpoint = ROOT / checkpoint
    folders = (checkpoint.parent, ROOT / settings.work / f"{checkpoint.stem}-{sha256_of(checkpoint)[:12]}")
    candidates_by_file = [[folder / str(name) for folder in folders] for name in dict.fromkeys(row["file"] for row in rows)]
    files = [
        next((path for path in candidates if is_current(path, checkpoint, max_batch)), None) for candidates in candidates_by_file
    ]
    return [relative_to_root(path) for path in files if path is not None]


def data_flags(choice: DataConfig) -> tuple[str, ...]:
    """Return the flags of a data set for commands that run in the repository root."""
    values: dict[str, Any] = {item.name: getattr(choice, item.name) for item in fields(DataConfig)}
    relative: dict[str, Any] = {
        name: relative_to_root(value) if isinstance(value, Path) else value for name, value in values.items()
    }
    return tuple(DataConfig(**relative).as_flags)
