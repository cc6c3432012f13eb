"""Work in steps, for an event loop to run in slices. Pure."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

Steps = Generator[None, None, T]
"""A step ends at each ``yield``; the result comes with the last one."""


def at_once(steps: Steps[T]) -> T:
    """Run every step; the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
