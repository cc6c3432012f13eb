"""`python -m tests.demo run|up|down` (as root; the Makefile calls it)."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

from tests.demo import boundaries, checks, guide
from tests.demo.cast import Cast
from tests.demo.stage import BUILD, Stage
from tests.netns.lab import Mesh, Node
from tests.netns.place import Place, PlaceError

UP = "up"
"""Name of the lab that `make up` leaves."""
SVID_SECONDS = 30
"""Life of a certificate in `make demo`, so that rotation can be watched."""

CHECKS = [
    ("HTTP across nodes", checks.http_across),
    ("HTTP on one node", checks.http_same_node),
    ("an app that calls two others", checks.app_calls_both),
    ("redis SET and GET", checks.redis_simple),
    ("redis, a value of 50 MB", checks.redis_bulk),
    ("redis, pipelining", checks.redis_pipeline),
    ("PostgreSQL, pgbench", boundaries.database),
    ("containers on both nodes", boundaries.containers),
    ("only TLS 1.3 on the wire", checks.wire),
    ("certificates of workloads", checks.peers),
    ("a DENY policy, live", checks.deny),
    ("a program outside the mesh", checks.outsider),
    ("STRICT: plaintext is refused", boundaries.strict),
    ("egress is blocked", boundaries.egress),
    ("a host outside the mesh", boundaries.abroad),
    ("rotation under traffic", checks.rotation),
    ("agent killed: fail closed", checks.agent_killed),
    ("control killed", checks.without_control),
]


def run() -> int:
    """The whole demo; 0 if every check is good."""
    stage = Stage()
    mesh = Mesh(control_options=("--svid-lifetime", f"{SVID_SECONDS}s"))
    try:
        cast: list[Cast] = []
        if stage.check("the mesh comes up", lambda: _come_up(stage, mesh, cast)):
            for name, check in CHECKS:
                stage.say((check.__doc__ or "").partition("\n")[0])
                stage.check(name, lambda c=check: c(cast[0]))  # type: ignore[misc]
            cast[0].end()
            _remove_politely(stage, mesh)
        if not all(result.ok for result in stage.results):
            print(mesh.report(), file=sys.stderr)
    finally:
        _undisturbed()
        mesh.stop()
    left = mesh.place.leftovers()
    stage.say("Everything is removed: processes, cgroups, network namespaces, pins, files.")
    stage.check("nothing is left", lambda: _nothing(left))
    return 0 if stage.finish() else 1


def _raise_curtain(stage: Stage, mesh: Mesh) -> Cast:
    stage.say("Two nodes: network namespaces joined by a veth pair, each with a cgroup tree of its own.")
    stage.say("Starting control (CA, discovery, policy; SQLite) on node-a, and an agent on each node.")
    mesh.start()
    stage.say(f"control answers on {mesh.control_url}; both agents joined with a one-time token and are ready.")
    cast = Cast(mesh, secret=f"sesame-{secrets.token_hex(8)}")
    stage.say(
        "meshctl apply: workloads (client, app and a container on node-a; web, redis, database and a container on"
    )
    stage.say("node-b) and services.")
    cast.declare()
    stage.say(
        "Starting nginx, redis-server, PostgreSQL and a small HTTP app, unmodified, each in its workload's cgroup."
    )
    cast.start()
    stage.say(
        "Starting a container on each node (runc, podman): busybox's web server, in a network namespace of its own."
    )
    cast.start_containers()
    mesh.wait_enrolled(*cast.spots_of_workloads)
    stage.say("Every workload has a certificate of its own, and its connections are taken by its node's agent.")
    return cast


def _remove_politely(stage: Stage, mesh: Mesh) -> None:
    """Stop the agents by SIGTERM and let `nodeagent unload` take the BPF programs away: the product's own way out."""

    def leave(node: Node) -> None:
        checks.expect(node.agent is not None, f"the agent of {node.name} does not run")
        status = node.stop_agent()
        checks.expect(status == 0, f"the agent of {node.name} ended with {status}")
        node.nodeagent("unload")

    def unload() -> str:
        with ThreadPoolExecutor(len(mesh.nodes)) as side_by_side:
            list(side_by_side.map(leave, mesh.nodes))
        pins = [path for path in (mesh.place.bpffs / "nodemesh").glob("*") if path.exists()]
        checks.expect(not pins, f"still pinned: {pins}")
        return "agents stopped in order, no program, map or link is pinned any more"

    stage.say("The agents are stopped; 'nodeagent unload' takes their BPF programs out of the kernel.")
    stage.check("nodeagent unload", unload)


def _come_up(stage: Stage, mesh: Mesh, cast: list[Cast]) -> str:
    cast.append(_raise_curtain(stage, mesh))
    return "control, two agents, seven workloads, two of them containers"


def _nothing(left: list[str]) -> str:
    if left:
        raise checks.CheckError("; ".join(left))
    return "no network namespace, cgroup, mount, pin, process or file of the demo"


def up() -> int:
    """Leave the demo's mesh running, and say what to try."""
    place = Place(UP)
    if place.leftovers():
        if place.cgroup.exists() and guide.alive(place):
            print("The mesh is up already.\n")
            print((BUILD / "mesh.txt").read_text() if (BUILD / "mesh.txt").exists() else "")
            return 0
        place.remove()
    stage = Stage()
    mesh = Mesh(name=UP, keep=True)
    try:
        cast = _raise_curtain(stage, mesh)
        text = guide.write(mesh, cast)
        _undisturbed()  # from here on it is up
    except BaseException:
        _undisturbed()
        mesh.stop()
        guide.remove()
        raise
    mesh.detach()
    print(f"\n{text}")
    return 0


def down() -> int:
    """Remove what `up` left."""
    place = Place(UP)
    if not place.leftovers():
        print("No mesh is up.")
        return 0
    _undisturbed()
    place.remove()
    guide.remove()
    if left := place.leftovers():
        print("still there:", *left, sep="\n  ", file=sys.stderr)
        return 1
    print("The mesh is down; nothing of it is left.")
    return 0


def _undisturbed() -> None:
    """Finish what is begun: a second Ctrl-C must not leave half a mesh."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _terminate(_: int, __: FrameType | None) -> None:
    raise SystemExit(143)


def main() -> int:
    """Dispatch."""
    os.umask(0o022)
    actions = {"run": run, "up": up, "down": down}
    if len(sys.argv) != 2 or sys.argv[1] not in actions:
        print("usage: python -m tests.demo run|up|down", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("the demo needs root (BPF programs, network namespaces, cgroups): make demo", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started us may have had it ignored
    try:
        return actions[sys.argv[1]]()
    except KeyboardInterrupt:
        print("\ninterrupted; the mesh was removed", file=sys.stderr)
        return 130
    except (PlaceError, subprocess.SubprocessError) as error:
        print(f"the demo could not run: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
