"""The typed configuration of a training run.

Every field is a flag (`--train.lr 3e-4`) and a YAML key; the string below a field is its help text. `hgfast.cli` parses them.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

import yaml

from hgfast.architectures import Architecture, Decoder, architecture
from hgfast.errors import HgfastError
from hgfast.fileio.files import atomic_write
from hgfast.validation import Range, check_ranges

AmpSetting = Literal["auto", "bf16", "fp16", "off"]
DatasetName = Literal["freihand", "mpii", "coco"]
"""Each has a module of this name in `pipelines/readers/`."""
LoaderName = Literal["dali", "opencv"]
AllowedProblem = Literal[
    "normalized", "percent", "box-format", "box-size", "outside-box", "outside-image", "image-size", "sides",
]  # fmt: skip
"""Problems of a whole annotation file that are errors unless `--allow` names them."""
SplitName = Literal["train", "valid", "test", "all", "evaluation"]

CONFIG_FILE, METRICS_FILE, EVENTS_FOLDER = "config.yaml", "metrics.jsonl", "events"
CHECKPOINT_FILE, BEST_FILE = "checkpoint.pt", "best.pt"
"""Files of a run."""
FLAG_ALIASES = {
    "-e": "--exp",
    "-c": "--resume",
    "--continue": "--resume",
    "-m": "--train.max-iters",
    "--max-iters": "--train.max-iters",
}
"""Other spellings of flags of `Config`."""

CONFIG_FORMAT = 2
"""Written to config.yaml as `format`; files without it are of format 1."""
RENAMED_KEYS = {
    "normalise": "normalize",
    "shares": "split_fractions",
    "loading.wait_minutes": "storage_timeout",
    "loss.unlabelled": "unlabeled",
    "train.accumulate": "grad_accum",
    "train.clip": "grad_clip",
    "train.drop_after": "lr_milestones",
    "train.drop_by": "lr_gamma",
    "train.keep": "keep_checkpoints",
    "train.valid_every": "val_interval",
    "train.wait_minutes": "dist_timeout",
}
"""Keys of format 1 and their present names."""
RENAMED_VALUES = {"loader": {"torch": "opencv"}}
"""Values of format 1 and their present names, by key."""


@dataclass
class ModelConfig:
    preset: str = "hg2"
    """hg1, hg2, hg8, small (trains in minutes on two CPU cores) or tiny (for tests)"""
    stacks: int | None = None
    """number of hourglasses"""
    features: int | None = None
    """channels in the hourglasses"""
    growth: int | None = None
    """channels added at every downsampling"""
    depth: int | None = None
    """downsampling steps in an hourglass"""
    blocks: int | None = None
    """consecutive residual blocks where the paper has one"""
    stem: tuple[int, int, int] | None = None
    """channels after the stem's convolution, its first and its second residual block"""
    input_size: int | None = None
    """side of the network's square input in pixels"""

    def make_architecture(self) -> Architecture:
        return architecture(**asdict(self))


@dataclass
class AugmentConfig:
    rotation: float = 30.0
    """largest rotation in degrees, uniform in both directions"""
    scale_min: Annotated[float, Range(gt=0)] = 0.75
    """smallest scale of the content, uniform up to scale_max"""
    scale_max: float = 1.25
    """largest scale of the content"""
    shift: float = 0.05
    """largest shift along x and along y as a fraction of the crop's side, uniform in both directions"""
    flip: Annotated[float | None, Range(ge=0, le=1)] = None
    """probability of a horizontal flip; none: 0.5 for bodies, 0 for hands, as a flip turns a right hand into a left one"""
    brightness: float = 0.2
    """factor uniform in 1 plus or minus this"""
    contrast: float = 0.2
    """factor uniform in 1 plus or minus this"""
    saturation: float = 0.2
    """factor uniform in 1 plus or minus this"""
    hue: float = 10.0
    """largest rotation about the gray axis in degrees, uniform in both directions"""


@dataclass
class LossConfig:
    name: Literal["cross_entropy", "mse"] = "cross_entropy"
    """spatial cross-entropy on logits, or squared error on Gaussian maps as in princeton-vl's code"""
    sigma: Annotated[float, Range(gt=0)] = 1.0
    """standard deviation of the target Gaussians in heatmap cells"""
    reduce: Literal["sum", "mean"] = "sum"
    """mse: sum over a map's cells, or their mean as in princeton-vl's code, which is H*W times smaller and so changes the effect
    of Adam's epsilon and gradient clipping"""
    unlabeled: Literal["ignore", "zero"] = "ignore"
    """unlabeled joints: ignore them, or (mse) train them towards an empty map as princeton-vl's code does"""


