"""Run the commands of README.md and docs/.

`hgfast` commands and Python code run in processes forked from one that has imported torch and other slow modules.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shlex
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

from hgfast import __main__ as hgfast_command
from tests.conftest import TIMEOUT

ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
PRELOADED = [
    "torch._dynamo",
    "nvidia.dali.fn",
    "matplotlib.backends.backend_agg",
    "scipy.io",
    "scipy.stats",
    "h5py",
    "jsonargparse",
    "hgfast.training.run",
]
"""Slow modules that start no threads when they are imported."""


def run_bash(command: str, folder: Path) -> tuple[int, str]:
    """Run commands in a folder; returns the last exit code and the output. `run_forked` runs `hgfast` if it is not piped."""
    if "; " in command:
        results = [run_bash(part, folder) for part in command.split("; ")]
        return results[-1][0], "".join(output for _, output in results)
    if re.fullmatch(r"hgfast [^;|&$<>*?`~#]+", command):
        return run_forked(shlex.split(command), folder)
    done = subprocess.run(
        ["/bin/bash", "-c", command], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    return done.returncode, done.stdout + done.stderr


def run_forked(words: list[str], folder: Path) -> tuple[int, str]:
    """Run `hgfast ...`, or the code of `python -c CODE`, in a forked process; returns its exit code and output."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, __name__])
    output = folder / ".output"
    process = context.Process(target=_run_words, args=(words, folder, output))
    process.start()
    process.join(TIMEOUT)
    process.kill()  # does nothing to a process that has ended
    process.join()
    assert process.exitcode is not None
    return process.exitcode, output.read_text(errors="replace")


def _run_words(words: list[str], folder: Path, output: Path) -> None:
    """Redirect the output of this process to a file and run the command."""
    os.chdir(folder)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(descriptor, stream.fileno())
    os.environ.update(ENVIRONMENT)
    forkserver._forkserver.__init__()  # type: ignore[misc]  # loaders of this process start their own
    if words[0] == "hgfast":
        sys.argv = words
        hgfast_command.main()
    else:
        sys.argv, sys.path[:0] = ["-c"], [""]
        exec(compile(words[2], "<page>", "exec"), {"__name__": "__main__"})  # noqa: S102
