"""JSON Schema from types, and the reader of values of these types: one source for both, and for docs/api.md.

A body or a query is a NamedTuple, an answer is a TypedDict. `Annotated[T, Doc(...)]` documents a field and
bounds its value.
"""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin
from urllib.parse import unquote_to_bytes

T = TypeVar("T")

_MOST_PARAMETERS = 100
"""Parameters of a query that are read."""

_MOST_ITEMS = 1_000
"""Items of a list that are read."""

_integer = re.compile(r"-?[0-9]{1,19}").fullmatch
_number = re.compile(r"-?[0-9]{1,19}(\.[0-9]{1,19})?").fullmatch


class Doc(NamedTuple):
    """What a field means, an example of it, and the bounds of its value."""

    meaning: str
    example: Any = None
    minimum: int | None = None
    maximum: int | None = None
    shortest: int | None = None
    longest: int | None = None
    format: str = ""


class InvalidValue(Exception):
    """A value of the wrong type. `errors` has the name of each wrong field, and what is wrong with it."""

    def __init__(self, errors: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{field} {detail}" for field, detail in errors))
        self.errors = errors


class Field(NamedTuple):
    """One field of a type: its annotation without the documentation, and whether it must be given."""

    name: str
    type: Any
    doc: Doc
    needed: bool
    default: Any = None


@cache
def fields_of(cls: Hashable) -> tuple[Field, ...]:
    """Return the fields of a NamedTuple or a TypedDict, in their order."""
    hints = typing.get_type_hints(cls, include_extras=True)
    defaults: Mapping[str, Any] = getattr(cls, "_field_defaults", {})
    return tuple(
        [
            Field(name, *_parted(hint), name not in defaults, defaults.get(name))
            for name, hint in hints.items()
        ]
    )


def _parted(hint: Any) -> tuple[Any, Doc]:
    if get_origin(hint) is Annotated:
        kind, *more = get_args(hint)
        return kind, next((each for each in more if isinstance(each, Doc)), Doc(""))
    return hint, Doc("")


def summary_of(cls: type) -> str:
    """Return the first line of the docstring of a type."""
    return (cls.__doc__ or "").partition("\n")[0]


# Schemas.


def schema_of(kind: Any, seen: dict[str, Any], doc: Doc | None = None) -> dict[str, Any]:
    """Return the JSON Schema of a type; `seen` collects those of the classes that it refers to."""
    if isinstance(kind, type) and (hasattr(kind, "_fields") or typing.is_typeddict(kind)):
        _object_schema(kind, seen)
        schema: dict[str, Any] = {"$ref": f"#/components/schemas/{kind.__name__}"}
    elif get_origin(kind) in (Union, types.UnionType):
        *others, last = get_args(kind)
        assert last is types.NoneType
        assert len(others) == 1
        schema = schema_of(others[0], seen, doc and doc._replace(meaning="", example=None))
        simple = isinstance(schema.get("type"), str) and "enum" not in schema
        schema = (
            {**schema, "type": [schema["type"], "null"]} if simple else {"anyOf": [schema, {"type": "null"}]}
        )
    elif get_origin(kind) is list:
        schema = {"type": "array", "items": schema_of(get_args(kind)[0], seen)}
    elif get_origin(kind) is Literal:
        schema = {"type": "string", "enum": list(get_args(kind))}
    else:
        schema = {"type": {str: "string", int: "integer", bool: "boolean", float: "number"}[kind]}
    return schema | _documented(doc, kind)


def _documented(doc: Doc | None, kind: Any) -> dict[str, Any]:
    if doc is None:
        return {}
    size = "Items" if get_origin(kind) is list else "Length"
    bounds = {
        "description": doc.meaning or None,
        "minimum": doc.minimum,
        "maximum": doc.maximum,
        f"min{size}": doc.shortest,
        f"max{size}": doc.longest,
        "format": doc.format or None,
        "examples": [doc.example] if doc.example is not None else None,
    }
    return {name: value for name, value in bounds.items() if value is not None}


def _object_schema(cls: type, seen: dict[str, Any]) -> None:
    if cls.__name__ in seen:
        return
    seen[cls.__name__] = {}
    fields = fields_of(cls)
    seen[cls.__name__] = {
        "type": "object",
        "description": summary_of(cls),
        "properties": {field.name: schema_of(field.type, seen, field.doc) for field in fields},
        "required": [field.name for field in fields if field.needed],
        "additionalProperties": False,
    }
    if not seen[cls.__name__]["required"]:
        del seen[cls.__name__]["required"]


# Values.


def read_object(cls: Callable[..., T], data: Any) -> T:
    """Return a NamedTuple from a JSON value. Raises InvalidValue."""
    if not isinstance(data, dict):
        raise InvalidValue([("", "the body must be a JSON object")])
    return _read(cls, data, _value_of)


def read_query(cls: Callable[..., T], query: str) -> T:
    """Return a NamedTuple from the query of a URL, without its question mark. Raises InvalidValue."""
    parts = query.split("&", _MOST_PARAMETERS) if query else []
    if len(parts) > _MOST_PARAMETERS:
        raise InvalidValue([("", f"there are more than {_MOST_PARAMETERS} parameters")])
    given: dict[str, Any] = {}
    for part in parts:
        name, _, value = part.partition("=")
        try:
            key, text = (unquote_to_bytes(each.replace("+", " ")).decode() for each in (name, value))
        except UnicodeDecodeError:
            raise InvalidValue([(name, "must be UTF-8, percent-encoded")]) from None
        if key in given:
            raise InvalidValue([(key, "is given twice")])
        given[key] = text
    return _read(cls, given, _value_of_text)


def _read(cls: Callable[..., T], given: Mapping[str, Any], value_of: Callable[[Any, Any], Any]) -> T:
    values: dict[str, Any] = {}
    errors: list[tuple[str, str]] = []
    fields = fields_of(cls)
    known = {field.name for field in fields}
    for name in given:
        if name not in known:
            errors.append((name, f"is not known: there are {', '.join(sorted(known)) or 'none'}"))
            break
    for field in fields:
        if field.name not in given:
            if field.needed:
                errors.append((field.name, "is missing"))
            continue
        try:
            values[field.name] = _checked(value_of(field.type, given[field.name]), field.doc)
        except ValueError as error:
            errors.append((field.name, str(error)))
        except InvalidValue as wrong:
            errors += [(f"{field.name}{name}", what) for name, what in wrong.errors]
    if errors:
        raise InvalidValue(errors)
    return cls(**values)


def _value_of(kind: Any, value: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        return None if value is None else _value_of(get_args(kind)[0], value)
    if get_origin(kind) is Literal:
        if value not in get_args(kind) or not isinstance(value, str):
            raise ValueError(f"must be {_any_of(get_args(kind))}")
        return value
    if get_origin(kind) is list:
        return _items_of(get_args(kind)[0], value)
    if hasattr(kind, "_fields"):
        if not isinstance(value, dict):
            raise ValueError("must be an object")
        return _read(kind, value, _value_of)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)  # JSON has one kind of number: 5000.0 is 5000
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"must be {_NOUNS[kind]}")
    return value


