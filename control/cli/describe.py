"""``meshctl describe``: a resource together with the resources that it relates to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from control.cli import tables
from control.cli.client import Client
from control.cli.resources import KIND, find, namespace_option
from control.kinds.base.kind import Kind
from control.kinds.base.relations import Object, Reach
from control.kinds.known import KINDS

Lines = tuple[str, list[str]]
"""(title, lines) of one section."""


@click.command()
@click.argument("kind", type=KIND)
@click.argument("name")
@namespace_option
@click.pass_obj
def describe(client: Client, kind: Kind[Any], name: str, namespace: str | None) -> None:
    """Show one resource and the resources that it relates to."""
    item = find(client, kind, name, namespace)
    tables.write_yaml([item])
    for title, lines in Description(client, kind, item).sections():
        click.echo(f"\n{title}:")
        for line in lines or ["(none)"]:
            click.echo(f"  {line}")


class Description:
    """The sections about one resource; also the ``Lookup`` of those that its kind declares."""

    def __init__(self, client: Client, kind: Kind[Any], item: Object) -> None:
        self._client = client
        self._kind = kind
        self._item = item
        self._namespace = _namespace(item)

    def sections(self) -> Iterator[Lines]:
        """The kind's own sections, then the resources that refer to this one, that select it, and that it selects."""
        for section in self._kind.sections:
            yield section.title, section.lines(self._item, self)
        for other in KINDS:
            yield from self._referring(other)
        for other in KINDS:
            yield from self._selecting(other)
        yield from self._selected()

    def trust_domain(self) -> str:
        """The trust domain of the mesh."""
        return str(self._client.get("/v1/status")["trustDomain"])

    def agent(self, node: str) -> str:
        """The state of the node's agent, in words."""
        states = self._client.get("/v1/nodes/status")
        state = next((s for s in states["items"] if s["node"] == node), None)
        if state is None or (state["last_seen"] is None and not state["watching"]):
            return f"{node}: never seen since control started"
        connection = "connected" if state["watching"] else "disconnected"
        return f"{node}: {connection}, {states['revision'] - (state['revision'] or 0)} revisions behind"

    def _referring(self, kind: Kind[Any]) -> Iterator[Lines]:
        me = (self._namespace, self._item["metadata"]["name"])
        for reference in kind.references:
            if reference.kind == self._kind.name:
                yield (
                    reference.section,
                    [
                        _entry(kind, other)
                        for other in self._items(kind)
                        if me in [(space, name) for _, space, name in reference.targets(other, _namespace(other))]
                    ],
                )

    def _selecting(self, kind: Kind[Any]) -> Iterator[Lines]:
        selector = kind.selector
        if selector is None or selector.kind != self._kind.name:
            return
        labels = self._item["metadata"].get("labels") or {}
        near = self._namespace if selector.reach is Reach.NAMESPACE else None
        yield (
            selector.section,
            [
                _entry(kind, other)
                for other in self._items(kind, near)
                if selector.selects(_namespace(other), selector.wanted(other), self._namespace, labels)
            ],
        )

    def _selected(self) -> Iterator[Lines]:
        selector = self._kind.selector
        if selector is None:
            return
        kind, wanted = KINDS[selector.kind], selector.wanted(self._item)
        everywhere = selector.spans(self._namespace, wanted)
        yield (
            f"{kind.plural} that it selects",
            [
                _entry(kind, other)
                for other in self._items(kind, None if everywhere else self._namespace)
                if selector.selects(self._namespace, wanted, _namespace(other), other["metadata"].get("labels") or {})
            ],
        )

    def _items(self, kind: Kind[Any], namespace: str | None = None) -> list[Object]:
        items: list[Object] = self._client.get(f"/v1/{kind.plural}", namespace=namespace)["items"]
        return items


def _namespace(item: Object) -> str:
    return str(item["metadata"].get("namespace") or "")


def _entry(kind: Kind[Any], item: Object) -> str:
    """One related resource: its name and what it does."""
    ref = "/".join(part for part in (_namespace(item), item["metadata"]["name"]) if part)
    return ref + (f" {kind.remark(item)}" if kind.remark is not None else "")
