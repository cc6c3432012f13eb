"""The containers of this node as their runtimes record them: cgroups and labels.

Nouns: ``Container`` (facts: an id, its cgroups, its labels), ``Containers`` (node: all of the
node), ``Places`` (node: where runtimes keep their state), and one reader for each format: ``hooks``
(what ``nodeagent oci-hook`` recorded), ``oci`` (runc and crun, and so docker, podman, containerd
and CRI-O), ``docker``, ``podman`` and ``containerd`` (with ``bolt``, the format of its database;
``labels`` decides when to read it).

It trusts only files that root owns and nobody else can write, and asks no runtime to do anything,
so all of it can be read while a runtime starts a container and holds its locks. It knows no mesh.
Imported by ``capture``, ``cli``, ``config``.
"""
