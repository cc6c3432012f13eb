"""The hot modules of a worker as machine code, made by mypyc from the same Python sources.

Nouns: ``Manifest`` (finder: what a build contains and which sources it was made from), ``Finder``
(finder: gives a worker its modules).

A build is used as a whole or not at all: only where it was made for this Python and from exactly
the sources beside it. Otherwise the sources run interpreted, with the same results at a higher
cost.

``nodeagent.worker`` calls ``use`` before it imports any other room; ``make`` calls ``build``.
Imported by ``main``, ``worker``.
"""
