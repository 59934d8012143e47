"""Steps of `run_all.py` in order: the command and the record of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hgfast.bench.gpu.step_runner import relative_to_root
from hgfast.bench.gpu.steps import LARGE_GPU_GB, Step
from hgfast.bench.harness.record import ROOT, SCRIPTS, read_record
from hgfast.config import DataConfig
from hgfast.runtime.sidecar import sha256_of

MAX_LOADER_THREADS = 8  # threads per loader on larger machines
UNTRAINED_PRESET = "hg1"  # preset of latency.py's untrained network that pckh evaluates
ONNX_RUNTIMES = "[onnxruntime,openvino,openvino-bf16]"  # runtimes in which pckh evaluates an ONNX
Words = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """Settings of the steps. checkpoint: the user's network, or None. data_flags: flags of its data set. cores: of the CPU.
    gpu_gb: memory of the first GPU, 0 without one. cli: the program of export/cpp, if it was built."""

    work: Path
    quick: bool
    checkpoint: Path | None
    data_flags: Words
    cores: int
    gpu_gb: float
    cli: Path | None = None

    def record_path(self, name: str) -> Path:
        """Path of a step's record."""
        return self.work / "all" / f"{name}.json"

    def flags(self, *names: str) -> Words:
        """Return the flags of these settings that are set: checkpoint, cli, work."""
        values = {name: getattr(self, name) for name in names}
        return tuple(word for name, value in values.items() if value is not None for word in (f"--{name}", str(value)))


def make_step(name: str, settings: BenchSettings) -> Step:
    """Return a step by its name; call it for pckh after latency has run, whose exports it evaluates."""
    description, flags = BENCHMARKS[name]
    path = settings.record_path(name)
    needs_data = name == "pckh" and settings.checkpoint is not None and not settings.data_flags
    skip_reason = "--checkpoint requires the flags of a data set" if needs_data else ""
    quick = ("--quick",) if settings.quick and name != "pckh" else ()
    command = (f"bench/{SCRIPTS.get(name, name)}.py", *flags(settings), *quick, "--json", str(path))
    return Step(name, description, command, record=path, skip_reason=skip_reason)


def loader_flags(settings: BenchSettings) -> Words:
    return ("--threads", str(min(settings.cores, MAX_LOADER_THREADS)))


def train_step_flags(settings: BenchSettings) -> Words:
    gpu_flags = ("--presets", "[hg1,hg2]", "--batch-size", "32" if settings.gpu_gb >= LARGE_GPU_GB else "8")
    return (*(gpu_flags if settings.gpu_gb else ()), *loader_flags(settings))


def latency_flags(settings: BenchSettings) -> Words:
    data = settings.data_flags if settings.checkpoint is not None else ()
    return (*settings.flags("checkpoint"), *data, *settings.flags("work"))


def pckh_flags(settings: BenchSettings) -> Words:
    """Return the flags of pckh; without --checkpoint an untrained network and the synthetic people of latency's int8
    calibration, for which only the distances between exports are meaningful."""
    checkpoint, data = settings.checkpoint, settings.data_flags
    if checkpoint is None:
        checkpoint = settings.work / UNTRAINED_PRESET / "fresh.pt"
        data = ("--dataset", "mpii", "--data", str(settings.work / "people"))
    artifacts = exported_files(settings, checkpoint)
    use_all_runtimes = any(path.suffix == ".onnx" for path in artifacts) and not settings.quick
    return (str(checkpoint), *map(str, artifacts), *(("--runtimes", ONNX_RUNTIMES) if use_all_runtimes else ()), *data)


BENCHMARKS: dict[str, tuple[str, Callable[[BenchSettings], Words]]] = {
    "loader": ("loader throughput compared with princeton", loader_flags),
    "train_step": ("training throughput compared with princeton", train_step_flags),
    "latency": ("a network in every runtime", latency_flags),
    "embedding": ("overhead of a session over the network", lambda settings: settings.flags("checkpoint", "cli", "work")),
    "decode": ("heatmap decoders", lambda _: ()),
    "pckh": ("accuracy of the checkpoint and its exports", pckh_flags),
}
"""Description and flags (except --quick and --json) of each script, by its bench name."""


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
    files = []
    for name in dict.fromkeys(str(row["file"]) for row in rows):
        current = [folder / name for folder in folders if is_current(folder / name, checkpoint, max_batch)]
        files += [relative_to_root(path) for path in current[:1]]
    return files


def data_flags(choice: DataConfig) -> Words:
    """Return the flags of a data set for commands that run in the repository root."""
    values: dict[str, Any] = {item.name: getattr(choice, item.name) for item in fields(DataConfig)}
    paths = {name: relative_to_root(value) for name, value in values.items() if isinstance(value, Path)}
    return tuple(DataConfig(**{**values, **paths}).as_flags)
