"""Where the processes of cgroups live, and what the manager makes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodeagent.channel import Namespaces, NamespaceState
from nodeagent.manager.namespaces import NodeNamespaces
from nodeagent.namespaces.census import census
from nodeagent.namespaces.handle import Namespace, own
from nodeagent.namespaces.sources import NO_SOURCES, Sources
from tests.kernel.conftest import Lab

WEB, DB = "shop/web@1", "shop/db@1"
MakeLab = Callable[[], Lab]


@contextmanager
def process(cgroup: Path, *wrapper: str) -> Iterator[int]:
    """One that sits in the cgroup, in a namespace of its own where the wrapper says so."""
    inside = ["sh", "-c", f"echo $$ > {cgroup}/cgroup.procs && echo in && exec cat"]
    with subprocess.Popen([*wrapper, *inside], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None and started.stdout.readline() == b"in\n"
        try:
            yield started.pid
        finally:
            started.kill()
            started.wait()


def inode(pid: int) -> int:
    return os.stat(f"/proc/{pid}/ns/net").st_ino


def test_namespaces_of_a_cgroup_and_of_those_nested_in_it(lab: Lab) -> None:
    cgroup, nested = lab.cgroup("web"), lab.cgroup("web/nested")
    assert census(cgroup) == {}
    with process(cgroup) as here, process(nested, "unshare", "--net") as there:
        assert census(cgroup) == {inode(here): here, inode(there): there}
        assert census(nested) == {inode(there): there}
    assert census(lab.root / "absent") == {}


WANDERER = """
import ctypes, sys, threading
def wander():
    assert ctypes.CDLL(None).unshare(0x40000000) == 0
    print(threading.get_native_id(), flush=True)
    sys.stdin.read()
threading.Thread(target=wander).start()
"""


def test_a_thread_that_went_elsewhere_on_its_own(lab: Lab) -> None:
    """The process is where its main thread is; who looks at threads finds both places."""
    cgroup = lab.cgroup("web")
    wanderer = ["sh", "-c", f'echo $$ > {cgroup}/cgroup.procs && exec "$@"', "sh", sys.executable, "-c", WANDERER]
    with subprocess.Popen(wanderer, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        thread, main = int(started.stdout.readline()), started.pid
        try:
            assert census(cgroup) == {inode(main): main}
            assert census(cgroup, threads=True) == {inode(main): main, inode(thread): thread}
        finally:
            started.kill()
            started.wait()


class Told:
    """What the kernel and the workers were told, in order."""

    def __init__(self) -> None:
        self.served: dict[int, tuple[int, int]] = {}
        self.messages: list[Namespaces] = []

    def serve(
        self, cookie: int, port: int, dns_port: int = 0, *, ipv6: bool = True, source: Sources = NO_SOURCES
    ) -> None:
        self.served[cookie] = (port, dns_port)

    def unserve(self, cookie: int) -> None:
        self.served.pop(cookie, None)

    def guard(self, _namespace: Namespace) -> list[str]:
        return []

    def release(self, namespace: Namespace) -> None:
        self.unserve(namespace.cookie)

    def serve_only(self, cookies: set[int]) -> None:
        self.served = {cookie: ports for cookie, ports in self.served.items() if cookie in cookies}

    @property
    def cookies(self) -> list[int]:
        return [entry.cookie for entry in self.messages[-1].namespaces]

    def news(self) -> int:
        count, self.messages[:-1] = len(self.messages), []
        return count


class Scene:
    """A manager's namespaces over cgroups of the lab."""

    def __init__(self, lab: Lab) -> None:
        self.told = Told()
        self.subject = NodeNamespaces(self.told, (15001, 15053), self.told.messages.append)
        self.paths = {WEB: lab.cgroup("web"), DB: lab.cgroup("db")}

    def look(self, *uids: str) -> None:
        numbers = {self.paths[uid].stat().st_ino: uid for uid in uids or (WEB, DB)}
        directories = {number: self.paths[uid] for number, uid in numbers.items()}
        self.subject.look(numbers, directories)


