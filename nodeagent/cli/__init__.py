"""The verbs of ``nodeagent``: run, load, unload, wait, status, doctor, explain, flows, workloads, reset, trace.

Nouns: ``main`` (main: the click group, one function a verb), ``hold`` (wait until a cgroup is captured), ``resets``
(reset old connections), ``show`` (documents to text), ``answers`` (documents from the running agent).
Above every other room; only ``nodeagent.__main__`` imports it.
"""
