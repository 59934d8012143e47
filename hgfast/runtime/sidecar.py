"""The sidecar of an artifact, `<artifact>.json`: input, outputs, skeleton, preprocessing and verification results.

Writing and reading validate a sidecar against sidecar.schema.json. Reading also compares the artifact's sha256, to detect the
sidecar of another file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from hgfast.errors import HgfastError
from hgfast.fileio.files import replace_non_finite, to_json, write_text
from hgfast.skeletons import Skeleton, rename_keys

FORMAT_VERSION = 1
INPUT_NAME, KEYPOINTS, HEATMAPS = "images", "keypoints", "heatmaps"
OUTPUT_NAMES = (KEYPOINTS, HEATMAPS)
"""Names of the possible outputs, in their order."""
SCHEMA_PATH = Path(__file__).with_suffix(".schema.json")
STORED_NAMES = {
    "artifact": "artefact",
    "export_format": "kind",
    "normalized": "normalised",
    "heatmap_kind": "maps",
    "result_offset": "shift",
}
"""Fields of `Sidecar` that have another name in the JSON and in the metadata of an ONNX file."""
ExportFormat = Literal["onnx", "torchscript", "tensorrt", "tensorrt_rtx"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output. shape: numbers, or "batch" for a free batch size. axes: one letter per axis of the input (NHWC, NCHW),
    or a description of the output's axes."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    axes: str


@dataclass(frozen=True)
class BatchRange:
    """Batch sizes: minimum, the one that an engine is optimized for, and maximum."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise ValueError(f"its batch {self.min}:{self.opt}:{self.max} is not ascending from at least 1")

    @property
    def as_flag(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}" if self.max > self.min else str(self.max)


@dataclass(frozen=True)
class Sidecar:
    """Description of an artifact.

    artifact, sha256: the file's name without folders, and its checksum. input: uint8 RGB, which the network normalizes by
    (rgb / 255 - mean) / std, or, if `normalized`, float32 that the caller has normalized so. input_size: side of the square image
    in pixels. Keypoints are x, y in input pixels (corner convention: the image spans [0, input_size]) and score; heatmaps are
    those of the last stack, of kind `heatmap_kind`, with cells of `stride` pixels.
    result_offset: added to points after they are mapped to source pixels. pixel_offset: subtracted to write points in the
    pixel coordinates of the training files. checkpoint, checkpoint_sha256: the file that was exported. onnx_sha256: the ONNX
    file that an engine was built from. builder: of an engine, the library, its version and the GPUs it runs on. verification: the
    comparison with the checkpoint.
    """

    artifact: str
    sha256: str
    export_format: ExportFormat
    precision: Precision
    skeleton: Skeleton
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    input_size: int
    normalized: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    batch: BatchRange
    stride: int
    heatmap_kind: str
    decoder: str
    flip_test: bool
    pixel_offset: float
    result_offset: float
    checkpoint: str
    checkpoint_sha256: str
    versions: Mapping[str, str]
    revision: str
    created: str
    onnx_sha256: str | None = None
    builder: Mapping[str, Any] | None = None
    verification: Mapping[str, Any] | None = None
    format: int = field(default=FORMAT_VERSION)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain types, with the names of `STORED_NAMES`."""
        return rename_keys({**asdict(self), "skeleton": self.skeleton.to_dict()}, STORED_NAMES)

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata to store in the artifact: all fields known before it is written; other values than strings as JSON."""
        fields = self.to_dict()
        for name in ("artefact", "sha256", "onnx_sha256", "builder", "verification"):
            del fields[name]
        return {f"hgfast.{name}": value if isinstance(value, str) else to_json(value) for name, value in fields.items()}


def sidecar_path(artifact: Path) -> Path:
    """Return the path of an artifact's sidecar."""
    return artifact.with_name(f"{artifact.name}.json")


def is_exported(path: Path) -> bool:
    """Whether a file is an exported network, judging by its sidecar or suffix; otherwise it may be a checkpoint."""
    return sidecar_path(path).is_file() or path.suffix in (".onnx", ".torchscript", ".engine")


def write(sidecar: Sidecar, artifact: Path) -> Path:
    """Write the sidecar in the artifact's folder and return its path. Raises `HgfastError` if that fails."""
    _check_consistent(sidecar)
    content = replace_non_finite(json.loads(to_json(sidecar.to_dict())))
    if problem := _schema_error(content):
        raise ValueError(f"the sidecar of {artifact} does not match the schema: {problem}")
    write_text(sidecar_path(artifact), to_json(content, indent=1) + "\n", "--out")
    return sidecar_path(artifact)


