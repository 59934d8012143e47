"""bench/harness/interleaved.py: a variant that fails ends its own rows, and the rounds so far are recorded."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hgfast.bench.harness.config import DecodeConfig, LoaderConfig, TrainStepConfig
from hgfast.bench.harness.interleaved import (
    BatchInfo,
    BatchIterator,
    Result,
    StartupCost,
    Trial,
    TrialSettings,
    raise_failures,
    run_interleaved,
)
from hgfast.bench.harness.roofline import DeviceRates
from hgfast.bench.measurements import decode, latency, loader, train_step
from hgfast.bench.variants.latency import LatencyVariant
from hgfast.errors import HgfastError


@dataclass(frozen=True)
class FakeVariant:
    """A variant that fails in the given batch, if any."""

    name: str
    failure: str = ""
    failing_batch: int = 0
    shared: str = ""

    @property
    def process(self) -> str:
        return self.shared or self.name

    def load(self) -> None:
        pass

    def start(self) -> BatchIterator:
        number = 0
        while True:
            if number == self.failing_batch and self.failure == "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            if number == self.failing_batch and self.failure == "error":
                raise RuntimeError("CUDA error:\n an illegal memory access")
            if number == self.failing_batch and self.failure == "user":
                raise HgfastError("a library is missing")
            number += 1
            yield BatchInfo(1)


ONE_BATCH = TrialSettings(0.0, batches=1, warm=0, quick=True)


def test_a_dead_process_ends_only_its_own_rows(capfd: pytest.CaptureFixture[str]) -> None:
    variants = [
        FakeVariant("good"),
        FakeVariant("crashes at once", "crash"),
        FakeVariant("crashes in round 2", "crash", 2),
        FakeVariant("raises", "error", 1, shared="shared"),
        FakeVariant("shares its process", shared="shared"),
        FakeVariant("is not installed", "user"),
    ]
    rounds: list[list[int]] = []
    results = run_interleaved(
        variants, 3, ONE_BATCH, 1, on_round=lambda results: rounds.append([len(result.trials) for result in results])
    )
    errors = dict(zip((variant.name for variant in variants), (result.error for result in results)))
    assert errors.pop("good") == "" and len(results[0].trials) == 3
    assert errors.pop("crashes at once") == "crashes at once: its process died (signal 9): see its output above"
    assert "(signal 9)" in errors.pop("crashes in round 2")
    assert errors.pop("raises") == "raises: RuntimeError: CUDA error: an illegal memory access"
    assert "(exit code 1)" in errors.pop("shares its process")
    assert errors.pop("is not installed") == "is not installed: a library is missing"
    assert all(result.trials == [] for result in results[1:])
    assert [done[0] for done in rounds] == [1, 2]
    assert "failed: raises: RuntimeError" in capfd.readouterr().err
    with pytest.raises(HgfastError, match="5 of 6 variants failed, the others are measured; the first: crashes at once"):
        raise_failures(results)
    raise_failures(results[:1])


def test_failure_of_all_variants_is_an_error() -> None:
    with pytest.raises(HgfastError, match=r"^one: a library is missing$"):
        run_interleaved([FakeVariant("one", "user"), FakeVariant("two", "user")], 2, ONE_BATCH, 1)


# ---- the rows of every benchmark ----

DONE = Result(StartupCost(1.0, 2.0), [Trial(10, 1.0, 1.0, batch_ms=(1.0, 2.0))] * 2)
FAILED = Result(StartupCost(1.0, 2.0), [], "it died")


def fake_results(monkeypatch: pytest.MonkeyPatch, module: Any, failing: Sequence[int], interrupt: bool = False) -> None:
    """Replace the measurement of a module by results of which those at these indices have failed."""

    def fake(variants: Sequence[Any], *_: Any, on_round: Any = None, **__: Any) -> list[Result]:
        results = [FAILED if number in failing else DONE for number in range(len(variants))]
        callback = on_round or next(value for value in _ if callable(value))
        callback([replace(result, trials=result.trials[:1]) for result in results])
        if interrupt:
            raise KeyboardInterrupt
        return results

    monkeypatch.setattr(module, "run_interleaved", fake)


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


@pytest.mark.parametrize("failing", [0, 2])
def test_decode_rows_without_a_variant(failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_results(monkeypatch, decode, [failing])
    path = tmp_path / "r.json"
    with pytest.raises(HgfastError, match="1 of 7 variants failed"):
        decode.run(DecodeConfig(quick=True, json=path, device="cpu"))
    record = read(path)
    assert "incomplete" not in record
    for number, row in enumerate(record["rows"]):
        assert (row["median_ms"] is None) == (number == failing)
        assert (row["speedup"] is None) == (failing == 0 or number == failing)
        assert row.get("note") == ("it died" if number == failing else None)


def test_an_interrupted_run_keeps_its_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_results(monkeypatch, decode, [], interrupt=True)
    path = tmp_path / "r.json"
    with pytest.raises(KeyboardInterrupt):
        decode.run(DecodeConfig(quick=True, json=path, device="cpu"))
    assert read(path)["incomplete"].startswith("the run has not ended") and len(read(path)["rows"]) == 7


@pytest.mark.parametrize("failing", [0, 1])
def test_train_step_rows_without_a_variant(failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_results(monkeypatch, train_step, [failing])
    monkeypatch.setattr(train_step, "measure_rates", lambda *_: DeviceRates({"fp32": 1e9}, 1e9))
    path = tmp_path / "r.json"
    config = TrainStepConfig(quick=True, json=path, device="cpu", loader="none")
    with pytest.raises(HgfastError, match="1 of 2 variants failed"):
        train_step.run(config)
    rows = {row["way"]: row for row in read(path)["rows"]}
    assert list(rows) == [f"{method}_fixed" for method in train_step.PHASES]
    failed = ("seed_style_fixed", "hgfast_fixed")[failing]
    measured = ("seed_style_fixed", "hgfast_fixed")[1 - failing]
    assert rows[failed]["reason"] == "it died" and rows[failed]["step_ms"] is None
    assert rows[measured]["step_ms"] > 0 and rows[measured]["reason"] == ""
    assert (rows[measured]["speedup"] is None) == (failing == 0)
    assert rows["hgfast_compile_fixed"]["reason"] == "needs a GPU"
    assert len({tuple(row) for row in rows.values()}) == 1


@pytest.mark.parametrize("failing", [0, 1])
def test_latency_rows_without_a_variant(failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_results(monkeypatch, latency, [failing])
    monkeypatch.setattr(latency, "accuracy_images", lambda *_: np.zeros((1, 4, 4, 3), np.uint8))
    names = [("seed_style", "fp32"), ("channels_last", "fp32"), ("compile", "fp32")]
    variants = [LatencyVariant(name, "torch", p, Path("best.pt"), "tiny", 64, 1, 1, tmp_path) for name, p in names]
    for number, variant in enumerate(variants):
        if number != failing:  # a failed variant may have written no keypoints
            np.save(variant.points, np.zeros((1, 16, 3)))
    network = latency.ComparedNetwork("tiny", 64, 16, variants, [], None)
    saved: list[Any] = []
    config = latency.LatencyConfig(batch=[1], work=tmp_path)
    rates = DeviceRates({"fp32": 1e9}, 1e9)
    rows, conclusions, results = latency.measure(config, network, rates, tmp_path, lambda rows: saved.append(list(rows)))
    assert len(results) == 3 and len(saved) == 2 and len(saved[0]) == 3
    for number, row in enumerate(rows):
        assert (row["median_ms"] is None) == (number == failing) == (row["note"] == "it died")
        assert (row["speedup"] is None) == (row["max_px_error"] is None) == (failing == 0 or number == failing)
    assert len({tuple(row) for row in rows}) == 1 and "fastest in fp32" in conclusions[0]


def test_loader_rows_without_dali(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without DALI, the OpenCV loader and princeton's are measured."""
    config = LoaderConfig(
        quick=True, layouts=["freihand"], threads=1, work=tmp_path / "work", json=tmp_path / "r.json", seconds=0.1
    )
    failing = list[int]()

    def fake(variants: Sequence[Any], *_: Any) -> list[Result]:
        failing.extend(
            number for number, variant in enumerate(variants) if "dali" in (variant.mode, variant.loader.partition("_")[0])
        )
        results = [FAILED if number in failing else DONE for number in range(len(variants))]
        _[-1](results)
        return results

    monkeypatch.setattr(loader, "run_interleaved", fake)
    with pytest.raises(HgfastError, match="variants failed"):
        loader.run(config)
    rows = read(tmp_path / "r.json")["rows"]
    for row in rows:
        by_dali = row["loader"].startswith("dali") or row["variant"] == "dali"
        assert (row["images_per_s"] is None) == by_dali
        assert row["note"] == ({"dali_gpu": "no GPU here"}.get(row["loader"], "it died") if by_dali else "")
    assert failing
