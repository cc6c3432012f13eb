"""The static table (RFC 7541, appendix A)."""

from __future__ import annotations

from typing import Final

from nodeagent.http2.hpack.field import WHOLE, Field

_TABLE: Final = """:authority
:method GET
:method POST
:path /
:path /index.html
:scheme http
:scheme https
:status 200
:status 204
:status 206
:status 304
:status 400
:status 404
:status 500
accept-charset
accept-encoding gzip, deflate
accept-language
accept-ranges
accept
access-control-allow-origin
age
allow
authorization
cache-control
content-disposition
content-encoding
content-language
content-length
content-location
content-range
content-type
cookie
date
etag
expect
expires
from
host
if-match
if-modified-since
if-none-match
if-range
if-unmodified-since
last-modified
link
location
max-forwards
proxy-authenticate
proxy-authorization
range
referer
refresh
retry-after
server
set-cookie
strict-transport-security
transfer-encoding
user-agent
vary
via
www-authenticate"""


def _entries() -> list[Field]:
    """In order of their indexes; there is no index 0."""
    entries = [Field(b"", b"", WHOLE)]
    for line in _TABLE.splitlines():
        name, _, value = line.partition(" ")
        entries.append(Field(name.encode(), value.encode(), WHOLE))
        entries[-1].literal = bytes((0x80 | len(entries) - 1,))
    return entries


STATIC: Final[list[Field]] = _entries()
"""Indexes 1 to 61."""
FIRST_DYNAMIC: Final = 62
"""The index of the newest entry of a dynamic table."""
STATIC_INDEX: Final[dict[Field, int]] = {entry: index for index, entry in enumerate(STATIC) if index}
STATIC_NAME: Final[dict[bytes, int]] = {
    entry.name: index for index, entry in reversed(list(enumerate(STATIC))) if index
}
"""The first index of each name."""
