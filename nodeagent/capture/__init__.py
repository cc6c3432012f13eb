"""Who is captured, and what captured connections were meant for.

Nouns: ``Capture`` (controller: the manager's handle), ``CgroupTree`` (cgroups: selectors to cgroups), ``Difference``
(plan: pure), ``Enrolment`` (plan: cgroup id to workload), ``FlowTable`` (origdst: the workers' question to the kernel),
``ClientTable`` (clients: for whom the agent connects), ``InboundGuard`` and ``SteerTable`` (inbound: how plaintext from
outside the mesh is met), ``ports_of`` (ports: the same as a table; pure). Imports ``loader``, ``namespaces`` and
``control.wire``; imported by the manager, the CLI, and (origdst, clients, inbound) by workers and relay.
"""
