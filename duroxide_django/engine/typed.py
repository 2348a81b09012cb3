"""Building values of a given type out of decoded JSON, for the ``*_typed`` calls."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime as dt
import decimal
import enum
import json
import pathlib
import types
import typing
import uuid
from typing import Any

_CONVERTERS: dict[type, Any] = {
    dt.datetime: dt.datetime.fromisoformat,
    dt.date: dt.date.fromisoformat,
    dt.time: dt.time.fromisoformat,
    decimal.Decimal: decimal.Decimal,
    uuid.UUID: uuid.UUID,
    dt.timedelta: lambda seconds: dt.timedelta(seconds=seconds),
    set: set,
    frozenset: frozenset,
    tuple: tuple,
}

#: Abstract collections stand for what JSON gives.
_CONCRETE: dict[Any, type] = {
    collections.abc.Collection: list,
    collections.abc.Iterable: list,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Set: set,
    collections.abc.MutableSet: set,
    collections.abc.Mapping: dict,
    collections.abc.MutableMapping: dict,
}


def build(value: Any, to: Any) -> Any:
    """Return ``value`` as an instance of ``to``; raises TypeError, ValueError or KeyError if it doesn't fit."""
    if to is None or to is Any:
        return value
    if hasattr(to, "__supertype__"):  # NewType
        return build(value, to.__supertype__)
    if type(to).__name__ == "TypeAliasType":  # ``type X = …`` of Python 3.12
        return build(value, to.__value__)
    origin = typing.get_origin(to)
    if origin is not None:
        return _build_generic(value, to, origin)
    return _build_class(value, to) if isinstance(to, type) else value


def _build_class(value: Any, to: type) -> Any:
    if to in _CONVERTERS:
        return _CONVERTERS[to](value)
    if issubclass(to, enum.Enum):
        return _build_enum(value, to)
    if issubclass(to, pathlib.PurePath):
        return to(value)
    if hasattr(to, "model_validate"):  # pydantic
        return to.model_validate(value)
    if (fields := _fields(to)) is not None:
        return _build_fields(value, to, fields, typing.get_type_hints(to))
    if to in (str, int, float, bool, dict, list):
        if to is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, to) or (to is int and isinstance(value, bool)):
            raise TypeError(f"expected {to.__name__}, got {type(value).__name__}")
    return value


def _fields(to: Any) -> dict[str, str] | None:
    """Return the names in JSON and those that the constructor takes, for classes that are made of fields."""
    if dataclasses.is_dataclass(to):
        return {field.name: field.name for field in dataclasses.fields(to) if field.init}
    if hasattr(to, "__attrs_attrs__"):
        # A private attribute's argument has no underscore.
        return {each.name: getattr(each, "alias", each.name) for each in to.__attrs_attrs__ if getattr(each, "init", 1)}
    if hasattr(to, "__struct_fields__"):  # msgspec
        return {name: name for name in to.__struct_fields__}
    if typing.is_typeddict(to):
        return {name: name for name in to.__annotations__}
    if issubclass(to, tuple) and hasattr(to, "_fields"):  # named tuples
        return {name: name for name in to._fields}
    return None


def _build_fields(value: Any, to: Any, fields: dict[str, str], hints: dict[str, Any]) -> Any:
    if issubclass(to, tuple) and isinstance(value, list):
        if len(value) > len(fields):
            raise TypeError(f"expected {len(fields)} values for {to.__name__}, got {len(value)}")
        value = dict(zip(fields, value, strict=False))
    if not isinstance(value, dict):
        raise TypeError(f"expected an object for {to.__name__}, got {type(value).__name__}")
    given = {argument: build(value[name], hints.get(name)) for name, argument in fields.items() if name in value}
    if typing.is_typeddict(to) and (missing := _required_keys(to) - set(given)):
        raise KeyError(f"{to.__name__} needs {', '.join(sorted(missing))}")
    return to(**given)


def _required_keys(to: Any) -> set[str]:
    # __required_keys__ misses NotRequired in annotations that are kept as text.
    hints = typing.get_type_hints(to, include_extras=True)
    return {name for name in to.__required_keys__ if typing.get_origin(hints[name]) is not typing.NotRequired}


def _build_enum(value: Any, to: type[enum.Enum]) -> enum.Enum:
    try:
        return to(value)
    except ValueError:
        from duroxide_django.engine.codecs import dumps

        # Its values may be of a type that JSON doesn't have.
        for member in to:
            if json.loads(dumps(member.value)) == value:
                return member
        raise


def _build_generic(value: Any, to: Any, origin: Any) -> Any:
    arguments = typing.get_args(to)
    if origin in (typing.Union, types.UnionType):
        return _build_union(value, arguments)
    if origin is typing.Annotated:
        return build(value, arguments[0])
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(f"expected one of {arguments}, got {value!r}")
        return value
    origin = _CONCRETE.get(origin, origin)
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        return tuple(build(item, argument) for item, argument in zip(value, arguments, strict=True))
    if origin in (list, set, frozenset, tuple):
        if not isinstance(value, list):
            raise TypeError(f"expected an array, got {type(value).__name__}")
        return origin(build(item, arguments[0]) for item in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise TypeError(f"expected an object, got {type(value).__name__}")
        return {_build_key(key, arguments[0]): build(item, arguments[1]) for key, item in value.items()}
    if hasattr(to, "model_validate"):  # pydantic
        return to.model_validate(value)
    if isinstance(origin, type) and (fields := _fields(origin)) is not None:
        bound = dict(zip(getattr(origin, "__parameters__", ()), arguments, strict=False))
        hints = {name: _bind(hint, bound) for name, hint in typing.get_type_hints(origin).items()}
        return _build_fields(value, origin, fields, hints)
    return value


def _bind(hint: Any, bound: dict[Any, Any]) -> Any:
    """Return ``hint`` with type variables replaced."""
    if hint in bound:
        return bound[hint]
    parameters = getattr(hint, "__parameters__", ())
    return (
        hint[tuple(bound.get(each, each) for each in parameters)] if parameters and not isinstance(hint, type) else hint
    )


def _build_key(key: Any, to: Any) -> Any:
    # JSON's keys are texts, whatever they were before.
    if to is bool:
        return {"true": True, "false": False}[key]
    return to(key) if to in (int, float) else build(key, to)


def _build_union(value: Any, arguments: tuple[Any, ...]) -> Any:
    if value is None and type(None) in arguments:
        return None
    failures = []
    # A class that knows all fields of an object comes before those that would drop some.
    for argument in sorted(arguments, key=lambda argument: _drops_fields(value, argument)):
        if argument is type(None):
            continue
        try:
            return build(value, argument)
        except (TypeError, ValueError, KeyError) as exc:
            failures.append(str(exc))
    raise TypeError("; ".join(failures))


def _drops_fields(value: Any, to: Any) -> bool:
    origin = typing.get_origin(to) or to
    fields = _fields(origin) if isinstance(origin, type) else None
    return isinstance(value, dict) and fields is not None and not set(value) <= set(fields)
