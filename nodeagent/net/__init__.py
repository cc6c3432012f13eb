"""Sockets of a worker: create, bind, listen, accept, dial, read, write. Only this room opens them
for connections.

Nouns: ``Poller`` (poller: one epoll for the sockets of all applications), ``SocketTransport``
(transport: one such socket), ``AppListener`` (accepting), ``dial_app`` and ``dial`` (dialling),
``Tasks`` (tasks: the supervised tasks of a worker). Only ``sockets`` creates sockets and sets their
options. It knows no mesh.
Imported by ``flows``, ``relay``, ``tunnel``, ``worker``.
"""
