"""Measure the latency and accuracy of a network in every installed runtime and precision.

    python bench/latency.py
    python bench/latency.py --checkpoint exp/mpii/best.pt --dataset mpii --data MPII --json latency.json
    python bench/latency.py exp/mpii/best.pt exp/mpii/best.fp32.onnx exp/mpii/best.int8.onnx --batch [1,8]

Without arguments, untrained hg1 and hg2 are exported and timed: eager as in princeton's code, faster variants of torch,
TorchScript, onnxruntime, OpenVINO and TensorRT engines, in all precisions; variants that cannot run here are listed with the
reason. --checkpoint exports and times your network; files are timed as they are. Times are from images in memory to keypoints;
--end-to-end adds rows from JPEG files and boxes. Every variant runs in its own process, in interleaved rounds; results are
medians over the rounds. The speedup is relative to the first row. Errors are distances from the keypoints of the first row in
input pixels, on 16 images, of a data set if its flags are given.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tabulate import tabulate

from hgfast.architectures import PRESETS, architecture
from hgfast.bench.harness.interleaved import Result, TrialSettings, run_interleaved
from hgfast.bench.harness.networks import ONNX, export_commands, find_or_export, untrained_checkpoint
from hgfast.bench.harness.noise import NoiseEstimate, estimate_noise, fastest
from hgfast.bench.harness.record import Row, machine_info, make_record, write_record
from hgfast.bench.harness.roofline import DeviceRates, measure_rates, roofline_ms
from hgfast.bench.variants.latency import TORCH_METHODS, LatencyVariant
from hgfast.checkpoints import load_model
from hgfast.cli import parse
from hgfast.config import DataConfig
from hgfast.errors import HgfastError, run_main
from hgfast.fileio.files import check_distinct_paths, prepare_file, prepare_folder
from hgfast.model import StackedHourglass
from hgfast.pipelines import sample_crops
from hgfast.pipelines.datasets import DATASETS, usable_samples
from hgfast.pipelines.synthetic_data.images import render_images
from hgfast.runtime import sidecar as sidecars
from hgfast.runtime.backends import RUNTIMES_BY_FORMAT
from hgfast.runtime.sidecar import KEYPOINTS, is_exported
from hgfast.skeletons import HAND21
from hgfast.system_info import NO_BF16, available_cores, cpu_features
from hgfast.training.amp import resolve_amp
from hgfast.training.distributed import select_device

ACCURACY_IMAGES = 16
PACKAGES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx-cu13-libs", "torch-tensorrt")


@dataclass(kw_only=True)
class LatencyConfig(DataConfig):
    """Settings of the latency benchmark."""

    files: list[Path] = field(default_factory=list)
    """checkpoints and exported ONNX, TorchScript and engine files, timed as they are; the first is the baseline"""
    checkpoint: Path | None = None
    """network to export and time in every runtime; int8 is calibrated with the images of --dataset and --data"""
    presets: list[str] = field(default_factory=lambda: ["hg1", "hg2"])
    """presets of the untrained networks that are timed without files and --checkpoint"""
    batch: list[int] = field(default_factory=lambda: [1, 8, 32])
    """batch sizes"""
    rounds: int = 5
    """trials per variant"""
    seconds: float = 1.5
    """minimum length of a trial, which has at least three batches"""
    threads: int | None = None
    """CPU threads and cores per variant; none: all cores"""
    flip_test: bool = False
    """run checkpoints with flip test; exported files must include it"""
    end_to_end: bool = False
    """add rows from JPEG files and boxes to keypoints"""
    compile: bool = True
    """include torch.compile, which takes a minute per network and batch size to start"""
    work: Path = Path("exp/bench")
    """folder of the exported files, which later runs reuse"""
    quick: bool = False
    """one preset, one batch size, short trials, no torch.compile, no fp16, for a smoke test"""
    json: Path | None = None
    """write the record to this file"""

    def __post_init__(self) -> None:
        if self.quick:
            self.presets, self.batch, self.rounds, self.seconds, self.compile = self.presets[:1], self.batch[:1], 4, 0.3, False

    def validate(self) -> None:
        """Raise `HgfastError` for invalid settings."""
        if min([self.rounds, self.threads or 1, *self.batch], default=0) < 1 or not self.batch or self.seconds <= 0:
            raise HgfastError("--rounds, --threads and --batch must be at least 1, --seconds above 0")
        if (self.threads or 1) > available_cores():
            raise HgfastError(
                f"--threads is {self.threads}, but only {available_cores()} cores are available: give at most that many"
            )
        if self.checkpoint is not None and (self.files or is_exported(self.checkpoint)):
            raise HgfastError("--checkpoint needs a checkpoint of training and excludes files: leave out one of them")
        for preset in self.presets:
            architecture(preset)
        given = [*self.files, *([self.checkpoint] if self.checkpoint is not None else [])]
        for path in given:
            if not path.is_file():
                raise HgfastError(f"there is no file {path}: give a checkpoint, or a file that export/ wrote")
        if self.json is not None:
            check_distinct_paths([("a file to measure", path) for path in given], {"--json": self.json})
            prepare_file(self.json, "--json")
        prepare_folder(self.work, "--work")

    @property
    def trial_settings(self) -> TrialSettings:
        return TrialSettings(self.seconds, batches=3, warm=1)


@dataclass(frozen=True)
class ComparedNetwork:
    """One network: its variants at the first batch size, and the rows of variants that cannot run, with a note.

    size: side of the input in pixels. model: of the checkpoint, or None if there is none.
    """

    preset: str
    size: int
    joints: int
    variants: list[LatencyVariant]
    unavailable: list[Row]
    model: StackedHourglass | None


# ---- networks and variants ----


def open_networks(config: LatencyConfig, work: Path) -> list[ComparedNetwork]:
    """Return the networks that the flags specify."""
    if config.files:
        return [open_artifacts(config, work)]
    checkpoints = (
        [config.checkpoint] if config.checkpoint else [untrained_checkpoint(preset, config.work) for preset in config.presets]
    )
    return [open_checkpoint(config, checkpoint, work) for checkpoint in checkpoints]


def open_checkpoint(config: LatencyConfig, checkpoint: Path, work: Path) -> ComparedNetwork:
    """Return a checkpoint in torch and in all exports, which are written if needed."""
    model, on_gpu = load_model(checkpoint), torch.cuda.is_available()
    network = ComparedNetwork(
        preset_name(model),
        model.meta.input_size,
        len(model.meta.skeleton.joints),
        torch_variants(config, checkpoint, model, work),
        missing_bf16("autocast") + ([] if config.compile else [unavailable_row("compile", "fp32", "omitted")]),
        model,
    )
    for export in export_commands(on_gpu):
        note = ""
        if export.suffix.endswith(".engine") and not on_gpu:
            note = "no NVIDIA GPU here"
        elif config.quick and export.precision == "fp16":
            note = "omitted by --quick"
        else:
            print(f"{network.preset}, {checkpoint.name}: {export.method}, {export.precision}", flush=True)
            with_flip_test = replace(export, args=(*export.args, *["--flip-test"] * config.flip_test))
            try:
                path = find_or_export(checkpoint, with_flip_test, max(config.batch), config.work, config.as_flags, config.quick)
                network.variants.extend(artifact_variants(config, path, export.method, network.preset, work))
                if export == ONNX:
                    network.unavailable.extend(missing_bf16("openvino"))
            except HgfastError as error:
                note = str(error)
        if note:
            network.unavailable.append(unavailable_row(export.method, export.precision, note))
    return network


def open_artifacts(config: LatencyConfig, work: Path) -> ComparedNetwork:
    """Return the variants of the given files. Raises `HgfastError` if the files are of different networks."""
    model, variants, unavailable, shapes = None, list[LatencyVariant](), list[Row](), set[tuple[int, int]]()
    for path in config.files:
        if is_exported(path):
            sidecar = sidecars.read_sidecar(path)
            shapes.add((sidecar.input_size, len(sidecar.skeleton.joints)))
            if sidecar.builder is not None and not torch.cuda.is_available():
                unavailable.append(
                    {**unavailable_row(sidecar.export_format, sidecar.precision, "no NVIDIA GPU here"), "file": path.name}
                )
                continue
            variants += artifact_variants(config, path, sidecar.export_format, preset_name(model), work)
            if (sidecar.export_format, sidecar.precision) == ("onnx", "fp32"):
                unavailable += [{**row, "file": path.name} for row in missing_bf16("openvino")]
        else:
            model = load_model(path)
            shapes.add((model.meta.input_size, len(model.meta.skeleton.joints)))
            variants += torch_variants(config, path, model, work)
            unavailable += missing_bf16("autocast")
    if len(shapes) > 1:
        raise HgfastError("the files differ in input size or number of joints: give files of one network")
    ((size, joints),) = shapes
    return ComparedNetwork(preset_name(model), size, joints, variants, unavailable, model)


def torch_variants(config: LatencyConfig, path: Path, model: StackedHourglass, work: Path) -> list[LatencyVariant]:
    """Return the torch variants of a checkpoint."""
    device = select_device("auto")
    mixed = resolve_amp("auto", device)
    precisions: dict[str, str] = {"autocast": mixed if mixed != "off" else ""}
    names = [name for name in TORCH_METHODS if (name != "compile" or config.compile) and precisions.get(name, "fp32")]
    size = model.meta.input_size
    return [
        make_variant(config, name, "torch", precisions.get(name, "fp32"), path, preset_name(model), size, work) for name in names
    ]


def missing_bf16(name: str) -> list[Row]:
    """Return the bf16 row of autocast without a GPU, or of OpenVINO, as unavailable if this CPU lacks bf16; else no row."""
    if cpu_features().bf16 or (name == "autocast" and torch.cuda.is_available()):
        return []
    return [unavailable_row(name, "bf16", NO_BF16)]


def note_on_isa(variant: LatencyVariant) -> str:
    """Return a note on how the CPU's instruction set affects a variant, or ""."""
    cpu = cpu_features()
    if variant.cuda:
        return ""
    if variant.runtime == "onnxruntime" and cpu.limit:
        return f"not limited by {cpu.limit}"
    return "int8 without VNNI" if variant.precision == "int8" and not cpu.vnni else ""


