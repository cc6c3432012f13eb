"""The documents of the running agent, as the command line gets them: over its admin port."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any, Final

ANSWER_SECONDS: Final = 10.0
MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024


class NoAgentError(Exception):
    """Nobody answers, or no agent of this version; the text says what to do."""


def fetch(address: str, document: str) -> Any:
    """OSError (HTTPError among them) or ValueError if nobody answers, or not with a document."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{address}/debug/{document}", timeout=ANSWER_SECONDS) as response:
        return json.loads(response.read(MAX_ANSWER_BYTES))


def ask(address: str, document: str) -> Any:
    """``fetch``; NoAgentError says what is the matter."""
    try:
        return fetch(address, document)
    except urllib.error.HTTPError as error:
        error.close()
        raise NoAgentError(
            f"what listens on {address} is no agent of this version (HTTP {error.code}); see 'ports.admin'"
        ) from error
    except (OSError, ValueError) as error:
        raise NoAgentError(
            f"no agent answers on {address} ({getattr(error, 'reason', error)}); is it running? Start it with "
            "'nodeagent run' or 'systemctl start nodeagent'; its port is the setting ports.admin (NODEMESH_PORTS_ADMIN)"
        ) from error
