"""bench/gpu_check.py without a GPU: the scripts parse its commands, steps run and their results are checked; and
bench/gpu_install.py plans the right installs. pip is never called."""

from __future__ import annotations

import ast
import importlib.machinery
import json
import re
import runpy
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from hgfast.bench import gpu_check, gpu_install
from hgfast.bench.gpu import step_runner
from hgfast.bench.gpu.steps import (
    NO_BACKEND_PATTERN,
    NO_DALI_PATTERN,
    NO_RUNTIME_PATTERN,
    GpuCheckSettings,
    Step,
    gpu_check_steps,
)
from hgfast.bench.gpu_install import InstallError
from hgfast.cli import Parser
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError
from hgfast.export.exporter import trt_builder
from hgfast.pipelines.loaders.dali import import_dali
from hgfast.runtime.backends import import_or_explain
from tests.conftest import ROOT, Command, ErrorOf

Install = Callable[..., list[tuple[str, str]]]
SETTINGS = GpuCheckSettings(
    slug="some-gpu",
    gpus=2,
    gpu_memory_gb=80.0,
    threads=2,
    out=Path("out"),
    work=Path("work"),
    quick=False,
    loader="dali",
    train_minutes=1.0,
)
STEPS = gpu_check_steps(SETTINGS)
STEP_NAMES = [step.name for step in STEPS]
NO_BACKEND_MESSAGE = (
    "nothing here builds TensorRT engines (TensorRT cannot be imported (No module named 'tensorrt')): pip install something"
)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


# ---- the commands ----


class Parsed(BaseException):
    """Raised after a script parsed its flags."""


