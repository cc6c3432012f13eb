"""`python -m nodeagent.worker`: which modules it runs is settled before any of them is imported."""

import sys

from nodeagent.compiled import finder

if __name__ == "__main__":
    why = "it was asked for" if finder.INTERPRETED in sys.argv else finder.use()
    from nodeagent.worker.main import main

    sys.exit(main(interpreted_because=why))
