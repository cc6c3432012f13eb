"""The agent's settings: a YAML file, overridden by NODEMESH_* variables. Everything is read before anything fails.

``load`` takes the environment as a mapping; nothing else in the agent looks at it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from control.wire.address import MAX_PORT, AddressError, canonical_ip
from control.wire.ids import is_dns_label
from nodeagent.containers.node import Places
from nodeagent.limits.settings import Limits

DEFAULT_FILE = Path("/etc/nodemesh/nodeagent.yaml")
PREFIX = "NODEMESH_"
MAX_FILE_BYTES = 1024 * 1024
MAX_WORKERS = 256
MAX_LIMIT = 10_000_000
DNS_PORT = 53
DNS_PORTS = 4
"""UDP ports of the agent for DNS questions, from ``ports.dns`` on."""
MAX_DRAIN_SECONDS = 86_400.0
LOG_LEVELS = ("debug", "info", "warning", "error")


class ConfigError(ValueError):
    """Settings are wrong; ``problems`` holds every one of them."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("the configuration is not valid:\n  " + "\n  ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The ports of an agent: TCP, and ``dns`` with the three after it UDP. ``admin`` listens on loopback only."""

    outbound: int = 15001
    inbound: int = 15006
    tunnel: int = 15008
    admin: int = 15000
    metrics: int = 15020
    ready: int = 15021
    dns: int = 15053


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting of an agent, checked."""

    node: str
    """Name of this node; must be the name that the join token was made for."""
    control: str = ""
    """URL of control, ``https://host:15010``; empty: only what needs no control works."""
    token: str = field(default="", repr=False)
    """One-time join token; not needed once the node has its certificate."""
    token_file: Path | None = None
    """Where to read the token from when joining; it may appear later."""
    state_dir: Path = Path("/var/lib/nodemesh")
    run_dir: Path = Path("/run/nodemesh")
    """Where the socket of the running agent is, and switches for it (``nodeagent splice off``)."""
    cgroup_root: Path | None = None
    """Directory of the cgroup v2 tree below which workloads are; None: the mount point."""
    bpffs: Path = Path("/sys/fs/bpf")
    instance: str = "default"
    """Keeps the pins of several agents on one kernel apart."""
    addresses: tuple[str, ...] = ("::",)
    """Where to listen for tunnels; ``::`` is dual stack."""
    workers: int = 0
    """Worker processes; 0: one a processor."""
    ports: Ports = field(default_factory=Ports)
    containers: Places = field(default_factory=Places)
    """Where container runtimes keep their state: ``containers.oci`` (a list), ``.docker``, ``.podman`` and so on."""
    access_log: str = "stdout"
    """``stdout``, ``off`` or an absolute path."""
    log_level: str = "info"
    drain_seconds: float = 10.0
    """How long live connections may go on after SIGTERM."""
    cluster: str = ""
    """Name of the cluster, for metrics and logs."""
    capture: bool = True
    """Whether to capture connections of this node's workloads; false: only tunnels of other nodes are served."""
    sealed_without_agent: bool = False
    """Whether programs in no workload are refused what is in the mesh while no agent lives: new cgroups of workloads
    are in none then, and would get past it."""
    splice: bool = True
    """Whether flows between workloads of this node may be joined in the kernel, where it has shown that it can."""
    dns: bool = True
    """Whether DNS questions of this node's workloads come to the agent, so that they know the names of the mesh."""
    compiled: bool = True
    """Whether workers use compiled modules, where there are current ones (``nodeagent.compiled``)."""
    resolv_conf: Path = Path("/etc/resolv.conf")
    """Names the resolvers by which the agent finds hosts outside the mesh (ServiceEntry)."""
    limits: Limits = field(default_factory=Limits)
    """Who may use how much."""
    notes: tuple[str, ...] = ()
    """What is odd without being wrong, such as NODEMESH_ variables that mean nothing; to be logged."""

    @property
    def dns_port(self) -> int:
        """The first of the ports for DNS questions; 0 where they are left alone."""
        return self.ports.dns if self.dns else 0

    @property
    def agent_socket(self) -> Path:
        """Where the running agent answers the command line, OCI hooks and whoever waits."""
        return self.run_dir / self.instance / "agent.sock"

    @property
    def container_records(self) -> Path:
        """The directory in which ``nodeagent oci-hook`` tells the agent of containers."""
        return self.run_dir / f"{self.instance}.containers"

    @property
    def kill_switch(self) -> Path:
        """The file that keeps every byte of this node's flows out of the splice while it exists."""
        return self.run_dir / f"{self.instance}.splice-off"

    @property
    def clear_switch(self) -> Path:
        """The file that has the agent forget which workloads got a flow stuck; it removes the file then."""
        return self.run_dir / f"{self.instance}.splice-clear"


