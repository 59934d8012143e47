"""Training on several machines, each simulated by a torchrun on this one, with the commands of the docs and configs/slurm.sbatch.

Every simulated machine starts in its own folder, so the relative exp/ shows which one wrote.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.run import get_args_parser

from hgfast import checkpoints
from hgfast.cli import parse
from hgfast.config import FLAG_ALIASES, Config
from tests.conftest import ROOT
from tests.robustness.runs import equal_content
from tests.robustness.usage import process_tree

SBATCH = ROOT / "configs/slurm.sbatch"
TIMEOUT = 600.0
BIN = Path(sys.executable).parent
# fakes of Slurm's commands: every node is a folder, requests are appended to a file, and scancel ends the fake srun
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
trap 'kill -TERM $(jobs -p)' TERM
echo $$ > srun.pid
for node in node-*; do (cd "$node" && exec "$@") & done
code=0
for one in $(jobs -p); do wait "$one" || code=$?; done
if [ $code -gt 128 ]; then wait; fi
exit $code
"""
SCANCEL = '#!/bin/bash\necho "scancel $*" >> requests\nkill -TERM "$(cat srun.pid)"\n'
SCONTROL = '#!/bin/bash\nif [ "$1" = show ]; then echo 127.0.0.1; echo 127.0.0.2; else echo "scontrol $*" >> requests; fi\n'


def machines(folder: Path) -> list[Path]:
    """Return the folders of two machines, each with a link to the project."""
    nodes = [folder / f"node-{n}" for n in range(2)]
    for node in nodes:
        node.mkdir(parents=True)
        (node / "hgfast").symlink_to(ROOT / "hgfast")
    return nodes


def run_flags(hands: Path) -> list[str]:
    """Return the flags of a run of a few steps whose result does not depend on rounding modes."""
    return shlex.split(
        f"--data {hands} --device cpu --threads 1 --model.preset tiny --versions [gs] --batch-size 13 --train.epochs 2 "
        "--train.amp off --train.lr 0.003 --train.val-interval 2 --seed 3"
    )


