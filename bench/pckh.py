"""Evaluate predictions, checkpoints and exported networks as papers do: PCKh of bodies by the official rule; PCK, AUC and EPE of
hands.

    python bench/pckh.py --predictions preds.h5 --annotations valid.h5 --json pckh.json --chart pckh.png
    python bench/pckh.py exp/mpii/best.pt --dataset mpii --data MPII --flip-test
    python bench/pckh.py exp/mpii/best.pt exp/mpii/best.fp16.onnx exp/mpii/best.int8.onnx --dataset mpii --data MPII
    python bench/pckh.py best.pt best.fp32.onnx --runtimes [onnxruntime,openvino,openvino-bf16] --dataset mpii --data MPII
    python bench/pckh.py exp/mpii/best.pt --annotations test.h5 --images MPII/images --submission pred_keypoints_mpii.mat

Several checkpoints and exported networks, or --predictions [a.h5,b.mat], are rows of one table; the distances of the others are
from the keypoints of the first. `bench/scoring/` describes the formats of annotations and predictions, `hgfast/metrics.py`
defines the metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from hgfast.bench.harness.record import Row, machine_info, make_record, write_record
from hgfast.bench.scoring.ground_truth import FloatArray, GroundTruth, open_ground_truth
from hgfast.bench.scoring.network import NetworkPredictions, OnnxRuntime, open_images, run_network
from hgfast.bench.scoring.predictions import read_predictions
from hgfast.bench.scoring.submission import check_people, write_freihand, write_mpii
from hgfast.cli import parse
from hgfast.config import InferenceConfig
from hgfast.errors import HgfastError, run_main
from hgfast.fileio.files import check_distinct_paths, prepare_file
from hgfast.metrics import (
    BodyMetrics,
    Curve,
    body_metrics,
    flat_body_metrics,
    hand_metrics,
    normalized_pck_curve,
    pck_curve,
    pck_metrics,
    pckh_curve,
)
from hgfast.pipelines.datasets import DATASETS, input_files
from hgfast.pipelines.samples import Samples
from hgfast.runtime import sidecar as sidecars
from hgfast.runtime.sidecar import is_exported
from hgfast.runtime.tensorrt_engine import GpuNotFound
from hgfast.system_info import NO_BF16, cpu_features
from hgfast.training.evaluator import count_non_finite

GROUPED_METRICS = ("pckh@0.5", "pckh@0.1", "auc")  # metrics of bodies that have joint groups
METRIC_TITLES = {"pckh@0.5": "PCKh@0.5, percent", "pckh@0.1": "PCKh@0.1, percent", "auc": "AUC of PCKh from 0 to 0.5, percent"}
RULES_NOTE = (
    "official rule (evalMPII.m): all joints except pelvis and thorax; a group is the mean of its joints, the total pools all "
    "labels"
)
OTHER_TOTALS_NOTE = (
    "totals of other projects at 0.5: pooled16 pools all joints (princeton-vl), mean14 is the mean over 14 joints (bearpaw)"
)


@dataclass(kw_only=True)
class PckhConfig(InferenceConfig):
    """Settings of an evaluation."""

    checkpoints: list[Path] = field(default_factory=list)
    """checkpoints of training, weights of princeton-vl or bearpaw, or exported ONNX, TorchScript and engine files to run on the
    images"""
    predictions: list[Path] | Path | None = None
    """evaluate these predictions instead: HDF5, MATLAB, numpy or JSON, a file or a list such as [a.h5,b.mat]"""
    annotations: Path | None = None
    """ground truth: MPII's valid.h5 or detections_our_format.mat, recognized by content; or, as in training, COCO's JSON file or
    MPII's original .mat"""
    runtimes: list[OnnxRuntime] = field(default_factory=list)
    """run every ONNX in each of onnxruntime, openvino, openvino-bf16 (fp32 files only); none: in the first installed one"""
    json: Path | None = None
    """write the metrics and the record to this file"""
    chart: Path | None = None
    """write the curves, in total and by joint group, to this PNG file; requires matplotlib"""
    submission: Path | None = None
    """write a submission to this file: MPII's pred_keypoints_mpii.mat; FreiHAND's pred.json, but with points in pixels"""
    release: Path | None = None
    """MPII's mpii_human_pose_v1_u12_1.mat, which makes --submission complete"""

    @property
    def prediction_files(self) -> list[Path]:
        """The files of --predictions."""
        given = self.predictions
        return given if isinstance(given, list) else [given] if given is not None else []

    def validate(self) -> None:
        """Raise `HgfastError` for invalid settings."""
        if not self.checkpoints and not self.prediction_files:
            raise HgfastError("there is nothing to score: give checkpoints to run, or --predictions FILE")
        if self.checkpoints and self.prediction_files:
            raise HgfastError(
                f"a checkpoint ({self.checkpoints[0]}) and --predictions exclude each other: leave out one, and give several "
                "files as --predictions [a.h5,b.h5]"
            )
        given = self.checkpoints or self.prediction_files
        if len(set(given)) < len(given):
            raise HgfastError(f"{next(path for path in given if given.count(path) > 1)} is given twice: name every file once")
        for flag, is_set in (("--flip-test", self.flip_test), ("--decoder", self.decoder is not None)):
            if self.prediction_files and is_set:
                raise HgfastError(f"{flag} is for checkpoints: leave it out with --predictions")
        if self.runtimes and not any(path.suffix == ".onnx" for path in self.checkpoints):
            raise HgfastError("--runtimes is for ONNX files: give one, or leave it out")
        if len(set(self.runtimes)) < len(self.runtimes):
            raise HgfastError("--runtimes names one twice: name every runtime once")
        if self.chart is not None and self.chart.suffix.lower() != ".png":
            raise HgfastError(f"--chart {self.chart} must end in .png")
        if self.submission is not None and len(given) > 1:
            raise HgfastError("--submission requires a single checkpoint or file of predictions: give only one")
        if self.release is not None and self.submission is None:
            raise HgfastError("--release requires --submission FILE: give both, or leave it out")
        outputs = {flag: path for flag in ("json", "chart", "submission") if (path := getattr(self, flag)) is not None}
        inputs = [("a checkpoint", path) for path in self.checkpoints] + [
            ("the predictions", path) for path in self.prediction_files
        ]
        inputs += [("the release", self.release)] if self.release is not None else []
        check_distinct_paths([*inputs, *input_files(self)], {f"--{flag}": path for flag, path in outputs.items()})
        for flag, path in outputs.items():
            prepare_file(path, f"--{flag}")


