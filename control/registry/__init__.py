"""What operators declare: typed resources over a store, with the rules that hold for each and between them.

Nouns: ``Resource`` kinds (model, workloads, services, policies), ``Catalogue`` (all of them at one revision),
``Registry`` (apply, delete, read), ``Tokens`` (join tokens), ``Refusal`` (errors: which object, which field, why).
Knows ``control.store`` and ``control.wire``; imported by ``control.watch``, ``control.api`` and ``control.main``.
"""
