"""What the agent reports of itself: documents for ``/debug`` and the CLI, metric samples, warnings.

Nouns: ``Documents`` (documents: what ``/debug`` serves), ``Samples`` (samples: the manager's own metrics), ``Health``
(health: what is wrong, and whose move it is), ``facts`` (pure: from a part's state to samples and document fields).
Imports ``manager`` (its ``Parts``) and what those parts are made of; only ``nodeagent.main`` imports it.
"""
