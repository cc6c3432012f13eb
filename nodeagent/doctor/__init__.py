"""What is wrong with this host, and what to do about it; what would become of a connection, and why.

Nouns: ``Finding`` (finding: one thing that was looked at, how it is, the remedy), ``host`` (kernel, cgroups, bpffs,
neighbours on the hooks), ``network`` (ports, control, clock), ``workloads`` (from the running agent's documents: pure),
``explain`` (pure, over the read model; the deciders themselves are asked, nothing is decided here).
Imported by the command line only; nothing here changes anything.
"""