@dataclass
class TrainConfig:
    epochs: Annotated[int, Range(ge=1)] = 100
    """passes over the training split"""
    max_iters: Annotated[float | None, Range(gt=0)] = None
    """thousands of steps after which training ends, instead of epochs (the unit of princeton-vl's code)"""
    max_minutes: Annotated[float | None, Range(gt=0)] = None
    """minutes after which training ends if the steps take longer; the learning rate schedule is shortened to fit"""
    optimizer: Literal["adamw", "adam", "rmsprop"] = "adamw"
    """optimizer"""
    lr: Annotated[float, Range(gt=0)] = 1e-3
    """peak learning rate for the global batch, independent of the number of GPUs"""
    warmup: Annotated[float, Range(ge=0, lt=1)] = 0.05
    """fraction of all steps with a linear warmup of the learning rate"""
    schedule: Literal["cosine", "steps"] = "cosine"
    """after the warmup: cosine decay to zero, or the peak rate with a decay at every one of lr_milestones"""
    lr_milestones: Annotated[list[float], Range(gt=0)] = field(default_factory=list)
    """schedule steps: thousands of steps after which the rate is multiplied by lr_gamma, such as [100]"""
    lr_gamma: Annotated[float, Range(gt=0, le=1)] = 0.2
    """schedule steps: factor of the learning rate at a milestone"""
    weight_decay: Annotated[float, Range(ge=0)] = 1e-4
    """decoupled weight decay with adamw; added to the gradient with adam and rmsprop"""
    grad_clip: Annotated[float, Range(ge=0)] = 10.0
    """maximum norm of the gradient; 0: no clipping"""
    grad_accum: Annotated[int, Range(ge=1)] = 1
    """gradient accumulation: parts into which each rank splits its share of a batch to save memory"""
    compile: Literal["off", "on", "graphs"] = "off"
    """torch.compile for training, with batches of one size; graphs: with CUDA graphs, on a GPU"""
    deterministic: bool = False
    """on a GPU, use deterministic algorithms where torch has them, so that a run can be repeated, but slower"""
    sync_bn: bool = False
    """synchronize BatchNorm's statistics over all GPUs"""
    ema: Annotated[float, Range(ge=0, lt=1)] = 0.999
    """largest decay of the exponential moving average of the weights, which is validated and written to best.pt; it averages over
    the last twentieth of the steps done, but at most over 1 / (1 - ema) steps; 0: no average"""
    amp: AmpSetting = "auto"
    """mixed precision; auto: bf16 if the hardware supports it, else fp16 on a GPU and off on a CPU"""
    split: Literal["train", "valid", "test", "all"] = "train"
    """split to train on; MPII has train and valid"""
    valid_split: SplitName = "valid"
    """split to validate on"""
    val_interval: Annotated[int, Range(ge=1)] = 1
    """epochs between validations, each followed by a checkpoint; the last epoch always has both"""
    save_steps: Annotated[int | None, Range(ge=1)] = None
    """steps between additional checkpoints; none: save_minutes alone decides"""
    save_minutes: Annotated[float, Range(gt=0)] = 10.0
    """minutes between additional checkpoints"""
    keep_checkpoints: Annotated[int, Range(ge=1)] = 1
    """number of latest checkpoints to keep; the older ones are named checkpoint-STEP.pt"""
    log_every: Annotated[int, Range(ge=1)] = 50
    """steps between two points of TensorBoard's curves"""
    dist_timeout: Annotated[float, Range(gt=0, lt=1e5)] = 10.0
    """minutes that a rank waits for the others, at the start or in a step, before it ends the run; set it above
    --loading.storage-timeout"""


@dataclass
class LoadingConfig:
    """Image loading. DALI's defaults are those of its documentation; the best values depend on the machine."""

    prefetch: Annotated[int, Range(ge=1)] = 2
    """DALI: batches prepared ahead"""
    hw_decoder_load: Annotated[float | None, Range(ge=0, le=1)] = None
    """GPU only: fraction of the JPEGs for its hardware decoder, if it has one; CUDA and CPU threads decode the rest; none: 0 on
    compute capability 9.0 (H100, H200), whose hardware decoder may corrupt images, else 0.65, DALI's default"""
    preload_gb: Annotated[float, Range(ge=0, lt=1e6)] = 0.0
    """DALI: gigabytes of encoded files to cache in each rank's memory; for slow disks"""
    storage_timeout: Annotated[float, Range(ge=0)] = 5.0
    """minutes to wait for a folder of images that has become unavailable (a network drive) before the run ends"""


