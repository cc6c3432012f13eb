"""A worker: the process that carries connections. Run as ``python -m nodeagent.worker --channel-fd
N``.

It knows what the manager sends over the channel and nothing else: no files, no control, no
environment. It dies with the manager.

Nouns: ``Worker`` (worker: its end of the channel; passes each message to the part it concerns),
``Carrier`` (carrier: everything that carries connections, once the manager has said how; assembled
by ``start``), ``WorkerListeners`` (listeners: its listening sockets), ``drain`` (drain: how it ends).
Like ``nodeagent.main`` it is a composition root.
Imported by no room.
"""
