"""Signing in: a browser shows the token once, since its pictures can't send it each time."""

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pixtide.schemas.base import Contract
from pixtide.streams.web.bodies import json_body
from pixtide.streams.web.guard import COOKIE, Access
from pixtide.streams.web.problems import ApiError
from pixtide.streams.web.rates import Rate

_MOST_BYTES = 16 * 1024
_MAX_AGE_S = 30 * 24 * 60 * 60


class SignIn(Contract):
    """What is sent to sign in."""

    token: str = Field(max_length=4096)


class Session:
    """Gives a browser that shows the token a cookie that stands for it."""

    def __init__(self, access: Access, rate: Rate) -> None:
        self._access = access
        self._rate = rate

    def routes(self) -> list[Route]:
        """What this serves."""
        return [Route("/api/session", self._sign_in, methods=["POST"])]

    async def _sign_in(self, request: Request) -> Response:
        self._rate.spend(request)
        sent = SignIn.from_json(await json_body(request, _MOST_BYTES))
        if not self._access.knows(sent.token):
            raise ApiError(401, "WRONG_TOKEN", "this is not the token")
        answer = Response(status_code=204, headers={"cache-control": "no-store"})
        answer.set_cookie(
            COOKIE,
            self._access.cookie(),
            max_age=_MAX_AGE_S,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return answer
