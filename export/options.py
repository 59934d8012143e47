"""The flags that all exports share, what they mean, and where files go.

What may enter: flags, their checks, and the network they name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from graph import Wiring

from hgfast.checkpoints import load_model
from hgfast.config import DataChoice
from hgfast.errors import HgfastError
from hgfast.files import check_apart, prepare_file
from hgfast.model import StackedHourglass
from hgfast.sidecar import OUTPUTS, Batch, Precision, checksum, place
from pipelines.datasets import input_files

MOST = 4096  # images at once, or pixels a side: more is a slip, and no memory would do


@dataclass(kw_only=True)
class ExportConfig(DataChoice):
    """One export."""

    checkpoint: Path
    """file written by training, or weights of princeton-vl's or bearpaw's"""
    out: Path | None = None
    """file to write; none: beside the checkpoint, named after it"""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """what the network computes in; decoding is always fp32; int8 needs pictures (--dataset and its flags) to calibrate with"""
    batch: str = "1:8:32"
    """images at once: one number, or fewest:usual:most"""
    input_size: int | None = None
    """side of the square input in pixels; none: the checkpoint's"""
    flip_test: bool = False
    """average with the mirrored picture's heatmaps, within the graph; for networks that were trained on mirrored pictures"""
    outputs: str = "keypoints"
    """keypoints, heatmaps or keypoints,heatmaps"""
    input: Literal["uint8", "float"] = "uint8"
    """uint8: (N, S, S, 3) RGB, normalised inside; float: (N, 3, S, S) that the caller has normalised"""
    decoder: Literal["argmax", "quarter", "dark"] | None = None
    """from heatmaps to points; none: what the checkpoint names"""
    no_verify: bool = False
    """do not compare the result with the checkpoint"""
    calibration: int = 256
    """int8: pictures of the training split that the ranges of activations are taken from"""
    max_loss: float = 1.0
    """int8: points of PCK on the validation split, of 100, that may be lost; more, and nothing is written"""
    threads: int | None = None
    """of the CPU; none: one a core"""

    def __post_init__(self) -> None:
        self.loaded = ""  # sha256 of the checkpoint that `load` read

    def validate(self, suffix: str) -> None:
        """Raise `HgfastError` for what is out of its range; `suffix` is what the written file's name ends in by default."""
        self.wiring, self.sizes  # noqa: B018  # they raise
        for flag, value, good, wanted in (
            ("--calibration", self.calibration, self.calibration >= 1, "at least 1"),
            ("--max-loss", self.max_loss, self.max_loss >= 0, "at least 0"),
            ("--threads", self.threads, self.threads is None or self.threads >= 1, "at least 1"),
        ):
            if not good:
                raise HgfastError(f"{flag} is {value}, must be {wanted}")
        if self.precision == "int8" and not self.has_data:
            raise HgfastError(
                "--precision int8 needs pictures to calibrate and to judge with: name them as in training, --dataset and --data"
            )
        out = self.target(suffix)
        if self.sizes.max > MOST or (self.input_size or 0) > MOST:
            raise HgfastError(f"--batch and --input-size must be at most {MOST}")
        outputs = {"--out": out, "the sidecar": place(out)}
        check_apart([("the checkpoint", self.checkpoint), *input_files(self)], outputs)
        prepare_file(out, "--out")
        prepare_file(place(out), "--out")

    @property
    def has_data(self) -> bool:
        """Do the flags name pictures?"""
        return self.data is not None or self.annotations is not None or self.valid_annotations is not None

    @property
    def wiring(self) -> Wiring:
        """What the graph takes and gives. Raises `HgfastError` for unknown outputs."""
        given = self.outputs.replace(" ", "").split(",")
        if not set(given) <= set(OUTPUTS) or len(set(given)) < len(given):
            raise HgfastError(f"--outputs {self.outputs} must be keypoints, heatmaps or keypoints,heatmaps")
        outputs = tuple(name for name in OUTPUTS if name in given)
        return Wiring(self.precision == "fp16", self.flip_test, self.input == "float", outputs)

    @property
    def sizes(self) -> Batch:
        """--batch. Raises `HgfastError` for what is no such thing."""
        parts = self.batch.split(":")
        numbers = [int(part) for part in parts if part.isascii() and part.isdigit() and len(part) < 9]
        if len(numbers) < len(parts) or len(parts) not in (1, 3) or numbers != sorted(numbers) or numbers[0] < 1:
            raise HgfastError(f"--batch {self.batch} must be one number, or fewest:usual:most such as 1:8:32")
        return Batch(numbers[0], numbers[len(numbers) // 2], numbers[-1])

    def target(self, suffix: str, precision: Precision | None = None) -> Path:
        """The file to write: --out, or named after the checkpoint, its precision and what else fixes its input."""
        if self.out is not None:
            return self.out
        parts = [self.checkpoint.name.removesuffix(".tar").rpartition(".")[0] or self.checkpoint.name]
        parts += [str(self.input_size)] if self.input_size else []
        parts += ["flip"] * self.flip_test + ["float"] * (self.input == "float")
        return self.checkpoint.with_name(".".join([*parts, precision or self.precision, suffix]))

    def load(self) -> StackedHourglass:
        """The network, with the input size and the decoder that the flags name. Raises `HgfastError` as `load_model` does."""
        before = checksum(self.checkpoint) if self.checkpoint.is_file() else ""
        model = load_model(self.checkpoint, decoder=self.decoder)
        if checksum(self.checkpoint) != before:
            raise HgfastError(f"{self.checkpoint} changed while it was read: export again, or export best.pt of a finished run")
        self.loaded = before
        if self.input_size is not None:
            multiple = model.meta.stride * 2**model.arch.depth
            if self.input_size < multiple or self.input_size % multiple:
                raise HgfastError(
                    f"--input-size {self.input_size} cannot be halved {model.arch.depth} times after the stem, as this network "
                    f"does: take a multiple of {multiple}"
                )
            model.meta = replace(model.meta, input_size=self.input_size)
        return model
