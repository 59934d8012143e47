"""Which runtime should I ship? How long a network takes in each that is installed here, and what it costs in accuracy.

    python bench/latency.py
    python bench/latency.py --checkpoint exp/mpii/best.pt --dataset mpii --data MPII --json latency.json
    python bench/latency.py exp/mpii/best.pt exp/mpii/best.fp32.onnx exp/mpii/best.int8.onnx --batch [1,8]

Without arguments untrained hg1 and hg2 are exported and timed: eager as the seed runs it, torch's faster ways, TorchScript,
onnxruntime, OpenVINO and engines, in all precisions; what cannot be run here is listed with the reason. --checkpoint does so
with a network of one's own, files are timed as they are. From pictures in memory to keypoints; --end-to-end adds rows from JPEG
files and boxes. Every way has a process of its own (see `contest`); rounds are interleaved, figures are medians over the rounds.
The speed-up is over the first row, in the same rounds; differences that are less than the noise (see `noise`) are not called one.
Errors are distances from the first row's keypoints in pixels of the input, on 16 pictures: the data set's, if flags name one.
What may enter: the flags, the rows, and what is said about them. The ways are in `latency_ways`, their files in `networks`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from contest import Pace, Result, compete
from floors import Rates, floor_ms, measure_rates
from latency_ways import TORCH, LatencyWay
from networks import ONNX, exported, exports, fresh
from noise import Noise, best, noise
from numpy.typing import NDArray
from record import Row, machine, make_record, write_record
from tabulate import tabulate

from hgfast import sidecar as sidecars
from hgfast.checkpoints import load_model
from hgfast.cli import parse
from hgfast.config import DataChoice
from hgfast.distributed import pick_device
from hgfast.errors import HgfastError, run
from hgfast.files import check_apart, prepare_file, prepare_folder
from hgfast.machine import NO_BF16, cores, cpu_features
from hgfast.model import PRESETS, StackedHourglass, architecture
from hgfast.precision import resolve
from hgfast.runtimes import RUNTIMES
from hgfast.sidecar import KEYPOINTS, is_artefact
from hgfast.skeletons import HAND21
from pipelines import sample_crops
from pipelines.datasets import DATASETS, usable_samples
from pipelines.drawn.pictures import draw_pictures

LOOKED_AT = 16  # pictures
PACKAGES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx-cu13-libs", "torch-tensorrt")


@dataclass(kw_only=True)
class LatencyConfig(DataChoice):
    """One comparison."""

    files: list[Path] = field(default_factory=list)
    """checkpoints, and ONNX, TorchScript and engines of export/, to be timed as they are; the first is what others are beside"""
    checkpoint: Path | None = None
    """a network to export and time in every way; int8 is calibrated with the pictures that --dataset and --data name"""
    presets: list[str] = field(default_factory=lambda: ["hg1", "hg2"])
    """without files and checkpoint: untrained networks of these sizes"""
    batch: list[int] = field(default_factory=lambda: [1, 8, 32])
    """images at once"""
    rounds: int = 5
    """laps of every way"""
    seconds: float = 1.5
    """a lap's least length, beside three batches"""
    threads: int | None = None
    """of the CPU, and cores that a way may use; none: one a core"""
    flip_test: bool = False
    """checkpoints with a flip test; exported files must have been made with one"""
    end_to_end: bool = False
    """also from JPEG files and boxes to keypoints"""
    compile: bool = True
    """also torch.compile, which takes a minute a network and batch to begin"""
    work: Path = Path("exp/bench")
    """folder for what is exported, kept and used again"""
    quick: bool = False
    """hg1, batch 1, short laps, without torch.compile and fp16, to see that it works"""
    json: Path | None = None
    """write the record here"""

    def __post_init__(self) -> None:
        if self.quick:
            self.presets, self.batch, self.rounds, self.seconds, self.compile = self.presets[:1], self.batch[:1], 4, 0.3, False

    def validate(self) -> None:
        """Raise `HgfastError` for what is out of its range."""
        if min([self.rounds, self.threads or 1, *self.batch], default=0) < 1 or not self.batch or self.seconds <= 0:
            raise HgfastError("--rounds, --threads and --batch must be at least 1, --seconds above 0")
        if (self.threads or 1) > cores():
            raise HgfastError(f"--threads is {self.threads}, and there are {cores()} cores: what shares a core measures nothing")
        if self.checkpoint is not None and (self.files or is_artefact(self.checkpoint)):
            raise HgfastError("--checkpoint is one that training wrote, and goes without files: they are timed as they are")
        for preset in self.presets:
            architecture(preset)
        given = [*self.files, *([self.checkpoint] if self.checkpoint is not None else [])]
        for path in given:
            if not path.is_file():
                raise HgfastError(f"there is no file {path}: name a checkpoint, or a file that export/ wrote")
        if self.json is not None:
            check_apart([("a file to be measured", path) for path in given], {"--json": self.json})
            prepare_file(self.json, "--json")
        prepare_folder(self.work, "--work")

    @property
    def pace(self) -> Pace:
        return Pace(self.seconds, batches=3, warm=1)


