"""Layouts, as far as Python alone can tell (``tests/contract`` compares them with the BPF object)."""

from __future__ import annotations

import pytest

from nodeagent.loader import abi


@pytest.mark.parametrize("layout", abi.LAYOUTS, ids=lambda layout: layout.name)
def test_no_layout_has_implied_padding(layout: abi.Layout) -> None:
    import struct

    native = struct.Struct("@" + "".join(code for _, code in layout.fields))
    assert native.size == layout.size


def test_counters_have_one_slot_each() -> None:
    assert [counter.value for counter in abi.CaptureCount] == list(range(len(abi.CaptureCount)))


def test_what_captured_connections_need_is_attached_before_connections_are_captured() -> None:
    assert [name for name in abi.PROGRAMS if "connect" in name] == list(abi.PROGRAMS)[-2:]


def test_ports_are_in_network_order() -> None:
    assert abi.port_bytes(15001) == b"\x3a\x99"
