"""Accuracy of predictions, checkpoints or exported networks as papers report it: PCKh of bodies by the official rule; PCK, AUC
and EPE of hands.

    python bench/pckh.py --predictions preds.h5 --annotations valid.h5 --json pckh.json --chart pckh.png
    python bench/pckh.py exp/mpii/best.pt --dataset mpii --data MPII --flip-test
    python bench/pckh.py exp/mpii/best.pt exp/mpii/best.fp16.onnx exp/mpii/best.int8.onnx --dataset mpii --data MPII
    python bench/pckh.py best.pt best.fp32.onnx --runtimes [onnxruntime,openvino,openvino-bf16] --dataset mpii --data MPII
    python bench/pckh.py exp/mpii/best.pt --annotations test.h5 --images MPII/images --submission pred_keypoints_mpii.mat

Several checkpoints and exported networks, or --predictions [a.h5,b.mat], are rows of one table; the first is what the distances
of the others are from. `pckh_truth` says what can be scored against,
`pckh_predictions` which files are read, `hgfast.metrics` what the figures mean.
What may enter: the flags, the figures, and what is said about them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pckh_network import Ran, Running, Within, open_pictures, run_network
from pckh_predictions import read_predictions
from pckh_submission import check_people, write_freihand, write_mpii
from pckh_truth import Array, Truth, open_truth
from record import Row, machine, make_record, write_record
from tabulate import tabulate

from hgfast import sidecar as sidecars
from hgfast.cli import parse
from hgfast.config import DataChoice
from hgfast.engine import NoGpu
from hgfast.errors import HgfastError, run
from hgfast.evaluation import not_finite
from hgfast.files import check_apart, prepare_file
from hgfast.machine import NO_BF16, cpu_features
from hgfast.metrics import BodyFigures, Curve, body_figures, body_table, hand_table, pck_curve, pck_shares, pck_table, pckh_curve
from hgfast.sidecar import is_artefact
from pipelines.datasets import DATASETS, input_files
from pipelines.samples import Samples

GROUPED = ("pckh@0.5", "pckh@0.1", "auc")  # the figures of bodies that have groups
TITLES = {"pckh@0.5": "PCKh@0.5, percent", "pckh@0.1": "PCKh@0.1, percent", "auc": "AUC of PCKh from 0 to 0.5, percent"}
RULES = (
    "official rule (evalMPII.m): within, of the joints but pelvis and thorax; a group is the plain mean of its joints, "
    "the total pools all labels"
)
OTHERS = "other projects' totals at 0.5: pooled16 pools all joints (princeton-vl), mean14 is the mean over 14 joints (bearpaw)"


@dataclass(kw_only=True)
class PckhConfig(DataChoice):
    """One scoring."""

    checkpoints: list[Path] = field(default_factory=list)
    """files written by training, weights of princeton-vl's or bearpaw's, or ONNX, TorchScript and engines of export/; each is run
    on the pictures"""
    predictions: list[Path] | Path | None = None
    """score these instead: HDF5, MATLAB, numpy or JSON, a file or a list such as [a.h5,b.mat]"""
    annotations: Path | None = None
    """ground truth: MPII's valid.h5 or detections_our_format.mat, recognised by what is in it; or, as in training, COCO's JSON
    file or MPII's original .mat"""
    split: Literal["train", "valid", "test", "all", "evaluation"] | None = None
    """which samples of the data set; none: test for FreiHAND, valid for MPII and, where --valid-annotations names them, for
    COCO, else train"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    batch_size: int = 32
    """pictures at a time"""
    loader: Literal["dali", "torch"] = "dali"
    """what decodes and warps: NVIDIA DALI, or OpenCV in the worker processes of a torch DataLoader"""
    threads: int | None = None
    """decoding threads or worker processes; none: one a core"""
    flip_test: bool = False
    """average with the mirrored picture's heatmaps; for networks that were trained on mirrored pictures"""
    decoder: Literal["argmax", "quarter", "dark"] | None = None
    """from heatmaps to points; none: what each checkpoint names"""
    runtimes: list[Within] = field(default_factory=list)
    """run every ONNX in each of these, the last for fp32 only: onnxruntime, openvino, openvino-bf16; none: in the first that is
    installed"""
    json: Path | None = None
    """write the figures and the record here"""
    chart: Path | None = None
    """write the curves here, in total and by joint group, a PNG file; needs matplotlib"""
    submission: Path | None = None
    """write the file to be sent in here: MPII's pred_keypoints_mpii.mat; FreiHAND's pred.json, but with points in pixels"""
    release: Path | None = None
    """MPII's mpii_human_pose_v1_u12_1.mat, with which --submission is complete"""

    @property
    def files(self) -> list[Path]:
        """The files of predictions."""
        given = self.predictions
        return given if isinstance(given, list) else [given] if given is not None else []

    def validate(self) -> None:
        """Raise `HgfastError` for what does not go together or is out of its range."""
        if not self.checkpoints and not self.files:
            raise HgfastError("there is nothing to score: give checkpoints to run, or --predictions FILE")
        if self.checkpoints and self.files:
            raise HgfastError(
                f"a checkpoint ({self.checkpoints[0]}) and --predictions exclude each other, and several files are "
                "--predictions [a.h5,b.h5]"
            )
        given = self.checkpoints or self.files
        if len(set(given)) < len(given):
            raise HgfastError(f"{next(path for path in given if given.count(path) > 1)} is given twice: name every file once")
        if self.batch_size < 1 or (self.threads is not None and self.threads < 1):
            raise HgfastError("--batch-size and --threads must be at least 1")
        for flag, given_too in (("--flip-test", self.flip_test), ("--decoder", self.decoder is not None)):
            if self.files and given_too:
                raise HgfastError(f"{flag} is for checkpoints: predictions are scored as they are")
        if self.runtimes and not any(path.suffix == ".onnx" for path in self.checkpoints):
            raise HgfastError("--runtimes is for ONNX files: give one, or leave it out")
        if len(set(self.runtimes)) < len(self.runtimes):
            raise HgfastError("--runtimes names one twice: name every runtime once")
        if self.chart is not None and self.chart.suffix.lower() != ".png":
            raise HgfastError(f"--chart {self.chart} must end in .png")
        if self.submission is not None and len(given) > 1:
            raise HgfastError("--submission is written for one checkpoint or one file of predictions: give only one")
        if self.release is not None and self.submission is None:
            raise HgfastError("--release is for --submission FILE: give both, or leave it out")
        outputs = {flag: path for flag in ("json", "chart", "submission") if (path := getattr(self, flag)) is not None}
        inputs = [("a checkpoint", path) for path in self.checkpoints] + [("the predictions", path) for path in self.files]
        inputs += [("the release", self.release)] if self.release is not None else []
        check_apart([*inputs, *input_files(self)], {f"--{flag}": path for flag, path in outputs.items()})
        for flag, path in outputs.items():
            prepare_file(path, f"--{flag}")


