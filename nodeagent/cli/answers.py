"""The answers of the running agent, as the command line gets them: over the agent's own socket."""

from __future__ import annotations

from typing import Any

from nodeagent.config import Config
from nodeagent.local.client import LocalAgent, RefusedAnswerError
from nodeagent.local.trust import UntrustedPathError


class NoAgentError(Exception):
    """Nobody answers, or no agent of this version; the text says what to do."""


def fetch(config: Config, document: str) -> Any:
    """A document. OSError or ValueError if nobody answers, or not with a document."""
    try:
        return LocalAgent(config.agent_socket).document(document)
    except UntrustedPathError as error:
        raise PermissionError(str(error)) from error
    except (RefusedAnswerError, KeyError) as error:
        raise ValueError(str(error)) from error


def ask(config: Config, document: str) -> Any:
    """``fetch``; NoAgentError says what is the matter."""
    try:
        return fetch(config, document)
    except ValueError as error:
        raise NoAgentError(
            f"what answers on {config.agent_socket} is no agent of this version ({error}); restart the agent"
        ) from error
    except OSError as error:
        raise NoAgentError(
            f"no agent answers on {config.agent_socket} ({error.strerror or error}); is it running? Start it with"
            " 'nodeagent run' or 'systemctl start nodeagent'; where its socket is, the settings run_dir"
            " (NODEMESH_RUN_DIR) and instance (NODEMESH_INSTANCE) say"
        ) from error