@dataclass(frozen=True)
class Network:
    """What is compared: the ways of one network at the first batch, and rows of those that cannot be run, with a note.

    size: side of the input, pixels. model: a checkpoint's, if there is one.
    """

    preset: str
    size: int
    joints: int
    ways: list[LatencyWay]
    missing: list[Row]
    model: StackedHourglass | None


# ---- what there is to run ----


def open_networks(config: LatencyConfig, work: Path) -> list[Network]:
    """The networks that the flags name."""
    if config.files:
        return [network_of_files(config, work)]
    checkpoints = [config.checkpoint] if config.checkpoint else [fresh(preset, config.work) for preset in config.presets]
    return [network_of_checkpoint(config, checkpoint, work) for checkpoint in checkpoints]


def network_of_checkpoint(config: LatencyConfig, checkpoint: Path, work: Path) -> Network:
    """A checkpoint in torch, and everything that can be exported of it."""
    model, on_gpu = load_model(checkpoint), torch.cuda.is_available()
    network = Network(
        preset_of(model),
        model.meta.input_size,
        len(model.meta.skeleton.joints),
        torch_ways(config, checkpoint, model, work),
        missing_bf16("autocast") + ([] if config.compile else [missing("compile", "fp32", "left out")]),
        model,
    )
    for export in exports(on_gpu):
        note = ""
        if export.ending.endswith(".engine") and not on_gpu:
            note = "no NVIDIA GPU here"
        elif config.quick and export.precision == "fp16":
            note = "left out by --quick"
        else:
            print(f"{network.preset}, {checkpoint.name}: {export.way}, {export.precision}", flush=True)
            flipped = replace(export, words=(*export.words, *["--flip-test"] * config.flip_test))
            try:
                path = exported(checkpoint, flipped, max(config.batch), config.work, config.flags, config.quick)
                network.ways.extend(artefact_ways(config, path, export.way, network.preset, work))
                if export == ONNX:
                    network.missing.extend(missing_bf16("openvino"))
            except HgfastError as error:
                note = str(error)
        if note:
            network.missing.append(missing(export.way, export.precision, note))
    return network


def network_of_files(config: LatencyConfig, work: Path) -> Network:
    """Files as they are. Raises `HgfastError` for files of different networks."""
    model, ways, lacking, kinds = None, list[LatencyWay](), list[Row](), set[tuple[int, int]]()
    for path in config.files:
        if is_artefact(path):
            sidecar = sidecars.read(path)
            kinds.add((sidecar.input_size, len(sidecar.skeleton.joints)))
            if sidecar.builder is not None and not torch.cuda.is_available():
                lacking.append({**missing(sidecar.kind, sidecar.precision, "no NVIDIA GPU here"), "file": path.name})
                continue
            ways += artefact_ways(config, path, sidecar.kind, preset_of(model), work)
            if (sidecar.kind, sidecar.precision) == ("onnx", "fp32"):
                lacking += [{**row, "file": path.name} for row in missing_bf16("openvino")]
        else:
            model = load_model(path)
            kinds.add((model.meta.input_size, len(model.meta.skeleton.joints)))
            ways += torch_ways(config, path, model, work)
            lacking += missing_bf16("autocast")
    if len(kinds) > 1:
        raise HgfastError("the files differ in the size of their images or in their joints: give files of one network")
    ((size, joints),) = kinds
    return Network(preset_of(model), size, joints, ways, lacking, model)


