"""Receivers that stop while their senders go on at full speed: memory is bounded, senders are held, every byte arrives.

A short form in every run of the tests; ``make soak-splice`` is the long one.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kernel.conftest import Lab
from tests.kernel.soak import AT_ONCE, Soak, table, write
from tests.kernel.splicing import SpliceLab

pytestmark = pytest.mark.splice

ROUNDS = int(os.environ.get("MESH_SOAK_ROUNDS", "12"))
STALL_SECONDS = float(os.environ.get("MESH_SOAK_STALL_SECONDS", "5"))
OUTPUT = os.environ.get("MESH_SOAK_OUTPUT", "")


@pytest.mark.timeout(120 + 2 * STALL_SECONDS * (ROUNDS // AT_ONCE + 1))
def test_receivers_that_stop(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    soak = Soak(SpliceLab(lab), ROUNDS, STALL_SECONDS)
    soak.run()
    report = soak.report()
    if OUTPUT:
        write(report, Path(OUTPUT))
        with capsys.disabled():
            print("\n" + table(report))
    soak.check()
