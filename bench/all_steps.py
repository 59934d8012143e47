"""What `all.py` runs, in order: the words of every command, and the record that each leaves.

What may enter: steps. How they are run is in `gpu_run`, what is made of their records in `all`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gpu_check import near
from gpu_run import ROOT
from gpu_steps import ROOMY, Step
from records import read_record

from hgfast.config import DataChoice
from hgfast.sidecar import checksum

MOST_THREADS = 8  # of a loader; few machines give one more
UNTRAINED = "hg1"  # of the networks that latency makes where it is given none
WITHIN = ("onnxruntime", "openvino", "openvino-bf16")  # what the accuracy of an ONNX is looked at in


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where and on what it is run. checkpoint: a network of one's own. data: the flags that name a data set. cores: of the CPU.
    gpu_gb: memory of the first GPU, 0 where there is none. cli: the program of export/cpp, if it was built."""

    work: Path
    quick: bool
    checkpoint: Path | None
    data: tuple[str, ...]
    cores: int
    gpu_gb: float
    cli: Path | None = None

    def record(self, name: str) -> Path:
        """Where a step leaves its record."""
        return self.work / "all" / f"{name}.json"

    @property
    def quickly(self) -> tuple[str, ...]:
        return ("--quick",) if self.quick else ()


def make_step(name: str, at: Setting) -> Step:
    """One of them; that of pckh is known only after latency has run."""
    words, flags = STEPS[name]
    path = at.record(name)
    lacking = name == "pckh" and at.checkpoint is not None and not at.data
    impossible = "it needs the flags that name a data set beside --checkpoint" if lacking else ""
    command = (f"bench/{name}.py", *flags(at), "--json", str(path))
    return Step(name=name, words=words, command=command, result=path, impossible=impossible)


def loader(at: Setting) -> tuple[str, ...]:
    return ("--threads", str(min(at.cores, MOST_THREADS)), *at.quickly)


def train_step(at: Setting) -> tuple[str, ...]:
    flags = ("--threads", str(min(at.cores, MOST_THREADS)), *at.quickly)
    return flags if not at.gpu_gb else ("--presets", "[hg1,hg2]", "--batch-size", "32" if at.gpu_gb >= ROOMY else "8", *flags)


def latency(at: Setting) -> tuple[str, ...]:
    own = ("--checkpoint", str(at.checkpoint), *at.data) if at.checkpoint is not None else ()
    return (*own, "--work", str(at.work), *at.quickly)


def embedding(at: Setting) -> tuple[str, ...]:
    own = [("--checkpoint", at.checkpoint), ("--cli", at.cli)]
    given = [word for flag, path in own if path is not None for word in (flag, str(path))]
    return (*given, "--work", str(at.work), *at.quickly)


def decode(at: Setting) -> tuple[str, ...]:
    return at.quickly


def pckh(at: Setting) -> tuple[str, ...]:
    """Without a network of one's own an untrained one on the people that latency has drawn for int8: only distances mean much."""
    checkpoint = at.checkpoint or at.work / UNTRAINED / "fresh.pt"
    made = exported(at, checkpoint)
    data = at.data if at.checkpoint is not None else ("--dataset", "mpii", "--data", str(at.work / "people"))
    within = ("--runtimes", f"[{','.join(WITHIN)}]") if any(path.suffix == ".onnx" for path in made) and not at.quick else ()
    return (str(checkpoint), *map(str, made), *within, *data)


STEPS: dict[str, tuple[str, Callable[[Setting], tuple[str, ...]]]] = {
    "loader": ("how fast batches come, beside the seed's way", loader),
    "train_step": ("a training step beside the seed's", train_step),
    "latency": ("a network in every runtime", latency),
    "embedding": ("what a session costs beside the network", embedding),
    "decode": ("from heatmaps to points", decode),
    "pckh": ("accuracy of the checkpoint and of what was made of it", pckh),
}
"""By name, which is the script's: what it shows, and its flags but for --json."""


def exported(at: Setting, checkpoint: Path) -> list[Path]:
    """The files that latency has made of the checkpoint, or found beside it, and timed."""
    left = ROOT / at.record("latency")
    if not left.is_file() or not (ROOT / checkpoint).is_file():
        return []
    from networks import fits  # torch takes its time

    rows = [row for row in read_record(left)["rows"] if row.get("batch")]
    most = max((int(row["batch"]) for row in rows), default=1)
    checkpoint = ROOT / checkpoint
    folders = (checkpoint.parent, ROOT / at.work / f"{checkpoint.stem}-{checksum(checkpoint)[:12]}")
    places = [[folder / str(name) for folder in folders] for name in dict.fromkeys(row["file"] for row in rows)]
    found = [next((path for path in both if fits(path, checkpoint, most)), None) for both in places]
    return [near(path) for path in found if path is not None]


def data_flags(choice: DataChoice) -> tuple[str, ...]:
    """The flags that name a data set, for commands that are run in the project's folder."""
    given: dict[str, Any] = {one.name: getattr(choice, one.name) for one in fields(DataChoice)}
    near_by: dict[str, Any] = {name: near(value) if isinstance(value, Path) else value for name, value in given.items()}
    return tuple(DataChoice(**near_by).flags)
