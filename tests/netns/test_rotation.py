"""SVIDs that live for seconds: renewed under traffic, and nobody notices."""

from __future__ import annotations

import threading
import time

import pytest

from tests.netns.conftest import MakeShop
from tests.netns.lab import eventually
from tests.netns.servers import echo, http_get, http_hello, roundtrip
from tests.netns.shop import Shop
from tests.netns.tunnel import server_certificate

LIFETIME = 20
"""Seconds an SVID lives here; half of it until it is renewed."""
TRAFFIC_SECONDS = 26.0


@pytest.fixture(scope="module")
def shop(make_shop: MakeShop) -> Shop:
    """A mesh in a hurry."""
    return make_shop(control_options=("--svid-lifetime", f"{LIFETIME}s"))


def test_rotation_under_traffic_loses_nothing(shop: Shop) -> None:
    failures: list[BaseException] = []
    counts = {"kept": 0, "new": 0}
    end = time.monotonic() + TRAFFIC_SECONDS

    def on_one_connection() -> None:
        with shop.dial(shop.server) as connection:
            while time.monotonic() < end:
                assert roundtrip(connection, b"k" * 10_000) == b"k" * 10_000
                counts["kept"] += 1
                time.sleep(0.005)

    def always_new() -> None:
        while time.monotonic() < end:
            with shop.dial(shop.server, source=shop.other) as connection:
                assert roundtrip(connection, b"n") == b"n"
            counts["new"] += 1
            time.sleep(0.01)

    def guarded(run: object) -> None:
        try:
            run()  # type: ignore[operator]
        except BaseException as error:
            failures.append(error)

    with shop.server.serve(echo):
        before = _serial(shop)
        threads = [threading.Thread(target=guarded, args=(run,)) for run in (on_one_connection, always_new)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TRAFFIC_SECONDS + 30)
        after = _serial(shop)
    assert not failures, failures
    assert counts["kept"] > 50 and counts["new"] > 50, counts
    assert before != after, "the certificate is another one by now"


def test_outlived_certificates_are_renewed_while_nothing_happens(shop: Shop) -> None:
    """No traffic for longer than a certificate lives: the next connection works at once."""
    first = _serial(shop)
    eventually(lambda: _serial(shop) != first, within=LIFETIME * 1.5, what="renewed without traffic")
    with shop.server.serve(http_hello), shop.dial(shop.server) as connection:
        assert http_get(connection, "/")[0] == 200


def _serial(shop: Shop) -> int:
    return server_certificate(shop.client, shop.mesh.b.v4, "server.shop.workload.mesh.internal").serial_number


def test_a_certificate_lives_as_long_as_asked(shop: Shop) -> None:
    certificate = server_certificate(shop.client, shop.mesh.b.v4, "server.shop.workload.mesh.internal")
    left = certificate.not_valid_after_utc.timestamp() - time.time()
    assert 0 < left <= LIFETIME + 1
