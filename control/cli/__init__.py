"""``meshctl``: the operator's command line, a client of the public API.

Nouns: ``Client`` (client), ``Access`` (the URL of control and the operator's credentials; access), ``Document`` (one
object of a file; documents), ``Description`` (describe), tables (tables). Knows ``control.kinds`` and ``control.wire``;
nobody imports it.
"""
