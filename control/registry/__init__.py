"""The resources that operators declare, in a store, with the rules that hold between them.

Nouns: ``parse`` (JSON -> resource or faults), ``Catalogue`` (all resources at one revision), ``check`` (validate:
rules between resources), ``Registry`` (apply, delete, read), ``Tokens`` (join tokens), ``Refusal`` (errors: which
object, which field, why). Knows ``control.store``, ``control.kinds`` and ``control.wire``; imported by
``control.watch``, ``control.api`` and ``control.main``.
"""