def torch_ways(config: LatencyConfig, path: Path, model: StackedHourglass, work: Path) -> list[LatencyWay]:
    """The ways of a checkpoint."""
    device = pick_device("auto")
    mixed = resolve("auto", device)
    precisions: dict[str, str] = {"autocast": mixed if mixed != "off" else ""}
    names = [name for name in TORCH if (name != "compile" or config.compile) and precisions.get(name, "fp32")]
    size = model.meta.input_size
    return [way(config, name, "torch", precisions.get(name, "fp32"), path, preset_of(model), size, work) for name in names]


def missing_bf16(name: str) -> list[Row]:
    """Return the row in bf16 that cannot be measured on this CPU, if so: of torch's autocast without a GPU, or of OpenVINO."""
    if cpu_features().bf16 or (name == "autocast" and torch.cuda.is_available()):
        return []
    return [missing(name, "bf16", NO_BF16)]


def note_on_isa(way: LatencyWay) -> str:
    """Say what the CPU's instruction set means for a way, or ""."""
    cpu = cpu_features()
    if way.cuda:
        return ""
    if way.runtime == "onnxruntime" and cpu.limit:
        return f"not limited by {cpu.limit}"
    return "int8 without VNNI" if way.precision == "int8" and not cpu.vnni else ""


def artefact_ways(config: LatencyConfig, path: Path, name: str, preset: str, work: Path) -> list[LatencyWay]:
    """The ways of an exported file: what runs it. Raises `HgfastError` for a file that cannot be compared."""
    sidecar = sidecars.read(path)
    if KEYPOINTS not in [port.name for port in sidecar.outputs] or sidecar.flip_test != config.flip_test:
        raise HgfastError(f"{path} gives no keypoints, or differs in --flip-test from what is given here: export it again")
    if sidecar.batch.max < max(config.batch):
        raise HgfastError(f"{path} takes at most {sidecar.batch.max} images at once: give a smaller --batch")
    found: list[tuple[str, str]] = [(runtime, sidecar.precision) for runtime in RUNTIMES[sidecar.kind]]
    if sidecar.kind == "onnx" and sidecar.precision == "fp32" and cpu_features().bf16:
        found.append(("openvino", "bf16"))
    return [
        way(config, runtime if sidecar.kind == "onnx" else name, runtime, precision, path, preset, sidecar.input_size, work)
        for runtime, precision in found
    ]


def way(
    config: LatencyConfig, name: str, runtime: str, precision: str, path: Path, preset: str, size: int, work: Path
) -> LatencyWay:
    threads = config.threads or cores()
    return LatencyWay(name, runtime, precision, path, preset, size, config.batch[0], threads, work, config.flip_test)


def missing(name: str, precision: str, note: str) -> Row:
    """A row without figures."""
    return {"way": name, "precision": precision, "note": note}


def preset_of(model: StackedHourglass | None) -> str:
    """The preset that a network has the shapes of, whatever its input's size, or ""."""
    if model is None:
        return ""
    size = model.arch.input_size
    return next((name for name, arch in PRESETS.items() if replace(arch, input_size=size) == model.arch), "")


def pictures(config: LatencyConfig, network: Network) -> NDArray[np.uint8]:
    """What is looked at: crops of the data set that flags name, else drawn ones."""
    if config.flags:
        samples = usable_samples(config, DATASETS[config.dataset].held_out(config))
        return sample_crops.images(sample_crops.spread(samples, LOOKED_AT), network.size, threads=config.threads)
    return draw_pictures(network.size, LOOKED_AT, hands=network.joints == len(HAND21.joints))


