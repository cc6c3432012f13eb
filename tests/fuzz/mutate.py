"""What the targets share: bytes spoiled at random from a seed that is printed, and a loop of a fixed number of runs.

python tests/fuzz/fuzz_wire.py --runs 10000 --seed 7
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence

MAX_INPUT = 64 * 1024
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x30, 0x06, 0x86, ord('"'), ord("{"), ord("["), ord("\\"), ord("-"))


def mutate(rng: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """A few random edits: flipped bits, overwritten, dropped, doubled and foreign slices."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        end = min(len(out), at + rng.choice((1, 1, 2, 4, 16, 64)))
        match rng.randrange(6):
            case 0 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(out):
                out[at] = rng.choice(INTERESTING)
            case 2:
                del out[at:end]
            case 3:
                out[at:at] = out[at:end]
            case 4:
                out[at:at] = rng.randbytes(end - at)
            case _:
                other = rng.choice(corpus)
                start = rng.randrange(len(other) + 1)
                out[at:end] = other[start : start + rng.choice((1, 8, 64, 512))]
    return bytes(out[:MAX_INPUT])


def run(target: Callable[[random.Random, bytes], bool], corpus: Sequence[bytes], argv: Sequence[str]) -> int:
    """Call the target with each input; it returns whether the input was accepted and raises if the invariant broke."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args(argv)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    rng = random.Random(seed)
    started, accepted, data = time.monotonic(), 0, b""
    try:
        for data in corpus:
            accepted += target(rng, data)
        for _ in range(options.runs):
            data = mutate(rng, rng.choice(corpus), corpus)
            accepted += target(rng, data)
    except Exception:
        print(f"seed {seed}: the invariant broke on\n{data.hex()}", file=sys.stderr)
        raise
    total = options.runs + len(corpus)
    print(f"seed {seed}: {total} inputs, {accepted} accepted, {time.monotonic() - started:.1f} s")
    return 0
