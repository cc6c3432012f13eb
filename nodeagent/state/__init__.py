"""The node's read model: what control told it, indexed for the questions that a connection asks. Pure.

Nouns: ``NodeState`` (view: apply batches, answer), ``Applied`` (what a batch changed and what of it was refused),
``ServiceTarget`` / ``ExternalTarget`` / ``WorkloadTarget`` / ``Unresolved`` (targets: where an address leads),
``MissingPolicy`` (targets: a policy that selects a workload has not arrived). ``accept`` reads wire objects item by
item, ``index`` holds the lookups. Imported by policy, relay, telemetry, capture, client, manager, worker; imports
``control.wire`` and ``nodeagent.reasons``.
"""
