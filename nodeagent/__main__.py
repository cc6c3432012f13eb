"""``python -m nodeagent`` is ``nodeagent``."""

from __future__ import annotations

from nodeagent.cli.main import main

main()
