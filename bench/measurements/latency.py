"""Measure the variants of `latency.py`: open or export the networks, time them, and name the fastest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hgfast.architectures import PRESETS
from hgfast.bench.harness.config import LatencyConfig
from hgfast.bench.harness.interleaved import ROUNDS_MISSING, Result, TrialSettings, raise_failures, run_interleaved
from hgfast.bench.harness.networks import ONNX, Exports, export_commands, untrained_checkpoint
from hgfast.bench.harness.noise import NoiseEstimate, estimate_noise, fastest
from hgfast.bench.harness.record import Row, machine_info, make_record, save_record, write_record
from hgfast.bench.harness.roofline import DeviceRates, measure_rates, precisions, roofline_ms
from hgfast.bench.tables.columns import print_rows
from hgfast.bench.variants.latency import TORCH_METHODS, LatencyVariant
from hgfast.checkpoints import load_model
from hgfast.errors import HgfastError
from hgfast.fileio.files import temporary_folder
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


def run(config: LatencyConfig) -> None:
    """Measure, print a table for each network, and write the record."""
    machine, rows, conclusions, results = machine_info(), list[Row](), list[str](), list[Result]()
    with temporary_folder() as folder:
        networks = open_networks(config, folder)
        for network in networks:
            if not network.variants:
                for row in network.unavailable:
                    print(f"{row.get('file') or row['way']}: {row['note']}")
                raise HgfastError("none of the files can run here: give a checkpoint or an ONNX")
        print("measuring matrix product and copy rates", flush=True)
        rates = measure_rates(select_device("auto"), config.threads or available_cores())

        def save(network_rows: Sequence[Row]) -> None:
            record = make_record([*rows, *network_rows], {**machine, **rates.row}, PACKAGES, conclusions, ROUNDS_MISSING)
            save_record(record, config.json)

        for network in networks:
            network_rows, network_conclusions, network_results = measure(config, network, rates, folder, save)
            print_rows(network_rows, "latency")
            print("\n".join(network_conclusions), flush=True)
            rows += network_rows
            conclusions += network_conclusions
            results += network_results
    print(
        "ms: median over the rounds by the host's clock; GPU, ms: by CUDA events, copies included; × princeton: relative to the "
        "first row; ±: error of a time, at 99 %; memory: for loading and the first batch; roofline: at the rate of torch's "
        "matrix product; px: distance in input pixels",
        flush=True,
    )
    if not config.files and config.checkpoint is None:
        print("these networks are untrained: the times are valid, the errors are not; see --checkpoint", flush=True)
    write_record(make_record(rows, {**machine, **rates.row}, PACKAGES, conclusions), config.json)
    raise_failures(results)


class ComparedNetwork(NamedTuple):
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
    checkpoints = [config.checkpoint] if config.checkpoint else [untrained_checkpoint(p, config.work) for p in config.presets]
    with closing(Exports(config.work, max(config.batch), config.as_flags, config.quick)) as exports:
        return [open_checkpoint(config, checkpoint, work, exports) for checkpoint in checkpoints]


def open_checkpoint(config: LatencyConfig, checkpoint: Path, work: Path, exports: Exports) -> ComparedNetwork:
    """Return a checkpoint in torch and in all exports, which are written if needed."""
    model, on_gpu = load_model(checkpoint), torch.cuda.is_available()
    preset, joints = preset_name(model), len(model.meta.skeleton.joints)
    variants = torch_variants(config, checkpoint, model, work)
    unavailable = missing_bf16("autocast") + ([] if config.compile else [unavailable_row("compile", "fp32", "omitted")])
    for export in export_commands(on_gpu):
        note = ""
        if export.suffix.endswith(".engine") and not on_gpu:
            note = "no NVIDIA GPU here"
        elif config.quick and export.precision == "fp16":
            note = "omitted by --quick"
        else:
            print(f"{preset}, {checkpoint.name}: {export.method}, {export.precision}", flush=True)
            with_flip_test = export._replace(args=(*export.args, *["--flip-test"] * config.flip_test))
            try:
                path = exports.find_or_export(checkpoint, with_flip_test)
                variants += artifact_variants(config, path, export.method, preset, work)
                unavailable += missing_bf16("openvino") if export == ONNX else []
            except HgfastError as error:
                note = str(error)
        unavailable += [unavailable_row(export.method, export.precision, note)] if note else []
    return ComparedNetwork(preset, model.meta.input_size, joints, variants, unavailable, model)


def open_artifacts(config: LatencyConfig, work: Path) -> ComparedNetwork:
    """Return the variants of the given files. Raises `HgfastError` if the files are of different networks."""
    model, variants, unavailable, shapes = None, list[LatencyVariant](), list[Row](), set[tuple[int, int]]()
    for path in config.files:
        if is_exported(path):
            sidecar = sidecars.read_sidecar(path)
            shapes.add((sidecar.input_size, len(sidecar.skeleton.joints)))
            if sidecar.builder is not None and not torch.cuda.is_available():
                row = unavailable_row(sidecar.export_format, sidecar.precision, "no NVIDIA GPU here")
                unavailable.append({**row, "file": path.name})
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
    amp = resolve_amp("auto", select_device("auto"))
    precisions = {method: "fp32" for method in TORCH_METHODS if method != "compile" or config.compile}
    precisions["autocast"] = amp if amp != "off" else ""
    options = (path, preset_name(model), model.meta.input_size, work)
    return [make_variant(config, name, "torch", precision, *options) for name, precision in precisions.items() if precision]


def missing_bf16(name: str) -> list[Row]:
    """Return the bf16 row of autocast without a GPU, or of OpenVINO, as unavailable if this CPU lacks bf16; else no row."""
    if cpu_features().bf16 or (name == "autocast" and torch.cuda.is_available()):
        return []
    return [unavailable_row(name, "bf16", NO_BF16)]


def note_on_isa(variant: LatencyVariant) -> str:
    """Return a note on how the CPU's instruction set affects a variant, or ""."""
    cpu = cpu_features()
    if variant.cuda:
        return "convolutions in TF32" if roofline_precision(variant) == "tf32" else ""
    if variant.runtime == "onnxruntime" and cpu.limit:
        return f"not limited by {cpu.limit}"
    return "int8 without VNNI" if variant.precision == "int8" and not cpu.vnni else ""


