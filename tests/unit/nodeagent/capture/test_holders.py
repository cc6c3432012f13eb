"""Whose a socket is: by who holds it, and by who made it. Directories and this very process stand for cgroups."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from nodeagent.capture.holders import Holders, namespaces_of, socket_inodes
from nodeagent.capture.plan import User
from nodeagent.namespaces.sockets import TcpSocket

ME = os.getpid()


def made_in(cgroup: Path, uid: int = 0, inode: int = 99) -> TcpSocket:
    return TcpSocket(2, 1, (b"", 0), (b"", 0), inode, uid, cgroup.stat().st_ino, b"")


def cgroup(path: Path, *pids: int) -> Path:
    path.mkdir()
    (path / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    return path


def holders(uid: str, directory: Path, enrolled: dict[Path, str] | dict[int, str]) -> Holders:
    numbers = {key if isinstance(key, int) else key.stat().st_ino: owner for key, owner in enrolled.items()}
    return Holders(uid, numbers, {directory.stat().st_ino: directory})


def test_what_a_process_in_it_holds(tmp_path: Path) -> None:
    web = cgroup(tmp_path / "web", ME)
    looking = holders("web", web, {web: "web"})
    with socket.socket() as mine:
        found = looking.look()
        assert found.processes == [ME]
        assert found.inodes[os.fstat(mine.fileno()).st_ino] == ME
        assert looking.owns(made_in(tmp_path, inode=os.fstat(mine.fileno()).st_ino))
    assert not looking.owns(made_in(tmp_path))


def test_cgroups_below_it_but_for_those_of_another(tmp_path: Path) -> None:
    web = cgroup(tmp_path / "web")
    inner, guest = cgroup(web / "inner", ME), cgroup(web / "guest", os.getppid())
    looking = holders("web", web, {web: "web", guest: "guest"})
    assert looking.look().processes == [ME]
    assert looking.owns(made_in(web)) and looking.owns(made_in(inner)) and not looking.owns(made_in(guest))


def test_users_of_a_shared_cgroup(tmp_path: Path) -> None:
    shared = cgroup(tmp_path / "shared", ME)
    number = shared.stat().st_ino
    enrolled = {User(number, os.getuid()).number: "mine", User(number, 4711).number: "others"}
    mine, others = (holders(uid, shared, enrolled) for uid in ("mine", "others"))
    assert mine.look().processes == [ME] and others.look().processes == []
    assert others.owns(made_in(shared, 4711)) and not others.owns(made_in(shared, os.getuid()))


def test_a_cgroup_or_process_that_is_gone(tmp_path: Path) -> None:
    web = cgroup(tmp_path / "web", 2**22 + 1)
    assert holders("web", web, {web: "web"}).look().processes in ([], [2**22 + 1])
    assert socket_inodes(2**22 + 1) == set() and namespaces_of([2**22 + 1]) == {}


def test_where_the_threads_of_a_process_are() -> None:
    assert list(namespaces_of([ME])) == [Path("/proc/self/ns/net").stat().st_ino]
