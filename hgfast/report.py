"""Write what there is to see of a run as one HTML file, which needs nothing else to be read.

python hgfast/report.py exp/NAME
python hgfast/report.py exp/NAME --evaluate
python hgfast/report.py exp/NAME --records [bench/results/latency.json,exports/] --out report.html

It has the run's settings, curves, figures and files. With --evaluate, or where a flag says where data are, evaluate.py is run
first, on the data that the run was trained with, as far as no flag names others; its files stay in exp/NAME/evaluation.
What may enter: the flags, and the order of the work. The page is `report_page`'s, each of its parts a module's beside it.
"""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from hgfast.cli import parse
from hgfast.config import DataChoice
from hgfast.errors import HgfastError, run
from hgfast.files import check_apart, prepare_file, write_text
from hgfast.report_page import page
from hgfast.report_records import Finder, jsons
from hgfast.report_run import CHECKPOINTS, Run, read_run
from hgfast.report_tables import in_bytes

PAGE, EVALUATION = "report.html", "evaluation"
ENDINGS = (".html", ".htm")
WHERE = ("data", "annotations", "valid_annotations", "images", "valid_images")
"""Flags of the data that ask for an evaluation by themselves."""


@dataclass(kw_only=True)
class ReportConfig(DataChoice):
    """One report."""

    folder: Path
    """the run's folder, exp/NAME"""
    out: Path | None = None
    """the HTML file to write; none: report.html in the run's folder"""
    records: list[Path] = field(default_factory=list)
    """JSON files of bench/ and sidecars of export/ to show besides those in the run's folder, or folders with them"""
    evaluate: bool = False
    """run evaluate.py first, and show what it finds"""
    split: Literal["train", "valid", "test", "all", "evaluation"] | None = None
    """which samples to evaluate; none: as evaluate.py has it"""
    device: str = "auto"
    """where to evaluate: auto, cpu, cuda or cuda:N"""
    batch_size: int = 32
    """pictures at a time"""
    loader: Literal["dali", "torch"] = "dali"
    """what decodes and warps: NVIDIA DALI, or, with torch, OpenCV in worker processes"""
    threads: int | None = None
    """decoding threads or worker processes; none: one a core"""
    flip_test: bool = False
    """evaluate with the mirrored picture, too"""
    baselines: bool = False
    """also evaluate the mean pose and the nearest training picture"""

    @property
    def page(self) -> Path:
        return self.out or self.folder / PAGE


def given(argv: Sequence[str]) -> set[str]:
    """The names of the flags among the words of a command line, as fields have them."""
    return {word.partition("=")[0][2:].replace("-", "_") for word in argv if word.startswith("--")}


def data_choice(config: ReportConfig, trained_on: Mapping[str, Any], flags: set[str]) -> DataChoice:
    """The run's own data, as config.yaml has them, but for what the command line says.

    Raises:
        HgfastError: config.yaml has values that no flag could have.
    """
    words, plain = list[str](), DataChoice()
    for one in fields(DataChoice):
        value = getattr(config, one.name)
        if one.name not in flags and value == getattr(plain, one.name):
            value = trained_on.get(one.name, value)
        if value is not None and not isinstance(value, (str, int, float, list, Path)):
            raise HgfastError(f"{one.name} in {config.folder / 'config.yaml'} is no plain value: name the data by flags")
        if value is not None:
            text = f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
            words.append(f"--{one.name}={text.lower() if isinstance(value, bool) else text}")
    return parse(DataChoice, words)


def evaluate(config: ReportConfig, trained: Run, choice: DataChoice) -> None:
    """Run evaluate.py, whose files go to the folder `EVALUATION` of the run's.

    Raises:
        HgfastError: nothing to evaluate.
        SystemExit: evaluate.py failed, and has said why; with its exit code.
    """
    if not trained.checkpoint.is_file():
        raise HgfastError(f"{config.folder} has no {' or '.join(CHECKPOINTS)} to evaluate: train on, or leave out --evaluate")
    words = ["--out", config.folder / EVALUATION, "--device", config.device, "--batch-size", config.batch_size]
    words += ["--loader", config.loader, *choice.flags]
    words += ["--split", config.split] if config.split else []
    words += ["--threads", config.threads] if config.threads is not None else []
    words += [flag for flag, wanted in (("--flip-test", config.flip_test), ("--baselines", config.baselines)) if wanted]
    script = Path(__file__).with_name("evaluate.py")
    command = [sys.executable, str(script), str(trained.checkpoint), *map(str, words)]
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def check(config: ReportConfig) -> None:
    """Refuse to overwrite what the report is made of. Raises `HgfastError`."""
    if config.page.suffix.lower() not in ENDINGS:
        raise HgfastError(f"--out {config.page} must end in {' or '.join(ENDINGS)}")
    named = [one for path in config.records for one in (jsons(path) if path.is_dir() else [path])]
    check_apart([("a file that --records names", path) for path in named], {"--out": config.page})
    prepare_file(config.page, "--out")


def write(config: ReportConfig, flags: set[str]) -> Path:
    """Write the report; returns where it is. `flags` are the names of those that were given."""
    trained = read_run(config.folder)
    check(config)
    if config.evaluate or any(getattr(config, name) is not None for name in WHERE):
        evaluate(config, trained, data_choice(config, trained.config, flags))
    found = Finder(config.folder).find(config.records)
    now = datetime.datetime.now().astimezone()
    text = page(trained, found, config.page, now)
    write_text(config.page, text.encode("ascii", "xmlcharrefreplace").decode(), "--out")  # readable whatever the encoding
    return config.page


def main() -> None:
    config = parse(ReportConfig, positional="folder", description=__doc__ or "")
    path = write(config, given(sys.argv[1:]))
    print(f"report: {path} ({in_bytes(path.stat().st_size)}), open it in a browser")


if __name__ == "__main__":
    run(main)
