"""MeshConfig: what holds in the whole mesh. There is one, named ``default``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from control.registry.model import Model, Resource
from control.wire.governed import idle_timeout

MESH_CONFIG_NAME = "default"


def check_duration(text: str) -> str:
    """A duration or ``off``."""
    idle_timeout(text)
    return text


def _word(value: Any) -> Any:
    """YAML reads a bare off as false and 0 as a number."""
    return "off" if value == 0 else value


Duration = Annotated[str, BeforeValidator(_word), AfterValidator(check_duration)]


class MeshConfigSpec(Model):
    """Defaults, and switches for everybody."""

    splice: Annotated[bool, Field(strict=True)] = True
    """False: no same-node flow of the mesh is joined in the kernel, whatever workloads and services say."""
    idle_timeout: Duration = "off"
    """For flows about which neither service nor workload says anything."""


class MeshConfig(Resource):
    """What holds in the whole mesh where nothing narrower says otherwise."""

    KIND: ClassVar[str] = "MeshConfig"
    PLURAL: ClassVar[str] = "meshconfigs"
    NAMESPACED: ClassVar[bool] = False

    kind: Literal["MeshConfig"] = "MeshConfig"
    spec: MeshConfigSpec = MeshConfigSpec()
