"""Command-line parsing for every entry point: typed flags, YAML files, and suggestions for misspelled names."""

from __future__ import annotations

import argparse
import difflib
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin

import docstring_parser
import jsonargparse
import yaml

from hgfast.config import RENAMED_KEYS, DataConfig
from hgfast.errors import HgfastError, one_line
from hgfast.fileio.yaml_file import read_yaml
from hgfast.validation import check_ranges

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
T = TypeVar("T")


class Parser(jsonargparse.ArgumentParser):
    """jsonargparse's parser without abbreviations, whose errors are one sentence with the closest valid name."""

    def __init__(self, description: str = "", **options: Any) -> None:
        super().__init__(usage="%(prog)s [flags]", allow_abbrev=False, description=description.strip(), **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise HgfastError(explain_parse_error(message, self.option_names())) from None

    def parse_args(self, *args: Any, **options: Any) -> Any:
        try:
            return super().parse_args(*args, **options)
        except OverflowError as error:
            raise HgfastError(f"one of the numbers is too large ({error}): correct it") from error

    def format_help(self, *formatter: Any) -> str:
        """Return the help text with dashes in flags and plain type names."""
        text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", super().format_help(*formatter))
        text = re.sub(r", --[\w.]+\+( \S+)?", "", text)  # jsonargparse's syntax to append to a list
        return re.sub(r"--[\w.]+", lambda flag: flag[0].replace("_", "-"), text)

    def option_names(self) -> list[str]:
        """Return every option in jsonargparse's spelling, such as `--train.lr`."""
        return [o for a in self._actions for o in a.option_strings if o.startswith("--")]

    def normalize_argv(self, argv: Sequence[str], flag_aliases: Mapping[str, str] | None = None) -> list[str]:
        """Return the words in jsonargparse's form: positional words, `--config`, which the others override, then `--batch_size=8`
        for `--batch-size 8`, `--overwrite=true` for `--overwrite` and `--category=["cat", "dog"]` for `--category cat dog`."""
        bool_flags = {o for a in self._actions if getattr(a, "_typehint", None) is bool for o in a.option_strings}
        list_flags = {o for a in self._actions if _is_list(getattr(a, "_typehint", None)) for o in a.option_strings}
        valueless_flags = {o for a in self._actions if a.nargs in (0, "?") for o in a.option_strings} - bool_flags  # --help
        positionals: list[str] = []
        flags: list[str] = []
        remaining = list(argv)
        while remaining:
            if remaining[0] == "--":  # all following words are positional, even if they look like flags
                positionals += [f"./{word}" if word.startswith("-") else word for word in remaining[1:]]
                break
            name, equals, value = (flag_aliases or {}).get(remaining[0], remaining[0]).partition("=")
            following = remaining[1] if len(remaining) > 1 else None
            del remaining[0]
            if not name.startswith("--"):
                positionals.append(name + equals + value) if not name.startswith("-") else flags.append(name + equals + value)
                continue
            name = "--" + name[2:].replace("-", "_")
            if not equals and name in bool_flags and following not in ("true", "false"):
                equals, value = "=", "true"
            elif not equals and name in list_flags and following is not None and not following.startswith(("-", "[")):
                end = next((n for n, word in enumerate(remaining) if word.startswith("-")), len(remaining))
                equals, value = "=", json.dumps(remaining[:end], ensure_ascii=False)
                del remaining[:end]
            elif not equals and name not in valueless_flags and following is not None and not following.startswith("--"):
                equals, value = "=", remaining.pop(0)
            flags.append(name + equals + value)
        return positionals + sorted(flags, key=lambda flag: not flag.startswith("--config="))


def _is_list(hint: Any) -> bool:
    """Return True for a list's type, also one that may be None."""
    return any(get_origin(part) is list for part in (hint, *get_args(hint)))


class Formatter(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help formatter that keeps the description's line breaks and omits types, which choices and defaults show."""

    def _expand_help(self, action: argparse.Action) -> str:
        text = re.sub(r" \((required, type: .*|type: .*, default: null)\)$", "", super()._expand_help(action))
        return re.sub(r"\(type: .*, default: (.*)\)$", r"(default: \1)", text)


def parse(
    config_class: type[T],
    argv: Sequence[str] | None = None,
    *,
    positional: str | Sequence[str] = (),
    variadic: str | None = None,
    flag_aliases: Mapping[str, str] | None = None,
    description: str = "",
) -> T:
    """Parse a command line into an instance of a dataclass; `--config FILE` reads YAML.

    Args:
        config_class: the dataclass; every field is a flag.
        argv: the words; by default those of `sys.argv`. Flags override the file, the file overrides the defaults.
        positional: field or fields that are positional paths.
        variadic: field that is a list of positional paths; at least one is required if the field has no default.
        flag_aliases: other spellings of flags, with the flags' names.
        description: text of --help.

    Raises:
        HgfastError: a flag or key is unknown, missing, of the wrong type or out of range.
    """
    parser = Parser(description=description, formatter_class=Formatter)
    parser.add_argument("--config", action="config", help="YAML file; flags override it")
    help_texts = {name: text for base in reversed(config_class.__mro__) if is_dataclass(base) for name, text in field_docs(base)}
    paths = (positional,) if isinstance(positional, str) else tuple(positional)
    for name in paths:
        parser.add_argument(name, type=Path, help=help_texts.get(name))
    if variadic is not None:
        required = next(field.default_factory is MISSING for field in fields(config_class) if field.name == variadic)  # type: ignore[arg-type]
        parser.add_argument(variadic, type=Path, nargs="+" if required else "*", help=help_texts.get(variadic))
    parser.add_class_arguments(config_class, as_group=False, skip={*paths, *([variadic] if variadic else [])})
    words = parser.normalize_argv(sys.argv[1:] if argv is None else argv, flag_aliases)
    for word in words:
        if not word.isascii() and word.encode("utf-8", "replace").decode() != word:
            encoding = sys.getfilesystemencoding()
            advice = "" if encoding == "utf-8" else ", or set LC_ALL=C.UTF-8"
            raise HgfastError(
                f"{word!r} is not text in {encoding}: rename the file or folder, or reach it through a link{advice}"
            )
    arrange_help(parser, config_class, flag_aliases or {})
    groups = [field.name for field in fields(config_class) if is_dataclass(field.default_factory)]  # type: ignore[arg-type]
    upgrade = getattr(config_class, "upgrade", dict)
    for number, word in enumerate(words):
        if (group := word.partition("=")[0].removeprefix("--")) in groups:  # jsonargparse would read a file
            raise HgfastError(f"--{group} is a group of flags: give them as --{group}.NAME, or in a file with --config")
        if word.startswith("--config="):
            content = upgrade(load_config_file(Path(word.removeprefix("--config=")), groups))
            words[number] = f"--config={yaml.safe_dump(content, default_flow_style=True, width=math.inf)}"
    namespace = parser.parse_args(words)
    namespace.pop("config")
    config = config_class(**parser.instantiate(namespace).as_dict())
    check_ranges(config)
    return config


def arrange_help(parser: Parser, config_class: type, flag_aliases: Mapping[str, str]) -> None:
    """Order --help: `config_class.HELP_FIRST`, the class's other flags, nested dataclasses, the base classes' flags. Show the
    aliases, which `normalize_argv` replaces."""
    groups = list(parser._action_groups)
    flags = {action.dest: (group, action) for group in groups for action in group._group_actions if action.option_strings}
    first, last = list[Any](), list[Any]()
    bases = [base for base in config_class.__mro__[1:] if is_dataclass(base)]
    bases.sort(key=lambda base: base is DataConfig)  # most flags, last
    parts = [("most used", getattr(config_class, "HELP_FIRST", ()), first)]
    parts += [((base.__doc__ or "").rstrip("."), tuple(base.__annotations__), last) for base in bases]
    for title, names, section in parts:
        target = parser.add_argument_group(title)
        for name in [name for name in names if name in flags]:
            group, action = flags.pop(name)
            group._group_actions.remove(action)
            target._group_actions.append(action)
        section.append(target)
    parser._action_groups = [*first, *groups, *last]
    for alias, name in flag_aliases.items():
        for action in parser._actions:
            if action.dest == name[2:].replace("-", "_"):
                action.option_strings = [*action.option_strings[:-1], alias, name]
    for _, action in flags.values():
        if action.metavar == "CONFIG" or action.dest == "print_config":  # files for whole groups; --config covers them
            action.help = argparse.SUPPRESS


def field_docs(cls: type) -> Iterator[tuple[str, str]]:
    """Yield the fields of a dataclass with the docstrings below them."""
    for param in docstring_parser.parse_from_object(cls).params:
        if param.description:
            yield param.arg_name, param.description


def dispatch(commands: Mapping[str, Callable[..., Any]], description: str = "") -> Any:
    """Call the function that the first word of `sys.argv` names, and return its value; its signature declares the flags."""
    parser = Parser(description=description, formatter_class=Formatter)
    subcommands = parser.add_subcommands()
    subparsers = {}
    for name, function in commands.items():
        subparsers[name] = Parser(description=(function.__doc__ or "").strip().split("\n")[0])
        subparsers[name].add_function_arguments(function, as_group=False)
        subcommands.add_subcommand(name, subparsers[name])
    words = sys.argv[1:]
    if words and words[0] in subparsers:
        words[1:] = subparsers[words[0]].normalize_argv(words[1:])
    namespace = parser.parse_args(words)
    return commands[namespace.subcommand](**namespace[namespace.subcommand].as_dict())


def load_config_file(path: Path, groups: Iterable[str]) -> dict[str, Any]:
    """Read a YAML file of keys and values. `groups` are keys whose values must be mappings."""
    content = read_yaml(path, "the configuration", max_values=1000)  # jsonargparse copies long lists many times
    if not isinstance(content, dict):
        raise HgfastError(f"the configuration {path} must hold lines such as 'batch_size: 32'")
    if "config" in content:
        raise HgfastError(f"the configuration {path} names another file as 'config', which is not read: copy its lines instead")
    for group in groups:
        if not isinstance(content.get(group, {}), dict):
            raise HgfastError(f"{group} in the configuration {path} must hold indented lines, or be left out")
    return content


def explain_parse_error(message: str, known: Iterable[str]) -> str:
    """Return jsonargparse's message as one line, with a suggestion for an unknown name."""
    line = one_line(message, len(message))
    if match := re.match(r"unrecognized arguments?: ([^-]\S*)", line):
        return f"unexpected word {match[1]!r}; --help lists what can be given"
    if match := re.match(r"unrecognized arguments?: (\S+)", line):
        word = match[1].split("=")[0].replace("_", "-")
        return f"unknown flag {word}{new_name(word, known) or did_you_mean(word, known)}; --help lists them all"
    if match := re.match(r"argument (--[\w.]+)\S*: expected", line):
        return f"{match[1].replace('_', '-')} needs a value"
    if match := re.search(r"Group '([^']+)' does not accept option '([^']+)'", line):
        return unknown_key_message(f"{match[1]}.{match[2]}", known)
    if match := re.search(r"Option '([^']+)' is not accepted", line):
        return unknown_key_message(match[1], known)
    if match := re.search(r"Parser key \"([^\"]+)\": (.*)", line):
        return f"bad value for {match[1]}: {explain_bad_value(match[2])}"
    return line


TYPE_DESCRIPTIONS = {
    "Literal": "one of {}",
    "tuple": "three whole numbers such as [8,8,8]",
    "list": "a list such as [a,b]",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
}


def explain_bad_value(message: str) -> str:
    """Shorten jsonargparse's message about a value to the given value and the expected type."""
    given = re.findall(r"(?:Got|Given) value: (.+?)(?= Subtypes:| - |$)", message)
    for type_name, description in TYPE_DESCRIPTIONS.items():
        if match := re.search(rf"\b{type_name}\b(?:\[([^\]]*)\])?", message):
            return f"{given[-1] if given else 'it'} is not {description.format((match[1] or '').replace(chr(39), ''))}"
    return message


def unknown_key_message(key: str, known: Iterable[str]) -> str:
    """Return the error message for a YAML key that does not exist, without the lines of a file that is no configuration."""
    if not re.fullmatch(r"[\w.-]{1,60}", key):
        return "the configuration has a key that is no name of a flag: choose another file"
    return f"unknown key {key!r} in the configuration{did_you_mean(key, [k.lstrip('-') for k in known])}"


def new_name(flag: str, known: Iterable[str]) -> str:
    """Return ` (now --X)` for a renamed flag, else an empty string."""
    key = flag.lstrip("-").replace("-", "_")
    new = ".".join([*key.split(".")[:-1], RENAMED_KEYS.get(key, "")])
    return f" (now --{new.replace('_', '-')})" if f"--{new}" in known else ""


def did_you_mean(word: str, known_names: Iterable[str]) -> str:
    """Return ` (did you mean X?)` for the closest known word, or an empty string."""
    matches = difflib.get_close_matches(word.replace("-", "_").lstrip("_"), [k.lstrip("-") for k in known_names], n=1, cutoff=0.5)
    prefix = "--" if word.startswith("-") else ""
    return f" (did you mean {prefix}{matches[0].replace('_', '-') if prefix else matches[0]}?)" if matches else ""
