"""Settings of the benchmarks that measure something, and the checks of their output files. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from hgfast.architectures import architecture
from hgfast.config import DataConfig, LoaderName
from hgfast.errors import HgfastError
from hgfast.fileio.files import check_distinct_paths, prepare_file, prepare_folder
from hgfast.runtime.sidecar import is_exported
from hgfast.system_info import available_cores
from hgfast.validation import Range

Layout = Literal["freihand", "mpii"]
OnnxRuntime = Literal["onnxruntime", "openvino", "openvino-bf16"]
"""Runtime of an ONNX; openvino-bf16 is OpenVINO's default for fp32 files on CPUs with bf16."""
TrainStepLoader = Literal[LoaderName, "none"]
Positive = Annotated[int, Range(ge=1)]
Seconds = Annotated[float, Range(gt=0)]


@dataclass(kw_only=True)
class TimingConfig:
    """Measurement."""

    rounds: Positive = 5
    """trials per row"""
    quick: bool = False
    """short trials on few images, for a smoke test; the results are not meaningful"""
    json: Path | None = None
    """write the record to this file"""


@dataclass(kw_only=True)
class ImagesConfig(TimingConfig):
    """Images."""

    data_freihand: Path | None = None
    """root folder of FreiHAND; none: synthetic hands"""
    data_mpii: Path | None = None
    """root folder of MPII; none: synthetic people"""
    layouts: list[Layout] = field(default_factory=lambda: ["freihand", "mpii"])
    """data sets to measure"""
    mpii_bytes_per_pixel: Annotated[float | None, Range(ge=0.02, le=1)] = None
    """bytes per pixel of the synthetic photographs; none: that of a few real ones; the official ones have about 0.43"""
    num_images: Positive = 256
    """number of images per data set, synthetic or evenly sampled from the real ones"""
    threads: Positive = 2
    """decoding threads or worker processes, and cores, of every variant"""
    seed: int = 0
    """random seed of order, augmentation and initial weights"""
    work: Path | None = None
    """folder of synthetic images and crops, which later runs reuse; none: a temporary folder"""


@dataclass(kw_only=True)
class LoaderConfig(ImagesConfig):
    """Settings of the loader benchmark."""

    seconds: Seconds = 2.0
    """minimum length of a trial"""
    batch_size: Positive = 32
    """samples per batch"""
    size: int = 256
    """side of the network's input, pixels"""
    index: bool = True
    """also measure the cost of an index of 130240 entries"""
    chart: Path | None = None
    """write a bar chart to this PNG file; requires matplotlib"""

    def __post_init__(self) -> None:
        if self.quick:
            self.rounds, self.seconds, self.num_images, self.batch_size = 3, 0.1, 16, 4

    def validate(self) -> None:
        """Raise `HgfastError` for the first invalid value."""
        if self.size < 64 or self.size % 64 or not self.layouts:
            raise HgfastError(f"--size is {self.size}, must be a multiple of 64, and --layouts must not be empty")
        check_outputs(json=self.json, chart=self.chart)