@dataclass(frozen=True)
class ScoredPredictions:
    """Predictions and their ground truth. points: (M, K, 2) in pixels of the ground truth, NaN if not finite. truth: of the same
    M samples. network: the predictions of the network that was run, or None for a file of predictions."""

    method: str
    path: Path
    points: FloatArray
    truth: GroundTruth
    network: NetworkPredictions | None = None

    @property
    def decoder(self) -> str | None:
        """The decoder of the network's heatmaps."""
        return None if self.network is None else self.network.decoder

    @property
    def _arrays(self) -> tuple[FloatArray, FloatArray, Any, FloatArray]:
        return self.points, self.truth.points, self.truth.labeled, self.truth.reference

    @property
    def body(self) -> BodyMetrics:
        return body_metrics(*self._arrays, self.truth.skeleton)

    @property
    def flat(self) -> dict[str, float]:
        """The metrics as a flat mapping: for bodies those of `flat_body_metrics`, and the groups of the others as "auc_knee"."""
        if self.truth.dataset == "freihand":
            return hand_metrics(*self._arrays, self.truth.side)
        if self.truth.dataset == "coco":
            return pck_metrics(*self._arrays)
        figures: Mapping[str, Any] = self.body
        more = {
            f"{name}_{group}": figures[name][group] for name in GROUPED_METRICS[1:] for group, _ in self.truth.skeleton.groups
        }
        return {**flat_body_metrics(*self._arrays, self.truth.skeleton), **more}

    @property
    def curve(self) -> Curve:
        """The accuracy curve: PCKh for bodies; EvalUtil's in pixels for hands; normalized PCK for others, as in evaluate.py."""
        if self.truth.dataset == "mpii":
            return pckh_curve(*self._arrays, self.truth.skeleton)
        if self.truth.dataset == "freihand":
            return pck_curve(*self._arrays[:3], groups=self.truth.skeleton.groups)
        return normalized_pck_curve(*self._arrays, groups=self.truth.skeleton.groups)


