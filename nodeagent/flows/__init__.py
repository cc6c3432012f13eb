"""Flows: one intercepted connection as two legs that are joined, recorded, watched and ended.

Nouns: ``Flow`` and ``Leg`` (flow: two ends, and the rules of ending), ``Exchange`` (flow: what
policy permits: the whole flow at layer 4, one request at layer 7), ``AppLeg`` (app: the socket of
an application), ``StreamLeg`` (streams: a stream of a tunnel), ``reach`` (from a destination to a
leg: the only code that dials), ``Tracker`` (tracker: every live flow of a worker, checked again
when policy changes), ``IdleSweep`` (idle), ``FlowSettings`` (settings: idle timeouts and splice
switches), ``Balancer`` (balance: which endpoint), ``FlowSplice`` (splicing: bytes that pass through
the kernel instead of the legs), ``Services`` (services: what the flows of a worker share).

``balance``, ``idle`` and ``settings`` are pure. No TLS socket is ever an ``AppLeg``.
Imported by ``relay``, ``worker``.
"""
