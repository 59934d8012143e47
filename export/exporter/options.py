"""Flags of the export scripts. Importing this module imports no torch, so that --help is fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from hgfast.architectures import Decoder
from hgfast.config import DataConfig, LoaderName
from hgfast.errors import HgfastError
from hgfast.fileio.files import check_distinct_paths, prepare_file
from hgfast.runtime.sidecar import KEYPOINTS, OUTPUT_NAMES, BatchRange, sidecar_path
from hgfast.validation import Range

MAX_SIZE = 4096  # upper limit of the batch size and of the input size in pixels


@dataclass(frozen=True)
class ExportSpec:
    """Input, outputs and precision of an exported graph.

    fp16: the network computes in fp16; normalization and decoding stay in fp32. flip_test: the network also processes the
    mirrored images, in one batch with the others. normalized: the input is (N, 3, H, W) float32 that the caller has normalized,
    instead of (N, H, W, 3) uint8 RGB. outputs: of `hgfast.runtime.sidecar.OUTPUT_NAMES`, in their order.
    """

    fp16: bool = False
    flip_test: bool = False
    normalized: bool = False
    outputs: tuple[str, ...] = (KEYPOINTS,)


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
    input_size: Annotated[int | None, Range(ge=1, le=MAX_SIZE)] = None
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
    calibration: Annotated[int, Range(ge=1)] = 256
    """int8: number of training images that determine the ranges of activations"""
    max_loss: Annotated[float, Range(ge=0)] = 1.0
    """int8: maximum loss of PCK on the validation split in percentage points; with a larger loss nothing is written"""
    loader: LoaderName = "dali"
    """loader of the images that calibrate and verify the export: dali or opencv"""
    threads: Annotated[int | None, Range(ge=1)] = None
    """CPU threads; none: one per core"""

    def __post_init__(self) -> None:
        self.checkpoint_sha256 = ""  # sha256 of the checkpoint that `load_network` read

    def validate(self, suffix: str) -> None:
        """Raise `HgfastError` for invalid options. suffix: default suffix of the output file."""
        from hgfast.pipelines.datasets import input_files  # imports torch

        self.spec, self.batch_range  # noqa: B018  # raise HgfastError
        if self.precision == "int8" and not self.has_data:
            raise HgfastError(
                "--precision int8 requires images to calibrate and evaluate with: give --dataset and --data as in training"
            )
        files = self.output_files(suffix)
        check_distinct_paths([("the checkpoint", self.checkpoint), *input_files(self)], files)
        for path in files.values():
            prepare_file(path, "--out")

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
        try:
            if len(parts) not in (1, 3) or not all(part.isascii() and part.isdigit() and len(part) < 9 for part in parts):
                raise ValueError
            sizes = BatchRange(*(int(part) for part in parts * (3 // len(parts))))
        except ValueError:
            raise HgfastError(f"--batch {self.batch} must be one number, or min:opt:max such as 1:8:32") from None
        if sizes.max > MAX_SIZE:
            raise HgfastError(f"--batch {self.batch} must be at most {MAX_SIZE}")
        return sizes

    def output_path(self, suffix: str) -> Path:
        """Return --out, or a path named after the checkpoint, the precision and the options that change the input."""
        if self.out is not None:
            return self.out
        parts = [self.checkpoint.name.removesuffix(".tar").rpartition(".")[0] or self.checkpoint.name]
        parts += [str(self.input_size)] if self.input_size else []
        parts += ["flip"] * self.flip_test + ["float"] * (self.input == "float")
        return self.checkpoint.with_name(".".join([*parts, self.precision, suffix]))

    def output_files(self, suffix: str) -> dict[str, Path]:
        """Return the files to write, with their names for messages."""
        out = self.output_path(suffix)
        return {"--out": out, "the sidecar": sidecar_path(out)}


@dataclass(kw_only=True)
class BuildOptions:
    """Options of a TensorRT build."""

    timing_cache: Path | None = None
    """TensorRT: file of kernel timings, which makes the next build faster"""
    hardware_compatible: bool = False
    """build for all GPUs from Ampere on, possibly slower; TensorRT-RTX always does"""
    version_compatible: bool = False
    """TensorRT: build an engine that later versions run too, possibly slower"""
    workspace_gb: Annotated[float | None, Range(gt=0)] = None
    """maximum workspace of a layer in gigabytes; none: no limit"""
    optimization_level: Annotated[int | None, Range(ge=0, le=5)] = None
    """0 (fast build) to 5 (fast engine)"""
    compute_capabilities: list[str] = field(default_factory=list)
    """TensorRT-RTX: GPUs to build for, such as [SM86,SM120] or [CURRENT]; none: 8.0, 8.6, 8.9, 12.0 and later"""

    def check(self, backend: str) -> None:
        """Raise `HgfastError` for an option that the backend does not support."""
        if backend == "tensorrt_rtx" and self.version_compatible:
            raise HgfastError("TensorRT-RTX cannot build version-compatible engines: leave it out, or build with tensorrt")
        if backend == "torch_tensorrt" and self.version_compatible:  # it excludes the runtime that such an engine should contain
            raise HgfastError("version-compatible engines of Torch-TensorRT do not run on their own: build with tensorrt")
        if backend == "tensorrt_rtx" and self.timing_cache is not None:
            raise HgfastError("TensorRT-RTX has no timing cache: leave it out")
        if backend != "tensorrt_rtx" and self.compute_capabilities:
            raise HgfastError(
                f"{backend} builds for the GPU of the machine, not for {', '.join(self.compute_capabilities)}: "
                "request a hardware-compatible engine, or build with tensorrt_rtx"
            )
        if self.timing_cache is not None:
            prepare_file(self.timing_cache, "--timing-cache")

    @property
    def to_record(self) -> dict[str, Any]:
        """The options to record in the sidecar."""
        names = ("hardware_compatible", "version_compatible", "workspace_gb", "optimization_level")
        return {name: getattr(self, name) for name in names}


@dataclass(kw_only=True)
class TensorRTConfig(ExportConfig, BuildOptions):  # in this order, because jsonargparse resolves types of the first base
    """Options of an export to TensorRT."""

    backend: Literal["auto", "tensorrt", "tensorrt_rtx", "torch_tensorrt"] = "auto"
    """library that builds; auto: TensorRT or Torch-TensorRT if there is a GPU, else TensorRT-RTX"""

    def output_files(self, suffix: str) -> dict[str, Path]:
        files = super().output_files(suffix)
        onnx = onnx_path(files["--out"])
        if files["--out"].suffix == ".onnx":
            raise HgfastError(f"--out {self.out} is the engine and must not end in .onnx: the ONNX file will be {onnx}")
        return {**files, "the ONNX": onnx, "its sidecar": sidecar_path(onnx)}


def onnx_path(engine: Path) -> Path:
    """Return the path of an engine's ONNX file, which no other export uses."""
    return engine.with_name(f"{engine.name}.onnx")
