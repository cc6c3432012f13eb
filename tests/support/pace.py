"""How much longer than on an ordinary machine things may take: MESH_SLOW=12 under an emulator, for example.

Deadlines are multiplied, never what is proved. What the product promises in time (``REFUSED_WITHIN``) is too: an
emulator keeps no such promise.
"""

from __future__ import annotations

import os
from typing import Final

SLOW: Final = max(1.0, float(os.environ.get("MESH_SLOW", "1")))


def patient(seconds: float) -> float:
    """That long here."""
    return seconds * SLOW
