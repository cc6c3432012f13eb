"""One mesh for all stories that leave it as they found it; a mesh of its own for those that break something."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator

import pytest

from tests.netns import place
from tests.netns.lab import Mesh
from tests.netns.relayed import assert_degraded
from tests.netns.shop import Behind, Family, Shop
from tests.support.degraded import flips

MESHES = pytest.StashKey[list[Mesh]]()


def pytest_configure(config: pytest.Config) -> None:
    """Meshes that are up, for reports."""
    config.stash[MESHES] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows the ends of the logs and how to look into the namespaces."""
    report = yield
    if report.failed:
        for mesh in item.config.stash[MESHES]:
            report.sections.append((f"mesh {mesh.place.name}", mesh.report()))
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """On a kernel that cannot splice a story of the splice proves that its flows are relayed, and that it is told."""
    if not flips(pyfuncitem):
        return None
    shop = next(value for value in pyfuncitem.funcargs.values() if isinstance(value, Shop))
    assert_degraded(shop, pyfuncitem.funcargs.get("family", Family.V4))
    return True


@pytest.fixture(scope="session", autouse=True)
def nothing_left() -> Iterator[None]:
    """Whatever the stories did, the machine is as before."""
    before = set(place.existing())
    made: list[place.Place] = []
    original = place.Place.create

    def remembering(self: place.Place, *, keep: bool = False) -> None:
        made.append(self)
        original(self, keep=keep)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place.Place, "create", remembering)
        yield
    left = [thing for each in made if each.name not in before for thing in each.leftovers()]
    assert not left, f"the stories left things behind: {left}"


MakeShop = Callable[..., Shop]


def _shops(config: pytest.Config) -> Generator[MakeShop, None, None]:
    meshes: list[Mesh] = []

    def make(**options: object) -> Shop:
        mesh = Mesh(**options)  # type: ignore[arg-type]
        meshes.append(mesh)
        config.stash[MESHES].append(mesh)
        mesh.start()
        shop = Shop(mesh)
        shop.set_up()
        return shop

    try:
        yield make
    finally:
        for mesh in meshes:
            config.stash[MESHES].remove(mesh)
            mesh.stop()


@pytest.fixture(scope="session")
def shop(request: pytest.FixtureRequest, record_testsuite_property: Callable[[str, object], None]) -> Iterator[Shop]:
    """The mesh that most stories share. What its agent says of the splice goes into the JUnit report."""
    shops = _shops(request.config)
    shop = next(shops)()
    record_testsuite_property("splice", json.dumps(shop.mesh.a.nodeagent("status", "-o", "json")["splice"]))
    yield shop
    shops.close()


@pytest.fixture(scope="module")
def make_shop(request: pytest.FixtureRequest) -> Iterator[MakeShop]:
    """Meshes that a file has for itself."""
    yield from _shops(request.config)


@pytest.fixture(params=list(Family), ids=lambda family: family.value)
def family(request: pytest.FixtureRequest) -> Family:
    """IPv4, IPv6 and v4-mapped: one code path, three ways in."""
    chosen: Family = request.param
    return chosen


@pytest.fixture(params=["cross-node", "same-node"])
def behind(request: pytest.FixtureRequest, shop: Shop) -> Behind:
    """The service on the other node and the one on the client's own."""
    return shop.server if request.param == "cross-node" else shop.local
