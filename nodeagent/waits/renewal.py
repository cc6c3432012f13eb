"""When to renew a certificate: about half of its life after its issue, whatever the clocks say.

The times in a certificate are the issuer's, ``now`` is this host's, and either clock may be wrong. A difference of the
two is therefore never a wait by itself. It has a lower bound, so that a clock far ahead makes no storm of renewals, and
an upper bound, so that a clock far behind does not sleep over the expiry.
"""

from __future__ import annotations

from typing import Final

RENEW_AT: Final = 0.5
"""Share of a certificate's life after which it is renewed."""
RENEW_JITTER: Final = 0.1
"""Width of the window around RENEW_AT, as a share of the life: 0.45 to 0.55."""
BACKDATING_SECONDS: Final = 60.0
"""Control's CA dates certificates back by this, for slow clocks; that part of the life was over before it began."""
SOON_SECONDS: Final = 10.0
"""A renewal that is overdue waits this long, up to twice, or a quarter of what is left of the life if that is less."""
SHORTEST_SECONDS: Final = 1.0
"""No renewal comes sooner after the certificate before it."""
WRONG_CLOCK_SECONDS: Final = 30.0
"""Of a certificate that has expired by this host's clock: up to twice as long. Asking sooner does not mend a clock."""
CLOCK_SLACK_SECONDS: Final = 1.0
"""How much longer than planned a wait may look before the clock counts as set back."""


def renewal_wait(not_before: float, not_after: float, now: float, draw: float, *, fresh: bool) -> float:
    """Seconds from ``now`` until a certificate is to be renewed, at least SHORTEST_SECONDS.

    Times are seconds since 1970; ``draw`` is random, from [0, 1). ``fresh``: the certificate has just been issued, so
    its life is all ahead, and by a clock that says otherwise half of the rest is waited for. One that is not fresh was
    kept from before a restart.
    """
    begin = max(not_before, min(now, not_before + BACKDATING_SECONDS))
    share = RENEW_AT + RENEW_JITTER * (draw - 0.5)
    half = share * (not_after - begin)
    wait = share * (not_after - max(begin, now)) if fresh else min(begin + half - now, half)
    left = not_after - now
    floor = WRONG_CLOCK_SECONDS if left <= 0 else max(SHORTEST_SECONDS, min(SOON_SECONDS, left / 4))
    return max(wait, floor * (1.0 + draw))


def remaining(due: float, planned: float, now: float) -> float:
    """Seconds left of a wait of ``planned`` seconds that ends at ``due`` by this host's clock; 0: it is over.

    It is over too if more is left than was planned: the clock was set back, and how long ago the wait began is unknown.
    """
    left = due - now
    return 0.0 if left > planned + CLOCK_SLACK_SECONDS else max(0.0, left)
