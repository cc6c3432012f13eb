"""Names of the mesh for enrolled workloads: their DNS questions come to the agent, which answers for the mesh's names
and hands everything else, byte for byte, to the resolver that the application chose.

Nouns: ``Question`` (what of a message decides: messages), ``Answer``, ``Forward`` and ``Discard`` (what becomes of a
message: decide, pure), ``Resolver`` (where the application meant to ask), ``DnsListener`` (io: the UDP listeners of one
network namespace), ``DnsStream`` (io: a captured TCP connection to port 53).
Imports ``control.wire``, ``nodeagent.state`` and dnspython; only ``io`` opens sockets. Imported by ``worker`` and, for
captured connections to port 53, handed to the relay as a callable.
"""
