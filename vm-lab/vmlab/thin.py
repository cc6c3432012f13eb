"""A pytest plugin: every test once, instead of once for each of its parameters, which take turns.

So that an emulated kernel meets each thing that is tested, and all three address families, in a third of the time.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest


def thin(names: Sequence[str]) -> list[int]:
    """Positions of those to keep. The n-th test that has several forms runs in its n-th, counted round."""
    forms: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        forms.setdefault(name.partition("[")[0], []).append(position)
    kept, turn = [], 0
    for positions in forms.values():
        kept.append(positions[turn % len(positions)])
        turn += len(positions) > 1
    return sorted(kept)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one form of each."""
    kept = set(thin([item.nodeid for item in items]))
    config.hook.pytest_deselected(items=[item for position, item in enumerate(items) if position not in kept])
    items[:] = [item for position, item in enumerate(items) if position in kept]
