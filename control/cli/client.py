"""Requests to control, and its errors in words."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from typing import Any

import httpx

from control.cli.access import Access
from control.kinds.base.fault import Fault

TIMEOUT_SECONDS = 30.0
CONNECT_SECONDS = 10.0


class ControlError(Exception):
    """Control refused, or could not be reached."""

    def __init__(self, detail: str, status: int = 0, faults: tuple[Fault, ...] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.faults = faults


class Client:
    """One connection to control, made at the first request: ``--help`` needs no credentials."""

    def __init__(self, access: Callable[[], Access]) -> None:
        self._access = access
        self._url = ""
        self._opened: httpx.Client | None = None

    def _http(self) -> httpx.Client:
        if self._opened is not None:
            return self._opened
        access = self._access()
        self._url = access.control
        try:
            context = ssl.create_default_context(cafile=access.credentials / "ca.pem")
            context.load_cert_chain(access.credentials / "cert.pem", access.credentials / "key.pem")
        except (OSError, ssl.SSLError) as error:
            raise ControlError(f"{access.credentials}: the credentials cannot be read: {error}") from error
        self._opened = httpx.Client(
            base_url=access.control,
            verify=context,
            trust_env=False,
            timeout=httpx.Timeout(TIMEOUT_SECONDS, connect=CONNECT_SECONDS),
        )
        return self._opened

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._opened is not None:
            self._opened.close()

    def get(self, path: str, **query: str | None) -> Any:
        """Return the JSON of the answer; ControlError if control refuses or cannot be reached."""
        return self._call("GET", path, params={k: v for k, v in query.items() if v is not None})

    def post(self, path: str, body: Any) -> Any:
        """Return the JSON of the answer; ControlError if control refuses or cannot be reached."""
        content = json.dumps(body).encode()
        return self._call("POST", path, content=content, headers={"Content-Type": "application/json"})

    def delete(self, path: str) -> None:
        """Delete a resource or token by its path."""
        self._call("DELETE", path)

    def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = self._http().request(method, path, **options)
        except httpx.TransportError as error:
            raise ControlError(f"{self._url}: {_explain(error)}") from error
        except httpx.InvalidURL as error:
            raise ControlError(f"{self._url} is not a URL: {error}") from error
        if response.is_success:
            return response.json() if response.content else None
        raise _problem(response)


def _explain(error: httpx.TransportError) -> str:
    text = str(error)
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time; is control running there, and no firewall between?"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"this is not the control of the credentials, or it is not advertised by this name ({text})"
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        return "control closed the connection; are the credentials expired, or of another mesh?"
    if "refused" in text:
        return "connection refused; is control running there? (--control, NODEMESH_CONTROL)"
    return text or type(error).__name__


def _problem(response: httpx.Response) -> ControlError:
    try:
        body = response.json()
        faults = tuple(
            Fault(str(e["message"]), str(e.get("field", "")), int(e.get("index", 0)), str(e.get("subject", "")))
            for e in body.get("errors", ())
        )
        return ControlError(str(body["detail"]), response.status_code, faults)
    except (ValueError, KeyError, TypeError, AttributeError):
        return ControlError(f"control answered {response.status_code} {response.reason_phrase}", response.status_code)
