"""Dead letters: what could not be indexed and why, and trying it again."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pixtide.encoders.pictures.decoder_pool import DecoderPool
from pixtide.schemas.base import Contract
from pixtide.schemas.errors import UsageError
from pixtide.streams.dead_letters.letters import DeadLetter, DeadLetters, LetterState, letter_of
from pixtide.streams.dead_letters.retry import Retrier, plan_retry
from pixtide.streams.web.bodies import json_body
from pixtide.streams.web.guard import PICTURE_POLICY
from pixtide.streams.web.lanes import Lane, in_thread
from pixtide.streams.web.problems import ApiError, json_response, shortened
from pixtide.streams.web.rates import Rate, client_of
from pixtide.streams.web.shared import Lazily, Shared

#: Letters in one answer, the latest first; the counts are of all.
_MOST = 200
_SIDE = 400
#: The whole topic is read for a list: all who look share one of this age.
_FRESH_S = 2.0
_PATIENCE_S = 30.0
#: The end of the year 9999.
_LAST_MS = 253_402_300_799_000
_RETRY_BYTES = 64 * 1024


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
            image_id=shortened(letter.image_id),
            arrived_at=_time_of(letter.arrived_ms),
            code=shortened(letter.code),
            stage=shortened(letter.stage),
            message=shortened(letter.message),
            generation=shortened(letter.generation),
            state=letter.state,
            size=letter.size,
            source=shortened(
                f"{source.topic}, partition {source.partition}, offset {source.offset}"
            )
            if source
            else "",
        )


def _time_of(epoch_ms: int) -> datetime:
    """Whoever writes a record chooses its time, be it in a year that no calendar has."""
    return datetime.fromtimestamp(min(max(epoch_ms, 0), _LAST_MS) / 1000, UTC)


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
    """Reads and retries letters; connects when first asked.

    `decoding` is the lane of who needs one of `decoders`; a letter's picture has at most
    `most_bytes`.
    """

    def __init__(
        self,
        source: Callable[[], DeadLetters],
        retrier: Callable[[DeadLetters], Retrier],
        decoders: DecoderPool,
        decoding: Lane,
        rate: Rate,
        *,
        most_bytes: int,
        read_only: bool,
    ) -> None:
        self._source = Lazily(source, patience_s=_PATIENCE_S)
        self._make_retrier = retrier
        self._decoders = decoders
        self._decoding = decoding
        self._rate = rate
        self._most_bytes = most_bytes
        self._read_only = read_only
        self._letters = Shared(
            "reading dead letters",
            lambda: in_thread(lambda: self._source.get().letters()),
            fresh_s=_FRESH_S,
            patience_s=_PATIENCE_S,
        )
        self._pictures = Lane("pictures of letters", 2, waiting=256, patience_s=_PATIENCE_S)
        self._retries = Lane("retries", 2, waiting=8, patience_s=2 * _PATIENCE_S)

    def routes(self) -> list[Route]:
        """What this serves."""
        return [
            Route("/api/dead-letters", self._list, methods=["GET"]),
            Route("/api/dead-letters/retry", self._retry, methods=["POST"]),
            Route("/api/dead-letters/{place}/thumbnail", self._thumbnail, methods=["GET"]),
        ]

    def close(self) -> None:
        """Let the connections go."""
        if (source := self._source.peek()) is not None:
            source.close()

    async def _list(self, _: Request) -> Response:
        letters = await self._letters.get()
        latest = tuple(LetterView.of(letter) for letter in reversed(letters[-_MOST:]))
        counts = dict(Counter(letter.state for letter in letters))
        return json_response(Letters(letters=latest, counts=counts))

    async def _retry(self, request: Request) -> Response:
        if self._read_only:
            raise ApiError(403, "READ_ONLY", "this page only searches (PIXTIDE_WEB_READ_ONLY)")
        self._rate.spend(request)
        wanted = Retry.from_json(await json_body(request, _RETRY_BYTES))
        send = partial(self._send, frozenset(wanted.places))
        retried = await self._retries.call(client_of(request), send)
        self._letters.outdated()
        return json_response(retried, 202)

    async def _thumbnail(self, request: Request) -> Response:
        place, client = request.path_params["place"], client_of(request)
        small = await self._pictures.run(client, lambda: self._small(place, client))
        headers = {"cache-control": "no-store", "content-security-policy": PICTURE_POLICY}
        return Response(small, headers=headers, media_type="image/jpeg")

    async def _small(self, place: str, client: str) -> bytes:
        picture = await in_thread(partial(self._picture, place))
        return await self._decoding.call(client, partial(self._decoders.thumbnail, picture, _SIDE))

    def _send(self, places: frozenset[str]) -> Retried:
        source = self._source.get()
        chosen = [letter for letter in source.letters() if letter.place in places]
        result = self._make_retrier(source).send(plan_retry(chosen))
        refused = tuple(f"{letter.image_id}: {reason}" for letter, reason in result.refused)
        return Retried(sent=len(result.sent), refused=refused)

    def _picture(self, place: str) -> bytes:
        source = self._source.get()
        try:
            record = source.record_at(place)
        except UsageError as error:
            raise ApiError(404, "UNKNOWN_LETTER", str(error)) from error
        content = source.content_of(record, letter_of(record), self._most_bytes)
        picture = source.picture_of(content, self._most_bytes)
        if picture is None:
            raise ApiError(404, "NO_PICTURE", "the letter's picture isn't at hand")
        return picture