def roofline_precision(variant: LatencyVariant) -> str:
    """Return the precision of a variant's arithmetic: princeton's code leaves torch's default, TF32 in convolutions on a GPU."""
    uses_tf32 = variant.cuda and variant.method == "seed_style" and torch.backends.cudnn.allow_tf32
    return "tf32" if uses_tf32 and "tf32" in precisions(select_device("auto")) else variant.precision


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
    options = (path, preset, sidecar.input_size, work)
    return [
        make_variant(config, runtime if sidecar.export_format == "onnx" else name, runtime, precision, *options)
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


def measure(
    config: LatencyConfig, network: ComparedNetwork, rates: DeviceRates, work: Path, save: Callable[[Sequence[Row]], object]
) -> tuple[list[Row], list[str], list[Result]]:
    """Measure a network, and `save` the rows of the rounds so far; return its rows, conclusions and results."""
    np.save(work / "images.npy", accuracy_images(config, network))
    rows, conclusions, results = list[Row](), list[str](), list[Result]()

    def save_rounds(variants: Sequence[LatencyVariant], measured: Sequence[Result]) -> None:
        save([*rows, *make_rows(variants, measured, network, rates)])

    for batch in config.batch:
        for end_to_end in (False, True)[: 1 + config.end_to_end]:
            variants = [replace(variant, batch=batch, end_to_end=end_to_end) for variant in network.variants]
            name = network.preset or variants[0].file.name
            print(f"{name}: {len(variants)} variants at batch {batch}, {config.rounds} rounds", flush=True)
            trial = TrialSettings(config.seconds, batches=1 if config.quick else 3, warm=1, quick=config.quick)
            on_round = partial(save_rounds, variants)
            measured = run_interleaved(variants, config.rounds, trial, config.threads or available_cores(), on_round=on_round)
            rows += make_rows(variants, measured, network, rates)
            conclusions.append(summarize(variants, measured, network))
            results += measured
            save(rows)
    blank: Row = dict.fromkeys(rows[0])
    about = {"preset": network.preset, "size": network.size, "threads": config.threads or available_cores(), "end_to_end": False}
    return [*rows, *({**blank, **about, **row} for row in network.unavailable)], conclusions, results


def make_rows(
    variants: Sequence[LatencyVariant], results: Sequence[Result], network: ComparedNetwork, rates: DeviceRates
) -> list[Row]:
    """Return the rows of the variants; those that failed have no metrics. At least one has not failed."""
    measured = [number for number, result in enumerate(results) if not result.error]
    noise = estimate_noise([results[number].round_ms for number in measured])
    first = (variants[0], results[0]) if 0 in measured else None
    rows = {
        number: make_row(variants[number], results[number], first, noise, position, network, rates)
        for position, number in enumerate(measured)
    }
    blank: Row = dict.fromkeys(next(iter(rows.values())))
    for number, result in enumerate(results):
        if result.error:
            rows[number] = {**blank, **make_names(variants[number]), "note": result.error}
    return [rows[number] for number in range(len(variants))]


def make_names(variant: LatencyVariant) -> Row:
    """Return the keys of a row that name its variant."""
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
    }


