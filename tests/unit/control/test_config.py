"""Settings are read whole, and all mistakes are told together."""

from __future__ import annotations

from pathlib import Path

import pytest

from control.config import ConfigError, Settings, duration, load
from control.wire.address import SocketAddress


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("24h", 86400), ("7d", 604800)])
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1s", "1w", "1 h", "1e3", "½h", "..s", "nan"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="24h"):
        duration(text)


def test_defaults() -> None:
    config = load(Settings())
    assert config.listen == SocketAddress("::", 15010)
    assert {"localhost", "127.0.0.1", "::1"} <= set(config.names)
    assert config.svid_lifetime == config.node_lifetime == 86400
    assert config.state_dir == Path("/var/lib/nodemesh-control")


@pytest.mark.parametrize(
    ("advertise", "name"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("FD00::1", "fd00::1"),
        ("Control.Example", "control.example"),
    ],
)
def test_advertised_names_are_canonical(advertise: str, name: str) -> None:
    assert name in load(Settings(advertise=(advertise,))).names


def test_a_listener_on_one_address_answers_to_it() -> None:
    config = load(Settings(listen="192.0.2.1:0", advertise=("a",)))
    assert config.listen == SocketAddress("192.0.2.1", 0)
    assert config.names == ("localhost", "127.0.0.1", "::1", "a", "192.0.2.1")


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        (Settings(listen="15010"), "--listen"),
        (Settings(listen="host:1"), "--listen"),
        (Settings(listen="1.2.3.4:70000"), "--listen"),
        (Settings(advertise=("-x",)), "--advertise"),
        (Settings(advertise=("a..b",)), "--advertise"),
        (Settings(svid_lifetime="1s"), "--svid-lifetime"),
        (Settings(node_lifetime="31d"), "--node-lifetime"),
        (Settings(trust_domain="Mesh"), "--trust-domain"),
        (Settings(cluster="x" * 64), "--cluster"),
    ],
)
def test_each_mistake_names_its_flag(settings: Settings, flag: str) -> None:
    with pytest.raises(ConfigError, match=f"^{flag}: "):
        load(settings)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        load(Settings(listen="x", cluster="", svid_lifetime="?"))
    assert len(str(error.value).splitlines()) == 3
