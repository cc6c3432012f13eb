"""Load, attach, take over, fail, unload: what is pinned outlives the agent, and nothing outlives ``unload``."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from control.wire.address import SocketAddress
from nodeagent.capture.apply import MapWriter
from nodeagent.capture.cgroups import CgroupTree
from nodeagent.capture.controller import Capture, CaptureSettings, unload
from nodeagent.capture.plan import Entry
from nodeagent.loader import abi
from nodeagent.loader.errors import BpfError, FeatureMissingError, IncompatiblePinError, LoaderError, PinsBusyError
from nodeagent.loader.features import Feature, Features, Support, probe
from nodeagent.loader.objects import MeshObject, install
from nodeagent.loader.pins import PinDirectory
from nodeagent.loader.sys import Libbpf, libbpf
from tests.kernel.conftest import CAPTURE_PORT, FAMILIES, Lab, Node, connect, destinations, finish, workload

V4 = FAMILIES[0]
RECONNECTS = 400


@pytest.fixture
def pins(lab: Lab) -> PinDirectory:
    directory = PinDirectory(lab.bpffs, "test")
    lab.stack.callback(directory.close)
    return directory


def programs_on(root: Path) -> list[int]:
    """Ids of everything attached to the cgroup itself, on our hooks."""
    fd = os.open(root, os.O_RDONLY)
    try:
        return [p for hook in abi.PROGRAMS.values() for p in libbpf().attached_programs(fd, hook, effective=False)]
    finally:
        os.close(fd)


def link_ids(capture: Capture) -> dict[str, int]:
    """The kernel's ids of the pinned links."""
    found = {}
    for name in abi.PROGRAMS:
        fd = libbpf().get(capture.pin_dir / "links" / name)
        found[name] = int(libbpf().info(fd, "link").id)
        os.close(fd)
    return found


def test_the_object_holds_exactly_our_programs_and_the_verifier_takes_them() -> None:
    mesh = MeshObject()
    try:
        assert set(mesh.programs) == set(abi.PROGRAMS)
        mesh.load()
    finally:
        mesh.close()


def test_every_required_feature_is_found_here(lab: Lab) -> None:
    features = probe(lab.root)
    features.require()
    assert {feature.support for feature in features.features} == {Support.YES}
    assert programs_on(lab.root) == [], "a probe leaves nothing attached"


def test_a_restart_takes_over_the_pins(lab: Lab) -> None:
    lab.cgroup("app")
    first = Capture.open(lab.settings)
    first.sync([workload("shop/app", "/app")], destinations((V4.virtual, 80)))
    lab.inside(lambda: first.set_listeners(CAPTURE_PORT))
    links, before = link_ids(first), first.status()
    first.close()
    second = lab.capture()
    after = second.status()
    assert link_ids(second) == links, "the links stay, so there is no moment without capture"
    assert set(after.programs.values()).isdisjoint(before.programs.values()), "the programs are new"
    assert len(programs_on(lab.root)) == len(abi.PROGRAMS)
    assert (after.enrolled, after.destinations, after.listeners) == (1, 1, before.listeners)


