/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What becomes of a connect(), as a pure function of facts. Nothing here touches a context or a map: tests run
 * it through a tc wrapper. */
#ifndef MESH_DECIDE_H
#define MESH_DECIDE_H

#include <stdbool.h>

#include "abi.h"

struct mesh_facts {
	bool known; /* the destination is in the mesh */
	bool resolver; /* it is a resolver's port (53), and the agent answers this process's questions now */
	bool incomplete; /* ... but not every destination of the mesh fitted into the map */
	bool enrolled; /* the process is in an enrolled cgroup, or below one */
	bool confined; /* ... whose egress policy is REGISTRY_ONLY */
	bool sealed; /* no agent has said who is enrolled, or none lives that does, and it is not the agent that connects */
	bool outside; /* the destination is not the namespace itself, or the socket insists on leaving it */
	bool listener; /* the agent serves the socket's network namespace */
	bool served; /* ... now: a worker listens there */
};

struct mesh_decision {
	enum mesh_verdict verdict;
	enum mesh_count reason;
};

/* Whether enrolment can matter at all; spares connections to loopback the walk up the cgroup tree. */
static __always_inline bool mesh_concerned(const struct mesh_facts *facts)
{
	return facts->known || facts->incomplete || facts->resolver || facts->outside;
}

/* Fail closed: whenever an enrolled process may be talking to the mesh and it cannot be taken, it is refused; and so is
 * one that wants out of the mesh and may not, whether or not an agent lives.
 * Fail open, on purpose: what is not known to be in the mesh (while everything fitted, and the workload may go
 * anywhere), and whoever is not enrolled, is not ours to touch. */
static __always_inline struct mesh_decision mesh_decide(const struct mesh_facts *facts)
{
	if (!mesh_concerned(facts))
		return (struct mesh_decision){ MESH_VERDICT_PASS, MESH_COUNT_PASSED_NOT_MESH };
	if (!facts->enrolled) {
		if (!facts->known)
			return (struct mesh_decision){ MESH_VERDICT_PASS, MESH_COUNT_PASSED_NOT_MESH };
		if (facts->sealed)
			return (struct mesh_decision){ MESH_VERDICT_REFUSE, MESH_COUNT_REFUSED_SEALED };
		return (struct mesh_decision){ MESH_VERDICT_PASS, MESH_COUNT_PASSED_NOT_ENROLLED };
	}
	if (!facts->known && facts->resolver && facts->served)
		return (struct mesh_decision){ MESH_VERDICT_CAPTURE, MESH_COUNT_DNS_TCP };
	if (!facts->known && facts->incomplete)
		return (struct mesh_decision){ MESH_VERDICT_REFUSE, MESH_COUNT_REFUSED_INCOMPLETE };
	if (!facts->known && facts->confined && facts->outside)
		return (struct mesh_decision){ MESH_VERDICT_REFUSE, MESH_COUNT_EGRESS_REFUSED };
	if (!facts->known)
		return (struct mesh_decision){ MESH_VERDICT_PASS, MESH_COUNT_PASSED_NOT_MESH };
	if (!facts->listener)
		return (struct mesh_decision){ MESH_VERDICT_REFUSE, MESH_COUNT_REFUSED_NO_LISTENER };
	if (!facts->served)
		return (struct mesh_decision){ MESH_VERDICT_NOBODY, MESH_COUNT_REFUSED_NO_AGENT };
	return (struct mesh_decision){ MESH_VERDICT_CAPTURE, MESH_COUNT_CAPTURED };
}

/* Over a datagram, or a connect() of a socket that sends such: the mesh carries TCP, so whatever an enrolled process sends
 * leaves it. DNS questions that the agent takes are not asked about. MESH_COUNT_END: nothing to count. */
static __always_inline struct mesh_decision mesh_decide_datagram(const struct mesh_facts *facts)
{
	if (!facts->outside || !facts->enrolled || !facts->confined)
		return (struct mesh_decision){ MESH_VERDICT_PASS, MESH_COUNT_END };
	if (facts->known)
		return (struct mesh_decision){ MESH_VERDICT_REFUSE, MESH_COUNT_EGRESS_TO_MESH };
	return (struct mesh_decision){ MESH_VERDICT_REFUSE, MESH_COUNT_EGRESS_REFUSED };
}

struct mesh_arrival {
	__u32 mode; /* enum mesh_port_mode, or whatever the map holds */
	bool agent; /* the agent itself connects */
	bool own; /* the workload connects to itself */
	bool probe; /* a program of the node that is in no workload, and the port is open to such */
	bool listener; /* a worker takes plaintext in this namespace */
};

struct mesh_arrival_decision {
	enum mesh_arrival_verdict verdict;
	enum mesh_count reason; /* MESH_COUNT_END: nothing to count */
};

/* Over a connection to a port of a workload. Fails closed: a mode that is not known is STRICT, and without an agent to
 * apply policy PERMISSIVE lets nobody in either. */
static __always_inline struct mesh_arrival_decision mesh_decide_arrival(const struct mesh_arrival *facts)
{
	if (facts->agent || facts->mode == MESH_PORT_DISABLE)
		return (struct mesh_arrival_decision){ MESH_ARRIVAL_PASS, MESH_COUNT_END };
	if (facts->own)
		return (struct mesh_arrival_decision){ MESH_ARRIVAL_PASS, MESH_COUNT_INBOUND_OWN };
	if (facts->probe)
		return (struct mesh_arrival_decision){ MESH_ARRIVAL_PASS, MESH_COUNT_INBOUND_PROBE };
	if (facts->mode != MESH_PORT_PERMISSIVE)
		return (struct mesh_arrival_decision){ MESH_ARRIVAL_REFUSE, MESH_COUNT_INBOUND_REFUSED };
	if (!facts->listener)
		return (struct mesh_arrival_decision){ MESH_ARRIVAL_REFUSE, MESH_COUNT_INBOUND_NO_AGENT };
	return (struct mesh_arrival_decision){ MESH_ARRIVAL_STEER, MESH_COUNT_INBOUND_STEERED };
}

#endif