@dataclass(frozen=True)
class Scored:
    """Predictions and what they are compared with. points: (M, K, 2), NaN where not finite. truth: of the same M samples.
    ran: the network that was run, if one was."""

    method: str
    path: Path
    points: Array
    truth: Truth
    ran: Ran | None = None

    @property
    def decoder(self) -> str | None:
        """Of the network's heatmaps."""
        return None if self.ran is None else self.ran.decoder

    @property
    def _arrays(self) -> tuple[Array, Array, Any, Array]:
        return self.points, self.truth.points, self.truth.labelled, self.truth.reference

    @property
    def body(self) -> BodyFigures:
        return body_figures(*self._arrays, self.truth.skeleton)

    @property
    def flat(self) -> dict[str, float]:
        """The figures in one row: of bodies those of `body_table`, and every group's of the others as "auc_knee"."""
        if self.truth.dataset == "freihand":
            return hand_table(*self._arrays, self.truth.side)
        if self.truth.dataset == "coco":
            return pck_table(*self._arrays)
        figures: Mapping[str, Any] = self.body
        more = {f"{name}_{group}": figures[name][group] for name in GROUPED[1:] for group, _ in self.truth.skeleton.groups}
        return {**body_table(*self._arrays, self.truth.skeleton), **more}

    @property
    def curve(self) -> Curve:
        """Of bodies the official one; of hands by EvalUtil in pixels; of others that of `pck`, as in hgfast/evaluate.py."""
        if self.truth.dataset == "mpii":
            return pckh_curve(*self._arrays, self.truth.skeleton)
        if self.truth.dataset == "freihand":
            return pck_curve(*self._arrays[:3], groups=self.truth.skeleton.groups)
        return pck_shares(*self._arrays, groups=self.truth.skeleton.groups)


def main() -> None:
    config = parse(PckhConfig, rest="checkpoints", description=__doc__ or "")
    config.validate()
    if config.chart is not None:
        import pckh_chart  # before the work: it says what is missing
    where = machine()
    split = config.split or DATASETS[config.dataset].held_out(config)
    truth = open_truth(config, split)
    if not truth.labelled.any() and (config.submission is None or config.json or config.chart):
        raise HgfastError(f"{truth.source} has no annotations: only --submission FILE can be had of it")
    if config.submission is not None:
        check_submission(truth, config.release)
    results, not_run = score(config, split, truth)
    if truth.labelled.any():
        report(results, truth, not_run)
        rows = [make_row(scored, results[0]) for scored in results]
        if config.json is not None:
            record = make_record(rows, where, ["scipy", "h5py", *(["matplotlib"] if config.chart else [])])
            more = {"not_run": list(not_run)} if not_run else {}
            write_record({**record, **about(results, truth, bool(config.checkpoints)), **more}, config.json)
            print(f"record: {config.json}")
        if config.chart is not None:
            labels, whole = axes(truth)
            pckh_chart.draw({s.method: s.curve for s in results}, config.chart, truth.name, labels, whole)
            print(f"chart: {config.chart}")
    if config.submission is not None:
        print(f"submission: {config.submission}: {submit(config, config.submission, results[0], truth)}")


