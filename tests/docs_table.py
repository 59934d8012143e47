"""What of the commands in README.md and docs/ is not run here, with the reason, and how long ones are shortened.

A command that is in neither table is run as it stands. Those that are not run are still parsed: their scripts' --help must know
their flags, and `make -n` their targets.
What may enter: the two tables, and looking commands up in them.
"""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import dataclass

NOT_RUN: tuple[tuple[str, str], ...] = (
    (r"^(pip|.*/pip|apt|apt-get) install\b", "it needs the network"),
    (r"^export \w+=", "it changes the shell that it is typed into"),
    (
        r"^make (demo|test|test-robustness|test-install|test-docs|torch-cpu|lint|format|coverage|bench-quick|gpu-check)\b",
        "it has a CI step of its own, or minutes",
    ),
    (r"--nnodes 2", "it needs two machines; tests/robustness/test_nodes.py stands in for them"),
    (r"^sbatch\b", "it needs Slurm; tests/robustness/test_nodes.py stands in for it"),
    (r"^\.venv-gpu/", "it needs a GPU"),
    (r"webcam\.py \S+$", "it needs a camera"),
    (r"web_service\.py", "it serves for ever; tests/export/test_examples.py asks it"),
    (r"^(python )?bench/(latency|loader|train_step|embedding|recipes)\.py\b", "minutes; tests/bench runs it briefly"),
    (r"bench/all\.py(?!.*--list)", "minutes; tests/bench runs it briefly"),
    (r"--release ", "it needs MPII's own release; tests/bench/test_pckh_submission.py runs it on one that is made up"),
    (r"^python tests/robustness/", "minutes; the tests beside it run it briefly"),
)
"""What a command matches, and why it is not run."""

TOOLS: tuple[tuple[str, tuple[str, ...]], ...] = ((r"^cmake |^build/hgfast_cli ", ("cmake", "c++")),)
"""What a command matches that is run only where there are these programs, as in tests/export/test_cpp.py."""

TINY = "--model.preset tiny --model.input-size 64 --batch-size 4 --threads 1 --train.amp off --train.max-iters 0.003"
"""A network and a length with which a run takes seconds."""

SHORTENED: tuple[tuple[str, str, str], ...] = (
    # where it matches | what is replaced | by what; an empty second column: the third is appended
    (
        r"hgfast/train\.py .*(--nproc-per-node|torchrun)|torchrun .*hgfast/train\.py",
        r"(--standalone )?--nproc-per-node \d+",
        "--standalone --nproc-per-node 2",
    ),
    (r"hgfast/train\.py .*--weights ", "", TINY.replace("--model.preset tiny ", "")),
    (r"hgfast/train\.py -c \S+ --", "", "--train.max-iters 0.009"),
    (r"hgfast/train\.py -c \S+$", "", "--train.max-iters 0.006"),
    (r"hgfast/train\.py (?!-c )(?!.*--weights )", "", TINY),
    (r"predict\.py .*images/000000300", r"000000300", "000000003"),  # the first held-out picture, of three
    (r"pipelines/cache\.py", "", "--model.preset tiny --model.input-size 64 --threads 1"),
    (r"pipelines/synthetic\.py", r"--count \d+", "--count 3 --workers 1"),
    (r"pipelines/synthetic\.py", r"--valid \d+", "--valid 2"),
    (r"export/(to_onnx|torchscript|trt)\.py", "", "--threads 1"),
    (r"export/(to_onnx|torchscript|trt)\.py(?!.*--batch)", "", "--batch 1:2:4"),
    (r"export/.*--precision int8", "", "--calibration 8 --max-loss 100"),
    (r"bench/decode\.py", "", "--quick"),
    (r"^cmake -S export/cpp -B build\b", "", "-DCMAKE_BUILD_TYPE=None"),
)
"""Long commands, and what makes them short."""


@dataclass(frozen=True)
class Looked:
    """A command as it is run, or why it is not."""

    command: str
    reason: str = ""


def look_up(command: str) -> Looked:
    for pattern, reason in NOT_RUN:
        if re.search(pattern, command):
            return Looked(command, reason)
    for pattern, programs in TOOLS:
        if re.search(pattern, command) and (absent := [one for one in programs if shutil.which(one) is None]):
            return Looked(command, f"there is no {absent[0]} here")
    short = command
    for where, what, by in SHORTENED:
        if re.search(where, command):
            short = re.sub(what, by, short) if what else f"{short} {by}"
    return Looked(short)


def script_of(command: str) -> tuple[str, list[str]] | None:
    """The script of ours that a command runs, with sub-command if it has one, and the flags that are given to it."""
    words = shlex.split(command)
    if words[:1] == ["sbatch"]:
        start = next(n for n, word in enumerate(words) if word.endswith(".sbatch"))
        return "hgfast/train.py", flags_of(words[start + 1 :])
    for number, word in enumerate(words):
        if re.fullmatch(r"(hgfast|pipelines|export|bench|tests)/[\w/]+\.py", word):
            rest = words[number + 1 :]
            return word, flags_of(rest)
    return None


def flags_of(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
