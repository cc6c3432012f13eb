"""The kernel splice: bytes of a same-node flow go from application to application without passing the agent.

Nouns: ``Splicer`` (a worker's handle: prepare, dial, enable, forget a flow), ``SpliceController`` (the manager's: load,
attach, switch off, report), ``selftest`` (what the running kernel does right, found by doing), ``abi`` (mirrors of
``bpf/include/splice.h``). How a direction switches between relay and splice is told in ``bpf/splice.bpf.c`` and checked
exhaustively in ``tests/property/test_splice_model.py``. Imports ``nodeagent.loader`` and ``control.wire``; imported by
the composition roots only: the relay is handed a ``Splicer``.
"""
