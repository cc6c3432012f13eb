"""Holding, knowing and entering network namespaces."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from nodeagent.namespaces.entry import NamespaceError, enter
from nodeagent.namespaces.handle import Namespace, current_cookie, own

CLONE_NEWNET = 0x40000000


def make() -> Namespace:
    """A fresh one that only its descriptor keeps alive."""
    found: list[Namespace] = []

    def elsewhere() -> None:
        assert ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0
        found.append(Namespace.open("/proc/thread-self/ns/net"))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = make()
    yield made
    made.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_the_cookie_is_that_of_sockets_made_inside(namespace: Namespace) -> None:
    before = current_cookie()
    assert enter(namespace, current_cookie) == namespace.cookie
    assert current_cookie() == before == own().cookie != namespace.cookie
    with socket.socket() as made:
        assert int.from_bytes(made.getsockopt(socket.SOL_SOCKET, 71, 8), sys.byteorder) == before


def test_two_have_two_cookies_and_the_same_one_has_one(namespace: Namespace) -> None:
    other, again = make(), Namespace.open(namespace.path_for_others)
    try:
        assert other.cookie != namespace.cookie
        assert (again.cookie, again.inode) == (namespace.cookie, namespace.inode)
    finally:
        other.close()
        again.close()


def test_a_socket_stays_where_it_was_made(namespace: Namespace) -> None:
    """Made inside, bound outside: the port is taken inside only."""
    inside = enter(namespace, socket.socket)
    with inside, socket.socket() as outside:
        inside.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND: lo is down in a new namespace
        inside.bind(("127.0.0.1", 0))
        outside.bind(inside.getsockname())


def test_a_closure_that_fails_comes_back(namespace: Namespace) -> None:
    def fails() -> None:
        raise ValueError("inside")

    before = current_cookie()
    with pytest.raises(ValueError, match="inside"):
        enter(namespace, fails)
    assert current_cookie() == before


def test_threads_do_not_disturb_each_other(namespace: Namespace) -> None:
    """One goes in and out, the other must always find itself outside."""
    home, wrong, done = current_cookie(), [], threading.Event()

    def watch() -> None:
        while not done.is_set():
            if current_cookie() != home:
                wrong.append("outside")

    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(2000):
        if enter(namespace, current_cookie) != namespace.cookie:
            wrong.append("inside")
    done.set()
    thread.join()
    assert not wrong


def test_entering_twice_is_refused(namespace: Namespace) -> None:
    with pytest.raises(NamespaceError, match="already inside"):
        enter(namespace, lambda: enter(namespace, current_cookie))


def test_what_is_no_namespace_is_told_and_leaks_nothing(namespace: Namespace) -> None:
    before = descriptors()
    for path, why in (("/proc/0/ns/net", "cannot be opened"), ("/dev/null", "cannot be entered")):
        with pytest.raises(NamespaceError, match=why):
            Namespace.open(path)
    assert descriptors() == before


def test_closing_it_lets_it_go() -> None:
    """Whatever the agent holds is let go of with ``close``: the kernel's count of namespaces says so."""
    made = make()
    path = made.path_for_others
    number = made.fd
    made.close()
    made.close()
    with pytest.raises(NamespaceError):
        Namespace.open(path)
    assert (
        not os.path.exists(f"/proc/self/fd/{number}") or os.readlink(f"/proc/self/fd/{number}") != f"net:[{made.inode}]"
    )


def test_nobody_goes_on_in_the_wrong_namespace(tmp_path) -> None:
    """A thread that cannot come back takes its process with it."""
    code = (
        "import os, ctypes\n"
        "from nodeagent.namespaces import entry\n"
        "from nodeagent.namespaces.handle import Namespace, current_cookie\n"
        "import threading\n"
        "held = []\n"
        "def elsewhere():\n"
        "    ctypes.CDLL(None).unshare(0x40000000)\n"
        "    held.append(Namespace.open('/proc/thread-self/ns/net'))\n"
        "t = threading.Thread(target=elsewhere); t.start(); t.join()\n"
        "home = entry._home()\n"
        "entry.enter(held[0], lambda: os.dup2(os.open('/dev/null', os.O_RDONLY), home.fd))\n"
        "print('went on')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (71, "")
    assert "cannot return to the agent's own network namespace" in done.stderr


def test_a_number_of_its_own_for_programs_of_the_kernel(namespace: Namespace) -> None:
    """Given once; the same for whoever asks; gone with the namespace, which it does not keep alive."""
    other, again = make(), Namespace.open(namespace.path_for_others)
    try:
        assert namespace.id_here == again.id_here >= 0
        assert other.id_here not in (-1, namespace.id_here)
    finally:
        other.close()
        again.close()
