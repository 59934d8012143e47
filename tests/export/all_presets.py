"""Export every preset, number of joints and family of weights in every format: one row per artifact, and a record.

    python -m tests.export.all_presets OUT.json
    python -m tests.export.all_presets OUT.json --presets [hg1,hg2] --families [native] --batch 1:8:32
    python -m tests.export.all_presets OUT.json --quick

Not collected by pytest: hg8 takes minutes. The weights are random. BatchNorm's statistics are those of synthetic images or random
(--statistics): the former give activations as large as those of a trained network, and the fastest growth of rounding errors.
Exits with 2 if an export failed.
"""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from hgfast import checkpoints
from hgfast.architectures import PRESETS, Architecture
from hgfast.bench.harness.networks import calibrate_batch_norms, scale_heatmaps
from hgfast.bench.harness.record import Row, machine_info, make_record, write_record
from hgfast.cli import parse
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError
from hgfast.export.exporter import tensorrt_export, trt_builder
from hgfast.export.exporter.artifact import RECORDED_PACKAGES, ExportedArtifact, load_network
from hgfast.export.exporter.onnx_export import make_onnx
from hgfast.export.exporter.options import TensorRTConfig
from hgfast.export.exporter.tensorrt_export import make_engine
from hgfast.export.exporter.torchscript_export import make_torchscript
from hgfast.export.exporter.trt_builder import TrtBackend
from hgfast.fileio.files import check_distinct_paths, prepare_file
from hgfast.model import Meta
from hgfast.normalization import Normalization
from hgfast.skeletons import BODY16, HAND21
from tests.foreign_nets import BearpawNet, PrincetonNet, prefixed_state, with_random_statistics

Family = Literal["native", "princeton", "bearpaw"]
SKELETONS = {16: BODY16, 21: HAND21}
PRECISIONS: tuple[Literal["fp32", "fp16"], ...] = ("fp32", "fp16")


@dataclass(kw_only=True)
class MatrixOptions:
    """The exports to run."""

    out: Path
    """file to write the record to, JSON"""
    presets: list[str] = field(default_factory=lambda: ["hg1", "hg2", "hg8"])
    """sizes of networks"""
    joints: list[int] = field(default_factory=lambda: [16, 21])
    """numbers of joints: 16 for bodies, 21 for hands"""
    families: list[Family] = field(default_factory=lambda: ["native", "princeton", "bearpaw"])
    """families of weights: native, princeton or bearpaw"""
    batch: str = "1:8:32"
    """batch size: one number, or min:opt:max"""
    statistics: Literal["images", "random"] | None = None
    """statistics of BatchNorm; none: those of images in native networks, random in the others"""
    threads: int | None = None
    """CPU threads; none: one per core"""
    quick: bool = False
    """tiny networks and batches of at most four, for a short check"""

    def validate(self) -> None:
        """Raise `HgfastError` for unknown presets or joints; apply --quick."""
        if self.quick:
            self.presets, self.batch = ["tiny"], "1:2:4"
        for name, known in (("presets", list(PRESETS)), ("joints", list(SKELETONS))):
            if unknown := [one for one in getattr(self, name) if one not in known]:
                raise HgfastError(f"--{name} {unknown[0]} is unknown: choose from {', '.join(map(str, known))}")
        check_distinct_paths([], {"OUT": self.out})
        prepare_file(self.out, "OUT")


def last_layer(net: nn.Module) -> nn.Module:
    """Return the layer of the last heatmaps, in a network of any family."""
    last = [part for name, part in net.named_modules() if isinstance(part, nn.Conv2d) and name.split(".")[0] in ("outs", "score")]
    return last[-1] if last else net.get_submodule("last.score")


def make_checkpoint(family: Family, preset: str, joints: int, statistics: str | None, path: Path) -> Path:
    """Write a checkpoint in the family's format."""
    torch.manual_seed(0)
    arch, skeleton = PRESETS[preset], SKELETONS[joints]
    uses_images = (statistics or ("images" if family == "native" else "random")) == "images"
    if family == "native":
        meta = Meta(skeleton, Normalization(), arch.input_size, "logits", "dark", 0.0 if skeleton is HAND21 else -0.5)
        model = checkpoints.build_model(arch, meta)
        if uses_images:
            calibrate_batch_norms(model, meta.normalization, arch.input_size, skeleton is HAND21)
        else:
            with_random_statistics(model)
        scale_heatmaps(last_layer(model))
        checkpoints.save(checkpoints.model_state(model), path)
        return path
    net, prefix = converted_network(family, arch, joints)
    torch.save({"state_dict": prefixed_state(with_random_statistics(net), prefix)}, path)
    if uses_images:
        calibrate_batch_norms(net, checkpoints.load_model(path).meta.normalization, arch.input_size, skeleton is HAND21)
    scale_heatmaps(last_layer(net))
    torch.save({"state_dict": prefixed_state(net, prefix)}, path)
    return path


