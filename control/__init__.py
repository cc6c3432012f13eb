"""The control service: stores the resources that operators declare, and distributes discovery, policy and certificates.

Rooms: ``wire`` (the contract with the agents, the only room that they may import), ``kinds`` (one file a resource
kind), ``store`` (bytes under keys at revisions), ``registry`` (resources and their rules), ``watch`` (discovery
objects, snapshot and deltas), ``ca`` (certificates), ``api`` (HTTP for agents and operators), ``cli`` (``meshctl``).
``main`` puts them together.
"""
