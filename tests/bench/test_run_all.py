"""bench/run_all.py with fake scripts: order, failures, output files, checks; and the tables of README.md."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest

from hgfast.bench import readme_tables
from hgfast.bench import run_all as bench_all
from hgfast.bench.gpu import step_runner
from hgfast.bench.gpu.steps import Step
from hgfast.bench.harness import run_all_steps
from hgfast.bench.harness.run_all_steps import BENCHMARKS, BenchSettings, make_step
from hgfast.bench.readme_tables import (
    RecordTable,
    SummaryLine,
    SummaryTable,
    latency_figures,
    loading_figures,
    training_figures,
)
from hgfast.bench.tables.columns import COLUMNS, format_cell, format_number, markdown_table
from hgfast.bench.tables.ratio_checks import CHECKS, run_checks
from hgfast.config import DataConfig
from hgfast.entry_point import run_main
from hgfast.system_info import available_cores
from tests.bench.test_gpu_check import assert_flags_parse
from tests.conftest import ROOT, Command, ErrorOf

Row = dict[str, Any]
SETTINGS = BenchSettings(work=Path("work"), quick=True, checkpoint=None, data_flags=(), cores=2, gpu_gb=0.0)
BENCHMARK_NAMES = list(BENCHMARKS)

# ---- rows as the scripts write them ----


def loader_row(loader: str, variant: str, cpu: float, layout: str = "freihand", cached: bool = False) -> Row:
    rates = {"images_per_s": 1000 / cpu, "images_per_s_min": 900 / cpu, "images_per_s_max": 1100 / cpu, "noise": 0.08}
    same = {"loader": loader, "variant": variant, "layout": layout, "cached": cached, "entries": 32768}
    return {**same, **rates, "cpu_ms_per_image": cpu, "times_seed_style": 4.0 / cpu, "note": ""}


def train_row(method: str, rate: float) -> Row:
    same = {"way": method, "preset": "hg1", "layout": "mpii", "precision": "fp32", "batch_size": 4}
    figures = {"images_per_s": rate, "noise": 0.05, "speedup": rate / 10, "step_ms": 4000 / rate, "step_speedup": rate / 10}
    return {**same, **figures, "loader_ms": 15.0, "reason": ""}


def latency_row(method: str, precision: str, ms: float, preset: str = "hg1", batch: int = 1) -> Row:
    runtime = "torch" if method == "seed_style" else method
    same = {
        "file": f"best.{precision}.onnx",
        "way": method,
        "runtime": runtime,
        "precision": precision,
        "preset": preset,
        "batch": batch,
    }
    figures = {"median_ms": ms, "images_per_s": 1000 * batch / ms, "speedup": 40 / ms, "noise": 0.05, "speedup_noise": 0.07}
    return {**same, "end_to_end": False, **figures, "mean_px_error": 0.001, "max_px_error": 0.25, "note": ""}


def missing_row() -> Row:
    return {**dict.fromkeys(latency_row("", "", 1.0)), "way": "tensorrt", "precision": "fp16", "note": "no NVIDIA GPU here"}


def session_overhead_row(case: str, rate: float, share: float | None = None) -> Row:
    figures = {"images_per_s": rate, "median_ms": 1000 / rate, "noise": 0.05, "overhead": 0.04 if case == "session" else None}
    return {"what": case, "runtime": "onnxruntime", "threads": 2, "times_one_thread": share, **figures}


ROWS: dict[str, list[Row]] = {
    "loader": [
        loader_row("decode_only", "dali", 0.5),
        loader_row("dali_cpu", "targets", 1.0),
        loader_row("seed_style", "augmented", 4.0),
        loader_row("dali_cpu", "targets", 2.0, "mpii", True),
        loader_row("seed_style", "augmented", 6.0, "mpii", True),
    ],
    "train_step": [train_row("seed_style", 10.0), train_row("hgfast", 20.0)],
    "latency": [
        latency_row("seed_style", "fp32", 40.0),
        latency_row("openvino", "fp32", 20.0),
        latency_row("openvino", "int8", 8.0),
        latency_row("openvino", "fp32", 100.0, batch=8),
        missing_row(),
    ],
    "embedding": [
        session_overhead_row("network alone", 52.0),
        session_overhead_row("session", 50.0),
        session_overhead_row("4 threads", 51.0, 1.02),
    ],
    "decode": [
        {"decoder": "seed_style", "kind": "gaussian", "median_ms": 180.0, "noise": 0.05, "speedup": 1.0},
        {"decoder": "dark", "kind": "gaussian", "median_ms": 5.0, "noise": 0.05, "speedup": 36.0, "error_float32": 0.00012},
    ],
    "pckh": [
        {"method": "best.pt", "file": "best.pt", "what": "checkpoint", "pck@0.2": 0.5594, "mean_px": 0.0},
        {"method": "a", "file": "best.int8.onnx", "what": "onnxruntime int8", "pck@0.2": 0.5538, "mean_px": 0.98},
        {"method": "b", "file": "best.int8.onnx", "what": "openvino int8", "pck@0.2": 0.5539, "mean_px": 0.99},
    ],
}


def record(name: str, rows: list[Row], **more: Any) -> Row:
    return {
        "machine": {"processor": "Some CPU", "cores": 2, "gpu": None, "matrix_tflops_fp32": 0.2},
        "versions": {"torch": "2.13.0", f"only-{name}": "1"},
        "revision": "abc",
        "command": f"python bench/{name}.py --quick --json x.json",
        "date": "2026-11-26T10:00:00+00:00",
        "conclusions": [f"{name} is fast"],
        "rows": rows,
        **more,
    }


# ---- the commands ----


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("gpu_gb", [0.0, 80.0])
@pytest.mark.parametrize("name", BENCHMARK_NAMES)
def test_every_command_parses(name: str, gpu_gb: float, quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ("--dataset", "coco", "--annotations", "a.json", "--versions", "[gs,hom]", "--skip-missing")
    own = Path("exp/best.pt")
    settings = BenchSettings(
        work=Path("work"), quick=quick, checkpoint=own, data_flags=data, cores=16, gpu_gb=gpu_gb, cli=Path("cli")
    )
    command = make_step(name, settings).command
    assert (str(own) in command) == (name in ("latency", "embedding", "pckh")) and ("cli" in command) == (name == "embedding")
    assert ("--quick" in command) == (quick and name != "pckh")
    assert (data[0] in command) == (name in ("latency", "pckh"))
    assert_flags_parse(command, monkeypatch)


def test_list_prints_the_commands_and_runs_nothing(in_process: Command, tmp_path: Path) -> None:
    process = in_process(bench_all.main, "--list", "--quick", "--steps", "[latency,loader]", "--out", tmp_path / "out")
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[::2]] == ["# loader", "# latency"]
    assert lines[1] == f"python bench/loader.py --threads {min(available_cores(), 8)} --quick --json exp/bench/all/loader.json"
    assert not (tmp_path / "out").exists()


def test_data_flags_are_relative_to_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "bench")
    choice = DataConfig(dataset="coco", annotations=Path("../data/a.json"), images=tmp_path, single_person=True)
    found = run_all_steps.data_flags(choice)
    assert found == ("--dataset", "coco", "--annotations", "data/a.json", "--images", str(tmp_path), "--single-person")
    assert run_all_steps.data_flags(DataConfig()) == ()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--steps", "[loading]"], "'loading' is unknown; choose from loader, train_step, latency"),
        (["--checkpoint", "none.pt"], "there is no checkpoint none.pt"),
        (["--data", "MPII"], "--data requires --checkpoint FILE"),
        (["--limit", "0"], "limit is 0.0, must be above 0"),
        (["--quik"], "did you mean --quick"),
    ],
)
def test_bad_flags_are_one_error(words: list[str], complaint: str, error_of: ErrorOf) -> None:
    assert complaint in error_of(bench_all.main, *words)


def test_pckh_gets_the_files_written_by_latency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hgfast.bench.harness import networks

    checkpoint = tmp_path / "best.pt"
    checkpoint.write_bytes(b"weights")
    monkeypatch.setattr(run_all_steps, "sha256_of", lambda _: "0123456789abcdef")
    existing = {tmp_path / "best.fp32.onnx", tmp_path / "work" / "best-0123456789ab" / "best.int8.onnx"}
    max_batches: list[int] = []
    monkeypatch.setattr(networks, "is_current", lambda path, _, max_batch: max_batches.append(max_batch) or path in existing)
    settings = BenchSettings(
        work=tmp_path / "work", quick=False, checkpoint=checkpoint, data_flags=("--data", "MPII"), cores=2, gpu_gb=0.0
    )
    assert make_step("pckh", settings).command[1:3] == (str(checkpoint), "--data")  # latency has not run
    settings.record_path("latency").parent.mkdir(parents=True)
    settings.record_path("latency").write_text(json.dumps(record("latency", ROWS["latency"])))
    files = make_step("pckh", settings).command[1:4]
    assert files == (str(checkpoint), str(tmp_path / "best.fp32.onnx"), str(tmp_path / "work/best-0123456789ab/best.int8.onnx"))
    assert set(max_batches) == {8}
    found = ["--runtimes" in make_step("pckh", replace(settings, quick=quick)).command for quick in (False, True)]
    assert found == [True, False]


def test_pckh_without_a_checkpoint_scores_an_untrained_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = BenchSettings(work=tmp_path / "work", quick=True, checkpoint=None, data_flags=(), cores=2, gpu_gb=0.0)
    step = make_step("pckh", settings)
    assert not step.skip_reason and step.command[1] == str(tmp_path / "work" / "hg1" / "fresh.pt")
    assert step.command[2:6] == ("--dataset", "mpii", "--data", str(tmp_path / "work" / "people"))
    assert_flags_parse(step.command, monkeypatch)
    assert "flags of a data set" in make_step("pckh", replace(settings, checkpoint=Path("best.pt"))).skip_reason


# ---- running ----

WRITE = "import sys; print('working'); open(sys.argv[1], 'w').write(sys.argv[2])"
RunAll = Callable[..., int]


@pytest.fixture
def run_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunAll:
    """Run it with fake steps that write `ROWS`, or the rows or the code given by step."""
    monkeypatch.setattr(step_runner, "GRACE_S", 1.0)

    def invoke(*flags: str, **given: list[Row] | str) -> int:
        def fake_step(name: str, settings: BenchSettings) -> Step:
            step = make_step(name, settings)
            path, what = str(tmp_path / settings.record_path(name)), given.get(name, ROWS[name])
            code, text = (what, "") if isinstance(what, str) else (WRITE, json.dumps(record(name, what)))
            return Step(
                name=name,
                description=step.description,
                command=("-c", code, path, text),
                record=Path(path),
                skip_reason=step.skip_reason,
            )

        monkeypatch.setattr(bench_all, "make_step", fake_step)
        places = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
        monkeypatch.setattr(sys, "argv", ["run_all.py", *places, *flags])
        with pytest.raises(SystemExit) as end:
            run_main(bench_all.main)
        return int(end.value.code or 0)

    return invoke


def output_file(tmp_path: Path, ending: str) -> Path:
    (path,) = (tmp_path / "out").glob(f"*{ending}")
    return path


def test_a_page_a_record_and_charts(run_all: RunAll, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all("--check") == 0
    out = capsys.readouterr().out
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith("== ")] == [
        f"== {name}" for name in BENCHMARK_NAMES
    ]
    assert out.count("\nworking\n") == len(BENCHMARK_NAMES) and out.count(" ok\n") == len(CHECKS)

    written = output_file(tmp_path, ".json")
    content = json.loads(written.read_text())
    name = written.stem
    assert name.endswith(f"-{content['date'][:10]}") and "-cores-" in name and name == name.lower()
    assert {row["bench"] for row in content["rows"]} == set(BENCHMARK_NAMES) == set(content["commands"])
    assert all(
        row in [{key: value for key, value in one.items() if key != "bench"} for one in content["rows"]] for row in ROWS["decode"]
    )
    assert content["conclusions"] == [f"{step} is fast" for step in BENCHMARK_NAMES]
    assert content["machine"]["matrix_tflops_fp32"] == 0.2 and content["versions"]["only-loader"] == "1"
    assert [step["state"] for step in content["steps"]] == ["ok"] * 6
    assert all(check["ok"] for check in content["checks"]) and len(content["checks"]) == len(CHECKS)

    page = output_file(tmp_path, ".md").read_text()
    assert page.startswith("# Benchmarks: ") and "smoke test" not in page
    for step in BENCHMARK_NAMES:
        assert f"## {step}: {BENCHMARKS[step][0]}" in page and f"- {step} is fast" in page
        chart = tmp_path / "out" / f"{name}-{step}.png"
        assert f"]({chart.name})" in page
        image = cv2.imread(str(chart))
        assert image is not None and image.std() > 1
    assert "| hg1 | best.int8.onnx | openvino | int8 | 1 | 8.00 | 5% |" in page
    assert "- tensorrt fp16: no NVIDIA GPU here" in page


def test_a_skipped_step_is_reported(run_all: RunAll, tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"weights")
    assert run_all("--checkpoint", str(tmp_path / "best.pt"), "--steps", "[decode,pckh]") == 0
    assert "Not possible: --checkpoint requires the flags of a data set" in output_file(tmp_path, ".md").read_text()
    assert not list((tmp_path / "out").glob("*-decode-pckh-pckh.png"))


def test_other_steps_run_after_a_failure_or_timeout(run_all: RunAll, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "work" / "all").mkdir(parents=True)
    (tmp_path / "work" / "all" / "decode.json").write_text(json.dumps(record("decode", ROWS["decode"])))  # of an earlier run
    fakes = {
        "loader": "raise SystemExit('error: no disk')",
        "latency": "import time; print('begun'); time.sleep(100)",
        "embedding": "import sys; open(sys.argv[1], 'w').write('no record')",
        "decode": "pass",
        "pckh": "import sys; open(sys.argv[1], 'w').write(" + repr(json.dumps(record("pckh", ROWS["pckh"]))) + "); sys.exit(2)",
    }
    assert run_all("--limit", "0.05", **fakes) == 1
    steps = {step["step"]: step for step in json.loads(output_file(tmp_path, ".json").read_text())["steps"]}
    assert {name: step["state"] for name, step in steps.items()} == {
        **dict.fromkeys(fakes, "failed"),
        "train_step": "ok",
    }
    assert steps["loader"]["why"].endswith("no disk") and steps["latency"]["why"].endswith("begun")
    assert "is not JSON" in steps["embedding"]["why"] and "did not write" in steps["decode"]["why"]
    page = output_file(tmp_path, ".md").read_text()
    assert "Failed: exit code 1: no disk" in page
    assert "Failed: exit code 2" in page and "- pckh is fast" in page  # the rows that a failed step has measured remain
    assert "train_step" in capsys.readouterr().out


def test_sigterm_ends_the_processes_of_a_step(run_all: RunAll, tmp_path: Path) -> None:
    stop = f"import os, signal, time; os.kill({os.getpid()}, signal.SIGTERM); time.sleep(100)"
    start_time = time.monotonic()
    assert run_all(loader=stop) == 128 + signal.SIGTERM
    assert time.monotonic() - start_time < 50 and not list((tmp_path / "out").iterdir())


def test_output_names_contain_the_selected_steps(run_all: RunAll, tmp_path: Path) -> None:
    assert run_all("--quick", "--steps", "[decode,loader]") == 0
    assert output_file(tmp_path, ".md").stem.endswith("-loader-decode") == output_file(tmp_path, ".json").stem.endswith(
        "-loader-decode"
    )
    assert "smoke test with `--quick`" in output_file(tmp_path, ".md").read_text()


def test_a_check_that_fails_ends_with_1(run_all: RunAll, capsys: pytest.CaptureFixture[str]) -> None:
    slow = [train_row("seed_style", 10.0), train_row("hgfast", 7.0)]
    assert run_all("--steps", "[train_step]", train_step=slow) == 0
    assert run_all("--check", "--steps", "[train_step]", train_step=slow) == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if "FAILED" in line)
    assert line.split()[-4:] == ["0.70", ">=", "0.8", "FAILED"]


def test_ratio_checks_use_only_their_own_step() -> None:
    ratios = {result.check.step: result.ratio for result in run_checks(ROWS)}
    assert ratios == {"loader": 4.0, "train_step": 2.0, "latency": 2.0, "embedding": 1.02}
    assert run_checks({"decode": ROWS["decode"]}) == []
    (result,) = run_checks({"latency": []})  # a failed step
    assert result.ratio is None and not result.ok
    larger = [latency_row("seed_style", "fp32", 80.0, "hg2"), {**latency_row("openvino", "fp32", 70.0, "hg2"), "speedup": 0.85}]
    (result,) = run_checks({"latency": [*ROWS["latency"], *larger]})
    assert result.ratio == 0.85 and not result.ok
    uneven = [session_overhead_row("session", 50.0), session_overhead_row("4 threads", 15.0, 0.3)]
    (result,) = run_checks({"embedding": [*ROWS["embedding"], *({**row, "runtime": "openvino"} for row in uneven)]})
    assert result.ratio == 0.3 and not result.ok


def test_commands_show_progress_where_there_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "77")
    code = "import os, sys; print(sys.stderr.isatty(), os.get_terminal_size()[0]); sys.exit(3)"
    assert step_runner.run_streamed([sys.executable, "-c", code], 60) == (3, ["True 77"])
    assert screen.getvalue() == "True 77\r\n"


# ---- figures as text ----


def test_number_formats() -> None:
    assert [format_number(value) for value in (0.0, 0.00012, 0.0123, 0.123, 1.234, 12.34, 1234.5)] == [
        *("0", "1.2e-04", "0.0123", "0.123", "1.23", "12.3", "1234"),
    ]
    assert [format_cell(value) for value in (None, False, True, 3, "x", 3.0)] == ["", "", "yes", "3", "x", "3.00"]
    assert (format_cell(0.064, "noise"), format_cell(700.0, "noise")) == ("6%", "> 100%")
    assert markdown_table([["a|b", "1"]], ["x", "y"]) == "| x | y |\n| --- | ---: |\n| a\\|b | 1 |"


def test_every_step_has_columns() -> None:
    assert set(COLUMNS) == set(BENCHMARKS)


# ---- README ----


@pytest.fixture
def update_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Run readme_tables.py on records of `ROWS`; return the exit code, the page and stderr."""
    for name, rows in ROWS.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record(name, rows)))
    tables = {
        "latency": RecordTable("latency", tmp_path / "latency.json", readme_tables.latency_table, tmp_path / "pckh.json"),
        "loader": RecordTable("loader", tmp_path / "loader.json", readme_tables.loader_table),
        "train_step": RecordTable("train_step", tmp_path / "train_step.json", readme_tables.train_step_table),
        "summary": SummaryTable(
            (SummaryLine("training", "train_step", tmp_path / "train_step.json", lambda rows: training_figures(rows, "hg1")),)
        ),
        "none": SummaryTable(
            (SummaryLine("training", "train_step", tmp_path / "train_step.json", lambda rows: training_figures(rows, "hg2")),)
        ),
        "absent": RecordTable("loader", tmp_path / "absent.json", readme_tables.loader_table),
        "other": RecordTable("decode", tmp_path / "loader.json", readme_tables.loader_table),
        "old": RecordTable("decode", tmp_path / "decode.json", readme_tables.loader_table),
    }
    monkeypatch.setattr(readme_tables, "TABLES", tables)
    page = tmp_path / "README.md"

    def run_update(*flags: str, text: str | None = None) -> tuple[int, str, str]:
        if text is not None:
            page.write_text(text)
        monkeypatch.setattr(sys, "argv", ["readme_tables.py", "--pages", f"[{page}]", *flags])
        captured = io.StringIO()
        monkeypatch.setattr(sys, "stderr", captured)
        try:
            run_main(readme_tables.main)
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return code, page.read_text(), captured.getvalue()

    return run_update