def artifact_variants(config: LatencyConfig, path: Path, name: str, preset: str, work: Path) -> list[LatencyVariant]:
    """Return a variant for each runtime of an exported file. Raises `HgfastError` if the file cannot be compared."""
    sidecar = sidecars.read_sidecar(path)
    if KEYPOINTS not in [port.name for port in sidecar.outputs] or sidecar.flip_test != config.flip_test:
        raise HgfastError(f"{path} does not return keypoints, or differs in --flip-test: export it again")
    if sidecar.batch.max < max(config.batch):
        raise HgfastError(f"{path} accepts batches of at most {sidecar.batch.max}: give a smaller --batch")
    runs: list[tuple[str, str]] = [(runtime, sidecar.precision) for runtime in RUNTIMES_BY_FORMAT[sidecar.export_format]]
    if sidecar.export_format == "onnx" and sidecar.precision == "fp32" and cpu_features().bf16:
        runs.append(("openvino", "bf16"))
    return [
        make_variant(
            config,
            runtime if sidecar.export_format == "onnx" else name,
            runtime,
            precision,
            path,
            preset,
            sidecar.input_size,
            work,
        )
        for runtime, precision in runs
    ]


def make_variant(
    config: LatencyConfig, name: str, runtime: str, precision: str, path: Path, preset: str, size: int, work: Path
) -> LatencyVariant:
    threads = config.threads or available_cores()
    return LatencyVariant(name, runtime, precision, path, preset, size, config.batch[0], threads, work, config.flip_test)