def score(config: PckhConfig, split: str, truth: Truth) -> tuple[list[Scored], dict[str, str]]:
    """Every network or file of predictions beside the samples that it has; and why others, by method, could not run here."""
    given, not_run = config.checkpoints or config.files, dict[str, str]()
    if config.checkpoints:
        samples = open_pictures(config, split, truth)
        how = Running(config.device, config.batch_size, config.loader, config.threads, config.flip_test, config.decoder)
        results, not_run = run_all(given, samples, truth, how, config.runtimes)
    else:
        found = [read_predictions(path, truth) for path in given]
        results = [Scored(m, path, points, truth.take(places)) for m, path, (points, places) in zip(methods(given), given, found)]
    for scored in results:
        if truth.labelled.any() and not scored.truth.labelled.any():
            raise HgfastError(f"none of the {len(scored.points)} samples of {scored.path} has a labelled joint: score others")
    return results, not_run


def run_all(
    paths: Sequence[Path], samples: Samples, truth: Truth, how: Running, runtimes: Sequence[Within] = ()
) -> tuple[list[Scored], dict[str, str]]:
    """Every network, an ONNX in each of the runtimes, beside the samples that it has; and why others, by method, could not run
    here: engines without a GPU, bf16 on a CPU that has none."""
    results, not_run = list[Scored](), dict[str, str]()
    for method, path in zip(methods(paths), paths):
        for within in runtimes_of(path, runtimes):
            name = f"{method} in {within}" if within else method
            if within == "openvino-bf16" and not cpu_features().bf16:
                not_run[name] = f"not measured: {NO_BF16}"
                continue
            try:
                ran = run_network(path, samples, truth, replace(how, within=within))
            except NoGpu:
                not_run[name] = "built, not run: there is no GPU here"
                continue
            results.append(Scored(name, path, ran.points, truth.take(ran.places), ran))
    if not results:
        reason = next(iter(not_run.values()))
        raise HgfastError(f"{paths[0]} cannot run here ({reason}): give a checkpoint or an ONNX, or use another machine")
    return results, not_run


def runtimes_of(path: Path, runtimes: Sequence[Within]) -> Sequence[Within | None]:
    """Those that a file is to be run in: bf16 is a way to run fp32; what is no ONNX has one runtime."""
    if not runtimes or not is_artefact(path):
        return [None]
    sidecar = sidecars.read(path)
    if sidecar.kind != "onnx":
        return [None]
    return [one for one in runtimes if one != "openvino-bf16" or sidecar.precision == "fp32"]


def apart(scored: Scored, first: Scored) -> dict[str, float | None]:
    """How far the keypoints lie from those of the first network, in pixels of its input: mean, 99th percentile, largest, and the
    share of joints, in percent, that are more than a pixel away; None where they are not networks on the same samples."""
    names = ("mean_px", "p99_px", "max_px", "over_1px_percent")
    if scored.ran is None or first.ran is None or not np.array_equal(scored.ran.places, first.ran.places):
        return dict.fromkeys(names)
    distance = np.linalg.norm(scored.points - first.points, axis=-1) / first.ran.unit[:, None]
    distance = distance[np.isfinite(distance)]
    if not distance.size:
        return dict.fromkeys(names)
    figures = (distance.mean(), np.percentile(distance, 99), distance.max(), 100 * (distance > 1).mean())
    return {name: float(figure) for name, figure in zip(names, figures)}


def methods(paths: Sequence[Path]) -> list[str]:
    """Short names that tell files apart: the last parts of their paths, as many as that takes."""
    for parts in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def make_row(scored: Scored, first: Scored) -> Row:
    """A row of the record."""
    truth = scored.truth
    return {
        "method": scored.method,
        "file": scored.path.name,
        "what": scored.ran and scored.ran.what,
        **apart(scored, first),
        "ground_truth": truth.name,
        "people": len(truth),
        "joints_counted": truth.counted,
        "not_finite": not_finite(scored.points),
        "decoder": scored.decoder,
        **scored.flat,
    }