def main() -> None:
    config = parse(PckhConfig, variadic="checkpoints", description=__doc__ or "")
    config.validate()
    if config.chart is not None:
        from hgfast.bench.scoring import chart  # before the evaluation, because it fails without matplotlib
    machine = machine_info()
    split = config.split or DATASETS[config.dataset].eval_split(config)
    truth = open_ground_truth(config, split)
    if not truth.labeled.any() and (config.submission is None or config.json or config.chart):
        raise HgfastError(f"{truth.source} has no annotations: give only --submission FILE")
    if config.submission is not None:
        check_submission(truth, config.release)
    results, not_run = score(config, split, truth)
    if truth.labeled.any():
        print_report(results, truth, not_run)
        rows = [make_row(scored, results[0]) for scored in results]
        if config.json is not None:
            record = make_record(rows, machine, ["scipy", "h5py", *(["matplotlib"] if config.chart else [])])
            more = {"not_run": list(not_run)} if not_run else {}
            write_record({**record, **record_fields(results, truth, bool(config.checkpoints)), **more}, config.json)
            print(f"record: {config.json}")
        if config.chart is not None:
            labels, full_scale = curve_axes(truth)
            chart.draw_pckh_curves({s.method: s.curve for s in results}, config.chart, truth.name, labels, full_scale)
            print(f"chart: {config.chart}")
    if config.submission is not None:
        print(f"submission: {config.submission}: {write_submission(config, config.submission, results[0], truth)}")


def score(config: PckhConfig, split: str, truth: GroundTruth) -> tuple[list[ScoredPredictions], dict[str, str]]:
    """Score every network or file of predictions; return the results, and by method why a network could not run here."""
    given, results, not_run = config.checkpoints or config.prediction_files, list[ScoredPredictions](), dict[str, str]()
    if config.checkpoints:
        samples = open_images(config, split, truth)
        results, not_run = score_networks(given, samples, truth, config, config.runtimes)
    else:
        for method, path in zip(short_names(given), given):
            keypoints, sample_indices = read_predictions(path, truth)
            results.append(ScoredPredictions(method, path, keypoints, truth.take(sample_indices)))
    for scored in results:
        if truth.labeled.any() and not scored.truth.labeled.any():
            raise HgfastError(f"none of the {len(scored.points)} samples of {scored.path} has a labeled joint: score others")
    return results, not_run


def score_networks(
    paths: Sequence[Path], samples: Samples, truth: GroundTruth, config: InferenceConfig, runtimes: Sequence[OnnxRuntime] = ()
) -> tuple[list[ScoredPredictions], dict[str, str]]:
    """Run and score every network, an ONNX in each of the runtimes. Returns the results, and by method why a network could not
    run here: engines without a GPU, bf16 on a CPU that lacks it."""
    results, not_run = list[ScoredPredictions](), dict[str, str]()
    for method, path in zip(short_names(paths), paths):
        for onnx_runtime in onnx_runtimes(path, runtimes):
            name = f"{method} in {onnx_runtime}" if onnx_runtime else method
            if onnx_runtime == "openvino-bf16" and not cpu_features().bf16:
                not_run[name] = f"not measured: {NO_BF16}"
                continue
            try:
                network = run_network(path, samples, truth, config, onnx_runtime)
            except GpuNotFound:
                not_run[name] = "built, not run: there is no GPU here"
                continue
            results.append(ScoredPredictions(name, path, network.points, truth.take(network.sample_indices), network))
    if not results:
        reason = next(iter(not_run.values()))
        raise HgfastError(f"{paths[0]} cannot run here ({reason}): give a checkpoint or an ONNX, or use another machine")
    return results, not_run


