"""README.md and docs/*.md as what can be checked in them: commands, blocks of Python, sessions on a console, links, headings.

What may enter: reading Markdown as these pages use it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^(?P<ticks>```+)(?P<kind>\w*)\n(?P<body>.*?)^(?P=ticks)$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]\[]*\]\((?P<target>[^)\s]+)\)")
KINDS = ("bash", "console", "python")
"""What is run; other blocks are shown."""


@dataclass(frozen=True)
class Block:
    """A block of code. line: of its first line in the page, from 1."""

    page: Path
    kind: str
    line: int
    body: str


@dataclass(frozen=True)
class Piece:
    """What is run in one go. shown: lines that the page says it prints; "…" stands for anything within a line, or for lines."""

    page: str
    kind: str
    line: int
    text: str
    shown: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [Block(page, m["kind"], text[: m.start("body")].count("\n") + 1, m["body"]) for m in FENCE.finditer(text)]


def pieces(page: Path, name: str) -> list[Piece]:
    """All that is run of a page, in its order."""
    return [piece for block in blocks(page) for piece in of_block(block, name)]


def of_block(block: Block, name: str) -> Iterator[Piece]:
    if block.kind == "python":
        yield Piece(name, "python", block.line, block.body)
    elif block.kind == "bash":
        for line, command in commands(block):
            yield Piece(name, "bash", line, command)
    elif block.kind == "console":
        yield from console(block, name)


def commands(block: Block) -> Iterator[tuple[int, str]]:
    """The commands of a block of bash, each with its line; what a backslash continues is one."""
    waiting, start = "", block.line
    for number, line in enumerate(block.body.splitlines(), block.line):
        start = start if waiting else number
        if line.endswith("\\"):
            waiting += line[:-1].rstrip() + " "
            continue
        command, waiting = (waiting + line.strip()).strip(), ""
        if command and not command.startswith("#"):
            yield start, without_comment(command)


def without_comment(command: str) -> str:
    """Without what follows a # that stands alone."""
    return re.sub(r"\s+#\s.*$", "", command)


def console(block: Block, name: str) -> Iterator[Piece]:
    """Commands after `$ `, each with the lines beneath it."""
    found: list[tuple[int, str, list[str]]] = []
    for number, line in enumerate(block.body.splitlines(), block.line):
        if line.startswith("$ "):
            found.append((number, line[2:].strip(), []))
        elif line.strip():
            found[-1][2].append(line.rstrip())
    for number, command, shown in found:
        yield Piece(name, "console", number, command, tuple(shown))


def prints(shown: tuple[str, ...], output: str) -> str | None:
    """The first of the shown lines that the output does not have in this order, or None. Widths of columns do not matter."""
    place, plain = 0, one_spaced(output)
    for line in shown:
        for part in one_spaced(line).split("…"):
            where = plain.find(part.strip(), place)
            if where < 0:
                return line
            place = where + len(part.strip())
    return None


def one_spaced(text: str) -> str:
    return " ".join(text.split())


# ---- links ----


def links(page: Path) -> list[str]:
    """The targets of all links, but those in blocks of code."""
    return [m["target"] for m in LINK.finditer(FENCE.sub("", page.read_text()))]


def anchors(page: Path) -> set[str]:
    """What the headings of a page may be linked by, as GitHub has it."""
    found: dict[str, int] = {}
    names = set()
    for line in FENCE.sub("", page.read_text()).splitlines():
        if heading := re.match(r"#{1,6}\s+(.*)", line):
            name = anchor(heading[1])
            names.add(name if name not in found else f"{name}-{found[name]}")
            found[name] = found.get(name, 0) + 1
    return names


def anchor(heading: str) -> str:
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip()).lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
