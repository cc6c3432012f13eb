"""The agent's side of control: joining, the watch, signing requests, and what is kept on disk to outlive an outage.

Nouns: ``Session`` (the watch as a machine without I/O), ``Mirror`` (everything control has told, to resume and to hand
on), ``Transport`` (HTTP with mutual TLS; control must show its SPIFFE ID), ``Join`` and ``NodeCredential`` (who this
node is), ``ControlIssuer`` (SVIDs), ``StateDirectory`` (disk). Imports ``control.wire``, ``identity``; the manager
imports it, nobody else.
"""
