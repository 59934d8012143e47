"""Exports to ONNX, TorchScript and TensorRT-RTX compared with the network; errors for bad input."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from hgfast import load_model
from hgfast.bench.gpu.steps import NO_BACKEND_PATTERN
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError
from hgfast.export import to_onnx, torchscript, trt
from hgfast.export.exporter import artifact, onnx_export, options, tensorrt_export, torchscript_export, trt_builder
from hgfast.export.exporter.artifact import ExportedArtifact, load_network
from hgfast.export.exporter.export_module import ExportModule
from hgfast.export.exporter.onnx_export import make_onnx
from hgfast.export.exporter.options import ExportConfig, ExportSpec, TensorRTConfig
from hgfast.export.exporter.precision_check import onnx_conv_weights
from hgfast.export.exporter.tensorrt_export import make_engine
from hgfast.export.exporter.torchscript_export import make_torchscript
from hgfast.export.exporter.trt_builder import BuilderNotFound, TrtBackend
from hgfast.pipelines.synthetic_data.images import render_images
from hgfast.runtime.backends import RUNTIMES_BY_FORMAT, Artifact, DeviceOptions
from hgfast.runtime.boxes import crop_squares
from hgfast.runtime.sidecar import OUTPUT_NAMES, BatchRange, Sidecar, read_sidecar, sidecar_path
from hgfast.runtime.tensorrt_engine import GpuNotFound
from hgfast.runtime.torch_predictor import predict_crops
from hgfast.skeletons import BODY16, HAND21, anonymous_skeleton
from tests.conftest import ROOT, SHARED
from tests.exports import BATCH, FLIP_FLAGS, MAX_BATCH, export_onnx, save_checkpoint
from tests.foreign_nets import BearpawNet, PrincetonNet, prefixed_state, with_random_statistics

Images = NDArray[np.uint8]


pytestmark = pytest.mark.usefixtures("cached_exporter")


@pytest.fixture(scope="module")
def network(tiny_checkpoint: Path) -> Path:
    return tiny_checkpoint


def onnx_of(network: Path, out: str, **flags: Any) -> ExportedArtifact:
    return export_onnx(network, network.parent / out, **flags)


@pytest.fixture(scope="module")
def fp32(tiny_onnx: ExportedArtifact) -> ExportedArtifact:
    return tiny_onnx


@pytest.fixture(scope="module")
def fp16(network: Path) -> ExportedArtifact:
    return onnx_of(network, "fp16.onnx", precision="fp16")


@pytest.fixture(scope="module")
def static(network: Path) -> ExportedArtifact:
    return onnx_of(network, "static.onnx", batch="1")


@pytest.fixture(scope="module")
def flipping(network: Path) -> ExportedArtifact:
    return onnx_of(network, "flip.onnx", **FLIP_FLAGS)


@pytest.fixture(scope="module")
def script(network: Path) -> ExportedArtifact:
    config = ExportConfig(checkpoint=network, batch=BATCH, outputs="keypoints,heatmaps")
    return make_torchscript(config, load_network(config), network.with_name("net.torchscript"))


@pytest.fixture(scope="module")
def rtx() -> TrtBackend:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed here")
    return trt_builder.find_backend("tensorrt_rtx", gpu=False)


@pytest.fixture(scope="module")
def engine(network: Path, rtx: TrtBackend) -> ExportedArtifact:
    config = TensorRTConfig(checkpoint=network, batch=BATCH, threads=1, outputs="keypoints,heatmaps")
    return make_engine(config, load_network(config), network.with_name("net.engine"), rtx)


@pytest.fixture(scope="module")
def images() -> Images:
    return render_images(64, MAX_BATCH, False)


def expected_outputs(network: Path, images: Images, **changed: Any) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
    """Return keypoints in input pixels and heatmaps by `hgfast.runtime.torch_predictor`, image by image."""
    model = load_model(network, decoder=changed.get("decoder"))
    found = [predict_crops(model, image, *crop_squares(image), flip_test=changed.get("flip_test", False)) for image in images]
    keypoints = np.concatenate([points for points, _, _ in found])
    keypoints[..., :2] -= model.meta.shift
    return keypoints, np.concatenate([maps for _, _, maps in found])


def check_same(found: dict[str, Any], keypoints: NDArray[np.floating], heatmaps: NDArray[np.float32]) -> None:
    assert found["heatmaps"].shape == heatmaps.shape and found["keypoints"].shape == keypoints.shape
    assert np.abs(found["heatmaps"] - heatmaps).max() < 1e-5 * np.abs(heatmaps).max()
    assert np.abs(found["keypoints"][..., :2] - keypoints[..., :2]).max() < 0.01
    assert np.abs(found["keypoints"][..., 2] - keypoints[..., 2]).max() < 1e-4


# ---- ONNX ----


@pytest.mark.parametrize("runtime", RUNTIMES_BY_FORMAT["onnx"])
def test_onnx_matches_network_at_any_batch(fp32: ExportedArtifact, network: Path, images: Images, runtime: Any) -> None:
    keypoints, heatmaps = expected_outputs(network, images)
    artifact = Artifact(fp32.path, runtime, options=DeviceOptions(1))
    for number in (1, 3, MAX_BATCH):
        check_same(artifact(images[:number]), keypoints[:number], heatmaps[:number])
    check_same(artifact.all(np.concatenate([images, images])), np.tile(keypoints, (2, 1, 1)), np.tile(heatmaps, (2, 1, 1, 1)))


@pytest.mark.parametrize("runtime", RUNTIMES_BY_FORMAT["onnx"])
def test_onnx_for_one_image(static: ExportedArtifact, network: Path, images: Images, runtime: Any) -> None:
    keypoints, heatmaps = expected_outputs(network, images)
    artifact = Artifact(static.path, runtime, options=DeviceOptions(1))
    check_same(artifact(images[2:3]), keypoints[2:3], heatmaps[2:3])
    check_same(artifact.all(images), keypoints, heatmaps)
    assert static.sidecar.batch == BatchRange(1, 1, 1) and static.sidecar.input.shape == (1, 64, 64, 3)
    dims = [dim.dim_value for dim in onnx.load(static.path).graph.input[0].type.tensor_type.shape.dim]
    assert dims == [1, 64, 64, 3]
    with pytest.raises(HgfastError, match=r"takes 1 to 1 images at once, not 2: .* --batch 1:1:2"):
        artifact(images[:2])


@pytest.mark.parametrize("runtime", RUNTIMES_BY_FORMAT["onnx"])
def test_onnx_flip_test_normalized_input(flipping: ExportedArtifact, network: Path, images: Images, runtime: Any) -> None:
    keypoints, heatmaps = expected_outputs(network, images, flip_test=True, decoder="quarter")
    known = flipping.sidecar
    assert (known.flip_test, known.normalized, known.decoder) == (True, True, "quarter")
    floats = ((images / 255 - known.mean) / known.std).transpose(0, 3, 1, 2).astype(np.float32)
    artifact = Artifact(flipping.path, runtime, options=DeviceOptions(1))
    for number in (1, 3, MAX_BATCH):
        check_same(artifact(floats[:number]), keypoints[:number], heatmaps[:number])
    with pytest.raises(HgfastError, match=r"takes images of 3 x 64 x 64 float32 .*, not 64 x 64 x 3 uint8"):
        artifact(images)


@pytest.mark.parametrize("runtime", RUNTIMES_BY_FORMAT["onnx"])
def test_onnx_in_fp16(fp16: ExportedArtifact, network: Path, images: Images, runtime: Any) -> None:
    _, heatmaps = expected_outputs(network, images)
    for number in (1, 3, MAX_BATCH):
        found = Artifact(fp16.path, runtime, options=DeviceOptions(1))(images[:number])
        assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}
        assert 0 < np.abs(found["heatmaps"] - heatmaps[:number]).max() < 5e-3 * np.abs(heatmaps).max()
    assert onnx_conv_weights(fp16.path).precision == fp16.sidecar.precision == "fp16"


def test_fp16_is_smaller(fp32: ExportedArtifact, fp16: ExportedArtifact) -> None:
    half, single = (
        sum(len(tensor.raw_data) for tensor in onnx.load(p.path).graph.initializer if len(tensor.dims) == 4) for p in (fp16, fp32)
    )
    assert half * 2 == single and fp16.path.stat().st_size < fp32.path.stat().st_size


@pytest.mark.parametrize("outputs", ["keypoints", "heatmaps"])
def test_outputs_of_onnx_and_torchscript(
    fp32: ExportedArtifact, network: Path, tmp_path: Path, images: Images, outputs: str
) -> None:
    names = [name for name in OUTPUT_NAMES if name in outputs.split(",")]
    whole = Artifact(fp32.path, options=DeviceOptions(1))(images[:3])
    exported = onnx_of(network, str(tmp_path / "some.onnx"), outputs=outputs)
    assert [port.name for port in exported.sidecar.outputs] == names
    assert [output.name for output in onnx.load(exported.path).graph.output] == names
    config = ExportConfig(checkpoint=network, batch=BATCH, outputs=outputs)
    scripted = make_torchscript(config, load_network(config), tmp_path / "some.torchscript")
    for path, runtime in ((exported.path, "onnxruntime"), (exported.path, "openvino"), (scripted.path, "torch")):
        found = Artifact(path, runtime, options=DeviceOptions(1))(images[:3])  # type: ignore[arg-type]
        assert list(found) == names
        for name, value in found.items():
            assert np.abs(value - whole[name]).max() < 1e-5 * max(1, np.abs(whole[name]).max())
    kinds = {node.op_type for node in onnx.load(exported.path).graph.node}
    assert ("ArgMax" in kinds or "TopK" in kinds) == ("keypoints" in names)  # without keypoints there is no decoder


def test_metadata_matches_sidecar(
    fp32: ExportedArtifact, fp16: ExportedArtifact, static: ExportedArtifact, flipping: ExportedArtifact
) -> None:
    for exported in (fp32, fp16, static, flipping):
        model = onnx.load(exported.path)
        assert {prop.key: prop.value for prop in model.metadata_props} == exported.sidecar.metadata
        assert read_sidecar(exported.path) == exported.sidecar and model.producer_name == "hgfast"


def test_files_contain_no_paths(
    fp32: ExportedArtifact, fp16: ExportedArtifact, script: ExportedArtifact, engine: ExportedArtifact
) -> None:
    words = [str(ROOT), str(Path.home()), "site-packages", "export_module.py", str(fp32.path.parent)]
    for exported in (fp32, fp16, script, engine):
        for path in (exported.path, sidecar_path(exported.path)):
            content = path.read_bytes()
            assert not [word for word in words if len(word) > 1 and word.encode() in content], path


def test_verification_is_in_the_sidecar(fp32: ExportedArtifact, fp16: ExportedArtifact, script: ExportedArtifact) -> None:
    for exported, runtimes in (
        (fp32, RUNTIMES_BY_FORMAT["onnx"]),
        (fp16, RUNTIMES_BY_FORMAT["onnx"]),
        (script, RUNTIMES_BY_FORMAT["torchscript"]),
    ):
        assert [(row["runtime"], row["batch"]) for row in exported.rows] == [(r, n) for r in runtimes for n in (1, 3, MAX_BATCH)]
        assert {row["verdict"] for row in exported.rows} == {"ok"}
    assert max(row["heatmaps"] for row in fp32.rows) < 1e-5 and max(row["max_px"] for row in fp32.rows) < 0.01
    assert min(row["counted"] for row in fp32.rows) > 0


@pytest.mark.parametrize("missing", RUNTIMES_BY_FORMAT["onnx"])
def test_runtime_that_is_not_installed_is_skipped(
    missing: str, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    out = tmp_path / "net.onnx"
    assert main_of(monkeypatch, to_onnx, network, "--out", out, "--batch", BATCH, "--threads", 1) == 0
    (other,) = (name for name in RUNTIMES_BY_FORMAT["onnx"] if name != missing)
    rows: Any = (read_sidecar(out).verification or {})["rows"]
    compared = [(row["runtime"], row.get("batch"), row["verdict"]) for row in rows]
    assert [row for row in compared if row[0] == other] == [(other, count, "ok") for count in (1, 3, MAX_BATCH)]
    assert [row for row in compared if row[0] == missing] == [(missing, None, "not verified: not installed")]
    said = capsys.readouterr().out
    assert re.search(rf"{missing} .*not verified: not installed", said) and f"pip install {missing}" in said


def test_without_a_runtime_nothing_is_written(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in RUNTIMES_BY_FORMAT["onnx"]:
        monkeypatch.setitem(sys.modules, name, None)
    out = tmp_path / "net.onnx"
    flags = ("--out", out, "--batch", BATCH, "--threads", 1)
    assert main_of(monkeypatch, to_onnx, network, *flags) == 2
    said = capsys.readouterr()
    assert "nothing here can verify" in said.err and "pip install onnxruntime" in said.err and "--no-verify" in said.err
    assert not list(tmp_path.iterdir())
    assert main_of(monkeypatch, to_onnx, network, *flags, "--no-verify") == 0
    assert "not verified" in capsys.readouterr().out and read_sidecar(out).verification is None


def test_wrong_precision_is_an_error(network: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    export, single = onnx_export.export_onnx_model, ExportModule(load_model(network), ExportSpec(outputs=OUTPUT_NAMES))
    monkeypatch.setattr(onnx_export, "export_onnx_model", lambda graph, sizes: export(single, sizes))
    with pytest.raises(HgfastError, match=r"a.onnx is fp32 although fp16 was requested; nothing was written"):
        onnx_of(network, str(tmp_path / "a.onnx"), precision="fp16")
    assert not list(tmp_path.iterdir())


def test_another_network_is_not_written(
    network: Path, fp32: ExportedArtifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The exporter makes the weights of a layer a little larger; an existing file is unchanged."""
    export = onnx_export.export_onnx_model

    def export_another(graph: ExportModule, sizes: BatchRange) -> onnx.ModelProto:
        other = export(graph, sizes)
        tensor = next(one for one in other.graph.initializer if one.name.endswith("score.weight"))
        values = onnx.numpy_helper.to_array(tensor) * np.float32(1.001)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return other

    folder = network.parent
    before = {path: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(onnx_export, "export_onnx_model", export_another)
    with pytest.raises(HgfastError, match=r"fp32.onnx differs from .*net.pt and was not written: heatmaps differ by"):
        onnx_of(network, fp32.path.name)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert onnx_of(network, str(tmp_path / "a.onnx"), no_verify=True).sidecar.verification is None


# ---- TorchScript ----


def test_torchscript_runs_without_hgfast(script: ExportedArtifact, network: Path, images: Images, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, json, numpy as np, torch\n"
        "extra = {'hgfast.json': ''}\n"
        "net = torch.jit.load(sys.argv[1], _extra_files=extra)\n"
        "about = json.loads(extra['hgfast.json'])\n"
        "images = torch.from_numpy(np.load('images.npy'))\n"
        "for number in (1, len(images)):\n"
        "    keypoints, heatmaps = net(images[:number])\n"
        "np.savez('found.npz', keypoints=keypoints.numpy(), heatmaps=heatmaps.numpy())\n"
        "assert not any(name.startswith('hgfast') for name in sys.modules)\n"
        "print(json.dumps(about))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(script.path)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == script.sidecar.metadata
    check_same(dict(np.load(tmp_path / "found.npz")), *expected_outputs(network, images))


@pytest.mark.parametrize("number", [1, 2, MAX_BATCH])
def test_torchscript_takes_any_batch(script: ExportedArtifact, network: Path, images: Images, number: int) -> None:
    keypoints, heatmaps = expected_outputs(network, images[:number])
    check_same(Artifact(script.path)(images[:number]), keypoints, heatmaps)


def test_torchscript_in_fp16(network: Path, images: Images, tmp_path: Path, capsys: Any) -> None:
    config = ExportConfig(checkpoint=network, batch=BATCH, precision="fp16", outputs="keypoints,heatmaps")
    exported = make_torchscript(config, load_network(config), tmp_path / "half.torchscript")
    _, heatmaps = expected_outputs(network, images[:1])
    found = Artifact(exported.path)(images[:1])
    assert 0 < np.abs(found["heatmaps"] - heatmaps).max() < 5e-3 * np.abs(heatmaps).max()
    assert exported.rows[0]["verdict"] == "ok" and exported.sidecar.precision == "fp16"
    if not torch.cuda.is_available():
        assert "fp16 is emulated on this CPU" in capsys.readouterr().out and len(exported.rows) == 1


def princeton_checkpoint(path: Path, joints: int) -> Path:
    torch.manual_seed(0)
    torch.save({"state_dict": prefixed_state(with_random_statistics(PrincetonNet(1, 16, joints)), "model.module.")}, path)
    return path


def bearpaw_checkpoint(path: Path, joints: int) -> Path:
    torch.manual_seed(0)
    torch.save({"state_dict": prefixed_state(with_random_statistics(BearpawNet(1, 8, joints)), "module."), "epoch": 3}, path)
    return path


def native_checkpoint(path: Path, joints: int) -> Path:
    return save_checkpoint(path, {16: BODY16, 21: HAND21}[joints])


FAMILIES = {"native": native_checkpoint, "princeton": princeton_checkpoint, "bearpaw": bearpaw_checkpoint}
SKELETONS = {16: BODY16, 21: HAND21}


@pytest.mark.parametrize("joints", [16, 21])
@pytest.mark.parametrize("family", FAMILIES)
def test_sidecars_of_every_family(tmp_path: Path, family: str, joints: int) -> None:
    path = FAMILIES[family](tmp_path / "net.pt", joints)
    config = ExportConfig(checkpoint=path, input_size=64, batch="2")
    exported = make_torchscript(config, load_network(config), config.output_path("torchscript"))
    assert exported.path == tmp_path / "net.64.fp32.torchscript"
    check_described(exported, path, joints)
    body = joints == 16
    shift, offset, mean, std = {
        "native": (0.125, -0.5, (0.45, 0.5, 0.4), (0.25, 0.2, 0.3)),
        "princeton": (-0.5 * body, 0.0, (0.0,) * 3 if body else (0.5,) * 3, (1.0,) * 3 if body else (0.5,) * 3),
        "bearpaw": (-0.5 * body, 0.0, (0.4404, 0.444, 0.4327), (1.0,) * 3),
    }[family]
    found = exported.sidecar
    assert (found.result_offset, found.pixel_offset, found.mean, found.std) == (shift, offset, mean, std)


def check_described(exported: ExportedArtifact, checkpoint: Path, joints: int) -> None:
    """Check that the sidecar agrees with `load_model`."""
    meta, found = load_model(checkpoint).meta, read_sidecar(exported.path)
    assert found.skeleton == meta.skeleton == SKELETONS[joints]
    assert (found.result_offset, found.pixel_offset) == (meta.shift, meta.pixel_offset)
    assert (found.mean, found.std) == (meta.normalization.mean, meta.normalization.std)
    assert (found.heatmap_kind, found.decoder, found.stride) == (meta.heatmap_kind, meta.decoder, 4)
    assert found.checkpoint == checkpoint.name
    assert found.checkpoint_sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (found.input_size, found.input.shape[1:]) == (64, (64, 64, 3))
    assert {row["verdict"] for row in exported.rows} == {"ok"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stored", "family"), [("princeton_2hg_dim32.pt", "princeton"), ("bearpaw_2hg_feats16.pth.tar", "bearpaw")]
)
def test_converted_weights_as_onnx(tmp_path: Path, images: Images, stored: str, family: str) -> None:
    """Trained weights if they are next to the checkout, otherwise random ones."""
    path, joints = SHARED / "reference" / stored, 16
    if not path.is_file():
        path = FAMILIES[family](tmp_path / "net.pt", joints)
    config = ExportConfig(checkpoint=path, input_size=64, batch=BATCH, threads=1, outputs="keypoints,heatmaps")
    exported = make_onnx(config, load_network(config), tmp_path / "net.onnx")
    check_described(exported, path, joints)
    keypoints, heatmaps = [], []
    model = load_network(config)
    for image in images:
        points, _, maps = predict_crops(model, image, *crop_squares(image))
        keypoints.append(points - (model.meta.shift, model.meta.shift, 0))
        heatmaps.append(maps)
    for runtime in RUNTIMES_BY_FORMAT["onnx"]:
        check_same(
            Artifact(exported.path, runtime, options=DeviceOptions(1))(images),
            np.concatenate(keypoints),
            np.concatenate(heatmaps),
        )


# ---- TensorRT ----


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engines_are_built_and_not_run(
    network: Path, rtx: TrtBackend, engine: ExportedArtifact, precision: Any, tmp_path: Path, capsys: Any
) -> None:
    exported = engine
    if precision == "fp16":
        config = TensorRTConfig(checkpoint=network, batch=BATCH, threads=1, precision="fp16", out=tmp_path / "net.fp16.engine")
        exported = make_engine(config, load_network(config), config.output_path("engine"), rtx)
    artifact.print_summary(exported, 1.0)
    printed = capsys.readouterr().out
    assert "tensorrt_rtx" in printed and "built, not run" in printed
    found = read_sidecar(exported.path)
    assert exported.rows == [{"runtime": "tensorrt_rtx", "verdict": "built, not run"}]
    assert found.verification is not None and found.verification["rows"] == exported.rows
    assert (found.export_format, found.precision, found.batch) == ("tensorrt_rtx", precision, BatchRange(1, 2, MAX_BATCH))
    assert found.builder is not None and found.builder["version"] == rtx.version and precision in found.builder["precision"]
    source = options.onnx_path(exported.path)
    assert source.name == f"{exported.path.name}.onnx"  # a name that no other export uses
    assert found.onnx_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    hub = read_sidecar(source)
    assert hub.verification is not None and {row["verdict"] for row in hub.verification["rows"]} == {"ok"}
    assert replace(hub, artifact="", sha256="", export_format="onnx") == replace(
        found, artifact="", sha256="", export_format="onnx", verification=hub.verification, builder=None, onnx_sha256=None,
        versions=hub.versions, created=hub.created,
    )  # fmt: skip
    if not torch.cuda.is_available():
        with pytest.raises(GpuNotFound, match="needs an NVIDIA GPU"):
            Artifact(exported.path)


def main_of(monkeypatch: pytest.MonkeyPatch, module: Any, *words: object) -> int:
    """Run a script in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", [f"export/{module.__name__.rpartition('.')[2]}.py", *map(str, words)])
    try:
        run_main(module.main)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_without_a_builder_the_onnx_is_written(
    network: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    def nothing(name: str) -> Any:
        raise trt_builder.LibraryNotFound(f"{name} cannot be imported", "pip install something")

    monkeypatch.setattr(trt_builder, "import_tensorrt", nothing)
    monkeypatch.setattr(trt_builder, "import_torch_tensorrt", lambda: nothing("torch_tensorrt"))
    out = tmp_path / "net.engine"
    flags = ("--out", out, "--batch", BATCH, "--threads", 1, "--outputs", "keypoints,heatmaps")
    assert main_of(monkeypatch, trt, network, *flags) == 2
    said = capsys.readouterr()
    onnx = options.onnx_path(out)
    assert said.err.startswith(f"error: {onnx} is written, the engine is not: nothing here builds TensorRT engines")
    assert "pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings" in said.err and said.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.engine.onnx", "net.engine.onnx.json"]
    found = read_sidecar(onnx)
    assert found.verification is not None and {row["verdict"] for row in found.verification["rows"]} == {"ok"}
    assert "not verified" not in said.out
    assert main_of(monkeypatch, trt, network, *flags, "--backend", "tensorrt_rtx") == 2  # the same if requested by name
    assert "the engine is not: tensorrt_rtx cannot be imported: pip install something" in capsys.readouterr().err


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("requested, failure", [("[]", "by default, only"), ("[CURRENT]", "attempt failed")])
def test_unsupported_gpu_of_rtx_is_not_possible(
    requested: str,
    failure: str,
    network: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The ONNX file is written, the engine is not, and gpu_check counts that as not possible. An attempt to build fails."""
    monkeypatch.setattr(trt_builder, "gpu_capability", lambda: (9, 0))
    out = tmp_path / "net.engine"
    words = ("--out", out, "--batch", BATCH, "--threads", 1, "--backend", "tensorrt_rtx")
    assert main_of(monkeypatch, trt, network, *words, "--compute-capabilities", requested) == 2
    said = capsys.readouterr().err
    assert re.search(NO_BACKEND_PATTERN, said) and said.count("\n") == 1
    assert "TensorRT-RTX does not support this GPU (compute capability 9.0)" in said and failure in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.engine.onnx", "net.engine.onnx.json"]


@pytest.mark.usefixtures("rtx")
def test_rtx_engine_for_other_gpus_is_built_and_not_run(
    network: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trt_builder, "gpu_capability", lambda: (9, 0))
    out = tmp_path / "net.engine"
    words = ("--out", out, "--batch", BATCH, "--threads", 1, "--backend", "tensorrt_rtx", "--compute-capabilities", "[SM86]")
    assert main_of(monkeypatch, trt, network, *words) == 0
    assert artifact.NOT_RUN in capsys.readouterr().out
    assert (read_sidecar(out).builder or {})["hardware"] == "compute capability 8.6"


def test_torch_tensorrt_refuses_int8(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = TrtBackend("torch_tensorrt", "10.13", None, "as asked for", True)
    monkeypatch.setattr(trt_builder, "find_backend", lambda *_, **__: backend)
    config = TensorRTConfig(checkpoint=network, precision="int8", backend="torch_tensorrt")
    with pytest.raises(HgfastError, match="Torch-TensorRT gets fp32 and fp16 here: build int8 with --backend tensorrt or"):
        tensorrt_export.find_backend(config)
    assert tensorrt_export.find_backend(replace(config, precision="fp16")) is backend


def test_missing_builder_is_returned(monkeypatch: pytest.MonkeyPatch, network: Path) -> None:
    def none(wanted: str, compute_capabilities: list[str]) -> TrtBackend:
        raise BuilderNotFound("nothing here builds")

    monkeypatch.setattr(trt_builder, "find_backend", none)
    assert isinstance(tensorrt_export.find_backend(TensorRTConfig(checkpoint=network)), BuilderNotFound)


# ---- flags ----

SCRIPTS = {"to_onnx": to_onnx, "torchscript": torchscript, "trt": trt}
EVERY = ("to_onnx", "torchscript", "trt")


def test_all_scripts_are_tested() -> None:
    assert {file.stem for file in (ROOT / "export").glob("*.py") if "__main__" in file.read_text()} == set(SCRIPTS)


@pytest.mark.parametrize("script", EVERY)
def test_help(script: str) -> None:
    """Every option is listed, and nothing that takes seconds to import is imported; nor is it for an unknown flag."""
    code = (
        "import atexit, sys\nfrom hgfast.entry_point import run_main\n"
        f"from hgfast.export.{script} import main\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'cv2', 'nvidia', 'h5py', 'scipy'}\n"
        "atexit.register(lambda: print('imported:', *heavy & set(sys.modules)))\nrun_main(main)"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not done.stderr and done.stdout.endswith("\nimported:\n")
    shared = {f"--{field.name.replace('_', '-')}" for field in fields(ExportConfig) if field.name != "checkpoint"}
    assert shared <= set(done.stdout.replace(",", " ").replace("]", " ").split())
    assert (script == "trt") == ("--timing-cache" in done.stdout)
    done = subprocess.run([sys.executable, "-c", code, "--batches=1"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2 and "unknown flag --batches (did you mean --batch?)" in done.stderr
    assert done.stdout == "imported:\n"


INVALID_FLAGS = "must be one number, or min:opt:max such as 1:8:32"
CASES: list[tuple[tuple[str, ...], list[Any], str]] = [
    (EVERY, ["{tmp}/no.pt"], "no checkpoint at .*no.pt"),
    (EVERY, ["{tmp}/else.pt"], "else.pt is not an hgfast checkpoint of format 1, nor weights of"),
    (EVERY, ["{tmp}/text.pt"], "text.pt cannot be read as a checkpoint"),
    (EVERY, ["{tmp}/cut.pt"], "cut.pt cannot be read as a checkpoint"),
    (EVERY, ["{net}", "--input-size", "100"], "--input-size 100 cannot be halved 3 times .*choose a multiple of 32"),
    (EVERY, ["{deep}", "--input-size", "100"], "--input-size 100 cannot be halved 4 times .*choose a multiple of 64"),
    (("to_onnx",), ["{net}", "--input-size", "0"], r"input_size is 0, must be in \[1, 4096\]"),
    (EVERY, ["{net}", "--input-size", "6400000"], r"input_size is 6400000, must be in \[1, 4096\]"),
    *[(EVERY[: 1 + 2 * (size == "0")], ["{net}", f"--batch={size}"], f"--batch {size} {INVALID_FLAGS}")
      for size in ("0", "a", "8:1:4", "1:2", "-1", "1:2:3:4", "1::3", "0:1:2", "2.5", "٣")],
    (("to_onnx",), ["{net}", "--batch", ""], f"--batch  {INVALID_FLAGS}"),
    *[(("to_onnx", "torchscript"), ["{net}", "--outputs", names], "must be keypoints, heatmaps or keypoints,heatmaps")
      for names in ("points", "keypoints,keypoints", "keypoints;heatmaps", "keypoints,")],
    (("to_onnx", "trt"), ["{net}", "--precision", "int8"], "--precision int8 requires images .*--dataset and --data"),
    (("torchscript",), ["{net}", "--precision", "int8"], "int8 requires ONNX or TensorRT: use hgfast export onnx"),
    (EVERY, ["{net}", "--precision", "fp8"], "bad value for precision: fp8 is not one of fp32, fp16, int8"),
    (EVERY, ["{net}", "--out", "{tmp}/text.pt/a.bin"], "cannot make the folder .*: choose another with --out"),
    (EVERY, ["{net}", "--out", "{tmp}"], "which is a folder: name a file in it with --out"),
    (EVERY, ["{net}", "--out", "{net}"], "--out .*net.pt would overwrite the checkpoint: choose another file with --out"),
    (EVERY, ["{net}", "--out", "{tmp}/sub/../net.pt"], "would overwrite the checkpoint"),
    (EVERY, ["{tmp}/net.json", "--out", "{tmp}/net"], "the sidecar .*net.json would overwrite the checkpoint"),
    (EVERY, ["{net}", "--precison", "fp16"], r"unknown flag --precison \(did you mean --precision\?\)"),
    (EVERY, ["{net}", "--fliptest"], r"unknown flag --fliptest \(did you mean --flip-test\?\)"),
    (EVERY, ["{net}", "more"], "unexpected word 'more'"),
    (EVERY, [], "checkpoint"),
    (EVERY, ["{nameless}", "--flip-test"], "must know which joints are left and right, and these have no names"),
    (EVERY, ["{net}", "--batch", "1:8:99999999"], "--batch 1:8:99999999 must be at most 4096"),
    (("to_onnx",), ["{net}", "--batch", "9" * 40], INVALID_FLAGS),
    (EVERY, ["{net}", "--threads", "0"], "threads is 0, must be at least 1"),
    (EVERY, ["{net}", "--calibration", "0"], "calibration is 0, must be at least 1"),
    (EVERY, ["{net}", "--max-loss", "-1"], "max_loss is -1.0, must be at least 0"),
    (EVERY, ["{net}", "--decoder", "soft"], "bad value for decoder: soft is not one of argmax, quarter, dark"),
    (("trt",), ["{net}", "--backend", "trtexec"], "bad value for backend: trtexec is not one of"),
    (("trt",), ["{net}", "--workspace-gb", "0"], "workspace_gb is 0.0, must be above 0"),
    (("trt",), ["{net}", "--optimization-level", "6"], r"optimization_level is 6, must be in \[0, 5\]"),
    (("trt",), ["{net}", "--out", "{tmp}/a.onnx"], r"a.onnx is the engine and must not end in .onnx: .* will be .*a.onnx.onnx"),
    (("to_onnx",), ["{net}", "--backend", "tensorrt"], "unknown flag --backend"),
]  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints, and files that are not checkpoints."""
    folder = tmp_path_factory.mktemp("inputs")
    save_checkpoint(folder / "net.pt")
    (folder / "net.json").write_bytes((folder / "net.pt").read_bytes())
    (folder / "cut.pt").write_bytes((folder / "net.pt").read_bytes()[:-3000])
    save_checkpoint(folder / "nameless.pt", anonymous_skeleton(14))
    princeton_checkpoint(folder / "deep.pt", 16)
    torch.save({"weights": torch.zeros(3)}, folder / "else.pt")
    (folder / "text.pt").write_text("a letter")
    (folder / "sub").mkdir()
    return folder


@pytest.mark.parametrize(
    ("script", "words", "sentence"), [(script, words, sentence) for scripts, words, sentence in CASES for script in scripts]
)
def test_bad_input(
    inputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, script: str, words: list[str], sentence: str
) -> None:
    """One sentence, exit code 2, no file."""
    monkeypatch.setattr(onnx_export, "export_onnx_model", None)  # so that a call would fail in another way
    monkeypatch.setattr(torchscript_export, "select_outputs", None)
    monkeypatch.chdir(inputs)
    before = {path: path.read_bytes() for path in inputs.rglob("*") if path.is_file()}
    names = {name: inputs / f"{name}.pt" for name in ("net", "deep", "nameless")}
    code = main_of(monkeypatch, SCRIPTS[script], *(word.format(tmp=inputs, **names) for word in words))
    said = capsys.readouterr()
    assert code == 2 and said.err.startswith("error: ") and said.err.count("\n") == 1 and not said.out
    assert re.search(sentence, said.err), said.err
    assert {path: path.read_bytes() for path in inputs.rglob("*") if path.is_file()} == before


def test_end_to_end(inputs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    """The folder is created, and the output names the file and its sidecar."""
    out = tmp_path / "new" / "net.torchscript"
    assert main_of(monkeypatch, torchscript, inputs / "net.pt", "--out", out, "--batch", "1:2:4") == 0
    printed = capsys.readouterr().out
    assert f"{out}: " in printed and f"sidecar: {out}.json" in printed and "ok" in printed
    assert "batch 1:2:4, 16 joints" in printed and "on 16 synthetic images" in printed
    assert sorted(path.name for path in out.parent.iterdir()) == ["net.torchscript", "net.torchscript.json"]


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({}, "best.fp32.onnx"),
        ({"precision": "fp16"}, "best.fp16.onnx"),
        ({"flip_test": True, "input": "float", "input_size": 384}, "best.384.flip.float.fp32.onnx"),
        ({"checkpoint": Path("a/model.pth.tar")}, "model.fp32.onnx"),
        ({"checkpoint": Path("a/weights")}, "weights.fp32.onnx"),
        ({"checkpoint": Path("a/best.v2.pt")}, "best.v2.fp32.onnx"),
    ],
)
def test_names_of_files(flags: dict[str, Any], name: str) -> None:
    assert ExportConfig(**{"checkpoint": Path("a/best.pt"), **flags}).output_path("onnx") == Path("a") / name
    assert ExportConfig(**{"checkpoint": Path("b.pt"), **flags, "out": Path("c.bin")}).output_path("onnx") == Path("c.bin")


@pytest.mark.parametrize("words", ["heatmaps,keypoints", "keypoints, heatmaps"])
def test_order_of_outputs(words: str) -> None:
    assert ExportConfig(checkpoint=Path("a.pt"), outputs=words).spec.outputs == OUTPUT_NAMES


@pytest.mark.parametrize(
    ("words", "sizes"),
    [("1", BatchRange(1, 1, 1)), ("8", BatchRange(8, 8, 8)), ("1:8:32", BatchRange(1, 8, 32)), ("4:4:4", BatchRange(4, 4, 4))],
)
def test_batch_flag(words: str, sizes: BatchRange) -> None:
    assert options.ExportConfig(checkpoint=Path("a.pt"), batch=words).batch_range == sizes


def test_sidecars_are_plain(fp32: ExportedArtifact, fp16: ExportedArtifact) -> None:
    """They contain no folders, and those of fp32 and fp16 differ only where they must."""
    first, second = fp32.sidecar, fp16.sidecar
    same = {field.name for field in fields(Sidecar)} - {"artifact", "sha256", "precision", "verification", "created"}
    assert all(getattr(first, name) == getattr(second, name) for name in same)
    assert first.artifact == "fp32.onnx" and "/" not in first.checkpoint
