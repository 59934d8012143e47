"""The typed configuration of a training run: what a YAML file or the command line may set.

Every field is a flag (`--train.lr 3e-4`) and a YAML key; the string under a field is its help.
What may enter: dataclasses of plain values with defaults. How they are parsed is in `hgfast.cli`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from hgfast.errors import HgfastError
from hgfast.files import complete
from hgfast.model import Architecture, architecture


@dataclass
class ModelConfig:
    preset: str = "hg2"
    """hg1, hg2, hg8, small (a two-core CPU trains it in minutes) or tiny (for tests)"""
    stacks: int | None = None
    """number of hourglasses; none: the preset's"""
    features: int | None = None
    """channels in the hourglasses; none: the preset's"""
    growth: int | None = None
    """channels more at every halving; none: the preset's"""
    depth: int | None = None
    """halvings inside an hourglass; none: the preset's"""
    blocks: int | None = None
    """residuals in a row wherever the paper has one; none: the preset's"""
    stem: tuple[int, int, int] | None = None
    """channels after the stem's convolution and after its first and second residual; none: the preset's"""
    input_size: int | None = None
    """side of the network's square input in pixels; none: the preset's"""

    def architecture(self) -> Architecture:
        return architecture(**asdict(self))


@dataclass
class AugmentConfig:
    rotation: float = 30.0
    """degrees, uniform in plus or minus this"""
    scale_min: float = 0.75
    """smallest size of the content, uniform up to scale_max"""
    scale_max: float = 1.25
    """largest size of the content"""
    shift: float = 0.05
    """share of the crop's side, uniform in plus or minus this, along x and along y"""
    flip: float | None = None
    """probability of mirroring; none: 0.5 for bodies, 0 for hands, where it makes a left hand of a right one"""
    brightness: float = 0.2
    """factor uniform in 1 plus or minus this"""
    contrast: float = 0.2
    """factor uniform in 1 plus or minus this"""
    saturation: float = 0.2
    """factor uniform in 1 plus or minus this"""
    hue: float = 10.0
    """degrees around the grey axis, uniform in plus or minus this"""


@dataclass
class LossConfig:
    name: Literal["cross_entropy", "mse"] = "cross_entropy"
    """spatial cross-entropy on logits, or squared error on Gaussian maps as in the seed"""
    sigma: float = 1.0
    """standard deviation of the target Gaussians, heatmap cells"""
    reduce: Literal["sum", "mean"] = "sum"
    """mse: sum over the cells of a map, or the seed's mean, 4096 times smaller, which Adam's epsilon and the clipping feel"""
    unlabelled: Literal["ignore", "zero"] = "ignore"
    """joints without a label: leave them out, or (mse) train towards an empty map as the seed does"""


@dataclass
class TrainConfig:
    epochs: int = 100
    """passes over the training split"""
    max_iters: float | None = None
    """end after this many thousand steps instead (the seed's unit)"""
    max_minutes: float | None = None
    """end after this many minutes if the steps take longer; the learning rate's schedule is shortened to fit"""
    optimizer: Literal["adamw", "adam", "rmsprop"] = "adamw"
    """what takes the steps"""
    lr: float = 1e-3
    """peak learning rate, stated for the whole job, whatever the number of GPUs"""
    warmup: float = 0.05
    """share of all steps in which the rate rises linearly"""
    schedule: Literal["cosine", "steps"] = "cosine"
    """what follows: a cosine to zero, or the peak rate that falls at drop_after"""
    drop_after: list[float] = field(default_factory=list)
    """steps: thousands of steps after each of which the rate is multiplied by drop_by, such as [100]"""
    drop_by: float = 0.2
    """steps: the factor"""
    weight_decay: float = 1e-4
    """decoupled decay with adamw; with adam and rmsprop added to the gradient"""
    clip: float = 10.0
    """largest norm of the gradient; 0: no limit"""
    accumulate: int = 1
    """parts that each rank cuts its share of a batch into, one after the other, to save memory"""
    compile: Literal["off", "on", "graphs"] = "off"
    """torch.compile for the network in training; graphs: on a GPU also as CUDA graphs"""
    sync_bn: bool = False
    """BatchNorm's statistics over all GPUs instead of each one's share"""
    ema: float = 0.999
    """largest decay of the moving average of the weights, which is what is validated and used: over the last twentieth of the
    steps done, but no more than 1 / (1 - ema); 0: no average"""
    amp: Literal["auto", "bf16", "fp16", "off"] = "auto"
    """mixed precision; auto is bf16 where the hardware has it, else fp16 on a GPU and off on a CPU"""
    split: Literal["train", "valid", "test", "all"] = "train"
    """which samples to train on; MPII has train and valid"""
    valid_split: Literal["train", "valid", "test", "all", "evaluation"] = "valid"
    """which samples to validate on"""
    valid_every: int = 1
    """epochs between validations, each followed by a checkpoint; the last epoch always has both"""
    save_steps: int | None = None
    """steps between checkpoints besides those after validations; none: by time alone"""
    save_minutes: float = 10.0
    """minutes between checkpoints besides those after validations"""
    keep: int = 1
    """how many of the latest checkpoints to keep; those before the last are called checkpoint-STEP.pt"""
    log_every: int = 50
    """steps between two points of the curves in TensorBoard"""
    wait_minutes: float = 10.0
    """minutes that a rank waits for the others, at the start or in a step, before it ends the run; more than loading's"""


