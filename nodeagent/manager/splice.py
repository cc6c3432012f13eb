"""The splice on this node: in force where the running kernel has shown that it can, and if not, why not."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nodeagent.channel import Sample
from nodeagent.loader.errors import LoaderError
from nodeagent.splice import selftest
from nodeagent.splice.controller import SpliceController
from nodeagent.splice.selftest import SelfTest

LOOK_SECONDS = 1.0
"""How long after ``nodeagent splice off`` the last flow is back in the relay, at most."""
LOOKS_A_SWEEP = 5
"""A sweep walks every flow: it is not made at each look."""

logger = logging.getLogger(__name__)


class NodeSplice:
    """Owns the controller. ``reason`` says why nothing is spliced; empty if flows may be."""

    def __init__(
        self, controller: SpliceController | None, found: SelfTest | None, reason: str, kill_switch: Path | None = None
    ) -> None:
        self._controller = controller
        self._kill_switch = kill_switch
        self._found = found
        self._reason = reason
        self._workers: set[int] = set()
        self._on = kill_switch is None or not kill_switch.exists()

    @classmethod
    def off(cls, reason: str) -> NodeSplice:
        """Nothing is spliced."""
        return cls(None, None, reason)

    @classmethod
    def open(cls, pin_dir: Path, cgroup_root: Path, kill_switch: Path) -> NodeSplice:
        """While the file ``kill_switch`` exists nothing is spliced, and live flows are relayed.

        Load, attach and test on the running kernel (takes about a second); never raises for what a kernel lacks."""
        try:
            controller = SpliceController(pin_dir, cgroup_root)
        except (LoaderError, OSError) as error:
            logger.warning("same-node flows are relayed in userspace: %s", error)
            return cls.off(str(error))
        found = selftest.run(pin_dir, cgroup_root, controller.limit)
        try:
            controller.obey(found)
            controller.switch(on=not kill_switch.exists())
        except (LoaderError, OSError) as error:
            controller.close()
            logger.warning("same-node flows are relayed in userspace: %s", error)
            return cls.off(str(error))
        if controller.reason:
            logger.warning("same-node flows are relayed in userspace: %s", controller.reason)
        else:
            logger.info("same-node flows are spliced in the kernel; self-test: %.2f s", found.seconds)
        return cls(controller, found, "", kill_switch)

    @property
    def reason(self) -> str:
        """Why nothing is spliced; empty if flows may be."""
        return self._controller.reason if self._controller is not None else self._reason

    @property
    def possible(self) -> bool:
        """Whether workers may hand flows to the kernel, which decides from moment to moment (kill switch included)."""
        return self._controller is not None and (self._found is None or not self._found.off)

    def workers(self, alive: Iterable[int]) -> None:
        """These workers live: flows of those that do not any more are let go."""
        now = set(alive)
        for gone in self._workers - now:
            self._sweep(gone)
        self._workers = now

    def _sweep(self, gone: int | None = None) -> None:
        if self._controller is None:
            return
        try:
            self._controller.sweep(gone)
        except LoaderError as error:  # what was not let go counts against the cap, and is tried again
            logger.error("flows that have ended cannot be taken out of the splice: %s", error)

    async def run(self) -> None:
        """Until cancelled: obey the kill switch, let go of flows whose end nobody saw."""
        for look in itertools.count(1):
            await asyncio.sleep(LOOK_SECONDS)
            if self._controller is None or self._kill_switch is None:
                continue
            if look % LOOKS_A_SWEEP == 0:
                self._sweep()
            on = not self._kill_switch.exists()
            if on != self._on:
                self._on = on
                self._controller.switch(on=on)
                logger.warning("the splice was switched %s by %s", "on" if on else "off", self._kill_switch)

    def document(self) -> dict[str, Any]:
        """For ``status`` and ``/debug``."""
        document: dict[str, Any] = {"on": not self.reason, "why_not": self.reason}
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

    def samples(self) -> list[Sample]:
        """Whether flows are spliced, and what the programs counted."""
        samples = [Sample(name="nodemesh_splice_on", labels={}, value=float(not self.reason))]
        if self._controller is not None:
            samples.append(Sample(name="nodemesh_splice_queued_bytes", labels={}, value=self._controller.queued()))
            samples += [
                Sample(name="nodemesh_splice_total", labels={"event": name}, value=count)
                for name, count in self._controller.counters().items()
            ]
        for item in self._found.items if self._found is not None else ():
            labels = {"item": item.name, "result": item.result.value}
            samples.append(Sample(name="nodemesh_splice_self_test", labels=labels, value=1.0))
        return samples

    def close(self) -> None:
        """Every flow goes back to the relay; programs and pins go."""
        if self._controller is not None:
            self._controller.close()
