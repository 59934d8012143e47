"""Write a report on a run as one self-contained HTML file.

python hgfast/report.py exp/NAME
python hgfast/report.py exp/NAME --evaluate
python hgfast/report.py exp/NAME --records [bench/results/latency.json,exports/] --out report.html

The report shows the run's settings, curves, metrics and files. With --evaluate, or with a flag that names data, evaluate.py runs
first, on the data of the run unless flags name others; its output stays in exp/NAME/evaluation.
"""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hgfast.cli import parse
from hgfast.config import DataConfig, InferenceConfig
from hgfast.entry_point import run_main
from hgfast.errors import HgfastError, printable
from hgfast.fileio.files import check_distinct_paths, prepare_file, write_text
from hgfast.reporting.records import RecordFinder, find_json_files, format_size

EVALUATION_DIR = "evaluation"
HTML_SUFFIXES = (".html", ".htm")
DATA_FLAGS = ("data", "annotations", "valid_annotations", "images", "valid_images")
"""Data flags that imply --evaluate."""


@dataclass(kw_only=True)
class ReportConfig(InferenceConfig):
    """Report."""

    folder: Path
    """the run's folder, exp/NAME"""
    out: Path | None = None
    """the HTML file to write; none: report.html in the run's folder"""
    records: list[Path] = field(default_factory=list)
    """JSON files of bench/ and sidecars of export/ to show in addition to those in the run's folder, or folders with them"""
    evaluate: bool = False
    """run evaluate.py first and show its results"""
    baselines: bool = False
    """also evaluate the mean pose and the nearest training image"""

    @property
    def output_path(self) -> Path:
        return self.out or self.folder / "report.html"


def explicit_flags(argv: Sequence[str]) -> set[str]:
    """Return the field names of the flags on a command line."""
    return {arg.partition("=")[0][2:].replace("-", "_") for arg in argv if arg.startswith("--")}


def merge_data_config(config: ReportConfig, run_config: Mapping[str, Any], flags: set[str]) -> DataConfig:
    """Return the data settings of the run's config.yaml, overridden by the command line.

    Raises:
        HgfastError: config.yaml has a value that no flag can have.
    """
    args, defaults = list[str](), DataConfig()
    for item in fields(DataConfig):
        value = getattr(config, item.name)
        if item.name not in flags and value == getattr(defaults, item.name):
            value = run_config.get(item.name, value)
        if value is not None and not isinstance(value, (str, int, float, list, Path)):
            raise HgfastError(f"{item.name} in {config.folder / 'config.yaml'} is not a plain value: name the data by flags")
        if value is not None:
            text = f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
            args.append(f"--{item.name}={text.lower() if isinstance(value, bool) else text}")
    return parse(DataConfig, args)


def evaluate(config: ReportConfig, checkpoint: Path, choice: DataConfig) -> None:
    """Run evaluate.py with its output in `EVALUATION_DIR` of the run's folder.

    Raises:
        HgfastError: the run has no checkpoint.
        SystemExit: evaluate.py failed and printed the reason; with its exit code.
    """
    if not checkpoint.is_file():
        raise HgfastError(
            f"{config.folder} has no best.pt or checkpoint.pt to evaluate: continue training, or leave out --evaluate"
        )
    args = ["--out", config.folder / EVALUATION_DIR, "--device", config.device, "--batch-size", config.batch_size]
    args += ["--loader", config.loader, *choice.as_flags]
    for name in ("split", "threads", "decoder"):
        args += [f"--{name}", value] if (value := getattr(config, name)) is not None else []
    args += ["--flip-test"] * config.flip_test + ["--baselines"] * config.baselines
    script = Path(__file__).with_name("evaluate.py")
    process = subprocess.run([sys.executable, str(script), str(checkpoint), *map(str, args)], check=False)
    if process.returncode:
        raise SystemExit(process.returncode)


def check_output(config: ReportConfig) -> None:
    """Check that --out is an HTML file and not an input of the report. Raises `HgfastError`."""
    if config.output_path.suffix.lower() not in HTML_SUFFIXES:
        raise HgfastError(f"--out {config.output_path} must end in {' or '.join(HTML_SUFFIXES)}")
    record_files = [file for path in config.records for file in (find_json_files(path) if path.is_dir() else [path])]
    check_distinct_paths([("a file that --records names", path) for path in record_files], {"--out": config.output_path})
    prepare_file(config.output_path, "--out")


def write_report(config: ReportConfig, flags: set[str]) -> Path:
    """Write the report and return its path. `flags` are the field names of the flags on the command line."""
    from hgfast.reporting.page import render_page  # imports torch
    from hgfast.reporting.run_folder import read_run

    run = read_run(config.folder)
    check_output(config)
    if config.evaluate or any(getattr(config, name) is not None for name in DATA_FLAGS):
        evaluate(config, run.checkpoint, merge_data_config(config, run.config, flags))
    records = RecordFinder(config.folder).find(config.records)
    created = datetime.datetime.now().astimezone()
    text = render_page(run, records, config.output_path, created)
    write_text(config.output_path, text.encode("ascii", "xmlcharrefreplace").decode(), "--out")  # ASCII suits every encoding
    return config.output_path


def main() -> None:
    config = parse(ReportConfig, positional="folder", description=__doc__ or "")
    path = write_report(config, explicit_flags(sys.argv[1:]))
    print(f"report: {printable(path)} ({format_size(path.stat().st_size)}), open it in a browser")


if __name__ == "__main__":
    run_main(main)
