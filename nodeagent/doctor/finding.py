"""One thing that the doctor looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from nodeagent.tables import table


class Level(StrEnum):
    """How it is. BAD: something does not work; ODD: it works, but an operator should know."""

    GOOD = "ok"
    ODD = "note"
    BAD = "BAD"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and what to do about it (empty where there is nothing to do)."""

    area: str
    level: Level
    text: str
    remedy: str = ""


def documents(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """For programs."""
    return [asdict(finding) for finding in findings]


def as_text(found: Sequence[dict[str, Any]]) -> str:
    """For people: a table, then the remedies of what is not well."""
    rows = [(item["level"], item["area"], item["text"]) for item in found]
    remedies = dict.fromkeys(f"- {item['area']}: {item['remedy']}" for item in found if item["remedy"])
    bad = sum(item["level"] == Level.BAD for item in found)
    verdict = f"{bad} of {len(found)} things looked at are bad" if bad else f"all {len(found)} things looked at will do"
    parts = [table(("", "WHAT", "HOW IT IS"), rows)]
    if remedies:
        parts.append("what to do:\n" + "\n".join(remedies))
    return "\n\n".join([*parts, verdict])
