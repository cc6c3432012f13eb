"""That every story here is told of compiled workers."""

from __future__ import annotations

from pathlib import Path

from tests.netns.shop import Shop


def test_workers_run_compiled_modules(shop: Shop) -> None:
    for node in (shop.mesh.a, shop.mesh.b):
        workers = [pid for pid in node.agent_processes() if pid != node.agent.pid]
        assert workers
        for pid in workers:
            mapped = Path(f"/proc/{pid}/maps").read_text()
            assert "nodeagent/compiled/built/nodemesh__mypyc" in mapped, "the build is missing or old: make compiled"