def onnx_runtimes(path: Path, runtimes: Sequence[OnnxRuntime]) -> Sequence[OnnxRuntime | None]:
    """Return the runtimes for a file: bf16 only for an fp32 ONNX; [None] for files that are not ONNX."""
    if not runtimes or not is_exported(path):
        return [None]
    sidecar = sidecars.read_sidecar(path)
    if sidecar.export_format != "onnx":
        return [None]
    return [runtime for runtime in runtimes if runtime != "openvino-bf16" or sidecar.precision == "fp32"]


def keypoint_distances(scored: ScoredPredictions, first: ScoredPredictions) -> dict[str, float | None]:
    """Return the distances of the keypoints from those of the first network in pixels of its input: mean, 99th percentile,
    maximum, and the percentage of joints more than a pixel away; None unless both are networks run on the same samples."""
    names = ("mean_px", "p99_px", "max_px", "over_1px_percent")
    if scored.network is None or first.network is None:
        return dict.fromkeys(names)
    if not np.array_equal(scored.network.sample_indices, first.network.sample_indices):
        return dict.fromkeys(names)
    distance = np.linalg.norm(scored.points - first.points, axis=-1) / first.network.source_px_per_input_px[:, None]
    distance = distance[np.isfinite(distance)]
    if not distance.size:
        return dict.fromkeys(names)
    values = (distance.mean(), np.percentile(distance, 99), distance.max(), 100 * (distance > 1).mean())
    return {name: float(value) for name, value in zip(names, values)}


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return short unique names of files: the last parts of their paths, as many as needed."""
    for parts in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def make_row(scored: ScoredPredictions, first: ScoredPredictions) -> Row:
    """Return the row of a network or file of predictions."""
    truth = scored.truth
    return {
        "method": scored.method,
        "file": scored.path.name,
        "what": scored.network and scored.network.description,
        **keypoint_distances(scored, first),
        "ground_truth": truth.name,
        "people": len(truth),
        "joints_counted": truth.counted,
        "not_finite": count_non_finite(scored.points),
        "decoder": scored.decoder,
        **scored.flat,
    }


def record_fields(results: Sequence[ScoredPredictions], truth: GroundTruth, network: bool) -> dict[str, Any]:
    """Return the top-level keys of the record beside its rows: for one input its metrics, nested by group; the files."""
    common = {"dataset": truth.dataset, "ground_truth": truth.name, "people_in_ground_truth": len(truth)}
    if len(results) > 1:
        return {**common, "checkpoints" if network else "predictions": [str(scored.path) for scored in results]}
    (scored,) = results
    figures: Mapping[str, Any] = scored.body if truth.dataset == "mpii" else scored.flat
    counts = {
        "people": len(scored.truth),
        "joints_counted": scored.truth.counted,
        "not_finite": count_non_finite(scored.points),
    }
    source = {"checkpoint": str(scored.path), "decoder": scored.decoder} if network else {"predictions": str(scored.path)}
    return {**figures, **common, **counts, **source}


def check_submission(truth: GroundTruth, release: Path | None) -> None:
    """Raise `HgfastError`, before the evaluation, if the submission could not be written."""
    if truth.dataset == "coco":
        raise HgfastError("--submission does not support --dataset coco: leave it out")
    if truth.dataset == "mpii":
        check_people(truth)
    if release is not None and (truth.dataset != "mpii" or not release.is_file()):
        reason = "is for MPII: leave it out" if truth.dataset != "mpii" else "is not a file: give mpii_human_pose_v1_u12_1.mat"
        raise HgfastError(f"--release {release} {reason}")


def write_submission(config: PckhConfig, path: Path, scored: ScoredPredictions, truth: GroundTruth) -> str:
    """Write the submission and return a note about it."""
    if truth.dataset == "mpii":
        return write_mpii(path, scored.points, scored.truth, config.release)
    return write_freihand(path, scored.points, scored.truth, len(truth))


# ---- the report ----


def print_report(results: Sequence[ScoredPredictions], truth: GroundTruth, not_run: Mapping[str, str]) -> None:
    """Print the tables; `not_run` contains by method why a network could not run."""
    print(f"ground truth: {truth.name}")
    for scored in results:
        part = f" of {len(truth)}" if len(scored.truth) < len(truth) else ""
        noun = {"mpii": "people", "freihand": "hands", "coco": "samples"}[truth.dataset]
        print(f"{scored.method}: {len(scored.truth)}{part} {noun}, {scored.truth.counted} labeled joints count")
        if scored.decoder is not None:
            print(f"{scored.method}: heatmaps decoded by {scored.decoder}")
        if num_not_finite := count_non_finite(scored.points):
            epe = "" if truth.dataset == "mpii" else ", which EPE ignores"
            print(f"{scored.method}: {num_not_finite} joints have no finite prediction and are misses{epe}")
    if truth.dataset == "mpii":
        print(f"\n{body_tables(results)}", flush=True)
    else:
        print("\n" + tabulate([{"method": s.method, **s.flat} for s in results], headers="keys", floatfmt=".4f"))
        print(DATASETS[truth.dataset].metric.note, flush=True)
    if len(results) + len(not_run) > 1 and results[0].network is not None:
        rows: list[Row] = [
            {"method": s.method, "what": s.network and s.network.description, **keypoint_distances(s, results[0])}
            for s in results[1:]
        ]
        rows += [{"method": method, "what": reason} for method, reason in not_run.items()]
        print(f"\n{tabulate(rows, headers='keys', floatfmt='.4f')}")
        print(f"from the keypoints of {results[0].method}, in pixels of the input")


def body_tables(results: Sequence[ScoredPredictions]) -> str:
    """Format the tables as in papers, and the totals that other projects report."""
    figures: dict[str, Mapping[str, Any]] = {scored.method: scored.body for scored in results}
    parts = []
    for name in GROUPED_METRICS[:2]:
        table = []
        for method, found in figures.items():
            row = {"Method": method, **{group.capitalize(): share for group, share in found[name].items()}}
            table.append({**row, "AUC": found["auc"]["total"]} if name == "pckh@0.5" else row)
        parts.append(f"{METRIC_TITLES[name]}\n{tabulate(table, headers='keys', floatfmt='.2f')}")
    others = [{"Method": method, **{k: found[k] for k in ("pooled16@0.5", "mean14@0.5")}} for method, found in figures.items()]
    parts.append(f"{OTHER_TOTALS_NOTE}\n{tabulate(others, headers='keys', floatfmt='.2f')}")
    return "\n\n".join(parts) + f"\n\n{RULES_NOTE}; AUC: of the curve from 0 to 0.5"


def curve_axes(truth: GroundTruth) -> tuple[tuple[str, str], float]:
    """Return the labels of the chart's axes and the accuracy that means all joints (100 or 1)."""
    if truth.dataset == "mpii":
        return ("distance / head size", "PCKh, percent"), 100.0
    if truth.dataset == "freihand":
        return ("distance, pixels", "fraction of joints"), 1.0
    return ("distance / reference length", "PCK"), 1.0


if __name__ == "__main__":
    run_main(main)
