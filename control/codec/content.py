"""A digest of everything that an agent holds, kept while objects come and go.

Objects are spread over ``BUCKETS`` by their key; the digest of a bucket covers its objects in the order of their keys,
and the digest of the content covers the buckets. So a change costs one bucket, and two contents have the same digest if
and only if they are the same objects of the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from zlib import crc32

BUCKETS = 1024
DIGEST_BYTES = 32
_NOTHING = bytes(DIGEST_BYTES)


class Content:
    """The digest of (kind, uid) -> encoded object."""

    def __init__(self) -> None:
        self._buckets: dict[int, dict[bytes, bytes]] = {}
        self._digests: list[bytes] = [_NOTHING] * BUCKETS
        self._stale: set[int] = set()

    def put(self, kind: str, uid: str, value: bytes | None) -> None:
        """The object is this from now on; None: it is gone."""
        # A kind is a word of ours; a uid may hold a surrogate that somebody made up.
        key = f"{kind}\n{uid}".encode("utf-8", "surrogatepass")
        number = crc32(key) % BUCKETS
        bucket = self._buckets.setdefault(number, {})
        if value is None:
            bucket.pop(key, None)
        else:
            bucket[key] = blake2b(value, digest_size=DIGEST_BYTES).digest()
        self._stale.add(number)

    def settle(self) -> Iterator[None]:
        """Bring the digests of the buckets up to date, a bucket a step."""
        while self._stale:
            number = self._stale.pop()
            bucket = self._buckets[number]
            self._digests[number] = _digest_of(bucket) if bucket else _NOTHING
            yield

    def digest(self) -> str:
        """The digest in hexadecimal. ``settle`` first where it may not take long."""
        for _ in self.settle():
            pass
        return blake2b(b"".join(self._digests), digest_size=DIGEST_BYTES).hexdigest()


def _digest_of(bucket: dict[bytes, bytes]) -> bytes:
    total = blake2b(digest_size=DIGEST_BYTES)
    for key in sorted(bucket):
        total.update(len(key).to_bytes(4, "big") + key + bucket[key])
    return total.digest()
