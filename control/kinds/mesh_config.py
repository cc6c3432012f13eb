"""MeshConfig: what holds in the whole mesh. There is one, named ``default``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from control.kinds.base.kind import Kind, View
from control.kinds.base.mesh import Mesh
from control.kinds.base.model import Model
from control.wire.discovery import MESH_UID, MeshSettings
from control.wire.governed import CONNECT_TIMEOUT, connect_timeout, idle_timeout

MESH_CONFIG_NAME = "default"


def check_duration(text: str) -> str:
    """A duration or ``off``."""
    idle_timeout(text)
    return text


def _word(value: Any) -> Any:
    # YAML reads a bare off as false and 0 as a number.
    return "off" if value == 0 else value


def check_connect_timeout(text: str) -> str:
    """A duration."""
    connect_timeout(text)
    return text


Duration = Annotated[str, BeforeValidator(_word), AfterValidator(check_duration)]


class MeshConfigSpec(Model):
    """Defaults, and switches for everybody."""

    splice: Annotated[bool, Field(strict=True)] = True
    """False: no same-node flow of the mesh is joined in the kernel, whatever the labels of workloads and services."""
    idle_timeout: Duration = "off"
    """For flows whose service and workload set none."""
    connect_timeout: Annotated[str, AfterValidator(check_connect_timeout)] = f"{CONNECT_TIMEOUT}s"
    """For connections to other nodes whose service sets none."""


def _name_fault(name: str) -> str | None:
    return None if name == MESH_CONFIG_NAME else f"there is one MeshConfig; name it {MESH_CONFIG_NAME!r}"


def _settings(view: View, mesh: Mesh) -> Iterable[MeshSettings]:
    config = view.find(KIND, MESH_CONFIG_NAME)
    spec = config.spec if config is not None else MeshConfigSpec()
    yield MeshSettings(
        uid=MESH_UID,
        domain=mesh.domain,
        splice=spec.splice,
        idle_timeout=idle_timeout(spec.idle_timeout),
        connect_timeout=connect_timeout(spec.connect_timeout),
    )


KIND = Kind(
    name="MeshConfig",
    plural="meshconfigs",
    aliases=("mc", "mesh"),
    doc="What holds in the whole mesh where nothing narrower says otherwise.",
    order=10,
    spec=MeshConfigSpec,
    spec_required=False,
    namespaced=False,
    name_fault=_name_fault,
    wire=MeshSettings,
    project_mesh=_settings,
    columns=(
        ("SPLICE", lambda o: "on" if o["spec"].get("splice", True) else "off"),
        ("IDLE-TIMEOUT", lambda o: str(o["spec"].get("idleTimeout", "off"))),
    ),
)
