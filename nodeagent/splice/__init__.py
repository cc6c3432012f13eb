"""The kernel splice: bytes of a same-node flow go from application to application without passing
the agent.

Nouns: ``Splicer`` (splicer: a worker's handle: prepare, dial, enable, forget a flow),
``SpliceController`` (controller: the manager's: load, attach, switch off, report), ``selftest``
(what the running kernel does right, found by trying), ``abi`` (mirrors of
``bpf/include/splice.h``). ``bpf/splice.bpf.c`` says how a direction switches between relay and
splice; ``tests/property/test_splice_model.py`` checks it exhaustively. The relay receives a
``Splicer``.
Imported by ``flows``, ``manager``, ``worker``.
"""