# ---- what is measured ----


def measure(config: LatencyConfig, network: Network, rates: Rates, work: Path) -> tuple[list[Row], list[str]]:
    """All rows of a network, and what can be said of them."""
    np.save(work / "pictures.npy", pictures(config, network))
    rows, said = list[Row](), list[str]()
    for batch in config.batch:
        for end_to_end in (False, True)[: 1 + config.end_to_end]:
            ways = [replace(one, batch=batch, end_to_end=end_to_end) for one in network.ways]
            print(f"{network.preset or ways[0].file.name}: {len(ways)} ways at batch {batch}, {config.rounds} rounds", flush=True)
            results = compete(ways, config.rounds, config.pace, config.threads or cores())
            found = noise([result.rounds for result in results])
            rows += [make_row(ways, results, found, number, network, rates) for number in range(len(ways))]
            said.append(verdict(ways, results, found, network))
    blank: Row = dict.fromkeys(rows[0])
    about = {"preset": network.preset, "size": network.size, "threads": config.threads or cores(), "end_to_end": False}
    return [*rows, *({**blank, **about, **row} for row in network.missing)], said


def make_row(
    ways: Sequence[LatencyWay], results: Sequence[Result], found: Noise, number: int, network: Network, rates: Rates
) -> Row:
    """A row of the record."""
    one, result = ways[number], results[number]
    median_ms, first = float(np.median(result.rounds)), results[0].rounds
    apart = np.linalg.norm(np.load(one.points)[..., :2] - np.load(ways[0].points)[..., :2], axis=-1)
    floor = None
    if network.model is not None and not one.end_to_end:
        floor = floor_ms(rates, network.model.arch, network.joints, one.batch, one.precision, one.size)
    return {
        "file": one.file.name,
        "way": one.way,
        "runtime": one.runtime,
        "precision": one.precision,
        "preset": one.preset,
        "device": "gpu" if one.cuda else "cpu",
        "size": one.size,
        "batch": one.batch,
        "threads": one.threads,
        "end_to_end": one.end_to_end,
        "median_ms": round(median_ms, 4),
        "p90_ms": round(float(np.percentile(result.batch_ms, 90)), 4),
        "p99_ms": round(float(np.percentile(result.batch_ms, 99)), 4),
        "gpu_ms": None if result.gpu_ms is None else round(result.gpu_ms, 4),
        "images_per_s": round(1000 * one.batch / median_ms, 3),
        "speedup": round(float(np.median(np.divide(first, result.rounds))), 3),
        "noise": round(found.of(number), 4) if found.rounds > 1 else None,
        "speedup_noise": round(found.between(0, number), 4) if number and found.rounds > 1 else None,
        "memory_mb": round(result.start.memory_mb, 1),
        "gpu_mb": round(max(lap.gpu_mb for lap in result.laps), 1) or None,
        "floor_ms": None if floor is None else round(floor, 4),
        "max_px_error": round(float(apart.max()), 4),
        "mean_px_error": round(float(apart.mean()), 4),
        "rounds": len(first),
        "note": note_on_isa(one),
    }


# ---- what is said ----

TOO_NOISY = 0.5  # of a factor that could be said


def is_slow_int8(way: LatencyWay, median_ms: float, fp32_ms: Sequence[float]) -> bool:
    """Is this int8 without VNNI that is no faster than fp32? It costs accuracy for nothing, so that it is never recommended."""
    emulated = way.precision == "int8" and not way.cuda and not cpu_features().vnni
    return emulated and median_ms >= min(fp32_ms, default=np.inf)