@dataclass(kw_only=True)
class DataConfig:
    """Data set."""

    dataset: DatasetName = "freihand"
    """layout of the files: FreiHAND, MPII, or COCO keypoints, the format for your own data"""
    data: Path | None = None
    """the data set's root folder; for COCO see --annotations"""
    annotations: Path | None = None
    """COCO: the JSON file to train on; MPII: the JSON of HRNet and mmpose, or the original
    mpii_human_pose_v1_u12_1.mat, instead of annot/*.h5"""
    valid_annotations: Path | None = None
    """COCO: the JSON file to validate on; MPII with the .mat: names of the images to validate on, one per line, or a valid.h5"""
    images: Path | None = None
    """folder of the images; none: DATA/images; FreiHAND always uses its own"""
    valid_images: Path | None = None
    """COCO: folder of the images to validate on; none: --images"""
    skeleton: Path | None = None
    """COCO: YAML file with joints, edges, flip_pairs and groups, or a shipped skeleton such as wflw; none: the category's"""
    pixel_offset: float = 0.5
    """COCO: added to the points; 0.5 for pixel indices from 0, 0 for coordinates from the first pixel's outer corner"""
    normalize: str = "box"
    """COCO: reference length of PCK: box, its longer side, or the distance of two joints such as left_shoulder,right_hip"""
    padding: float = 1.25
    """COCO: side of the square crop over the longer side of the box"""
    category: list[str] = field(default_factory=list)
    """COCO: names or ids of the categories to use, such as cat dog; none: all whose joints are the same"""
    box_size: Annotated[float | None, Range(gt=0)] = None
    """COCO: side in pixels of the box around an annotation whose box and joints have no extent, such as a single point"""
    box_format: Literal["xywh", "xyxy", "cxcywh"] = "xywh"
    """COCO: numbers of a box: x, y, width, height as COCO defines, two corners, or the center, width and height"""
    exif: Literal["apply", "ignore"] = "apply"
    """COCO: whether the points are of the image as its EXIF orientation rotates it (apply) or as it is stored (ignore)"""
    valid_fraction: Annotated[float | None, Range(gt=0, lt=1)] = None
    """COCO: fraction of the images of --annotations to validate on, instead of --valid-annotations"""
    group_by: str | None = None
    """COCO: regular expression in the file names, such as video[0-9]+; images for which its first group, or else its whole match,
    is the same stay together in train or valid"""
    allow: list[AllowedProblem] = field(default_factory=list)
    """problems of annotations that only cause a warning; each error that can be allowed names its word"""
    versions: list[str] = field(default_factory=lambda: ["gs", "hom", "sample", "auto"])
    """FreiHAND: background versions of each hand to use"""
    single_person: bool = False
    """MPII's .mat: use only people that it marks as sufficiently separated from others"""
    split_fractions: list[float] | None = None
    """FreiHAND: fractions of the hands for train and valid, such as [0.8,0.1]; none: princeton-vl's 28000 and 2800 of 32560"""
    skip_missing: bool = False
    """skip samples whose image is missing instead of ending with an error"""
    data_outside: bool = False
    """also read images outside their folder that annotations name or links lead to; for data that you trust"""
    checked: Path | None = None
    """result of pipelines/check.py, whose bad files are skipped; none: its default output file, if that exists"""

    @staticmethod
    def upgrade(content: dict[str, Any]) -> dict[str, Any]:
        """Return the content of a configuration file of any format under the present keys."""
        content = {key: dict(value) if isinstance(value, dict) else value for key, value in content.items()}
        file_format = content.pop("format", 1)
        if type(file_format) is not int or file_format not in (1, CONFIG_FORMAT):
            raise HgfastError(f"the configuration is of format {file_format}, this hgfast reads {CONFIG_FORMAT}: update hgfast")
        if file_format == 1:
            for old, new in RENAMED_KEYS.items():
                group, _, key = old.rpartition(".")
                values = content.get(group) if group else content
                if isinstance(values, dict) and key in values and new not in values:
                    values[new] = values.pop(key)
            for key, new_values in RENAMED_VALUES.items():
                if isinstance(content.get(key), str):
                    content[key] = new_values.get(content[key], content[key])
        return content

    @property
    def as_flags(self) -> list[str]:
        """The values that differ from the defaults, as words of a command line."""
        words, defaults = list[str](), DataConfig()
        for item in fields(DataConfig):
            value = getattr(self, item.name)
            if value != getattr(defaults, item.name):
                text = f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
                words += [f"--{item.name.replace('_', '-')}", *([text] if value is not True else [])]
        return words