def test_connections_are_captured_without_a_gap_while_the_agent_restarts(node: Node) -> None:
    """Not one of them reaches the server that listens at the address itself."""
    node.mesh((V4.local, 8080))
    server = node.lab.listen(V4.local, 8080)
    server.setblocking(False)

    def storm() -> int:
        captured = 0
        for _ in range(RECONNECTS):
            with socket.create_connection((V4.local, 8080), 5) as client:
                captured += client.recv(1) == b"c"
        return captured

    started = node.lab.start(node.app, storm)
    for turn in range(RECONNECTS):
        if turn % (RECONNECTS // 4) == 10:
            node.capture.close()
            node.capture = Capture.open(node.lab.settings)
        connection, source = node.accept(V4)
        assert node.flows.take(source, connection) is not None
        connection.sendall(b"c")
        connection.close()
    assert finish(started) == RECONNECTS
    with pytest.raises(BlockingIOError):
        server.accept()


def test_two_agents_cannot_hold_one_instance(lab: Lab) -> None:
    lab.capture()
    with pytest.raises(PinsBusyError, match="is an agent of this instance running"):
        Capture.open(lab.settings)
    with pytest.raises(PinsBusyError):
        unload(lab.settings)


def test_two_instances_live_side_by_side(node: Node) -> None:
    other = Capture.open(CaptureSettings(bpffs=node.lab.bpffs, instance="other", cgroup_root=node.lab.root))
    try:
        node.mesh((V4.virtual, 80))
        told = node.lab.client(node.app, lambda: connect(V4, V4.virtual, 80))
        flow = node.take(V4)
        assert flow is not None and told["peer"] == (V4.virtual, 80)
        assert {c.name for c in node.capture.status().cohabitants} == {name[:15] for name in abi.PROGRAMS}
    finally:
        other.close()
    unload(CaptureSettings(bpffs=node.lab.bpffs, instance="other", cgroup_root=node.lab.root))


def test_unload_leaves_nothing(lab: Lab) -> None:
    capture = Capture.open(lab.settings)
    stranger = libbpf().create_map(2, 4, 8, 1)
    for name in ("mesh_dest_v0", "new_mesh_flow_v9"):  # other versions, and an interrupted installation
        libbpf().pin(stranger, capture.pin_dir / "maps" / name)
    os.close(stranger)
    capture.close()
    removed = unload(lab.settings)
    assert {Path(path).name for path in removed} >= {*abi.PROGRAMS, "mesh_dest_v0", "new_mesh_flow_v9", "mesh_flow_v2"}
    assert not (lab.bpffs / "nodemesh").exists()
    assert programs_on(lab.root) == []
    assert unload(lab.settings) == [], "a second time there is nothing to do"


def test_unload_ends_links_that_somebody_still_holds(lab: Lab) -> None:
    capture = Capture.open(lab.settings)
    held = libbpf().get(capture.pin_dir / "links" / "mesh_connect4")
    capture.close()
    unload(lab.settings)
    assert programs_on(lab.root) == []
    os.close(held)


def test_a_map_of_another_layout_stops_the_agent_and_leaves_the_old_one_in_force(lab: Lab) -> None:
    capture = Capture.open(lab.settings)
    before = programs_on(lab.root)
    pin = capture.pin_dir / "maps" / abi.FLOW_MAP
    capture.close()
    pin.unlink()
    stranger = libbpf().create_map(1, 4, 8, 1)
    libbpf().pin(stranger, pin)
    os.close(stranger)
    with pytest.raises(IncompatiblePinError, match=r"mesh_flow_v2.*nodeagent unload"):
        Capture.open(lab.settings)
    assert programs_on(lab.root) == before


@pytest.mark.parametrize("attached", [0, 1, len(abi.PROGRAMS) - 1])
def test_a_first_load_that_fails_leaves_nothing(
    lab: Lab, pins: PinDirectory, monkeypatch: pytest.MonkeyPatch, attached: int
) -> None:
    original, calls = Libbpf.attach, iter(range(100))

    def attach(self: Libbpf, *args: int) -> int:
        if next(calls) == attached:
            raise BpfError("injected", 1)
        return original(self, *args)

    monkeypatch.setattr(Libbpf, "attach", attach)
    with pytest.raises(BpfError, match="injected"):
        install(pins, lab.root)
    assert list(pins.maps.iterdir()) == list(pins.links.iterdir()) == []
    assert programs_on(lab.root) == []
    monkeypatch.undo()
    install(pins, lab.root)


@pytest.mark.parametrize("updated", [0, 1, len(abi.PROGRAMS) - 1])
def test_an_upgrade_that_fails_puts_the_old_programs_back(
    lab: Lab, pins: PinDirectory, monkeypatch: pytest.MonkeyPatch, updated: int
) -> None:
    install(pins, lab.root)
    before = programs_on(lab.root)
    original, calls = Libbpf.replace, iter(range(100))

    def replace(self: Libbpf, *args: int) -> None:
        if next(calls) == updated:
            raise BpfError("injected", 1)
        original(self, *args)

    monkeypatch.setattr(Libbpf, "replace", replace)
    with pytest.raises(BpfError, match="injected"):
        install(pins, lab.root)
    assert programs_on(lab.root) == before


def test_a_program_that_somebody_detached_is_attached_again(node: Node) -> None:
    node.mesh((V4.virtual, 80))
    link = libbpf().get(node.capture.pin_dir / "links" / "mesh_connect4")
    libbpf().detach(link)
    os.close(link)
    assert len(programs_on(node.lab.root)) == len(abi.PROGRAMS) - 1
    assert any("detached" in problem for problem in node.capture.sync(node.local).problems)
    assert len(programs_on(node.lab.root)) == len(abi.PROGRAMS)
    node.lab.client(node.app, lambda: connect(V4, V4.virtual, 80))
    assert node.take(V4) is not None
    assert node.capture.sync(node.local).problems == ()


def test_a_full_destination_map_is_reported_and_fails_closed(lab: Lab, pins: PinDirectory) -> None:
    install(pins, lab.root, {abi.DESTINATION_MAP: 2})
    writer = MapWriter(pins.path)
    try:
        wanted = {SocketAddress("240.240.0.1", port): Entry(1, 1) for port in range(1, 6)}
        assert any("3 mesh destinations do not fit" in problem for problem in writer.apply({}, wanted))
        assert writer.incomplete and len(writer.destinations) == 2
        assert any("do not fit" in problem for problem in writer.apply({}, None)), "it stays a problem"
        assert writer.apply({}, dict(list(wanted.items())[3:])) == []
        assert not writer.incomplete and set(writer.destinations) == set(list(wanted)[3:])
    finally:
        writer.close()


def test_a_directory_without_bpffs_gets_one(lab: Lab, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    directory = PinDirectory(bare, "test")
    try:
        assert directory.mounted
        assert libbpf().is_bpffs(bare)
    finally:
        directory.close()
        subprocess.run(["umount", str(bare)], check=True)


def test_where_bpffs_cannot_be_mounted_the_error_says_how(lab: Lab, tmp_path: Path) -> None:
    def without_privilege() -> str:
        try:
            PinDirectory(tmp_path / "bare", "test")
        except LoaderError as error:
            return str(error)
        return ""

    tmp_path.chmod(0o777)
    for parent in list(tmp_path.parents)[:3]:
        if parent != Path("/tmp"):
            parent.chmod(0o755)
    told = lab.client(lab.root, without_privilege, 65534)
    assert "CAP_SYS_ADMIN" in told and "mount -t bpf" in told


def test_an_instance_name_cannot_leave_its_directory(lab: Lab) -> None:
    for name in ("", "..", "a/b", "a.b", "x" * 64):
        with pytest.raises(LoaderError, match="instance"):
            PinDirectory(lab.bpffs, name)


def test_a_missing_feature_names_the_kernel_option() -> None:
    absent = Features((Feature("cgroup links", Support.NO, "CONFIG_CGROUP_BPF"),))
    with pytest.raises(FeatureMissingError, match="CONFIG_CGROUP_BPF"):
        absent.require()
    unknown = Features((Feature("bpf(2)", Support.UNKNOWN, "CONFIG_BPF_SYSCALL", "Operation not permitted"),))
    with pytest.raises(FeatureMissingError, match=r"cannot find out.*CAP_BPF"):
        unknown.require()


def test_without_privilege_the_probe_fails_but_does_not_call_it_absent(lab: Lab) -> None:
    answers = lab.client(
        lab.root, lambda: {f.support.value for f in probe(lab.root).features if f.name == "bpf(2)"}, 65534
    )
    assert answers == {Support.UNKNOWN.value}


def test_a_cgroup_made_anew_is_enrolled_anew_and_one_that_is_gone_is_forgotten(node: Node) -> None:
    node.mesh((V4.virtual, 80))
    before = node.capture.sync(node.local).cgroups
    node.app.rmdir()
    assert node.capture.sync(node.local).cgroups == {}
    assert node.capture.status().enrolled == 0
    node.app.mkdir()
    after = node.capture.sync(node.local).cgroups
    assert list(after.values()) == ["shop/app"] and set(after).isdisjoint(before)
    node.lab.client(node.app, lambda: connect(V4, V4.virtual, 80))
    flow = node.take(V4)
    assert flow is not None and flow.cgroup_id in after


def test_who_is_captured_stays_captured_when_the_tree_cannot_be_read(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Falling out of the mesh by an error would be plaintext."""
    node.mesh((V4.virtual, 80))
    before = node.capture.sync(node.local).cgroups

    def unreadable(*_: object) -> list[Path]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(CgroupTree, "resolve", unreadable)
    after = node.capture.sync(node.local)
    assert after.cgroups == before != {}
    assert any("Too many open files" in problem for problem in after.problems)


def test_the_agents_cgroup_root_made_anew_is_attached_again(lab: Lab) -> None:
    inner = lab.cgroup("inner")
    capture = Capture.open(CaptureSettings(bpffs=lab.bpffs, instance="test", cgroup_root=inner))
    lab.stack.callback(capture.close)
    inner.rmdir()
    inner.mkdir()
    assert any("detached" in problem for problem in capture.sync([]).problems)
    assert len(programs_on(inner)) == len(abi.PROGRAMS)


def test_another_cgroup_root_moves_the_programs(lab: Lab) -> None:
    """The instance is configured to look after another part of the tree now."""
    old, new = lab.cgroup("old"), lab.cgroup("new")
    for root in (old, new):
        Capture.open(CaptureSettings(bpffs=lab.bpffs, instance="test", cgroup_root=root)).close()
    assert programs_on(old) == []
    assert len(programs_on(new)) == len(abi.PROGRAMS)
