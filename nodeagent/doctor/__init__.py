"""What is wrong with this host and how to mend it; what would happen to a connection, and why.

Nouns: ``Finding`` (finding: one thing examined, its state, the remedy), ``host`` (kernel, cgroups,
bpffs, other programs on the hooks), ``network`` (ports, control, clock), ``listeners``
(which program holds a port; the only user of pyroute2), ``workloads`` (from the
running agent's documents; pure), ``surroundings`` (daemons, filters and sockets that bypass the
agent), ``explain`` (pure, over the read model: it asks the deciders
themselves and decides nothing). Nothing here changes anything.
Imported by ``cli``.
"""
