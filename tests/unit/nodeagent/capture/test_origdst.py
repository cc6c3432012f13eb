"""From the kernel's record to the words of the mesh, with a map that is a dictionary."""

from __future__ import annotations

from pathlib import Path

import pytest

from control.wire.address import SocketAddress, packed_ip
from nodeagent.capture import origdst
from nodeagent.capture.origdst import CapturedFlow, FlowTable
from nodeagent.loader.maps import FlowEntry


class Accepted:
    """A socket in a state of ``net/tcp_states.h``."""

    def __init__(self, state: int) -> None:
        self.state = state

    def getsockopt(self, level: int, option: int, buflen: int) -> bytes:
        assert (level, option) == (6, 11), "IPPROTO_TCP, TCP_INFO"
        return bytes([self.state])


class FakeFlows:
    """Holds one record, under exactly one key."""

    key = (77, packed_ip("127.0.0.1"), 4000)
    value: FlowEntry | None = None

    def __init__(self, pin_dir: Path) -> None:
        self.pin_dir = pin_dir

    def take(self, *key: object) -> FlowEntry | None:
        return self.value if key == self.key else None


@pytest.mark.parametrize(
    ("source", "destination"),
    [("127.0.0.1", "240.240.0.10"), ("::1", "fd6d:6573:68::10"), ("::1", "1::"), ("10.0.0.1", "::102:304")],
)
def test_both_ends_keep_their_canonical_spelling(
    monkeypatch: pytest.MonkeyPatch, source: str, destination: str
) -> None:
    monkeypatch.setattr(origdst, "Flows", FakeFlows)
    monkeypatch.setattr(FakeFlows, "key", (77, packed_ip(source), 4000))
    monkeypatch.setattr(FakeFlows, "value", FlowEntry(packed_ip(destination), 80, 5, 6, 7, 8, 9))
    table = FlowTable(Path("pins"), cookie=77)
    assert table.take(SocketAddress(source, 4000), Accepted(1)) == CapturedFlow(
        SocketAddress(destination, 80), 5, 6, 7, 8
    )
    assert table.take(SocketAddress(source, 4001), Accepted(1)) is None


@pytest.mark.parametrize(("state", "own"), [(1, True), (8, True), (7, False)])
def test_a_record_is_a_connections_own_while_it_stands(monkeypatch: pytest.MonkeyPatch, state: int, own: bool) -> None:
    """Established, or half closed by the client; not once it was reset."""
    monkeypatch.setattr(origdst, "Flows", FakeFlows)
    monkeypatch.setattr(FakeFlows, "value", FlowEntry(packed_ip("240.240.0.10"), 80, 5, 6, 7, 8, 9))
    assert (
        FlowTable(Path("pins"), cookie=77).take(SocketAddress("127.0.0.1", 4000), Accepted(state)) is not None
    ) == own
