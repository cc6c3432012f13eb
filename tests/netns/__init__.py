"""Whole stories over a mesh of two nodes, each node a network namespace and a cgroup subtree of its own.

Nouns: a `Place` (`place`) is what a lab takes from the machine and gives back; a `Mesh` (`lab`) is control and its
agents in a place; a `Spot` (`spot`) is a cgroup on a node from which connections are made; `capture` reads the bytes
between nodes.
"""
