"""The three ways of one worker."""

from __future__ import annotations

from nodeagent.flows.balance import Balancer
from nodeagent.flows.reach.external import ExternalReach
from nodeagent.flows.reach.local import LocalReach
from nodeagent.flows.reach.remote import RemoteReach
from nodeagent.flows.services import Services


class Reach:
    """``local``, ``remote`` and ``external``; they share one balancer."""

    def __init__(self, services: Services, balancer: Balancer) -> None:
        self.balancer = balancer
        self.local = LocalReach(services)
        self.remote = RemoteReach(services)
        self.external = ExternalReach(services, balancer)
