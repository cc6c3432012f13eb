"""Why the agent is not ready, and what is wrong although it is: each a line for ``status``, empty where all is well."""

from __future__ import annotations

from nodeagent.manager.parts import Components


class Health:
    """Looks at the parts whenever it is asked."""

    def __init__(self, parts: Components) -> None:
        self._parts = parts

    def register(self) -> None:
        """Put every check in force."""
        lifecycle = self._parts.lifecycle
        lifecycle.blocks("state", self.no_state)
        lifecycle.blocks("workers", self.no_worker)
        lifecycle.warns("control", self.control)
        lifecycle.warns("workers", self.workers)
        lifecycle.warns("identities", self.identities)
        lifecycle.warns("disk", lambda: self._parts.discovery.save_error)
        lifecycle.warns("state", self.state)
        for name, check in self._parts.capture.checks().items():
            lifecycle.warns(name, check)

    def no_state(self) -> str:
        """Blocks: nothing is known of the mesh."""
        if self._parts.discovery.state.ready:
            return ""
        why = self.control()
        return f"no state from control yet{': ' + why if why else ''}"

    def no_worker(self) -> str:
        """Blocks: nobody carries connections."""
        if self._parts.hub.serving:
            return ""
        last = self._parts.supervisor.last_end
        return f"no worker process serves; the last one {last}, see the log" if last else "no worker process serves yet"

    def control(self) -> str:
        """Control is away."""
        parts = self._parts
        if not parts.config.control:
            return "no control is configured; going on with what is on disk"
        if parts.follower.connected:
            return parts.membership.error
        return parts.membership.error or parts.session.last_error or "not connected yet"

    def workers(self) -> str:
        """Fewer workers than wanted."""
        serving, wanted = self._parts.hub.serving, self._parts.workers
        return f"{serving} of {wanted} serve" if serving < wanted else ""

    def identities(self) -> str:
        """SVIDs that are missing or cannot be used."""
        bad = [status for status in self._parts.keeper.statuses() if not status.usable]
        return "; ".join(f"{status.identity}: {status.last_error or 'no SVID yet'}" for status in bad[:5])

    def state(self) -> str:
        """What control told and could not be read, or referred to and did not tell."""
        discovery = self._parts.discovery
        troubles = list(discovery.rejected[:3])
        if discovery.missing:
            troubles.append(f"not received: {', '.join(discovery.missing[:3])}; what needs it is denied")
        return "; ".join(troubles)
