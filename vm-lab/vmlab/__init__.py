"""Tests on other kernels than the one that runs here: Debian's, from its archive, booted on this file system.

``releases``, ``verdicts`` and ``table`` are pure; ``archive`` asks apt, ``baggage`` packs what a guest holds in memory,
``machine`` boots. Nouns: a *series* is what the operator names (``6.1``, ``7.x``), a *release* what ``uname -r`` says.
Nobody imports it; ``make vm`` runs it.
"""
