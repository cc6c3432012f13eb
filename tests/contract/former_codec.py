"""The reader of the wire as agents and control had it until 2026-11, for ``test_wire_golden`` alone: they are still out
there. ``FormerBatch`` is what they read a line as.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")
Reader = Callable[[Any, str], Any]


class DecodeError(ValueError):
    """A field is missing or has the wrong type or value; the message starts with its path."""


def encode(value: Any) -> Any:
    """The JSON value (dict, list, str, int, float, bool, None) of a dataclass or of a part of one."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    return value


def decode(cls: type[T], value: Any) -> T:
    """An instance of the dataclass ``cls`` from its JSON value; DecodeError names what is wrong, where."""
    reader: Reader = _reader(typing.cast(Any, cls))
    return typing.cast(T, reader(value, cls.__name__))


@cache
def _reader(annotation: Any) -> Reader:
    if dataclasses.is_dataclass(annotation):
        return _dataclass_reader(typing.cast(type, annotation))
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _optional_reader(arguments)
    if origin is tuple:
        return _tuple_reader(arguments)
    if origin is dict:
        return _dict_reader(arguments[1])
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return _enum_reader(annotation)
    return _scalar_reader(annotation)


def _dataclass_reader(cls: type) -> Reader:
    hints = typing.get_type_hints(cls)
    fields = [(f.name, _has_default(f)) for f in dataclasses.fields(cls)]

    def read(value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            raise DecodeError(f"{path}: expected an object, found {type(value).__name__}")
        arguments = {}
        for name, optional in fields:
            if name in value:
                arguments[name] = _reader(hints[name])(value[name], f"{path}.{name}")
            elif not optional:
                raise DecodeError(f"{path}.{name}: missing")
        return cls(**arguments)

    return read


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _optional_reader(arguments: tuple[Any, ...]) -> Reader:
    inner = [a for a in arguments if a is not type(None)]
    if len(inner) != 1 or len(inner) == len(arguments):
        raise TypeError(f"only 'X | None' unions can be read, not {arguments}")
    read_inner = _reader(inner[0])
    return lambda value, path: None if value is None else read_inner(value, path)


def _tuple_reader(arguments: tuple[Any, ...]) -> Reader:
    read_item = _reader(arguments[0])

    def read(value: Any, path: str) -> Any:
        if not isinstance(value, list):
            raise DecodeError(f"{path}: expected a list, found {type(value).__name__}")
        return tuple(read_item(item, f"{path}[{index}]") for index, item in enumerate(value))

    return read


def _dict_reader(item_type: Any) -> Reader:
    read_item = _reader(item_type)

    def read(value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            raise DecodeError(f"{path}: expected an object, found {type(value).__name__}")
        return {str(key): read_item(item, f"{path}.{key}") for key, item in value.items()}

    return read


def _enum_reader(cls: type[StrEnum]) -> Reader:
    def read(value: Any, path: str) -> Any:
        try:
            return cls(value)
        except ValueError:
            raise DecodeError(f"{path}: unknown value {value!r} (known: {', '.join(cls)})") from None

    return read


def _scalar_reader(cls: Any) -> Reader:
    def read(value: Any, path: str) -> Any:
        # bool is an int to Python but not to JSON
        if cls is not Any and (type(value) is not cls) and not (cls is float and type(value) is int):
            raise DecodeError(f"{path}: expected {cls.__name__}, found {type(value).__name__}")
        return value

    return read


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FormerChange:
    """``value`` was the JSON value of the object."""

    kind: str
    uid: str
    value: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FormerBatch:
    """A line of the watch."""

    instance: str
    revision: int
    snapshot: bool = False
    changes: tuple[FormerChange, ...] = ()
