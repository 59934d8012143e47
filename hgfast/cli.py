"""The command line shared by every entry point: typed flags, YAML files, and typos that name the right word.

What may enter: how words on a command line (or keys in a YAML file) become typed values. What they mean is elsewhere.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jsonargparse

from hgfast.errors import HgfastError, fail

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
T = TypeVar("T")


class Parser(jsonargparse.ArgumentParser):
    """jsonargparse without abbreviations, whose errors are one sentence with the nearest right name."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        fail(HgfastError(explain(message, self.known())))

    def format_help(self, *formatter: Any) -> str:
        """Flags with dashes, as people type them."""
        return re.sub(r"--[\w.]+", lambda flag: flag[0].replace("_", "-"), super().format_help(*formatter))

    def let_switches_stand_alone(self) -> None:
        """`--overwrite` means `--overwrite true`."""
        for action in self._actions:
            if getattr(action, "_typehint", None) is bool:
                action.nargs, action.const = "?", True

    def known(self) -> list[str]:
        """Every option of this parser as typed on a command line, `--train.lr` say."""
        return [o for a in self._actions for o in a.option_strings if o.startswith("--")]


def explain(message: str, known: Iterable[str]) -> str:
    """jsonargparse's message as one line, with a suggestion where it complains about a name."""
    line = " ".join(message.split())
    if found := re.match(r"unrecognized arguments?: (\S+)", line):
        word = found[1].split("=")[0]
        return f"unknown flag {word}{suggest(word, known)}; --help lists them all"
    if found := re.search(r"Group '([^']+)' does not accept option '([^']+)'", line):
        return unknown_key(f"{found[1]}.{found[2]}", known)
    if found := re.search(r"Option '([^']+)' is not accepted", line):
        return unknown_key(found[1], known)
    if found := re.search(r"Parser key \"([^\"]+)\": (.*)", line):
        return f"bad value for {found[1]}: {found[2]}"
    return line


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The sentence about a YAML key that does not exist."""
    return f"unknown key {key!r} in the configuration{suggest(key, [k.lstrip('-') for k in known])}"


def suggest(word: str, known: Iterable[str]) -> str:
    """` (did you mean X?)` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word.replace("-", "_").lstrip("_"), [k.lstrip("-") for k in known], n=1, cutoff=0.5)
    dashes = "--" if word.startswith("-") else ""
    return f" (did you mean {dashes}{near[0].replace('_', '-') if dashes else near[0]}?)" if near else ""


def spell(argv: Sequence[str], short: dict[str, str] | None = None) -> list[str]:
    """`--batch-size=4` as jsonargparse wants it, `--batch_size=4`; short flags replaced by their long ones."""
    words = []
    for word in argv:
        word = (short or {}).get(word, word)
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            word = "--" + name[2:].replace("-", "_") + equals + value
        words.append(word)
    return words


def parse(
    into: type[T],
    argv: Sequence[str] | None = None,
    *,
    positional: str | None = None,
    short: dict[str, str] | None = None,
    description: str = "",
) -> T:
    """The command line (default: `sys.argv`) as an instance of the dataclass `into`; `--config FILE` reads YAML.

    Flags win over the file, the file over the defaults. Anything unknown or of the wrong type ends the program with one
    sentence. `positional` names a field that is a bare path; `short` maps other spellings of flags to their names.
    """
    parser = Parser(description=description, formatter_class=jsonargparse.DefaultHelpFormatter)
    parser.add_argument("--config", action="config", help="YAML file; flags win over it")
    if positional is not None:
        parser.add_argument(positional, type=Path)
    parser.add_class_arguments(into, as_group=False, skip={positional} if positional else set())
    parser.let_switches_stand_alone()
    namespace = parser.parse_args(spell(sys.argv[1:] if argv is None else argv, short))
    namespace.pop("config")
    return into(**parser.instantiate(namespace).as_dict())


def dispatch(commands: dict[str, Callable[..., Any]], argv: Sequence[str] | None = None, description: str = "") -> None:
    """Call the function that the first word names with the flags its signature and docstring declare."""
    parser = Parser(description=description)
    sub = parser.add_subcommands()
    children = {}
    for name, function in commands.items():
        children[name] = Parser(description=(function.__doc__ or "").strip().split("\n")[0])
        children[name].add_function_arguments(function, as_group=False)
        children[name].let_switches_stand_alone()
        sub.add_subcommand(name, children[name])
    namespace = parser.parse_args(spell(sys.argv[1:] if argv is None else argv))
    chosen = namespace.subcommand
    commands[chosen](**namespace[chosen].as_dict())
