"""The cases by name, in the order in which they run and are shown."""

from __future__ import annotations

from collections.abc import Mapping

from tests.bench.cases import SINGLE, Case
from tests.bench.soak import SOAK

CASES: Mapping[str, Case] = {case.name: case for case in (*SINGLE, SOAK)}
