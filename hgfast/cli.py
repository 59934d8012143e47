"""The command line shared by every entry point: typed flags, YAML files, and typos that name the right word.

What may enter: how words on a command line (or keys in a YAML file) become typed values. What they mean is elsewhere.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

import docstring_parser
import jsonargparse

from hgfast.errors import HgfastError
from hgfast.yaml_file import read_yaml

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
T = TypeVar("T")


class Parser(jsonargparse.ArgumentParser):
    """jsonargparse without abbreviations, whose errors are one sentence with the nearest right name."""

    def __init__(self, description: str = "", **options: Any) -> None:
        """description: an entry point's docstring, of which users do not see what may enter it."""
        super().__init__(allow_abbrev=False, description=description.partition("What may enter:")[0].strip(), **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise HgfastError(explain(message, self.known())) from None

    def parse_args(self, *words: Any, **options: Any) -> Any:
        try:
            return super().parse_args(*words, **options)
        except OverflowError as error:
            raise HgfastError(f"one of the numbers is too large for any computer ({error}): correct it") from error

    def format_help(self, *formatter: Any) -> str:
        """Flags with dashes, as people type them, and types by their names."""
        plain = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", super().format_help(*formatter))
        return re.sub(r"--[\w.]+", lambda flag: flag[0].replace("_", "-"), plain)

    def known(self) -> list[str]:
        """Every option of this parser as jsonargparse has it, `--train.lr` say."""
        return [o for a in self._actions for o in a.option_strings if o.startswith("--")]

    def spell(self, argv: Sequence[str], short: Mapping[str, str] | None = None) -> list[str]:
        """The words as jsonargparse wants them: bare words first, then `--batch_size=8` for `--batch-size 8` and
        `--overwrite=true` for `--overwrite`."""
        switches = {o for a in self._actions if getattr(a, "_typehint", None) is bool for o in a.option_strings}
        alone = {o for a in self._actions if a.nargs in (0, "?") for o in a.option_strings} - switches  # --help, say
        bare: list[str] = []
        flags: list[str] = []
        waiting = list(argv)
        while waiting:
            if waiting[0] == "--":  # whatever follows is bare, even if it looks like a flag
                bare += [f"./{word}" if word.startswith("-") else word for word in waiting[1:]]
                break
            name, equals, value = (short or {}).get(waiting[0], waiting[0]).partition("=")
            following = waiting[1] if len(waiting) > 1 else None
            del waiting[0]
            if not name.startswith("--"):
                bare.append(name + equals + value) if not name.startswith("-") else flags.append(name + equals + value)
                continue
            name = "--" + name[2:].replace("-", "_")
            if not equals and name in switches and following not in ("true", "false"):
                equals, value = "=", "true"
            elif not equals and name not in alone and following is not None and not following.startswith("--"):
                equals, value = "=", waiting.pop(0)
            flags.append(name + equals + value)
        return bare + flags


class Formatter(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help whose description keeps its lines."""


def parse(
    into: type[T],
    argv: Sequence[str] | None = None,
    *,
    positional: str | None = None,
    rest: str | None = None,
    short: Mapping[str, str] | None = None,
    description: str = "",
) -> T:
    """The command line (default: `sys.argv`) as an instance of the dataclass `into`; `--config FILE` reads YAML.

    Flags win over the file, the file over the defaults. `positional` names a field that is a bare path, `rest` one that is a
    list of them, of one or more if it has no default; `short` maps other spellings of flags to their names.

    Raises:
        HgfastError: anything unknown, missing or of the wrong type, in one sentence.
    """
    parser = Parser(description=description, formatter_class=Formatter)
    parser.add_argument("--config", action="config", help="YAML file; flags win over it")
    words_of = {name: text for one in reversed(into.__mro__) if is_dataclass(one) for name, text in field_texts(one)}
    if positional is not None:
        parser.add_argument(positional, type=Path, help=words_of.get(positional))
    if rest is not None:
        needed = next(field.default_factory is MISSING for field in fields(into) if field.name == rest)  # type: ignore[arg-type]
        parser.add_argument(rest, type=Path, nargs="+" if needed else "*", help=words_of.get(rest))
    parser.add_class_arguments(into, as_group=False, skip={name for name in (positional, rest) if name})
    words = parser.spell(sys.argv[1:] if argv is None else argv, short)
    groups = [field.name for field in fields(into) if is_dataclass(field.default_factory)]  # type: ignore[arg-type]
    for word, following in zip(words, [*words[1:], ""]):
        name, _, value = word.partition("=")
        if name == "--config":
            check_file(Path(value or following), groups)
    namespace = parser.parse_args(words)
    namespace.pop("config")
    found = into(**parser.instantiate(namespace).as_dict())
    if nothing := without_value(found):
        raise HgfastError(f"{nothing} has no value: give it one, or leave it out")
    return found


def field_texts(one: type) -> Iterator[tuple[str, str]]:
    """The fields of a dataclass with what stands below them."""
    for param in docstring_parser.parse_from_object(one).params:
        if param.description:
            yield param.arg_name, param.description


def without_value(instance: Any) -> str | None:
    """The dotted name of a dataclass's first field that is None and may not be: jsonargparse takes null for anything."""
    hints = get_type_hints(type(instance))
    for field in fields(instance):
        value = getattr(instance, field.name)
        if value is None and type(None) not in get_args(hints[field.name]):
            return field.name
        if is_dataclass(value) and (inner := without_value(value)):
            return f"{field.name}.{inner}"
    return None


def dispatch(
    commands: dict[str, Callable[..., Any]],
    argv: Sequence[str] | None = None,
    description: str = "",
    positional: bool = False,
) -> None:
    """Call the function that the first word names with the flags its signature and docstring declare.

    positional: parameters without a default are bare words instead of flags.

    Raises:
        HgfastError: as `parse`.
    """
    parser = Parser(description=description, formatter_class=Formatter)
    sub = parser.add_subcommands()
    children = {}
    for name, function in commands.items():
        children[name] = Parser(description=(function.__doc__ or "").strip().split("\n")[0])
        children[name].add_function_arguments(function, as_group=False, as_positional=positional)
        sub.add_subcommand(name, children[name])
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in children:
        words[1:] = children[words[0]].spell(words[1:])
    namespace = parser.parse_args(words)
    chosen = namespace.subcommand
    commands[chosen](**namespace[chosen].as_dict())


def check_file(path: Path, groups: Iterable[str]) -> None:
    """Refuse a YAML file that is not a mapping of keys to values, by name. `groups` are keys that hold mappings themselves."""
    content = read_yaml(path, "the configuration", most=1000)  # of long lists jsonargparse makes copies of copies
    if not isinstance(content, dict):
        raise HgfastError(f"the configuration {path} must hold lines such as 'batch_size: 32'")
    for group in groups:
        if not isinstance(content.get(group, {}), dict):
            raise HgfastError(f"{group} in the configuration {path} must hold indented lines, or be left out")


def explain(message: str, known: Iterable[str]) -> str:
    """jsonargparse's message as one line, with a suggestion where it complains about a name."""
    line = " ".join(message.split())
    if found := re.match(r"unrecognized arguments?: ([^-]\S*)", line):
        return f"unexpected word {found[1]!r}; --help lists what can be given"
    if found := re.match(r"unrecognized arguments?: (\S+)", line):
        word = found[1].split("=")[0].replace("_", "-")
        return f"unknown flag {word}{suggest(word, known)}; --help lists them all"
    if found := re.search(r"Group '([^']+)' does not accept option '([^']+)'", line):
        return unknown_key(f"{found[1]}.{found[2]}", known)
    if found := re.search(r"Option '([^']+)' is not accepted", line):
        return unknown_key(found[1], known)
    if found := re.search(r"Parser key \"([^\"]+)\": (.*)", line):
        return f"bad value for {found[1]}: {in_words(found[2])}"
    return line


KINDS = {
    "Literal": "one of {}",
    "tuple": "three whole numbers such as [8,8,8]",
    "list": "a list such as [a,b]",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
}


def in_words(complaint: str) -> str:
    """jsonargparse's complaint about a value, short: what was given, and what would do."""
    given = re.findall(r"(?:Got|Given) value: (.+?)(?= Subtypes:| - |$)", complaint)
    for kind, words in KINDS.items():
        if found := re.search(rf"\b{kind}\b(?:\[([^\]]*)\])?", complaint):
            return f"{given[-1] if given else 'it'} is not {words.format((found[1] or '').replace(chr(39), ''))}"
    return complaint


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The sentence about a YAML key that does not exist."""
    return f"unknown key {key!r} in the configuration{suggest(key, [k.lstrip('-') for k in known])}"


def suggest(word: str, known: Iterable[str]) -> str:
    """` (did you mean X?)` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word.replace("-", "_").lstrip("_"), [k.lstrip("-") for k in known], n=1, cutoff=0.5)
    dashes = "--" if word.startswith("-") else ""
    return f" (did you mean {dashes}{near[0].replace('_', '-') if dashes else near[0]}?)" if near else ""
