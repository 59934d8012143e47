"""bench/gpu_check.py without a GPU: its commands are understood by the scripts that they name, steps are run and judged, and
bench/gpu_install.py decides rightly; pip is never called."""

from __future__ import annotations

import ast
import json
import runpy
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Command, Refusal

sys.path.append(str(ROOT / "bench"))  # where Python looks for the modules beside a script
sys.path.append(str(ROOT / "export"))

import gpu_check
import gpu_install
import gpu_run
from gpu_install import Found, Install, Refused, Requirement, Torch, decide, wanted
from gpu_steps import NO_BACKEND, Setting, Step, all_steps

from hgfast.cli import Parser
from hgfast.errors import run

AT = Setting(
    slug="some-gpu",
    gpus=2,
    memory_gb=80.0,
    threads=2,
    out=Path("out"),
    work=Path("work"),
    quick=False,
    minutes=10.0,
)
STEPS = all_steps(AT)
NAMES = [step.name for step in STEPS]
BUILDS = "nothing here builds TensorRT engines (TensorRT cannot be imported (No module named 'tensorrt')): pip install something"


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


# ---- the commands ----


class Parsed(BaseException):
    """Thrown once a script has understood its flags."""


def understood(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script up to where its flags are read, and fail where it does not take them."""
    parse_args = Parser.parse_args

    def parse_only(self: Parser, *given: Any, **options: Any) -> Any:
        parse_args(self, *given, **options)
        raise Parsed

    monkeypatch.setattr(Parser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", list(words))
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "tests"])
def test_every_command_is_understood_by_its_script(name: str, quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    step = next(step for step in all_steps(replace(AT, quick=quick)) if step.name == name)
    words: list[str] = [*step.command, *map(str, step.if_there)]
    if words[:2] == ["-m", "torch.distributed.run"]:
        from torch.distributed.run import get_args_parser

        given = get_args_parser().parse_args(words[2:])
        assert given.nproc_per_node == "2"
        words = [given.training_script, *given.training_script_args]
    understood(words, monkeypatch)


def test_a_flag_that_a_script_does_not_have_is_found_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        understood(["bench/decode.py", "--devise", "cuda"], monkeypatch)
    assert "unknown flag --devise" in capsys.readouterr().err


def test_the_tests_step_runs_tests_of_that_mark() -> None:
    assert STEPS[0].command[:4] == ("-m", "pytest", "-m", "gpu")
    assert '"gpu: ' in (ROOT / "pyproject.toml").read_text()
    assert any("pytest.mark.gpu" in path.read_text() for path in ROOT.glob("tests/hgfast/*.py"))


def test_steps_go_together() -> None:
    """What a step needs is made before it; no two leave the same file; files that are results are named in the command."""
    made: set[Path] = set()
    for step in STEPS:
        assert set(step.needs) <= made and set(step.if_there) <= made, step.name
        for path in (step.result, step.makes):
            if path is not None:
                assert path not in made
                made.add(path)
        if step.result is not None:
            assert str(step.result) in step.command and step.result.name.endswith("-some-gpu.json")
    assert len(set(NAMES)) == len(NAMES)
    engines = [step.makes for step in STEPS if step.name.startswith("engine")]
    assert len(engines) == 5
    for path in engines:
        assert path is not None and path.with_suffix(".onnx") not in made  # which export/trt.py leaves beside it


def test_one_gpu_is_not_several() -> None:
    alone = {step.name: step for step in all_steps(replace(AT, gpus=1))}
    assert alone["all-gpus"].impossible and not alone["training"].impossible and not STEPS[-1].impossible


def test_list_names_every_step(command: Command, no_gpu: None) -> None:
    done = command("bench/gpu_check.py", "--list")
    assert done.returncode == 0, done.stderr
    for step in STEPS:
        assert f"# {step.name}: {step.words}\npython " in done.stdout
    assert "exp/gpu-check/hg2/engines/best.int8.engine" in done.stdout and "bench/results/loader-gpu.json" in done.stdout


def test_without_a_gpu_it_is_one_sentence(command: Command, no_gpu: None) -> None:
    done = command("bench/gpu_check.py")
    assert done.returncode == 2 and done.stderr.startswith("error: no GPU is visible to torch")
    assert done.stderr.count("\n") == 1 and done.stdout == ""


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--steps", "[testing]", "--list"), "'testing' is unknown; choose from tests, loader, data"),
        (("--minutes", "0"), "--minutes is 0, must be above 0"),
        (("--quik",), "did you mean --quick"),
    ],
)
def test_wrong_flags_are_one_sentence(words: tuple[str, ...], complaint: str, refusal: Refusal) -> None:
    assert complaint in refusal(gpu_check.main, *words)


# ---- running steps ----


def python(code: str, **more: Any) -> Step:
    return Step(**{"name": "step", "words": "what it shows", "command": ("-c", code), **more})


def test_a_step_that_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.json"
    step = python("import sys; print('one'); open(sys.argv[1], 'w').write('{}'); print('two')", result=path)
    done = gpu_run.carry_out(replace(step, command=(*step.command, str(path))), 60)
    assert (done.state, done.why, done.said) == ("ok", "", "two") and done.seconds > 0
    printed = capsys.readouterr().out
    assert "== step: what it shows\n$ python -c " in printed and printed.endswith("one\ntwo\n")


@pytest.mark.parametrize(
    ("code", "state", "why"),
    [
        ("raise SystemExit(3)", "failed", "exit code 3"),
        ("print('a'); raise ValueError('no')", "failed", "exit code 1: ValueError: no"),
        ("import os; os.kill(os.getpid(), 9)", "failed", "signal 9"),
        (f"print({BUILDS!r}); raise SystemExit(1)", "failed", f"exit code 1: {BUILDS}"),
        (f"print('error: x.onnx is written, the engine is not: ' + {BUILDS!r}); raise SystemExit(2)", "not possible", BUILDS),
        ("print('error: it differs'); print('bye'); raise SystemExit(2)", "failed", "exit code 2: it differs"),
    ],
)
def test_a_step_that_does_not(code: str, state: str, why: str) -> None:
    done = gpu_run.carry_out(python(code, missing=NO_BACKEND), 60)
    assert done.state == state and done.why.endswith(why)


@pytest.mark.parametrize("backend", ["tensorrt_rtx", "torch_tensorrt", "auto"])
def test_what_the_export_says_without_a_library_is_known(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its real sentences, as they would be on a machine with a GPU and no library."""
    import re

    import engines

    from hgfast.errors import HgfastError

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    for name in ("tensorrt_bindings", "tensorrt_rtx", "tensorrt_rtx_bindings", "torch_tensorrt"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(HgfastError) as error:
        engines.find_backend(backend, gpu=True)
    assert re.search(NO_BACKEND, str(error.value))


def test_a_step_that_leaves_nothing_or_something_old_has_failed(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("{}")
    assert gpu_run.carry_out(python("", result=old), 60).why == f"it has not written {old}"
    assert gpu_run.carry_out(python("", makes=old), 60).why == f"it has not written {old}"
    assert not old.exists()  # of what is made here, nothing old is mistaken for new; results of others are kept


def test_a_step_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_run, "GRACE", 5.0)
    done = gpu_run.carry_out(python("import time; print('begun'); time.sleep(100)"), 3)
    assert done.state == "failed" and done.seconds < 30
    assert "it was ended after" in done.why and done.why.endswith("begun")


def test_what_is_missing_makes_a_step_impossible_and_optional_words_are_left_out(tmp_path: Path) -> None:
    absent, there = tmp_path / "absent", tmp_path / "there"
    there.touch()
    done = gpu_run.carry_out(python("print(1)", needs=(there, absent)), 60)
    assert (done.state, done.seconds) == ("not possible", 0) and f"there is no {absent}" in done.why
    assert gpu_run.carry_out(python("", impossible="one GPU"), 60).why == "one GPU"
    done = gpu_run.carry_out(python("import sys; print(sys.argv[1:])", if_there=(absent, there)), 60)
    assert done.said == str([str(there)])


SIDECAR = {
    "artefact": "best.engine",
    "kind": "tensorrt",
    "precision": "fp16",
    "builder": {"backend": "tensorrt", "version": "11.4"},
    "verification": {"rows": [{"runtime": "tensorrt", "batch": 1, "max_px": 0.01, "verdict": "ok"}]},
}
WRITE = "import sys; open(sys.argv[1], 'w').write('x'); open(sys.argv[1] + '.json', 'w').write(sys.argv[2])"


def artefact(tmp_path: Path, sidecar: dict[str, Any]) -> Step:
    path = tmp_path / "best.engine"
    return Step(
        name="engine",
        words="an engine",
        command=("-c", WRITE, str(path), json.dumps(sidecar)),
        makes=path,
        artefact=True,
    )


@pytest.mark.parametrize("rows", [None, {"rows": []}, {"rows": [{"runtime": "tensorrt", "verdict": "built, not run here"}]}])
def test_an_artefact_that_was_not_verified_has_failed(rows: Any, tmp_path: Path) -> None:
    done = gpu_run.carry_out(artefact(tmp_path, {**SIDECAR, "verification": rows}), 60)
    assert done.state == "failed" and "not verified" in done.why


def test_from_steps_to_table_record_and_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes = [
        python("print('fine')", name="good"),
        python("raise SystemExit(3)", name="bad"),
        python(f"print({BUILDS!r}); raise SystemExit(2)", name="absent", missing=NO_BACKEND),
        artefact(tmp_path, SIDECAR),
    ]
    card = {"gpu": "Some GPU (R)", "gpus": 1, "gpu_memory_gb": 80.0, "compute_capability": "9.0", "cuda": "13.0"}
    monkeypatch.setattr(gpu_check, "graphics", lambda: card)
    monkeypatch.setattr(gpu_check, "all_steps", lambda _: fakes)
    flags = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *flags])
    with pytest.raises(SystemExit) as end:
        run(gpu_check.main)
    assert end.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    for name, state in (("good", "ok"), ("bad", "failed"), ("absent", "not possible"), ("engine", "ok")):
        assert any(line.split()[: 1 + len(state.split())] == [name, *state.split()] for line in lines), name
    record = json.loads((tmp_path / "out" / "gpu-check-some-gpu-r.json").read_text())
    assert record["machine"]["gpu"] == "Some GPU (R)" and record["machine"]["compute_capability"] == "9.0"
    assert [row["state"] for row in record["rows"]] == ["ok", "failed", "not possible", "ok"]
    assert {tuple(row) for row in record["rows"]} == {("step", "state", "seconds", "file", "words", "why", "said")}
    exports = json.loads((tmp_path / "out" / "export-some-gpu-r.json").read_text())["rows"]
    assert [(row["step"], row["built_by"], row["max_px"]) for row in exports] == [("engine", "tensorrt 11.4", 0.01)]

    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *flags, "--steps", "[good,absent]"])
    with pytest.raises(SystemExit) as end:
        run(gpu_check.main)
    assert end.value.code == 0


