"""bench/latency.py and bench/embedding.py from the shell, and the parts whose figures nobody could check by looking."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command, Refusal

sys.path.append(str(Path(__file__).parents[2] / "bench"))  # where Python looks for the modules beside a script
sys.path.append(str(Path(__file__).parents[2] / "export"))

import embedding
import latency
import networks
from contest import Lap, Made, Pace, Result, Start, run_lap
from embedding import EmbeddingWay, conclusions, endurance_row, live, make_row
from floors import Rates, floor_ms, measure_rates
from latency import LatencyConfig, network_of_checkpoint, network_of_files, preset_of
from latency_ways import LatencyWay, everything, gpu_ms, rotated
from networks import ONNX, exported, exports, fits, fresh
from noise import Noise
from options import ExportConfig
from to_onnx import make_onnx

from hgfast import sidecar as sidecars
from hgfast.checkpoints import load_model
from hgfast.config import DataChoice
from hgfast.costs import forward_flops
from hgfast.errors import HgfastError
from hgfast.inference import keypoints_of
from hgfast.machine import CpuFeatures, cpu_features
from hgfast.model import PRESETS
from pipelines.drawn.pictures import draw_pictures


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fresh("tiny", tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def onnx(checkpoint: Path) -> Path:
    config = ExportConfig(checkpoint=checkpoint, batch="1:2:4", no_verify=True)
    return make_onnx(config, config.load(), config.target("onnx")).path


# ---- ways ----


def way(name: str, file: Path, work: Path, runtime: str = "torch", batch: int = 2, **more: Any) -> LatencyWay:
    return LatencyWay(name, runtime, more.pop("precision", "fp32"), file, "tiny", 64, batch, 1, work, **more)


def test_all_ways_say_the_same(checkpoint: Path, onnx: Path, tmp_path: Path) -> None:
    pictures = draw_pictures(64, 5)
    np.save(tmp_path / "pictures.npy", pictures)
    model = load_model(checkpoint)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.meta.preprocessing.mean, model.meta.preprocessing.std))
    with torch.no_grad():
        wanted = keypoints_of(model, model((torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255 - mean) / std)[:, -1]).numpy()
    ways = [way(name, checkpoint, tmp_path) for name in ("seed_style", "channels_last")]
    ways += [way(name, onnx, tmp_path, name) for name in ("onnxruntime", "openvino")]
    for one in ways:
        batches = one.start()
        assert [next(batches).images for _ in range(3)] == [2, 2, 2]
        found = np.load(one.points)
        sure = wanted[..., 2] > 0.05
        assert found.shape == wanted.shape and np.abs(found - wanted)[sure].max() < 0.05, one.name
    assert len({one.points for one in ways}) == len({one.process for one in ways}) == len(ways)


def test_the_seeds_way_swaps_axes_only(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single precision, channels_last activations by NCHW weights; in hgfast's the weights are channels_last too."""
    seen: list[tuple[torch.dtype, bool, bool]] = []
    plain = torch.nn.Conv2d.forward

    def look(module: torch.nn.Conv2d, inputs: torch.Tensor) -> torch.Tensor:
        layouts = (value.is_contiguous(memory_format=torch.channels_last) for value in (inputs, module.weight))
        if module.kernel_size[0] > 1 and module.in_channels > 1:  # a 1 x 1 kernel has both layouts
            seen.append((inputs.dtype, *layouts))  # type: ignore[arg-type]
        return plain(module, inputs)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", look)
    np.save(tmp_path / "pictures.npy", draw_pictures(64, 2))
    for name, weights in (("seed_style", False), ("channels_last", True)):
        seen.clear()
        next(way(name, checkpoint, tmp_path).start())
        assert len(seen) > 10 and set(seen) == {(torch.float32, True, weights)}


def test_end_to_end_finds_the_photographs_points(onnx: Path, tmp_path: Path) -> None:
    """What is cut out of the enlarged picture is nine tenths of it, so points are the crop's in other pixels."""
    np.save(tmp_path / "pictures.npy", draw_pictures(64, 4))
    batches = way("onnxruntime", onnx, tmp_path, "onnxruntime", end_to_end=True).start()
    assert [next(batches), next(batches)] == [(2, 0, 0)] * 2 and not way(
        "onnxruntime", onnx, tmp_path, "onnxruntime"
    ).points.exists()