@pytest.fixture
def scene(lab: Lab) -> Iterator[Scene]:
    made = Scene(lab)
    yield made
    made.subject.close()


def test_processes_of_the_nodes_own_namespace_are_no_news(scene: Scene) -> None:
    with process(scene.paths[WEB]):
        scene.look()
        assert scene.told.messages == []
        assert len(scene.subject) == 0


def test_a_namespace_is_told_while_an_enrolled_process_is_in_it(scene: Scene) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with process(scene.paths[WEB], "unshare", "--net") as pid:
        scene.look()
        (entry,) = scene.told.messages[-1].namespaces
        assert entry.inode == inode(pid)
        assert os.stat(entry.path).st_ino == inode(pid)
        assert scene.told.messages[-1].homes == {WEB: (entry.cookie,)}
        scene.look()
        assert scene.told.news() == 1, "what has not changed is not told again"
    scene.look()
    assert scene.told.messages[-1] == Namespaces(namespaces=(), homes={WEB: (-1,)}), "it may not be dialled elsewhere"
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_kernel_sends_connections_there_once_a_worker_listens(scene: Scene) -> None:
    with process(scene.paths[WEB], "unshare", "--net"):
        scene.look()
        (cookie,) = scene.told.cookies
        assert scene.told.served == {}
        scene.subject.served([NamespaceState(cookie=cookie, listening=False, problem="taken")])
        assert scene.told.served == {}
        assert "taken" in scene.subject.problems[0]
        scene.subject.served([NamespaceState(cookie=cookie, listening=True)])
        assert scene.told.served == {cookie: (15001, 0)}, "nobody answers names there"
        scene.subject.served([NamespaceState(cookie=cookie, listening=True, answering=True)])
        assert scene.told.served == {cookie: (15001, 15053)}
        assert scene.subject.problems == ()
    scene.look()
    assert scene.told.served == {}
    scene.subject.served([NamespaceState(cookie=cookie, listening=True)])
    assert scene.told.served == {}, "a late answer brings nothing back"


def test_two_workloads_in_one_namespace(scene: Scene) -> None:
    """A pod: it stays until both have left."""
    with process(scene.paths[WEB], "unshare", "--net") as first:
        with process(scene.paths[DB], "nsenter", f"--net=/proc/{first}/ns/net"):
            scene.look()
            (cookie,) = scene.told.cookies
            assert scene.told.messages[-1].homes == {WEB: (cookie,), DB: (cookie,)}
        scene.look()
        assert scene.told.cookies == [cookie]
        assert scene.told.messages[-1].homes == {WEB: (cookie,), DB: (-1,)}


def test_a_workload_with_processes_here_and_there(scene: Scene) -> None:
    with process(scene.paths[WEB]), process(scene.paths[WEB], "unshare", "--net"):
        scene.look()
        (cookie,) = scene.told.cookies
        assert scene.told.messages[-1].homes == {WEB: tuple(sorted((cookie, own().cookie)))}


def test_what_an_earlier_run_left_is_refused_but_for_what_still_lives(scene: Scene) -> None:
    with process(scene.paths[WEB], "unshare", "--net"):
        scene.look()
        (living,) = scene.told.cookies
        fresh = Scene.__new__(Scene)
        fresh.told, fresh.paths = Told(), scene.paths
        fresh.told.served = {living: (15001, 0), 4: (15001, 0)}
        fresh.subject = NodeNamespaces(fresh.told, (15001, 15053), fresh.told.messages.append)
        fresh.look()
        assert set(fresh.told.served) == {living}, "guarded until the workers are there again"
        fresh.subject.close()


def test_the_operator_is_told_of_each(scene: Scene) -> None:
    with process(scene.paths[WEB], "unshare", "--net") as pid:
        scene.look()
        cgroups = {scene.paths[WEB].stat().st_ino: WEB}
        (row,) = scene.subject.of_workload(WEB, cgroups)
        assert row == {"inode": inode(pid), "own": False, "served": False, "problem": ""}
        assert scene.subject.of_workload(DB, cgroups) == []
