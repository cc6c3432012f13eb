"""What the container runtimes of the node say: which containers there are, in which cgroups, with which labels.

Nouns: ``Container`` (facts: an id, its cgroups, its labels), ``Containers`` (node: all of the node), ``Places`` (node:
where runtimes keep their state), and a reader for each kind of state: ``hooks`` (what ``nodeagent oci-hook`` was told),
``oci`` (runc and crun, so docker, podman, containerd and CRI-O as well), ``docker``, ``podman`` and
``containerd`` (with ``bolt``, the format of their databases; ``labels`` knows when to read them).

Only files of root that nobody else may write are believed, and no runtime is asked to do anything: all of it can be
read while a runtime starts a container and holds its locks. The room knows no mesh and imports no other. The capture
asks it which cgroups a selector means; the command line writes for it (``hooks``).
"""
