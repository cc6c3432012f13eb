"""``KINDS``: every kind of resource, found by looking into this package."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from control import kinds
from control.kinds.base.kind import Kind


class KindSet:
    """Kinds by name, in the order in which they are listed. Names, plurals and aliases are unique."""

    def __init__(self, members: Iterator[Kind[Any]]) -> None:
        self._by_name: dict[str, Kind[Any]] = {}
        for kind in members:
            self._add(kind)

    def __iter__(self) -> Iterator[Kind[Any]]:
        return iter(self._by_name.values())

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Kind[Any]:
        return self._by_name[name]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._by_name)

    def find(self, word: str) -> Kind[Any] | None:
        """By name, plural or alias, in any case."""
        return next((kind for kind in self if word.lower() in _words(kind)), None)

    def help(self) -> str:
        """Plurals and aliases, for messages."""
        return ", ".join(f"{kind.plural} ({', '.join(kind.aliases)})" if kind.aliases else kind.plural for kind in self)

    @contextmanager
    def extended(self, kind: Kind[Any]) -> Iterator[None]:
        """Have one more kind for a while."""
        before = self._by_name
        self._add(kind)
        try:
            yield
        finally:
            self._by_name = before

    def _add(self, kind: Kind[Any]) -> None:
        for other in self:
            shared = _words(other) & _words(kind)
            if shared:
                raise ValueError(f"{kind.name} and {other.name} share a name: {sorted(shared)[0]}")
        members = sorted((*self, kind), key=lambda each: (each.order, each.name))
        self._by_name = {each.name: each for each in members}


def _words(kind: Kind[Any]) -> set[str]:
    return {kind.name.lower(), kind.plural, *kind.aliases}


def _members() -> Iterator[Kind[Any]]:
    for found in pkgutil.iter_modules(kinds.__path__):
        if not found.ispkg and f"{kinds.__name__}.{found.name}" != __name__:
            yield importlib.import_module(f"{kinds.__name__}.{found.name}").KIND


KINDS = KindSet(_members())
