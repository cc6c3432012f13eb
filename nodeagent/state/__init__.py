"""The node's read model: what control sent, indexed for the questions that a connection asks. Pure.

Nouns: ``NodeState`` (view: applies batches, answers), ``Applied`` (targets: what a batch changed,
and what of it was refused), ``ServiceTarget``, ``ExternalTarget``, ``WorkloadTarget`` and
``Unresolved`` (targets: where an address leads), ``MissingPolicy`` (targets: a policy that selects
a workload has not arrived). ``accept`` checks wire objects one by one, ``index`` holds the
look-ups.
Imported by ``capture``, ``cli``, ``dns``, ``doctor``, ``flows``, ``main``, ``manager``, ``policy``,
``relay``, ``report``, ``worker``.
"""
