"""One root and one issuer for the room's tests: keys are slow to make."""

from __future__ import annotations

import pytest

from tests.support import pki


@pytest.fixture(scope="session")
def root() -> pki.Authority:
    return pki.make_root()


@pytest.fixture(scope="session")
def issuer(root: pki.Authority) -> pki.Authority:
    return pki.make_intermediate(root)
