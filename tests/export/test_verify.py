"""Verification finds artefacts that lie, and what fails it leaves no trace: no file, no temporary one, the old one untouched."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[2] / "export"))  # where Python looks for the modules beside a script

import publish
import verify
from graph import Deployed, Wiring
from options import ExportConfig
from verify import Limits, Row, Witness, batches, compare, limits_of

from hgfast import checkpoints, sidecar
from hgfast.checkpoints import build
from hgfast.errors import HgfastError
from hgfast.heatmaps import render
from hgfast.inference import keypoints_of, look, squares
from hgfast.model import PRESETS, Meta, StackedHourglass
from hgfast.preprocessing import Preprocessing
from hgfast.sidecar import KEYPOINTS, OUTPUTS, Batch
from hgfast.skeletons import BODY16

SIDE, COUNT, JOINTS = 64, 16, 16
Floats = NDArray[np.float32]
Answers = dict[str, Floats]
Lie = Callable[[Answers], object]


def network(decoder: str = "dark", kind: str = "gaussian") -> StackedHourglass:
    torch.manual_seed(0)
    return build(PRESETS["tiny"], Meta(BODY16, Preprocessing(), SIDE, kind, decoder, 0.0)).eval()


def witness_of(heatmaps: torch.Tensor, decoder: str = "dark") -> Witness:
    """A checkpoint that says these maps (n, K, h, w) of n pictures, each of which is of one grey level, its number."""
    model = network(decoder)
    images = np.broadcast_to(np.arange(len(heatmaps), dtype=np.uint8)[:, None, None, None], (len(heatmaps), SIDE, SIDE, 3))
    return Witness(model, images, keypoints_of(model, heatmaps).numpy(), heatmaps.numpy())


@pytest.fixture(scope="module")
def sure() -> Witness:
    """Clear peaks, away from the border."""
    points = torch.rand((COUNT, JOINTS, 2), generator=torch.Generator().manual_seed(0)) * 8 + 4
    return witness_of(render(points, 16, 16, 1.5))


def runner(witness: Witness, lie: Lie = lambda _: None) -> verify.Run:
    """An artefact that answers as the witness does, but for a lie."""
    told: Answers = {"keypoints": witness.keypoints.copy(), "heatmaps": witness.heatmaps.copy()}
    lie(told)

    def run(images: NDArray[Any]) -> Answers:
        assert images.flags.c_contiguous
        number = images[:, 0, 0, 0]
        return {name: values[number] for name, values in told.items()}

    return run


def add(name: str, what: float, where: Any = ...) -> Lie:
    def lie(told: Answers) -> None:
        told[name][where] += what

    return lie


def swap_joints(told: Answers) -> None:
    for values in told.values():
        values[:, [0, 5]] = values[:, [5, 0]].copy()


def swap_pictures(told: Answers) -> None:
    for values in told.values():
        values[:] = values[::-1].copy()


def transpose(told: Answers) -> None:
    told["keypoints"][..., :2] = told["keypoints"][..., 1::-1].copy()


X, ONE, SCORE = (..., 0), (2, 3, 0), (..., 2)
NAN, INFINITE = float("nan"), float("inf")
HONEST: Lie = lambda told: None  # noqa: E731


@pytest.mark.parametrize(
    ("precision", "lie", "complaint"),
    [
        ("fp32", HONEST, None),
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
        ("fp32", swap_pictures, "heatmaps differ"),
        ("fp32", add("keypoints", 5e-6, SCORE), None),
        ("fp32", add("keypoints", 0.3, SCORE), "scores differ by up to 3.0e-01"),
        ("fp32", add("keypoints", -1e-3, (4, 5, 2)), "scores differ by up to 1.0e-03"),
        ("fp32", transpose, "keypoints differ"),
        ("fp16", HONEST, None),
        ("fp16", add("heatmaps", 4e-3, (0, 0, 0, 0)), None),
        ("fp16", add("heatmaps", 6e-3, (0, 0, 0, 0)), "heatmaps differ by 6.0e-03 of the largest value, 5e-03 is the limit"),
        ("fp16", add("keypoints", 0.09, X), None),
        ("fp16", add("keypoints", 0.15, X), "keypoints differ by 0.15 px at the 99th percentile, 0.1 is the limit"),
        ("fp16", add("keypoints", NAN, ONE), "there are keypoints that are not finite"),
        ("fp16", add("keypoints", 5, ONE), "keypoints are 5 px from what the artefact's own heatmaps decode to"),
        ("fp16", add("keypoints", 4e-3, SCORE), None),
        ("fp16", add("keypoints", 0.02, SCORE), "scores differ by up to 2.0e-02"),
        ("fp16", swap_joints, "keypoints differ|heatmaps differ"),
        ("fp16", transpose, "keypoints differ"),
    ],
)
@pytest.mark.parametrize("from_probe", [False, True])
def test_lies_are_found(sure: Witness, precision: Any, lie: Lie, complaint: str | None, from_probe: bool) -> None:
    """Of artefacts that give heatmaps, and of those that give keypoints only, whose heatmaps another one tells."""
    whole = runner(sure, lie)
    names = (KEYPOINTS,) if from_probe else OUTPUTS
    row = compare((lambda images: {KEYPOINTS: whole(images)[KEYPOINTS]}) if from_probe else whole, whole, sure, COUNT,
                  limits_of(precision, 1), names)  # fmt: skip
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
        ("fp16", 30.0, f"{3 * JOINTS} of {3 * JOINTS} keypoints are somewhere else"),  # so that none is left to be a little wrong
    ],
)
def test_lies_are_found_where_nobody_tells_heatmaps(sure: Witness, precision: Any, away: float, complaint: str) -> None:
    """As of an engine that gives keypoints only."""
    given = runner(sure, add("keypoints", away, X))
    row = compare(lambda images: {KEYPOINTS: given(images)[KEYPOINTS]}, None, sure, 3, limits_of(precision, 1), (KEYPOINTS,))
    assert "heatmaps" not in row and complaint in row["verdict"]


def test_nothing_to_compare_is_said() -> None:
    """Flat maps fix no point, and faint ones do not count in fp16."""
    flat = witness_of(torch.full((COUNT, JOINTS, 16, 16), 0.25))
    faint = witness_of(render(torch.full((COUNT, JOINTS, 2), 8.2), 16, 16, 1.5) * 0.1)
    for witness, precision in ((flat, "fp32"), (flat, "fp16"), (faint, "fp16")):
        row = compare(runner(witness), None, witness, 3, limits_of(precision, 1), OUTPUTS)  # type: ignore[arg-type]
        assert (row["counted"], row["max_px"], row["verdict"]) == (0, None, "ok: no keypoint to compare")
        assert "no keypoint to compare" in verify.table([{"runtime": "openvino", **row}])


def test_heatmaps_alone(sure: Witness) -> None:
    row = compare(runner(sure), None, sure, 3, limits_of("fp32", 1), ("heatmaps",))
    assert row == {"batch": 3, "heatmaps": 0, "verdict": "ok"}
    row = compare(runner(sure, swap_pictures), None, sure, 3, limits_of("fp32", 1), ("heatmaps",))
    assert "heatmaps differ" in row["verdict"]


def test_int8_has_no_limits_but_figures(sure: Witness) -> None:
    assert limits_of("int8", 1) is None
    row = compare(runner(sure, add("keypoints", 2, X)), None, sure, 3, None, OUTPUTS)
    assert row["verdict"] == "" and row["mean_px"] == pytest.approx(2, abs=1e-4) and row["heatmaps"] == 0
    row = compare(runner(sure, add("keypoints", NAN, ONE)), None, sure, 3, None, OUTPUTS)
    assert row["verdict"] == "there are keypoints that are not finite"


def test_deep_networks_may_round_more() -> None:
    assert limits_of("fp16", 8) == Limits(1e-2, 2**-11, 0.1) and limits_of("fp16", 2) == Limits(5e-3, 2**-11, 0.1)
    assert limits_of("fp32", 8) == limits_of("fp32", 1) == Limits(1e-5, 1e-5, 0.01)


def test_pictures_come_again_in_large_batches(sure: Witness) -> None:
    row = compare(runner(sure), None, sure, 2 * COUNT + 1, limits_of("fp32", 1), OUTPUTS)
    assert row["verdict"] == "ok" and row["counted"] == (2 * COUNT + 1) * JOINTS
    only_first = runner(sure, lambda told: told["heatmaps"].__setitem__(slice(1, None), told["heatmaps"][:1]))
    assert "heatmaps differ" in compare(only_first, None, sure, 3, limits_of("fp32", 1), OUTPUTS)["verdict"]


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
    assert batches(Batch(*sizes)) == tried


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_ties_are_counted_and_may_be_anywhere(precision: Any) -> None:
    """Of a flat map nobody knows the highest cell."""
    points = torch.full((COUNT, JOINTS, 2), 8.2)
    maps = render(points, 16, 16, 1.5)
    maps[:, 4] = 0.25
    witness = witness_of(maps)
    row = compare(
        runner(witness, add("keypoints", 33, (slice(None), 4, 0))), None, witness, COUNT, limits_of(precision, 1), OUTPUTS
    )
    assert (row["ties"], row["flips"], row["counted"], row["verdict"]) == (COUNT, 0, COUNT * (JOINTS - 1), "ok")
    row = compare(
        runner(witness, add("keypoints", 33, (slice(None), 5, 0))), None, witness, COUNT, limits_of(precision, 1), OUTPUTS
    )
    assert row["ties"] == COUNT and "keypoints" in row["verdict"]


def two_peaks(told: Answers) -> None:
    """The lower of two peaks becomes the higher one, by less than fp16's limit for heatmaps."""
    told["heatmaps"][2, 3, 11, 11] += 4e-3
    told["keypoints"][2, 3] = (46, 46, told["heatmaps"][2, 3, 11, 11])


