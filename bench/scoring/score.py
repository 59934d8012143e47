"""Score predictions and networks, and report the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

from hgfast.bench.harness.config import OnnxRuntime
from hgfast.bench.harness.record import Row, machine_info, make_record, save_record, write_record
from hgfast.bench.scoring.config import PckhConfig
from hgfast.bench.scoring.ground_truth import FloatArray, GroundTruth, open_ground_truth
from hgfast.bench.scoring.network import NetworkPredictions, open_images, run_network
from hgfast.bench.scoring.predictions import read_predictions
from hgfast.bench.scoring.submission import check_people, write_freihand, write_mpii
from hgfast.bench.tables.charts import draw_accuracy_curves
from hgfast.errors import HgfastError
from hgfast.metrics import HAND_PCK, PCKH, BodyMetrics, Curve, body_metrics, pck_curve
from hgfast.pipelines.datasets import DATASETS
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


class ScoredPredictions(NamedTuple):
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
        """The metrics as a flat mapping: for bodies with groups, such as "auc_knee"."""
        truth = self.truth
        figures = truth.metric.table(*self._arrays, truth.side, truth.skeleton)
        if truth.metric is PCKH:
            by_group: Mapping[str, Any] = self.body
            names = [(name, group) for name in GROUPED_METRICS[1:] for group, _ in truth.skeleton.groups]
            figures |= {f"{name}_{group}": by_group[name][group] for name, group in names}
        return figures

    @property
    def curve(self) -> Curve:
        """The accuracy curve, as in evaluate.py; for hands that of FreiHAND's EvalUtil, in pixels."""
        if self.truth.metric is HAND_PCK:
            return pck_curve(*self._arrays[:3], groups=self.truth.skeleton.groups)
        return self.truth.metric.curve(*self._arrays, self.truth.skeleton)


def run(config: PckhConfig) -> None:
    """Evaluate, print the tables, and write the record, the chart and the submission."""
    machine, split = machine_info(), config.split or DATASETS[config.dataset].eval_split(config)
    truth = open_ground_truth(config, split)
    is_annotated = bool(truth.labeled.any())
    if not is_annotated and (config.submission is None or config.json or config.chart):
        raise HgfastError(f"{truth.source} has no annotations: give only --submission FILE")
    if config.submission is not None:
        check_submission(truth, config.release)

    def save(results: Sequence[ScoredPredictions]) -> None:
        if is_annotated:
            rows = [make_row(scored, results[0]) for scored in results]
            save_record(make_record(rows, machine, incomplete="other networks"), config.json)

    results, not_run = score(config, split, truth, save)
    if is_annotated:
        print_report(results, truth, not_run)
        rows = [make_row(scored, results[0]) for scored in results]
        record = make_record(rows, machine, ["scipy", "h5py", *(["matplotlib"] if config.chart else [])])
        more = {"not_run": list(not_run)} if not_run else {}
        write_record({**record, **record_fields(results, truth, bool(config.checkpoints)), **more}, config.json)
    if config.chart is not None:
        labels = ("distance, pixels", "fraction of joints") if truth.metric is HAND_PCK else truth.metric.labels
        curves = {scored.method: scored.curve for scored in results}
        draw_accuracy_curves(curves, config.chart, truth.name, labels, truth.metric.full)
        print(f"chart: {config.chart}")
    if config.submission is not None:
        print(f"submission: {config.submission}: {write_submission(config, config.submission, results[0], truth)}")


Save = Callable[[Sequence[ScoredPredictions]], object]


def score(config: PckhConfig, split: str, truth: GroundTruth, save: Save) -> tuple[list[ScoredPredictions], dict[str, str]]:
    """Score every network or file of predictions, and `save` the results after each network; return the results, and by method
    why a network could not run here."""
    results, not_run = list[ScoredPredictions](), dict[str, str]()
    if config.checkpoints:
        samples = open_images(config, split, truth)
        results, not_run = score_networks(config, samples, truth, save)
    for method, path in zip(short_names(config.prediction_files), config.prediction_files):
        keypoints, sample_indices = read_predictions(path, truth)
        results.append(ScoredPredictions(method, path, keypoints, truth.take(sample_indices)))
    for scored in results:
        if truth.labeled.any() and not scored.truth.labeled.any():
            raise HgfastError(f"none of the {len(scored.points)} samples of {scored.path} has a labeled joint: score others")
    return results, not_run


