"""The last steps of every export: the file beside its final name, compared, renamed, and its sidecar.

What may enter: what all formats do alike with a finished file. How a format is made stays with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import verify
from numpy.typing import NDArray
from options import ExportConfig
from verify import Limits, Row, Witness

from hgfast import sidecar as sidecars
from hgfast.checkpoints import revision
from hgfast.errors import HgfastError
from hgfast.files import complete
from hgfast.machine import versions
from hgfast.model import StackedHourglass
from hgfast.sidecar import HEATMAPS, INPUT, KEYPOINTS, Kind, Port, Sidecar, checksum
from hgfast.signals import raising
from hgfast.skeletons import HAND21
from pipelines import sample_crops
from pipelines.datasets import DATASETS, usable_samples
from pipelines.drawn.pictures import draw_pictures

PACKAGES = ("hgfast", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino", "numpy")
NOT_RUN = "built, not run"  # the verdict on what this machine cannot run
LOOKED_AT = 16  # pictures that an artefact is verified on
Check = Callable[[Path, Witness, Limits | None], list[Row]]
"""The rows of a file, still beside its final name."""


@dataclass(frozen=True)
class Published:
    """A file that was written, with its sidecar. seconds: for verifying alone."""

    path: Path
    sidecar: Sidecar
    seconds: float

    @property
    def rows(self) -> list[Row]:
        return list((self.sidecar.verification or {}).get("rows", ()))


def describe(config: ExportConfig, model: StackedHourglass, kind: Kind, packages: Sequence[str] = ()) -> Sidecar:
    """The sidecar of an artefact that is about to be made: without its name, checksum and verification."""
    meta, sizes, wiring = model.meta, config.sizes, config.wiring
    batch: int | str = sizes.max if sizes.min == sizes.max else "batch"
    size, joints, cells = meta.input_size, len(meta.skeleton.joints), meta.input_size // meta.stride
    ports = {
        KEYPOINTS: Port(KEYPOINTS, "float32", (batch, joints, 3), "image, joint, (x, y, score)"),
        HEATMAPS: Port(HEATMAPS, "float32", (batch, joints, cells, cells), "image, joint, row, column"),
    }
    whole = Port(INPUT, "uint8", (batch, size, size, 3), "NHWC")
    return Sidecar(
        artefact="",
        sha256="",
        kind=kind,
        precision=config.precision,
        skeleton=meta.skeleton,
        input=Port(INPUT, "float32", (batch, 3, size, size), "NCHW") if wiring.normalised else whole,
        outputs=tuple(ports[name] for name in wiring.outputs),
        input_size=size,
        normalised=wiring.normalised,
        mean=meta.preprocessing.mean,
        std=meta.preprocessing.std,
        batch=sizes,
        stride=meta.stride,
        maps=meta.kind,
        decoder=meta.decoder,
        flip_test=wiring.flip_test,
        pixel_offset=meta.pixel_offset,
        shift=meta.shift,
        checkpoint=config.checkpoint.name,
        checkpoint_sha256=config.loaded or checksum(config.checkpoint),
        versions=versions((*PACKAGES, *packages)),
        revision=revision(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def publish(
    out: Path,
    write: Callable[[Path], None],
    sidecar: Sidecar,
    check: Check | None,
    config: ExportConfig,
    model: StackedHourglass,
    accuracy: dict[str, Any] | None = None,
) -> Published:
    """Write a file, compare it with the checkpoint, and only then give it its name and its sidecar.

    Args:
        write: makes the file at the path it is given.
        check: compares it; None where that cannot be done here.
        accuracy: what was measured before, for the sidecar.

    Raises:
        HgfastError: it differs by more than its limits, or cannot be written; what was there before stays.
    """
    try:
        with raising(), complete(out) as beside:
            write(beside)
            began = time.perf_counter()
            verification: dict[str, Any] | None = {"rows": [], "accuracy": accuracy} if accuracy else None
            if check is not None and not config.no_verify:
                verification = {**(verification or {}), **_verification(check, beside, out, config, model)}
            seconds = time.perf_counter() - began
            sidecar = replace(sidecar, artefact=out.name, sha256=checksum(beside), verification=verification)
    except OSError as error:
        raise HgfastError(f"cannot write {out} ({error.strerror}): free some space or choose another place with --out") from error
    sidecars.write(sidecar, out)
    return Published(out, sidecar, seconds)


def _verification(check: Check, beside: Path, out: Path, config: ExportConfig, model: StackedHourglass) -> dict[str, Any]:
    looked_at, what = to_look_at(config, model)
    witness = verify.ask(model, looked_at, config.flip_test, config.wiring.normalised)
    limits = verify.limits_of(config.precision, model.arch.stacks)
    rows = check(beside, witness, limits)
    for row in rows:
        if row["verdict"] not in ("", NOT_RUN) and not row["verdict"].startswith(verify.OK):
            print(verify.table(rows), flush=True)
            where = f"{row['verdict']} ({row['runtime']}, {row['batch']} at once)"
            raise HgfastError(
                f"{out} is not the network of {config.checkpoint} and was not written: {where}; --no-verify writes it anyway"
            )
    return {"pictures": what, "limits": limits and asdict(limits), "scored": verify.SCORED, "rows": rows}


def to_look_at(config: ExportConfig, model: StackedHourglass) -> tuple[NDArray[Any], str]:
    """Pictures (n, S, S, 3) to verify on, the user's own if there are any, and what they are."""
    size, hands = model.meta.input_size, model.meta.skeleton.joints == HAND21.joints
    if config.has_data:
        split = DATASETS[config.dataset].held_out(config)
        chosen = sample_crops.spread(usable_samples(config, split), LOOKED_AT)
        found = sample_crops.images(chosen, size, threads=config.threads)
        return found, f"{len(found)} of {config.dataset}, split {split}"
    return draw_pictures(size, LOOKED_AT, hands), f"{LOOKED_AT} drawn ones"


def report(published: Published, seconds: float) -> None:
    """What was written, for people; `seconds` is for making it, verification included."""
    sidecar, path = published.sidecar, published.path
    if published.rows:
        print(verify.table(published.rows))
    if any("batch" in row for row in published.rows):
        what = (sidecar.verification or {})["pictures"]
        print(f"beside the checkpoint in fp32, on {what}; px: of the input; heatmaps: of the largest value")
    elif not published.rows:
        print("not verified")
    print(
        f"{path}: {path.stat().st_size / 1e6:.2f} MB, {sidecar.precision}, {sidecar.input.dtype} {sidecar.input.axes} "
        f"{sidecar.input_size} x {sidecar.input_size}, batch {sidecar.batch.words}, {len(sidecar.skeleton.joints)} joints"
        f"{', flip test' * sidecar.flip_test}; {seconds:.1f} s, of which {published.seconds:.1f} s to verify\n"
        f"sidecar: {sidecars.place(path)}",
        flush=True,
    )
