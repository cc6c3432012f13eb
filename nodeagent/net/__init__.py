"""Sockets of a worker: create, bind, listen, accept, dial, read, write. Only this room opens them
for connections.

Nouns: ``Poller`` (poller: one epoll for the sockets of all applications), ``SocketTransport``
(transport: one such socket), ``AppListener`` and ``TunnelListener`` (accepting), ``Threshold``
(threshold: connections whose peers have proved no identity yet), ``dial_app`` and ``dial`` (dialling),
``Tasks`` (tasks: the supervised tasks of a worker). Only ``sockets`` creates sockets and sets their
options. It knows no mesh.
Imported by ``flows``, ``relay``, ``tunnel``, ``worker``.
"""
