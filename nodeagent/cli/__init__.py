"""The verbs of ``nodeagent``: run, load, unload, wait, status, doctor, explain, flows, workloads,
reset, trace.

Nouns: ``main`` (main: the click group, one function a verb), ``hold`` (hold: wait until a cgroup is
captured), ``resets`` (reset old connections), ``show`` (documents to text), ``answers`` (documents
of the running agent).
Imported by ``__main__``.
"""
