"""The description that is checked in is the API that is served."""

from __future__ import annotations

import json

from control.api.app import OPENAPI_FILE, openapi_text
from tests.unit.control.api.desk import Desk


def test_openapi_json_is_current(desk: Desk) -> None:
    assert OPENAPI_FILE.read_text() == openapi_text(), "run: python -m control.api.app"
    assert desk.anonymous().get("/openapi.json").json() == json.loads(OPENAPI_FILE.read_text())
