from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from control.wire.address import packed_ip
from control.wire.discovery import MtlsMode, Workload
from nodeagent.capture.ports import AGENT_PORTS, own_ports, ports_of
from nodeagent.loader.abi import PortFlag, PortMode
from nodeagent.loader.ports import ANYWHERE, OwnKey, PortEntry, PortKey
from nodeagent.policy.plaintext import effective_mode
from tests.support.objects import workload

HOST = 7
STRICT, PERMISSIVE = PortEntry(PortMode.STRICT, 0), PortEntry(PortMode.PERMISSIVE, 0)


def table(*workloads: Workload) -> dict[PortKey, PortEntry]:
    return ports_of(workloads, lambda _: (HOST,), effective_mode)


def key(ip: str | None, port: int, netns: int = HOST) -> PortKey:
    return PortKey(netns, ANYWHERE if ip is None else packed_ip(ip), port)


def test_every_address_every_port_and_anywhere_else() -> None:
    web = workload(addresses=("10.0.0.1", "fd00::1"), app_address="127.0.0.1", ports=(80, 81))
    web = Workload(**{f: getattr(web, f) for f in web.__slots__} | {"port_mtls_modes": {"81": MtlsMode.STRICT}})
    found = table(web)
    for ip in ("10.0.0.1", "fd00::1", "127.0.0.1", None):
        assert found[key(ip, 80)] == PERMISSIVE
        assert found[key(ip, 81)] == STRICT
    assert len(found) == 8


def test_where_two_could_be_meant_the_stricter_holds() -> None:
    free = workload("free", addresses=("10.0.0.1",), mtls_mode=MtlsMode.DISABLE, probe_ports=(8080,))
    strict = workload("strict", addresses=("10.0.0.2",), mtls_mode=MtlsMode.STRICT, probe_ports=(8080,))
    unprobed = workload("unprobed", addresses=("10.0.0.3",), mtls_mode=MtlsMode.DISABLE)
    assert table(free, strict)[key(None, 8080)] == PortEntry(PortMode.STRICT, PortFlag.PROBES)
    assert table(free, strict)[key("10.0.0.1", 8080)] == PortEntry(PortMode.DISABLE, PortFlag.PROBES)
    assert table(free, unprobed)[key(None, 8080)] == PortEntry(PortMode.DISABLE, 0)


def test_the_agents_own_ports_are_never_a_workloads() -> None:
    assert table(workload(ports=tuple(AGENT_PORTS))) == {}


def test_an_address_that_cannot_be_read_is_covered_by_anywhere() -> None:
    assert table(workload(addresses=("web.example",))) == {key(None, 8080): PERMISSIVE}


def test_each_namespace_has_its_own() -> None:
    spaces = {"a": (1,), "b": (2, 3), "c": ()}
    found = ports_of([workload(n, addresses=()) for n in spaces], lambda w: spaces[w.name], effective_mode)
    assert found == {key(None, 8080, netns): PERMISSIVE for netns in (1, 2, 3)}


@given(st.permutations([(mode, probes) for mode in MtlsMode for probes in (True, False)]))
def test_the_order_of_workloads_does_not_matter(order: list[tuple[MtlsMode, bool]]) -> None:
    made = [
        workload(f"w{number}", mtls_mode=mode, probe_ports=(8080,) if probes else ())
        for number, (mode, probes) in enumerate(order)
    ]
    assert set(table(*made).values()) == {STRICT}


def test_whose_ports_are_whose() -> None:
    web, other = workload(ports=(80, 81)), workload("other", ports=(90,))
    cgroups = {1: web.uid, 2: other.uid, 3: "shop/gone@1", 4: web.uid}
    found = own_ports([web, other], cgroups, lambda _: (HOST,))
    at = [packed_ip(ip) for ip in web.addresses] + [ANYWHERE]
    assert found == {
        *(OwnKey(cgroup, HOST, addr, port) for cgroup in (1, 4) for addr in at for port in (80, 81)),
        *(OwnKey(2, HOST, packed_ip(ip), 90) for ip in other.addresses), OwnKey(2, HOST, ANYWHERE, 90),
    }  # fmt: skip


def test_of_two_with_one_port_each_has_its_own_addresses() -> None:
    one = workload("one", addresses=("10.0.0.1",), app_address="127.0.0.11")
    two = workload("two", addresses=("10.0.0.2",), app_address="127.0.0.12")
    found = own_ports([one, two], {1: one.uid, 2: two.uid}, lambda _: (HOST,))
    assert found == {
        OwnKey(1, HOST, packed_ip("10.0.0.1"), 8080), OwnKey(1, HOST, packed_ip("127.0.0.11"), 8080),
        OwnKey(2, HOST, packed_ip("10.0.0.2"), 8080), OwnKey(2, HOST, packed_ip("127.0.0.12"), 8080),
    }, "nobody knows who listens at any other address"  # fmt: skip


def test_what_two_claim_is_neithers_own() -> None:
    one, two = workload("one", addresses=("10.0.0.1",)), workload("two", addresses=("10.0.0.1",))
    assert own_ports([one, two], {1: one.uid, 2: two.uid}, lambda _: (HOST,)) == set()
    spaces = {"one": (1,), "two": (2,)}
    apart = own_ports([one, two], {1: one.uid, 2: two.uid}, lambda w: spaces[w.name])
    assert {(key.cgroup_id, key.netns) for key in apart} == {(1, 1), (2, 2)}
