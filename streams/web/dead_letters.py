"""Dead letters: what could not be indexed and why, and trying it again."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from encoders.decoding import DecoderPool
from schemas.base import Contract
from schemas.errors import UsageError
from streams.dead_letters import DeadLetter, DeadLetters, LetterState
from streams.retrying import Retrier, plan_retry
from streams.web.guard import PICTURE_POLICY
from streams.web.problems import ApiError, json_response
from streams.web.rates import Rate

#: Letters in one answer, the latest first; the counts are of all.
_MOST = 200
_SIDE = 400
#: The whole topic is read for a list: all who look share one of this age.
_FRESH_S = 2.0


class LetterView(Contract):
    """One dead letter. `place` is where it lies, `source` its record in the log."""

    place: str
    image_id: str
    arrived_at: datetime
    code: str
    stage: str
    message: str
    generation: str
    state: LetterState
    size: int
    source: str

    @classmethod
    def of(cls, letter: DeadLetter) -> "LetterView":
        """A letter as the API tells it."""
        source = letter.source
        return cls(
            place=letter.place,
            image_id=letter.image_id,
            arrived_at=datetime.fromtimestamp(max(letter.arrived_ms, 0) / 1000, UTC),
            code=letter.code,
            stage=letter.stage,
            message=letter.message,
            generation=letter.generation,
            state=letter.state,
            size=letter.size,
            source=f"{source.topic}, partition {source.partition}, offset {source.offset}"
            if source
            else "",
        )


class Letters(Contract):
    """The latest letters, and how many of all are in each state."""

    letters: tuple[LetterView, ...]
    counts: dict[LetterState, int]


class Retry(Contract):
    """Which letters to try again: those at these places; healed and superseded ones are not."""

    places: tuple[str, ...] = Field(min_length=1, max_length=_MOST)


class Retried(Contract):
    """How many were sent to the retry topic, and why others were not."""

    sent: int
    refused: tuple[str, ...]


class DeadLetterApi:
    """Reads and retries letters, one request at a time; connects when first asked."""

    def __init__(
        self,
        source: Callable[[], DeadLetters],
        retrier: Callable[[DeadLetters], Retrier],
        decoders: DecoderPool,
        rate: Rate,
        *,
        read_only: bool,
    ) -> None:
        self._make = source
        self._make_retrier = retrier
        self._decoders = decoders
        self._rate = rate
        self._read_only = read_only
        self._lock = threading.Lock()
        self._source: DeadLetters | None = None
        self._letters: list[DeadLetter] = []
        self._read_at = float("-inf")

    def routes(self) -> list[Route]:
        """What this serves."""
        return [
            Route("/api/dead-letters", self._list, methods=["GET"]),
            Route("/api/dead-letters/retry", self._retry, methods=["POST"]),
            Route("/api/dead-letters/{place}/thumbnail", self._thumbnail, methods=["GET"]),
        ]

    def close(self) -> None:
        """Let the connections go."""
        if self._source is not None:
            self._source.close()

    async def _list(self, _: Request) -> Response:
        letters = await asyncio.to_thread(self._read)
        latest = tuple(LetterView.of(letter) for letter in reversed(letters[-_MOST:]))
        counts = dict(Counter(letter.state for letter in letters))
        return json_response(Letters(letters=latest, counts=counts))

    async def _retry(self, request: Request) -> Response:
        if self._read_only:
            raise ApiError(403, "READ_ONLY", "this page only searches (PIXTIDE_WEB_READ_ONLY)")
        self._rate.spend(request)
        wanted = Retry.from_json(await request.body())
        return json_response(await asyncio.to_thread(self._send, frozenset(wanted.places)), 202)

    async def _thumbnail(self, request: Request) -> Response:
        small = await asyncio.to_thread(self._picture, request.path_params["place"])
        headers = {"cache-control": "no-store", "content-security-policy": PICTURE_POLICY}
        return Response(small, headers=headers, media_type="image/jpeg")

    def _read(self) -> list[DeadLetter]:
        with self._lock:
            if time.monotonic() - self._read_at > _FRESH_S:
                self._letters = self._connected().letters()
                self._read_at = time.monotonic()
            return self._letters

    def _send(self, places: frozenset[str]) -> Retried:
        with self._lock:
            source = self._connected()
            chosen = [letter for letter in source.letters() if letter.place in places]
            result = self._make_retrier(source).send(plan_retry(chosen))
            self._read_at = float("-inf")
        refused = tuple(f"{letter.image_id}: {reason}" for letter, reason in result.refused)
        return Retried(sent=len(result.sent), refused=refused)

    def _picture(self, place: str) -> bytes:
        with self._lock:
            source = self._connected()
            try:
                picture = source.picture_of(source.find(place))
            except UsageError as error:
                raise ApiError(404, "UNKNOWN_LETTER", str(error)) from error
        if picture is None:
            raise ApiError(404, "NO_PICTURE", "the letter's picture isn't at hand")
        return self._decoders.thumbnail(picture, _SIDE)

    def _connected(self) -> DeadLetters:
        if self._source is None:
            self._source = self._make()
        return self._source
