from __future__ import annotations

import asyncio
import hashlib
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from control.wire.ids import SpiffeId
from control.wire.signing import JOIN_PATH, RENEW_PATH, TRUST_BUNDLE_PATH
from nodeagent.client.join import JoinError, NodeCredential, join, pinned_root, renew, token_pin
from nodeagent.client.tls import control_context
from nodeagent.client.transport import ControlError, Transport
from tests.support import pki
from tests.support.fake_control import CONTROL_ID, FakeControl

NODE_ID = "spiffe://mesh.internal/node/node-a"


def pin(root: pki.Authority) -> str:
    der = x509.load_pem_x509_certificate(root.pem.encode()).public_bytes(Encoding.DER)
    return hashlib.sha256(der).hexdigest()


def token(root: pki.Authority) -> str:
    return f"nm1.abc.secret.{pin(root)}"


def control_of(
    root: pki.Authority,
    *,
    identity: str = CONTROL_ID,
    bundle: tuple[str, ...] = (),
    lifetime: timedelta = timedelta(hours=24),
) -> FakeControl:
    """A control whose certificate ``root`` signed and that signs whatever it is asked."""

    def certificate(body: dict[str, Any]) -> tuple[int, Any]:
        chain = pki.sign_csr(root, body["csr"], lifetime=lifetime)
        answer = {"node": "node-a", "chain": chain, "trust_domain": "mesh.internal", "certificates": [root.pem]}
        return 200, answer

    fake = FakeControl(leaf=pki.make_svid(root, identity), client_roots=(root.pem,))
    fake.answers[TRUST_BUNDLE_PATH] = lambda _: (
        200, {"trust_domain": "mesh.internal", "certificates": list(bundle or (root.pem,))},
    )  # fmt: skip
    fake.answers[JOIN_PATH] = certificate
    fake.answers[RENEW_PATH] = certificate
    return fake


def attempt(fake: FakeControl, text: str, node: str = "node-a") -> NodeCredential:
    async def run() -> NodeCredential:
        async with fake.running():
            return await join(fake.url, text, node)

    return asyncio.run(run())


def paths(fake: FakeControl) -> list[str]:
    return [target for target, _ in fake.requests]


def test_a_token_makes_a_member() -> None:
    root = pki.make_root()
    fake = control_of(root)
    credential = attempt(fake, token(root))
    assert (credential.node, credential.trust_domain, credential.roots) == ("node-a", "mesh.internal", (root.pem,))
    assert credential.validity()[1] > pki.now()
    assert fake.requests[1] == (
        JOIN_PATH,
        {"token": token(root), "csr": fake.requests[1][1]["csr"], "node": "node-a"},
    )


def test_an_impostor_with_the_real_bundle_never_sees_the_token() -> None:
    real, impostor = pki.make_root(), pki.make_root()
    fake = control_of(impostor, bundle=(real.pem, impostor.pem))
    with pytest.raises(ControlError, match="cannot be reached"):
        attempt(fake, token(real))
    assert paths(fake) == [TRUST_BUNDLE_PATH]


def test_another_mesh_is_told_apart_by_the_pin() -> None:
    root = pki.make_root()
    fake = control_of(root)
    with pytest.raises(JoinError, match="does not belong to the mesh"):
        attempt(fake, token(pki.make_root()))
    assert paths(fake) == [TRUST_BUNDLE_PATH]


@pytest.mark.parametrize("identity", [pki.WEB, NODE_ID, "spiffe://other.example/control"])
def test_somebody_else_of_the_mesh_is_not_control(identity: str) -> None:
    root = pki.make_root()
    fake = control_of(root, identity=identity)
    with pytest.raises(ControlError, match=r"expected spiffe://mesh.internal/control|trust domain"):
        attempt(fake, token(root))
    assert paths(fake) == [TRUST_BUNDLE_PATH], "the token was not sent"


