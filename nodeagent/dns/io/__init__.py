"""The sockets of DNS: listeners on loopback, questions handed on to resolvers, captured TCP
connections to port 53.

Nouns: ``DnsListener`` (udp), ``DnsStream`` (tcp), ``DnsContext`` (desk: what both share: the decision,
counts, how to make a socket in the namespace of who asks).

Only ``nodeagent.worker`` imports it.
"""