@dataclass
class LoadingConfig:
    """How pictures are read. DALI's defaults are those of its documentation; which are best depends on the machine."""

    prefetch: int = 2
    """DALI: batches prepared ahead"""
    hw_decoder_load: float = 0.65
    """GPU only: share of the JPEGs that its hardware decoder gets, where it has one; the rest goes to CUDA and CPU threads"""
    preload_gb: float = 0.0
    """DALI: keep so many gigabytes of the files (not decoded) in each rank's memory; for slow disks"""
    wait_minutes: float = 5.0
    """minutes to wait for a folder of pictures that is gone, as when a network drive fails, before the run ends"""


@dataclass(kw_only=True)
class DataChoice:
    """Which files to read."""

    dataset: Literal["freihand", "mpii", "coco"] = "freihand"
    """layout of the files: FreiHAND's, MPII's, or COCO keypoints, which anybody's own points can be written as"""
    data: Path | None = None
    """the data set's root folder; for COCO see --annotations"""
    annotations: Path | None = None
    """COCO: the JSON file to train on; MPII: the original mpii_human_pose_v1_u12_1.mat instead of annot/*.h5"""
    valid_annotations: Path | None = None
    """COCO: the JSON file to validate on; MPII with the .mat: names of the pictures to validate on, one a line, or a valid.h5"""
    images: Path | None = None
    """folder of the pictures; none: DATA/images, for FreiHAND always its own"""
    valid_images: Path | None = None
    """COCO: folder of the pictures to validate on; none: --images"""
    skeleton: Path | None = None
    """COCO: YAML file with joints, edges, flip_pairs and groups; none: the annotations' own category"""
    pixel_offset: float = 0.5
    """COCO: added to the points; 0.5 for pixel numbers counted from 0, 0 for points that count from the first pixel's corner"""
    normalise: str = "box"
    """COCO: what PCK divides errors by: box, its longer side, or two joints such as left_shoulder,right_hip"""
    padding: float = 1.25
    """COCO: side of the square that the network sees over the longer side of the box"""
    versions: list[str] = field(default_factory=lambda: ["gs", "hom", "sample", "auto"])
    """FreiHAND: which background versions of each hand to use"""
    single_person: bool = False
    """MPII's .mat: only people that it calls sufficiently separated from others"""
    shares: list[float] | None = None
    """FreiHAND: shares of the hands that train and valid get, such as [0.8,0.1]; none: the seed's 28000 and 2800 of 32560"""
    skip_missing: bool = False
    """leave out samples whose picture is missing, instead of refusing"""
    data_outside: bool = False
    """read pictures outside of their folder too, where annotations name such or links lead there; for data that you trust"""
    checked: Path | None = None
    """result of pipelines/check.py, whose bad files are left out; none: where it writes by default, if it is there"""

    @property
    def flags(self) -> list[str]:
        """What differs from the defaults, as words of a command line."""
        words, plain = list[str](), DataChoice()
        for one in fields(DataChoice):
            value = getattr(self, one.name)
            if value != getattr(plain, one.name):
                text = f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
                words += [f"--{one.name.replace('_', '-')}", *([text] if value is not True else [])]
        return words


