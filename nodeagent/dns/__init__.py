"""DNS for enrolled workloads. Their questions reach the agent, which answers for the names of the
mesh and forwards everything else, byte for byte, to the resolver that the application chose.

Nouns: ``Question`` (messages: the parts of a message that decide), ``Answer``, ``Forward`` and
``Discard`` (decide: what happens to a message; pure), ``Resolvers`` (io.lookup: where the
application meant to ask), ``DnsListener`` (io.udp: the UDP listeners of one network namespace),
``DnsStream`` (io.tcp: a captured TCP connection to port 53). Only ``io`` opens sockets. The relay
gets captured connections to port 53 taken off its hands by a callable.
Imported by ``worker``.
"""