def assert_flags_parse(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script until it parsed its flags, and fail if it does not accept them."""
    parse_args = Parser.parse_args

    def parse_only(self: Parser, *given: Any, **options: Any) -> Any:
        parse_args(self, *given, **options)
        raise Parsed

    monkeypatch.setattr(Parser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", list(words))
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")


@pytest.mark.parametrize("rehearse", [False, True])
@pytest.mark.parametrize("name", [step.name for step in STEPS if step.command[:2] != ("-m", "pytest")])
def test_every_command_parses(name: str, rehearse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SETTINGS, quick=rehearse, rehearse=rehearse)
    step = next(step for step in gpu_check_steps(settings) if step.name == name)
    words: list[str] = [*step.command, *map(str, step.optional_args)]
    if words[:2] == ["-m", "torch.distributed.run"]:
        from torch.distributed.run import get_args_parser

        given = get_args_parser().parse_args(words[2:])
        assert given.nproc_per_node == "2"
        words = [given.training_script, *given.training_script_args]
    assert_flags_parse(words, monkeypatch)


def test_an_unknown_flag_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        assert_flags_parse(["bench/decode.py", "--devise", "cuda"], monkeypatch)
    assert "unknown flag --devise" in capsys.readouterr().err


def test_the_test_steps_run_the_gpu_tests_of_every_folder() -> None:
    """With and without DALI, and so that warnings are not errors."""
    ran = set()
    for step in STEPS:
        if step.command[:3] == ("-m", "pytest", "-m"):
            markers, *rest = step.command[3:]
            assert "-W default" in " ".join(rest) and markers in ("gpu and not dali", "gpu and dali")
            ran |= {(Path(word).name, "not" in markers) for word in rest if word.startswith("tests/")}
    folders = {path.parts[-2] for path in ROOT.glob("tests/*/__init__.py")} - {"robustness", "fake_gpu"}
    assert ran == {(folder, without_dali) for folder in folders for without_dali in (True, False)}
    assert {"gpu", "dali"} <= set(re.findall(r'"(\w+): ', (ROOT / "pyproject.toml").read_text()))


def test_without_dali_its_tests_are_skipped_with_the_reason() -> None:
    code = (
        "import sys, pytest; sys.modules['nvidia'] = None; "
        "sys.exit(pytest.main(['-p', 'no:cacheprovider', '-m', 'gpu', 'tests/pipelines/loaders']))"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "error" not in process.stdout.lower() and "needs NVIDIA DALI" in process.stdout, process.stdout


def test_an_unsupported_gpu_of_tensorrt_rtx_is_not_possible() -> None:
    """Its own error matches, and the step tries the GPU of the machine although the documentation does not name it."""
    error = trt_builder.UnsupportedGpu((9, 0), ", and the attempt failed (no kernel)", "build with tensorrt")
    step = python_step(f"print('error: ' + {str(error)!r}); raise SystemExit(2)", missing_pattern=STEPS[-1].missing_pattern)
    assert step_runner.run_step(step, 60).state == "not possible"
    assert "--compute-capabilities [CURRENT]" in " ".join(STEPS[-1].command)


def test_the_order_is_that_of_value() -> None:
    """What needs no DALI comes first, TensorRT-RTX last, and every step fits its limit of four minutes."""
    uses_dali = ["dali" in step.name or "loader" in step.name for step in STEPS]
    first_dali = uses_dali.index(True)
    assert {"tests-hgfast", "training", "torchscript-fp16", "latency-1", "train-step-hg2", "decode", "training-fp16"} <= set(
        STEP_NAMES[:first_dali]
    )
    assert STEP_NAMES[-1] == "engine-rtx-fp16"
    assert all(step.minutes <= 4 for step in STEPS)


@pytest.mark.parametrize("loader", ["dali", "opencv"])
def test_the_loader_is_passed_on(loader: Any) -> None:
    steps = {step.name: step for step in gpu_check_steps(replace(SETTINGS, loader=loader))}
    for name in ("training", "training-fp16", "evaluate", "torchscript-fp16", "engine-fp16", "pckh", "all-gpus"):
        command = steps[name].command
        assert command[command.index("--loader") + 1] == loader
    assert "--loader none" in " ".join(steps["train-step-hg1"].command)
    assert "--loader dali" in " ".join(steps["training-dali"].command)


def test_every_input_is_produced_by_an_earlier_step() -> None:
    """Earlier steps write the inputs of a step, no two steps write the same file, and the command contains the record."""
    produced: set[Path] = set()
    for step in STEPS:
        assert set(step.requires) <= produced and set(step.optional_args) <= produced, step.name
        for path in (step.record, step.produces):
            if path is not None:
                assert path not in produced
                produced.add(path)
        if step.record is not None:
            assert str(step.record) in step.command and step.record.name.endswith("-some-gpu.json")
    assert len(set(STEP_NAMES)) == len(STEP_NAMES)
    engines = [step.produces for step in STEPS if step.name.startswith("engine")]
    assert len(engines) == 5
    for path in engines:
        assert path is not None and path.with_suffix(".onnx") not in produced  # export/trt.py writes it beside the engine


def test_multi_gpu_step_is_skipped_on_one_gpu() -> None:
    alone = {step.name: step for step in gpu_check_steps(replace(SETTINGS, gpus=1))}
    both = {step.name: step for step in STEPS}
    assert alone["all-gpus"].skip_reason and not alone["training"].skip_reason and not both["all-gpus"].skip_reason


def test_plan_sums_the_minutes(in_process: Command, no_gpu: None) -> None:
    process = in_process(gpu_check.main, "--plan", "--steps", "[data,training,latency-8]", "--limit", "2")
    assert process.returncode == 0, process.stderr
    assert [line.split()[:3] for line in process.stdout.splitlines()[2:-1]] == [
        ["data", "1", "1"],
        ["training", "1.5", "2.5"],
        ["latency-8", "2", "4.5"],
    ]


def test_list_names_every_step(in_process: Command, no_gpu: None) -> None:
    process = in_process(gpu_check.main, "--list")
    assert process.returncode == 0, process.stderr
    for step in STEPS:
        assert f"# {step.name}: {step.description}\npython " in process.stdout
    assert (
        "exp/gpu-check/training/engines/best.int8.engine" in process.stdout
        and "bench/results/loader-mpii-gpu.json" in process.stdout
    )


def test_no_gpu_is_one_error(in_process: Command, no_gpu: None) -> None:
    process = in_process(gpu_check.main)
    assert process.returncode == 2 and process.stderr.startswith("error: no GPU is visible to torch")
    assert process.stderr.count("\n") == 1 and process.stdout == ""


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--steps", "[testing]", "--list"), "'testing' is unknown; choose from tests-hgfast, tests-export"),
        (("--minutes", "0"), "minutes is 0.0, must be above 0"),
        (("--minutes", "10"), "--minutes is 10, must be below --limit, which is 4"),
        (("--quik",), "did you mean --quick"),
    ],
)
def test_bad_flags_are_one_error(words: tuple[str, ...], complaint: str, error_of: ErrorOf) -> None:
    assert complaint in error_of(gpu_check.main, *words)


# ---- running steps ----


def python_step(code: str, **more: Any) -> Step:
    return Step(**{"name": "step", "description": "a Python step", "command": ("-c", code), **more})


def test_successful_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.json"
    step = python_step("import sys; print('one'); open(sys.argv[1], 'w').write('{}'); print('two')", record=path)
    result = step_runner.run_step(replace(step, command=(*step.command, str(path))), 60)
    assert (result.state, result.reason, result.last_line) == ("ok", "", "two") and result.seconds > 0
    printed = capsys.readouterr().out
    assert "== step: a Python step\n$ python -c " in printed and printed.endswith("one\ntwo\n")


@pytest.mark.parametrize(
    ("code", "state", "why"),
    [
        ("raise SystemExit(3)", "failed", "exit code 3"),
        ("print('a'); raise ValueError('no')", "failed", "exit code 1: ValueError: no"),
        ("import os; os.kill(os.getpid(), 9)", "failed", "signal 9"),
        (f"print({NO_BACKEND_MESSAGE!r}); raise SystemExit(1)", "failed", f"exit code 1: {NO_BACKEND_MESSAGE}"),
        (
            f"print('error: x.onnx is written, the engine is not: ' + {NO_BACKEND_MESSAGE!r}); raise SystemExit(2)",
            "not possible",
            NO_BACKEND_MESSAGE,
        ),
        ("print('error: it differs'); print('bye'); raise SystemExit(2)", "failed", "exit code 2: it differs"),
    ],
)
def test_failed_and_skipped_steps(code: str, state: str, why: str) -> None:
    result = step_runner.run_step(python_step(code, missing_pattern=NO_BACKEND_PATTERN), 60)
    assert result.state == state and result.reason.endswith(why)


def test_missing_dali_message_matches_the_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(HgfastError, match=NO_DALI_PATTERN):
        import_dali()
    assert {step.name for step in STEPS if step.missing_pattern == NO_DALI_PATTERN} >= {"dali-self-test-0.65", "loader-mpii"}


def test_missing_runtime_message_matches_the_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(HgfastError, match=NO_RUNTIME_PATTERN):
        import_or_explain("openvino", "openvino")


@pytest.mark.parametrize("backend", ["tensorrt_rtx", "torch_tensorrt", "auto"])
def test_missing_backend_message_matches_the_pattern(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of find_backend on a machine with a GPU and no library matches."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    for name in ("tensorrt_bindings", "tensorrt_rtx", "tensorrt_rtx_bindings", "torch_tensorrt"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(HgfastError) as error:
        trt_builder.find_backend(backend, gpu=True)
    assert re.search(NO_BACKEND_PATTERN, str(error.value))


def test_missing_or_stale_output_is_a_failure(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("{}")
    assert step_runner.run_step(python_step("", record=old), 60).reason == f"did not write {old}"
    assert step_runner.run_step(python_step("", produces=old), 60).reason == f"did not write {old}"
    assert not old.exists()  # an old product is deleted, an old record is not


def test_a_step_is_terminated_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_runner, "GRACE_S", 1.0)
    result = step_runner.run_step(python_step("import time; print('begun'); time.sleep(100)"), 3)
    assert result.state == "failed" and result.seconds < 30
    assert "terminated after" in result.reason and result.reason.endswith("begun")


def test_missing_inputs_skip_the_step_and_optional_args(tmp_path: Path) -> None:
    absent, existing = tmp_path / "absent", tmp_path / "there"
    existing.touch()
    result = step_runner.run_step(python_step("print(1)", requires=(existing, absent)), 60)
    assert (result.state, result.seconds) == ("not possible", 0) and f"there is no {absent}" in result.reason
    assert step_runner.run_step(python_step("", skip_reason="one GPU"), 60).reason == "one GPU"
    result = step_runner.run_step(python_step("import sys; print(sys.argv[1:])", optional_args=(absent, existing)), 60)
    assert result.last_line == str([str(existing)])


SIDECAR = {
    "artefact": "best.engine",
    "kind": "tensorrt",
    "precision": "fp16",
    "builder": {"backend": "tensorrt", "version": "11.4"},
    "verification": {"rows": [{"runtime": "tensorrt", "batch": 1, "max_px": 0.01, "verdict": "ok"}]},
}
WRITE = "import sys; open(sys.argv[1], 'w').write('x'); open(sys.argv[1] + '.json', 'w').write(sys.argv[2])"


def artifact_step(tmp_path: Path, sidecar: dict[str, Any]) -> Step:
    path = tmp_path / "best.engine"
    return Step(
        name="engine",
        description="an engine",
        command=("-c", WRITE, str(path), json.dumps(sidecar)),
        produces=path,
        is_artifact=True,
    )


@pytest.mark.parametrize("rows", [None, {"rows": []}, {"rows": [{"runtime": "tensorrt", "verdict": "built, not run here"}]}])
def test_unverified_artifact_is_a_failure(rows: Any, tmp_path: Path) -> None:
    result = step_runner.run_step(artifact_step(tmp_path, {**SIDECAR, "verification": rows}), 60)
    assert result.state == "failed" and "not verified" in result.reason


def test_from_steps_to_table_record_and_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes = [
        python_step("print('fine')", name="good"),
        python_step("raise SystemExit(3)", name="bad"),
        python_step(f"print({NO_BACKEND_MESSAGE!r}); raise SystemExit(2)", name="absent", missing_pattern=NO_BACKEND_PATTERN),
        artifact_step(tmp_path, SIDECAR),
    ]
    card = {"gpu": "Some GPU (R)", "gpus": 1, "gpu_memory_gb": 80.0, "compute_capability": "9.0", "cuda": "13.0"}
    monkeypatch.setattr(gpu_check, "gpu_info", lambda: card)
    monkeypatch.setattr(gpu_check, "gpu_check_steps", lambda _: fakes)
    flags = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *flags])
    with pytest.raises(SystemExit) as end:
        run_main(gpu_check.main)
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
        run_main(gpu_check.main)
    assert end.value.code == 0


# ---- installing ----

CONTAINER = ("2.10.0a0+b4e4ee81d3.nv25.12", "13.1")


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    """Run the installer with fake torch versions, modules and pip; return the arguments and the constraints of pip's calls."""

    def run(*torch: tuple[str, str] | None, modules: str = "", fails: str = "nothing") -> list[tuple[str, str]]:
        versions, calls = iter(torch), list[tuple[str, str]]()

        def fake_pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
            constraint, *args = command[command.index("--constraint") + 1 :]
            path = Path(constraint)
            calls.append((" ".join(args), path.read_text() if path.name == "pinned.txt" else path.name))
            return subprocess.CompletedProcess(command, any(arg.startswith(fails) for arg in args))

        monkeypatch.setattr(gpu_install, "torch_version", lambda: next(versions))
        monkeypatch.setattr(gpu_install, "has_module", lambda name: name in modules.split())
        monkeypatch.setattr(gpu_install.subprocess, "run", fake_pip)
        gpu_install.install(tmp_path)
        return calls

    return run


def test_requirements_come_from_the_package_metadata() -> None:
    names = [re.split(r"[^\w-]", line.lower())[0] for line in gpu_install.requirements()]
    assert {"numpy", "opencv-python-headless", "jsonargparse", "onnx", "matplotlib", "pytest", "cuda-bindings"} <= set(names)
    assert not set(names) & {"torch", "nvidia-dali-cuda130", "mypy", "ruff", "tensorrt-rtx-cu13-libs"}
    assert len(names) == len(set(names)) and not any(";" in line for line in gpu_install.requirements())


def test_installed_torch_is_pinned_and_not_replaced(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"torch": CONTAINER[0], "numpy": "2.1.0"}

    def fake_version(name: str) -> str:
        if name not in known:
            raise gpu_install.PackageNotFoundError(name)
        return known[name]

    monkeypatch.setattr(gpu_install, "version", fake_version)
    calls = install(CONTAINER, modules="tensorrt")
    needed = " ".join(gpu_install.requirements())
    assert [args for args, _ in calls] == [f"--no-deps --editable {ROOT}", needed, "nvidia-dali-cuda130"]
    assert {constraint for _, constraint in calls} == {f"torch=={CONTAINER[0]}\nnumpy==2.1.0\n"}


def test_a_bare_machine_gets_torch_first_and_optional_packages_may_fail(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.machinery.ModuleSpec("torch", None, origin=str(tmp_path / "lib/torch/__init__.py"))
    monkeypatch.setattr(gpu_install, "find_spec", lambda _: spec)  # in the environment
    calls = install(None, ("2.11.0", "12.8"), fails="tensorrt-cu12")
    assert [args for args, _ in calls][:2] == ["torch", f"--no-deps --editable {ROOT}"]
    libraries = ["nvidia-dali-cuda120", "tensorrt-cu12", "tensorrt-rtx-cu12-libs tensorrt-rtx-cu12-bindings"]
    assert [args for args, _ in calls][3:] == libraries and {name for _, name in calls} == {"constraints.txt"}
    assert "missing: tensorrt; needed by: engine-*\n" in capsys.readouterr().out
    calls = install(("2.11.0", "12.8"), modules="nvidia.dali tensorrt_rtx_bindings")
    assert [args for args, _ in calls][2:] == ["tensorrt-cu12"]


def test_a_package_that_fails_costs_only_what_needs_it(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(CONTAINER, fails="nvidia-dali", modules="tensorrt")
    assert "missing: nvidia-dali-cuda130; needed by: steps whose names contain dali or loader\n" in capsys.readouterr().out
    calls = install(CONTAINER, fails="h5py", modules="tensorrt nvidia.dali")
    needed = gpu_install.requirements()
    assert [args for args, _ in calls][1:] == [" ".join(needed), *needed]  # at once, then one after the other
    out = capsys.readouterr().out
    assert re.findall("missing: (.*);", out) == ["h5py"] and "needed by: loader-mpii" in out
    with pytest.raises(InstallError, match="pip could not install hgfast"):
        install(CONTAINER, fails="--no-deps")


# ---- without a network ----


def make_wheel(folder: Path, name: str, version: str, requires: str = "") -> None:
    """Write a wheel with one module."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (f"Requires-Dist: {requires}\n" if requires else "")
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}_module.py", f"VERSION = '{version}'\n")
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_wheels_of_a_folder_are_installed_without_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the real pip: what is missing is installed without its dependencies, what is installed is not replaced."""
    wheels, environment = tmp_path / "wheels", tmp_path / "venv"
    wheels.mkdir()
    make_wheel(wheels, "hgfast_test_a", "1.0", requires="hgfast_test_absent")
    make_wheel(wheels, "hgfast_test_b", "1.0")
    make_wheel(wheels, "torch", "99.0")  # newer than what is installed
    (wheels / "hgfast_test_broken-1.0-py3-none-any.whl").write_bytes(b"no wheel")
    monkeypatch.setattr(gpu_install, "has_module", lambda module: module != "ensurepip")
    python = gpu_install.create_environment(environment, wheels)
    wanted = ["hgfast-test-a>=1", "numpy>=1.26", "hgfast-test-nowhere>=2"]
    monkeypatch.setattr(gpu_install, "requirements", lambda: wanted)
    monkeypatch.setattr(gpu_install.sys, "executable", str(python))
    constraint = tmp_path / "constraints.txt"
    constraint.write_text("")
    missing = gpu_install.install_wheels(wheels, constraint, "nvidia-dali-cuda999")
    assert missing == ["hgfast-test-nowhere", "nvidia-dali-cuda999", "hgfast-test-broken"]
    code = (
        "import hgfast_test_a_module, hgfast_test_b_module, importlib.metadata as m, sys; "
        "print(m.version('torch'), hgfast_test_a_module.__file__.startswith(sys.prefix))"
    )
    process = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    assert process.stdout.split() == [version("torch"), "True"], process.stderr
    assert "Looking in links" in capfd.readouterr().out


def test_pip_variables_select_the_folder_of_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert gpu_install.wheel_folder(None) is None
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(InstallError, match="there are no wheels in"):
        gpu_install.wheel_folder(None)
    make_wheel(tmp_path, "hgfast_test_a", "1.0")
    assert gpu_install.wheel_folder(None) == gpu_install.wheel_folder(tmp_path) == tmp_path


def test_torch_without_cuda_is_an_error(install: Install) -> None:
    with pytest.raises(InstallError, match=r"torch 2\.13\.0\+cpu has no CUDA and is not replaced: remove .* with GPU_PYTHON"):
        install(("2.13.0+cpu", ""))
    with pytest.raises(InstallError, match="the installed torch cannot be found"):
        install(None, None)


def test_torch_is_imported_in_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    found = gpu_install.torch_version()
    assert found is not None and found[0] == torch.__version__ and found[1] == (torch.version.cuda or "")
    for error, message in (("ImportError: libcudart.so.13", "cannot be imported"), ("AssertionError: missing", None)):
        done = subprocess.CompletedProcess([], 1, "", f"Traceback\n{error}")
        monkeypatch.setattr(gpu_install.subprocess, "run", lambda *_, done=done, **__: done)
        if message is None:
            assert gpu_install.torch_version() is None
        else:
            with pytest.raises(InstallError, match=message):
                gpu_install.torch_version()


def test_installer_without_a_gpu_creates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_install, "count_gpus", lambda: 0)
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


def test_environment_inherits_packages_and_is_ignored_by_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the creating Python belongs to an environment and ensurepip is missing."""
    monkeypatch.setattr(gpu_install, "has_module", lambda module: module != "ensurepip")
    python = gpu_install.create_environment(tmp_path / "venv")
    code = "import sys, tabulate; print(sys.prefix)"
    process = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    assert process.stdout.strip() == str(tmp_path / "venv"), process.stderr
    assert (tmp_path / "venv" / ".gitignore").read_text() == "*\n"
    assert gpu_install.create_environment(tmp_path / "venv") == python  # reused


def test_make_gpu_check(tmp_path: Path) -> None:
    process = subprocess.run(
        ["make", "--no-print-directory", "-n", "gpu-check", "GPU_PYTHON=python3.99", "GPU_CHECK=--quick"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stdout.splitlines() == [
        "python3.99 bench/gpu_install.py --into .venv-gpu",
        ".venv-gpu/bin/python bench/gpu_check.py --quick",
    ], process.stderr
