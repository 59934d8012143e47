"""bench/latency.py and bench/session_overhead.py from the shell; their variants, exports, rooflines and reports."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hgfast.architectures import PRESETS
from hgfast.bench import latency as latency_script
from hgfast.bench import session_overhead
from hgfast.bench.harness import networks
from hgfast.bench.harness.config import LatencyConfig
from hgfast.bench.harness.interleaved import BatchInfo, Result, StartupCost, Trial, TrialSettings, run_trial
from hgfast.bench.harness.networks import ONNX, Exports, export_commands, is_current, untrained_checkpoint
from hgfast.bench.harness.noise import NoiseEstimate
from hgfast.bench.harness.roofline import DeviceRates, TrafficCounter, measure_rates, roofline_ms, step_traffic
from hgfast.bench.measurements import latency
from hgfast.bench.measurements.latency import open_artifacts, open_checkpoint, preset_name
from hgfast.bench.measurements.session_overhead import SessionVariant, conclusions, leak_row, make_row, run_python_session
from hgfast.bench.tables.columns import unmeasured_lines
from hgfast.bench.variants.latency import LatencyVariant, make_batches, predict_all, time_on_stream
from hgfast.checkpoints import load_model
from hgfast.config import DataConfig
from hgfast.errors import HgfastError
from hgfast.model import StackedHourglass
from hgfast.pipelines.synthetic_data.images import render_images
from hgfast.runtime import sidecar as sidecars
from hgfast.runtime.torch_predictor import decode_keypoints
from hgfast.system_info import CpuFeatures, cpu_features
from hgfast.training.throughput import forward_flops
from tests.bench.conftest import RunScript
from tests.conftest import ErrorOf

# ---- variants ----


def variant(name: str, file: Path, work: Path, runtime: str = "torch", batch: int = 2, **more: Any) -> LatencyVariant:
    return LatencyVariant(name, runtime, more.pop("precision", "fp32"), file, "tiny", 64, batch, 1, work, **more)


def test_all_variants_give_the_same_keypoints(checkpoint: Path, onnx: Path, tmp_path: Path) -> None:
    images = render_images(64, 5)
    np.save(tmp_path / "images.npy", images)
    model = load_model(checkpoint)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.meta.normalization.mean, model.meta.normalization.std))
    with torch.no_grad():
        wanted = decode_keypoints(model, model((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std)[:, -1]).numpy()
    variants = [variant(name, checkpoint, tmp_path) for name in ("seed_style", "channels_last")]
    variants += [variant(name, onnx, tmp_path, name) for name in ("onnxruntime", "openvino")]
    for one in variants:
        batches = one.start()
        assert [next(batches).images for _ in range(3)] == [2, 2, 2]
        found = np.load(one.points)
        confident = wanted[..., 2] > 0.05
        assert found.shape == wanted.shape and np.abs(found - wanted)[confident].max() < 0.05, one.name
    assert len({one.points for one in variants}) == len({one.process for one in variants}) == len(variants)


def test_princeton_variant_only_permutes_axes(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single precision, channels_last activations by NCHW weights; in hgfast's the weights are channels_last too."""
    layouts_seen: list[tuple[torch.dtype, bool, bool]] = []
    plain = torch.nn.Conv2d.forward

    def record_conv(module: torch.nn.Conv2d, inputs: torch.Tensor) -> torch.Tensor:
        layouts = (value.is_contiguous(memory_format=torch.channels_last) for value in (inputs, module.weight))
        if module.kernel_size[0] > 1 and module.in_channels > 1:  # a 1 x 1 kernel has both layouts
            layouts_seen.append((inputs.dtype, *layouts))  # type: ignore[arg-type]
        return plain(module, inputs)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", record_conv)
    np.save(tmp_path / "images.npy", render_images(64, 2))
    for name, weights in (("seed_style", False), ("channels_last", True)):
        layouts_seen.clear()
        next(variant(name, checkpoint, tmp_path).start())
        assert len(layouts_seen) > 10 and set(layouts_seen) == {(torch.float32, True, weights)}


