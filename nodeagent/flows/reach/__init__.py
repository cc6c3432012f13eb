"""Reach a destination: the only code that dials, establishes and joins flows.

Nouns: ``Attempt`` (attempt: the flow that wants a destination, and what to do when it is reached or not),
``LocalReach`` (local: an application of this node), ``RemoteReach`` (remote: a workload of another node, by a tunnel),
``ExternalReach`` (external: a host outside the mesh), ``Reach`` (ways: the three of one worker).
A flow comes here with its source leg, its record and its permits, and is known to the tracker already.
"""