def test_flips_are_counted() -> None:
    maps = torch.zeros((COUNT, JOINTS, 16, 16))
    maps[..., 4, 4], maps[..., 11, 11] = 1.0, 0.998
    witness = witness_of(maps, "argmax")
    row = compare(runner(witness, two_peaks), None, witness, COUNT, limits_of("fp16", 1), OUTPUTS)
    assert (row["ties"], row["flips"], row["counted"], row["verdict"]) == (0, 1, COUNT * JOINTS - 1, "ok")
    row = compare(runner(witness, two_peaks), None, witness, COUNT, limits_of("fp32", 1), OUTPUTS)
    assert (row["flips"], row["counted"]) == (1, COUNT * JOINTS) and "keypoints differ by 39.6 px" in row["verdict"]


def test_faint_joints_do_not_count_in_fp16() -> None:
    maps = render(torch.full((COUNT, JOINTS, 2), 8.2), 16, 16, 1.5)
    maps[:, :4] *= 0.1
    witness = witness_of(maps)
    counted = {p: compare(runner(witness), None, witness, 3, limits_of(p, 1), OUTPUTS)["counted"] for p in ("fp32", "fp16")}
    assert counted == {"fp32": 3 * JOINTS, "fp16": 3 * (JOINTS - 4)}


@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize("normalised", [False, True])
def test_the_witness_is_what_inference_sees(flip_test: bool, normalised: bool) -> None:
    model = network("quarter", "logits")
    pictures = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
    witness = verify.ask(model, pictures, flip_test, normalised)
    assert witness.images.shape == ((5, 3, SIDE, SIDE) if normalised else pictures.shape)
    for number, picture in enumerate(pictures):
        found, _, maps = look(model, picture, *squares(picture), flip_test=flip_test)
        assert np.abs(witness.heatmaps[number] - maps[0]).max() < 1e-5 * np.abs(maps).max()
        assert np.abs(witness.keypoints[number] - found[0]).max() < 1e-3
    graph = Deployed(model, Wiring(flip_test=flip_test, normalised=normalised, outputs=OUTPUTS))

    def run(images: NDArray[Any]) -> Answers:
        return {name: value.numpy() for name, value in zip(OUTPUTS, graph(torch.from_numpy(images)))}

    assert compare(run, None, witness, 7, limits_of("fp32", 1), OUTPUTS)["verdict"] == "ok"


