"""The kernel room: BPF objects, links and maps, and the directory where they are pinned. It knows maps, not the mesh.

Nouns: ``Libbpf`` (sys: the only speaker of libbpf and libc here), ``Features`` (features: what this kernel can do,
found by doing), ``Layout`` (abi: mirrors of ``bpf/include/abi.h``), ``MeshObject`` (objects: the compiled programs,
loaded), ``PinDirectory`` (pins: what outlives the agent), ``EnrolledCgroups`` / ``Destinations`` / ``Listeners`` /
``Settings`` / ``Flows`` / ``Clients`` / ``Counters`` (maps: typed views), ``PortModes`` and its kin (ports: the same
for plaintext), ``InboundLinks`` (lookup: the program on arriving connections, one a network namespace). Imports the
standard library and cffi only; imported by ``nodeagent.capture``.
"""
