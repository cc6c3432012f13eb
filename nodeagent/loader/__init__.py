"""The kernel room: BPF objects, links and maps, and the directory where they are pinned. It knows
maps, not the mesh.

Nouns: ``Libbpf`` (sys: the only caller of libbpf), ``Features`` (features: what this kernel can do,
found by trying), ``Layout`` (abi: mirrors of ``bpf/include/abi.h``), ``MeshObject`` (objects: the
loaded programs), ``PinDirectory`` (pins: what outlives the agent), ``EnrolledCgroups``,
``Destinations``, ``Listeners``, ``Settings``, ``Flows``, ``Clients`` and ``Counters`` (maps: typed
views), ``PortModes`` (ports: the same for plaintext), ``InboundLinks`` (lookup: the program on
arriving connections, one per network namespace). It imports the standard library and cffi only.
Imported by ``capture``, ``cli``, ``doctor``, ``manager``, ``splice``, ``trace``, ``worker``.
"""
