"""Start, kill, double and resume commands at random in two folders, and check at the end that nothing is lost or left.

    python -m tests.robustness.soak --minutes 60 --seed 0 --json soak.json

Each of two lanes has a folder and one command at a time: training, the crop cache, prediction, export to ONNX and the file check,
each of which meets a random event at a random moment. In the end every command runs undisturbed. The exit code is 1 at the first
violation, whose events are printed; the same seed draws the same events, though not at the same instants.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from tabulate import tabulate

from hgfast import checkpoints
from hgfast.bench.harness.record import machine_info
from hgfast.cli import parse
from hgfast.entry_point import run_main
from hgfast.fileio.files import to_json, write_text
from hgfast.pipelines.cache import CacheConfig
from hgfast.pipelines.crop_cache.builder import use_cache
from hgfast.pipelines.datasets import open_samples
from hgfast.pipelines.synthetic import generate_freihand, generate_mpii
from hgfast.visualization.draw import read_image
from tests.conftest import ROOT
from tests.exports import save_checkpoint
from tests.robustness.usage import SHM, command_line

COMMANDS = ("train", "cache", "predict", "export", "check")
EVENTS = ("none", "TERM", "HUP", "INT", "KILL", "STOP", "pipe", "double")
SIGNALS = {"TERM": signal.SIGTERM, "HUP": signal.SIGHUP, "INT": signal.SIGINT, "KILL": signal.SIGKILL, "STOP": signal.SIGTERM}
NUM_PEOPLE, NUM_VALID, NUM_HANDS = 60, 4, 64
PATIENCE = 300.0
"""Seconds after which a process counts as hung."""


@dataclass(kw_only=True)
class Options:
    minutes: float = 60.0
    """time of the random events"""
    seed: int = 0
    """random seed"""
    json: Path | None = None
    """write the counts to this file"""


class Violation(Exception):
    """A promise that was broken."""


@dataclass
class Lane:
    """A folder, and the commands that run in it one after the other."""

    folder: Path
    rng: random.Random
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    codes: Counter[tuple[str, int]] = field(default_factory=Counter)
    history: list[str] = field(default_factory=list)
    cache_words: list[str] = field(default_factory=list)

    def command(self, name: str, steps: int = 100_000) -> list[str]:
        """Return the command line of a command. `steps` ends training."""
        folder, network = self.folder, self.folder / "network.pt"
        words: Sequence[object]
        if name == "train":
            words = ["--out", folder, "-m", steps / 1000, "--threads", 1, "--loader", self.rng.choice(("dali", "opencv"))]
            if (folder / "run/checkpoint.pt").exists():
                words = ["-c", "run", *words]
            else:
                words = [
                    "-e", "run", "--overwrite", "--dataset", "freihand", "--data", folder / "hands", "--versions", "gs",
                    "--model.preset", "tiny", "--batch-size", 16, "--device", "cpu", "--train.amp", "off",
                    "--train.save-steps", 7, *words,
                ]  # fmt: skip
        elif name == "cache":
            rotation = self.rng.choice((10, 20, 30))
            words = ["--dataset", "mpii", "--data", folder / "people", "--model.preset", "tiny", "--augment.rotation", rotation]
            words = [*words, "--cache", folder / "crops", "--threads", 2, *["--prune"] * (self.rng.random() < 0.3)]
            self.cache_words = [sys.executable, "-m", "hgfast", name, *map(str, words)]
        elif name == "predict":
            words = [network, folder / "people/images", "--out", folder / "predictions", "--heatmaps"]
        elif name == "export":
            words = ["onnx", network, "--out", folder / "network.onnx", "--batch", 1]
        else:
            (folder / "people/hgfast-check.json").unlink(missing_ok=True) if self.rng.random() < 0.5 else None
            words = ["--dataset", "mpii", "--data", folder / "people", "--loader", self.rng.choice(("dali", "opencv"))]
        return [sys.executable, "-m", "hgfast", name, *map(str, words)]

    def start(self, words: Sequence[str], stdout: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        return subprocess.Popen(
            words, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1", "TMPDIR": str(self.folder / "tmp")},
        )  # fmt: skip

    def end(self, name: str, process: subprocess.Popen[str], allowed: set[int]) -> str:
        """Wait for a process and check its exit code and messages. Returns stderr."""
        try:
            _, stderr = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # faulthandler prints where it hangs
            _, stderr = process.communicate()
            os.killpg(process.pid, signal.SIGKILL) if session_members(process.pid) else None
            raise Violation(f"{name} hangs:\n{stderr[-5000:]}") from None
        self.codes[name, process.returncode] += 1
        self.history[-1] += f" -> {process.returncode}"
        if process.returncode not in allowed or "Traceback" in stderr:
            raise Violation(f"{name} ended with {process.returncode} instead of one of {sorted(allowed)}:\n{stderr[-3000:]}")
        end = time.monotonic() + PATIENCE
        while alive := session_members(process.pid):
            if time.monotonic() > end:
                raise Violation(f"{name} has left processes: {alive}")
            time.sleep(0.05)
        return stderr

    def step(self) -> None:
        """Run a random command with a random event."""
        name, event = self.rng.choice(COMMANDS), self.rng.choice(EVENTS)
        event = "TERM" if (name, event) == ("train", "none") else event  # training would not end
        self.history.append(f"{name} {event}")
        self.counts[name, event] += 1
        words = self.command(name)
        if event == "pipe":
            reader, writer = os.pipe()
            process = self.start(words, writer)
            os.close(writer)
        else:
            process = self.start(words)
        wait_for_handlers(process)
        if event in ("none", "double"):
            self._double(name, words, process) if event == "double" else self.end(name, process, {0})
            return
        time.sleep(self.rng.expovariate(1 / 2.0))
        if event == "STOP":
            process.send_signal(signal.SIGSTOP)
            time.sleep(self.rng.uniform(0.1, 1))
            process.send_signal(signal.SIGCONT)
        if event == "pipe":
            os.close(reader)
            if name == "train":  # goes on
                time.sleep(self.rng.uniform(0, 3))
                process.send_signal(signal.SIGTERM)
            self.end(name, process, {143} if name == "train" else {0, 141})
        else:
            signum = SIGNALS[event]
            process.send_signal(signum)
            # the signal itself ends a command that is over but for the interpreter's exit; and Python kills itself after a
            # KeyboardInterrupt that has passed through exec() of a text, as in dataclasses
            codes = {-signum} if event == "KILL" else {128 + signum, -signum}
            self.end(name, process, codes if name == "train" else codes | {0})

    def _double(self, name: str, words: list[str], first: subprocess.Popen[str]) -> None:
        """Start the same command again while the first holds its lock, if it has one: the second must be refused."""
        lock = {"train": self.folder / "run/.lock", "cache": self.folder / "crops/.lock"}.get(name)
        while lock and first.poll() is None and f"process {first.pid} " not in read_text(lock):
            time.sleep(0.01)
        second = self.start(words)
        stderr = self.end(name, second, {"train": {2}, "cache": {0, 2}}.get(name, {0}))
        if second.returncode == 2 and f"is in use by process {first.pid} on" not in stderr:
            raise Violation(f"the second {name} says:\n{stderr}")
        if name == "train":
            first.send_signal(signal.SIGTERM)
        self.end(name, first, {143} if name == "train" else {0})

    def finish(self) -> None:
        """Run every command undisturbed and check all files."""
        saved = self.folder / "run/checkpoint.pt"
        steps = checkpoints.read(saved)["training"]["step"] + 9 if saved.exists() else 20
        for name in COMMANDS:
            self.history.append(f"{name} at the end")
            self.end(name, self.start(self.command(name, steps)), {0})
        records = [json.loads(line) for line in (self.folder / "run/metrics.jsonl").read_text().splitlines()]
        if [record["epoch"] for record in records] != list(range(1, len(records) + 1)) or records[-1]["step"] != steps:
            raise Violation(f"metrics.jsonl has the epochs {[record['epoch'] for record in records]}, ends at {records[-1]}")
        for path in self.folder.glob("run/*.pt"):
            checkpoints.model_from_checkpoint(checkpoints.read(path), path)
        entries = json.loads((self.folder / "predictions/keypoints.json").read_text())["images"]
        if len(entries) != NUM_PEOPLE + NUM_VALID:
            raise Violation(f"keypoints.json has {len(entries)} images")
        for entry in entries:
            read_image(self.folder / "predictions" / entry["drawn"])
            read_image(self.folder / "predictions" / entry["heatmaps"])
        onnx.checker.check_model(str(self.folder / "network.onnx"))
        json.loads((self.folder / "network.onnx.json").read_text())
        if json.loads((self.folder / "people/hgfast-check.json").read_text())["bad"]:
            raise Violation("the check has found bad images")
        config = parse(CacheConfig, self.cache_words[4:])
        samples = use_cache(
            open_samples(config, "train"), self.folder / "crops", config.augment, config.model.make_architecture().input_size
        )
        for path in samples.paths:
            read_image(path)
        left = [path for path in self.folder.rglob("*") if path.name == ".lock" or ".writing" in path.name]
        left += (self.folder / "tmp").glob("hgfast-*")
        if left:
            raise Violation(f"temporary files are left: {left}")

    def run(self, end: float, stop: threading.Event) -> None:
        """Run random events until `end` or `stop`, then finish."""
        try:
            while time.monotonic() < end and not stop.is_set():
                self.step()
            if not stop.is_set():
                self.finish()
        except Exception as error:
            stop.set()
            last = "\n".join(self.history[-12:])
            raise Violation(f"{error}\nafter these events in {self.folder}:\n{last}") from error


def session_members(session: int) -> list[str]:
    """Return the command lines of the processes of a session, without zombies."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        fields = read_text(stat).rpartition(")")[2].split()
        if fields and fields[0] not in "ZX" and int(fields[3]) == session:
            members.append(command_line(int(stat.parent.name)))
    return members


