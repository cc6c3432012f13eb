"""``meshctl apply | get | delete``."""

from __future__ import annotations

import datetime
import sys
import time
from typing import Any

import click

from control.cli import documents, tables
from control.cli.client import Client, ControlError
from control.kinds.base.cells import EMPTY
from control.kinds.base.kind import Column, Kind
from control.kinds.base.model import DEFAULT_NAMESPACE
from control.kinds.base.relations import Object
from control.kinds.known import KINDS

OUTPUTS = ("table", "wide", "name", "json", "yaml")


class _KindArgument(click.ParamType[Kind[Any]]):
    name = "kind"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Kind[Any]:
        if isinstance(value, Kind):
            return value
        found = KINDS.find(str(value))
        if found is None:
            self.fail(f"{value!r} is not a kind; known: {KINDS.help()}", param, ctx)
        return found


KIND = _KindArgument()
NOT_FOUND = 404
MAX_NAMED = 10
namespace_option = click.option(
    "-n", "--namespace", default=None, help="Default: 'default', or the only one that has the name."
)


@click.command()
@click.option("-f", "--file", "files", multiple=True, required=True, metavar="FILE|DIR|-", help="May be repeated.")
@click.option("--dry-run", is_flag=True, help="Print what would be done; change nothing.")
@click.pass_obj
def apply(client: Client, files: tuple[str, ...], dry_run: bool) -> None:
    """Create or update the objects of the files: all of them, or none."""
    found = documents.read(files, sys.stdin)
    if not found:
        raise documents.DocumentError("the files hold no object")
    try:
        answer = client.post("/v1/apply", {"objects": [d.value for d in found], "dryRun": dry_run})
    except ControlError as error:
        raise _with_places(error, found) from error
    for result in answer["results"]:
        click.echo(f"{_ref(result)} {result['action']}{' (dry run)' if dry_run else ''}")


def _with_places(error: ControlError, found: list[documents.Document]) -> ControlError:
    """Replace numbers in the request by file and document."""
    if not error.faults:
        return error
    lines = []
    for fault in error.faults:
        place = found[fault.index].place if fault.index < len(found) else "request"
        lines.append(": ".join(part for part in (place, fault.subject, fault.field, fault.message) if part))
    return ControlError("\n".join(lines), error.status, error.faults)


def _ref(result: Object) -> str:
    namespace = f"{result['namespace']}/" if result.get("namespace") else ""
    return f"{result['kind']} {namespace}{result['name']}"


@click.command()
@click.argument("kind", type=KIND)
@click.argument("name", required=False)
@namespace_option
@click.option("-A", "--all-namespaces", is_flag=True)
@click.option("-o", "--output", type=click.Choice(OUTPUTS), default="table")
@click.pass_obj
def get(
    client: Client, kind: Kind[Any], name: str | None, namespace: str | None, all_namespaces: bool, output: str
) -> None:
    """List resources, or show one. Without -n: of every namespace."""
    if name is not None:
        found = [find(client, kind, name, namespace)]
    else:
        where = None if all_namespaces or not kind.namespaced else namespace
        found = client.get(f"/v1/{kind.plural}", namespace=where)["items"]
    if output == "json":
        tables.write_json(found[0] if name is not None else {"kind": "List", "items": found})
    elif output == "yaml":
        tables.write_yaml(found)
    elif output == "name":
        for item in found:
            click.echo(_ref({"kind": kind.name, **item["metadata"]}))
    elif found:
        _table(kind, found, wide=output == "wide")
    else:
        click.echo(f"no {kind.plural}" + (f" in namespace {namespace}" if namespace else ""), err=True)


def find(client: Client, kind: Kind[Any], name: str, namespace: str | None) -> Object:
    """Return one resource by ``name`` or ``namespace/name``.

    Without a namespace: the one of ``default``, else the only one of that name; ControlError if there are several.
    """
    namespace, name = split(kind, name, namespace)
    try:
        found: Object = client.get(kind.path(namespace or DEFAULT_NAMESPACE, name))
        return found
    except ControlError as error:
        if error.status != NOT_FOUND or namespace is not None or not kind.namespaced:
            raise
        items: list[Object] = client.get(f"/v1/{kind.plural}")["items"]
        others = [item for item in items if item["metadata"]["name"] == name]
        if not others:
            raise
    if len(others) > 1:
        where = ", ".join(item["metadata"]["namespace"] for item in others[:MAX_NAMED])
        raise ControlError(f"{kind.name} {name} is in several namespaces ({where}); choose one with -n")
    return others[0]


def split(kind: Kind[Any], name: str, namespace: str | None) -> tuple[str | None, str]:
    """Split ``shop/web``, as this tool prints names, into (namespace, name)."""
    if kind.namespaced and namespace is None and "/" in name:
        namespace, _, name = name.partition("/")
    return namespace, name


def _table(kind: Kind[Any], items: list[Object], *, wide: bool) -> None:
    place: list[Column] = [("NAMESPACE", lambda o: o["metadata"]["namespace"])] if kind.namespaced else []
    columns: list[Column] = [
        *place,
        ("NAME", lambda o: o["metadata"]["name"]),
        *kind.columns,
        *(kind.wide if wide else ()),
        ("AGE", _age),
    ]
    tables.table([header for header, _ in columns], [[cell(item) for _, cell in columns] for item in items])


def _age(item: Object) -> str:
    try:
        created = datetime.datetime.fromisoformat(item["metadata"]["creationTimestamp"])
    except (KeyError, ValueError):
        return EMPTY
    return tables.age(time.time() - created.timestamp())


@click.command()
@click.argument("kind", type=KIND, required=False)
@click.argument("name", required=False)
@namespace_option
@click.option(
    "-f", "--file", "files", multiple=True, metavar="FILE|DIR|-", help="Delete the objects that the files name."
)
@click.option("--ignore-missing", is_flag=True, help="Do not fail for an object that does not exist.")
@click.pass_obj
def delete(
    client: Client,
    kind: Kind[Any] | None,
    name: str | None,
    namespace: str | None,
    files: tuple[str, ...],
    ignore_missing: bool,
) -> None:
    """Delete one resource, or all that the files name: all of them, or none."""
    found: list[documents.Document] = []
    if files:
        if kind is not None:
            raise click.UsageError("give KIND NAME or -f, not both")
        found = documents.read(files, sys.stdin)
        objects = [_reference(document) for document in found]
    elif kind is None or name is None:
        raise click.UsageError("give KIND and NAME, or -f FILE")
    else:
        namespace, name = split(kind, name, namespace)
        where = {"namespace": namespace} if namespace and kind.namespaced else {}
        objects = [{"kind": kind.name, "name": name, **where}]
    try:
        answer = client.post("/v1/delete", {"objects": objects, "ignoreMissing": ignore_missing})
    except ControlError as error:
        raise (_with_places(error, found) if found else error) from error
    for result in answer["results"]:
        click.echo(f"{_ref(result)} deleted")


def _reference(document: documents.Document) -> Object:
    value = document.value
    metadata = value.get("metadata") if isinstance(value, dict) else None
    named = isinstance(metadata, dict) and isinstance(metadata.get("name"), str) and isinstance(value.get("kind"), str)
    if not named or metadata is None:
        raise documents.DocumentError(f"{document.place}: kind and metadata.name are needed")
    reference = {"kind": value["kind"], "name": metadata["name"]}
    if metadata.get("namespace") is not None:
        reference["namespace"] = metadata["namespace"]
    return reference
