"""JSON and YAML of unknown origin: parsed within bounds, and built into dataclasses strictly.

Whatever is wrong is one sentence: text that is no JSON, names that occur twice, numbers that no field holds, brackets
or aliases without end, unknown fields, values of another type.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import types
import typing
from typing import Any, TypeVar

import msgspec

from mlx_ltxw.errors import UserError
from mlx_ltxw.files import decode_text
from mlx_ltxw.printing import some

_DEEPEST = 64
_MOST = 2_000_000  # values in one document
_MOST_YAML, _LARGEST_YAML = 100_000, 1 << 18  # values, and characters: some seconds of the parser
_LEAST_INTEGER, _GREATEST_INTEGER = -(2**63), 2**64 - 1  # what any field, and any other program, may hold
_HINT = "Use the file as the program that made it wrote it."

T = TypeVar("T")


class Unsound(ValueError):
    """Why a text or value is refused."""


def parse_json(text: str | bytes, what: str, hint: str = _HINT) -> Any:
    """The values of a JSON text.

    Args:
        text: Bytes are UTF-8, UTF-16 or UTF-32, with or without a byte order mark.
        what: Names it in messages: a file, `the metadata of FILE`.
        hint: What to do about a broken one.

    Raises:
        UserError: it is no JSON, or none that can be worked with: NaN, names that occur twice or cannot be printed,
            numbers of thousands of digits, values nested without end.
    """
    try:
        return sound(load_json(text), bounded=False)  # tokenizers say 10^30 where they mean no limit
    except Unsound as error:
        raise UserError(f"{what} is not valid JSON: {error}.", hint) from error


def parse_yaml(text: str, what: str, hint: str = _HINT) -> Any:
    """The values of a YAML text: tables, lists, texts, decimal numbers, true and false; nothing else becomes an object.

    Dates, binary and octal numbers and times stay texts.

    Raises:
        UserError: it is no YAML, or has values nested or repeated without end.
    """
    import yaml

    try:
        if len(text) > _LARGEST_YAML:
            raise Unsound(f"it has more than {_LARGEST_YAML:,} characters")
        _check_depth(text)
        return sound(yaml.load(text, _loader()), _MOST_YAML)
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{what} is not valid YAML: {error.problem or error.context}{line}.", hint) from error
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error).splitlines()[0] if isinstance(error, Unsound | yaml.YAMLError) else "a value is damaged"
        raise UserError(f"{what} is not valid YAML: {reason}.", hint) from error


def build(cls: type[T], values: Any, what: str, hint: str = _HINT) -> T:
    """A dataclass from parsed values, strictly: no unknown field, no missing one, no value of another type.

    Whole numbers may stand for floats, lists for tuples, tables for dataclasses; nothing else is converted.

    Args:
        cls: The dataclass; its type hints decide.
        values: From `parse_json` or `parse_yaml`.
        what: Names the values in messages: `The request in FILE`.
        hint: What to do about wrong ones.

    Raises:
        UserError: says which field is wrong, and how.
    """
    try:
        sound(values)
        if not isinstance(values, dict):
            raise Unsound("it is no table of values")
        _check_fields(cls, values)
        return _initialised(msgspec.convert(values, cls, strict=True))
    except (Unsound, msgspec.ValidationError) as error:
        raise UserError(f"{what} cannot be used: {_reason(error)}.", hint) from error


def load_json(text: str | bytes) -> Any:
    """As `parse_json`, for a caller with messages of its own; depth and names are checked, values are not.

    Raises:
        Unsound: says why.
    """
    try:
        if isinstance(text, bytes):
            text = decode_text(text)
        return json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise Unsound(f"byte {error.start} is no {error.encoding.upper()}") from error
    except json.JSONDecodeError as error:
        raise Unsound(f"{error.msg} at line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise Unsound("it is nested too deeply") from error
    except Unsound:
        raise
    except ValueError as error:  # whole numbers of thousands of digits
        raise Unsound("a number is too long") from error


def sound(values: Any, most: int = _MOST, bounded: bool = True) -> Any:
    """The values, if every one of them can be shown, stored and computed with.

    Args:
        values: Parsed.
        most: How many there may be, a YAML alias counted each time it is met.
        bounded: Whether whole numbers must fit into 64 bits.

    Raises:
        Unsound: a float that is not finite, an integer out of range, a text with half a character, or too many or too
            deeply nested values.
    """
    left, count = [(values, 0)], 0
    while left:
        value, depth = left.pop()
        count += 1
        if depth > _DEEPEST or count > most:
            raise Unsound("it is nested too deeply" if depth > _DEEPEST else "it holds too many values")
        if isinstance(value, dict):
            left += [(item, depth + 1) for pair in value.items() for item in pair]
        elif isinstance(value, list | tuple):
            left += [(item, depth + 1) for item in value]
        elif isinstance(value, str):
            _check_text(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise Unsound("a number is not finite")
        elif bounded and isinstance(value, int) and not _LEAST_INTEGER <= value <= _GREATEST_INTEGER:
            raise Unsound("a whole number is out of range")
    return values


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise Unsound("a text holds half a character") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        raise Unsound(f"the name {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return table


def _no_constant(name: str) -> Any:
    raise Unsound(f"{name} is no JSON number")


def _check_fields(hint: Any, value: Any, where: str = "") -> None:
    """Refuses fields that a dataclass does not have, wherever it lies in the values; msgspec passes them over."""
    inner = typing.get_args(hint)
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        for option in inner:
            _check_fields(option, value, where)
    elif dataclasses.is_dataclass(hint) and isinstance(value, dict):
        hints = typing.get_type_hints(hint)
        if unknown := [repr(f"{where}{name}") for name in value if name not in hints]:
            raise Unsound(f"there is no field {' or '.join(some(unknown, 3))}")
        for name, item in value.items():
            _check_fields(hints[name], item, f"{where}{name}.")
    elif typing.get_origin(hint) is typing.Literal and value is not None and value not in inner:
        raise Unsound(f"{where[:-1]!r} is {value!r}, and can only be {', '.join(str(choice) for choice in inner)}")
    elif typing.get_origin(hint) is dict and isinstance(value, dict):
        for name, item in value.items():
            _check_fields(inner[1], item, f"{where}{name}.")
    elif typing.get_origin(hint) in (list, tuple) and isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_fields(inner[0], item, f"{where[:-1]}[{index}].")


def _initialised(value: Any) -> Any:
    """The same values in dataclasses that their own `__init__` made; msgspec leaves defaults to the class."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: _initialised(getattr(value, f.name)) for f in dataclasses.fields(value)})
    if isinstance(value, dict):
        return {name: _initialised(item) for name, item in value.items()}
    return type(value)(map(_initialised, value)) if isinstance(value, list | tuple) else value


