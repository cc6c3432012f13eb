"""The systems by name, in the order in which they run and are shown."""

from __future__ import annotations

from collections.abc import Mapping

from tests.bench.systems import envoy_hbone
from tests.bench.systems.base import System
from tests.bench.systems.direct import Direct
from tests.bench.systems.envoy import Envoy
from tests.bench.systems.haproxy import HAProxy
from tests.bench.systems.nodemesh import NO_SPLICE, Nodemesh

_ALL: tuple[System, ...] = (
    Direct(),
    Nodemesh(),
    Nodemesh("nodemesh-nosplice", NO_SPLICE),
    Envoy(),
    Envoy("envoy-hbone", envoy_hbone.client_config, envoy_hbone.server_config),
    HAProxy(),
)

SYSTEMS: Mapping[str, System] = {system.name: system for system in _ALL}
