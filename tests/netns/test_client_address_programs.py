"""What real servers make of their client's address: access logs, client lists, and rules that let only some in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.netns import programs
from tests.netns.lab import eventually
from tests.netns.resources import workload
from tests.netns.shop import PORT, TARGET_PORT, Behind, Family, Shop
from tests.netns.spot import Spot

GUEST = ("10.77.9.9", "fd77:9::9")
"""The addresses of a workload of the first node that nobody else has: not the agent, not another workload."""


@pytest.fixture(scope="module")
def guest(shop: Shop) -> Iterator[Spot]:
    spot = shop.mesh.spot_of(shop.mesh.a, "guest")
    with shop.mesh.applied(workload("guest", shop.mesh.a.name, addresses=list(GUEST))):
        shop.mesh.wait_enrolled(spot)
        yield spot


@pytest.fixture
def directory(shop: Shop) -> Iterator[Path]:
    path = shop.mesh.place.directory / "program"
    yield path
    shutil.rmtree(path, ignore_errors=True)


def own(family: Family) -> str:
    """The guest's address when it comes that way."""
    return GUEST[1] if family is Family.V6 else GUEST[0]


def host(behind: Behind, family: Family) -> str:
    """The service, as a URL has it."""
    address = behind.address(family)
    return f"[{address}]" if ":" in address else address


def plain(shown: str) -> str:
    """Without the v4-mapped form that dual-stack servers log."""
    address = ip_address(shown)
    return str(getattr(address, "ipv4_mapped", None) or address)


def curl(spot: Spot, url: str) -> str:
    done = spot.run(
        "curl", "--silent", "--show-error", "--fail", "--max-time", "10", "--write-out", "%{local_port}", url
    )
    if done.returncode != 0:
        raise OSError(done.stderr.decode())
    return done.stdout.decode()


def test_nginx_logs_its_client_and_lets_in_whom_it_should(
    shop: Shop, behind: Behind, family: Family, guest: Spot, directory: Path
) -> None:
    with programs.nginx(behind.spot, directory, TARGET_PORT, admits=GUEST) as log:
        url = f"http://{host(behind, family)}:{PORT}"
        port = eventually(lambda: curl(guest, url), what="the guest is known").removeprefix("hello")
        address, logged_port = log.read_text().splitlines()[-1].split()
        assert (plain(address), logged_port) == (own(family), port)
        assert curl(guest, f"{url}/guests").startswith("welcome")
        with pytest.raises(OSError, match="403"):
            curl(shop.client, f"{url}/guests")


def test_redis_lists_its_client(behind: Behind, family: Family, guest: Spot, directory: Path) -> None:
    with programs.redis(behind.spot, directory, TARGET_PORT):

        def listed() -> str:
            done = guest.run("redis-cli", "-h", behind.address(family), "-p", str(PORT), "CLIENT", "LIST")
            assert done.returncode == 0 and b"addr=" in done.stdout, done.stderr
            return done.stdout.decode()

        line = eventually(listed)
        address, _, port = dict(word.split("=", 1) for word in line.split())["addr"].rpartition(":")
        assert plain(address.strip("[]")) == own(family) and int(port) > 0


def test_postgresql_admits_and_names_its_client(
    shop: Shop, behind: Behind, family: Family, guest: Spot, directory: Path
) -> None:
    question = "select client_addr, client_port > 0 from pg_stat_activity where pid = pg_backend_pid()"

    def ask(spot: Spot) -> str:
        done = spot.run(
            "psql", "-h", behind.address(family), "-p", str(PORT), "-U", "postgres", "-At", "-c", question,
            env={"PGSSLMODE": "disable", "PGCONNECT_TIMEOUT": "10"},
        )  # fmt: skip
        if done.returncode != 0:
            raise OSError(done.stderr.decode())
        return done.stdout.decode().strip()

    with programs.postgres(behind.spot, directory, TARGET_PORT, admits=GUEST):
        assert eventually(lambda: ask(guest)) == f"{own(family)}|t"
        seen = shop.mesh.a.v6 if family is Family.V6 else shop.mesh.a.v4
        with pytest.raises(OSError, match=f'no pg_hba.conf entry for host "{seen}"'):
            ask(shop.client)