def unavailable_row(name: str, precision: str, note: str) -> Row:
    """Return a row without metrics."""
    return {"way": name, "precision": precision, "note": note}


def preset_name(model: StackedHourglass | None) -> str:
    """Return the preset whose architecture equals that of a network, regardless of the input size, or ""."""
    if model is None:
        return ""
    size = model.arch.input_size
    return next((name for name, arch in PRESETS.items() if replace(arch, input_size=size) == model.arch), "")


def accuracy_images(config: LatencyConfig, network: ComparedNetwork) -> NDArray[np.uint8]:
    """Return uint8 crops (16, S, S, 3) of the data set that the flags specify, or synthetic ones."""
    if config.as_flags:
        samples = usable_samples(config, DATASETS[config.dataset].eval_split(config))
        return sample_crops.load_crops(sample_crops.evenly_spaced(samples, ACCURACY_IMAGES), network.size, threads=config.threads)
    return render_images(network.size, ACCURACY_IMAGES, hands=network.joints == len(HAND21.joints))


# ---- measuring ----


def measure(config: LatencyConfig, network: ComparedNetwork, rates: DeviceRates, work: Path) -> tuple[list[Row], list[str]]:
    """Measure a network; return its rows and conclusions."""
    np.save(work / "images.npy", accuracy_images(config, network))
    rows, conclusions = list[Row](), list[str]()
    for batch in config.batch:
        for end_to_end in (False, True)[: 1 + config.end_to_end]:
            variants = [replace(variant, batch=batch, end_to_end=end_to_end) for variant in network.variants]
            print(
                f"{network.preset or variants[0].file.name}: {len(variants)} variants at batch {batch}, {config.rounds} rounds",
                flush=True,
            )
            results = run_interleaved(variants, config.rounds, config.trial_settings, config.threads or available_cores())
            noise_estimate = estimate_noise([result.round_ms for result in results])
            rows += [make_row(variants, results, noise_estimate, number, network, rates) for number in range(len(variants))]
            conclusions.append(summarize(variants, results, noise_estimate, network))
    blank: Row = dict.fromkeys(rows[0])
    about = {"preset": network.preset, "size": network.size, "threads": config.threads or available_cores(), "end_to_end": False}
    return [*rows, *({**blank, **about, **row} for row in network.unavailable)], conclusions


