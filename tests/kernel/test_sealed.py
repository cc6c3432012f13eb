"""While no manager lives, who is in no workload is refused what is in the mesh: where that was asked for."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from dataclasses import replace

import pytest

from nodeagent.capture.controller import Capture
from tests.kernel.conftest import CAPTURE_PORT, Family, Lab, Node, connect, destinations

PORT = 8080


@pytest.fixture
def alone(lab: Lab) -> Node:
    """A node that is to be sealed while nobody watches it; nobody does yet."""
    lab.settings = replace(lab.settings, sealed_without_agent=True)
    return Node(lab)


def listener() -> socket.socket:
    """The manager's: in its own namespace, which is not that of those who connect."""
    return socket.create_server(("127.0.0.1", 0))


def outsider(node: Node, family: Family, port: int = PORT) -> Callable[[], object]:
    """A connection of a program in no workload to the lab's own address, where somebody listens."""
    return lambda: node.lab.client(node.plain, lambda: connect(family, family.local, port))


def test_it_is_sealed_until_somebody_watches_and_when_nobody_does(alone: Node, family: Family) -> None:
    alone.lab.listen(family.local, PORT), alone.lab.listen(family.local, PORT + 1)
    known, unknown = outsider(alone, family), outsider(alone, family, PORT + 1)
    alone.mesh((family.local, PORT))
    with pytest.raises(PermissionError):
        known()
    unknown()
    with listener() as watcher:
        alone.capture.watched_by(watcher)
        with pytest.raises(PermissionError):
            known()
        alone.mesh((family.local, PORT))
        known()
    with pytest.raises(PermissionError):
        known()
    unknown()
    assert alone.capture.counters()["refused_sealed"] == 3
    alone.lab.client(alone.app, lambda: connect(family, family.local, PORT))
    assert alone.take(family) is not None, "who is enrolled is taken as ever"


def test_a_look_that_does_not_know_all_does_not_open_it(alone: Node, family: Family) -> None:
    alone.lab.listen(family.local, PORT)
    wanted = destinations((family.local, PORT))
    with listener() as watcher:
        alone.capture.watched_by(watcher)
        alone.capture.apply(replace(alone.capture.resolve(alone.local), partial=True), wanted)
        with pytest.raises(PermissionError):
            outsider(alone, family)()
        alone.capture.apply(alone.capture.resolve(alone.local), wanted)
        outsider(alone, family)()


def test_a_manager_that_is_killed(alone: Node, family: Family) -> None:
    """Its listener goes with it; nothing has to notice."""
    alone.lab.listen(family.local, PORT)
    alone.capture.close()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        capture = Capture.open(alone.lab.settings)
        watcher = listener()
        capture.watched_by(watcher)
        capture.sync(alone.local, destinations((family.local, PORT)))
        os.write(writer, b".")
        signal.pause()
    assert os.read(reader, 1) == b"."
    outsider(alone, family)()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with pytest.raises(PermissionError):
        outsider(alone, family)()
    os.close(reader), os.close(writer)
    alone.capture = Capture.open(alone.lab.settings)


def test_switched_off_nobody_is_refused(alone: Node, family: Family) -> None:
    alone.lab.listen(family.local, PORT)
    alone.mesh((family.local, PORT))
    with pytest.raises(PermissionError):
        outsider(alone, family)()
    alone.capture.close()
    alone.capture = Capture.open(replace(alone.lab.settings, sealed_without_agent=False))
    outsider(alone, family)()
    assert CAPTURE_PORT in {port for port in alone.capture.status().listeners.values()}
