"""Linux network namespaces: how the agent holds one, knows it again, and does something inside it.

Nouns: ``Namespace`` (a descriptor that keeps one alive, with the kernel's own number for it), ``enter`` (run a
synchronous closure inside), ``own`` (the namespace that this process lives in).

A socket belongs for ever to the namespace that it was made in; whatever is done with it later, by whichever thread,
happens there. So what runs inside is as short as making a socket; binding it, listening, connecting need no entering.

It knows nothing of the mesh and imports no other room. Anyone may import it who handles sockets: capture, splice,
relay (through ``net/sockets.py``), the manager and the workers.
"""
