"""Running programs join the mesh and leave it; and a host starts whose workloads are up before its agent."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import pytest

from tests.netns.conftest import MakeShop
from tests.netns.lab import BIN, Node, eventually
from tests.netns.resources import peer_authentication, workload
from tests.netns.servers import echo, roundtrip
from tests.netns.shop import PORT, TARGET_PORT, Family, Shop
from tests.netns.spot import Spot

OUTSIDE_PORT = 9999


def carried(shop: Shop, spot: Spot, family: Family) -> bool:
    """Whether a new connection from the spot to the service works."""
    with shop.dial(shop.server, family, source=spot) as connection:
        return roundtrip(connection, b"carried") == b"carried"


def untouched(shop: Shop, spot: Spot, family: Family) -> bool:
    """Whether virtual addresses mean nothing to the spot."""
    try:
        shop.dial(shop.server, family, source=spot).close()
    except OSError as error:
        return "unreachable" in str(error)
    return False


def test_a_running_program_is_enrolled(shop: Shop, family: Family) -> None:
    """What it has open goes on past the mesh, in both directions, also under STRICT; what is new goes through it."""
    node = shop.mesh.a
    spot = shop.mesh.spot_of(node, f"joins-{family.name.lower()}")
    name = spot.cgroup.name
    there = family.form(shop.mesh.b.v4, shop.mesh.b.v6)
    here = family.form(node.v4, node.v6)
    strict = peer_authentication(name, "STRICT", app=name)
    with (
        shop.server.serve(echo),
        spot.connect(there, TARGET_PORT) as old,
        spot.listen(OUTSIDE_PORT) as listener,
        shop.mesh.b.outside.connect(here, OUTSIDE_PORT) as came,
    ):
        accepted, _ = listener.accept()
        assert roundtrip(old, b"before") == b"before"
        served = workload(name, node.name, ports=[OUTSIDE_PORT])
        with accepted, shop.mesh.applied(served, strict):
            shop.mesh.wait_enrolled(spot)
            eventually(lambda: refused(shop.mesh.b.outside, here), what="new plaintext is refused")
            assert carried(shop, spot, family)
            assert roundtrip(old, b"after") == b"after"
            came.sendall(b"still here")
            assert accepted.recv(100) == b"still here"


def refused(spot: Spot, address: str, port: int = OUTSIDE_PORT) -> bool:
    """Whether a plaintext connection is refused at once."""
    try:
        spot.connect(address, port).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_running_program_leaves_and_comes_back(shop: Shop, family: Family) -> None:
    """The label takes it out: what the mesh carries for it goes on, what is new goes past the mesh."""
    node = shop.mesh.a
    spot = shop.mesh.spot_of(node, f"leaves-{family.name.lower()}")
    name = spot.cgroup.name
    inside = workload(name, node.name)
    outside = workload(name, node.name, labels={"nodemesh.io/capture": "off"})
    with shop.server.serve(echo), shop.mesh.applied(inside):
        shop.mesh.wait_enrolled(spot)
        with shop.dial(shop.server, family, source=spot) as old:
            assert roundtrip(old, b"in") == b"in"
            shop.mesh.apply(outside)
            eventually(lambda: untouched(shop, spot, family), what="new connections are not taken")
            below = node.spot(f"shop/{name}/below")
            assert untouched(shop, below, family), "nor are those of cgroups below it"
            assert roundtrip(old, b"still in") == b"still in"
            shop.mesh.apply(inside)
            eventually(lambda: comes_back(shop, spot, family), what="taken again")
            assert roundtrip(old, b"all the time") == b"all the time"


def comes_back(shop: Shop, spot: Spot, family: Family) -> bool:
    return not untouched(shop, spot, family) and carried(shop, spot, family)


# --- a host that starts ---


def run_verb(node: Node, *argv: str) -> tuple[int, str]:
    """A verb of nodeagent that acts on the host, where the agent itself runs."""
    done = node.system.run(BIN / "nodeagent", *argv, env=node.settings)
    return done.returncode, (done.stdout + done.stderr).decode()


@pytest.fixture
def starting(make_shop: MakeShop) -> Iterator[Shop]:
    """A mesh whose first node has just started: no program is loaded, no workload runs, no cgroup of one exists."""
    shop = make_shop()
    with shop.server.serve(echo):
        assert carried(shop, shop.client, Family.V4)
    shop.mesh.a.stop_agent()
    assert run_verb(shop.mesh.a, "unload")[0] == 0
    for spot in (shop.client, shop.other, shop.local.spot):
        spot.close()
        with contextlib.suppress(FileNotFoundError):
            spot.cgroup.rmdir()
    yield shop


def test_workloads_are_up_before_the_agent(starting: Shop) -> None:
    """Sealed, the node refuses them everything that was in the mesh, until its agent is there."""
    shop, a, b = starting, starting.mesh.a, starting.mesh.b
    status, told = run_verb(a, "load", "--fail-closed")
    assert status == 0 and "sealed: " in told, told
    with shop.server.serve(echo), shop.local.spot.listen(TARGET_PORT), b.outside.listen(OUTSIDE_PORT):
        for family in Family:
            direct = family.form(b.v4, b.v6)
            for address, port in ((shop.server.address(family), PORT), (direct, TARGET_PORT)):
                with pytest.raises(PermissionError):
                    shop.client.connect(address, port)
            shop.client.connect(direct, OUTSIDE_PORT).close()
            assert refused(b.outside, family.form(a.v4, a.v6), TARGET_PORT), "plaintext to the workload here"
        a.start_agent()
        a.wait_ready()
        shop.mesh.wait_enrolled(shop.client, shop.local.spot)
        for family in Family:
            assert carried(shop, shop.client, family)
            b.outside.connect(family.form(a.v4, a.v6), TARGET_PORT).close()
            a.outside.connect(family.form(b.v4, b.v6), TARGET_PORT).close()


def test_a_sealed_node_stays_so_while_its_agent_knows_nothing(starting: Shop) -> None:
    """Its state is lost meanwhile and control does not answer."""
    shop, a = starting, starting.mesh.a
    assert run_verb(a, "load", "--fail-closed")[0] == 0
    (a.state_dir / "discovery.log").unlink()
    shop.mesh.stop_control()
    a.start_agent()
    try:
        with shop.server.serve(echo):
            eventually(lambda: run_verb(a, "status")[0] == 0, within=40, what="the agent answers")
            for family in Family:
                with pytest.raises(PermissionError):
                    shop.client.connect(family.form(shop.mesh.b.v4, shop.mesh.b.v6), TARGET_PORT)
            shop.mesh.start_control()
            shop.mesh.wait_enrolled(shop.client)
            eventually(lambda: carried(shop, shop.client, Family.V4), what="the mesh is there")
    finally:
        a.stop_agent(signal.SIGTERM)


def test_a_node_that_remembers_nothing_cannot_be_sealed(starting: Shop) -> None:
    a = starting.mesh.a
    (a.state_dir / "discovery.log").unlink()
    status, told = run_verb(a, "load", "--fail-closed")
    assert status == 1 and "nothing is remembered of the mesh" in told, told


# --- an agent that dies ---


@pytest.fixture
def guarded(make_shop: MakeShop) -> Iterator[Shop]:
    """A mesh whose agents are configured to leave their nodes sealed."""
    yield make_shop(agent_settings={"NODEMESH_SEALED_WITHOUT_AGENT": "true"})


def test_a_workload_that_starts_while_its_agent_is_dead(guarded: Shop) -> None:
    """Its cgroup is new, and the kernel does not know it: with the setting it does not get past the mesh for that."""
    shop, a, b = guarded, guarded.mesh.a, guarded.mesh.b
    shop.mesh.apply(workload("late", a.name))
    with shop.server.serve(echo), b.outside.listen(OUTSIDE_PORT):
        for family in Family:
            a.outside.connect(family.form(b.v4, b.v6), TARGET_PORT).close()
        a.stop_agent(signal.SIGKILL)
        late = a.spot("shop/late")
        late.cgroup.mkdir(parents=True)
        for family in Family:
            direct = family.form(b.v4, b.v6)
            for spot in (late, a.outside):
                for address, port in ((shop.server.address(family), PORT), (direct, TARGET_PORT)):
                    with pytest.raises(PermissionError):
                        spot.connect(address, port)
                spot.connect(direct, OUTSIDE_PORT).close()
        a.start_agent()
        a.wait_ready()
        shop.mesh.wait_enrolled(late)
        refused = next(s for s in a.metrics() if s.labels.get("reason") == "refused_sealed")
        assert refused.value == 12
        for family in Family:
            assert carried(shop, late, family)
            a.outside.connect(family.form(b.v4, b.v6), TARGET_PORT).close()


def test_without_the_setting_others_are_untouched_while_the_agent_is_dead(make_shop: MakeShop) -> None:
    shop = make_shop()
    a, b = shop.mesh.a, shop.mesh.b
    a.stop_agent(signal.SIGKILL)
    with shop.server.serve(echo):
        for family in Family:
            a.outside.connect(family.form(b.v4, b.v6), TARGET_PORT).close()