def about(results: Sequence[Scored], truth: Truth, ran: bool) -> dict[str, Any]:
    """What the record has beside its rows: the figures of one input at the top, nested as in the tables; which files."""
    common = {"dataset": truth.dataset, "ground_truth": truth.name, "people_in_ground_truth": len(truth)}
    if len(results) > 1:
        return {**common, "checkpoints" if ran else "predictions": [str(scored.path) for scored in results]}
    (scored,) = results
    figures: Mapping[str, Any] = scored.body if truth.dataset == "mpii" else scored.flat
    counts = {
        "people": len(scored.truth),
        "joints_counted": scored.truth.counted,
        "not_finite": not_finite(scored.points),
    }
    how = {"checkpoint": str(scored.path), "decoder": scored.decoder} if ran else {"predictions": str(scored.path)}
    return {**figures, **common, **counts, **how}


def check_submission(truth: Truth, release: Path | None) -> None:
    """Refuse before the work what could not be written after it."""
    if truth.dataset == "coco":
        raise HgfastError("there is nowhere to send predictions on COCO keypoints of one's own: leave out --submission")
    if truth.dataset == "mpii":
        check_people(truth)
    if release is not None and (truth.dataset != "mpii" or not release.is_file()):
        what = "is MPII's: leave it out" if truth.dataset != "mpii" else "is no file: give mpii_human_pose_v1_u12_1.mat"
        raise HgfastError(f"--release {release} {what}")


def submit(config: PckhConfig, path: Path, scored: Scored, truth: Truth) -> str:
    """Write the file to be sent in; what to know about it."""
    if truth.dataset == "mpii":
        return write_mpii(path, scored.points, scored.truth, config.release)
    return write_freihand(path, scored.points, scored.truth, len(truth))


# ---- what is said ----


def report(results: Sequence[Scored], truth: Truth, not_run: Mapping[str, str]) -> None:
    """The tables, for people; `not_run` says why other methods could not run."""
    print(f"ground truth: {truth.name}")
    for scored in results:
        part = f" of {len(truth)}" if len(scored.truth) < len(truth) else ""
        kind = {"mpii": "people", "freihand": "hands", "coco": "samples"}[truth.dataset]
        print(f"{scored.method}: {len(scored.truth)}{part} {kind}, {scored.truth.counted} labelled joints count")
        if scored.decoder is not None:
            print(f"{scored.method}: heatmaps decoded by {scored.decoder}")
        if absent := not_finite(scored.points):
            epe = "" if truth.dataset == "mpii" else ", of which EPE knows nothing"
            print(f"{scored.method}: {absent} joints have no finite prediction and are misses{epe}")
    if truth.dataset == "mpii":
        print(f"\n{body_tables(results)}", flush=True)
    else:
        print("\n" + tabulate([{"method": s.method, **s.flat} for s in results], headers="keys", floatfmt=".4f"))
        print(DATASETS[truth.dataset].note, flush=True)
    if len(results) + len(not_run) > 1 and results[0].ran is not None:
        rows: list[Row] = [{"method": s.method, "what": s.ran and s.ran.what, **apart(s, results[0])} for s in results[1:]]
        rows += [{"method": method, "what": reason} for method, reason in not_run.items()]
        print(f"\n{tabulate(rows, headers='keys', floatfmt='.4f')}")
        print(f"from the keypoints of {results[0].method}, in pixels of the input")


def body_tables(results: Sequence[Scored]) -> str:
    """Tables as papers have them, and the totals of other projects under their names."""
    figures: dict[str, Mapping[str, Any]] = {scored.method: scored.body for scored in results}
    parts = []
    for name in GROUPED[:2]:
        table = []
        for method, found in figures.items():
            row = {"Method": method, **{group.capitalize(): share for group, share in found[name].items()}}
            table.append({**row, "AUC": found["auc"]["total"]} if name == "pckh@0.5" else row)
        parts.append(f"{TITLES[name]}\n{tabulate(table, headers='keys', floatfmt='.2f')}")
    others = [{"Method": method, **{k: found[k] for k in ("pooled16@0.5", "mean14@0.5")}} for method, found in figures.items()]
    parts.append(f"{OTHERS}\n{tabulate(others, headers='keys', floatfmt='.2f')}")
    return "\n\n".join(parts) + f"\n\n{RULES}; AUC: of its curve from 0 to 0.5"


def axes(truth: Truth) -> tuple[tuple[str, str], float]:
    """What the chart's axes mean, and the share that is all."""
    if truth.dataset == "mpii":
        return ("distance / head size", "PCKh, percent"), 100.0
    if truth.dataset == "freihand":
        return ("distance, pixels", "share of joints"), 1.0
    return ("distance / reference length", "PCK"), 1.0


if __name__ == "__main__":
    run(main)
