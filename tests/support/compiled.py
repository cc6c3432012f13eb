"""A plugin (`pytest -p tests.support.compiled`): the tests of this process see the compiled modules."""

from nodeagent.compiled import finder

PROBLEM = finder.use()
if PROBLEM:
    raise RuntimeError(PROBLEM)
