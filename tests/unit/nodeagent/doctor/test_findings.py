"""What the doctor makes of what it sees."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from nodeagent.config import Config, Ports
from nodeagent.doctor import host, network, surroundings, workloads
from nodeagent.doctor.finding import Finding, Level, as_text, documents

WORKLOAD: dict[str, Any] = {
    "namespace": "shop", "name": "web", "uid": "shop/web@1", "selector": "/shop/web", "cgroups": [7],
    "egress": "ALLOW_ANY",
}  # fmt: skip
CAPTURE: dict[str, Any] = {"enabled": True, "problems": [], "listeners": {1: 15001}}


@pytest.mark.parametrize(
    ("workload", "capture", "processes", "level", "says"),
    [
        ({}, {}, 3, Level.GOOD, "3 processes"),
        ({"egress": "REGISTRY_ONLY"}, {}, 3, Level.GOOD, "egress REGISTRY_ONLY"),
        ({}, {}, 0, Level.ODD, "no process"),
        ({}, {}, None, Level.ODD, "no process"),
        ({"left": True}, {}, 3, Level.ODD, "has left the mesh"),
        ({"cgroups": []}, {}, 3, Level.BAD, "no cgroup"),
        ({}, {"enabled": False}, 3, Level.BAD, "off"),
        ({}, {"listeners": {}}, 3, Level.BAD, "refused"),
        ({"stages": {"7": {"stage": "captured", "why": ""}}}, {}, 3, Level.GOOD, "3 processes"),
        ({"stages": {"7": {"stage": "told", "why": "no worker"}}}, {}, 3, Level.BAD, "cgroup 7 is told: no worker"),
        ({}, {"problems": ["cgroup 7 is selected by shop/a@1 and shop/web@1"]}, 3, Level.BAD, "shop/a@1"),
    ],
)
def test_whether_a_workload_is_captured_and_why_not(
    workload: dict[str, Any], capture: dict[str, Any], processes: int | None, level: Level, says: str
) -> None:
    found = workloads.one({**WORKLOAD, **workload}, {**CAPTURE, **capture}, lambda _: processes)
    assert found.level is level and says in found.text
    assert (found.remedy == "") == (level is Level.GOOD)


def test_who_is_kept_from_leaving_is_told_by_workload() -> None:
    refused = [
        {"workload": uid, "protocol": "tcp", "destination": f"192.0.2.{n}:443", "count": 3, "pid": 7, "seconds": 2.0}
        for n, uid in enumerate(("shop/web@1", "shop/web@1", ""))
    ]
    web, nobody = workloads.egress({"confined": [], "refused": refused})
    assert web.level is Level.ODD and "2 destinations" in web.text and "192.0.2.0:443" in web.text and web.remedy
    assert "nobody" in nobody.area
    assert not workloads.egress({"confined": ["shop/web@1"], "refused": []})


def test_no_agent_is_bad_and_no_workload_is_odd() -> None:
    assert workloads.agent(None)[0].level is Level.BAD
    assert workloads.each([], CAPTURE, lambda _: 0)[0].level is Level.ODD


def test_privileges_are_read_from_the_kernels_words() -> None:
    assert host.privileges("CapEff:\t000001ffffffffff\n", 0).level is Level.GOOD
    lacking = host.privileges("CapEff:\t0000000000000000\n", 1000)
    assert lacking.level is Level.BAD and "CAP_BPF" in lacking.text and "uid 1000" in lacking.text
    blind = host.privileges("CapEff:\t000001fffff7ffff\n", 0)
    assert blind.level is Level.BAD and "CAP_SYS_PTRACE" in blind.text and blind.remedy


def test_cgroups_and_bpffs_are_found_in_the_mounts(tmp_path: Path) -> None:
    assert host.cgroups("", tmp_path).level is Level.BAD
    (tmp_path / "cgroup.procs").touch()
    assert "unified" in host.cgroups(f"cgroup2 {tmp_path} cgroup2 rw 0 0\n", tmp_path).text
    both = f"cgroup2 {tmp_path} cgroup2 rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n"
    assert "hybrid" in host.cgroups(both, tmp_path).text
    assert host.bpffs("bpf /sys/fs/bpf bpf rw 0 0\n", Path("/sys/fs/bpf")).level is Level.GOOD
    assert host.bpffs("", Path("/sys/fs/bpf")).remedy.startswith("to have it before: mount")


def test_a_port_that_is_taken_is_named_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config = Config(node="n", ports=Ports(outbound=port, tunnel=0, admin=0, metrics=0, ready=0), dns=False)
        (found,) = network.ports(config, agent_runs=False)
    assert found.level is Level.BAD and str(port) in found.text and "ports.outbound" in found.remedy
    assert f", process {os.getpid()}" in found.text
    assert network.ports(config, agent_runs=True)[0].level is Level.GOOD


def test_a_holder_that_nobody_can_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "holder_of", lambda port, kind: None)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config = Config(node="n", ports=Ports(outbound=port, tunnel=0, admin=0, metrics=0, ready=0), dns=False)
        (found,) = network.ports(config, agent_runs=False)
    assert found.text == f"{port} (ports.outbound) is taken by another program" and "ss -lnp" in found.remedy


@pytest.mark.parametrize(("skew", "level"), [(0, Level.GOOD), (20, Level.GOOD), (-31, Level.BAD), (4000, Level.BAD)])
def test_the_clock_is_held_against_controls(skew: float, level: Level) -> None:
    found = network.clock("Tue, 24 Nov 2026 12:00:00 GMT", 1795521600.0 + skew)
    assert found.level is level, found


def test_control_that_is_not_there_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    (found,) = network.control(Config(node="n", control=f"https://127.0.0.1:{port}"))
    assert found.level is Level.BAD and "cannot be reached" in found.text
    assert network.control(Config(node="n"))[0].level is Level.ODD


def test_people_read_a_table_and_what_to_do() -> None:
    text = as_text(documents([Finding("ports", Level.BAD, "15001 is taken", "free it"), Finding("a", Level.GOOD, "b")]))
    assert "BAD" in text and "- ports: free it" in text and text.endswith("1 of 2 things looked at are bad")
    assert as_text(documents([Finding("a", Level.GOOD, "b")])).endswith("all 1 things looked at will do")


CONFIG = Config(node="n")


@pytest.mark.parametrize(
    ("span", "reserved", "level", "says"),
    [
        ("32768 60999", "", Level.GOOD, ""),
        ("1024 65535", "15000-15100", Level.GOOD, ""),
        ("1024 65535", "15000-15020", Level.BAD, "15021,15053-15056"),
        ("15054 15055", "8080", Level.BAD, "15054-15055"),
    ],
)
def test_ports_that_the_kernel_may_give_to_others(span: str, reserved: str, level: Level, says: str) -> None:
    found = surroundings.reserved(CONFIG, span, reserved)
    assert found.level is level and says in found.text
    if level is Level.BAD:
        assert "ip_local_reserved_ports=15000-15001,15006,15008,15020-15021,15053-15056" in found.remedy


FILES = "hosts: files dns\n"
RESOLVE = "passwd: files\nhosts: files resolve [!UNAVAIL=return] dns\n"


@pytest.mark.parametrize(
    ("nscd", "conf", "nsswitch", "resolved", "bad"),
    [
        (False, "", FILES, True, []),
        (True, "", FILES, False, ["nscd"]),
        (True, "\tenable-cache\t\thosts\t\tno\n", FILES, False, []),
        (True, "#\tenable-cache hosts no\n enable-cache hosts yes\n", FILES, False, ["nscd"]),
        (False, "", RESOLVE, True, ["nss-resolve"]),
        (False, "", RESOLVE, False, []),
        (False, "", "hosts: files dns resolve\n", True, []),
        (True, "", RESOLVE, True, ["nscd", "nss-resolve"]),
        (False, "", "", True, []),
    ],
)
def test_daemons_that_ask_in_the_place_of_programs(
    nscd: bool, conf: str, nsswitch: str, resolved: bool, bad: list[str]
) -> None:
    found = surroundings.names(nscd, conf, nsswitch, resolved)
    assert [item.text.split()[0] for item in found if item.level is Level.BAD] == bad
    assert all(item.remedy for item in found if item.level is Level.BAD)


def test_sockets_to_the_hypervisor() -> None:
    assert surroundings.vsock(False, confined=True) == []
    assert [item.level for confined in (False, True) for item in surroundings.vsock(True, confined)] == [
        Level.ODD, Level.BAD,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("uid", "options", "told"), [(0, "rw,nosuid", True), (0, "ro,nosuid", False), (1000, "rw,nosuid", False)]
)
def test_workloads_that_may_leave_their_cgroup(tmp_path: Path, uid: int, options: str, told: bool) -> None:
    (tmp_path / "12").mkdir()
    (tmp_path / "12/status").write_text(f"Name:\tnginx\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
    (tmp_path / "12/mountinfo").write_text(
        "20 1 0:20 / / rw,relatime - ext4 /dev/vda rw\n"
        f"26 25 0:23 / /sys/fs/cgroup {options} shared:4 - cgroup2 cgroup2 rw\n"
    )
    found = surroundings.movers(WORKLOAD, lambda _: [11, 12], tmp_path)
    assert bool(found) == told
    if told:
        assert "process 12" in found[0].text and "ProtectControlGroups=yes" in found[0].remedy


def test_filters_of_a_workloads_packets() -> None:
    assert surroundings.filters(WORKLOAD, lambda _: []) == []
    (found,) = surroundings.filters(WORKLOAD, {7: ["sd_fw_egress"]}.__getitem__)
    assert "sd_fw_egress" in found.text and "IPAddressAllow=localhost" in found.remedy