def make_row(
    variants: Sequence[LatencyVariant],
    results: Sequence[Result],
    noise: NoiseEstimate,
    number: int,
    network: ComparedNetwork,
    rates: DeviceRates,
) -> Row:
    """Return the row of a variant."""
    variant, result = variants[number], results[number]
    median_ms, first = float(np.median(result.round_ms)), results[0].round_ms
    distances = np.linalg.norm(np.load(variant.points)[..., :2] - np.load(variants[0].points)[..., :2], axis=-1)
    roofline = None
    if network.model is not None and not variant.end_to_end:
        roofline = roofline_ms(rates, network.model.arch, network.joints, variant.batch, variant.precision, variant.size)
    return {
        "file": variant.file.name,
        "way": variant.method,
        "runtime": variant.runtime,
        "precision": variant.precision,
        "preset": variant.preset,
        "device": "gpu" if variant.cuda else "cpu",
        "size": variant.size,
        "batch": variant.batch,
        "threads": variant.threads,
        "end_to_end": variant.end_to_end,
        "median_ms": round(median_ms, 4),
        "p90_ms": round(float(np.percentile(result.batch_ms, 90)), 4),
        "p99_ms": round(float(np.percentile(result.batch_ms, 99)), 4),
        "gpu_ms": None if result.gpu_ms is None else round(result.gpu_ms, 4),
        "images_per_s": round(1000 * variant.batch / median_ms, 3),
        "speedup": round(float(np.median(np.divide(first, result.round_ms))), 3),
        "noise": round(noise.margin(number), 4) if noise.rounds > 1 else None,
        "speedup_noise": round(noise.min_ratio(0, number), 4) if number and noise.rounds > 1 else None,
        "memory_mb": round(result.startup.memory_mb, 1),
        "gpu_mb": round(max(trial.gpu_mb for trial in result.trials), 1) or None,
        "floor_ms": None if roofline is None else round(roofline, 4),
        "max_px_error": round(float(distances.max()), 4),
        "mean_px_error": round(float(distances.mean()), 4),
        "rounds": len(first),
        "note": note_on_isa(variant),
    }


# ---- the report ----

MAX_NOISE = 0.5  # noise of a speedup above which no fastest variant is named


def is_slow_int8(variant: LatencyVariant, median_ms: float, fp32_ms: Sequence[float]) -> bool:
    """Return whether a variant is int8 without VNNI and not faster than fp32: it loses accuracy for nothing, so it is never
    recommended."""
    emulated = variant.precision == "int8" and not variant.cuda and not cpu_features().vnni
    return emulated and median_ms >= min(fp32_ms, default=np.inf)


