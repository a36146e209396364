"""Options of a command from a file, and written as one: `--config FILE` and `--print-config`.

A file is an object whose fields are the long options, with hyphens or underscores, and what stands in no option; `set` may hold a recipe's
settings, sections as objects. It becomes words in front of those of the command line, so that types, choices and what is missing are the
parser's business, and the command line overrides the file (an option that may be repeated takes both).
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import InputError
from .schema import suggestion

_OWN = ("help", "config", "print_config", "json")


def add_config(parser: argparse.ArgumentParser, form: str = "") -> None:
    """--config, --print-config.

    Args:
        parser: of the command.
        form: what the file holds, where that is not the options.
    """
    group = parser.add_argument_group("options from a file")
    group.add_argument("--config", type=Path, metavar="FILE", help=f"YAML or JSON file of options{form}; the command line overrides it")
    group.add_argument("--print-config", action="store_true", help="print all options as such a file and exit")


def with_file(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """The words of a command line with those of its file in front.

    Raises:
        InputError: if the file cannot be read, or holds what the command does not know.
    """
    finder = argparse.ArgumentParser(prog=parser.prog, add_help=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path)
    found, rest = finder.parse_known_args(list(words))
    if found.config is None:
        return rest
    path = found.config.expanduser()
    return [*_words(parser, read_file(path), path), *rest]


def read_file(path: Path) -> dict[str, Any]:
    """The object in a YAML or JSON file.

    Raises:
        InputError: if it is missing or something else, or YAML cannot be read here.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = _yaml(text, path) if path.suffix.lower() in (".yaml", ".yml") else json.loads(text)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read: {reason}.", "Give an object of options; --print-config prints one.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} contains no JSON object.", 'It looks like {"output": "results", "seed": 1}; --print-config prints one.')
    return values


def as_file(parser: argparse.ArgumentParser, arguments: argparse.Namespace, **instead: Any) -> str:
    """All options of a command as JSON, which YAML readers take too.

    Args:
        parser: of the command.
        arguments: what it parsed.
        instead: values in place of the parsed ones, by option; None: left out.
    """
    values: dict[str, Any] = {}
    for name, action in _actions(parser).items():
        value = getattr(arguments, action.dest, None)
        if action.nargs == 0 and not isinstance(action, argparse.BooleanOptionalAction):
            values[name] = value == action.const
        elif value is not None and value != "":
            values[name] = value
    given = {name: value for name, value in {**values, **instead}.items() if value is not None}
    return json.dumps(given, indent=1, default=str)


def settings(values: Mapping[str, Any], section: str = "") -> list[str]:
    """`section.field=value` for every value of nested objects, as `schema.changed` takes them."""
    found: list[str] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += settings(value, f"{section}{name}.")
        else:
            found.append(f"{section}{name}={_text(value)}")
    return found


def _yaml(text: str, path: Path) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise InputError(f"{path} is YAML, which needs PyYAML.", "Run pip install pyyaml, or use a .json file.") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error).replace("\n", " ")) from error


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Options that a file may hold, by name."""
    return {_name(action): action for action in parser._actions if action.dest not in _OWN}


def _name(action: argparse.Action) -> str:
    """The long option, or the name of what stands in none."""
    option = next((option for option in action.option_strings if option.startswith("--")), action.dest)
    return option.lstrip("-").replace("-", "_")


def _words(parser: argparse.ArgumentParser, values: Mapping[str, Any], path: Path) -> list[str]:
    known = _actions(parser)
    bare: list[str] = []
    words: list[str] = []
    for key, value in values.items():
        action = known.get(str(key).replace("-", "_"))
        if action is None:
            raise InputError(f"{path}: {key!r} is not an option of {parser.prog}.", suggestion(str(key), known))
        if value is None:
            continue
        try:
            found = list(_of_action(action, value))
        except TypeError as error:
            raise InputError(f"{path}: {key} is {value!r}.", f"It must be {error}.") from error
        (words if action.option_strings else bare).extend(found)
    return [*bare, *words]


def _of_action(action: argparse.Action, value: Any) -> Iterator[str]:
    """The words for the value of an option.

    Raises:
        TypeError: saying what it must be.
    """
    option = next((option for option in action.option_strings if option.startswith("--")), "")
    if isinstance(action, argparse.BooleanOptionalAction) or action.nargs == 0:
        if not isinstance(value, bool):
            raise TypeError("true or false")
        yes, no = option, f"--no-{option[2:]}" if isinstance(action, argparse.BooleanOptionalAction) else ""
        yield from filter(None, [yes if value else no])
    elif action.dest == "set" and isinstance(value, Mapping):
        yield from (option, *settings(value))
    elif type(action) is argparse._AppendAction:  # not `extend`, which comes from it
        if not isinstance(value, list) or not all(isinstance(one, list) for one in value):
            raise TypeError("a list of lists")
        for one in value:
            yield from (option, *map(_text, one))
    elif action.nargs in (None, "?"):
        if isinstance(value, (list, dict, bool)):
            raise TypeError("one value")
        yield f"{option}={_text(value)}" if option else _text(value)
    else:
        some = value if isinstance(value, list) else [value]
        if some or action.nargs == "*":
            yield from (*filter(None, [option]), *map(_text, some))


def _text(value: Any) -> str:
    """A value as it is written on a command line."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value)
