"""HTTP for operators and scrapers: ``/debug/*`` on loopback, ``/metrics``, ``/ready``. Reads, never writes; never
shows a key.

Nouns: ``Document`` (a name and what gives its content), the three apps (apps), ``AdminServer`` (server: sockets and
uvicorn). Imports ``config`` and ``lifecycle`` only; the composition root tells it where documents come from.
"""
