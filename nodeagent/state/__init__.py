"""The node's read model: what control sent, indexed for the questions that a connection asks. Pure.

Nouns: ``NodeState`` (view: applies batches, answers), ``Intake`` (intake: applies a batch in steps,
and says in which order batches come into force), ``Tables`` (tables: the objects of one revision,
and what is derived from them), ``Applied`` (targets: what a batch changed, and what of it was
refused), ``ServiceTarget``, ``ExternalTarget``, ``WorkloadTarget`` and ``Unresolved`` (targets:
where an address leads), ``MissingPolicy`` (targets: a policy that selects a workload has not
arrived). ``accept`` checks wire objects one by one, ``index`` holds the look-ups.
Imported by ``capture``, ``cli``, ``dns``, ``doctor``, ``enrolment``, ``flows``, ``main``,
``manager``, ``policy``, ``relay``, ``report``, ``worker``.
"""