def summarize(
    variants: Sequence[LatencyVariant], results: Sequence[Result], noise: NoiseEstimate, network: ComparedNetwork
) -> str:
    """Name the fastest variants in fp32 and overall, as far as the noise permits."""
    medians = [float(np.median(result.round_ms)) for result in results]
    sentences = []
    fp32 = [n for n, variant in enumerate(variants) if variant.precision == "fp32"]
    fp32_ms = [medians[n] for n in fp32]
    useful = [n for n, variant in enumerate(variants) if not is_slow_int8(variant, medians[n], fp32_ms)]
    for scope, chosen in (("in fp32", fp32), ("overall", useful)):
        if len(chosen) < 2:
            continue
        subset_noise = NoiseEstimate(tuple(noise.log_stds[n] for n in chosen), noise.rounds, noise.t_factor)
        winners = sorted((chosen[n] for n in fastest([medians[n] for n in chosen], subset_noise)), key=medians.__getitem__)
        names = [f"{variants[n].method} {variants[n].precision}" for n in winners]
        ties = f" (within noise of it: {', '.join(names[1:])})" if len(names) > 1 else ""
        speedup, margin = (
            float(np.median(np.divide(results[0].round_ms, results[winners[0]].round_ms))),
            noise.min_ratio(0, winners[0]),
        )
        if margin > MAX_NOISE:
            sentences.append(f"fastest {scope}: unknown, the noise is {margin:.0%}: repeat the run on an idle machine")
        else:
            sentences.append(f"fastest {scope}: {names[0]}{ties}, {speedup:.2f} times {variants[0].method} ± {margin:.0%}")
    end = ", end to end" * variants[0].end_to_end
    name = network.preset or variants[0].file.name
    return f"{name}, {variants[0].size} px, batch {variants[0].batch}{end}: {'; '.join(sentences)}"


COLUMNS = {
    "way": "variant",
    "precision": "",
    "batch": "batch",
    "median_ms": "ms",
    "p90_ms": "p90",
    "p99_ms": "p99",
    "gpu_ms": "GPU, ms",
    "images_per_s": "images/s",
    "speedup": "speedup",
    "speedup_noise": "noise",
    "memory_mb": "MB",
    "floor_ms": "roofline, ms",
    "mean_px_error": "px, mean",
    "max_px_error": "px, max",
    "note": "",
}


def results_table(rows: Sequence[Row]) -> str:
    """Format the rows for the terminal."""
    formats = {"speedup": "{:.2f}", "speedup_noise": "{:.0%}", "memory_mb": "{:.0f}", "images_per_s": "{:.1f}", "batch": "{}"}
    lines = []
    for row in rows:
        cells = {key: "" if row.get(key) is None else row[key] for key in COLUMNS}
        cells["note"] = cells["note"] if row.get("median_ms") else f"not measured: {cells['note']}"
        cells["way"] += ", end to end" if row.get("end_to_end") else ""
        lines.append([formats.get(k, "{:.2f}").format(v) if isinstance(v, float | int) else str(v) for k, v in cells.items()])
    return tabulate(
        lines, headers=list(COLUMNS.values()), disable_numparse=True, colalign=("left", "left", *["right"] * 12, "left")
    )


def main() -> None:
    config = parse(LatencyConfig, variadic="files", description=__doc__ or "")
    config.validate()
    where, rows, conclusions = machine_info(), list[Row](), list[str]()
    with tempfile.TemporaryDirectory(prefix="hgfast-latency-") as folder:
        networks = open_networks(config, Path(folder))
        for network in networks:
            if not network.variants:
                for row in network.unavailable:
                    print(f"{row.get('file') or row['way']}: {row['note']}")
                raise HgfastError("none of the files can run here: give a checkpoint or an ONNX")
        print("measuring matrix product and copy rates", flush=True)
        rates = measure_rates(select_device("auto"), config.threads or available_cores())
        for network in networks:
            network_rows, network_conclusions = measure(config, network, rates, Path(folder))
            print(f"\n{network.preset}\n{results_table(network_rows)}\n", "\n".join(network_conclusions), sep="", flush=True)
            rows += network_rows
            conclusions += network_conclusions
    print(
        "ms: median over the rounds by the host's clock; GPU, ms: by CUDA events, copies included; speedup: relative to the "
        "first row; noise: difference from 1 that a speedup must exceed; MB: memory for loading and the first batch; roofline: "
        "at the rate of torch's matrix product; px: distance in input pixels",
        flush=True,
    )
    if not config.files and config.checkpoint is None:
        print("these networks are untrained: the times are valid, the errors are not; see --checkpoint", flush=True)
    if config.json is not None:
        write_record(make_record(rows, {**where, **rates.row}, PACKAGES, conclusions), config.json)
        print(f"record: {config.json}")


if __name__ == "__main__":
    run_main(main)
