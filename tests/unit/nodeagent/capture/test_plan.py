"""What the maps should hold: destinations of the whole mesh, cgroups of local workloads, and the difference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from control.wire.address import SocketAddress
from control.wire.discovery import EgressMode, ExternalEndpoint, Resolution, Service, ServicePort
from nodeagent.capture.plan import Claim, Entry, Member, User, destinations_of, difference, enrol, tag
from nodeagent.loader.abi import CgroupFlag, DestinationFlag
from tests.support.objects import external, workload


def service(*addresses: str, ports: tuple[int, ...] = (80,)) -> Service:
    return Service(
        uid="shop/web", name="web", namespace="shop", hostname="web.shop", addresses=addresses, endpoints=(),
        ports=tuple(ServicePort(name=f"p{port}", port=port, target_port=port + 8000) for port in ports),
    )  # fmt: skip


def test_every_service_and_workload_address_is_a_destination() -> None:
    one = replace(workload("web-0"), addresses=("10.0.0.1", "fd00::1"), ports=(8080, 8081))
    found = destinations_of([service("240.240.0.10", "fd6d::10", ports=(80, 443))], [one])
    assert found.problems == ()
    virtual = Entry(tag("shop/web"), DestinationFlag.SERVICE)
    own = Entry(tag(one.uid), DestinationFlag.WORKLOAD)
    assert found.entries == {
        SocketAddress("240.240.0.10", 80): virtual, SocketAddress("240.240.0.10", 443): virtual,
        SocketAddress("fd6d::10", 80): virtual, SocketAddress("fd6d::10", 443): virtual,
        SocketAddress("10.0.0.1", 8080): own, SocketAddress("10.0.0.1", 8081): own,
        SocketAddress("fd00::1", 8080): own, SocketAddress("fd00::1", 8081): own,
    }  # fmt: skip


def test_what_is_outside_and_written_down_is_a_destination_too() -> None:
    host = external(
        "a.example.com",
        ExternalEndpoint(address="192.0.2.1"),
        ExternalEndpoint(address="2001:db8::1", ports={"tls": 9}),
    )
    looked_up = external("b.example.com", resolution=Resolution.DNS, addresses=("240.240.0.98",))
    found = destinations_of([host, looked_up], []).entries
    assert set(found) == {
        SocketAddress("192.0.2.1", 8443), SocketAddress("2001:db8::1", 9), SocketAddress("240.240.0.99", 443),
        SocketAddress("fd6d:6573:68::63", 443), SocketAddress("240.240.0.98", 443),
    }  # fmt: skip
    assert found[SocketAddress("192.0.2.1", 8443)].flags == DestinationFlag.EXTERNAL
    ours = workload(addresses=("192.0.2.1",), ports=(8443,))
    assert destinations_of([host], [ours]).entries[SocketAddress("192.0.2.1", 8443)].flags == DestinationFlag.WORKLOAD


def test_a_service_port_is_what_is_asked_for_not_where_it_listens() -> None:
    assert set(destinations_of([service("240.240.0.10")], []).entries) == {SocketAddress("240.240.0.10", 80)}


def test_addresses_become_canonical() -> None:
    found = destinations_of([service("::ffff:240.240.0.10", "FD6D:0:0::10")], [])
    assert set(found.entries) == {SocketAddress("240.240.0.10", 80), SocketAddress("fd6d::10", 80)}


def test_an_address_that_cannot_be_read_is_a_problem_and_spares_the_others() -> None:
    found = destinations_of([service("fe80::1%eth0", "240.240.0.10")], [])
    assert set(found.entries) == {SocketAddress("240.240.0.10", 80)}
    (problem,) = found.problems
    assert "shop/web" in problem and "not captured" in problem


def claim(uid: str, *cgroups: int, **changes: Any) -> Claim:
    return Claim(workload=uid, cgroups={number: Path(f"/c/{number}") for number in cgroups}, **changes)


CONFINED = EgressMode.REGISTRY_ONLY


def test_each_cgroup_is_of_its_workload() -> None:
    enrolment = enrol([claim("shop/a", 1, 2), claim("shop/b", 3), claim("shop/c")], ["before"])
    assert enrolment.cgroups == {1: "shop/a", 2: "shop/a", 3: "shop/b"}
    assert enrolment.problems == ("before",)
    assert enrolment.entries() == {1: Entry(tag("shop/a"), 0), 2: Entry(tag("shop/a"), 0), 3: Entry(tag("shop/b"), 0)}


def test_confined_workloads_are_marked_and_so_is_what_one_of_them_claims() -> None:
    made = enrol([claim("a", 1, 2, egress=CONFINED), claim("b", 2, 3), claim("c", 4, egress=CONFINED, dns=False)])
    flags = {cgroup: entry.flags for cgroup, entry in made.entries().items()}
    only = CgroupFlag.REGISTRY_ONLY
    assert flags == {1: only, 2: only, 3: 0, 4: only | CgroupFlag.NO_DNS}


def test_a_workload_that_has_left_is_left_alone_unless_another_claims_its_cgroup() -> None:
    made = enrol([claim("a", 1, 2, left=True, egress=CONFINED), claim("b", 2)])
    assert {n: entry.flags for n, entry in made.entries().items()} == {1: CgroupFlag.LEFT, 2: CgroupFlag.REGISTRY_ONLY}


def test_users_of_a_cgroup_have_entries_of_their_own() -> None:
    alone, other = User(7, 1001), User(8, 1001)
    made = enrol([claim("a", 7, user=1001), claim("b", 8, egress=CONFINED), claim("c", 8, user=1001)])
    entries = made.entries()
    assert made.cgroups == {alone.number: "a", 8: "b", other.number: "c"}
    assert made.users == {alone, other}
    assert entries[7] == Entry(0, CgroupFlag.BY_USER | CgroupFlag.ONLY_USERS)
    assert entries[8] == Entry(tag("b"), CgroupFlag.BY_USER | CgroupFlag.REGISTRY_ONLY)
    assert entries[alone.number] == Entry(tag("a"), 0)
    assert alone.number >> 63 == 1 and len({alone.number, other.number, User(7, 1002).number}) == 3
    assert claim("a", 7, user=1001).members == {alone.number: Member(7, Path("/c/7"))}


def test_two_claims_to_one_user_name_the_user() -> None:
    (problem,) = enrol([claim("shop/a", 7, user=1001), claim("shop/b", 7, user=1001)]).problems
    assert problem.startswith("cgroup 7 uid 1001 is selected by shop/a and shop/b")


def test_a_cgroup_of_two_workloads_is_captured_but_nobodys() -> None:
    enrolment = enrol([claim("shop/a", 1, 2), claim("shop/b", 2)])
    assert enrolment.cgroups == {1: "shop/a"}
    assert enrolment.contested == {2: ("shop/a", "shop/b")}
    assert 2 in enrolment.entries(), "it must not fall out of the mesh"
    (problem,) = enrolment.problems
    assert "shop/a and shop/b" in problem


def test_a_claim_says_what_its_workload_says() -> None:
    quiet = workload("web-0", labels={"nodemesh.io/dns": "off", "nodemesh.io/capture": "off"}, egress_mode=CONFINED)
    made = Claim.of(quiet, {7: Path("/c/7")})
    assert made == claim(quiet.uid, 7, dns=False, left=True, egress=CONFINED)
    assert Claim.of(workload("web-0"), {}) == claim(workload("web-0").uid)


keys = st.dictionaries(st.integers(0, 9), st.integers(0, 2))


@given(desired=keys, present=keys)
def test_applying_the_difference_gives_what_is_desired(desired: dict[int, int], present: dict[int, int]) -> None:
    change = difference(desired, present)
    assert {key: value for key, value in {**present, **change.put}.items() if key not in change.remove} == desired
    assert not set(change.put.items()) & set(present.items()), "nothing is written that is there already"
