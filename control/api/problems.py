"""Errors as application/problem+json (RFC 9457), with the field at fault where there is one."""

from __future__ import annotations

import http
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from control.ca.authority import CsrError
from control.kinds.base.fault import Fault
from control.registry.errors import Invalid, Missing, Refusal, Stale, StorageError, TokenRefused
from control.registry.parse import path
from control.registry.registry import BusyError
from control.watch.hub import NotReadyError, TooManyWatchersError

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 1
MAX_TEXT_CHARACTERS = 64 * 1024


class ProblemError(BaseModel):
    """One thing wrong with a request."""

    field: str
    """Its path; empty: the object as a whole."""
    message: str
    index: int = 0
    """Which object of the request, from 0."""
    subject: str = ""
    """The object, such as ``Workload shop/web-0``."""


class Problem(BaseModel):
    """The body of every error."""

    title: str
    status: int
    detail: str
    errors: list[ProblemError] = []


class Denied(Exception):  # noqa: N818 (what happened, said to a caller)
    """The caller may not do this."""

    def __init__(self, detail: str, status: int = 403) -> None:
        super().__init__(detail)
        self.status = status


class TooManyFailuresError(Exception):
    """This caller failed too often."""

    def __init__(self, detail: str, wait: float) -> None:
        super().__init__(detail)
        self.wait = wait


def answer(
    status: int,
    detail: str,
    errors: Sequence[Fault] = (),
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """A problem as a response."""
    items = [
        ProblemError(field=_text(e.field), message=_text(e.message), index=e.index, subject=_text(e.subject))
        for e in errors
    ]
    problem = Problem(title=http.HTTPStatus(status).phrase, status=status, detail=_text(detail), errors=items)
    return JSONResponse(problem.model_dump(), status, headers=headers, media_type=MEDIA_TYPE)


def _text(text: str) -> str:
    """What a request held may be no Unicode text (JSON can name lone surrogates), and may be long."""
    return text[:MAX_TEXT_CHARACTERS].encode("utf-8", "replace").decode("utf-8")


def install(app: FastAPI) -> None:
    """Make every error of the app a problem."""
    app.add_exception_handler(Refusal, _refusal)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _defect)
    app.add_exception_handler(Denied, _denied)
    app.add_exception_handler(TooManyFailuresError, _failures)
    app.add_exception_handler(TokenRefused, _token)
    app.add_exception_handler(CsrError, _csr)
    for kind in (BusyError, NotReadyError, TooManyWatchersError, StorageError):
        app.add_exception_handler(kind, _unavailable)


async def _refusal(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    statuses: dict[type[Refusal], int] = {Invalid: 422, Stale: 409, Missing: 404}
    return answer(statuses.get(type(error), 400), str(error), error.faults)


async def _validation(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = [_request_fault(item) for item in error.errors()]
    return answer(422, "; ".join(str(fault) for fault in faults), faults)


def _request_fault(item: Any) -> Fault:
    location = list(item["loc"])
    if location and location[0] in ("body", "query", "path"):
        location = location[1:]
    if item["type"] == "json_invalid":
        return Fault(f"the body is not JSON: {item.get('ctx', {}).get('error', item['msg'])}")
    return Fault(str(item["msg"]).removeprefix("Value error, "), path(location))


async def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return answer(error.status_code, str(error.detail), headers=dict(error.headers or {}))


async def _defect(_: Request, __: Exception) -> JSONResponse:
    return answer(500, "a defect of control; its log has the details")


async def _denied(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Denied)
    return answer(error.status, str(error))


async def _failures(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, TooManyFailuresError)
    return answer(429, str(error), headers={"Retry-After": str(int(error.wait) + 1)})


async def _token(_: Request, error: Exception) -> JSONResponse:
    return answer(403, str(error), [Fault(str(error), "token")])


async def _csr(_: Request, error: Exception) -> JSONResponse:
    return answer(422, f"csr: {error}", [Fault(str(error), "csr")])


async def _unavailable(_: Request, error: Exception) -> JSONResponse:
    return answer(503, str(error), headers={"Retry-After": str(RETRY_SECONDS)})
