"""The parent process of the agent: keeps what is known of the mesh and hands it to the workers that carry connections.

Nouns: ``Supervisor`` (spawns workers, again and again), ``Hub`` (tells them what is known, asks them what happened),
``WorkerLink`` (the socket to one), ``Discovery`` (watch, disk, read model), ``Membership`` (the node's own
credential), ``SvidKeeper`` (the identities of local workloads), ``Enroller`` (which cgroups are captured),
``PlaintextPorts`` (how plaintext from outside the mesh is met), and references to all
of them (``Parts``) for ``report``. ``nodeagent.main`` and ``report`` import it.
"""