def _items_of(kind: Any, value: Any) -> list[Any]:
    """Return the items of a list. Raises InvalidValue, with the place of each that is wrong."""
    if not isinstance(value, list):
        raise ValueError(f"must be {_NOUNS[list]}")
    items: list[Any] = []
    for place, item in enumerate(value[:_MOST_ITEMS]):
        try:
            items.append(_value_of(kind, item))
        except ValueError as error:
            raise InvalidValue([(f"[{place}]", str(error))]) from None
        except InvalidValue as wrong:
            raise InvalidValue([(f"[{place}].{name}", what) for name, what in wrong.errors]) from None
    return items + value[_MOST_ITEMS:]  # too long: _checked says so


def _value_of_text(kind: Any, text: str) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        return _value_of_text(get_args(kind)[0], text)
    if kind is int:
        if not _integer(text):
            raise ValueError(f"must be {_NOUNS[int]}")
        return int(text)
    if kind is float:
        if not _number(text) or not math.isfinite(float(text)):
            raise ValueError(f"must be {_NOUNS[float]}")
        return float(text)
    return _value_of(kind, text)


_NOUNS = {str: "a text", int: "a whole number", bool: "true or false", float: "a number", list: "a list"}


def _any_of(values: Sequence[str]) -> str:
    return ", ".join(values[:-1]) + f" or {values[-1]}" if len(values) > 1 else values[0]


def _checked(value: Any, doc: Doc) -> Any:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("has half of a surrogate pair, which is not a character") from None
        if doc.longest is not None and len(value) > doc.longest:
            raise ValueError(f"must have at most {doc.longest} characters")
        if doc.shortest is not None and len(value) < doc.shortest:
            raise ValueError(
                f"must have at least {doc.shortest} characters" if doc.shortest > 1 else "must not be empty"
            )
    elif isinstance(value, list):
        if doc.longest is not None and len(value) > doc.longest:
            raise ValueError(f"must have at most {doc.longest} items")
        if doc.shortest is not None and len(value) < doc.shortest:
            raise ValueError(f"must have at least {doc.shortest}")
    elif isinstance(value, int | float):
        if doc.minimum is not None and value < doc.minimum:
            raise ValueError(f"must be at least {doc.minimum}")
        if doc.maximum is not None and value > doc.maximum:
            raise ValueError(f"must be at most {doc.maximum}")
    return value
