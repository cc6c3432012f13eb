"""What `make up` leaves for people: `build/mesh-shell` (a command inside a workload) and a page of things to try."""

from __future__ import annotations

import shlex
from pathlib import Path

from tests.demo.cast import WEB_PORT, Cast
from tests.demo.stage import BUILD
from tests.netns.lab import Mesh, Node
from tests.netns.place import Place, processes
from tests.netns.spot import Spot

SHELL = BUILD / "mesh-shell"
PAGE = BUILD / "mesh.txt"
POLICY = BUILD / "deny.yaml"

DENY = """\
apiVersion: nodemesh/v1
kind: AuthorizationPolicy
metadata: {name: no-redis-for-client, namespace: shop}
spec:
  selector: {matchLabels: {app: redis}}
  action: DENY
  rules: [{from: [{source: {principals: [mesh.internal/ns/shop/sa/client]}}]}]
"""


def alive(place: Place) -> bool:
    """Whether both agents and control still run."""
    spots = [place.cgroup / "node-a" / "control", *(site.cgroup / "system" for site in place.sites)]
    return all(processes(spot) for spot in spots)


def write(mesh: Mesh, cast: Cast) -> str:
    """Write the script and the page; the page."""
    BUILD.mkdir(exist_ok=True)
    SHELL.write_text(_script(mesh, cast))
    SHELL.chmod(0o755)
    POLICY.write_text(DENY)
    text = _page(mesh)
    PAGE.write_text(text)
    return text


def remove() -> None:
    """Take the script and the page away."""
    for path in (SHELL, PAGE, POLICY):
        path.unlink(missing_ok=True)


def _script(mesh: Mesh, cast: Cast) -> str:
    cases = [_case(name, node, spot, {}) for name, (node, spot) in cast.workloads.items()]
    for node in mesh.nodes:
        cases.append(_case(node.name, node, node.outside, node.settings))
    names = [*cast.workloads, *(node.name for node in mesh.nodes)]
    environment = "\n".join(f"export {key}={shlex.quote(value)}" for key, value in mesh.env.items() if key != "HOME")
    return "\n".join(
        [
            "#!/bin/sh",
            "# Runs a command inside a workload of the mesh that `make up` started: its cgroup, its node's namespace.",
            "# A node's name instead of a workload's: on that node, outside the mesh, as its operator.",
            f'usage="usage: $0 {"|".join(names)} COMMAND..."',
            '[ $# -ge 2 ] || { echo "$usage" >&2; exit 2; }',
            '[ "$(id -u)" = 0 ] || { echo "$0 needs root" >&2; exit 1; }',
            environment,
            'case "$1" in',
            *cases,
            '*) echo "there is no $1 here; $usage" >&2; exit 2 ;;',
            "esac",
            "shift",
            'mkdir -p "$cgroup" && echo $$ > "$cgroup/cgroup.procs" || exit 1',
            f"resolvers={shlex.quote(str(cast.resolver_file))}",
            'names=\'mount --bind "$0" /etc/resolv.conf && exec "$@"\'',
            'exec nsenter --net="$netns" -- unshare --mount sh -c "$names" "$resolvers" "$@"',
            "",
        ]
    )


def _case(name: str, node: Node, spot: Spot, settings: dict[str, str]) -> str:
    exports = "".join(f" export {key}={shlex.quote(value)};" for key, value in settings.items())
    return f"{name}) netns={node.site.netns_path}; cgroup={spot.cgroup};{exports} ;;"


def _page(mesh: Mesh) -> str:
    shell, policy = _relative(SHELL), _relative(POLICY)
    tries = [
        ("client curl http://web.shop.mesh.internal/", "from the client, through the mesh, to nginx on the other node"),
        ("client curl http://app/visit", "the app, which asks nginx and redis"),
        ("client redis-cli -h redis PING", "a database that knows nothing of the mesh"),
        ("client curl http://stall/", "a container of podman"),
        ("client bash", 'a shell that is the workload "client"'),
        (f"node-a curl http://{mesh.b.v4}:{WEB_PORT}/", "outside the mesh: not touched"),
        ("node-a meshctl status", "what control knows"),
        ("node-a meshctl get workloads", ""),
        (f"node-a meshctl apply -f {policy}", "refuse redis to the client; 'meshctl delete -f' takes it back"),
        ("node-a nodeagent status", "what node-a's agent does"),
        ("node-a nodeagent flows", ""),
        ("node-b curl http://127.0.0.1:15020/metrics", ""),
    ]
    width = max(len(command) for command, _ in tries)
    return "\n".join(
        [
            "The mesh is up: client, app and a container (kiosk) run on node-a; web (nginx), redis, database",
            "(PostgreSQL) and a container (stall) on node-b. As root, try:",
            "",
            *(f"  {shell} {command.ljust(width)}  {what}".rstrip() for command, what in tries),
            "",
            f"Logs and access logs: {mesh.place.logs}",
            f"This page again: {_relative(PAGE)}.  Remove everything: make down",
        ]
    )


def _relative(path: Path) -> str:
    return path.relative_to(BUILD.parent).as_posix()