# ---- installing ----

NEEDED = wanted()
ALL = {one.name: "9999" for one in NEEDED}
CONTAINER = Torch("2.10.0a0+b4e4ee81d3.nv25.12", "13.1", ours=False)


def found(torch: Torch | None = CONTAINER, hgfast: bool = True, libraries: str = "", **versions: str | None) -> Found:
    """A machine that has all packages, but for those that are None."""
    changed = {name.replace("_", "-"): version for name, version in versions.items()}
    kept = {name: version for name, version in {**ALL, **changed}.items() if version is not None}
    return Found(torch, kept, frozenset(libraries.split()), hgfast)


def words(installs: Sequence[Install]) -> list[str]:
    return [" ".join(one.words) for one in installs]


def test_what_is_needed_is_what_setup_py_says() -> None:
    names = {one.name for one in NEEDED}
    assert {"numpy", "opencv-python-headless", "torch", "jsonargparse", "onnx", "matplotlib", "pytest"} <= names
    assert not names & {"mypy", "ruff", "tensorrt-rtx-cu13-libs"}
    assert Requirement.read("jsonargparse[signatures]>=4.49; python_version > '3'") == Requirement(
        "jsonargparse[signatures]>=4.49", "jsonargparse", "4.49"
    )


def test_where_there_is_nothing_torch_comes_first() -> None:
    assert words(decide(Found(None, {}, frozenset(), False), NEEDED)) == ["torch"]


