"""Convert another project's weights, or a checkpoint of training, to a checkpoint without training state; or annotations to COCO.

python hgfast/convert.py theirs.pt hourglass.pt
python hgfast/convert.py theirs.pt eyes.pt --joints [left_eye,right_eye]
python hgfast/convert.py labels.slp train.json

If OUT ends in .json, IN is a file of annotations: SLEAP (.slp), NWB (.nwb), a table of DeepLabCut (.csv), the YAML file of a YOLO
pose data set, or Label Studio's JSON export. It is written as COCO keypoints. This needs sleap-io: pip install hgfast[convert].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hgfast.annotation_converter import convert_annotations
from hgfast.architectures import Decoder
from hgfast.cli import parse
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError, printable
from hgfast.fileio.files import prepare_file
from hgfast.skeletons import Skeleton, make_skeleton


@dataclass(kw_only=True)
class ConvertConfig:
    """One conversion."""

    source: Path
    """another project's file, a checkpoint of hgfast, or a file of annotations"""
    out: Path
    """file to write: a checkpoint, or COCO keypoints (.json)"""
    split: str = "train"
    """split of a YOLO data set to convert"""
    input_size: int | None = None
    """side of the network's square input in pixels, which other projects' files do not store; none: 256"""
    joints: list[str] | None = None
    """joint names such as [left_eye,right_eye], which tell the flip test which joints to swap; only for weights with a number of
    joints other than MPII's 16 and FreiHAND's 21"""
    decoder: Decoder | None = None
    """method that turns heatmaps into points; none: dark"""
    mean: tuple[float, float, float] | None = None
    """red, green and blue in [0, 1], such as [0.5,0.5,0.5], if the weights were not trained with their project's mean"""
    std: tuple[float, float, float] | None = None
    """likewise"""
    shift: float | None = None
    """source pixels to add to the points; none: -0.5 for weights trained on MPII's coordinates, else 0"""
    overwrite: bool = False
    """replace an existing file"""


def convert(config: ConvertConfig) -> None:
    """Write any checkpoint that hgfast reads as a native one without training state, and print its properties."""
    if config.out.exists() and not config.overwrite:
        raise HgfastError(f"{config.out} exists: choose another name or add --overwrite")
    if config.out.suffix.lower() == ".json":
        print(printable(convert_annotations(config.source, config.out, config.split)), flush=True)
        return
    from hgfast import checkpoints  # imports torch
    from hgfast.normalization import Normalization

    content = checkpoints.read(config.source)
    family = content.pop("family", "hgfast")
    model = checkpoints.model_from_checkpoint(content, config.source)
    if config.input_size is not None:
        model.arch = replace(model.arch, input_size=config.input_size)
        model.meta = replace(model.meta, input_size=config.input_size)
    changes: dict[str, Any] = {"decoder": config.decoder, "shift": config.shift}
    if config.joints is not None:
        changes["skeleton"] = rename_joints(config.joints, model.meta.skeleton)
    normalization = model.meta.normalization
    mean, std = config.mean or normalization.mean, config.std or normalization.std
    if min(std) <= 0:
        raise HgfastError("--std must be above 0")
    changes["normalization"] = Normalization(mean, std)
    model.meta = replace(model.meta, **{name: value for name, value in changes.items() if value is not None})
    prepare_file(config.out, "OUT")
    checkpoints.save(checkpoints.model_state(model), config.out)
    arch, meta = model.arch, model.meta
    print(
        f"{printable(config.out)}: {family} weights, {arch.stacks} stacks, {arch.features} features, "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(meta.skeleton.joints)} joints "
        f"({meta.skeleton.name})\n"
        f"input {arch.input_size} x {arch.input_size}, (rgb / 255 - {list(mean)}) / {list(std)}; {meta.heatmap_kind} maps "
        f"decoded by {meta.decoder}; pixel_offset {meta.pixel_offset:g}, shift {meta.shift:g}",
        flush=True,
    )


def rename_joints(joints: list[str], skeleton: Skeleton) -> Skeleton:
    """Return a skeleton with these joint names. Raises `HgfastError` for a wrong number of names or for duplicates."""
    if len(joints) != len(skeleton.joints):
        raise HgfastError(f"--joints names {len(joints)} joints, the weights have {len(skeleton.joints)}")
    if not skeleton.is_anonymous:
        raise HgfastError(f"--joints is for joints without names, the weights have {skeleton.name}: leave it out")
    try:
        return make_skeleton(f"named{len(joints)}", joints)
    except ValueError as error:
        raise HgfastError(f"--joints: {error}") from error


def main() -> None:
    convert(parse(ConvertConfig, positional=("source", "out"), description=__doc__ or ""))


if __name__ == "__main__":
    run_main(main)
