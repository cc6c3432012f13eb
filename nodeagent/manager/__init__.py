"""The parent process of the agent: keeps the state of the mesh and hands it to workers.

Nouns: ``Supervisor`` (supervisor: starts workers, again and again), ``Hub`` (hub: sends state to
them, collects what happened), ``WorkerLink`` (link: the socket to one), ``Discovery`` (discovery:
watch, disk, read model), ``Membership`` (membership: the node's own credential), ``SvidKeeper``
(svids: the identities of local workloads), ``Vitals`` (vitals: words to the service manager),
``CapturePart`` (part: everything of capture, as the core knows it), ``HostCapture`` (capturing: the
one that captures, which joins what follows), ``PlaintextPorts`` (plaintext: how plaintext from
outside the mesh is treated), ``Components`` (parts: references to all of them, for ``report``).
Imported by ``cli``, ``main``, ``report``.
"""
