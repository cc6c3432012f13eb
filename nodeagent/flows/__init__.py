"""Flows: one intercepted connection as two legs that are joined, recorded, watched and ended.

Nouns: ``Flow`` and ``Leg`` (flow: two ends, and the rules of ending), ``AppLeg`` (app: the socket
of an application), ``StreamLeg`` (streams: a stream of a tunnel), ``Tracker`` (tracker: every live
flow of a worker, checked again when policy changes), ``IdleSweep`` (idle), ``FlowSettings``
(settings: idle timeouts and splice switches), ``Balancer`` (balance: which endpoint),
``FlowSplice`` (splicing: bytes that pass through the kernel instead of the legs). ``balance``,
``idle`` and ``settings`` are pure. No TLS socket is ever an ``AppLeg``.
Imported by ``relay``, ``worker``.
"""