PAGE = "# x\n\n<!-- bench: {} -->\nold\n<!-- /bench -->\n\nend\n"


def test_update_is_idempotent(update_pages: Callable[..., tuple[int, str, str]]) -> None:
    text = PAGE.format("latency") + PAGE.format("loader") + PAGE.format("train_step")
    assert update_pages("--check", text=text)[:2] == (1, text)
    code, page, _ = update_pages()
    assert code == 0 and update_pages("--check") == (0, page, "") and update_pages()[1] == page
    assert "| openvino | fp32 | 20.0 | 2.00 ± 7% | 0.0010 / 0.250 |  |" in page  # its file was not scored in fp32
    assert "| openvino | int8 | 8.00 | 5.00 ± 7% | 0.0010 / 0.250 | 0.5539 |" in page
    assert "Not measured: tensorrt fp16: no NVIDIA GPU here." in page
    assert "| `--loader dali`, with heatmaps | 1.00 | 4.0 |  |  | 2.00 | 3.0 |" in page
    assert "| mpii | hg1 | hgfast | fp32 | 4 | 20.0 ± 5% | 2.00 |" in page
    assert "`python bench/loader.py --quick` on Some CPU, 2 cores, 2026-11-26 (`" in page
    assert page.count("# x") == page.count("\n\nend\n") == 3 and "old" not in page

    code, after, err = update_pages("--check", text=page.replace("5.00 ± 7%", "6.00 ± 7%"))
    assert code == 1 and "6.00" in after and err.count("\n") == 1
    assert err == "error: README.md: out of date: latency: run python bench/readme_tables.py\n"


