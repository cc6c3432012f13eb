"""Linux network namespaces: hold one, recognize it again, and run something inside it.

Nouns: ``Namespace`` (handle: a descriptor that keeps one alive, with the kernel's own number for
it), ``enter`` (entry: run a synchronous closure inside), ``own`` (handle: the namespace of this
process).

A socket belongs for ever to the namespace in which it was created, whatever thread uses it later.
So what runs inside is no more than creating a socket; binding, listening and connecting need no
entering. It knows no mesh.
Imported by ``admin``, ``capture``, ``doctor``, ``flows``, ``manager``, ``net``, ``relay``, ``worker``.
"""
