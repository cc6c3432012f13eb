"""What the agent reports of itself: documents for ``/debug`` and the CLI, metric samples, warnings.

Nouns: ``Documents`` (documents: what ``/debug`` serves), ``Samples`` (samples: the manager's own
metrics), ``Health`` (health: what is wrong, and who has to act), ``facts`` (pure: from the state of
a part to samples and document fields).
Imported by ``main``.
"""
