"""Verification detects wrong outputs, and an artifact that fails is not written: no file, no temporary file, the old one kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hgfast import checkpoints
from hgfast.architectures import PRESETS
from hgfast.checkpoints import build_model
from hgfast.errors import HgfastError
from hgfast.export.exporter import artifact, verify
from hgfast.export.exporter.artifact import load_network
from hgfast.export.exporter.export_module import ExportModule
from hgfast.export.exporter.options import ExportConfig, ExportSpec
from hgfast.export.exporter.verify import (
    Reference,
    Row,
    Tolerances,
    batch_sizes_to_check,
    compare,
    compare_batches,
    gpu_tolerances,
    tolerances_for,
)
from hgfast.heatmaps import render
from hgfast.model import Meta, StackedHourglass
from hgfast.normalization import Normalization
from hgfast.runtime import sidecar
from hgfast.runtime.boxes import crop_squares
from hgfast.runtime.sidecar import KEYPOINTS, OUTPUT_NAMES, BatchRange
from hgfast.runtime.torch_predictor import decode_keypoints, predict_crops
from hgfast.skeletons import BODY16

pytestmark = pytest.mark.usefixtures("cached_exporter")
SIDE, COUNT, JOINTS = 64, 16, 16
Floats = NDArray[np.float32]
Outputs = dict[str, Floats]
Corruption = Callable[[Outputs], object]


def network(decoder: str = "dark", kind: str = "gaussian") -> StackedHourglass:
    torch.manual_seed(0)
    return build_model(PRESETS["tiny"], Meta(BODY16, Normalization(), SIDE, kind, decoder, 0.0)).eval()


def reference_for(heatmaps: torch.Tensor, decoder: str = "dark") -> Reference:
    """Return a reference with these heatmaps (n, K, h, w) for n images, whose gray level is their number."""
    model = network(decoder)
    images = np.broadcast_to(np.arange(len(heatmaps), dtype=np.uint8)[:, None, None, None], (len(heatmaps), SIDE, SIDE, 3))
    return Reference(model, images, decode_keypoints(model, heatmaps).numpy(), heatmaps.numpy())


@pytest.fixture(scope="module")
def sure() -> Reference:
    """Clear peaks, away from the border."""
    points = torch.rand((COUNT, JOINTS, 2), generator=torch.Generator().manual_seed(0)) * 8 + 4
    return reference_for(render(points, 16, 16, 1.5))


def fake_artifact(reference: Reference, corrupt: Corruption = lambda _: None) -> verify.RunFn:
    """Return an artifact with the outputs of the reference, changed by `corrupt`."""
    outputs: Outputs = {"keypoints": reference.keypoints.copy(), "heatmaps": reference.heatmaps.copy()}
    corrupt(outputs)

    def run(images: NDArray[Any]) -> Outputs:
        assert images.flags.c_contiguous
        number = images[:, 0, 0, 0]
        return {name: values[number] for name, values in outputs.items()}

    return run


def add(name: str, what: float, where: Any = ...) -> Corruption:
    def corrupt(outputs: Outputs) -> None:
        outputs[name][where] += what

    return corrupt


def swap_joints(outputs: Outputs) -> None:
    for values in outputs.values():
        values[:, [0, 5]] = values[:, [5, 0]].copy()


def swap_images(outputs: Outputs) -> None:
    for values in outputs.values():
        values[:] = values[::-1].copy()


def transpose(outputs: Outputs) -> None:
    outputs["keypoints"][..., :2] = outputs["keypoints"][..., 1::-1].copy()


X, ONE, SCORE = (..., 0), (2, 3, 0), (..., 2)
NAN, INFINITE = float("nan"), float("inf")
UNCHANGED: Corruption = lambda outputs: None  # noqa: E731


@pytest.mark.parametrize(
    ("precision", "corrupt", "complaint"),
    [
        ("fp32", UNCHANGED, None),
        ("fp32", add("heatmaps", 9e-6, (0, 0, 0, 0)), None),
        ("fp32", add("heatmaps", 2e-5, (5, 3, 0, 0)), "heatmaps differ by 2.0e-05 of the largest value, 1e-05 is the limit"),
        ("fp32", add("heatmaps", NAN, (5, 3, 0, 0)), "heatmaps differ by inf"),
        ("fp32", add("heatmaps", INFINITE, (0, 0, 9, 9)), "heatmaps differ by inf"),
        ("fp32", add("keypoints", 0.005, X), None),
        ("fp32", add("keypoints", 0.02, X), "keypoints differ by 0.02 px, 0.01 is the limit"),
        ("fp32", add("keypoints", 0.02, ONE), "keypoints differ by 0.02 px, 0.01 is the limit"),
        ("fp32", add("keypoints", NAN, ONE), "there are keypoints that are not finite"),
        ("fp32", add("keypoints", INFINITE, (0, 0, 2)), "there are keypoints that are not finite"),
        ("fp32", swap_joints, "heatmaps differ"),
        ("fp32", swap_joints, "keypoints differ"),
        ("fp32", swap_images, "heatmaps differ"),
        ("fp32", add("keypoints", 5e-6, SCORE), None),
        ("fp32", add("keypoints", 0.3, SCORE), "scores differ by up to 3.0e-01"),
        ("fp32", add("keypoints", -1e-3, (4, 5, 2)), "scores differ by up to 1.0e-03"),
        ("fp32", transpose, "keypoints differ"),
        ("fp16", UNCHANGED, None),
        ("fp16", add("heatmaps", 4e-3, (0, 0, 0, 0)), None),
        ("fp16", add("heatmaps", 6e-3, (0, 0, 0, 0)), "heatmaps differ by 6.0e-03 of the largest value, 5e-03 is the limit"),
        ("fp16", add("keypoints", 0.09, X), None),
        ("fp16", add("keypoints", 0.15, X), "keypoints differ by 0.15 px at the 99th percentile, 0.1 is the limit"),
        ("fp16", add("keypoints", NAN, ONE), "there are keypoints that are not finite"),
        ("fp16", add("keypoints", 5, ONE), "keypoints are 5 px from what the artifact's own heatmaps decode to"),
        ("fp16", add("keypoints", 4e-3, SCORE), None),
        ("fp16", add("keypoints", 0.02, SCORE), "scores differ by up to 2.0e-02"),
        ("fp16", swap_joints, "keypoints differ|heatmaps differ"),
        ("fp16", transpose, "keypoints differ"),
    ],
)
@pytest.mark.parametrize("from_probe", [False, True])
def test_wrong_outputs_are_detected(
    sure: Reference, precision: Any, corrupt: Corruption, complaint: str | None, from_probe: bool
) -> None:
    """Of artifacts with heatmaps, and of those with keypoints only, which are checked with the heatmaps of a probe."""
    whole = fake_artifact(sure, corrupt)
    names = (KEYPOINTS,) if from_probe else OUTPUT_NAMES
    row = compare((lambda images: {KEYPOINTS: whole(images)[KEYPOINTS]}) if from_probe else whole, whole, sure, COUNT,
                  tolerances_for(precision, 1), names)  # fmt: skip
    assert (row["batch"], row["joints"], row["ties"]) == (COUNT, COUNT * JOINTS, 0)
    if complaint is None:
        assert row["verdict"] == "ok" and row["counted"] == COUNT * JOINTS and row["flips"] == 0
    else:
        assert any(part in row["verdict"] for part in complaint.split("|"))


@pytest.mark.parametrize(
    ("precision", "away", "complaint"),
    [
        ("fp32", 0.2, "keypoints differ by 0.2 px"),
        ("fp32", 30.0, "keypoints differ by 30 px"),
        ("fp16", 0.2, "keypoints differ by 0.2 px at the 99th percentile"),
        (
            "fp16",
            30.0,
            f"{3 * JOINTS} of {3 * JOINTS} keypoints are somewhere else",
        ),  # so that no keypoint remains for the other check
    ],
)
def test_wrong_keypoints_without_heatmaps(sure: Reference, precision: Any, away: float, complaint: str) -> None:
    """Of an engine with keypoints only."""
    given = fake_artifact(sure, add("keypoints", away, X))
    row = compare(lambda images: {KEYPOINTS: given(images)[KEYPOINTS]}, None, sure, 3, tolerances_for(precision, 1), (KEYPOINTS,))
    assert "heatmaps" not in row and complaint in row["verdict"]


def test_nothing_to_compare() -> None:
    """Flat maps do not determine a point, and faint ones do not count in fp16."""
    flat = reference_for(torch.full((COUNT, JOINTS, 16, 16), 0.25))
    faint = reference_for(render(torch.full((COUNT, JOINTS, 2), 8.2), 16, 16, 1.5) * 0.1)
    for reference, precision in ((flat, "fp32"), (flat, "fp16"), (faint, "fp16")):
        row = compare(fake_artifact(reference), None, reference, 3, tolerances_for(precision, 1), OUTPUT_NAMES)  # type: ignore[arg-type]
        assert (row["counted"], row["max_px"], row["verdict"]) == (0, None, "ok: no keypoint to compare")
        assert "no keypoint to compare" in verify.format_table([{"runtime": "openvino", **row}])


def test_heatmaps_alone(sure: Reference) -> None:
    row = compare(fake_artifact(sure), None, sure, 3, tolerances_for("fp32", 1), ("heatmaps",))
    assert row == {"batch": 3, "heatmaps": 0, "verdict": "ok"}
    row = compare(fake_artifact(sure, swap_images), None, sure, 3, tolerances_for("fp32", 1), ("heatmaps",))
    assert "heatmaps differ" in row["verdict"]


def test_int8_has_metrics_but_no_tolerances(sure: Reference) -> None:
    assert tolerances_for("int8", 1) is None
    row = compare(fake_artifact(sure, add("keypoints", 2, X)), None, sure, 3, None, OUTPUT_NAMES)
    assert row["verdict"] == "" and row["mean_px"] == pytest.approx(2, abs=1e-4) and row["heatmaps"] == 0
    row = compare(fake_artifact(sure, add("keypoints", NAN, ONE)), None, sure, 3, None, OUTPUT_NAMES)
    assert row["verdict"] == "there are keypoints that are not finite"


def test_deep_networks_may_round_more() -> None:
    assert tolerances_for("fp16", 8) == Tolerances(1e-2, 2**-11, 0.1) and tolerances_for("fp16", 2) == Tolerances(
        5e-3, 2**-11, 0.1
    )
    assert tolerances_for("fp32", 8) == tolerances_for("fp32", 1) == Tolerances(1e-5, 1e-5, 0.01)
    assert gpu_tolerances(tolerances_for("fp32", 1)) == Tolerances(5e-5, 5e-5, 0.01)
    assert gpu_tolerances(tolerances_for("fp16", 1)) == tolerances_for("fp16", 1) and gpu_tolerances(None) is None


def test_large_batches_repeat_images(sure: Reference) -> None:
    row = compare(fake_artifact(sure), None, sure, 2 * COUNT + 1, tolerances_for("fp32", 1), OUTPUT_NAMES)
    assert row["verdict"] == "ok" and row["counted"] == (2 * COUNT + 1) * JOINTS
    only_first = fake_artifact(sure, lambda outputs: outputs["heatmaps"].__setitem__(slice(1, None), outputs["heatmaps"][:1]))
    assert "heatmaps differ" in compare(only_first, None, sure, 3, tolerances_for("fp32", 1), OUTPUT_NAMES)["verdict"]


@pytest.mark.parametrize(
    ("sizes", "tried"),
    [
        ((1, 8, 32), [1, 3, 32]),
        ((1, 1, 1), [1]),
        ((4, 8, 8), [4, 8]),
        ((1, 2, 2), [1, 2]),
        ((3, 3, 3), [3]),
        ((2, 2, 5), [2, 3, 5]),
    ],
)
def test_batches(sizes: tuple[int, int, int], tried: list[int]) -> None:
    assert batch_sizes_to_check(BatchRange(*sizes)) == tried


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_ties_are_counted_and_may_be_anywhere(precision: Any) -> None:
    """A flat map has no highest cell."""
    points = torch.full((COUNT, JOINTS, 2), 8.2)
    maps = render(points, 16, 16, 1.5)
    maps[:, 4] = 0.25
    reference = reference_for(maps)
    row = compare(
        fake_artifact(reference, add("keypoints", 33, (slice(None), 4, 0))),
        None,
        reference,
        COUNT,
        tolerances_for(precision, 1),
        OUTPUT_NAMES,
    )
    assert (row["ties"], row["flips"], row["counted"], row["verdict"]) == (COUNT, 0, COUNT * (JOINTS - 1), "ok")
    row = compare(
        fake_artifact(reference, add("keypoints", 33, (slice(None), 5, 0))),
        None,
        reference,
        COUNT,
        tolerances_for(precision, 1),
        OUTPUT_NAMES,
    )
    assert row["ties"] == COUNT and "keypoints" in row["verdict"]


def two_peaks(outputs: Outputs) -> None:
    """Make the lower of two peaks the higher one, by less than fp16's tolerance for heatmaps."""
    outputs["heatmaps"][2, 3, 11, 11] += 4e-3
    outputs["keypoints"][2, 3] = (46, 46, outputs["heatmaps"][2, 3, 11, 11])


