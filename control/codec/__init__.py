"""Encodes and decodes the wire model (``control.wire``) as JSON. The only importer of ``msgspec``.

Nouns: ``to_json`` and ``from_json`` (values: a dataclass to bytes and back), ``encode`` and ``decode``
(values: to JSON values and back), ``write_line`` and ``read_line`` (lines: a batch as one line of
NDJSON, read in steps), ``Content`` (content: a digest of everything that an agent holds).

``control.wire`` stays a leaf of the standard library, so the library lives here. No I/O, no clock.
Imported by ``control`` and ``nodeagent``.
"""