def test_a_containers_torch_and_packages_are_kept() -> None:
    state = found(hgfast=False, libraries="tensorrt torch_tensorrt", tabulate=None, numpy="1.26.4", scipy="1.9", pillow="?")
    installs = decide(state, NEEDED)
    assert words(installs) == ["scipy>=1.15 tabulate>=0.9", "nvidia-dali-cuda130", f"--no-deps --editable {ROOT}"]
    assert all(one.must for one in installs)


def test_where_all_is_there_nothing_is_installed() -> None:
    assert decide(found(libraries="nvidia.dali tensorrt"), NEEDED) == []


def test_dali_and_tensorrt_follow_torchs_cuda() -> None:
    installs = decide(found(Torch("2.11.0", "12.8", ours=True)), NEEDED)
    assert words(installs) == ["nvidia-dali-cuda120", "tensorrt-cu12", "tensorrt-rtx-cu12-libs tensorrt-rtx-cu12-bindings"]
    assert [one.must for one in installs] == [True, False, False]
    assert words(decide(found(libraries="nvidia.dali tensorrt_rtx_bindings"), NEEDED)) == ["tensorrt-cu13"]


def test_a_torch_without_cuda_is_neither_used_nor_replaced() -> None:
    with pytest.raises(Refused, match=r"torch 2\.13\.0\+cpu is here.*not replaced: name another Python with GPU_PYTHON"):
        decide(found(Torch("2.13.0+cpu", "", ours=False)), NEEDED)