@dataclass(kw_only=True)
class InferenceConfig(DataConfig):
    """Inference."""

    split: SplitName | None = None
    """split of the data set; none: test for FreiHAND, valid for MPII and for COCO with --valid-annotations, else train"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    batch_size: Annotated[int, Range(ge=1)] = 32
    """batch size"""
    loader: LoaderName = "dali"
    """data loader: dali, NVIDIA DALI; opencv, OpenCV in worker processes"""
    threads: Annotated[int | None, Range(ge=1)] = None
    """decoding threads or worker processes; none: one per core"""
    flip_test: bool = False
    """average with the heatmaps of the mirrored image; for networks trained with mirrored images"""
    decoder: Decoder | None = None
    """method that turns heatmaps into points; none: the checkpoint's"""


@dataclass(kw_only=True)
class Config(DataConfig):
    """One training run."""

    HELP_FIRST: ClassVar = (
        "config", "dataset", "data", "exp", "model.preset", "batch_size", "train.epochs", "train.lr", "loader", "resume",
    )  # fmt: skip

    exp: str = ""
    """name of the experiment, which is stored in exp/NAME; empty: the data set's name"""
    out: Path = Path("exp")
    """folder that holds the experiments"""
    resume: str | None = None
    """name of an experiment to resume with its stored configuration"""
    overwrite: bool = False
    """replace an existing run in exp/NAME"""
    weights: Path | None = None
    """checkpoint with the initial weights (hgfast, princeton-vl, bearpaw or anibali), which also determines the architecture but
    for --model.input-size; none: random initial weights"""
    seed: Annotated[int, Range(ge=0, lt=2**63)] = 0
    """random seed of order, augmentation and initial weights"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    batch_size: Annotated[int, Range(ge=1)] = 32
    """samples per step, over all ranks"""
    loader: Literal[LoaderName, "fixed"] = "dali"
    """data loader: dali, NVIDIA DALI; opencv, OpenCV in worker processes, where DALI does not run; fixed, the first batch again
    and again, which shows the network's speed without data loading"""
    threads: Annotated[int | None, Range(ge=1)] = None
    """decoding threads or worker processes per rank; none: the machine's cores divided by its ranks"""
    cache: Path | None = None
    """folder of crops that pipelines/cache.py made with the same flags; training reads them instead of whole images"""
    loading: LoadingConfig = field(default_factory=LoadingConfig)
    """Image loading."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Network; values that are not given are the preset's."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Loss."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Optimization and schedule."""

    def __post_init__(self) -> None:
        self.exp = self.exp or self.dataset

    def validate(self) -> None:
        """Raise `HgfastError` for a value out of its range or for values that contradict each other."""
        check_ranges(self)
        if self.augment.scale_min > self.augment.scale_max:
            raise HgfastError(f"augment.scale_min is {self.augment.scale_min}, must be at most augment.scale_max")
        if self.train.compile == "graphs" and self.train.grad_accum > 1:
            raise HgfastError(
                f"train.grad_accum is {self.train.grad_accum}, must be 1 with train.compile graphs, whose replays overwrite the "
                "gradients of earlier parts: choose train.compile on"
            )
        if self.train.lr_milestones != sorted(self.train.lr_milestones):
            raise HgfastError(f"train.lr_milestones is {self.train.lr_milestones}, must be in ascending order")
        if (
            self.exp in ("", "..")
            or Path(self.exp).name != self.exp
            or not self.exp.isprintable()
            or len(os.fsencode(self.exp)) > 200
        ):
            raise HgfastError(f"exp {self.exp!r} must be a plain name, without folders, of at most 200 bytes")

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain types, for YAML files and checkpoints."""
        return cast(dict[str, Any], _to_plain(asdict(self)))

    def write_yaml(self, path: Path) -> None:
        """Write a YAML file atomically for `--config`. Raises `OSError`."""
        with atomic_write(path) as temp_path:
            temp_path.write_text(yaml.safe_dump({"format": CONFIG_FORMAT, **self.to_dict()}, sort_keys=False), "utf-8")


def _to_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