def make_row(
    variant: LatencyVariant,
    result: Result,
    first: tuple[LatencyVariant, Result] | None,
    noise: NoiseEstimate,
    number: int,
    network: ComparedNetwork,
    rates: DeviceRates,
) -> Row:
    """Return the row of a variant. first: the baseline, None if it failed. number: of the variant in `noise`."""
    median_ms, speedup, distances = float(np.median(result.round_ms)), None, None
    if first is not None:
        speedup = round(float(np.median(np.divide(first[1].round_ms, result.round_ms))), 3)
        distances = np.linalg.norm(np.load(variant.points)[..., :2] - np.load(first[0].points)[..., :2], axis=-1)
    roofline = None
    if network.model is not None and not variant.end_to_end:
        roofline = roofline_ms(
            rates, network.model.arch, network.joints, variant.batch, roofline_precision(variant), variant.size
        )
    return {
        **make_names(variant),
        "median_ms": round(median_ms, 4),
        "p90_ms": round(float(np.percentile(result.batch_ms, 90)), 4),
        "p99_ms": round(float(np.percentile(result.batch_ms, 99)), 4),
        "gpu_ms": None if result.gpu_ms is None else round(result.gpu_ms, 4),
        "images_per_s": round(1000 * variant.batch / median_ms, 3),
        "speedup": speedup,
        "noise": round(noise.margin(number), 4) if noise.rounds > 1 else None,
        "speedup_noise": round(noise.min_ratio(0, number), 4) if number and first and noise.rounds > 1 else None,
        "memory_mb": round(result.startup.memory_mb, 1),
        "gpu_mb": round(max(trial.gpu_mb for trial in result.trials), 1) or None,
        "floor_ms": None if roofline is None else round(roofline, 4),
        "max_px_error": None if distances is None else round(float(distances.max()), 4),
        "mean_px_error": None if distances is None else round(float(distances.mean()), 4),
        "rounds": len(result.trials),
        "note": note_on_isa(variant),
    }


# ---- conclusions ----

MAX_NOISE = 0.5  # noise of a speedup above which no fastest variant is named


def is_slow_int8(variant: LatencyVariant, median_ms: float, fp32_ms: Sequence[float]) -> bool:
    """Return whether a variant is int8 without VNNI and not faster than fp32: it loses accuracy for nothing, so it is never
    recommended."""
    emulated = variant.precision == "int8" and not variant.cuda and not cpu_features().vnni
    return emulated and median_ms >= min(fp32_ms, default=np.inf)


def summarize(variants: Sequence[LatencyVariant], results: Sequence[Result], network: ComparedNetwork) -> str:
    """Name the fastest variants in fp32 and overall, as far as the noise permits, relative to the first that was measured."""
    variants, results = zip(*((variant, result) for variant, result in zip(variants, results) if not result.error))
    noise = estimate_noise([result.round_ms for result in results])
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
        speedup = float(np.median(np.divide(results[0].round_ms, results[winners[0]].round_ms)))
        margin = noise.min_ratio(0, winners[0])
        if margin > MAX_NOISE:
            sentences.append(f"fastest {scope}: unknown, the noise is {margin:.0%}: repeat the run on an idle machine")
        else:
            sentences.append(f"fastest {scope}: {names[0]}{ties}, {speedup:.2f} times {variants[0].method} ± {margin:.0%}")
    end = ", end to end" * variants[0].end_to_end
    name = network.preset or variants[0].file.name
    return f"{name}, {variants[0].size} px, batch {variants[0].batch}{end}: {'; '.join(sentences)}"
