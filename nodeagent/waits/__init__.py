"""How long to wait between attempts, and until a renewal.

Nouns: ``Backoff`` (backoff: ever longer waits between failures), ``renewal_wait`` (renewal: when to renew a
certificate). Every wait has a floor, a ceiling and jitter, so neither a broken peer nor a wrong clock makes a loop that
never rests, and a fleet that failed together does not come back together. Pure: clock and randomness are arguments.
Imported by ``client``, ``flows``, ``identity``, ``manager``.
"""