def _reason(error: Exception) -> str:
    """msgspec's ``Expected `int`, got `str` - at `$.steps` `` as `'steps' is no int but a str`."""
    text = str(error)
    path = re.search(r" - at `\$\.?(.*)`$", text)
    where = f"'{path[1]}'" if path and path[1] else "it"
    if found := re.match(r"Expected `(.+?)`, got `(.+?)`", text):
        wanted, got = (_WORDS.get(name, name) for name in (found[1].replace(" | null", ""), found[2]))
        return f"{where} is {got}, not {wanted}"
    if found := re.match(r"Object missing required field `(.+?)`", text):
        return f"the field {found[1]!r} is missing"
    if found := re.match(r"Invalid enum value (.+?)( - at|$)", text):
        return f"{where} cannot be {found[1]}"
    return text


_WORDS = {
    "int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false", "null": "nothing",
    "object": "a table", "array": "a list",
}  # fmt: skip


@functools.cache
def _loader() -> Any:
    """Reads YAML's tables, lists, texts, decimal numbers, true, false and null. PyYAML is loaded when it is needed."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_constructors = {}  # noqa: RUF012  # as PyYAML's own loaders have them
        yaml_implicit_resolvers = {}  # noqa: RUF012

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [self.construct_object(key, deep=True) for key, _ in node.value]
            if any(isinstance(name, list | dict) for name in names):
                raise Unsound("a name is a list or table")
            if len(set(names)) < len(names):
                raise Unsound(f"the name {next(name for name in names if names.count(name) > 1)!r} occurs twice")
            return super().construct_mapping(node, deep)

    for tag in ("null", "bool", "int", "float", "str", "seq", "map"):
        Loader.add_constructor(f"tag:yaml.org,2002:{tag}", getattr(yaml.SafeLoader, f"construct_yaml_{tag}"))
    Loader.yaml_constructors[None] = yaml.SafeLoader.construct_undefined
    for tag, pattern, starts in _YAML_PATTERNS:
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), list(starts))
    return Loader


_YAML_PATTERNS = (
    ("bool", r"(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$", "yYnNtTfFoO"),
    ("float", r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$", "-+0123456789."),
    ("int", r"[-+]?(?:0|[1-9]\d*)$", "-+0123456789"),
    ("null", r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
)


def _check_depth(text: str) -> None:
    """Refuses what would nest too deeply for the parser, before it recurses."""
    import yaml

    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            raise Unsound("it is nested too deeply")


def finite_number(text: str) -> float | None:
    """The number that a text writes; None for anything else, and for infinities and NaN."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