def read_sidecar(artifact: Path) -> Sidecar:
    """Read the sidecar of an artifact.

    Raises:
        HgfastError: the artifact or its sidecar is missing, the sidecar is invalid, or they do not belong together.
    """
    if not artifact.is_file():
        raise HgfastError(f"there is no file {artifact}: create it with hgfast export onnx, torchscript or tensorrt")
    path = sidecar_path(artifact)
    if not path.is_file():
        raise HgfastError(f"{artifact} has no sidecar {path.name} in its folder, which is required: copy both")
    try:
        content = json.loads(path.read_text("utf-8"), parse_constant=_reject_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise HgfastError(f"the sidecar {path} cannot be read ({str(error)[:120]}): export again") from error
    if isinstance(content, dict) and content.get("format", FORMAT_VERSION) != FORMAT_VERSION:
        raise HgfastError(f"the sidecar {path} has format {content['format']}, this hgfast reads {FORMAT_VERSION}: export again")
    if problem := _schema_error(content):
        raise HgfastError(f"the sidecar {path} is invalid ({problem}): export again")
    if content["sha256"] != sha256_of(artifact):
        raise HgfastError(f"the sidecar {path} does not belong to {artifact} (another sha256): copy both, or export again")
    try:
        return _from_dict(content)
    except ValueError as error:
        raise HgfastError(f"the sidecar {path} is invalid ({error}): export again") from error


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:  # hashlib.file_digest requires Python 3.11
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _from_dict(content: Mapping[str, Any]) -> Sidecar:
    """Convert the JSON content to a Sidecar, with tuples instead of lists."""
    fields = rename_keys(content, {stored_name: name for name, stored_name in STORED_NAMES.items()})
    fields["skeleton"] = Skeleton.from_dict(content["skeleton"])
    fields["input"] = _tensor_spec(content["input"])
    fields["outputs"] = tuple(_tensor_spec(port) for port in content["outputs"])
    fields["batch"] = BatchRange(**content["batch"])
    fields["mean"], fields["std"] = tuple(content["mean"]), tuple(content["std"])
    sidecar = Sidecar(**fields)
    _check_consistent(sidecar)
    return sidecar


def tensor_specs(size: int, stride: int, joints: int, batch: BatchRange, normalized: bool) -> dict[str, TensorSpec]:
    """Return the input and the possible outputs of a network, by name."""
    count: int | str = batch.max if batch.min == batch.max else "batch"
    cells = size // stride
    float_input = TensorSpec(INPUT_NAME, "float32", (count, 3, size, size), "NCHW")
    return {
        INPUT_NAME: float_input if normalized else TensorSpec(INPUT_NAME, "uint8", (count, size, size, 3), "NHWC"),
        KEYPOINTS: TensorSpec(KEYPOINTS, "float32", (count, joints, 3), "image, joint, (x, y, score)"),
        HEATMAPS: TensorSpec(HEATMAPS, "float32", (count, joints, cells, cells), "image, joint, row, column"),
    }


def _check_consistent(sidecar: Sidecar) -> None:
    """Raise ValueError for fields that contradict each other."""
    joints, names = len(sidecar.skeleton.joints), [port.name for port in sidecar.outputs]
    specs = tensor_specs(sidecar.input_size, sidecar.stride, joints, sidecar.batch, sidecar.normalized)
    expected = specs[INPUT_NAME]
    if (sidecar.input.shape, sidecar.input.dtype) != (expected.shape, expected.dtype):
        raise ValueError(f"its input {sidecar.input.shape} {sidecar.input.dtype} contradicts its other fields")
    shapes = {name: specs[name].shape for name in OUTPUT_NAMES}
    if len(set(names)) < len(names) or any(shapes.get(port.name) != port.shape for port in sidecar.outputs):
        raise ValueError("its outputs contradict its other fields")
    if sidecar.export_format.startswith("tensorrt") and sidecar.builder is None:
        raise ValueError("an engine needs a builder")


def _reject_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")


def _tensor_spec(content: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(**{**content, "shape": tuple(content["shape"])})


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator, validators

    # JSON Schema accepts 64.0 and 1e308 as integers, Python does not
    strict_integer = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    return validators.extend(Draft202012Validator, type_checker=strict_integer)(json.loads(SCHEMA_PATH.read_text("utf-8")))  # type: ignore[no-untyped-call]


def _schema_error(content: Any) -> str | None:
    """Return the first violation of the schema, or None."""
    for error in sorted(_validator().iter_errors(content), key=lambda e: list(map(str, e.absolute_path))):
        where = ".".join(map(str, error.absolute_path))
        return f"{where}: {error.message[:160]}" if where else str(error.message[:160])
    return None