class _BadValueError(Exception):
    """A value cannot be used; the text says why and what is expected."""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _BadValueError(f"expected text, found {value!r}")
    return value


def _name(value: Any) -> str:
    text = _text(value)
    if not is_dns_label(text):
        raise _BadValueError(f"{text!r} is not a name (lower-case letters, digits and '-', at most 63 characters)")
    return text


def _url(value: Any) -> str:
    text = _text(value).rstrip("/")
    if not text:  # as if it were not set
        return text
    try:
        parts = urlsplit(text)
        valid = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0 and not parts.path
    except ValueError:
        valid = False
    if not valid or "@" in text:
        raise _BadValueError(f"{text!r} is not a URL of control; write https://host:15010")
    return text


def _path(value: Any) -> Path:
    path = Path(_text(value))
    if not path.is_absolute():
        raise _BadValueError(f"{str(path)!r} is not an absolute path")
    return path


def _patterns(value: Any) -> tuple[str, ...]:
    items = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise _BadValueError("expected a list of directories")
    return tuple(str(_path(item)) for item in items if item)


def _number(low: float, high: float, kind: type[int] | type[float]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise _BadValueError(f"expected a number, found {value!r}")
        try:
            number = kind(value) if isinstance(value, str) or kind is float else value
        except ValueError:
            raise _BadValueError(f"{value!r} is not a number") from None
        if not isinstance(number, kind) or not low <= number <= high:
            raise _BadValueError(
                f"{value!r} is not {'a whole number' if kind is int else 'a number'} from {low:g} to {high:g}"
            )
        return number

    return read


def _addresses(value: Any) -> tuple[str, ...]:
    items = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(items, list) or not items:
        raise _BadValueError("expected a list of IP addresses, at least one")
    try:
        return tuple(canonical_ip(_text(item)) for item in items)
    except AddressError as error:
        raise _BadValueError(str(error)) from None


def _access_log(value: Any) -> str:
    # YAML reads a bare off as false
    text = "off" if value is False else _text(value)
    if text not in ("stdout", "off") and not text.startswith("/"):
        raise _BadValueError(f"{text!r} is neither stdout nor off nor an absolute path")
    return text


def _switch(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "on", "false", "off"):
        return value.lower() in ("true", "on")
    if not isinstance(value, bool):
        raise _BadValueError(f"{value!r} is neither true nor false")
    return value


def _level(value: Any) -> str:
    text = _text(value).lower()
    if text not in LOG_LEVELS:
        raise _BadValueError(f"{text!r} is not one of {', '.join(LOG_LEVELS)}")
    return text


_port = _number(1, 65535, int)
_READERS: dict[str, Callable[[Any], Any]] = {
    "node": _name,
    "control": _url,
    "token": lambda value: _text(value).strip(),
    "token_file": _path,
    "state_dir": _path,
    "run_dir": _path,
    "cgroup_root": _path,
    "bpffs": _path,
    "instance": _name,
    "addresses": _addresses,
    "workers": _number(0, MAX_WORKERS, int),
    "access_log": _access_log,
    "log_level": _level,
    "drain_seconds": _number(0, MAX_DRAIN_SECONDS, float),
    "cluster": _text,
    "capture": _switch,
    "sealed_without_agent": _switch,
    "splice": _switch,
    "dns": _switch,
    "compiled": _switch,
    "resolv_conf": _path,
    **{f"ports.{item.name}": _port for item in fields(Ports)},
    **{f"limits.{item.name}": _number(1, MAX_LIMIT, int) for item in fields(Limits)},
    "containers.oci": _patterns,
    "containers.docker": _path,
    "containers.podman": _path,
    "containers.containerd": _path,
}
_SECTIONS: dict[str, type[Ports] | type[Places] | type[Limits]] = {
    "ports": Ports, "containers": Places, "limits": Limits,
}  # fmt: skip


def load(strings: Mapping[str, str], file: Path | None = None, *, hostname: str = "") -> Config:
    """The settings from ``file`` (default: DEFAULT_FILE, if it exists) and NODEMESH_* in ``strings``, which win.

    ``hostname`` gives the node's name if no setting does. ConfigError lists everything that is wrong, not only the
    first.
    """
    problems: list[str] = []
    notes: list[str] = []
    raw = _from_file(file, problems)
    raw |= _from_environment(strings, notes)
    if "node" not in raw and hostname:
        raw["node"] = ("the host name", hostname.partition(".")[0].lower())
    values: dict[str, Any] = {}
    for key, (where, value) in raw.items():
        try:
            values[key] = _READERS[key](value)
        except _BadValueError as error:
            problems.append(f"{key} ({where}): {error}")
    if "node" not in raw:
        problems.append("node: not set; give the node's name (file key 'node' or NODEMESH_NODE)")
    _check_ports(values, problems)
    if problems:
        raise ConfigError(problems)
    for section, kind in _SECTIONS.items():
        prefix = f"{section}."
        values[section] = kind(
            **{key[len(prefix) :]: values.pop(key) for key in list(values) if key.startswith(prefix)}
        )
    return Config(notes=tuple(notes), **values)


def _check_ports(values: Mapping[str, Any], problems: list[str]) -> None:
    seen: dict[int, str] = {}
    for item in fields(Ports):
        port = values.get(f"ports.{item.name}", item.default)
        if port in seen:
            problems.append(f"ports.{item.name}: {port} is already ports.{seen[port]}")
        seen[port] = item.name
    first = values.get("ports.dns", Ports().dns)
    if first <= DNS_PORT < first + DNS_PORTS or first + DNS_PORTS > MAX_PORT + 1:
        problems.append(f"ports.dns: {first} to {first + DNS_PORTS - 1} must be ports other than {DNS_PORT}")


def _from_file(file: Path | None, problems: list[str]) -> dict[str, tuple[str, Any]]:
    path = file if file is not None else DEFAULT_FILE
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES)
    except FileNotFoundError:
        if file is not None:
            problems.append(f"{path}: no such file (given with --config)")
        return {}
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
        return {}
    try:
        document = yaml.safe_load(content) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.append(f"{path}: not YAML: {' '.join(str(error).split())}")
        return {}
    if not isinstance(document, dict):
        problems.append(f"{path}: expected keys and values at the top, found {type(document).__name__}")
        return {}
    return _flatten(document, str(path), problems)