class Pip:
    """Stands in for pip: what it was asked for; `fails` on what holds such a word."""

    def __init__(self, fails: str = "nothing") -> None:
        self.fails = fails
        self.asked: list[tuple[str, str]] = []

    def __call__(self, given: Sequence[str], constraint: Path) -> bool:
        self.asked.append((" ".join(given), constraint.read_text() if constraint.name == "kept.txt" else constraint.name))
        return not any(word.startswith(self.fails) for word in given)


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, pip: Pip, *states: Found) -> None:
    """Run the installer on a machine that looks so, time after time."""
    seen = iter(states)
    monkeypatch.setattr(gpu_install, "look", lambda _: next(seen))
    monkeypatch.setattr(gpu_install, "pip", pip)
    gpu_install.install(folder)


def test_on_a_bare_workstation_versions_are_the_projects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pip = Pip(fails="tensorrt-cu13")
    install(monkeypatch, tmp_path, pip, Found(None, {}, frozenset(), False), found(Torch("2.13.0+cu130", "13.0", True)))
    assert [given for given, _ in pip.asked][:2] == ["torch", "nvidia-dali-cuda130"]
    assert {constraint for _, constraint in pip.asked} == {"constraints.txt"}
    said = capsys.readouterr().out
    assert "torch: none" in said and "tensorrt-cu13 could not be installed; what needs it will be called not possible" in said
    assert pip.asked[-1][0].startswith("tensorrt-rtx")  # it went on


def test_in_a_container_nothing_may_replace_its_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = Pip()
    monkeypatch.setattr(gpu_install, "version_of", lambda name: {"torch": CONTAINER.version, "numpy": "2.1.0"}.get(name, "?"))
    install(monkeypatch, tmp_path, pip, found(libraries="tensorrt", h5py=None))
    assert [given for given, _ in pip.asked] == ["h5py>=3.11", "nvidia-dali-cuda130"]
    assert {constraint for _, constraint in pip.asked} == {f"torch=={CONTAINER.version}\nnumpy==2.1.0\n"}


def test_what_must_be_there_and_cannot_be_installed_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match="pip could not install nvidia-dali-cuda130"):
        install(monkeypatch, tmp_path, Pip(fails="nvidia-dali"), found(libraries="tensorrt"))


def test_the_installer_says_no_gpu_before_it_makes_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_install, "gpus", lambda: 0)
    with pytest.raises(SystemExit) as end:
        gpu_install.main(["--into", str(tmp_path / "venv")])
    printed = capsys.readouterr().err
    assert end.value.code == 2 and printed.startswith("error: no GPU is visible") and printed.count("\n") == 1
    assert not (tmp_path / "venv").exists()


def test_the_installer_needs_the_standard_library_alone() -> None:
    tree = ast.parse((ROOT / "bench" / "gpu_install.py").read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


def test_the_environment_sees_what_is_there_and_git_does_not_see_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the Python that makes it belongs to an environment itself, and ensurepip is missing."""
    monkeypatch.setattr(gpu_install, "there", lambda module: module != "ensurepip")
    made = gpu_install.make_environment(tmp_path / "venv")
    code = "import sys, tabulate; print(sys.prefix)"
    asked = subprocess.run([made, "-c", code], capture_output=True, text=True, check=False)
    assert asked.stdout.strip() == str(tmp_path / "venv"), asked.stderr
    assert (tmp_path / "venv" / ".gitignore").read_text() == "*\n"
    assert gpu_install.make_environment(tmp_path / "venv") == made  # as it is


def test_look_finds_what_this_python_has() -> None:
    state = gpu_install.look(NEEDED)
    assert state.torch is not None and state.hgfast
    assert state.versions["opencv-python-headless"] and all(one.met(state) for one in NEEDED if one.name in state.versions)
    assert gpu_install.numbers("2.9.0a0+50eac81") == (2, 9, 0) and gpu_install.version_of("no-such-package") == "?"


def test_make_gpu_check(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", "gpu-check", "GPU_PYTHON=python3.99", "GPU_CHECK=--quick"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "python3.99 bench/gpu_install.py --into .venv-gpu",
        ".venv-gpu/bin/python bench/gpu_check.py --quick",
    ], done.stderr