def test_flips_are_counted() -> None:
    maps = torch.zeros((COUNT, JOINTS, 16, 16))
    maps[..., 4, 4], maps[..., 11, 11] = 1.0, 0.998
    reference = reference_for(maps, "argmax")
    row = compare(fake_artifact(reference, two_peaks), None, reference, COUNT, tolerances_for("fp16", 1), OUTPUT_NAMES)
    assert (row["ties"], row["flips"], row["counted"], row["verdict"]) == (0, 1, COUNT * JOINTS - 1, "ok")
    row = compare(fake_artifact(reference, two_peaks), None, reference, COUNT, tolerances_for("fp32", 1), OUTPUT_NAMES)
    assert (row["flips"], row["counted"]) == (1, COUNT * JOINTS) and "keypoints differ by 39.6 px" in row["verdict"]


def test_faint_joints_do_not_count_in_fp16() -> None:
    maps = render(torch.full((COUNT, JOINTS, 2), 8.2), 16, 16, 1.5)
    maps[:, :4] *= 0.1
    reference = reference_for(maps)
    counted = {
        p: compare(fake_artifact(reference), None, reference, 3, tolerances_for(p, 1), OUTPUT_NAMES)["counted"]
        for p in ("fp32", "fp16")
    }
    assert counted == {"fp32": 3 * JOINTS, "fp16": 3 * (JOINTS - 4)}