def _flatten(document: Mapping[Any, Any], where: str, problems: list[str]) -> dict[str, tuple[str, Any]]:
    flat = {str(key): value for key, value in document.items() if key not in _SECTIONS}
    for name, kind in _SECTIONS.items():
        section = document.get(name, {})
        if isinstance(section, dict):
            flat |= {f"{name}.{key}": value for key, value in section.items()}
        else:
            known = ", ".join(item.name for item in fields(kind))
            problems.append(f"{name} ({where}): expected {known}, found {section!r}")
    for key in [key for key in flat if key not in _READERS]:
        problems.append(f"{key} ({where}): no such setting{_closest(key)}")
        del flat[key]
    return {key: (where, value) for key, value in flat.items()}


def _from_environment(strings: Mapping[str, str], notes: list[str]) -> dict[str, tuple[str, Any]]:
    """Unknown variables are only noted: Kubernetes makes NODEMESH_CONTROL_SERVICE_HOST and its like by itself."""
    names = {PREFIX + key.upper().replace(".", "_"): key for key in _READERS}
    raw: dict[str, tuple[str, Any]] = {}
    for variable, value in strings.items():
        if variable in names:
            raw[names[variable]] = (variable, value)
        elif variable.startswith(PREFIX):
            close = difflib.get_close_matches(variable, names, n=1, cutoff=0.9)
            if close:
                notes.append(f"{variable} is not a setting; did you mean {close[0]}?")
    return raw


def _closest(key: str) -> str:
    # 'tunnel' may have been meant as 'ports.tunnel', and the other way round
    close = difflib.get_close_matches(key, _READERS, n=1, cutoff=0.5) or [
        known for known in _READERS if known.partition(".")[2] == key
    ]
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(_READERS)}"
