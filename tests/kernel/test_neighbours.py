"""Other programs on the same hooks: both work, whoever came first, and ``status`` tells of them."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from nodeagent.loader.abi import AttachType
from nodeagent.loader.sys import libbpf
from tests.kernel.conftest import FAMILIES, Family, Lab, Node, connect

SOCK_ADDR = 18
PASS = bytes.fromhex("b7000000010000009500000000000000")  # r0 = 1; exit
DENY = bytes.fromhex("b7000000000000009500000000000000")  # r0 = 0; exit
ALLOW_MULTI = 2


def attach(lab: Lab, code: bytes, *, link: bool = True) -> None:
    """Somebody else's connect programs on the lab's root, by a link or the old way (BPF_F_ALLOW_MULTI)."""
    root = os.open(lab.root, os.O_RDONLY)
    lab.stack.callback(os.close, root)
    for hook in (AttachType.INET4_CONNECT, AttachType.INET6_CONNECT):
        program = libbpf().load_program(SOCK_ADDR, hook, code)
        lab.stack.callback(os.close, program)
        if link:
            lab.stack.callback(os.close, libbpf().attach(program, root, hook))
        else:
            legacy_attach(program, root, hook)


def legacy_attach(program: int, root: int, hook: int) -> None:
    """BPF_PROG_ATTACH; it ends with the cgroup."""
    import cffi

    ffi = cffi.FFI()
    ffi.cdef("int bpf_prog_attach(int prog, int target, int type, unsigned int flags);")
    assert ffi.dlopen("libbpf.so.1").bpf_prog_attach(program, root, hook, ALLOW_MULTI) == 0


def before(lab: Lab, act: Callable[[], None]) -> Node:
    act()
    return Node(lab)


def after(lab: Lab, act: Callable[[], None]) -> Node:
    node = Node(lab)
    act()
    return node


@pytest.mark.parametrize("link", [True, False], ids=["link", "legacy"])
@pytest.mark.parametrize("order", [before, after])
def test_a_neighbour_that_lets_pass(
    lab: Lab, family: Family, order: Callable[[Lab, Callable[[], None]], Node], link: bool
) -> None:
    node = order(lab, lambda: attach(lab, PASS, link=link))
    node.mesh((family.virtual, 80))
    told = lab.client(node.app, lambda: connect(family, family.virtual, 80))
    flow = node.take(family)
    assert flow is not None and flow.destination.ip == family.virtual
    assert told["peer"] == (family.address(family.virtual), 80)
    assert {(c.hook, c.name) for c in node.capture.status().cohabitants} == {
        ("inet4_connect", "mesh_probe"), ("inet6_connect", "mesh_probe"),
    }  # fmt: skip


@pytest.mark.parametrize("order", [before, after])
def test_a_neighbour_that_refuses_is_obeyed(lab: Lab, order: Callable[[Lab, Callable[[], None]], Node]) -> None:
    node = order(lab, lambda: attach(lab, DENY))
    node.mesh((FAMILIES[0].virtual, 80))
    with pytest.raises(PermissionError):
        lab.client(node.app, lambda: connect(FAMILIES[0], FAMILIES[0].virtual, 80))


def test_alone_there_is_nobody_to_report(node: Node) -> None:
    assert node.capture.status().cohabitants == ()
