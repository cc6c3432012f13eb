"""Cells of tables that several kinds share; an empty one is ``-``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from control.kinds.base.relations import Object

EMPTY = "-"


def joined(values: Iterable[Any] | None) -> str:
    """``a,b``."""
    return ",".join(str(value) for value in values or ()) or EMPTY


def pairs(values: Mapping[str, Any] | None) -> str:
    """``key=value,key=value``, sorted."""
    return joined(f"{key}={value}" for key, value in sorted((values or {}).items()))


def selector(document: Object) -> str:
    """The labels of ``spec.selector.matchLabels``."""
    labels = (document["spec"].get("selector") or {}).get("matchLabels")
    return pairs(labels) if labels else "(all)"
