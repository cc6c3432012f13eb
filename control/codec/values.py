"""Frozen dataclasses to JSON and back, by their annotations.

Readers ignore fields that they do not know, because a newer peer may send them. A missing or mistyped field, or an enum
value that the enum does not accept, raises DecodeError with the path of the field. The caller treats what it could not
read as not received, never as absent: it fails closed for that object alone.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any, TypeVar, cast

import msgspec

T = TypeVar("T")

_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]*)`\Z")
_PATH = re.compile(r" - at `\$(?P<path>[^`]*)`\Z")
_encoder = msgspec.json.Encoder()


class DecodeError(ValueError):
    """The text is not JSON, or a field is missing or has the wrong type or value; the message starts with its path."""


def to_json(value: Any) -> bytes:
    """The JSON text of a dataclass, in UTF-8 and without blanks. Fields keep the order of their declaration."""
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        # A lone surrogate has no UTF-8. Escaped, the text still reaches the reader, which refuses this object alone.
        return json.dumps(msgspec.to_builtins(value), separators=(",", ":")).encode()


def from_json(cls: type[T], data: bytes) -> T:
    """Read an instance of ``cls`` from JSON text. Raise DecodeError if it cannot be read."""
    try:
        return cast(T, _decoder(cast(Any, cls)).decode(data))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _explain(cls, error) from error


def encode(value: Any) -> Any:
    """The JSON value (dict, list, str, int, float, bool, None) of a dataclass."""
    return json.loads(to_json(value))


def decode(cls: type[T], value: Any) -> T:
    """Read an instance of ``cls`` from a JSON value. Raise DecodeError if it cannot be read."""
    try:
        return msgspec.convert(value, cls)
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise _explain(cls, error) from error


@cache
def _decoder(cls: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(cls)


def _explain(cls: type, error: Exception) -> DecodeError:
    if isinstance(error, RecursionError):
        return DecodeError(f"{cls.__name__}: nested too deeply")
    text = str(error)
    found = _PATH.search(text)
    path, reason = (found["path"], text[: found.start()]) if found is not None else ("", text)
    absent = _MISSING.match(reason)
    if absent is not None:
        return DecodeError(f"{cls.__name__}{path}.{absent['field']}: missing")
    return DecodeError(f"{cls.__name__}{path}: {reason[:1].lower()}{reason[1:]}")
