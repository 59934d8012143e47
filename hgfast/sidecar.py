"""What lies beside an artefact, as `<artefact>.json`: everything needed to feed it, to read what it gives and to trust it.

The form is fixed by sidecar.schema.json, which every sidecar is checked against when it is written and when it is read; so is
the artefact's sha256, so that a sidecar of another file is found out.
What may enter: the sidecar's fields, writing and reading them. No torch: applications read it.
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
from hgfast.files import plain_json, to_json, write_text
from hgfast.skeletons import Skeleton

FORMAT = 1
INPUT, KEYPOINTS, HEATMAPS = "images", "keypoints", "heatmaps"
OUTPUTS = (KEYPOINTS, HEATMAPS)
"""Names of an artefact's input and of what it may give."""
SCHEMA = Path(__file__).with_suffix(".schema.json")
Kind = Literal["onnx", "torchscript", "tensorrt", "tensorrt_rtx"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Port:
    """An input or output. shape: numbers, and "batch" where that is free. axes: a letter an axis of the input (NHWC, NCHW),
    or what the output's axes are."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    axes: str


@dataclass(frozen=True)
class Batch:
    """How many images at once: the fewest, the number that an engine is tuned for, the most."""

    min: int
    opt: int
    max: int

    @property
    def words(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}" if self.max > self.min else str(self.max)


@dataclass(frozen=True)
class Sidecar:
    """One artefact's description.

    artefact, sha256: the file's name, without folders, and its checksum. input: uint8 RGB, (rgb / 255 - mean) / std being done
    inside, or, where `normalised`, float32 to which the caller has done that. input_size: side of the square image, pixels.
    keypoints come as x, y in input pixels (corner convention: the image spans [0, input_size]) and score; heatmaps are those
    of the last stack, `maps` their kind, `stride` the side of a cell in pixels.
    shift is to be added to points once they are back in source pixels; pixel_offset is to be subtracted from those to write
    them in the training files' own pixel numbers.
    checkpoint, checkpoint_sha256: what it was made of. onnx_sha256: the ONNX file that an engine was built from.
    builder: of an engine, what built it and what it is good for. verification: what was found beside the checkpoint.
    """

    artefact: str
    sha256: str
    kind: Kind
    precision: Precision
    skeleton: Skeleton
    input: Port
    outputs: tuple[Port, ...]
    input_size: int
    normalised: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    batch: Batch
    stride: int
    maps: str
    decoder: str
    flip_test: bool
    pixel_offset: float
    shift: float
    checkpoint: str
    checkpoint_sha256: str
    versions: Mapping[str, str]
    revision: str
    created: str
    onnx_sha256: str | None = None
    builder: Mapping[str, Any] | None = None
    verification: Mapping[str, Any] | None = None
    format: int = field(default=FORMAT)

    @property
    def metadata(self) -> dict[str, str]:
        """What a file can carry within itself, as an ONNX has metadata: all but its own checksum, JSON where it is no string."""
        fields = asdict(self)
        for name in ("artefact", "sha256", "onnx_sha256", "builder", "verification"):
            del fields[name]
        return {f"hgfast.{name}": value if isinstance(value, str) else to_json(value) for name, value in fields.items()}


def place(artefact: Path) -> Path:
    """Where an artefact's sidecar lies."""
    return artefact.with_name(f"{artefact.name}.json")


def is_artefact(path: Path) -> bool:
    """Is it an exported network, by its sidecar or its name's ending? Else it may be a checkpoint."""
    return place(path).is_file() or path.suffix in (".onnx", ".torchscript", ".engine")


def write(sidecar: Sidecar, artefact: Path) -> Path:
    """Write it beside the artefact. Raises `HgfastError` where that fails."""
    _check(sidecar)
    content = plain_json(json.loads(to_json(asdict(sidecar))))
    if complaint := _complaint(content):
        raise ValueError(f"the sidecar of {artefact} is not as its schema wants it: {complaint}")
    write_text(place(artefact), to_json(content, indent=1) + "\n", "--out")
    return place(artefact)


def read(artefact: Path) -> Sidecar:
    """The sidecar of an artefact.

    Raises:
        HgfastError: the artefact or its sidecar missing, not of the schema, or not belonging together.
    """
    if not artefact.is_file():
        raise HgfastError(f"there is no file {artefact}: make it with export/to_onnx.py, export/torchscript.py or export/trt.py")
    path = place(artefact)
    if not path.is_file():
        raise HgfastError(f"{artefact} has no sidecar {path.name} beside it, without which nobody knows its joints: copy both")
    try:
        content = json.loads(path.read_text(), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise HgfastError(f"the sidecar {path} cannot be read ({str(error)[:120]}): export again") from error
    if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
        raise HgfastError(f"the sidecar {path} is of format {content['format']}, this hgfast reads {FORMAT}: export again")
    if complaint := _complaint(content):
        raise HgfastError(f"the sidecar {path} is not one of hgfast's ({complaint}): export again")
    if content["sha256"] != checksum(artefact):
        raise HgfastError(f"the sidecar {path} does not belong to {artefact} (another sha256): copy both, or export again")
    try:
        return _from_plain(content)
    except ValueError as error:
        raise HgfastError(f"the sidecar {path} is not one of hgfast's ({error}): export again") from error


def checksum(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    found = hashlib.sha256()
    with path.open("rb") as file:  # hashlib.file_digest came with Python 3.11
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _from_plain(content: Mapping[str, Any]) -> Sidecar:
    """JSON's lists as the tuples that they were."""
    fields = dict(content)
    fields["skeleton"] = Skeleton.from_plain(content["skeleton"])
    fields["input"] = _port(content["input"])
    fields["outputs"] = tuple(_port(port) for port in content["outputs"])
    fields["batch"] = Batch(**content["batch"])
    fields["mean"], fields["std"] = tuple(content["mean"]), tuple(content["std"])
    sidecar = Sidecar(**fields)
    _check(sidecar)
    return sidecar


def _check(sidecar: Sidecar) -> None:
    """Raises ValueError for fields that contradict each other."""
    size, batch, joints = sidecar.input_size, sidecar.batch, len(sidecar.skeleton.joints)
    number: int | str = batch.max if batch.min == batch.max else "batch"
    cells = size // sidecar.stride
    shapes = {KEYPOINTS: (number, joints, 3), HEATMAPS: (number, joints, cells, cells)}
    wanted = (number, 3, size, size) if sidecar.normalised else (number, size, size, 3)
    names = [port.name for port in sidecar.outputs]
    if not batch.min <= batch.opt <= batch.max:
        raise ValueError(f"its batch {batch.min}:{batch.opt}:{batch.max} does not rise")
    if sidecar.input.shape != wanted or sidecar.input.dtype != ("float32" if sidecar.normalised else "uint8"):
        raise ValueError(f"its input {sidecar.input.shape} {sidecar.input.dtype} is not what its other fields make it")
    if len(set(names)) < len(names) or any(shapes.get(port.name) != port.shape for port in sidecar.outputs):
        raise ValueError("its outputs are not what its other fields make them")
    if sidecar.kind.startswith("tensorrt") and sidecar.builder is None:
        raise ValueError("an engine needs a builder")


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _port(content: Mapping[str, Any]) -> Port:
    return Port(**{**content, "shape": tuple(content["shape"])})


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator, validators

    # to JSON Schema 64.0 and 1e308 are integers too, to Python they are not
    whole = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    return validators.extend(Draft202012Validator, type_checker=whole)(json.loads(SCHEMA.read_text()))  # type: ignore[no-untyped-call]


def _complaint(content: Any) -> str | None:
    """The first thing that is not as the schema has it, or None."""
    for error in sorted(_validator().iter_errors(content), key=lambda e: list(map(str, e.absolute_path))):
        where = ".".join(map(str, error.absolute_path))
        return f"{where}: {error.message[:160]}" if where else str(error.message[:160])
    return None
