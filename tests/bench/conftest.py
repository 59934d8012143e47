"""Running of the benchmark scripts, and networks and exports that several test files share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from hgfast.bench.harness.networks import untrained_checkpoint
from hgfast.export.exporter.artifact import load_network
from hgfast.export.exporter.onnx_export import make_onnx
from hgfast.export.exporter.options import ExportConfig

RunScript = Callable[..., "tuple[dict[str, Any], str]"]


@pytest.fixture
def run_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> RunScript:
    """Return a function that runs a script of bench/ in this process and returns its record and what it printed."""

    def run(name: str, *words: object) -> tuple[dict[str, Any], str]:
        path = tmp_path / "record.json"
        monkeypatch.setattr(sys, "argv", [f"bench/{name}.py", *map(str, words), "--json", str(path)])
        import_module(f"hgfast.bench.{name}").main()
        output = capfd.readouterr()
        assert "Traceback" not in output.err and "warn" not in output.err.lower(), output.err
        record: dict[str, Any] = json.loads(path.read_text())
        return record, output.out

    return run


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained tiny network for bodies."""
    return untrained_checkpoint("tiny", tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="session")
def onnx(checkpoint: Path, cached_exporter: None) -> Path:
    """The ONNX beside the checkpoint, for batches up to 4."""
    config = ExportConfig(checkpoint=checkpoint, batch="1:2:4", no_verify=True)
    return make_onnx(config, load_network(config), config.output_path("onnx")).path