def test_summary_table_compares_the_fastest_with_princeton(update_pages: Callable[..., tuple[int, str, str]]) -> None:
    page = update_pages(text=PAGE.format("summary"))[1]
    assert "| training | 10.0 / s | 20.0 / s | 2.0 |" in page and "`python bench/train_step.py --quick` on Some CPU" in page
    assert loading_figures(ROWS["loader"], "freihand", False) == ("4.00 ms", "1.00 ms", "4.0")
    rows = [{"preset": "hg1", "end_to_end": False, "speedup_noise": 0.07, **row} for row in ROWS["latency"]]
    assert latency_figures(rows, "hg1", "int8") == ("40.0 ms", "8.00 ms in openvino", "5.00 ± 7%")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (PAGE.format("lantency"), "there is no table 'lantency'; choose from latency, loader"),
        (PAGE.format("loader").replace("<!-- /bench -->", ""), "must be paired, on different lines"),
        (PAGE.format("loader") + "<!-- /bench -->", "must be paired, on different lines"),
        (PAGE.format("absent"), "absent.json cannot be read"),
        (PAGE.format("other"), "has no rows of bench/decode.py"),
        (PAGE.format("none"), "train_step.json has no 'seed_style' in its rows: write it again"),
        (PAGE.format("old"), "decode.json has no 'loader' in its rows: write it again"),
    ],
)
def test_bad_page_or_record_is_one_error(text: str, complaint: str, update_pages: Callable[..., tuple[int, str, str]]) -> None:
    code, page, err = update_pages(text=text)
    assert code == 2 and complaint in err and err.count("\n") == 1 and page == text


def test_pages_match_their_records(in_process: Command) -> None:
    process = in_process(readme_tables.main, "--check")
    assert process.returncode == 0, process.stderr
