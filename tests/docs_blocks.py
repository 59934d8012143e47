"""Parsing of README.md and docs/*.md: commands, Python blocks, console sessions, links and headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^(?P<ticks>```+)(?P<kind>\w*)\n(?P<body>.*?)^(?P=ticks)$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]\[]*\]\((?P<target>[^)\s]+)\)")
EXECUTED_LANGUAGES = ("bash", "console", "python")
"""Languages of blocks that the tests run."""


@dataclass(frozen=True)
class Block:
    """A code block. line: number of its first line in the page, from 1."""

    page: Path
    language: str
    line: int
    body: str


@dataclass(frozen=True)
class Snippet:
    """A unit that the tests run. expected_output: the lines shown on the page; "…" stands for any text or lines."""

    page: str
    language: str
    line: int
    text: str
    expected_output: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [Block(page, m["kind"], text[: m.start("body")].count("\n") + 1, m["body"]) for m in FENCE.finditer(text)]


def snippets(page: Path, name: str) -> list[Snippet]:
    """Return the snippets of a page in order."""
    return [snippet for block in blocks(page) for snippet in snippets_of(block, name)]


def snippets_of(block: Block, name: str) -> Iterator[Snippet]:
    if block.language == "python":
        yield Snippet(name, "python", block.line, block.body)
    elif block.language == "bash":
        for line, command in commands(block):
            yield Snippet(name, "bash", line, command)
    elif block.language == "console":
        yield from console(block, name)


def commands(block: Block) -> Iterator[tuple[int, str]]:
    """Yield the commands of a bash block with their line numbers; a backslash continues a command."""
    pending, start = "", block.line
    for number, line in enumerate(block.body.splitlines(), block.line):
        start = start if pending else number
        if line.endswith("\\"):
            pending += line[:-1].rstrip() + " "
            continue
        command, pending = (pending + line.strip()).strip(), ""
        if command and not command.startswith("#"):
            yield start, without_comment(command)


def without_comment(command: str) -> str:
    """Remove a trailing comment."""
    return re.sub(r"\s+#\s.*$", "", command)


def console(block: Block, name: str) -> Iterator[Snippet]:
    """Yield the commands after `$ `, each with the output lines below it."""
    sessions: list[tuple[int, str, list[str]]] = []
    for number, line in enumerate(block.body.splitlines(), block.line):
        if line.startswith("$ "):
            sessions.append((number, line[2:].strip(), []))
        elif line.strip():
            sessions[-1][2].append(line.rstrip())
    for number, command, output in sessions:
        yield Snippet(name, "console", number, command, tuple(output))


def missing_output(expected: tuple[str, ...], output: str) -> str | None:
    """Return the first expected line that the output lacks in this order, or None. Column widths do not matter."""
    position, text = 0, collapse_spaces(output)
    for line in expected:
        for part in collapse_spaces(line).split("…"):
            start = text.find(part.strip(), position)
            if start < 0:
                return line
            position = start + len(part.strip())
    return None


def collapse_spaces(text: str) -> str:
    return " ".join(text.split())


# ---- links ----


def links(page: Path) -> list[str]:
    """Return the targets of all links outside code blocks."""
    return [m["target"] for m in LINK.finditer(FENCE.sub("", page.read_text()))]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings by GitHub's rule."""
    counts: dict[str, int] = {}
    names = set()
    for line in FENCE.sub("", page.read_text()).splitlines():
        if heading := re.match(r"#{1,6}\s+(.*)", line):
            name = anchor(heading[1])
            names.add(name if name not in counts else f"{name}-{counts[name]}")
            counts[name] = counts.get(name, 0) + 1
    return names


def anchor(heading: str) -> str:
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip()).lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
