"""Write an exported file: to a temporary file, verified against the checkpoint, renamed, with its sidecar."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from hgfast.checkpoints import load_model
from hgfast.errors import HgfastError, printable
from hgfast.export.exporter import verify
from hgfast.export.exporter.options import ExportConfig
from hgfast.export.exporter.verify import Reference, Row, Tolerances
from hgfast.fileio.files import atomic_write, writing
from hgfast.model import StackedHourglass
from hgfast.pipelines import sample_crops
from hgfast.pipelines.datasets import DATASETS, usable_samples
from hgfast.pipelines.synthetic_data.images import render_images
from hgfast.runtime import sidecar as sidecars
from hgfast.runtime.sidecar import INPUT_NAME, ExportFormat, Sidecar, sha256_of
from hgfast.skeletons import HAND21
from hgfast.system_info import git_revision, package_versions

RECORDED_PACKAGES = ("hgfast", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino", "numpy")
NOT_RUN = "built, not run"  # verdict if this machine cannot run the artifact
NOT_INSTALLED = "not verified: not installed"  # verdict of a runtime that is not installed, if another one verified the artifact
NUM_VERIFICATION_IMAGES = 16  # images for verification
ConfigT = TypeVar("ConfigT", bound=ExportConfig)
CompareFn = Callable[[Path, Reference, Tolerances | None], list[Row]]
"""Returns the verification rows of a temporary file."""


@dataclass(frozen=True)
class ExportedArtifact:
    """A written file and its sidecar. verify_seconds: duration of the verification."""

    path: Path
    sidecar: Sidecar
    verify_seconds: float

    @property
    def rows(self) -> list[Row]:
        return list((self.sidecar.verification or {}).get("rows", ()))


def export(config: ConfigT, suffix: str, make: Callable[[ConfigT, StackedHourglass, Path], ExportedArtifact]) -> None:
    """Validate the options, export the checkpoint with `make`, and print a summary."""
    start_time = time.perf_counter()
    config.validate(suffix)
    print_summary(make(config, load_network(config), config.output_path(suffix)), time.perf_counter() - start_time)


def load_network(config: ExportConfig) -> StackedHourglass:
    """Load the network with the input size and decoder of the flags. Raises `HgfastError` like `hgfast.load_model`."""
    path, size = config.checkpoint, config.input_size
    sha256 = sha256_of(path) if path.is_file() else ""
    model = load_model(path, decoder=config.decoder)
    if sha256_of(path) != sha256:
        raise HgfastError(f"{path} changed while it was read: export again, or export best.pt of a finished run")
    config.checkpoint_sha256 = sha256
    if size is not None:
        multiple = model.meta.stride * 2**model.arch.depth
        if size % multiple:
            raise HgfastError(
                f"--input-size {size} cannot be halved {model.arch.depth} times after the stem, as this network requires: "
                f"choose a multiple of {multiple}"
            )
        model.meta = replace(model.meta, input_size=size)
    return model


def make_sidecar(
    config: ExportConfig, model: StackedHourglass, export_format: ExportFormat, packages: Sequence[str] = ()
) -> Sidecar:
    """Return the sidecar of an artifact that is about to be written, without its name, checksum and verification."""
    meta, sizes, spec = model.meta, config.batch_range, config.spec
    specs = sidecars.tensor_specs(meta.input_size, meta.stride, len(meta.skeleton.joints), sizes, spec.normalized)
    return Sidecar(
        artifact="",
        sha256="",
        export_format=export_format,
        precision=config.precision,
        skeleton=meta.skeleton,
        input=specs[INPUT_NAME],
        outputs=tuple(specs[name] for name in spec.outputs),
        input_size=meta.input_size,
        normalized=spec.normalized,
        mean=meta.normalization.mean,
        std=meta.normalization.std,
        batch=sizes,
        stride=meta.stride,
        heatmap_kind=meta.heatmap_kind,
        decoder=meta.decoder,
        flip_test=spec.flip_test,
        pixel_offset=meta.pixel_offset,
        result_offset=meta.shift,
        checkpoint=config.checkpoint.name,
        checkpoint_sha256=config.checkpoint_sha256 or sha256_of(config.checkpoint),
        versions=package_versions((*RECORDED_PACKAGES, *packages)),
        revision=git_revision(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def write_artifact(
    out: Path,
    write: Callable[[Path], object],
    sidecar: Sidecar,
    compare: CompareFn | None,
    config: ExportConfig,
    model: StackedHourglass,
    accuracy: dict[str, Any] | None = None,
) -> ExportedArtifact:
    """Write a temporary file, compare it with the checkpoint, then rename it and write its sidecar.

    Args:
        write: writes the file at the given path.
        compare: compares it with the checkpoint; None if that is not possible here.
        accuracy: result of `check_accuracy`, for the sidecar.

    Raises:
        HgfastError: the file exceeds the tolerances or cannot be written; an existing file is unchanged.
    """
    advice = "free disk space or choose another path with --out"
    with writing(out, advice), atomic_write(out) as temp_path:
        write(temp_path)
        start_time = time.perf_counter()
        verification: dict[str, Any] | None = {"rows": [], "accuracy": accuracy} if accuracy else None
        if compare is not None and not config.no_verify:
            verification = {**(verification or {}), **_verify(compare, temp_path, out, config, model)}
        seconds = time.perf_counter() - start_time
        sidecar = replace(sidecar, artifact=out.name, sha256=sha256_of(temp_path), verification=verification)
    sidecars.write(sidecar, out)
    return ExportedArtifact(out, sidecar, seconds)


def _verify(compare: CompareFn, temp_path: Path, out: Path, config: ExportConfig, model: StackedHourglass) -> dict[str, Any]:
    images, source = verification_images(config, model)
    reference = verify.reference_outputs(model, images, config.flip_test, config.spec.normalized)
    limits = verify.tolerances_for(config.precision, model.arch.stacks)
    rows = compare(temp_path, reference, limits)
    for row in rows:
        if row["verdict"] not in ("", NOT_RUN, NOT_INSTALLED) and not row["verdict"].startswith(verify.OK):
            print(verify.format_table(rows), flush=True)
            problem = f"{row['verdict']} ({row['runtime']}, batch {row['batch']})"
            raise HgfastError(
                f"{out} differs from {config.checkpoint} and was not written: {problem}; --no-verify writes it anyway"
            )
    return {"pictures": source, "limits": limits and asdict(limits), "scored": verify.MIN_SCORE, "rows": rows}


def verification_images(config: ExportConfig, model: StackedHourglass) -> tuple[NDArray[Any], str]:
    """Return images (n, S, S, 3) for verification and a description: from the user's data if given, else synthetic."""
    size, is_hand = model.meta.input_size, model.meta.skeleton.joints == HAND21.joints
    if config.has_data:
        split = DATASETS[config.dataset].eval_split(config)
        selected = sample_crops.evenly_spaced(usable_samples(config, split), NUM_VERIFICATION_IMAGES)
        images = sample_crops.load_crops(selected, size, threads=config.threads, loader_name=config.loader)
        return images, f"{len(images)} of {config.dataset}, split {split}"
    return render_images(size, NUM_VERIFICATION_IMAGES, is_hand), f"{NUM_VERIFICATION_IMAGES} synthetic images"


