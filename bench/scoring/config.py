"""Settings of pckh.py. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hgfast.bench.harness.config import OnnxRuntime, check_outputs
from hgfast.config import InferenceConfig
from hgfast.errors import HgfastError


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
        if self.submission is not None and len(given) > 1:
            raise HgfastError("--submission requires a single checkpoint or file of predictions: give only one")
        if self.release is not None and self.submission is None:
            raise HgfastError("--release requires --submission FILE: give both, or leave it out")
        named = "a checkpoint" if self.checkpoints else "the predictions"
        inputs = [(named, path) for path in given] + ([("the release", self.release)] if self.release is not None else [])
        from hgfast.pipelines.datasets import input_files  # imports torch

        check_outputs([*inputs, *input_files(self)], json=self.json, chart=self.chart, submission=self.submission)
