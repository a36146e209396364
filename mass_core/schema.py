"""Typed dataclass fields from JSON and text; wrong values are refused with a message that says what is expected."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import InputError

Kind = TypeVar("Kind")
_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def read(kind: type[Kind], values: Mapping[str, Any], where: str = "params") -> Kind:
    """A dataclass from JSON values.

    Args:
        kind: of the dataclass.
        values: of its fields, by name.
        where: for messages.

    Raises:
        InputError: naming what is missing, unknown or of the wrong kind.
    """
    given = values_of(kind, values, where)
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]
    if missing := [name for name in needed if name not in given]:
        raise InputError(f"{where}: {', '.join(missing)} is missing.")
    return kind(**given)


def values_of(kind: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """JSON values for some fields of a dataclass, converted to the types of the fields.

    Raises:
        InputError: naming what is unknown or of the wrong kind.
    """
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind)]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise InputError(f"{where}: {', '.join(unknown)} is not known.", suggestion(unknown[0], known))
    return {name: _from_json(hints[name], value, f"{where}: {name}") for name, value in values.items()}


def changed(config: Any, settings: Sequence[str], section: str = "") -> Any:
    """`config` with every `section.field=value` applied, those of a section together: they may depend on one another.

    Args:
        config: a dataclass, or one that is a field of it.
        settings: values are written as the field's annotation wants them: `3,4` for a tuple, `none` where it may hold None.
        section: whose fields these are, with a dot behind it, for messages.

    Raises:
        InputError: if a field does not exist or a value is not of its kind.
    """
    known = {field.name for field in fields(config)}
    kinds = get_type_hints(type(config))
    inner: dict[str, list[str]] = {}
    values: dict[str, Any] = {}
    for setting in settings:
        path, separator, text = setting.partition("=")
        head, _, rest = path.partition(".")
        if not separator or head not in known or is_dataclass(getattr(config, head)) != bool(rest):
            raise InputError(
                f"The setting {section + setting!r} names no field of {type(config).__name__}.", suggestion(head, sorted(known))
            )
        if rest:
            inner.setdefault(head, []).append(f"{rest}={text}")
        else:
            values[head] = _from_text(kinds[head], text, section + setting)
    sections = {head: changed(getattr(config, head), some, f"{section}{head}.") for head, some in inner.items()}
    return replace(config, **values, **sections)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Advice on an unknown name: the nearest one if one is near, and all there are."""
    names = list(known)
    near = get_close_matches(name.replace("-", "_"), names, n=1)
    return " ".join([*(f"Did you mean {one}?" for one in near), f"Known are {', '.join(names)}."])


def check_choices(config: Any, section: str = "") -> None:
    """Refuse values that are none of those a field may hold by its annotation.

    Raises:
        InputError: naming the field and its choices.
    """
    for name, kind in get_type_hints(type(config)).items():
        if get_origin(kind) is Literal and getattr(config, name) not in get_args(kind):
            raise InputError(f"{section}{name} is {getattr(config, name)!r}.", f"Choose one of: {', '.join(get_args(kind))}.")


def check_counts(config: Any, *names: str, least: int = 1) -> None:
    """Refuse fields below a number.

    Raises:
        InputError: naming the field.
    """
    for name in names:
        if getattr(config, name) < least:
            raise InputError(f"{name} is {getattr(config, name)}.", f"Choose at least {least}.")


def _from_text(kind: Any, text: str, setting: str) -> Any:
    """A value written on a command line."""
    try:
        return _from_json(kind, _as_json(kind, text), setting)
    except InputError as error:
        raise InputError(f"The setting {setting!r} does not fit its field.", f"Give {_described(kind, written=True)}.") from error


def _as_json(kind: Any, text: str) -> Any:
    """The JSON value that a text stands for where a kind is wanted; the text itself where it fits none."""
    plain, optional = _plain(kind)
    if optional and text.lower() == "none":
        return None
    if get_origin(plain) is tuple:
        return [_as_json(get_args(plain)[0], part) for part in text.split(",")] if text else []
    if plain is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return plain(text) if plain in (int, float) else text
    except ValueError:
        return text


def _from_json(kind: Any, value: Any, where: str) -> Any:
    """A JSON value converted to the type of an annotation."""
    kind, optional = _plain(kind)
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any or (optional and value is None):
        return value
    if origin is list and isinstance(value, list):
        return [_from_json(inner[0], one, where) for one in value]
    if origin is tuple and isinstance(value, list) and (... in inner or len(value) == len(inner)):
        return tuple(_from_json(inner[0], one, where) for one in value)
    if origin is dict and isinstance(value, dict):
        return {name: _from_json(inner[1], one, where) for name, one in value.items()}
    if is_dataclass(kind) and isinstance(kind, type) and isinstance(value, dict):
        return read(kind, value, where)
    if origin is Literal and value in inner:
        return value
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and origin is None and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise InputError(f"{where} is {value!r}.", f"It must be {_described(kind)}.")


def _described(kind: Any, *, written: bool = False) -> str:
    """An annotation in words, for JSON values or for what is written on a command line."""
    plain, optional = _plain(kind)
    origin, inner = get_origin(plain), get_args(plain)
    text = _NAMES.get(plain, str(plain))
    if origin is Literal:
        text = "one of: " + ", ".join(map(str, inner))
    elif origin is tuple:
        numbers = ("" if ... in inner else f"{len(inner)} ") + ("whole numbers" if inner[0] is int else "numbers")
        text = f"{numbers} with commas between them" if written else f"a list of {numbers}"
    elif origin is list:
        text = f"a list, each {_described(inner[0])}"
    elif origin is dict or is_dataclass(plain):
        text = "an object"
    return f"{text}, or none" if optional and written else text


def _plain(kind: Any) -> tuple[Any, bool]:
    """A kind without None, and whether None was among it."""
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return next(option for option in options if option is not NoneType), NoneType in options
