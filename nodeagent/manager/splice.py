"""The splice on this node: in force where the running kernel has shown that it can, and if not, why not; and which
workloads are kept out of it."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from nodeagent.loader.errors import LoaderError
from nodeagent.splice import selftest_run
from nodeagent.splice.controller import SpliceController
from nodeagent.splice.selftest import SelfTest
from nodeagent.splice.selftest_run import SelfTestRun
from nodeagent.state.view import NodeState
from nodeagent.telemetry.samples import CounterSample, GaugeSample, NumberSample

START_SECONDS = 5.0
"""How long the agent's start waits for the self-test. One that takes longer goes on while flows are relayed."""
TESTING = "the self-test is not through yet"
TOO_EARLY = "it began before the self-test of the splice was through"
"""Told of flows that are relayed for it, to their end."""
LOOK_SECONDS = 1.0
"""How long after ``nodeagent splice off`` the last flow is back in the relay, at most."""
LOOKS_A_SWEEP = 5
"""A sweep walks every flow: it is not made at each look."""
MAX_EXCLUDED = 1024
"""Workloads that are kept out because a flow of theirs got stuck; the oldest may show again what it does."""
MAX_LISTED = 20
"""Names of one kind in the status."""

logger = logging.getLogger(__name__)


class NodeSplice:
    """Owns the controller. ``reason`` says why nothing is spliced; empty if flows may be.

    While the self-test runs the programs are in force for it alone: every worker keeps everybody out.
    """

    def __init__(
        self,
        controller: SpliceController | None,
        test: SelfTestRun | None,
        reason: str,
        switches: tuple[Path, Path] | None = None,
    ) -> None:
        """``switches``: the file that stops everything while it exists; the file that clears the exclusions."""
        self._controller = controller
        self._switches = switches
        self._test = test
        self._found: SelfTest | None = None
        self._reason = reason
        self._workers: set[int] = set()
        self._why_off = ""
        self._state = NodeState()
        self._node = ""
        self._excluded: dict[str, str] = {}
        self._everybody = ""
        self.on_excluded: Callable[[Mapping[str, str], str], None] | None = None
        """Told all excluded workloads (uid) and why, and why everybody is, whenever they change."""

    @classmethod
    def off(cls, reason: str) -> NodeSplice:
        """Nothing is spliced."""
        return cls(None, None, reason)

    @classmethod
    def open(cls, pin_dir: Path, cgroup_root: Path, kill_switch: Path, clear_switch: Path) -> NodeSplice:
        """While the file ``kill_switch`` exists nothing is spliced, and live flows are relayed.

        Load, attach and test on the running kernel (takes about a second; the test goes on in ``run`` if it takes more
        than START_SECONDS); never raises for what a kernel lacks."""
        try:
            controller = SpliceController(pin_dir, cgroup_root)
        except (LoaderError, OSError) as error:
            logger.warning("same-node flows are relayed in userspace: %s", error)
            return cls.off(str(error))
        test = selftest_run.begin(pin_dir, cgroup_root, controller.limit)
        splice = cls(controller, test, "", (kill_switch, clear_switch))
        splice._look_at_test(START_SECONDS)
        if splice._test is not None:
            splice._everybody = TOO_EARLY
            logger.warning("same-node flows are relayed in userspace until the self-test is through, which takes long")
        return splice

    def _look_at_test(self, seconds: float) -> None:
        """Put in force what the self-test found, if it is through within that time."""
        found = self._test.wait(seconds) if self._test is not None else None
        if found is None or self._controller is None:
            return
        self._test, self._found, self._why_off = None, found, self._why_to_switch_off()
        try:
            self._controller.obey(found)
            self._controller.switch(on=not self._why_off, why=self._why_off)
        except (LoaderError, OSError) as error:
            self._controller.close()
            self._controller, self._found, self._reason = None, None, str(error)
        if self.reason:
            logger.warning("same-node flows are relayed in userspace: %s", self.reason)
        else:
            logger.info("same-node flows are spliced in the kernel; self-test: %.2f s", found.seconds)
        if self._everybody:
            self._everybody = "" if self.possible else self.reason
            self.tell_excluded()

    @property
    def reason(self) -> str:
        """Why nothing is spliced; empty if flows may be."""
        if self._test is not None:
            return TESTING
        return self._controller.reason if self._controller is not None else self._reason

    @property
    def programs(self) -> dict[str, int]:
        """Program of the splice on the node's cgroup hooks -> the kernel's id of it."""
        return self._controller.programs if self._controller is not None else {}

    @property
    def possible(self) -> bool:
        """Whether workers may hand flows to the kernel, which decides from moment to moment (kill switch included);
        while the self-test runs, whether they may before long."""
        return self._controller is not None and (self._found is None or not self._found.off)

    def applied(self, state: NodeState, node: str) -> None:
        """Control told something: the mesh's own switch may have been turned."""
        self._state, self._node = state, node
        self._obey()

    def workers(self, alive: Iterable[int]) -> None:
        """These workers live: flows of those that do not any more are let go."""
        now = set(alive)
        for gone in self._workers - now:
            self._sweep(gone)
        self._workers = now

    def exclude(self, workloads: Mapping[str, str]) -> None:
        """A flow of these (uid) got stuck, and why: on the whole node they are kept out until ``clear``, or until the
        agent is started anew."""
        self._excluded.update(workloads)
        while len(self._excluded) > MAX_EXCLUDED:
            del self._excluded[next(iter(self._excluded))]
        self.tell_excluded()

    def clear(self) -> None:
        """Every excluded workload gets another try."""
        self._excluded.clear()
        self.tell_excluded()

    def tell_excluded(self) -> None:
        """Who is kept out, to ``on_excluded``."""
        if self.on_excluded is not None:
            self.on_excluded(self._excluded, self._everybody)

    def _sweep(self, gone: int | None = None) -> None:
        if self._controller is None:
            return
        try:
            self._controller.sweep(gone)
        except LoaderError as error:  # what was not let go counts against the cap, and is tried again
            logger.error("flows that have ended cannot be taken out of the splice: %s", error)

    async def run(self) -> None:
        """Until cancelled: see the self-test through, obey the switches, let go of flows whose end nobody saw."""
        for look in itertools.count(1):
            await asyncio.sleep(LOOK_SECONDS)
            if self._switches is None:
                continue
            self._look_at_test(0)
            if look % LOOKS_A_SWEEP == 0:
                self._sweep()
            self._obey()
            if self._switches[1].exists():
                self._switches[1].unlink(missing_ok=True)
                logger.warning("%d workloads get another try at the splice", len(self._excluded))
                self.clear()

    def _obey(self) -> None:
        why = self._why_to_switch_off()
        if self._controller is None or self._test is not None or why == self._why_off:
            return
        try:
            self._controller.switch(on=not why, why=why)
        except LoaderError as error:  # tried again at the next look
            logger.error("the splice cannot be switched: %s", error)
            return
        self._why_off = why
        logger.warning("the splice is %s", f"off: {why}" if why else "on again")

    def _why_to_switch_off(self) -> str:
        return _killed(self._switches) or _off_in_mesh(self._state)

    def document(self) -> dict[str, Any]:
        """For ``status`` and ``/debug``."""
        document: dict[str, Any] = {"on": not self.reason, "why_not": self.reason}
        document["legs_why_not"] = self.reason or (self._controller.legs_off if self._controller is not None else "")
        document["kept_out"] = self._kept_out()
        if self._controller is not None:
            status = self._controller.status()
            document |= {
                "flows": status.flows,
                "queued_bytes": status.queued,
                "limit_bytes": status.limit,
                "cap_bytes": status.cap,
                "counters": {name: count for name, count in status.counters.items() if count},
            }
        if self._found is not None:
            document["self_test"] = {
                "seconds": round(self._found.seconds, 3),
                "items": {item.name: f"{item.result}{': ' + item.detail if item.detail else ''}"
                          for item in self._found.items},
            }  # fmt: skip
        return document

    def _kept_out(self) -> dict[str, Any]:
        """Workloads of this node and services that operators keep in the relay, and workloads that got stuck."""
        workloads = [w.uid for w in self._state.local_workloads(self._node) if not w.splice]
        services = [s.uid for s in self._state.services() if not s.splice]
        return {
            "workloads": workloads[:MAX_LISTED],
            "services": services[:MAX_LISTED],
            "stuck": dict(itertools.islice(self._excluded.items(), MAX_LISTED)),
            "more": sum(max(0, len(each) - MAX_LISTED) for each in (workloads, services, self._excluded)),
        }

    def annotate(self, document: dict[str, Any]) -> dict[str, Any]:
        """The answer of the workers about their flows: where the whole node's splice is off, that is why."""
        if self.reason:
            for row in document["flows"]:
                if row.get("relayed_because") is not None:
                    row["relayed_because"] = self.reason
        return document

    def samples(self) -> list[NumberSample]:
        """Whether flows are spliced, and what the programs counted."""
        samples: list[NumberSample] = [
            GaugeSample(name="nodemesh_splice_on", labels={}, value=float(not self.reason)),
            GaugeSample(name="nodemesh_splice_excluded_workloads", labels={}, value=len(self._excluded)),
        ]
        if self._controller is not None:
            queued = self._controller.queued()
            samples.append(GaugeSample(name="nodemesh_splice_queued_bytes", labels={}, value=queued))
            samples += [
                CounterSample(name="nodemesh_splice_total", labels={"event": name}, value=count)
                for name, count in self._controller.counters().items()
            ]
        for item in self._found.items if self._found is not None else ():
            labels = {"item": item.name, "result": item.result.value}
            samples.append(GaugeSample(name="nodemesh_splice_self_test", labels=labels, value=1.0))
        return samples

    def close(self) -> None:
        """Every flow goes back to the relay; programs and pins go, and a self-test that still runs."""
        if self._test is not None:
            self._test.close()
        if self._controller is not None:
            self._controller.close()


def _killed(switches: tuple[Path, Path] | None) -> str:
    return "switched off" if switches is not None and switches[0].exists() else ""


def _off_in_mesh(state: NodeState) -> str:
    mesh = state.settings
    if mesh is None:
        return "the mesh's settings cannot be read" if state.unreadable("mesh") else ""
    return "" if mesh.splice else "switched off in the whole mesh (MeshConfig)"