def test_a_token_that_was_used_is_explained() -> None:
    root = pki.make_root()
    fake = control_of(root)
    fake.answers[JOIN_PATH] = lambda _: (403, {"title": "Forbidden", "detail": "used already: make another"})
    with pytest.raises(JoinError, match=r"^control refused \(403\): used already: make another$"):
        attempt(fake, token(root))


def test_a_control_that_is_down_is_no_verdict_on_the_token() -> None:
    root = pki.make_root()
    fake = control_of(root)
    fake.answers[JOIN_PATH] = lambda _: (503, {"title": "Unavailable"})
    with pytest.raises(ControlError) as caught:
        attempt(fake, token(root))
    assert not caught.value.refused


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"node": "node-b"}, "control says that this node is 'node-b'"),
        ({"trust_domain": "evil.example"}, "changed the trust domain"),
        ({"chain": "nonsense"}, "cannot be used"),
        ({"certificates": []}, "cannot be used"),
        ({"chain": pki.make_svid(pki.make_root(), NODE_ID).chain_pem}, "cannot be used"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(change: dict[str, Any], words: str) -> None:
    root = pki.make_root()
    fake = control_of(root)
    sign = fake.answers[JOIN_PATH]
    fake.answers[JOIN_PATH] = lambda body: (200, {**sign(body)[1], **change})
    with pytest.raises(JoinError, match=words):
        attempt(fake, token(root))


@pytest.mark.parametrize(
    "text", ["", "nm1.a.b", "nm2.a.b." + "0" * 64, "nm1.a.b." + "0" * 63, "nm1.a.b." + "G" * 64, "nm1..b." + "0" * 64]
)
def test_what_is_no_token_is_refused_before_anybody_is_asked(text: str) -> None:
    with pytest.raises(JoinError, match="malformed"):
        token_pin(text)


def test_only_the_pinned_root_is_believed() -> None:
    real, other = pki.make_root(), pki.make_root()
    assert pinned_root((other.pem, "nonsense", real.pem), pin(real)) == real.pem


def test_renewal_uses_the_present_certificate_and_a_new_key() -> None:
    root = pki.make_root()
    fake = control_of(root)

    async def run() -> tuple[NodeCredential, NodeCredential]:
        async with fake.running():
            first = await join(fake.url, token(root), "node-a")
            transport = first.transport(fake.url)
            try:
                return first, await renew(transport, first)
            finally:
                await transport.aclose()

    first, second = asyncio.run(run())
    assert first.key != second.key
    assert paths(fake)[-1] == RENEW_PATH


def answer_of(fake: FakeControl, root: pki.Authority) -> ControlError:
    async def run() -> ControlError:
        context = control_context([root.pem], SpiffeId.parse(CONTROL_ID))
        async with fake.running():
            transport = Transport(fake.url, context)
            try:
                with pytest.raises(ControlError) as caught:
                    await transport.get(TRUST_BUNDLE_PATH, NodeCredential)
            finally:
                await transport.aclose()
        return caught.value

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (422, {"title": "Bad", "errors": [{"field": "csr", "message": "empty"}]}, "csr: empty"),
        (500, b"<html>oops", "oops"),
        (500, b"", "no reason given"),
        (500, {"errors": 5}, "errors"),
        (200, b"not json", "cannot be read"),
        (200, {"node": 5}, "cannot be read"),
        (200, b"x" * (5 * 1024 * 1024), "longer than"),
        (302, b"", "refused"),
    ],
)
def test_whatever_control_answers_is_one_clear_error(status: int, body: Any, words: str) -> None:
    root = pki.make_root()
    fake = control_of(root)
    fake.answers[TRUST_BUNDLE_PATH] = lambda _: (status, body)
    assert words in str(answer_of(fake, root))


@pytest.mark.parametrize("name", ["expired", "CA flag", "no key usage", "two URI SANs"])
def test_a_control_with_a_wrong_certificate_is_not_talked_to(name: str) -> None:
    root = pki.make_root()
    fake = control_of(root)
    fake.leaf = pki.BAD_SVIDS[name](root)
    error = answer_of(fake, root)
    assert error.status is None
    assert fake.requests == []
