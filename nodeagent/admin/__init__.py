"""HTTP for operators and scrapers: ``/debug/*`` on loopback, ``/metrics``, ``/ready``. It reads,
never writes, and never shows a key.

Nouns: ``Document`` (apps: a name and the function that gives its content), the three applications
(apps), ``AdminServer`` (server: sockets and uvicorn). The composition root registers the documents.
Imported by ``cli``, ``main``, ``manager``.
"""
