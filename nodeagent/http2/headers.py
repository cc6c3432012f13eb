"""Header lists as text, for those who think in text: a tunnel's requests and answers are ASCII."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from nodeagent.http2.hpack.field import LITERAL, Field

Headers = list[tuple[str, str]]

MAX_KEPT_FIELDS: Final = 1024
MAX_KEPT_CHARACTERS: Final = 1024
"""Of the value of a field that is kept."""
_CHANGING: Final = frozenset({"forwarded", "traceparent"})
"""Other in each request: neither worth keeping nor indexing."""


def fields_of(headers: Headers) -> list[Field]:
    """The fields of a header list. Names and values are ASCII or UTF-8; those that come again are one object."""
    return [
        Field(name.encode(), value.encode(), LITERAL)
        if name in _CHANGING or len(value) > MAX_KEPT_CHARACTERS
        else _kept(name, value)
        for name, value in headers
    ]


def headers_of(fields: list[Field]) -> Headers:
    """The header list of fields. A value that is no UTF-8 is its stream's affair: what is not is replaced."""
    return [field.text for field in fields]


@lru_cache(MAX_KEPT_FIELDS)
def _kept(name: str, value: str) -> Field:
    return Field(name.encode(), value.encode())