def environment(**more: str) -> dict[str, str]:
    """Return an environment of one thread, without host names to resolve and without Slurm's variables."""
    slurm_free = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    quick = {"OMP_NUM_THREADS": "1", "PET_LOCAL_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "PATH": path}
    return {**slurm_free, **quick, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "10", **more}


def run_together(lines: Sequence[Sequence[object]], folders: Sequence[Path], env: dict[str, str]) -> list[tuple[int, str]]:
    """Run one command in each folder at the same time; returns exit codes and outputs. Kills what runs longer than `TIMEOUT`."""
    logs = [folder / "printed" for folder in folders]
    started = []
    try:
        for line, folder, log in zip(lines, folders, logs):
            started.append(start(line, folder, env, log))
        deadline = time.monotonic() + TIMEOUT
        codes = [process.wait(max(0.1, deadline - time.monotonic())) for process in started]
    finally:
        end(started)
    return list(zip(codes, [log.read_text() for log in logs]))


def start(line: Sequence[object], folder: Path, env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("w") as file:
        return subprocess.Popen([str(w) for w in line], cwd=folder, env=env, stdout=file, stderr=file, start_new_session=True)


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Kill running processes with their descendants: torchrun's workers are in process groups of their own."""
    for pid in [pid for process in processes if process.poll() is None for pid in process_tree(process.pid)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for process in processes:
        process.wait()


def free_port(low: int = 20000, high: int = 29999) -> int:
    for port in range(low + os.getpid() % 5000, high):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def state(folder: Path) -> dict[str, Any]:
    """Return what training changes in a checkpoint: weights, their average, the optimizer's state, the step."""
    content = checkpoints.read(folder / "checkpoint.pt")
    training = {key: content["training"][key] for key in ("optimizer", "step", "best", "ema_updates")}
    return {"weights": content["weights"], "ema": content["ema"], "training": training}


def experiment_folder(nodes: Sequence[Path], name: str) -> Path:
    """Return the experiment's folder; exactly one machine may have written one."""
    wrote = [node / "exp" for node in nodes if (node / "exp").exists()]
    assert len(wrote) == 1
    assert [folder.name for folder in wrote[0].iterdir()] == [name]
    return wrote[0] / name


@pytest.fixture(scope="module")
def single(hands: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The final state of two ranks on one machine."""
    folder = tmp_path_factory.mktemp("single")
    line = [BIN / "torchrun", "--standalone", "--nproc-per-node", 2, ROOT / "hgfast/train.py", "-e", "one", *run_flags(hands)]
    ((code, printed),) = run_together([line], [folder], environment())
    assert code == 0, printed[-3000:]
    return state(folder / "exp/one")


def test_two_machines_static(hands: Path, tmp_path: Path, single: dict[str, Any]) -> None:
    nodes, port = machines(tmp_path), free_port()
    lines = [
        [BIN / "torchrun", "--nnodes", 2, "--node-rank", n, "--nproc-per-node", 1, "--master-addr", "127.0.0.1", "--master-port",
         port, "hgfast/train.py", "-e", "two", *run_flags(hands)]
        for n in range(2)
    ]  # fmt: skip
    done = run_together(lines, nodes, environment())
    assert [code for code, _ in done] == [0, 0], "\n".join(printed[-3000:] for _, printed in done)
    assert experiment_folder(nodes, "two").parent.parent == nodes[0]
    assert "epoch 2:" in done[0][1] and "epoch" not in done[1][1]
    assert equal_content(state(nodes[0] / "exp/two"), single)


def slurm(folder: Path) -> dict[str, str]:
    """Return the environment of a batch job on the machines in `folder`."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for name, text in (("srun", SRUN), ("scancel", SCANCEL), ("scontrol", SCONTROL)):
        (bin_folder / name).write_text(text)
        (bin_folder / name).chmod(0o755)
    job = {"SLURM_JOB_ID": str(free_port()), "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "host[1-2]"}
    return environment(**job, PATH=f"{bin_folder}{os.pathsep}{BIN}{os.pathsep}{os.environ['PATH']}")


def test_two_machines_by_the_batch_file(hands: Path, tmp_path: Path, single: dict[str, Any]) -> None:
    """An elastic launch by configs/slurm.sbatch."""
    nodes = machines(tmp_path)
    ((code, printed),) = run_together([["bash", SBATCH, "two", *run_flags(hands)]], [tmp_path], slurm(tmp_path))
    assert code == 0, printed[-3000:]
    assert printed.count("epoch 2:") == 1
    assert equal_content(state(experiment_folder(nodes, "two")), single)


def test_job_requeues_at_time_limit_and_resumes(tmp_path: Path) -> None:
    """What configs/slurm.sbatch requests from Slurm and torchrun, with fakes of both."""
    machines(tmp_path)
    env = slurm(tmp_path)
    torchrun = tmp_path / "bin/torchrun"
    torchrun.write_text(
        '#!/bin/bash\nprintf "%s\\n" "$@" > words\nenv > given\n'
        'if [ -f leave ]; then exit 0; fi\ntrap "echo saved > saved; exit 143" TERM\n'
        "touch ready; while :; do sleep 0.05; done\n"
    )
    torchrun.chmod(0o755)
    line = ["bash", SBATCH, "night", "--config", "configs/mpii-hg8.yaml", "--data", "my MPII"]
    job = start(line, tmp_path, env, tmp_path / "printed-first")
    try:
        deadline = time.monotonic() + TIMEOUT
        while len(list(tmp_path.glob("node-*/ready"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        job.send_signal(signal.SIGUSR1)
        assert job.wait(TIMEOUT) == 143
    finally:
        end([job])
    requests = (tmp_path / "requests").read_text().splitlines()
    assert requests == [f"scancel --signal=TERM {env['SLURM_JOB_ID']}", f"scontrol requeue {env['SLURM_JOB_ID']}"]
    assert len(list(tmp_path.glob("node-*/saved"))) == 2
    given = (tmp_path / "node-1/words").read_text().splitlines()
    script = given.index("hgfast/train.py")
    assert given[script + 1 :] == ["--config", "configs/mpii-hg8.yaml", "--data", "my MPII", "--exp", "night", "--out", "exp"]
    launcher = get_args_parser().parse_args(given)
    assert (launcher.nnodes, launcher.nproc_per_node, launcher.rdzv_backend) == ("2", "1", "c10d")
    assert launcher.rdzv_endpoint == f"127.0.0.1:{20000 + int(env['SLURM_JOB_ID']) % 10000}"
    assert launcher.rdzv_id == f"{env['SLURM_JOB_ID']}-0"
    assert launcher.max_restarts > 0
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in (tmp_path / "node-1/given").read_text().splitlines()

    (tmp_path / "exp/night").mkdir(parents=True)
    (tmp_path / "exp/night/checkpoint.pt").touch()
    for node in tmp_path.glob("node-*"):
        (node / "leave").touch()
    second_env = env | {"SLURM_RESTART_COUNT": "1", "SLURM_GPUS_ON_NODE": "8"}
    ((code, printed),) = run_together([line], [tmp_path], second_env)
    assert code == 0, printed
    given = (tmp_path / "node-0/words").read_text().splitlines()
    assert given[given.index("hgfast/train.py") + 1 :] == ["-c", "night", "--out", "exp"]
    launcher = get_args_parser().parse_args(given)
    assert (launcher.nproc_per_node, launcher.rdzv_id) == ("8", f"{env['SLURM_JOB_ID']}-1")
    assert len((tmp_path / "requests").read_text().splitlines()) == 2  # the job ended normally, so no further request


def test_batch_file_is_consistent() -> None:
    """One torchrun per machine, and enough time to save between the signal and the end."""
    text = SBATCH.read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", text, re.MULTILINE))
    assert int(options["nodes"]) == 2 and int(options["ntasks-per-node"]) == 1
    notice = re.fullmatch(r"B:USR1@(\d+)", options["signal"])
    timeout = re.search(r"TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-(\d+)", text)
    assert notice and timeout and int(notice[1]) >= int(timeout[1]) + 60  # Slurm may be a minute late or early
    assert re.search(r"^trap .* USR1\b", text, re.MULTILINE)
    assert options["open-mode"] == "append" and "#SBATCH --requeue" in text
    for name in re.findall(r"--config (\S+\.yaml)", text):
        assert (ROOT / name).is_file(), name


def launch_commands() -> list[list[str]]:
    """Return every torchrun command of the docs, the recipes and the help of train.py, as the words after `torchrun`."""
    files = [
        ROOT / "README.md",
        ROOT / "hgfast/train.py",
        ROOT / "docs/several-machines.md",
        *sorted(ROOT.glob("configs/*.yaml")),
    ]
    line = r"\btorchrun ((?:[^\n`]|(?<=\\)\n)*hgfast/train\.py(?:[^\n`]|(?<=\\)\n)*)"
    found = [re.findall(line, file.read_text()) for file in files]
    return [shlex.split(line.replace("\\\n", " "), comments=True) for lines in found for line in lines]


def test_launch_commands_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchrun's own parser accepts them, and hgfast's parser the words after the script."""
    monkeypatch.chdir(ROOT)
    lines = launch_commands()
    assert lines
    several = []
    for line in lines:
        launcher = get_args_parser().parse_args(line)
        if launcher.nnodes != "1:1":
            several.append(launcher)
        config = parse(Config, launcher.training_script_args, flag_aliases=FLAG_ALIASES)
        config.validate()
    assert {launcher.rdzv_backend for launcher in several} == {"static", "c10d"}
    for launcher in several:
        static = launcher.rdzv_backend == "static"
        assert bool(launcher.master_addr) if static else ":" in launcher.rdzv_endpoint


@pytest.mark.slow
def test_training_resumes_after_signal(hands: Path, tmp_path: Path) -> None:
    """The batch file with real ranks: stopped half-way and started again, every epoch runs once."""
    machines(tmp_path)
    env = slurm(tmp_path) | {"OUT": str(tmp_path / "shared")}  # what all machines see
    line = ["bash", SBATCH, "two", *run_flags(hands), "--train.epochs", 12, "--train.val-interval", 1]
    first, saved = tmp_path / "printed-first", tmp_path / "shared/two/checkpoint.pt"
    with job_with_checkpoint(line, tmp_path, env, first, saved) as job:
        job.send_signal(signal.SIGUSR1)
        code = job.wait(TIMEOUT)
    assert code != 0, first.read_text()[-3000:]
    assert "requeue" in (tmp_path / "requests").read_text()
    step = checkpoints.read(saved)["training"]["step"]
    assert f"stopped at step {step}, which is saved" in first.read_text()
    assert 0 < step < 12 * 4
    ((code, printed),) = run_together([line], [tmp_path], env | {"SLURM_RESTART_COUNT": "1"})
    assert code == 0, printed[-3000:]
    assert_every_epoch_once(saved)


@pytest.mark.slow
def test_dead_rank_is_restarted(hands: Path, tmp_path: Path) -> None:
    """Both torchrun restart their ranks, which resume from the last checkpoint."""
    machines(tmp_path)
    env = slurm(tmp_path) | {"OUT": str(tmp_path / "shared")}
    line = ["bash", SBATCH, "two", *run_flags(hands), "--train.epochs", 12, "--train.val-interval", 1]
    printed, saved = tmp_path / "printed", tmp_path / "shared/two/checkpoint.pt"
    with job_with_checkpoint(line, tmp_path, env, printed, saved) as job:
        ranks = {environ["RANK"]: pid for pid in process_tree(job.pid) if "RANK" in (environ := environment_of(pid))}
        os.kill(ranks["1"], signal.SIGKILL)
        code = job.wait(TIMEOUT)
    assert code == 0, printed.read_text()[-6000:]
    assert len(ranks) == 2
    # each torchrun counts its own restarts; a rank whose count is 0 must not start a new run
    assert "checkpoint.pt exists" not in printed.read_text()
    assert_every_epoch_once(saved)


@contextmanager
def job_with_checkpoint(
    line: Sequence[object], folder: Path, env: dict[str, str], log: Path, saved: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a job that has written its first checkpoint; kill what is left of it afterwards."""
    job = start(line, folder, env, log)
    try:
        deadline = time.monotonic() + TIMEOUT
        while not saved.exists() and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        yield job
    finally:
        end([job])


def assert_every_epoch_once(saved: Path) -> None:
    """Twelve epochs of four steps."""
    assert checkpoints.read(saved)["training"]["step"] == 12 * 4
    epochs = [json.loads(record)["epoch"] for record in (saved.parent / "metrics.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, 13))


def environment_of(pid: int) -> dict[str, str]:
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)
