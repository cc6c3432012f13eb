"""The agent's side of control: joining, the watch, signing requests, state on disk.

Nouns: ``Session`` (session: the watch as a machine without I/O), ``Mirror`` (mirror: everything
that control sent, to resume and to pass on), ``Transport`` (transport: HTTP with mutual TLS;
control must show its SPIFFE ID), ``NodeCredential`` (join: the credential of this node),
``ControlIssuer`` (issuer: SVIDs), ``StateDirectory`` (statefile: disk), ``Journal`` (journal:
discovery on disk).
Imported by ``cli``, ``main``, ``manager``.
"""
