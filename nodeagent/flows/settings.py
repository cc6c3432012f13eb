"""What operators say about flows that are open: idle timeouts, and switches of the splice. Pure.

Said by a service, by a workload, or for the whole mesh (``MeshConfig``). The narrowest that says something about idle
timeouts decides: the service, then the workload that is connected to, then the one that connects, then the mesh. A
splice switch that is off anywhere wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from control.wire.discovery import Service, Workload
from control.wire.governed import CONNECT_TIMEOUT
from nodeagent.state.view import NodeState
from nodeagent.telemetry.flow import FlowRecord

Key = tuple[str, str]
"""(kind on the wire, uid)."""


class FlowSettings:
    """Kept by uid, so that a live flow is judged by what its workloads and service say now."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._timeouts: dict[Key, int] = {}
        self._off: set[Key] = set()
        self.changed(("workload", workload.uid) for workload in state.workloads())
        self.changed(("service", service.uid) for service in state.services())

    @property
    def cuts_idle_flows(self) -> bool:
        """Whether any flow may have an idle timeout."""
        return self._mesh_timeout > 0 or any(self._timeouts.values())

    @property
    def _mesh_timeout(self) -> int:
        mesh = self._state.settings
        return mesh.idle_timeout if mesh is not None else 0

    def changed(self, keys: Iterable[Key]) -> bool:
        """The state says something else of these now. Whether that turned a splice switch."""
        turned = False
        for key in keys:
            kind, uid = key
            if kind not in ("workload", "service"):
                continue
            found = self._state.workload(uid) if kind == "workload" else self._state.service(uid)
            off = found is not None and not found.splice
            if off != (key in self._off):
                turned = True
                (self._off.add if off else self._off.discard)(key)
            if found is None or found.idle_timeout is None:
                self._timeouts.pop(key, None)
            else:
                self._timeouts[key] = found.idle_timeout
        return turned

    def idle_timeout(self, record: FlowRecord) -> tuple[int, str]:
        """Seconds that this flow may carry nothing, 0 for ever; and who says so."""
        for key, name in _said_by(record.service, record.destination, record.source):
            seconds = self._timeouts.get(key)
            if seconds is not None:
                return seconds, name
        return self._mesh_timeout, "the mesh"

    def connect_timeout(self, service: Service | None) -> int:
        """Seconds in which a connection to another node must be made."""
        if service is not None and service.connect_timeout is not None:
            return service.connect_timeout
        mesh = self._state.settings
        return mesh.connect_timeout if mesh is not None else CONNECT_TIMEOUT

    def switched_off(self, record: FlowRecord) -> str:
        """Who keeps this flow out of the splice; nothing if nobody does."""
        if not self._off:
            return ""
        return next(
            (name for key, name in _said_by(record.service, record.destination, record.source) if key in self._off), ""
        )


def _said_by(
    service: Service | None, destination: Workload | None, source: Workload | None
) -> Iterator[tuple[Key, str]]:
    if service is not None:
        yield ("service", service.uid), f"service {service.namespace}/{service.name}"
    for workload in (destination, source):
        if workload is not None:
            yield ("workload", workload.uid), f"workload {workload.namespace}/{workload.name}"
