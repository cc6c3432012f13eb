"""``meshctl token`` and ``meshctl status``."""

from __future__ import annotations

import datetime
import time

import click

from control.cli import tables
from control.cli.client import Client

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: str) -> float:
    """Parse ``90``, ``90s``, ``15m``, ``24h`` or ``7d`` to seconds; click's usage error otherwise."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    if not number.isascii() or not number.replace(".", "", 1).isdigit():
        raise click.BadParameter(
            f"{text!r} is not a duration; write for example 90s, 15m, 24h or 7d", param_hint="--ttl"
        )
    return float(number) * _UNITS[unit]


@click.group()
def token() -> None:
    """Join tokens: each admits one node, once."""


@token.command("create")
@click.option("--node", required=True, help="The node (its resource must exist).")
@click.option("--ttl", default="1h", show_default=True, help="How long it is valid, such as 15m, 24h.")
@click.option("-o", "--output", type=click.Choice(("text", "json", "yaml")), default="text")
@click.pass_obj
def create(client: Client, node: str, ttl: str, output: str) -> None:
    """Make a token and print it; it is not shown again."""
    made = client.post("/v1/tokens", {"node": node, "ttl": seconds(ttl)})
    if output == "text":
        click.echo(made["token"])
    else:
        tables.write(made, output)


@token.command("list")
@click.option("-o", "--output", type=click.Choice(("table", "json", "yaml")), default="table")
@click.pass_obj
def list_(client: Client, output: str) -> None:
    """List tokens, without their secrets."""
    items = client.get("/v1/tokens")["items"]
    if output != "table":
        tables.write(items, output)
        return
    now = time.time()
    rows = [
        [
            i["id"],
            i["node"],
            "used" if i["used"] else "expired" if i["expires"] <= now else "unused",
            tables.age(now - i["created"]),
            _clock(i["expires"]),
        ]
        for i in items
    ]
    tables.table(["ID", "NODE", "STATE", "AGE", "EXPIRES"], rows)


@token.command("revoke")
@click.argument("identifier")
@click.pass_obj
def revoke(client: Client, identifier: str) -> None:
    """Revoke a token: no node can join with it any more."""
    client.delete(f"/v1/tokens/{identifier}")
    click.echo(f"token {identifier} revoked")


@click.command()
@click.option("-o", "--output", type=click.Choice(("table", "json", "yaml")), default="table")
@click.pass_obj
def status(client: Client, output: str) -> None:
    """Show control and the revision of each node's agent."""
    control, nodes = client.get("/v1/status"), client.get("/v1/nodes/status")
    if output != "table":
        tables.write({"control": control, "nodes": nodes}, output)
        return
    counts = ", ".join(f"{number} {kind}" for kind, number in control["resources"].items())
    click.echo(f"control       {control['version']}, revision {control['revision']}")
    roots = "1 root" if control["roots"] == 1 else f"{control['roots']} roots"
    click.echo(
        f"trust domain  {control['trustDomain']} ({roots}, "
        f"signing until {_clock(control['signingCertificateExpires'])})"
    )
    click.echo(f"cluster       {control['cluster']}")
    click.echo(f"resources     {counts}")
    click.echo()
    rows = [_node_row(node, nodes["revision"]) for node in nodes["items"]]
    tables.table(["NODE", "AGENT", "LAST SENT", "REVISION", "BEHIND"], rows)


def _node_row(node: dict[str, object], newest: int) -> list[str]:
    seen, revision = node["last_seen"], node["revision"]
    return [
        str(node["node"]),
        "connected" if node["watching"] else "never seen" if seen is None else "disconnected",
        f"{tables.age(time.time() - seen)} ago" if isinstance(seen, float) else "-",
        str(revision) if revision is not None else "-",
        str(newest - revision) if isinstance(revision, int) else "-",
    ]


def _clock(at: float) -> str:
    return datetime.datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
