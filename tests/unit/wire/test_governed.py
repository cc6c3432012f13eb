"""What operators write about live flows."""

from __future__ import annotations

import pytest

from control.wire.governed import MAX_CONNECT_TIMEOUT, MAX_IDLE_TIMEOUT, connect_timeout, idle_timeout, switch


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("1h", 3600), ("7d", 604_800), ("365d", MAX_IDLE_TIMEOUT), ("off", 0), ("0", 0),
     ("0s", 0), ("0h", 0)],
)  # fmt: skip
def test_durations(text: str, seconds: int) -> None:
    assert idle_timeout(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "soon", "1", "-1s", "1.5h", "1 h", "h", "1w", "OFF", "366d", "9999999999s", "1h30m", "1h\n", "\u0661s"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        idle_timeout(text)


@pytest.mark.parametrize(("text", "seconds"), [("1s", 1), ("5s", 5), ("2m", MAX_CONNECT_TIMEOUT)])
def test_times_to_connect_in(text: str, seconds: int) -> None:
    assert connect_timeout(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "off", "121s", "1h", "5", "0.5s"])
def test_what_is_no_time_to_connect_in(text: str) -> None:
    with pytest.raises(ValueError, match="write 1s to 120s"):
        connect_timeout(text)


def test_switches() -> None:
    assert switch("on") and not switch("off")
    for text in ("", "yes", "Off", "false"):
        with pytest.raises(ValueError, match="neither on nor off"):
            switch(text)
