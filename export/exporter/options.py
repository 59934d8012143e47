"""Flags that all export scripts share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hgfast.architectures import Decoder
from hgfast.checkpoints import load_model
from hgfast.config import DataConfig
from hgfast.errors import HgfastError
from hgfast.export.exporter.export_module import ExportSpec
from hgfast.fileio.files import check_distinct_paths, prepare_file
from hgfast.model import StackedHourglass
from hgfast.pipelines.datasets import input_files
from hgfast.runtime.sidecar import OUTPUT_NAMES, BatchRange, Precision, sha256_of, sidecar_path

MAX_SIZE = 4096  # upper limit of the batch size and of the input size in pixels


@dataclass(kw_only=True)
class ExportConfig(DataConfig):
    """Options of an export."""

    checkpoint: Path
    """checkpoint of training, or weights of princeton-vl or bearpaw"""
    out: Path | None = None
    """output file; none: in the folder of the checkpoint, named after it"""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """precision of the network; decoding is always fp32; int8 requires images to calibrate with (--dataset and its flags)"""
    batch: str = "1:8:32"
    """batch size: one number, or min:opt:max"""
    input_size: int | None = None
    """side of the square input in pixels; none: the checkpoint's"""
    flip_test: bool = False
    """average with the heatmaps of the mirrored image, in the graph; for networks trained with flips"""
    outputs: str = "keypoints"
    """keypoints, heatmaps or keypoints,heatmaps"""
    input: Literal["uint8", "float"] = "uint8"
    """uint8: (N, S, S, 3) RGB, normalized in the graph; float: (N, 3, S, S) that the caller has normalized"""
    decoder: Decoder | None = None
    """method that converts heatmaps to points; none: the checkpoint's"""
    no_verify: bool = False
    """do not compare the result with the checkpoint"""
    calibration: int = 256
    """int8: number of training images that determine the ranges of activations"""
    max_loss: float = 1.0
    """int8: maximum loss of PCK on the validation split in percentage points; with a larger loss nothing is written"""
    threads: int | None = None
    """CPU threads; none: one per core"""

    def __post_init__(self) -> None:
        self.checkpoint_sha256 = ""  # sha256 of the checkpoint that `load_model` read

    def validate(self, suffix: str) -> None:
        """Raise `HgfastError` for invalid options. suffix: default suffix of the output file."""
        self.spec, self.batch_range  # noqa: B018  # raise HgfastError
        for flag, value, valid, requirement in (
            ("--calibration", self.calibration, self.calibration >= 1, "at least 1"),
            ("--max-loss", self.max_loss, self.max_loss >= 0, "at least 0"),
            ("--threads", self.threads, self.threads is None or self.threads >= 1, "at least 1"),
        ):
            if not valid:
                raise HgfastError(f"{flag} is {value}, must be {requirement}")
        if self.precision == "int8" and not self.has_data:
            raise HgfastError(
                "--precision int8 requires images to calibrate and evaluate with: give --dataset and --data as in training"
            )
        out = self.output_path(suffix)
        if self.batch_range.max > MAX_SIZE or (self.input_size or 0) > MAX_SIZE:
            raise HgfastError(f"--batch and --input-size must be at most {MAX_SIZE}")
        outputs = {"--out": out, "the sidecar": sidecar_path(out)}
        check_distinct_paths([("the checkpoint", self.checkpoint), *input_files(self)], outputs)
        prepare_file(out, "--out")
        prepare_file(sidecar_path(out), "--out")

    @property
    def has_data(self) -> bool:
        """Whether the flags name a data set."""
        return self.data is not None or self.annotations is not None or self.valid_annotations is not None

    @property
    def spec(self) -> ExportSpec:
        """The graph's input, outputs and precision. Raises `HgfastError` for unknown outputs."""
        names = self.outputs.replace(" ", "").split(",")
        if not set(names) <= set(OUTPUT_NAMES) or len(set(names)) < len(names):
            raise HgfastError(f"--outputs {self.outputs} must be keypoints, heatmaps or keypoints,heatmaps")
        outputs = tuple(name for name in OUTPUT_NAMES if name in names)
        return ExportSpec(self.precision == "fp16", self.flip_test, self.input == "float", outputs)

    @property
    def batch_range(self) -> BatchRange:
        """The value of --batch. Raises `HgfastError` if it is invalid."""
        parts = self.batch.split(":")
        numbers = [int(part) for part in parts if part.isascii() and part.isdigit() and len(part) < 9]
        if len(numbers) < len(parts) or len(parts) not in (1, 3) or numbers != sorted(numbers) or numbers[0] < 1:
            raise HgfastError(f"--batch {self.batch} must be one number, or min:opt:max such as 1:8:32")
        return BatchRange(numbers[0], numbers[len(numbers) // 2], numbers[-1])

    def output_path(self, suffix: str, precision: Precision | None = None) -> Path:
        """Return --out, or a path named after the checkpoint, the precision and the options that change the input."""
        if self.out is not None:
            return self.out
        parts = [self.checkpoint.name.removesuffix(".tar").rpartition(".")[0] or self.checkpoint.name]
        parts += [str(self.input_size)] if self.input_size else []
        parts += ["flip"] * self.flip_test + ["float"] * (self.input == "float")
        return self.checkpoint.with_name(".".join([*parts, precision or self.precision, suffix]))

    def load_model(self) -> StackedHourglass:
        """Load the network with the input size and decoder of the flags. Raises `HgfastError` like `hgfast.load_model`."""
        sha256 = sha256_of(self.checkpoint) if self.checkpoint.is_file() else ""
        model = load_model(self.checkpoint, decoder=self.decoder)
        if sha256_of(self.checkpoint) != sha256:
            raise HgfastError(f"{self.checkpoint} changed while it was read: export again, or export best.pt of a finished run")
        self.checkpoint_sha256 = sha256
        if self.input_size is not None:
            multiple = model.meta.stride * 2**model.arch.depth
            if self.input_size < multiple or self.input_size % multiple:
                raise HgfastError(
                    f"--input-size {self.input_size} cannot be halved {model.arch.depth} times after the stem, as this network "
                    f"requires: choose a multiple of {multiple}"
                )
            model.meta = replace(model.meta, input_size=self.input_size)
        return model