def print_summary(exported: ExportedArtifact, seconds: float) -> None:
    """Print a summary of an export that took `seconds`, including verification."""
    sidecar, path = exported.sidecar, exported.path
    if exported.rows:
        print(verify.format_table(exported.rows))
    if any("batch" in row for row in exported.rows):
        source = (sidecar.verification or {})["pictures"]
        print(f"compared with the checkpoint in fp32 on {source}; px: input pixels; heatmaps: fraction of the largest value")
    elif not exported.rows:
        print("not verified")
    if missing := [row["runtime"] for row in exported.rows if row["verdict"] == NOT_INSTALLED]:
        print(f"not verified in {', '.join(missing)}: pip install {' '.join(missing)} and export again to verify it there")
    print(
        f"{printable(path)}: {path.stat().st_size / 1e6:.2f} MB, {sidecar.precision}, {sidecar.input.dtype} {sidecar.input.axes} "
        f"{sidecar.input_size} x {sidecar.input_size}, batch {sidecar.batch.as_flag}, {len(sidecar.skeleton.joints)} joints"
        f"{', flip test' * sidecar.flip_test}; {seconds:.1f} s, of which {exported.verify_seconds:.1f} s for verification\n"
        f"sidecar: {printable(sidecars.sidecar_path(path))}",
        flush=True,
    )