def verdict(ways: Sequence[LatencyWay], results: Sequence[Result], found: Noise, network: Network) -> str:
    """Which is fastest in fp32 and at all, as far as the noise lets one say so."""
    medians = [float(np.median(result.rounds)) for result in results]
    words = []
    fp32 = [n for n, one in enumerate(ways) if one.precision == "fp32"]
    for kind, chosen in (
        ("in fp32", fp32),
        ("at all", [n for n, one in enumerate(ways) if not is_slow_int8(one, medians[n], [medians[f] for f in fp32])]),
    ):
        if len(chosen) < 2:
            continue
        own = Noise(tuple(found.spreads[n] for n in chosen), found.rounds, found.factor)
        winners = sorted((chosen[n] for n in best([medians[n] for n in chosen], own)), key=medians.__getitem__)
        names = [f"{ways[n].way} {ways[n].precision}" for n in winners]
        others = f" (no slower than the noise: {', '.join(names[1:])})" if len(names) > 1 else ""
        times, within = float(np.median(np.divide(results[0].rounds, results[winners[0]].rounds))), found.between(0, winners[0])
        if within > TOO_NOISY:
            words.append(f"fastest {kind}: not to be told, with a noise of {within:.0%}: run it again when nothing else runs")
        else:
            words.append(f"fastest {kind}: {names[0]}{others}, {times:.2f} times {ways[0].way} within {within:.0%}")
    end = ", end to end" * ways[0].end_to_end
    return f"{network.preset or ways[0].file.name}, {ways[0].size} px, {ways[0].batch} at once{end}: {'; '.join(words)}"


SHOWN = {
    "way": "way",
    "precision": "",
    "batch": "batch",
    "median_ms": "ms",
    "p90_ms": "p90",
    "p99_ms": "p99",
    "gpu_ms": "GPU, ms",
    "images_per_s": "images/s",
    "speedup": "speed-up",
    "speedup_noise": "noise",
    "memory_mb": "MB",
    "floor_ms": "floor, ms",
    "mean_px_error": "px, mean",
    "max_px_error": "px, most",
    "note": "",
}


def table(rows: Sequence[Row]) -> str:
    """For people."""
    forms = {"speedup": "{:.2f}", "speedup_noise": "{:.0%}", "memory_mb": "{:.0f}", "images_per_s": "{:.1f}", "batch": "{}"}
    lines = []
    for row in rows:
        shown = {key: "" if row.get(key) is None else row[key] for key in SHOWN}
        shown["note"] = shown["note"] if row.get("median_ms") else f"not measured: {shown['note']}"
        shown["way"] += ", end to end" if row.get("end_to_end") else ""
        lines.append([forms.get(k, "{:.2f}").format(v) if isinstance(v, float | int) else str(v) for k, v in shown.items()])
    return tabulate(
        lines, headers=list(SHOWN.values()), disable_numparse=True, colalign=("left", "left", *["right"] * 12, "left")
    )


def main() -> None:
    config = parse(LatencyConfig, rest="files", description=__doc__ or "")
    config.validate()
    where, rows, said = machine(), list[Row](), list[str]()
    with tempfile.TemporaryDirectory(prefix="hgfast-latency-") as folder:
        networks = open_networks(config, Path(folder))
        for network in networks:
            if not network.ways:
                for row in network.missing:
                    print(f"{row.get('file') or row['way']}: {row['note']}")
                raise HgfastError("there is nothing to run here: give a checkpoint or an ONNX")
        print("measuring the machine's matrix and copy rates", flush=True)
        rates = measure_rates(pick_device("auto"), config.threads or cores())
        for network in networks:
            own, words = measure(config, network, rates, Path(folder))
            print(f"\n{network.preset}\n{table(own)}\n", "\n".join(words), sep="", flush=True)
            rows += own
            said += words
    print(
        "ms: median over the rounds, by the host's clock; GPU, ms: by CUDA events with copies; speed-up: over the first row; "
        "noise: what a difference from it must exceed; MB: memory from opening and first running; floor: at the rate of torch's "
        "matrix product; px: of the input",
        flush=True,
    )
    if not config.files and config.checkpoint is None:
        print("these networks are untrained: times are those of trained ones, errors are not; see --checkpoint", flush=True)
    if config.json is not None:
        write_record(make_record(rows, {**where, **rates.row}, PACKAGES, said), config.json)
        print(f"record: {config.json}")


if __name__ == "__main__":
    run(main)
