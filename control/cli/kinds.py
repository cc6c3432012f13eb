"""The kinds that operators name, with their short forms, paths and columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

Object = dict[str, Any]
Column = tuple[str, Callable[[Object], str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of resource."""

    name: str
    plural: str
    aliases: tuple[str, ...]
    namespaced: bool
    columns: tuple[Column, ...]
    wide: tuple[Column, ...] = ()

    def path(self, namespace: str, name: str) -> str:
        """Of one object in the API."""
        name = quote(name, safe="")
        if not self.namespaced:
            return f"/v1/{self.plural}/{name}"
        return f"/v1/namespaces/{quote(namespace, safe='')}/{self.plural}/{name}"


def _list(values: Any) -> str:
    return ",".join(str(value) for value in values or ()) or "-"


def _pairs(values: Any) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((values or {}).items())) or "-"


def _selector(obj: Object) -> str:
    selector = obj["spec"].get("selector")
    return "(all)" if not selector or not selector.get("matchLabels") else _pairs(selector["matchLabels"])


def _process(obj: Object) -> str:
    selectors = obj["spec"]["selectors"]
    return str(selectors.get("systemdUnit") or selectors.get("cgroupPath"))


def _service_ports(obj: Object) -> str:
    return _list(
        f"{p['port']}"
        + (f"->{p['targetPort']}" if p.get("targetPort") not in (None, p["port"]) else "")
        + f"/{p.get('appProtocol', 'tcp')}"
        for p in obj["spec"]["ports"]
    )


def _service_addresses(obj: Object) -> str:
    return _list(obj["spec"].get("addresses") or (obj.get("status") or {}).get("addresses"))


def _entry_ports(obj: Object) -> str:
    return _list(f"{port['number']}/{port.get('protocol', 'TCP').lower()}" for port in obj["spec"]["ports"])


def _entry_addresses(obj: Object) -> str:
    given = ((obj.get("status") or {}).get("addresses") or {}).values()
    return _list(address for addresses in given for address in addresses)


KINDS = (
    Kind(
        name="MeshConfig",
        plural="meshconfigs",
        aliases=("mc", "mesh"),
        namespaced=False,
        columns=(
            ("SPLICE", lambda o: "on" if o["spec"].get("splice", True) else "off"),
            ("IDLE-TIMEOUT", lambda o: str(o["spec"].get("idleTimeout", "off"))),
        ),
    ),
    Kind(
        name="Node",
        plural="nodes",
        aliases=("no",),
        namespaced=False,
        columns=(("ADDRESSES", lambda o: _list(o["spec"]["addresses"])),),
    ),
    Kind(
        name="Workload",
        plural="workloads",
        aliases=("wl",),
        namespaced=True,
        columns=(
            ("NODE", lambda o: str(o["spec"]["node"])),
            ("SERVICE-ACCOUNT", lambda o: str(o["spec"].get("serviceAccount", "default"))),
            ("PORTS", lambda o: _list(o["spec"].get("ports"))),
            ("PROCESSES", _process),
        ),
        wide=(
            ("ADDRESSES", lambda o: _list(o["spec"].get("addresses"))),
            ("APP-ADDRESS", lambda o: str(o["spec"].get("appAddress") or "-")),
            ("LABELS", lambda o: _pairs(o["metadata"].get("labels"))),
        ),
    ),
    Kind(
        name="Service",
        plural="services",
        aliases=("svc",),
        namespaced=True,
        columns=(("ADDRESSES", _service_addresses), ("PORTS", _service_ports)),
        wide=(("SELECTOR", lambda o: _pairs(o["spec"]["selector"])),),
    ),
    Kind(
        name="ServiceEntry",
        plural="serviceentries",
        aliases=("se", "entry", "entries"),
        namespaced=True,
        columns=(
            ("HOSTS", lambda o: _list(o["spec"]["hosts"])),
            ("PORTS", _entry_ports),
            ("RESOLUTION", lambda o: str(o["spec"]["resolution"])),
        ),
        wide=(
            ("ADDRESSES", _entry_addresses),
            ("ENDPOINTS", lambda o: _list(e["address"] for e in o["spec"].get("endpoints") or ())),
        ),
    ),
    Kind(
        name="AuthorizationPolicy",
        plural="authorizationpolicies",
        aliases=("ap", "policy", "policies"),
        namespaced=True,
        columns=(
            ("ACTION", lambda o: str(o["spec"].get("action", "ALLOW"))),
            ("RULES", lambda o: str(len(o["spec"].get("rules") or ()))),
            ("SELECTOR", _selector),
        ),
    ),
    Kind(
        name="PeerAuthentication",
        plural="peerauthentications",
        aliases=("pa",),
        namespaced=True,
        columns=(("MODE", lambda o: str((o["spec"].get("mtls") or {}).get("mode", "UNSET"))), ("SELECTOR", _selector)),
    ),
    Kind(
        name="EgressPolicy",
        plural="egresspolicies",
        aliases=("ep", "egress"),
        namespaced=True,
        columns=(("MODE", lambda o: str(o["spec"]["mode"])), ("SELECTOR", _selector)),
    ),
)


def find(text: str) -> Kind | None:
    """By name, plural or alias, in any case."""
    word = text.lower()
    return next((k for k in KINDS if word in (k.name.lower(), k.plural, *k.aliases)), None)


def known() -> str:
    """For messages."""
    return ", ".join(f"{kind.plural} ({', '.join(kind.aliases)})" for kind in KINDS)
