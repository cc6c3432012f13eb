"""The hot modules of a worker as machine code, made by mypyc from the same Python sources.

Nouns: a *build* (what ``build`` made: extension modules and their ``Manifest``), the ``Finder`` that gives a worker its
modules. A build is used as a whole or not at all: only where it was made for this Python, and from the very sources
that lie beside it. Otherwise the sources run, as they do in every other process, more slowly and to the same effect.

``nodeagent.worker`` calls ``use`` before it imports anything else of the agent's; ``make`` calls ``build``.
"""
