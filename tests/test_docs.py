"""README.md and docs/: their commands and lines of Python are run, their links lead somewhere.

`make test-docs`. Commands of a page are run in its order in a copy of the sandbox of its own (`docs_sandbox`); which are not,
and how long ones are shortened, is in `docs_table`.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT, TIMEOUT
from docs_blocks import KINDS, Piece, anchors, blocks, links, pieces, prints
from docs_sandbox import ENVIRONMENT, make_sandbox
from docs_table import NOT_RUN, SHORTENED, look_up, script_of

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = {page: page.name if page.parent == ROOT else f"docs/{page.name}" for page in PAGES}
PIECES = {page: pieces(page, NAMES[page]) for page in PAGES}
Sandbox = Callable[[str], Path]

pytestmark = pytest.mark.docs
each_page = pytest.mark.parametrize("page", PAGES, ids=list(NAMES.values()))


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Sandbox:
    """A page's copy of the sandbox, which is made once for all processes."""
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "docs"
    shared.mkdir(exist_ok=True)
    whole = shared / "sandbox"

    def of(page: str) -> Path:
        with (shared / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not whole.exists():
                shutil.rmtree(shared / "making", ignore_errors=True)
                make_sandbox(shared / "making").rename(whole)
        return Path(shutil.copytree(whole, base / page.replace("/", "-"), symlinks=True))

    return of


@each_page
def test_what_is_run(page: Path, sandbox: Sandbox) -> None:
    """All of a page that is run, in its order; what fails does not stop the rest."""
    to_run = [piece for piece in PIECES[page] if piece.kind != "bash" or not look_up(piece.text).reason]
    folder = sandbox(NAMES[page]) if to_run else Path()
    for piece in (one for one in to_run if one.kind == "bash"):
        for name in re.findall(r"hgfast/train\.py .*--exp ([\w-]+)", piece.text):
            shutil.rmtree(folder / "exp" / name, ignore_errors=True)  # what a page trains itself is not there before
    failed = []
    for piece in to_run:
        began = time.monotonic()
        complaint = carry_out(piece, folder)
        print(f"{time.monotonic() - began:6.1f} s  {piece.name}")
        if complaint:
            failed.append(f"== {piece.name}: {complaint}")
    assert not failed, "\n".join(failed)


def carry_out(piece: Piece, folder: Path) -> str:
    """Run a piece; what is wrong with how it ended or what it printed, or nothing."""
    if piece.kind == "python":
        words = [sys.executable, "-c", piece.text]
    else:
        words = ["bash", "-c", look_up(piece.text).command if piece.kind == "bash" else piece.text]
    done = subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    said = done.stdout + done.stderr
    about = f"{words[-1]}\n{said[-3000:]}"
    if piece.kind != "console":
        return "" if done.returncode == 0 else f"exit code {done.returncode}: {about}"
    refused = any(line.startswith("error: ") for line in piece.shown)
    if "Traceback" in said or (done.returncode == 2) != refused:
        return f"exit code {done.returncode}: {about}"
    missing = prints(piece.shown, said)
    return f"does not print {missing!r}: {about}" if missing is not None else ""


@each_page
def test_what_is_not_run_has_flags_that_there_are(page: Path) -> None:
    for piece in PIECES[page]:
        if piece.kind != "bash" or not look_up(piece.text).reason:
            continue
        if piece.text.startswith("make "):
            done = subprocess.run(
                ["/usr/bin/env", "make", "-n", *piece.text.split()[1:]], cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{piece.name}: {done.stderr}"
        if (found := script_of(piece.text)) is not None:
            script, flags = found
            assert (ROOT / script).is_file(), f"{piece.name}: there is no {script}"
            known = help_of(script)
            strange = [flag for flag in flags if not re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", known)]
            assert not strange, f"{piece.name}: unknown to {script}: {strange}"


@cache
def help_of(script: str) -> str:
    done = subprocess.run(
        [sys.executable, script, "--help"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tables_hold_nothing_that_no_page_has() -> None:
    texts = [piece.text for found in PIECES.values() for piece in found]
    patterns = [pattern for pattern, _ in NOT_RUN] + [pattern for pattern, *_ in SHORTENED]
    assert not [pattern for pattern in patterns if not any(re.search(pattern, text) for text in texts)]


@each_page
def test_blocks_say_what_they_are(page: Path) -> None:
    """A command in a block that is not marked as bash or console would not be run."""
    shown = [block for block in blocks(page) if block.kind not in KINDS]
    for block in shown:
        strays = [line for line in block.body.splitlines() if re.match(r"(\$ |python |torchrun |pip |make |cmake )", line)]
        assert not strays, f"line {block.line} ff. is a block of {block.kind or 'nothing'} with {strays[0]!r}"


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target} is no file"
        assert ROOT in there.parents, f"{target} is outside of the project"
        if anchor:
            assert there.suffix != ".md" or anchor in anchors(there), f"{path or page.name} has no heading #{anchor}"


def test_every_page_is_in_the_index() -> None:
    index = {target.partition("#")[0] for target in links(ROOT / "docs/README.md")}
    assert {page.name for page in PAGES if page.parent != ROOT and page.name != "README.md"} <= index


def test_files_and_folders_that_pages_name_are_there() -> None:
    """Names in code that begin with one of our folders, but for what is made by commands."""
    for page in PAGES:
        for name in re.findall(r"`((?:hgfast|pipelines|export|bench|configs|tests|docs)/[\w./-]+)`", page.read_text()):
            assert (ROOT / name).exists() or list(ROOT.glob(f"{name}*")), f"{NAMES[page]} names {name}"
