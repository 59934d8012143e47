"""README.md and docs/: commands and Python examples run, and links resolve (`make test-docs`).

A page's commands run in order in its own copy of the sandbox (`docs_sandbox`); `docs_table` lists the skipped and shortened ones.
"""

from __future__ import annotations

import re
import shutil
import time
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT, make_once
from tests.docs_blocks import EXECUTED_LANGUAGES, Snippet, anchors, blocks, links, missing_output, snippets
from tests.docs_runner import run_bash, run_forked
from tests.docs_sandbox import make_sandbox
from tests.docs_table import NOT_RUN, SHORTENED, as_script, plan_command, script_of

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = {page: page.name if page.parent == ROOT else f"docs/{page.name}" for page in PAGES}
SNIPPETS = {page: snippets(page, NAMES[page]) for page in PAGES}
SNIPPETS_TO_RUN = {
    page: [snippet for snippet in found if snippet.language != "bash" or not plan_command(snippet.text).reason]
    for page, found in SNIPPETS.items()
}

pytestmark = pytest.mark.docs
each_page = pytest.mark.parametrize("page", PAGES, ids=list(NAMES.values()))


@pytest.fixture
def sandbox(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """A copy of the sandbox, which is created once for all processes."""
    return Path(shutil.copytree(make_once(tmp_path_factory, "sandbox", make_sandbox), tmp_path / "sandbox", symlinks=True))


@pytest.mark.parametrize("page", [page for page in PAGES if SNIPPETS_TO_RUN[page]], ids=NAMES.__getitem__)
def test_snippets_run(page: Path, sandbox: Path) -> None:
    """Run a page's snippets in order; a failure does not stop the rest."""
    for snippet in SNIPPETS_TO_RUN[page]:
        for name in (
            re.findall(r"hgfast/train\.py .*--exp ([\w-]+)", as_script(snippet.text)) if snippet.language == "bash" else ()
        ):
            shutil.rmtree(sandbox / "exp" / name, ignore_errors=True)  # the page trains this experiment itself
    failures = []
    for snippet in SNIPPETS_TO_RUN[page]:
        began = time.monotonic()
        failure = execute(snippet, sandbox)
        print(f"{time.monotonic() - began:6.1f} s  {snippet.name}")
        if failure:
            failures.append(f"== {snippet.name}: {failure}")
    assert not failures, "\n".join(failures)


def execute(snippet: Snippet, folder: Path) -> str:
    """Run a snippet; returns an error about its exit code or output, or an empty string."""
    if snippet.language == "python":
        code, output = run_forked(["python", "-c", snippet.text], folder)
    else:
        code, output = run_bash(plan_command(snippet.text).command if snippet.language == "bash" else snippet.text, folder)
    details = f"{snippet.text}\n{output[-3000:]}"
    if snippet.language != "console":
        return "" if code == 0 else f"exit code {code}: {details}"
    refused = any(line.startswith("error: ") for line in snippet.expected_output)
    if "Traceback" in output or (code == 2) != refused:
        return f"exit code {code}: {details}"
    missing = missing_output(snippet.expected_output, output)
    return f"does not print {missing!r}: {details}" if missing is not None else ""


@each_page
def test_skipped_commands_use_existing_flags(page: Path) -> None:
    for snippet in SNIPPETS[page]:
        if snippet in SNIPPETS_TO_RUN[page]:
            continue
        if snippet.text.startswith("make "):
            code, output = run_bash(f"make -n {snippet.text.removeprefix('make ')}", ROOT)
            assert code == 0, f"{snippet.name}: {output}"
        if (command := script_of(snippet.text)) is not None:
            script, flags = command
            assert (ROOT / script).is_file(), f"{snippet.name}: {script} does not exist"
            help_text = help_of(script)
            unknown = [flag for flag in flags if not re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", help_text)]
            assert not unknown, f"{snippet.name}: unknown to {script}: {unknown}"


@cache
def help_of(script: str) -> str:
    code, output = run_bash(f"python {script} --help", ROOT)
    assert code == 0, output
    return output


def test_tables_match_pages() -> None:
    texts = [as_script(snippet.text) for found in SNIPPETS.values() for snippet in found]
    patterns = [pattern for pattern, _ in NOT_RUN] + [pattern for pattern, *_ in SHORTENED]
    assert not [pattern for pattern in patterns if not any(re.search(pattern, text) for text in texts)]


@each_page
def test_blocks_name_their_language(page: Path) -> None:
    """A command in a block that is not marked as bash or console would not be tested."""
    for block in blocks(page):
        if block.language in EXECUTED_LANGUAGES:
            continue
        untested = [
            line for line in block.body.splitlines() if re.match(r"(\$ |hgfast |python |torchrun |pip |make |cmake )", line)
        ]
        assert not untested, (
            f"the block at line {block.line} in {block.language or 'no language'} has the command {untested[0]!r}"
        )


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
