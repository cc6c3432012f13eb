"""The agent of one node: captures the connections of enrolled workloads and carries them, authenticated and authorized.

Processes: one manager (``main``) decides what is known; N workers (``worker``) decide about connections and carry them.
They speak over ``channel``. Each room's docstring says what it is for; who may import whom is the ``layers`` contract
in pyproject.toml.
"""
