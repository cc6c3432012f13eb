"""Keeps an SVID for each identity of the workloads placed on this node: gets, renews, keeps on disk, hands to the
workers."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable

from nodeagent.channel import Svid
from nodeagent.client.issuer import IssueError, Issuer
from nodeagent.client.statefile import StateDirectory, StoredSvid
from nodeagent.identity.keys import SvidError, SvidMaterial, load_svid
from nodeagent.identity.rotation import IdentityStatus, Rotation, RotationStep

MAX_REQUESTS = 8
"""Requests to control that are under way at once."""
REQUEST_SECONDS = 30.0
MAX_SLEEP_SECONDS = 60.0
"""The clock is looked at this often: it may be set."""

logger = logging.getLogger(__name__)


class SvidKeeper:
    """Every identity that this node speaks for. ``publish`` hands an SVID to the workers; an empty chain takes it
    away."""

    def __init__(self, issuer: Issuer, directory: StateDirectory, publish: Callable[[Svid], None]) -> None:
        self._issuer = issuer
        self._directory = directory
        self._publish = publish
        self._rotations: dict[str, Rotation] = {}
        self._stored: dict[str, SvidMaterial] = {}
        self._requests: dict[str, asyncio.Task[None]] = {}
        self._woken = asyncio.Event()
        self.renewals: dict[str, int] = {}
        self.failures: dict[str, int] = {}

    def restore(self) -> None:
        """Read what is on disk; each is used as soon as its identity is wanted."""
        for stored in self._directory.load_svids():
            try:
                material = load_svid(stored.chain, stored.key)
            except SvidError as error:
                logger.error("the SVID of %s on disk is not used: %s", stored.identity, error)
                continue
            self._stored[str(material.identity)] = material

    def want(self, identities: Iterable[str]) -> None:
        """These, and no others, are the identities of this node's workloads now."""
        wanted = set(identities)
        for identity in wanted - self._rotations.keys():
            self._add(identity)
        for identity in self._rotations.keys() - wanted:
            self._remove(identity)
        self._woken.set()

    def hurry(self) -> None:
        """Something changed that may make requests succeed (the node has joined): look at once."""
        self._woken.set()

    def statuses(self) -> list[IdentityStatus]:
        """Where every identity stands."""
        now = time.time()
        return [self._rotations[identity].status(now) for identity in sorted(self._rotations)]

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self._woken.clear()
                delay = self._step(time.time())
                try:
                    async with asyncio.timeout(delay):
                        await self._woken.wait()
                except TimeoutError:
                    pass
        finally:
            for task in self._requests.values():
                task.cancel()

    def _add(self, identity: str) -> None:
        rotation = self._rotations[identity] = Rotation(identity, random.random)
        stored = self._stored.pop(identity, None)
        if stored is None:
            return
        if rotation.issued(time.time(), stored.not_before.timestamp(), stored.not_after.timestamp()):
            self._hand_out(stored)
        else:
            logger.warning("the SVID of %s on disk has expired", identity)

    def _remove(self, identity: str) -> None:
        del self._rotations[identity]
        for table in (self._stored, self.renewals, self.failures):
            table.pop(identity, None)
        request = self._requests.pop(identity, None)
        if request is not None:
            request.cancel()
        self._publish(Svid(identity=identity, chain="", key=""))
        try:
            self._directory.drop_svid(identity)
        except OSError as error:
            logger.error("the SVID of %s cannot be taken off the disk: %s", identity, error)

    def _step(self, now: float) -> float:
        """Do what is due for every identity; seconds until something else is."""
        wake = now + MAX_SLEEP_SECONDS
        for identity, rotation in self._rotations.items():
            action = rotation.next_action(now)
            if action.step is RotationStep.EXPIRE:
                rotation.expired(now)
                logger.error("the SVID of %s has expired; its connections are refused until a new one comes", identity)
                self._publish(Svid(identity=identity, chain="", key=""))
                action = rotation.next_action(now)
            if action.step is RotationStep.REQUEST and len(self._requests) < MAX_REQUESTS:
                rotation.requested()
                task = asyncio.get_running_loop().create_task(self._request(rotation), name=f"svid-{identity}")
                self._requests[identity] = task
            elif action.step is RotationStep.WAIT and action.at is not None:
                wake = min(wake, action.at)
        return max(0.0, wake - now)

    async def _request(self, rotation: Rotation) -> None:
        identity = rotation.identity
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                material = await self._issuer.issue(identity)
        except TimeoutError:
            self._failed(rotation, "control did not answer in time, or the node has not joined yet")
        except IssueError as error:
            self._failed(rotation, str(error))
        except Exception as error:  # a defect with one identity must not stop the others
            logger.exception("requesting the SVID of %s failed", identity)
            self._failed(rotation, repr(error))
        else:
            self._issued(rotation, material)
        finally:
            if self._rotations.get(identity) is rotation:
                self._requests.pop(identity, None)
            self._woken.set()

    def _issued(self, rotation: Rotation, material: SvidMaterial) -> None:
        identity = rotation.identity
        if not rotation.issued(time.time(), material.not_before.timestamp(), material.not_after.timestamp()):
            self._count_failure(identity, rotation.status(time.time()).last_error)
            return
        self.renewals[identity] = self.renewals.get(identity, 0) + 1
        logger.info("SVID of %s: valid until %s", identity, material.not_after.isoformat())
        self._hand_out(material)
        try:
            stored = StoredSvid(identity=identity, chain=material.chain_pem, key=material.key_pem)
            self._directory.save_svid(stored)
        except OSError as error:
            logger.error("the SVID of %s cannot be written to disk: %s", identity, error)

    def _failed(self, rotation: Rotation, why: str) -> None:
        news = rotation.status(time.time()).last_error != why
        rotation.refused(time.time(), why)
        self._count_failure(rotation.identity, why if news else "")

    def _count_failure(self, identity: str, why: str) -> None:
        self.failures[identity] = self.failures.get(identity, 0) + 1
        if why:
            logger.error("no new SVID of %s: %s; retrying", identity, why)

    def _hand_out(self, material: SvidMaterial) -> None:
        self._publish(Svid(identity=str(material.identity), chain=material.chain_pem, key=material.key_pem))
