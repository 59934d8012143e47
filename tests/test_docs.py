"""README.md and docs/: commands and Python examples run, and links resolve (`make test-docs`).

A page's commands run in order in its own copy of the sandbox (`docs_sandbox`); `docs_table` lists the skipped and shortened ones.
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

from tests.conftest import ROOT, TIMEOUT
from tests.docs_blocks import EXECUTED_LANGUAGES, Snippet, anchors, blocks, links, missing_output, snippets
from tests.docs_sandbox import ENVIRONMENT, make_sandbox
from tests.docs_table import NOT_RUN, SHORTENED, as_script, plan_command, script_of

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = {page: page.name if page.parent == ROOT else f"docs/{page.name}" for page in PAGES}
SNIPPETS = {page: snippets(page, NAMES[page]) for page in PAGES}
Sandbox = Callable[[str], Path]

pytestmark = pytest.mark.docs
each_page = pytest.mark.parametrize("page", PAGES, ids=list(NAMES.values()))


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Sandbox:
    """Return a function that gives a page its copy of the sandbox, which is created once for all processes."""
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
def test_snippets_run(page: Path, sandbox: Sandbox) -> None:
    """Run a page's snippets in order; a failure does not stop the rest."""
    to_run = [piece for piece in SNIPPETS[page] if piece.language != "bash" or not plan_command(piece.text).reason]
    folder = sandbox(NAMES[page]) if to_run else Path()
    for piece in (one for one in to_run if one.language == "bash"):
        for name in re.findall(r"hgfast/train\.py .*--exp ([\w-]+)", as_script(piece.text)):
            shutil.rmtree(folder / "exp" / name, ignore_errors=True)  # a page trains this experiment itself
    failed = []
    for piece in to_run:
        began = time.monotonic()
        complaint = execute(piece, folder)
        print(f"{time.monotonic() - began:6.1f} s  {piece.name}")
        if complaint:
            failed.append(f"== {piece.name}: {complaint}")
    assert not failed, "\n".join(failed)


def execute(piece: Snippet, folder: Path) -> str:
    """Run a snippet; returns what is wrong with its exit code or output, or an empty string."""
    if piece.language == "python":
        words = [sys.executable, "-c", piece.text]
    else:
        words = ["bash", "-c", plan_command(piece.text).command if piece.language == "bash" else piece.text]
    done = subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    output = done.stdout + done.stderr
    about = f"{words[-1]}\n{output[-3000:]}"
    if piece.language != "console":
        return "" if done.returncode == 0 else f"exit code {done.returncode}: {about}"
    refused = any(line.startswith("error: ") for line in piece.expected_output)
    if "Traceback" in output or (done.returncode == 2) != refused:
        return f"exit code {done.returncode}: {about}"
    missing = missing_output(piece.expected_output, output)
    return f"does not print {missing!r}: {about}" if missing is not None else ""


@each_page
def test_skipped_commands_use_existing_flags(page: Path) -> None:
    for piece in SNIPPETS[page]:
        if piece.language != "bash" or not plan_command(piece.text).reason:
            continue
        if piece.text.startswith("make "):
            done = subprocess.run(
                ["/usr/bin/env", "make", "-n", *piece.text.split()[1:]], cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{piece.name}: {done.stderr}"
        if (found := script_of(piece.text)) is not None:
            script, flags = found
            assert (ROOT / script).is_file(), f"{piece.name}: {script} does not exist"
            help_text = help_of(script)
            unknown = [flag for flag in flags if not re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", help_text)]
            assert not unknown, f"{piece.name}: unknown to {script}: {unknown}"


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


def test_tables_match_pages() -> None:
    texts = [as_script(piece.text) for found in SNIPPETS.values() for piece in found]
    patterns = [pattern for pattern, _ in NOT_RUN] + [pattern for pattern, *_ in SHORTENED]
    assert not [pattern for pattern in patterns if not any(re.search(pattern, text) for text in texts)]


@each_page
def test_blocks_name_their_language(page: Path) -> None:
    """A command in a block that is not marked as bash or console would not be tested."""
    shown = [block for block in blocks(page) if block.language not in EXECUTED_LANGUAGES]
    for block in shown:
        strays = [
            line for line in block.body.splitlines() if re.match(r"(\$ |hgfast |python |torchrun |pip |make |cmake )", line)
        ]
        assert not strays, f"line {block.line} ff. is a block of {block.language or 'nothing'} with {strays[0]!r}"


@each_page
def test_links_resolve(page: Path) -> None:
    for target in links(page):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} does not exist"
        assert ROOT in linked.parents, f"{target} is outside the project"
        if anchor:
            assert linked.suffix != ".md" or anchor in anchors(linked), f"{path or page.name} has no heading #{anchor}"


def test_every_page_is_in_the_index() -> None:
    index = {target.partition("#")[0] for target in links(ROOT / "docs/README.md")}
    assert {page.name for page in PAGES if page.parent != ROOT and page.name != "README.md"} <= index


def test_named_files_exist() -> None:
    """Paths in code that begin with one of the project's folders exist."""
    for page in PAGES:
        for name in re.findall(r"`((?:hgfast|pipelines|export|bench|configs|tests|docs)/[\w./-]+)`", page.read_text()):
            assert (ROOT / name).exists() or list(ROOT.glob(f"{name}*")), f"{NAMES[page]} names {name}"