@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
def test_reference_matches_torch_predictor(flip_test: bool, normalized: bool) -> None:
    model = network("quarter", "logits")
    images = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
    reference = verify.reference_outputs(model, images, flip_test, normalized)
    assert reference.images.shape == ((5, 3, SIDE, SIDE) if normalized else images.shape)
    for number, image in enumerate(images):
        found, _, maps = predict_crops(model, image, *crop_squares(image), flip_test=flip_test)
        assert np.abs(reference.heatmaps[number] - maps[0]).max() < 1e-5 * np.abs(maps).max()
        assert np.abs(reference.keypoints[number] - found[0]).max() < 1e-3
    graph = ExportModule(model, ExportSpec(flip_test=flip_test, normalized=normalized, outputs=OUTPUT_NAMES))

    def run(images: NDArray[Any]) -> Outputs:
        return {name: value.numpy() for name, value in zip(OUTPUT_NAMES, graph(torch.from_numpy(images)))}

    assert compare(run, None, reference, 7, tolerances_for("fp32", 1), OUTPUT_NAMES)["verdict"] == "ok"


def test_table(sure: Reference) -> None:
    rows = [{"runtime": "openvino", **compare(fake_artifact(sure), None, sure, 3, tolerances_for("fp32", 1), OUTPUT_NAMES)}]
    shown = verify.format_table([*rows, {"runtime": "tensorrt", "verdict": artifact.NOT_RUN}])
    assert "openvino" in shown and "ok" in shown and "built, not run" in shown and "0.0000" in shown