@dataclass(kw_only=True)
class Config(DataChoice):
    """One training run."""

    exp: str = ""
    """name of the experiment, whose files go to exp/NAME; empty: the data set's name"""
    out: Path = Path("exp")
    """folder that holds the experiments"""
    resume: str | None = None
    """name of an experiment to continue (also -c, --continue) with the configuration it was started with"""
    overwrite: bool = False
    """start afresh where exp/NAME already holds a checkpoint"""
    weights: Path | None = None
    """network to start from: a checkpoint of hgfast's, princeton-vl's or bearpaw's, which says what --model would, but for
    --model.input-size; none: fresh weights"""
    seed: int = 0
    """fixes order, augmentation and initial weights"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    batch_size: int = 32
    """samples a step, over all ranks"""
    loader: Literal["dali", "torch", "fixed"] = "dali"
    """what decodes and warps: NVIDIA DALI; torch: OpenCV in worker processes, where DALI does not run; or nothing, the first
    batch again and again, which shows what the network could do without waiting"""
    threads: int | None = None
    """decoding threads or worker processes a rank; none: the machine's cores shared out among its ranks"""
    cache: Path | None = None
    """folder of crops made by pipelines/cache.py with these same flags, to train on instead of whole pictures"""
    loading: LoadingConfig = field(default_factory=LoadingConfig)
    """Reading of pictures."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of training samples."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The loss."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Optimisation."""

    def __post_init__(self) -> None:
        self.exp = self.exp or self.dataset

    def validate(self) -> None:
        """Raise `HgfastError` for the first value out of its range."""
        checks: list[tuple[str, Callable[[Any], bool], str]] = [
            ("batch_size", lambda v: v >= 1, "at least 1"),
            ("seed", lambda v: 0 <= v < 2**63, "between 0 and 2^63 - 1"),
            ("threads", lambda v: v is None or v >= 1, "at least 1"),
            ("loading.prefetch", lambda v: v >= 1, "at least 1"),
            ("loading.hw_decoder_load", lambda v: 0 <= v <= 1, "in [0, 1]"),
            ("loading.preload_gb", lambda v: 0 <= v < 1e6, "at least 0 and below a million"),
            ("loading.wait_minutes", lambda v: v >= 0, "at least 0"),
            ("train.epochs", lambda v: v >= 1, "at least 1"),
            ("train.max_iters", lambda v: v is None or v > 0, "above 0"),
            ("train.max_minutes", lambda v: v is None or v > 0, "above 0"),
            ("train.lr", lambda v: v > 0, "above 0"),
            ("train.warmup", lambda v: 0 <= v < 1, "in [0, 1)"),
            ("train.weight_decay", lambda v: v >= 0, "at least 0"),
            ("train.clip", lambda v: v >= 0, "at least 0"),
            ("train.drop_after", lambda v: all(t > 0 for t in v) and v == sorted(v), "rising numbers above 0"),
            ("train.drop_by", lambda v: 0 < v <= 1, "above 0 and at most 1"),
            ("train.accumulate", lambda v: v >= 1, "at least 1"),
            ("train.save_steps", lambda v: v is None or v >= 1, "at least 1"),
            ("train.save_minutes", lambda v: v > 0, "above 0"),
            ("train.keep", lambda v: v >= 1, "at least 1"),
            ("train.log_every", lambda v: v >= 1, "at least 1"),
            ("train.wait_minutes", lambda v: 0 < v < 1e5, "above 0 and below 100 000"),
            ("train.ema", lambda v: 0 <= v < 1, "in [0, 1)"),
            ("train.valid_every", lambda v: v >= 1, "at least 1"),
            ("loss.sigma", lambda v: v > 0, "above 0"),
            ("augment.scale_min", lambda v: 0 < v <= self.augment.scale_max, "above 0 and at most augment.scale_max"),
            ("augment.flip", lambda v: v is None or 0 <= v <= 1, "in [0, 1]"),
        ]
        for name, good, wanted in checks:
            value: Any = self
            for part in name.split("."):
                value = getattr(value, part)
            if not good(value):
                raise HgfastError(f"{name} is {value}, must be {wanted}")
        if self.exp == ".." or Path(self.exp).name != self.exp:
            raise HgfastError(f"exp {self.exp!r} must be a plain name, without folders")

    def plain(self) -> dict[str, Any]:
        """The configuration as plain types, for YAML files and checkpoints."""
        return cast(dict[str, Any], _plain(asdict(self)))

    def write(self, path: Path) -> None:
        """Write it as YAML that `--config` reads back, whole or not at all. Raises `OSError`."""
        with complete(path) as beside:
            beside.write_text(yaml.safe_dump(self.plain(), sort_keys=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