def test_end_to_end_keypoints_are_in_photo_pixels(onnx: Path, tmp_path: Path) -> None:
    """The crop is 90 % of the enlarged image; the keypoints are transformed back to the latter."""
    np.save(tmp_path / "images.npy", render_images(64, 4))
    batches = variant("onnxruntime", onnx, tmp_path, "onnxruntime", end_to_end=True).start()
    assert [next(batches), next(batches)] == [(2, 0, 0)] * 2 and not variant(
        "onnxruntime", onnx, tmp_path, "onnxruntime"
    ).points.exists()


def test_inputs_cycle_through_different_batches() -> None:
    source_images = render_images(64, 6)
    for batch in (1, 8, 32):
        inputs = make_batches(source_images, batch)
        assert all(one.shape == (batch, 64, 64, 3) and one.flags.c_contiguous for one in inputs)
        assert len({one.tobytes() for one in inputs}) == len(inputs)
    found = predict_all(lambda images: images.reshape(len(images), -1)[:, :3], source_images, 4)
    assert np.array_equal(found, source_images.reshape(6, -1)[:, :3])


# ---- files ----


def test_existing_exports_are_reused(checkpoint: Path, onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert onnx == checkpoint.with_name("fresh.fp32.onnx")
    assert Exports(tmp_path, 4).find_or_export(checkpoint, ONNX) == onnx  # beside the checkpoint: exported by the user
    assert not is_current(onnx, checkpoint, 5) and not is_current(onnx.with_name("none.onnx"), checkpoint, 1)
    other = untrained_checkpoint("tiny", tmp_path / "other")
    assert not is_current(onnx, other, 4) or sidecars.sha256_of(other) == sidecars.sha256_of(checkpoint)
    monkeypatch.setattr(networks, "ROOT", tmp_path)  # where there is no export/
    with closing(Exports(tmp_path, 16)) as exports:
        with pytest.raises(HgfastError, match="to_onnx"):
            exports.find_or_export(checkpoint, ONNX)
        (tmp_path / "export").mkdir()
        failing = "import sys; print('error: no ONNX', file=sys.stderr); sys.exit(2)"
        for code, message in ((failing, "^no ONNX$"), ("import os; os._exit(1)", "crashed"), ("1 / 0", "ZeroDivisionError")):
            (tmp_path / "export/to_onnx.py").write_text(code)
            with pytest.raises(HgfastError, match=message):
                exports.find_or_export(checkpoint, ONNX)


def test_int8_needs_calibration_images_with_the_same_joints(checkpoint: Path, tmp_path: Path) -> None:
    hands = tmp_path / "hands.pt"
    content = torch.load(checkpoint, weights_only=True)
    content["meta"]["skeleton"]["joints"] = [f"joint {number}" for number in range(16)]
    torch.save(content, hands)
    with pytest.raises(HgfastError, match="int8 calibration needs images with these joints"):
        networks.synthetic_people_flags(hands, tmp_path)


def test_unavailable_variants_are_listed(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Exports, __: Path, export: networks.ExportCommand) -> Path:
        raise HgfastError(f"no {export.precision} today")

    monkeypatch.setattr(Exports, "find_or_export", refuse)
    config = LatencyConfig(checkpoint=checkpoint, quick=True, work=tmp_path)
    network = open_checkpoint(config, checkpoint, tmp_path, Exports(tmp_path, 1))
    notes = {(row["way"], row["precision"]): row["note"] for row in network.unavailable}
    assert notes["onnx", "int8"] == "no int8 today" and notes["onnx", "fp16"] == "omitted by --quick"
    if not torch.cuda.is_available():
        assert notes["tensorrt", "fp16"] == notes["tensorrt_rtx", "fp32"] == "no NVIDIA GPU here"
    emulated = [] if cpu_features().bf16 or torch.cuda.is_available() else [("autocast", "bf16")]
    assert all(notes[one] == "no bf16 on this CPU" for one in emulated)
    assert len(notes) == len(export_commands(torch.cuda.is_available())) + 1 + len(emulated)  # and torch.compile
    assert [variant.method for variant in network.variants][:2] == ["seed_style", "channels_last"]


def test_data_flags_round_trip() -> None:
    config = LatencyConfig(dataset="coco", annotations=Path("a.json"), padding=1.5, split_fractions=[0.8, 0.1])
    words = ["--dataset", "coco", "--annotations", "a.json", "--padding", "1.5", "--split-fractions", "[0.8,0.1]"]
    assert config.as_flags == words and LatencyConfig().as_flags == []
    assert set(vars(DataConfig())) <= set(vars(config))


def test_presets_are_known_by_their_shapes(checkpoint: Path) -> None:
    assert preset_name(load_model(checkpoint)) == "tiny" and preset_name(None) == ""


# ---- rooflines ----


def test_roofline_is_the_longer_of_two_times() -> None:
    arch = PRESETS["tiny"]
    flops = forward_flops(arch, 16)
    slow = DeviceRates({"fp32": 1e9}, 1e30)
    assert roofline_ms(slow, arch, 16, 3, "fp32", 64) == pytest.approx(3 * flops / 1e6)
    assert roofline_ms(slow, arch, 16, 1, "fp32", 128) == pytest.approx(4 * flops / 1e6)
    copying = DeviceRates({"fp32": 1e30, "fp16": 1e30, "tf32": 1e30}, 1e6)
    full, half = (roofline_ms(copying, arch, 16, 0, kind, 64) or 0 for kind in ("fp32", "fp16"))
    assert full == pytest.approx(2 * half) and half > 0
    assert roofline_ms(copying, arch, 16, 0, "tf32", 64) == full
    assert roofline_ms(slow, arch, 16, 1, "int8", 64) is None
    with torch.device("meta"):
        weights = sum(value.numel() for value in StackedHourglass(arch, 16).parameters())
    assert full == pytest.approx(4 * weights / 1e6 * 1e3)  # every weight is read once


def test_rates_are_measured() -> None:
    rates = measure_rates(torch.device("cpu"), 1)
    names = {"fp32", "bf16"} if cpu_features().bf16 else {"fp32"}
    assert rates.flops["fp32"] > 1e9 and rates.bytes > 1e8 and set(rates.flops) == names
    assert set(rates.row) == {*(f"matrix_tflops_{name}" for name in names), "copy_gb_per_s"}


class ClockedEvent:
    """A CUDA event of a device on which an operation takes 3 ms, after a launch that takes a second."""

    now = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = ClockedEvent.now

    def synchronize(self) -> None:
        ClockedEvent.now += 1000

    def elapsed_time(self, end: ClockedEvent) -> float:
        return end.at - self.at


def test_gpu_rates_are_measured_by_events_around_several_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large matrices, and TF32 is a rate of its own: with a fake clock, every operation takes 3 ms."""
    cuda, tf32_by_dtype, sides = torch.device("cuda", 0), list[tuple[bool, torch.dtype]](), set[int]()

    def operation(*operands: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        ClockedEvent.now += 3
        if out is not None:
            tf32_by_dtype.append((torch.backends.cuda.matmul.allow_tf32, out.dtype))
            sides.add(len(out))
        return operands[0]

    monkeypatch.setattr(torch.cuda, "Event", ClockedEvent)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch, "mm", operation)
    monkeypatch.setattr(torch.Tensor, "copy_", operation)

    def on_meta(make: Any, *size: int, **options: Any) -> torch.Tensor:
        return make(*size, **{**options, "device": "meta"})

    for name in ("randn", "empty"):
        monkeypatch.setattr(torch, name, partial(on_meta, getattr(torch, name)))
    rates = measure_rates(cuda, 1)
    assert sides == {2048, 4096, 8192}
    assert rates.flops == dict.fromkeys(("fp32", "tf32", "bf16", "fp16"), pytest.approx(2 * 8192**3 / 3e-3))
    assert rates.bytes == pytest.approx(2 * 2**28 / 3e-3) and rates.row["copy_gb_per_s"] == round(2**28 / 3e-3 / 1e9, 1)
    expected = {(False, torch.float32), (True, torch.float32), (False, torch.bfloat16), (False, torch.float16)}
    assert set(tf32_by_dtype) == expected and not torch.backends.cuda.matmul.allow_tf32
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert set(measure_rates(cuda, 1).flops) == {"fp32", "fp16"}


def test_copy_rate_counts_reads_and_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, with a clock by which every operation takes 2 s."""
    ticks = count(0, 2)
    monkeypatch.setattr("hgfast.bench.harness.roofline.time.perf_counter", lambda: next(ticks))
    monkeypatch.setattr("hgfast.bench.harness.roofline.MATRIX_SIZES", (16,))
    rates = measure_rates(torch.device("cpu"), 1)
    assert rates.bytes == 2**28 and rates.flops["fp32"] == 16**3


def test_traffic_of_a_step_is_that_of_its_operations() -> None:
    counter = TrafficCounter()
    with torch.device("meta"):
        x, weight = torch.empty(2, 8, 16, 16, requires_grad=True), torch.empty(4, 8, 3, 3, requires_grad=True)
    sizes = {"x": 4 * 2 * 8 * 256, "w": 4 * 4 * 8 * 9, "y": 4 * 2 * 4 * 256}
    with counter:
        y = torch.nn.functional.conv2d(x, weight, padding=1)
    assert counter.convolutions == counter.total == sum(sizes.values())
    with counter:
        z = y.view(2, -1).relu_()
    assert counter.total - counter.convolutions == 2 * sizes["y"] and counter.convolutions == sum(sizes.values())
    with counter:
        z.backward(torch.empty_like(z))
    forward, backward = sum(sizes.values()), sum(sizes.values()) + sizes["x"] + sizes["w"]
    assert counter.convolutions == forward + backward


def test_traffic_of_hg2_matches_the_counted_figures() -> None:
    """8.5 GB in convolutions and about 30 GB in all for a batch of 32 in bf16; proportional to the batch but for the weights."""
    traffic = step_traffic(PRESETS["hg2"], 16, 32, "bf16")
    assert traffic.convolutions == pytest.approx(8.5e9, rel=0.02) and traffic.eager == pytest.approx(30e9, rel=0.05)
    tiny = [step_traffic(PRESETS["tiny"], 16, batch, "fp32").eager for batch in (1, 2, 3)]
    assert tiny[2] - tiny[1] == tiny[1] - tiny[0]
    rates = DeviceRates({}, 4.3e12)
    assert traffic.floors_ms(rates)["conv_memory_ms"] == pytest.approx(2.0, abs=0.1)


# ---- without bf16 and VNNI ----


def on_cpu(monkeypatch: pytest.MonkeyPatch, features: CpuFeatures) -> None:
    monkeypatch.setattr(latency, "cpu_features", lambda: features)
    monkeypatch.setattr("hgfast.bench.harness.roofline.cpu_features", lambda: features)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device runs autocast itself")
def test_bf16_is_left_out_where_it_is_emulated(onnx: Path, checkpoint: Path, tmp_path: Path, monkeypatch: Any) -> None:
    on_cpu(monkeypatch, CpuFeatures("AVX2", bf16=False, vnni=False))
    monkeypatch.setattr(latency, "resolve_amp", lambda amp, device: "off")
    network = open_artifacts(LatencyConfig(files=[checkpoint, onnx], batch=[2], work=tmp_path, compile=False), tmp_path)
    assert {one.precision for one in network.variants} == {"fp32"}
    assert [(row["way"], row["precision"]) for row in network.unavailable] == [("autocast", "bf16"), ("openvino", "bf16")]
    assert unmeasured_lines(network.unavailable) == ["autocast bf16, openvino bf16: no bf16 on this CPU"]
    assert set(measure_rates(torch.device("cpu"), 1).flops) == {"fp32"}


@pytest.mark.parametrize(
    ("vnni", "int8_ms", "fastest"), [(True, 9.0, "int8"), (True, 10.2, "fp32"), (False, 9.0, "int8"), (False, 10.2, "fp32")]
)
def test_int8_without_vnni_is_recommended_only_if_it_is_faster(
    vnni: bool, int8_ms: float, fastest: str, onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu(monkeypatch, CpuFeatures("AVX2_VNNI" if vnni else "AVX2", bf16=False, vnni=vnni))
    ways = [variant("openvino", onnx, tmp_path, "openvino", precision=name) for name in ("fp32", "fp32", "int8")]
    results = [result(1000 / ms) for ms in (12.0, 10.0, int8_ms)]
    found = NoiseEstimate((0.001,) * 3, 5, 1.0)
    network = latency.ComparedNetwork("tiny", 64, 16, ways, [], None)
    monkeypatch.setattr(latency, "estimate_noise", lambda _: found)
    words = latency.summarize(ways, results, network).partition("fastest overall: ")[2]
    assert words.startswith(f"openvino {fastest}") and ("int8" in words) == (fastest == "int8" or vnni)
    assert latency.note_on_isa(ways[2]) == ("" if vnni else "int8 without VNNI")


def test_what_a_runtime_ignores_stands_beside_its_figure(onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu(monkeypatch, CpuFeatures("AVX2", bf16=False, vnni=False, limit="ONEDNN_MAX_CPU_ISA=AVX2"))
    notes = [latency.note_on_isa(variant(name, onnx, tmp_path, name, precision="int8")) for name in ("onnxruntime", "openvino")]
    assert notes == ["not limited by ONEDNN_MAX_CPU_ISA=AVX2", "int8 without VNNI"]


# ---- the commands ----


def test_an_onnx_in_every_runtime(run_script: RunScript, onnx: Path, tmp_path: Path) -> None:
    record, output = run_script("latency", onnx, "--quick", "--batch", "[4]", "--threads", 1, "--work", tmp_path / "work")
    rows = record["rows"]
    assert [(row["way"], row["precision"]) for row in rows][:2] == [("onnxruntime", "fp32"), ("openvino", "fp32")]
    measured = [row for row in rows if row["median_ms"]]
    left_out = [(row["way"], row["precision"], row["note"]) for row in rows if not row["median_ms"]]
    assert left_out == ([] if cpu_features().bf16 else [("openvino", "bf16", "no bf16 on this CPU")])
    for row in measured:
        assert 0 < row["median_ms"] <= row["p99_ms"] and row["noise"] >= 0.05 and row["batch"] == 4
        assert row["images_per_s"] == pytest.approx(4000 / row["median_ms"], rel=1e-2)
        assert row["precision"] != "fp32" or row["max_px_error"] < 0.05
        assert not any(isinstance(value, dict | list) for value in row.values())
    assert rows[0]["speedup"] == 1 and rows[0]["speedup_noise"] is None and record["machine"]["copy_gb_per_s"] > 0
    assert len(record["conclusions"]) == 1 and "fastest in fp32" in record["conclusions"][0] and "× princeton" in output


class FakeEvent:
    """A CUDA event whose time is the number of operations enqueued in its stream before it."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.position: int | None = None

    def record(self, stream: list[str]) -> None:
        self.position = len(stream)

    def synchronize(self) -> None:
        assert self.position is not None

    def elapsed_time(self, other: FakeEvent) -> float:
        assert self.position is not None and other.position is not None
        return float(other.position - self.position)


def test_events_are_around_the_work_and_in_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    stream: Any = ["copy"]
    assert time_on_stream(stream, lambda: stream.extend(["copy", "network", "decode"])) == 3.0
    process = list[int]()
    assert time_on_stream(None, lambda: process.append(1)) == 0.0 and process == [1]


def test_trial_records_gpu_times() -> None:
    def batches(gpu: float) -> Any:
        while True:
            yield BatchInfo(2, 0.001, gpu)

    trial, without_gpu = (run_trial(batches(gpu), TrialSettings(0.0, batches=4, warm=1)) for gpu in (1.5, 0.0))
    assert (
        trial.images == 8
        and trial.data_wait_s == pytest.approx(0.004)
        and trial.gpu_ms == (1.5,) * 4
        and without_gpu.gpu_ms == ()
    )
    start = StartupCost(0.0, 0.0)
    assert Result(start, [trial, without_gpu]).gpu_ms == 1.5 and Result(start, [without_gpu]).gpu_ms is None


# ---- session overhead ----


def result(*rates: float) -> Result:
    return Result(StartupCost(0.0, 0.0), [Trial(round(100 * rate), 100.0, 1.0, batch_ms=(1000 / rate,)) for rate in rates])


def test_session_overhead_ratios_are_per_round(onnx: Path) -> None:
    found: dict[Any, Result] = {
        ("openvino", "network alone"): result(10, 100, 40),
        ("openvino", "session"): result(8, 80, 40),
        ("openvino", "4 threads"): result(8, 88, 20),
    }
    rows = [make_row(SessionVariant(what, "openvino", onnx, 1), found["openvino", what], 0.05, found) for _, what in found]
    assert [row["overhead"] for row in rows] == [None, pytest.approx(0.25), None]
    assert [row["times_one_thread"] for row in rows] == [None, None, pytest.approx(1.0)]
    assert len({tuple(row) for row in rows}) == 1 and len(conclusions(rows)) == 2
    assert "+25.0% (target < 10%): too much" in conclusions(rows)[0] and "1.00 of one thread's" in conclusions(rows)[1]


def test_session_variants_count_images(onnx: Path) -> None:
    for what in ("session", "4 threads"):
        batches = SessionVariant(what, "onnxruntime", onnx, 1).start()
        assert sum(next(batches).images for _ in range(8)) >= 8
        batches.close()


def test_leak_row_reports_memory_and_files(onnx: Path) -> None:
    row = leak_row("python", "onnxruntime", onnx, run_python_session(onnx, "onnxruntime", 50))
    assert row["calls"] == 50 and row["growth_kb"] < 5000 and row["files_after"] == row["files_before"] > 0
    (words,) = conclusions([row])
    assert "50 calls" in words and words.endswith("good")
    assert conclusions([{**row, "files_after": row["files_before"] + 1}])[0].endswith("a leak")


@pytest.mark.parametrize(
    ("script", "words", "complaint"),
    [
        ("latency", ("--batch", "[0]"), "batch is [0], must be at least 1"),
        ("latency", ("--batch", "[]"), "--batch must not be empty"),
        ("latency", ("--threads", "1000"), "cores are available"),
        ("latency", ("none.onnx",), "there is no file none.onnx"),
        ("latency", ("--presets", "[hg3]"), "choose from hg1"),
        ("latency", ("--checkpoint", "net.onnx"), "--checkpoint needs a checkpoint of training"),
        ("embedding", ("--runs", "0"), "runs is 0, must be at least 1"),
        ("embedding", ("--cli", "nowhere"), "build it as export/cpp/README.md says"),
    ],
)
def test_bad_flags_are_one_error(error_of: ErrorOf, script: str, words: tuple[str, ...], complaint: str, tmp_path: Path) -> None:
    main = {"latency": latency_script.main, "embedding": session_overhead.main}[script]
    assert complaint in error_of(main, *words, "--work", tmp_path)