@dataclass(kw_only=True)
class TrainStepConfig(ImagesConfig):
    """Settings of the training benchmark."""

    presets: list[str] = field(default_factory=lambda: ["hg1"])
    """networks to train: hg1, hg2, hg8, small or tiny"""
    layouts: list[Layout] = field(default_factory=lambda: ["mpii"])
    num_images: Positive = 128
    seconds: Seconds = 5.0
    """minimum length of a trial, which also has a minimum number of steps"""
    batch_size: Positive = 4
    """samples per step"""
    loader: TrainStepLoader = "dali"
    """loader of hgfast's methods: dali, opencv, or none, which measures the networks alone, without any images"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""

    def __post_init__(self) -> None:
        if self.quick:
            self.presets, self.rounds, self.seconds, self.num_images = ["tiny"], 4, 0.05, 8

    def validate(self) -> None:
        """Raise `HgfastError` for the first invalid value."""
        check_threads(self.threads)
        if not self.layouts or not self.presets:
            raise HgfastError("--layouts and --presets not empty: give at least one of each")
        for preset in self.presets:
            architecture(preset)
        check_outputs(json=self.json)


@dataclass(kw_only=True)
class LatencyConfig(DataConfig, TimingConfig):  # in this order, jsonargparse finds the types of both
    """Settings of the latency benchmark."""

    files: list[Path] = field(default_factory=list)
    """checkpoints and exported ONNX, TorchScript and engine files, timed as they are; the first is the baseline"""
    checkpoint: Path | None = None
    """network to export and time in every runtime; int8 is calibrated with the images of --dataset and --data"""
    presets: list[str] = field(default_factory=lambda: ["hg1", "hg2"])
    """presets of the untrained networks that are timed without files and --checkpoint"""
    batch: Annotated[list[int], Range(ge=1)] = field(default_factory=lambda: [1, 8, 32])
    """batch sizes"""
    seconds: Seconds = 1.5
    """minimum length of a trial, which has at least three batches"""
    threads: Annotated[int | None, Range(ge=1)] = None
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

    def __post_init__(self) -> None:
        if self.quick:
            self.presets, self.batch, self.rounds, self.seconds, self.compile = self.presets[:1], self.batch[:1], 3, 0.2, False

    def validate(self) -> None:
        """Raise `HgfastError` for invalid settings."""
        check_threads(self.threads)
        if self.checkpoint is not None and (self.files or is_exported(self.checkpoint)):
            raise HgfastError("--checkpoint needs a checkpoint of training and excludes files: leave out one of them")
        if not self.batch:
            raise HgfastError("--batch must not be empty")
        for preset in self.presets:
            architecture(preset)
        given = [*self.files, *([self.checkpoint] if self.checkpoint is not None else [])]
        for path in given:
            if not path.is_file():
                raise HgfastError(f"there is no file {path}: give a checkpoint, or a file that export/ wrote")
        check_outputs([("a file to measure", path) for path in given], json=self.json)
        prepare_folder(self.work, "--work")


@dataclass(kw_only=True)
class SessionOverheadConfig(TimingConfig):
    """Settings of the session benchmark."""

    checkpoint: Path | None = None
    """network to measure; none: an untrained hg1"""
    cli: Path | None = None
    """path of hgfast_cli, built in export/cpp, whose memory is measured too"""
    runs: Positive = 20000
    """number of calls for the growth of memory and open files"""
    rounds: Positive = 7
    seconds: Seconds = 1.5
    """minimum length of a trial"""
    threads: Annotated[int | None, Range(ge=1)] = None
    """CPU threads; none: one per core"""
    work: Path = Path("exp/bench")
    """folder of the exported files, which later runs reuse"""

    def __post_init__(self) -> None:
        if self.quick:
            self.runs, self.rounds, self.seconds = min(self.runs, 1000), 4, 0.4

    def validate(self) -> None:
        """Raise `HgfastError` for invalid settings."""
        if self.cli is not None and not self.cli.is_file():
            raise HgfastError(f"there is no file {self.cli}: build it as export/cpp/README.md says")
        check_outputs(json=self.json)
        prepare_folder(self.work, "--work")


@dataclass(kw_only=True)
class DecodeConfig(TimingConfig):
    """Settings of the decoder benchmark."""

    samples: Positive = 256
    """batch size"""
    joints: Positive = 16
    """heatmaps per sample"""
    cells: Annotated[int, Range(ge=16)] = 64
    """side of a heatmap, cells"""
    sigma: float = 1.0
    """standard deviation of the Gaussians, cells"""
    rounds: Positive = 7
    seed: int = 0
    """random seed of the points"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""

    def __post_init__(self) -> None:
        if self.quick:
            self.samples, self.rounds = min(self.samples, 8), 4

    def validate(self) -> None:
        """Raise `HgfastError` for the first value out of range."""
        if not 0.3 <= self.sigma <= self.cells / 8:
            raise HgfastError(f"--sigma is {self.sigma:g}, must be at least 0.3 and at most an eighth of --cells")
        check_outputs(json=self.json)


# ---- checks ----


def check_outputs(inputs: Iterable[tuple[str, Path]] = (), **outputs: Path | None) -> None:
    """Check the files that flags such as --json name. A --chart must be a PNG file and requires matplotlib.

    Args:
        inputs: description and path of the files that must not be overwritten.
        outputs: files by the name of their flag.

    Raises:
        HgfastError: a file cannot be written.
    """
    paths = {f"--{flag}": path for flag, path in outputs.items() if path is not None}
    if chart := paths.get("--chart"):
        if chart.suffix.lower() != ".png":
            raise HgfastError(f"--chart {chart} must end in .png")
        if find_spec("matplotlib") is None:
            raise HgfastError("--chart requires matplotlib: pip install matplotlib, or leave out --chart")
    check_distinct_paths(inputs, paths)
    for flag, path in paths.items():
        prepare_file(path, flag)


def check_threads(threads: int | None) -> None:
    """Raise `HgfastError` for more threads than cores."""
    if (threads or 1) > available_cores():
        raise HgfastError(f"--threads is {threads}, but only {available_cores()} cores are available: give at most that many")
