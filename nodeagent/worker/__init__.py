"""A worker: the process that carries connections. Run as ``python -m nodeagent.worker --channel-fd N``.

It knows what the manager tells it over the channel and nothing else: no files, no control, no environment. It dies
with the manager.

Nouns: ``Worker`` (its end of the channel: takes each message to whom it concerns), ``Carrier`` (whatever carries
connections, once the manager said how: put together by ``start``), ``Listeners`` (its listening sockets), ``drain``
(how it ends). Like ``nodeagent.main`` it is a composition root: it imports every room that it needs, nobody imports it.
"""
