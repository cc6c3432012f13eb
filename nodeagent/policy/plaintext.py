"""How plaintext from outside the mesh is met: the one evaluator of the effective mode. Pure.

A PeerAuthentication's mode for the port goes before the workload's; control has chosen the narrowest of each. A mode
that is not known is STRICT.
"""

from __future__ import annotations

from control.wire.discovery import MtlsMode, Workload
from control.wire.governed import CAPTURE_LABEL


def effective_mode(workload: Workload, port: int) -> MtlsMode:
    """The mode of the workload's own (target) port. Who has left the mesh is met as who was never in it."""
    if workload.labels.get(CAPTURE_LABEL) == "off":
        return MtlsMode.DISABLE
    return workload.port_mtls_modes.get(str(port), workload.mtls_mode)
