"""Errors of the API: an HTTP status, and JSON of the shape that a search reply's error has."""

import logging
import time
from collections.abc import Mapping

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from pixtide.schemas.base import Contract, explain
from pixtide.schemas.errors import (
    FatalError,
    PixtideError,
    PoisonError,
    RequestError,
    TransientError,
    UsageError,
)
from pixtide.schemas.queries import SearchError

logger = logging.getLogger(__name__)

#: Characters of a message that a client is told.
_LONGEST = 1000
#: Every request fails while a server is away: one line in so many seconds says so.
_QUIET_S = 5.0


class Failure(Contract):
    """What every answer that is no success holds."""

    error: "ErrorDetail"


class ErrorDetail(Contract):
    """What is wrong, for a program and for a person."""

    code: str
    message: str
    retryable: bool = False


class ApiError(PixtideError):
    """A request to the API can't be served."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.message}"


def json_response(
    body: Contract, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A contract as JSON; nobody keeps it."""
    return Response(
        body.to_json(),
        status,
        {"cache-control": "no-store", **(headers or {})},
        media_type="application/json",
    )


def respond(problem: ApiError) -> Response:
    """A problem as JSON. What the world's state is to blame for may be asked again."""
    detail = ErrorDetail(
        code=problem.code,
        message=shortened(problem.message),
        retryable=problem.status in (429, 503),
    )
    return json_response(Failure(error=detail), problem.status, problem.headers)


def shortened(message: str) -> str:
    """A message of a length that a person may read, and that can be written as JSON."""
    sound = message[: _LONGEST + 1].encode(errors="replace").decode()
    return sound if len(message) <= _LONGEST else f"{sound[:_LONGEST]}…"


def status_of(error: SearchError) -> int:
    """The HTTP status of a search that was answered with an error."""
    return 503 if error.retryable else 400


async def problem_handler(_: Request, error: Exception) -> Response:
    """The answer to each of our errors, and to those of the framework."""
    return respond(_as_problem(error))


def unavailable(
    error: Exception,
    code: str = "UNAVAILABLE",
    what: str = "a server that this needs is away or slow",
) -> ApiError:
    """Something behind the page is away. Which, with its address, is for the log alone."""
    _seldom.warn(error)
    return ApiError(503, code, f"{what}; the page's log says why", {"retry-after": "2"})


class _Seldom:
    """Warns of the like once in a while."""

    def __init__(self) -> None:
        self._warned_at = float("-inf")

    def warn(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._warned_at >= _QUIET_S:
            self._warned_at = now
            logger.warning("a request can't be served: %s", error)


_seldom = _Seldom()


def _as_problem(error: Exception) -> ApiError:
    match error:
        case ApiError():
            return error
        case PoisonError():
            return ApiError(422, error.code, error.message)
        case RequestError():
            return ApiError(400, error.code, error.message)
        case TransientError() | UsageError() | FatalError():
            return unavailable(error)
        case ClientDisconnect():
            return ApiError(400, "DISCONNECTED", "the request ended before its body did")
        case ValidationError():
            return ApiError(400, "MALFORMED_REQUEST", explain(error))
        case HTTPException():
            code = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}.get(error.status_code, "REFUSED")
            return ApiError(error.status_code, code, error.detail, error.headers)
        case _:
            logger.error("a request failed", exc_info=error)
            return ApiError(500, "INTERNAL", "the request failed; the server's log says why")
