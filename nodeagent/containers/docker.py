"""Labels that docker keeps of its containers: ``<data root>/containers/<id>/config.v2.json``, written when a container
is created. Asking the daemon would not do: it holds the container's lock while a hook of it runs.
"""

from __future__ import annotations

from pathlib import Path

from nodeagent.containers.facts import read_json, texts


def docker_labels(root: Path, identifier: str) -> dict[str, str] | None:
    """Of one container; None if it is not docker's. StateError if what is there cannot be read."""
    try:
        document = read_json(root / "containers" / identifier / "config.v2.json")
    except FileNotFoundError:
        return None
    config = document.get("Config") if isinstance(document, dict) else None
    return texts(config.get("Labels")) if isinstance(config, dict) else {}