# ---- writing ----


@pytest.fixture
def config(tmp_path: Path) -> ExportConfig:
    checkpoints.save(checkpoints.model_state(network()), tmp_path / "net.pt")
    return ExportConfig(checkpoint=tmp_path / "net.pt")


def write(config: ExportConfig, check: artifact.CompareFn | None, content: bytes = b"new") -> artifact.ExportedArtifact:
    model, out = load_network(config), config.output_path("onnx")
    about = artifact.make_sidecar(config, model, "onnx")
    return artifact.write_artifact(out, lambda path: path.write_bytes(content) and None, about, check, config, model)


def says(**row: Any) -> artifact.CompareFn:
    def check(path: Path, reference: Reference, limits: Tolerances | None) -> list[Row]:
        assert path.read_bytes() == b"new" and path.name != "net.fp32.onnx"  # not yet renamed
        return [{"runtime": "onnxruntime", "batch": 1, "verdict": "ok"}, {"runtime": "openvino", "batch": 3, **row}]

    return check


@pytest.mark.parametrize(
    "error, on_cpu, on_gpu", [(2e-6, "ok", "ok"), (3e-5, "heatmaps differ", "ok"), (4e-4, "", "heatmaps differ")]
)
def test_fp32_limits_of_a_gpu(sure: Reference, error: float, on_cpu: str, on_gpu: str) -> None:
    """Sums in another order pass on a GPU, products in TF32 do not."""
    size = error * float(np.abs(sure.heatmaps).max())

    def run(images: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        return {"heatmaps": sure.heatmaps[np.resize(np.arange(COUNT), len(images))] + np.float32(size)}

    for is_gpu, verdict in ((False, on_cpu), (True, on_gpu)):
        sizes = BatchRange(COUNT, COUNT, COUNT)
        (row,) = compare_batches("torch", run, None, sure, sizes, tolerances_for("fp32", 1), ("heatmaps",), is_gpu)
        assert row["verdict"].startswith(verdict) and ("limits" in row) == is_gpu


def interrupted(path: Path, reference: Reference, limits: Tolerances | None) -> list[Row]:
    raise KeyboardInterrupt


def list_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("check", [says(verdict="heatmaps differ by 1"), interrupted])
def test_failed_verification_changes_no_files(config: ExportConfig, check: artifact.CompareFn, old: bool, capsys: Any) -> None:
    folder = config.checkpoint.parent
    if old:
        write(config, None, b"old")
    before = list_files(folder)
    assert len(before) == (3 if old else 1)
    with pytest.raises((HgfastError, KeyboardInterrupt)) as found:
        write(config, check)
    assert list_files(folder) == before
    if found.type is HgfastError:
        assert "net.fp32.onnx differs from" in str(found.value) and "was not written" in str(found.value)
        assert "heatmaps differ by 1 (openvino, batch 3)" in str(found.value)
        assert "heatmaps differ by 1" in capsys.readouterr().out  # in the table


def test_full_disk(config: ExportConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    model = load_network(config)
    with pytest.raises(HgfastError, match=r"cannot write .*\(No space left on device\): free disk space or choose another"):
        artifact.write_artifact(
            config.output_path("onnx"), full, artifact.make_sidecar(config, model, "onnx"), None, config, model
        )
    assert list(list_files(config.checkpoint.parent)) == ["net.pt"]


@pytest.mark.parametrize("verdict", ["ok", "ok: no keypoint to compare", "", artifact.NOT_RUN])
def test_verified_artifact_is_written(config: ExportConfig, verdict: str, capsys: Any) -> None:
    write(config, None, b"old")
    exported = write(config, says(verdict=verdict))
    assert sorted(list_files(config.checkpoint.parent)) == ["net.fp32.onnx", "net.fp32.onnx.json", "net.pt"]
    found = sidecar.read_sidecar(exported.path)
    assert found == exported.sidecar and found.verification is not None
    assert found.verification["pictures"] == "16 synthetic images" and exported.rows[1]["verdict"] == verdict
    assert found.verification["limits"] == {"heatmaps": 1e-5, "rounding": 1e-5, "pixels": 0.01}
    artifact.print_summary(exported, 1.0)
    printed = capsys.readouterr().out
    assert "compared with the checkpoint in fp32 on 16 synthetic images" in printed and str(exported.path) in printed


def test_no_verify(config: ExportConfig, capsys: Any) -> None:
    exported = write(replace(config, no_verify=True), says(verdict="never asked"))
    assert exported.rows == [] and sidecar.read_sidecar(exported.path).verification is None
    artifact.print_summary(exported, 1.0)
    assert "not verified" in capsys.readouterr().out
