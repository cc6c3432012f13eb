"""The control service: what operators declare, revisioned and validated, becomes what every agent is told.

Rooms: ``store`` (bytes under keys at revisions), ``registry`` (resources and their rules), ``watch`` (discovery
objects, snapshot and deltas), ``ca`` (certificates), ``api`` (HTTP for agents and operators), ``cli`` (``meshctl``),
``wire`` (the contract with the agents, the only room that they may import). ``main`` puts them together.
"""