def score_networks(
    config: PckhConfig, samples: Samples, truth: GroundTruth, save: Save
) -> tuple[list[ScoredPredictions], dict[str, str]]:
    """Run and score every network, an ONNX in each of the runtimes. Returns the results, and by method why a network could not
    run here: engines without a GPU, bf16 on a CPU that lacks it."""
    results, not_run = list[ScoredPredictions](), dict[str, str]()
    for method, path in zip(short_names(config.checkpoints), config.checkpoints):
        for onnx_runtime in onnx_runtimes(path, config.runtimes):
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
            save(results)
    if not results:
        reason = next(iter(not_run.values()))
        raise HgfastError(
            f"{config.checkpoints[0]} cannot run here ({reason}): give a checkpoint or an ONNX, or use another machine"
        )
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
    network, baseline = scored.network, first.network
    if network is not None and baseline is not None and np.array_equal(network.sample_indices, baseline.sample_indices):
        distance = np.linalg.norm(scored.points - first.points, axis=-1) / baseline.source_px_per_input_px[:, None]
        distance = distance[np.isfinite(distance)]
        if distance.size:
            values = (distance.mean(), np.percentile(distance, 99), distance.max(), 100 * (distance > 1).mean())
            return dict(zip(names, map(float, values)))
    return dict.fromkeys(names)


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return short unique names of files: the last parts of their paths, as many as needed."""
    for parts in range(1, max((len(path.parts) for path in paths), default=0)):
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
    figures: Mapping[str, Any] = scored.body if truth.metric is PCKH else scored.flat
    counts = {"people": len(scored.truth), "joints_counted": scored.truth.counted}
    counts["not_finite"] = count_non_finite(scored.points)
    source = {"checkpoint": str(scored.path), "decoder": scored.decoder} if network else {"predictions": str(scored.path)}
    return {**figures, **common, **counts, **source}


def check_submission(truth: GroundTruth, release: Path | None) -> None:
    """Raise `HgfastError`, before the evaluation, if the submission could not be written."""
    if truth.metric not in (PCKH, HAND_PCK):
        raise HgfastError(f"--submission does not support --dataset {truth.dataset}: leave it out")
    if truth.metric is PCKH:
        check_people(truth)
    if release is not None and not (truth.metric is PCKH and release.is_file()):
        reason = "is not a file: give mpii_human_pose_v1_u12_1.mat" if truth.metric is PCKH else "is for MPII: leave it out"
        raise HgfastError(f"--release {release} {reason}")


def write_submission(config: PckhConfig, path: Path, scored: ScoredPredictions, truth: GroundTruth) -> str:
    """Write the submission and return a note about it."""
    if truth.metric is PCKH:
        return write_mpii(path, scored.points, scored.truth, config.release)
    return write_freihand(path, scored.points, scored.truth, len(truth))


# ---- the report ----


def print_report(results: Sequence[ScoredPredictions], truth: GroundTruth, not_run: Mapping[str, str]) -> None:
    """Print the tables; `not_run` contains by method why a network could not run."""
    print(f"ground truth: {truth.name}")
    for scored in results:
        part = f" of {len(truth)}" if len(scored.truth) < len(truth) else ""
        count = f"{len(scored.truth)}{part} {DATASETS[truth.dataset].item}"
        print(f"{scored.method}: {count}, {scored.truth.counted} labeled joints count")
        if scored.decoder is not None:
            print(f"{scored.method}: heatmaps decoded by {scored.decoder}")
        if num_not_finite := count_non_finite(scored.points):
            epe = "" if truth.metric is PCKH else ", which EPE ignores"
            print(f"{scored.method}: {num_not_finite} joints have no finite prediction and are misses{epe}")
    if truth.metric is PCKH:
        print(f"\n{body_tables(results)}", flush=True)
    else:
        print("\n" + tabulate([{"method": s.method, **s.flat} for s in results], headers="keys", floatfmt=".4f"))
        print(truth.metric.note, flush=True)
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
