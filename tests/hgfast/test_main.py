"""The console command: every verb has a module with a `main`, and a wrong verb is one sentence."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from hgfast import __version__
from hgfast.__main__ import HELP, VERBS, find, main

MODULES = [module for found in VERBS.values() for module in (found.values() if isinstance(found, dict) else [found])]


@pytest.mark.parametrize("module", MODULES)
def test_a_verb_names_a_script(module: str) -> None:
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text())
    assert "main" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ([], ["--help"], ["-h"]):
        monkeypatch.setattr(sys, "argv", ["hgfast", *words])
        main()
        assert capsys.readouterr().out == HELP + "\n"
    assert [line.split()[0] for line in HELP.splitlines() if line.startswith("  ")] == list(VERBS)
    monkeypatch.setattr(sys, "argv", ["hgfast", "export", "--help"])
    main()
    assert "onnx, torchscript, tensorrt" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["hgfast", "--version"])
    main()
    assert capsys.readouterr().out == f"hgfast {__version__}\n"


HEAVY = {"torch", "nvidia", "onnx", "onnxruntime", "openvino", "tensorrt", "matplotlib", "scipy", "h5py"}
COMMANDS = [f"{verb} {name}" for verb, names in VERBS.items() for name in (names if isinstance(names, dict) else [""])]


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys, hgfast.__main__
for command in {COMMANDS}:
    sys.argv = ["hgfast", *command.split(), "--help"]
    try:
        hgfast.__main__.main()
    except SystemExit as end:
        assert end.code == 0
    assert not {HEAVY} & set(sys.modules), (command, {HEAVY} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: hgfast") == len(COMMANDS)


def test_the_words_after_the_verb_are_the_script_s() -> None:
    assert find(["train", "--exp", "a"]) == ("hgfast.train", ["--exp", "a"])
    assert find(["export", "onnx", "best.pt"]) == ("hgfast.export.to_onnx", ["best.pt"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown verb 'trian': did you mean train?"),
        (["export", "onx", "best.pt"], "'onx': did you mean onnx?"),
        (["zzz"], "choose from train, evaluate, predict"),
        (["bench"], "choose from latency, loader"),
    ],
)
def test_a_wrong_verb_is_one_sentence(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["hgfast", *words])
    with pytest.raises(SystemExit) as end:
        main()
    output = capsys.readouterr()
    assert end.value.code == 2 and not output.out
    assert output.err.startswith("error: ") and message in output.err and output.err.count("\n") == 1


def test_both_ways_to_call_it(tmp_path: Path) -> None:
    """Next to the user's files that have the names of hgfast's folders."""
    (tmp_path / "pipelines.py").write_text("raise SystemExit('not ours')\n")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "__init__.py").write_text("raise SystemExit('not ours')\n")
    words = ["synthetic", "freihand", "--out", str(tmp_path / "hands"), "--count", "1", "--evaluation", "1", "--workers", "1"]
    done = subprocess.run([sys.executable, "-m", "hgfast", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and (tmp_path / "hands" / "training_K.json").exists(), done.stderr
    script = Path(sys.executable).with_name("hgfast")
    done = subprocess.run([script, *words, "--evaluaton", "2"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--evaluation" in done.stderr
    done = subprocess.run([script, "check", "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("usage: hgfast check"), done.stderr
