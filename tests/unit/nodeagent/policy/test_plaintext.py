from __future__ import annotations

from itertools import product

import pytest

from control.codec.values import DecodeError, decode, encode
from control.wire.discovery import MtlsMode, Workload
from nodeagent.policy.plaintext import effective_mode
from tests.support.objects import workload


@pytest.mark.parametrize(("whole", "port"), list(product(MtlsMode, [None, *MtlsMode])))
def test_a_ports_own_mode_goes_before_the_workloads(whole: MtlsMode, port: MtlsMode | None) -> None:
    modes = {} if port is None else {"8080": port}
    web = workload(mtls_mode=whole, port_mtls_modes=modes)
    assert effective_mode(web, 8080) is (port or whole)
    assert effective_mode(web, 8081) is whole


@pytest.mark.parametrize("unknown", ["LENIENT", "permissive", ""])
def test_a_mode_that_this_agent_does_not_know_is_strict(unknown: object) -> None:
    told = {**encode(workload()), "mtls_mode": unknown, "port_mtls_modes": {"8081": unknown, "8082": "DISABLE"}}
    web = decode(Workload, told)
    assert [effective_mode(web, port) for port in (8080, 8081, 8082)] == [
        MtlsMode.STRICT, MtlsMode.STRICT, MtlsMode.DISABLE,
    ]  # fmt: skip


@pytest.mark.parametrize("value", [None, 7, ["STRICT"]])
def test_what_is_no_mode_at_all_costs_the_workload_and_lets_nobody_in(value: object) -> None:
    with pytest.raises(DecodeError, match="mtls_mode"):
        decode(Workload, {**encode(workload()), "mtls_mode": value})


def test_without_a_word_from_control_it_is_permissive() -> None:
    told = encode(workload())
    del told["mtls_mode"], told["port_mtls_modes"], told["probe_ports"]
    assert effective_mode(decode(Workload, told), 8080) is MtlsMode.PERMISSIVE