def converted_network(family: Family, arch: Architecture, joints: int) -> tuple[nn.Module, str]:
    """Return a network of another project and the prefix of the tensor names in its files."""
    if family == "princeton":
        return PrincetonNet(arch.stacks, arch.features, joints, arch.growth, arch.depth), "model.module."
    return BearpawNet(arch.stacks, arch.features // 2, joints, arch.blocks, arch.depth), "module."


def exports(
    checkpoint: Path, choice: MatrixOptions, backend: TrtBackend | None
) -> Iterator[tuple[str, Callable[[], ExportedArtifact]]]:
    """Yield the name of each artifact and the function that exports it. An engine is built from the ONNX file before it."""
    config = TensorRTConfig(checkpoint=checkpoint, batch=choice.batch, threads=choice.threads)
    if choice.quick:
        config = replace(config, input_size=PRESETS["tiny"].input_size)
    made = dict[str, ExportedArtifact]()

    def onnx(config: TensorRTConfig) -> ExportedArtifact:
        made[config.precision] = make_onnx(config, load_network(config), config.output_path("onnx"))
        return made[config.precision]

    def engine(config: TensorRTConfig) -> ExportedArtifact:
        if backend is None:
            raise HgfastError("TensorRT-RTX is not installed here")
        if config.precision not in made:
            raise HgfastError("there is no ONNX to build from")
        with mock.patch.object(tensorrt_export, "make_onnx", lambda *_, **__: made[config.precision]):
            return make_engine(config, load_network(config), config.output_path("engine"), backend)

    for precision in PRECISIONS:
        chosen = replace(config, precision=precision)
        yield f"onnx {precision}", lambda chosen=chosen: onnx(chosen)
        yield f"engine {precision}", lambda chosen=chosen: engine(chosen)
    yield "torchscript fp32", lambda: make_torchscript(config, load_network(config), config.output_path("torchscript"))


def run_export(make: Callable[[], ExportedArtifact]) -> Row:
    """Return the worst values of one artifact's rows. px: the maximum or, in fp16, the 99th percentile, like its tolerance."""
    began, said = time.perf_counter(), io.StringIO()
    row: Row = {"mb": None, "seconds": None, "heatmaps": None, "px": None, "max_px": None, "ties": None, "flips": None}
    try:
        with contextlib.redirect_stdout(said):
            exported = make()
    except HgfastError as error:
        message = re.sub(r"\S*/(?=[^/\s]+\.)", "", str(error))  # the folder is temporary
        return {**row, "seconds": time.perf_counter() - began, "verdict": f"failed: {message}"}
    worst = {
        name: max((found[name] for found in exported.rows if found.get(name) is not None), default=None)
        for name in ("heatmaps", "p99_px", "max_px", "ties", "flips")
    }
    percentile = worst.pop("p99_px")
    return {
        "mb": exported.path.stat().st_size / 1e6,
        "seconds": time.perf_counter() - began,
        "heatmaps": worst["heatmaps"],
        "px": percentile if exported.sidecar.precision == "fp16" else worst["max_px"],
        **worst,
        "verdict": "; ".join(dict.fromkeys(found["verdict"] for found in exported.rows)),
    }


def table(rows: list[Row]) -> str:
    names = ["preset", "joints", "family", "artefact", "mb", "seconds", "heatmaps", "px", "ties", "verdict"]
    forms = {"mb": ".2f", "seconds": ".1f", "heatmaps": ".1e", "px": ".4f"}
    shown = [["" if row[name] is None else format(row[name], forms.get(name, "")) for name in names] for row in rows]
    return tabulate(shown, headers=names, disable_numparse=True)


def find_rtx() -> TrtBackend | None:
    with contextlib.suppress(HgfastError):
        return trt_builder.find_backend("tensorrt_rtx")
    return None


def main() -> None:
    choice = parse(MatrixOptions, positional="out", description=__doc__ or "")
    choice.validate()
    where, backend = machine_info(), find_rtx()
    networks = [(p, j, f) for p in choice.presets for j in choice.joints for f in choice.families]
    rows: list[Row] = []
    with tqdm(total=len(networks) * (2 * len(PRECISIONS) + 1), disable=None) as bar:
        for preset, joints, family in networks:
            with tempfile.TemporaryDirectory() as place:
                checkpoint = make_checkpoint(family, preset, joints, choice.statistics, Path(place) / "net.pt")
                for artifact, make in exports(checkpoint, choice, backend):
                    about: dict[str, Any] = {"preset": preset, "joints": joints, "family": family, "artefact": artifact}
                    bar.set_description(" ".join(map(str, about.values())))
                    rows.append({**about, "batch": choice.batch, **run_export(make)})
                    bar.update()
    print(table(rows))
    print("heatmaps: of the largest value; px: of the input, the largest distance, in fp16 the 99th percentile")
    write_record(make_record(rows, where, [*RECORDED_PACKAGES, "tensorrt-rtx-cu13-libs"]), choice.out)
    print(f"record: {choice.out}")
    if failed := [row for row in rows if row["verdict"].startswith("failed")]:
        raise HgfastError(f"{len(failed)} of {len(rows)} exports failed, the first: {failed[0]['verdict']}")


if __name__ == "__main__":
    run_main(main)