def test_table(sure: Witness) -> None:
    rows = [{"runtime": "openvino", **compare(runner(sure), None, sure, 3, limits_of("fp32", 1), OUTPUTS)}]
    shown = verify.table([*rows, {"runtime": "tensorrt", "verdict": publish.NOT_RUN}])
    assert "openvino" in shown and "ok" in shown and "built, not run" in shown and "0.0000" in shown


# ---- what is done with the verdict ----


@pytest.fixture
def config(tmp_path: Path) -> ExportConfig:
    checkpoints.save(checkpoints.describe(network()), tmp_path / "net.pt")
    return ExportConfig(checkpoint=tmp_path / "net.pt")


def deliver(config: ExportConfig, check: publish.Check | None, content: bytes = b"new") -> publish.Published:
    model, out = config.load(), config.target("onnx")
    about = publish.describe(config, model, "onnx")
    return publish.publish(out, lambda path: path.write_bytes(content) and None, about, check, config, model)


def says(**row: Any) -> publish.Check:
    def check(path: Path, witness: Witness, limits: Limits | None) -> list[Row]:
        assert path.read_bytes() == b"new" and path.name != "net.fp32.onnx"  # not yet under its name
        return [{"runtime": "onnxruntime", "batch": 1, "verdict": "ok"}, {"runtime": "openvino", "batch": 3, **row}]

    return check


