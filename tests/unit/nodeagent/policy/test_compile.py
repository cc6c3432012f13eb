"""What can be read, what breaks a policy, and how long a compiled policy is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from control.wire.discovery import Action, OperationMatch, PolicyRule, SourceMatch
from nodeagent.policy import compile as compile_module
from nodeagent.policy.compile import BrokenPolicy, CompiledPolicy, PolicyCache, address_number, compile_policy
from tests.support.objects import policy, rule


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (SourceMatch(principals=("",)), "sources[0].principals: an entry is empty"),
        (SourceMatch(principals=("spiffe://",)), "sources[0].principals: an entry is empty"),
        (SourceMatch(principals=("ok", "a*b")), "sources[0].principals: 'a*b'"),
        (SourceMatch(principals=("**",)), "sources[0].principals: '**'"),
        (SourceMatch(namespaces=("*x*",)), "sources[0].namespaces: '*x*'"),
        (SourceMatch(not_namespaces=("x**",)), "sources[0].not_namespaces: 'x**'"),
        (SourceMatch(ip_blocks=("10.0.0.0/8", "10.0.0.0/33")), "sources[0].ip_blocks: '10.0.0.0/33'"),
        (SourceMatch(ip_blocks=("10.0.0.0/-1",)), "'10.0.0.0/-1'"),
        (SourceMatch(ip_blocks=("10.0.0.0/",)), "'10.0.0.0/'"),
        (SourceMatch(ip_blocks=("10.0.0.0/255.0.0.0",)), "'10.0.0.0/255.0.0.0'"),
        (SourceMatch(ip_blocks=("10.0.0.0/٨",)), "not a CIDR"),
        (SourceMatch(ip_blocks=("10.0.0",)), "'10.0.0'"),
        (SourceMatch(ip_blocks=("::1/129",)), "'::1/129'"),
        (SourceMatch(ip_blocks=("fe80::1%eth0",)), "scope"),
        (SourceMatch(not_ip_blocks=("",)), "sources[0].not_ip_blocks"),
    ],
)
def test_what_cannot_be_read_breaks_the_policy_and_is_named(source: SourceMatch, says: str) -> None:
    compiled = compile_policy(policy("p", Action.DENY, PolicyRule(), rule(source)))
    assert isinstance(compiled, BrokenPolicy) and compiled.uid == "shop/p"
    assert compiled.detail.startswith("rules[1].") and says in compiled.detail


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_is_none_breaks_the_policy(port: int) -> None:
    for operation in (OperationMatch(ports=(port,)), OperationMatch(not_ports=(80, port))):
        compiled = compile_policy(policy("p", Action.ALLOW, rule(None, operation)))
        assert isinstance(compiled, BrokenPolicy) and "operations[0]" in compiled.detail


def test_a_policy_is_compiled_once_until_it_is_replaced() -> None:
    cache = PolicyCache()
    first = policy("p", Action.DENY, PolicyRule())
    compiled = cache.get(first)
    assert isinstance(compiled, CompiledPolicy) and cache.get(first) is compiled
    second = replace(first, action=Action.ALLOW)
    again = cache.get(second)
    assert isinstance(again, CompiledPolicy) and again.action is Action.ALLOW
    assert len(cache) == 1


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_module, "MAX_CACHED_POLICIES", 3)
    cache = PolicyCache()
    for number in range(10):
        cache.get(policy(f"p{number}"))
        assert len(cache) <= 3


def test_address_numbers_keep_families_apart_and_v4_mapped_is_v4() -> None:
    assert address_number("0.0.0.1") == (4, 1)
    assert address_number("::1") == (6, 1)
    assert address_number("::ffff:0.0.0.1") == (4, 1)
