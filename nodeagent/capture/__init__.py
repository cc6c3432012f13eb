"""Which cgroups are captured, and where captured connections were meant to go.

Nouns: ``Capture`` (controller: the manager's handle), ``CgroupTree`` (cgroups: from selectors to
cgroups), ``Difference`` and ``Enrolment`` (plan: pure; which cgroup belongs to which workload),
``FlowTable`` (origdst: original destinations, read from the kernel), ``ClientTable`` (clients: on
whose behalf the agent connects), ``DoorKeeper`` and ``WorkerSockets`` (doors: the agent's ports and
the sockets that serve them), ``InboundGuard`` (inbound: how arriving connections are treated),
``ports_of`` (ports: the same as a table; pure), ``Claim`` (plan: what a workload selects), ``Held``
(held: a process that waits until it is captured).
Imported by ``cli``, ``doctor``, ``enrolment``, ``local``, ``main``, ``manager``, ``relay``,
``trace``, ``worker``.
"""