def test_inputs_are_rotated() -> None:
    pictures = draw_pictures(64, 6)
    for batch in (1, 8, 32):
        inputs = rotated(pictures, batch)
        assert all(one.shape == (batch, 64, 64, 3) and one.flags.c_contiguous for one in inputs)
        assert len({one.tobytes() for one in inputs}) == len(inputs)
    found = everything(lambda images: images.reshape(len(images), -1)[:, :3], pictures, 4)
    assert np.array_equal(found, pictures.reshape(6, -1)[:, :3])


# ---- files ----


def test_what_was_exported_is_taken_again(checkpoint: Path, onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert onnx == checkpoint.with_name("fresh.fp32.onnx")
    assert exported(checkpoint, ONNX, 4, tmp_path, [], True) == onnx  # beside it: the user's own
    assert not fits(onnx, checkpoint, 5) and not fits(onnx.with_name("none.onnx"), checkpoint, 1)
    other = fresh("tiny", tmp_path / "other")
    assert not fits(onnx, other, 4) or sidecars.checksum(other) == sidecars.checksum(checkpoint)
    monkeypatch.setattr(networks, "ROOT", tmp_path)  # where there is no export/
    with pytest.raises(HgfastError, match="to_onnx"):
        exported(checkpoint, ONNX, 16, tmp_path, [], True)


def test_int8_wants_pictures_of_the_joints(checkpoint: Path, tmp_path: Path) -> None:
    hands = tmp_path / "hands.pt"
    content = torch.load(checkpoint, weights_only=True)
    content["meta"]["skeleton"]["joints"] = [f"joint {number}" for number in range(16)]
    torch.save(content, hands)
    with pytest.raises(HgfastError, match="int8 is calibrated with pictures of these joints"):
        networks.drawn_people(hands, tmp_path)


def test_what_cannot_run_here_is_listed(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path, export: networks.Export, *__: object) -> Path:
        raise HgfastError(f"no {export.precision} today")

    monkeypatch.setattr("latency.exported", refuse)
    config = LatencyConfig(checkpoint=checkpoint, quick=True, work=tmp_path)
    network = network_of_checkpoint(config, checkpoint, tmp_path)
    notes = {(row["way"], row["precision"]): row["note"] for row in network.missing}
    assert notes["onnx", "int8"] == "no int8 today" and notes["onnx", "fp16"] == "left out by --quick"
    if not torch.cuda.is_available():
        assert notes["tensorrt", "fp16"] == notes["tensorrt_rtx", "fp32"] == "no NVIDIA GPU here"
    emulated = [] if cpu_features().bf16 or torch.cuda.is_available() else [("autocast", "bf16")]
    assert all(notes[one] == "no bf16 on this CPU" for one in emulated)
    assert len(notes) == len(exports(torch.cuda.is_available())) + 1 + len(emulated)  # and torch.compile
    assert [one.way for one in network.ways][:2] == ["seed_style", "channels_last"]


def test_data_flags_go_on_as_they_were_given() -> None:
    config = LatencyConfig(dataset="coco", annotations=Path("a.json"), padding=1.5, shares=[0.8, 0.1])
    words = ["--dataset", "coco", "--annotations", "a.json", "--padding", "1.5", "--shares", "[0.8,0.1]"]
    assert config.flags == words and LatencyConfig().flags == []
    assert set(vars(DataChoice())) <= set(vars(config))


def test_presets_are_known_by_their_shapes(checkpoint: Path) -> None:
    assert preset_of(load_model(checkpoint)) == "tiny" and preset_of(None) == ""


# ---- floors ----


def test_a_floor_is_the_longer_of_two_times() -> None:
    arch = PRESETS["tiny"]
    flops = forward_flops(arch, 16)
    slow = Rates({"fp32": 1e9}, 1e30)
    assert floor_ms(slow, arch, 16, 3, "fp32", 64) == pytest.approx(3 * flops / 1e6)
    assert floor_ms(slow, arch, 16, 1, "fp32", 128) == pytest.approx(4 * flops / 1e6)
    copying = Rates({"fp32": 1e30, "fp16": 1e30}, 1e6)
    full, half = (floor_ms(copying, arch, 16, 0, kind, 64) or 0 for kind in ("fp32", "fp16"))
    assert full == pytest.approx(2 * half) and half > 0
    assert floor_ms(slow, arch, 16, 1, "int8", 64) is None


def test_rates_are_measured() -> None:
    rates = measure_rates(torch.device("cpu"), 1)
    names = {"fp32", "bf16"} if cpu_features().bf16 else {"fp32"}
    assert rates.flops["fp32"] > 1e9 and rates.bytes > 1e8 and set(rates.flops) == names
    assert set(rates.row) == {*(f"matrix_tflops_{name}" for name in names), "copy_gb_per_s"}


# ---- without bf16 and VNNI ----


def on_cpu(monkeypatch: pytest.MonkeyPatch, features: CpuFeatures) -> None:
    monkeypatch.setattr(latency, "cpu_features", lambda: features)
    monkeypatch.setattr("floors.cpu_features", lambda: features)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device runs autocast itself")
def test_bf16_is_left_out_where_it_is_emulated(onnx: Path, checkpoint: Path, tmp_path: Path, monkeypatch: Any) -> None:
    on_cpu(monkeypatch, CpuFeatures("AVX2", bf16=False, vnni=False))
    monkeypatch.setattr(latency, "resolve", lambda amp, device: "off")
    network = network_of_files(LatencyConfig(files=[checkpoint, onnx], batch=[2], work=tmp_path, compile=False), tmp_path)
    assert {one.precision for one in network.ways} == {"fp32"}
    assert [(row["way"], row["precision"]) for row in network.missing] == [("autocast", "bf16"), ("openvino", "bf16")]
    assert "not measured: no bf16 on this CPU" in latency.table([{**row, "batch": None} for row in network.missing])
    assert set(measure_rates(torch.device("cpu"), 1).flops) == {"fp32"}


@pytest.mark.parametrize(
    ("vnni", "int8_ms", "fastest"), [(True, 9.0, "int8"), (True, 10.2, "fp32"), (False, 9.0, "int8"), (False, 10.2, "fp32")]
)
def test_int8_without_vnni_is_recommended_only_if_it_is_faster(
    vnni: bool, int8_ms: float, fastest: str, onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu(monkeypatch, CpuFeatures("AVX2_VNNI" if vnni else "AVX2", bf16=False, vnni=vnni))
    ways = [way("openvino", onnx, tmp_path, "openvino", precision=name) for name in ("fp32", "fp32", "int8")]
    results = [result(1000 / ms) for ms in (12.0, 10.0, int8_ms)]
    found = Noise((0.001,) * 3, 5, 1.0)
    network = latency.Network("tiny", 64, 16, ways, [], None)
    words = latency.verdict(ways, results, found, network).partition("fastest at all: ")[2]
    assert words.startswith(f"openvino {fastest}") and ("int8" in words) == (fastest == "int8" or vnni)
    assert latency.note_on_isa(ways[2]) == ("" if vnni else "int8 without VNNI")


def test_what_a_runtime_ignores_stands_beside_its_figure(onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu(monkeypatch, CpuFeatures("AVX2", bf16=False, vnni=False, limit="ONEDNN_MAX_CPU_ISA=AVX2"))
    notes = [latency.note_on_isa(way(name, onnx, tmp_path, name, precision="int8")) for name in ("onnxruntime", "openvino")]
    assert notes == ["not limited by ONEDNN_MAX_CPU_ISA=AVX2", "int8 without VNNI"]


# ---- the commands ----


@pytest.mark.slow
def test_a_file_from_the_shell(command: Command, onnx: Path, tmp_path: Path) -> None:
    flags = ("--quick", "--batch", "[4]", "--threads", 1, "--work", tmp_path / "work")
    done = command("bench/latency.py", onnx, *flags, "--json", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads((tmp_path / "r.json").read_text())
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
    assert len(record["conclusions"]) == 1 and "fastest in fp32" in record["conclusions"][0] and "speed-up" in done.stdout


class FakeEvent:
    """One of CUDA's: its time is the number of things that its stream had to do before it."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.at: int | None = None

    def record(self, stream: list[str]) -> None:
        self.at = len(stream)

    def synchronize(self) -> None:
        assert self.at is not None

    def elapsed_time(self, other: FakeEvent) -> float:
        assert self.at is not None and other.at is not None
        return float(other.at - self.at)


def test_events_are_around_the_work_and_in_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    stream: Any = ["copy"]
    assert gpu_ms(stream, lambda: stream.extend(["copy", "network", "decode"])) == 3.0
    done = list[int]()
    assert gpu_ms(None, lambda: done.append(1)) == 0.0 and done == [1]


def test_a_lap_keeps_what_the_gpu_took() -> None:
    def batches(gpu: float) -> Any:
        while True:
            yield Made(2, 0.001, gpu)

    lap, blind = (run_lap(batches(gpu), Pace(0.0, batches=4, warm=1)) for gpu in (1.5, 0.0))
    assert lap.images == 8 and lap.waited == pytest.approx(0.004) and lap.gpu_ms == (1.5,) * 4 and blind.gpu_ms == ()
    start = Start(0.0, 0.0)
    assert Result(start, [lap, blind]).gpu_ms == 1.5 and Result(start, [blind]).gpu_ms is None


# ---- embedding ----


def result(*rates: float) -> Result:
    return Result(Start(0.0, 0.0), [Lap(round(100 * rate), 100.0, 1.0, batch_ms=(1000 / rate,)) for rate in rates])


def test_what_embedding_costs_is_taken_round_by_round(onnx: Path) -> None:
    found: dict[Any, Result] = {
        ("openvino", "network alone"): result(10, 100, 40),
        ("openvino", "session"): result(8, 80, 40),
        ("openvino", "4 threads"): result(8, 88, 20),
    }
    rows = [make_row(EmbeddingWay(what, "openvino", onnx, 1), found["openvino", what], 0.05, found) for _, what in found]
    assert [row["overhead"] for row in rows] == [None, pytest.approx(0.25), None]
    assert [row["times_one_thread"] for row in rows] == [None, None, pytest.approx(1.0)]
    assert len({tuple(row) for row in rows}) == 1 and len(conclusions(rows)) == 2
    assert "+25.0% (wanted < 10%): too much" in conclusions(rows)[0] and "1.00 of one thread's" in conclusions(rows)[1]


def test_ways_of_embedding_count_what_they_make(onnx: Path) -> None:
    for what in ("session", "4 threads"):
        batches = EmbeddingWay(what, "onnxruntime", onnx, 1).start()
        assert sum(next(batches).images for _ in range(8)) >= 8
        batches.close()


def test_memory_is_watched(onnx: Path) -> None:
    row = endurance_row("python", "onnxruntime", onnx, live(onnx, "onnxruntime", 50))
    assert row["calls"] == 50 and row["growth_kb"] < 5000 and row["files_after"] == row["files_before"] > 0
    (words,) = conclusions([row])
    assert "50 calls" in words and words.endswith("good")
    assert conclusions([{**row, "files_after": row["files_before"] + 1}])[0].endswith("a leak")


@pytest.mark.parametrize(
    ("script", "words", "complaint"),
    [
        ("latency", ("--batch", "[0]"), "must be at least 1"),
        ("latency", ("--threads", "1000"), "what shares a core measures nothing"),
        ("latency", ("none.onnx",), "there is no file none.onnx"),
        ("latency", ("--presets", "[hg3]"), "choose from hg1"),
        ("latency", ("--checkpoint", "net.onnx"), "--checkpoint is one that training wrote"),
        ("embedding", ("--runs", "0"), "--runs"),
        ("embedding", ("--cli", "nowhere"), "build it as export/cpp/README.md says"),
    ],
)
def test_wrong_flags_are_one_sentence(
    refusal: Refusal, script: str, words: tuple[str, ...], complaint: str, tmp_path: Path
) -> None:
    main = {"latency": latency.main, "embedding": embedding.main}[script]
    assert complaint in refusal(main, *words, "--work", tmp_path)