def read_text(path: Path) -> str:
    """Return a file's content; "" if it does not exist."""
    try:
        return path.read_text()
    except OSError:
        return ""


def wait_for_handlers(process: subprocess.Popen[str]) -> None:
    """Wait until the command handles SIGTERM, which it does before it does anything else."""
    while process.poll() is None:
        caught = re.search(r"SigCgt:\s*([0-9a-f]+)", read_text(Path(f"/proc/{process.pid}/status")))
        if caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.005)


def format_counts(counts: Counter[tuple[str, str]]) -> str:
    """Format the number of events by command as a Markdown table."""
    rows = [[name, *(counts[name, event] for event in EVENTS), sum(counts[name, event] for event in EVENTS)] for name in COMMANDS]
    return tabulate(rows, ["command", *EVENTS, "all"], tablefmt="github")


def soak(options: Options, folder: Path) -> dict[str, Any]:
    """Run two lanes in a folder and return the counts. Raises `Violation`."""
    shared_memory = {path.name for path in SHM.iterdir()}
    lanes, stop = [], threading.Event()
    for number in range(2):
        lane = Lane(folder / str(number), random.Random(f"{options.seed} {number}"))  # noqa: S311
        (lane.folder / "tmp").mkdir(parents=True)
        generate_freihand(lane.folder / "hands", NUM_HANDS, seed=number, workers=1)
        generate_mpii(lane.folder / "people", NUM_PEOPLE, seed=number, valid=NUM_VALID, workers=1)
        save_checkpoint(lane.folder / "network.pt")
        lanes.append(lane)
    end = time.monotonic() + 60 * options.minutes
    with ThreadPoolExecutor(2) as pool:
        for result in [pool.submit(lane.run, end, stop) for lane in lanes]:
            result.result()
    new_names = {path.name for path in SHM.iterdir()} - shared_memory
    if new_names:
        raise Violation(f"{SHM} has {sorted(new_names)}")
    counts, codes = (sum((getattr(lane, name) for lane in lanes), Counter()) for name in ("counts", "codes"))
    return {
        "minutes": options.minutes,
        "seed": options.seed,
        "machine": machine_info(),
        "events": {f"{name} {event}": count for (name, event), count in sorted(counts.items())},
        "codes": {f"{name} {code}": count for (name, code), count in sorted(codes.items())},
        "table": format_counts(counts),
    }


def main() -> None:
    options = parse(Options, description=__doc__ or "")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        try:
            result = soak(options, Path(folder))
        except Violation as error:
            print(f"{error}\nrepeat it with --seed {options.seed}", file=sys.stderr)
            raise SystemExit(1) from error
    table = result.pop("table")
    codes = ", ".join(f"{code}: {count}" for code, count in result["codes"].items())
    print(f"{table}\n\nexit codes: {codes}\nnothing lost, nothing left")
    if options.json is not None:
        write_text(options.json, to_json(result, indent=1) + "\n", "--json")


if __name__ == "__main__":
    run_main(main)
