"""The sockets: everything here runs on the worker's loop, moves bytes and carries out what was decided.

Nouns: ``AppLeg`` (app: an application's socket), ``StreamLeg`` (streams: a tunnel's stream), ``Flow`` (flow: two
legs, their record, and the rules of ending), ``TunnelEnd`` (tunnel: TLS and HTTP/2 on a socket), ``Pool`` (pool:
tunnels for reuse), ``Outbound``, ``Inbound`` and ``Plaintext`` (who accepts). ``Poller`` (poller: one epoll for the
sockets of all applications), ``SocketTransport`` (transport: one of them), ``accepting`` and ``dialling`` (where they
come from); tunnels stay on the event loop. Only ``sockets`` makes sockets. No TLS socket is ever an ``AppLeg``.
"""