def interrupted(path: Path, witness: Witness, limits: Limits | None) -> list[Row]:
    raise KeyboardInterrupt


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("check", [says(verdict="heatmaps differ by 1"), interrupted])
def test_what_fails_leaves_everything_as_it_was(config: ExportConfig, check: publish.Check, old: bool, capsys: Any) -> None:
    folder = config.checkpoint.parent
    if old:
        deliver(config, None, b"old")
    before = listing(folder)
    assert len(before) == (3 if old else 1)
    with pytest.raises((HgfastError, KeyboardInterrupt)) as found:
        deliver(config, check)
    assert listing(folder) == before
    if found.type is HgfastError:
        assert "net.fp32.onnx is not the network of" in str(found.value) and "was not written" in str(found.value)
        assert "heatmaps differ by 1 (openvino, 3 at once)" in str(found.value)
        assert "heatmaps differ by 1" in capsys.readouterr().out  # the whole table besides


def test_a_full_disk_is_said(config: ExportConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    model = config.load()
    with pytest.raises(HgfastError, match=r"cannot write .*\(No space left on device\): free some space or choose another"):
        publish.publish(config.target("onnx"), full, publish.describe(config, model, "onnx"), None, config, model)
    assert list(listing(config.checkpoint.parent)) == ["net.pt"]


@pytest.mark.parametrize("verdict", ["ok", "ok: no keypoint to compare", "", publish.NOT_RUN])
def test_what_is_right_gets_its_name_and_its_sidecar(config: ExportConfig, verdict: str, capsys: Any) -> None:
    deliver(config, None, b"old")
    published = deliver(config, says(verdict=verdict))
    assert sorted(listing(config.checkpoint.parent)) == ["net.fp32.onnx", "net.fp32.onnx.json", "net.pt"]
    found = sidecar.read(published.path)
    assert found == published.sidecar and found.verification is not None
    assert found.verification["pictures"] == "16 drawn ones" and published.rows[1]["verdict"] == verdict
    assert found.verification["limits"] == {"heatmaps": 1e-5, "rounding": 1e-5, "pixels": 0.01}
    publish.report(published, 1.0)
    printed = capsys.readouterr().out
    assert "beside the checkpoint in fp32, on 16 drawn ones" in printed and str(published.path) in printed


def test_verification_can_be_left_out_and_is_said_to_be(config: ExportConfig, capsys: Any) -> None:
    published = deliver(replace(config, no_verify=True), says(verdict="never asked"))
    assert published.rows == [] and sidecar.read(published.path).verification is None
    publish.report(published, 1.0)
    assert "not verified" in capsys.readouterr().out
