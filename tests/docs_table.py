"""Commands of README.md and docs/ that the tests skip, with the reasons, and replacements that shorten slow ones.

Commands in neither table are run unchanged. Skipped commands are still checked: their script's --help must list their flags, and
`make -n` must accept their targets. Patterns match `hgfast train` in the form `python hgfast/train.py` (`as_script`).
"""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import dataclass

from hgfast.__main__ import find

NOT_RUN: tuple[tuple[str, str], ...] = (
    (r"^(pip|.*/pip|apt|apt-get) install\b", "it needs the network"),
    (r"^export \w+=", "it sets a variable of the user's shell"),
    (
        r"^make (demo|test|test-robustness|test-install|test-docs|torch-cpu|lint|format|coverage|bench-quick|gpu-(check|kit))\b",
        "it is a CI step of its own, or takes minutes",
    ),
    (r"--nnodes 2", "it needs two machines; tests/robustness/test_nodes.py simulates them"),
    (r"^sbatch\b", "it needs Slurm; tests/robustness/test_nodes.py simulates it"),
    (r"webcam\.py \S+$", "it needs a camera"),
    (r"web_service\.py", "it runs until it is stopped; tests/export/test_examples.py tests it"),
    (
        r"^(python )?bench/(latency|loader|train_step|session_overhead|recipes)\.py\b",
        "it takes minutes; tests/bench runs it briefly",
    ),
    (r"bench/run_all\.py(?!.*--list)", "it takes minutes; tests/bench runs it briefly"),
    (r"--release ", "it needs MPII's release; tests/bench/test_submission.py runs it on a synthetic one"),
    (r"^python -m tests\.robustness\.", "it takes minutes; the tests in its folder run it briefly"),
)
"""Patterns of skipped commands, and the reasons."""

TOOLS: tuple[tuple[str, tuple[str, ...]], ...] = ((r"^cmake |^build/hgfast_cli ", ("cmake", "c++")),)
"""Patterns of commands that are skipped if one of these programs is missing, as in tests/export/test_cpp.py."""

TINY = (
    "--model.preset tiny --model.depth 1 --model.input-size 64 --batch-size 4 --threads 1 --train.amp off --train.max-iters 0.003"
)
"""Flags with which a training run takes seconds."""

SHORTENED: tuple[tuple[str, str, str], ...] = (
    # pattern of the command, replaced pattern, replacement; if the second is empty, the third is appended
    (
        r"hgfast/train\.py .*(--nproc-per-node|torchrun)|torchrun .*hgfast/train\.py",
        r"(--standalone )?--nproc-per-node \d+",
        "--standalone --nproc-per-node 2",
    ),
    (r"hgfast/train\.py .*--weights ", "", TINY.replace("--model.preset tiny --model.depth 1 ", "")),
    (r"hgfast/train\.py -c \S+ --", "", "--train.max-iters 0.009"),
    (r"hgfast/train\.py -c \S+$", "", "--train.max-iters 0.006"),
    (r"hgfast/train\.py (?!-c )(?!.*--weights )", "", TINY),
    (r"predict\.py .*images/000000300", r"000000300", "000000003"),  # the first held-out image, of three
    (r"pipelines/cache\.py", "", "--model.preset tiny --model.depth 1 --model.input-size 64 --threads 1"),
    (r"pipelines/synthetic\.py", r"--count \d+", "--count 3 --workers 1"),
    (r"pipelines/synthetic\.py", r"--valid \d+", "--valid 2"),
    (r"export/(to_onnx|torchscript|trt)\.py", "", "--threads 1"),
    (r"export/(to_onnx|torchscript|trt)\.py(?!.*--batch)", "", "--batch 1:2:4"),
    (r"export/.*--precision int8", "", "--calibration 8 --max-loss 100"),
    (r"bench/decode\.py", "", "--quick"),
    (r"^cmake -S export/cpp -B build\b", "", "-DCMAKE_BUILD_TYPE=None"),
)
"""Patterns of slow commands, and their replacements."""


@dataclass(frozen=True)
class CommandPlan:
    """The command to run, or the reason why it is skipped."""

    command: str
    reason: str = ""


def as_script(command: str) -> str:
    """Replace the verbs of the console command by their scripts: `hgfast export onnx FILE` -> `python export/to_onnx.py FILE`."""
    words = command.split(" ")
    if words[0] != "hgfast":
        return command
    module, rest = find(words[1:])
    name = module.removeprefix("hgfast.") if module.count(".") > 1 else module  # hgfast/export is a link to export/
    return " ".join(["python", f"{name.replace('.', '/')}.py", *rest])


def plan_command(command: str) -> CommandPlan:
    script = as_script(command)
    for pattern, reason in NOT_RUN:
        if re.search(pattern, script):
            return CommandPlan(command, reason)
    for pattern, programs in TOOLS:
        if re.search(pattern, script) and (missing := [name for name in programs if shutil.which(name) is None]):
            return CommandPlan(command, f"{missing[0]} is not installed")
    shortened = command
    for pattern, replaced, replacement in SHORTENED:
        if re.search(pattern, script):
            shortened = re.sub(replaced, replacement, shortened) if replaced else f"{shortened} {replacement}"
    return CommandPlan(shortened)


def script_of(command: str) -> tuple[str, list[str]] | None:
    """Return the project's script that a command runs, and its flags."""
    words = shlex.split(as_script(command))
    if words[:1] == ["sbatch"]:
        start = next(n for n, word in enumerate(words) if word.endswith(".sbatch"))
        return "hgfast/train.py", flags_of(words[start + 1 :])
    for number, word in enumerate(words):
        if re.fullmatch(r"(hgfast|pipelines|export|bench|tests)/[\w/]+\.py", word):
            return word, flags_of(words[number + 1 :])
    return None


def flags_of(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
