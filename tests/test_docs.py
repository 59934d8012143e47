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
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT
from docs_blocks import KINDS, Piece, anchors, blocks, links, pieces, prints
from docs_sandbox import ENVIRONMENT, make_sandbox
from docs_table import NOT_RUN, look_up, script_of

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = {page: page.name if page.parent == ROOT else f"docs/{page.name}" for page in PAGES}
PIECES = [piece for page in PAGES for piece in pieces(page, NAMES[page])]
RUN = [piece for piece in PIECES if piece.kind == "python" or not look_up(piece.text).reason]
LEFT_OUT = [piece for piece in PIECES if piece not in RUN]
LIMIT = 300  # seconds
Sandbox = Callable[[str], Path]

pytestmark = pytest.mark.docs


def of_page(piece: Piece) -> object:
    """Pieces of a page stay in one process, in their order."""
    return pytest.param(piece, id=piece.name, marks=pytest.mark.xdist_group(piece.page))


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Sandbox:
    """A page's copy of the sandbox, which is made once for all processes."""
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "docs"
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        whole = shared / "sandbox"
        if not whole.exists():
            shutil.rmtree(shared / "making", ignore_errors=True)
            make_sandbox(shared / "making").rename(whole)

    def of(page: str) -> Path:
        own = base / page.replace("/", "-")
        if not own.exists():
            shutil.copytree(whole, own, symlinks=True)
        return own

    return of


@pytest.mark.parametrize("piece", [of_page(piece) for piece in RUN])
def test_what_is_run(piece: Piece, sandbox: Sandbox) -> None:
    folder = sandbox(piece.page)
    if piece.kind == "python":
        words = [sys.executable, "-c", piece.text]
    else:
        command = look_up(piece.text).command if piece.kind == "bash" else piece.text
        words = ["bash", "-c", command]
    done = subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT, check=False)
    said = done.stdout + done.stderr
    about = f"{words[-1]}\n{said[-4000:]}"
    refused = any(line.startswith("error: ") for line in piece.shown)
    if piece.kind == "console":
        assert "Traceback" not in said and (done.returncode == 2) == refused, about
        assert (missing := prints(piece.shown, said)) is None, f"is not printed: {missing}\n{about}"
    else:
        assert done.returncode == 0, about


@pytest.mark.parametrize("piece", [of_page(piece) for piece in LEFT_OUT])
def test_what_is_not_run_has_flags_that_there_are(piece: Piece) -> None:
    assert piece.kind == "bash", "a page shows what is printed by a command that is not run"
    if piece.text.startswith("make "):
        done = subprocess.run(["make", "-n", *piece.text.split()[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    found = script_of(piece.text)
    if found is not None:
        script, flags = found
        assert (ROOT / script).is_file()
        known = help_of(script)
        assert not [flag for flag in flags if not re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", known)], f"unknown to {script}"


@cache
def help_of(script: str) -> str:
    done = subprocess.run(
        [sys.executable, script, "--help"], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_is_left_out_for_a_reason_that_no_command_has() -> None:
    unused = [pattern for pattern, _ in NOT_RUN if not any(re.search(pattern, piece.text) for piece in PIECES)]
    assert len(unused) < len(NOT_RUN) / 2


@pytest.mark.parametrize("page", PAGES, ids=list(NAMES.values()))
def test_blocks_say_what_they_are(page: Path) -> None:
    """A command in a block that is not marked as bash or console would not be run."""
    shown = [block for block in blocks(page) if block.kind not in KINDS]
    for block in shown:
        strays = [line for line in block.body.splitlines() if re.match(r"(\$ |python |torchrun |pip |make |cmake )", line)]
        assert not strays, f"line {block.line} ff. is a block of {block.kind or 'nothing'} with {strays[0]!r}"


@pytest.mark.parametrize("page", PAGES, ids=list(NAMES.values()))
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
