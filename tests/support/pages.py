"""The page with stand-ins for the servers behind it, so that each can be made slow or strange."""

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from pixtide.schemas.dead_letters import SourceRecord
from pixtide.schemas.errors import PoisonError, ReasonCode, UsageError
from pixtide.schemas.identity import Version
from pixtide.schemas.queries import SearchReply, SearchRequest, SearchResult
from pixtide.search.generations import Generation, GenerationState, LogIdentity
from pixtide.search.port import RowState, StoredImage
from pixtide.streams.dead_letters.letters import DeadLetter, LetterState
from pixtide.streams.dead_letters.retry import RetryPlan, RetryResult
from pixtide.streams.generations.status import GenerationProgress
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.records import Record
from pixtide.streams.publish.publisher import PublishedPosition
from pixtide.streams.web.app import Site, SiteParts
from pixtide.streams.web.connections import ConnectionLimits
from pixtide.streams.web.dead_letters import DeadLetterApi
from pixtide.streams.web.guard import Access
from pixtide.streams.web.live_index import LiveIndex
from pixtide.streams.web.outcomes import Outcomes
from pixtide.streams.web.pictures import PictureLanes, Pictures
from pixtide.streams.web.publishing import Publishing, UploadLanes
from pixtide.streams.web.rates import Rate
from pixtide.streams.web.readiness import PartsWatch
from pixtide.streams.web.searching import Searches
from pixtide.streams.web.serve import listen, server_of
from pixtide.streams.web.session import Session
from pixtide.streams.web.status import StatusApi
from pixtide.streams.web.thumbnails import Thumbnails
from tests.support.pictures import jpeg

#: How long a stand-in that hangs does so, unless it is let go: longer than any test.
_HANGS_S = 120.0
NOW = datetime(2026, 1, 2, tzinfo=UTC)
PICTURE = jpeg(7)


@dataclass
class Behind:
    """What is behind the page. A part whose name is in `hanging` answers when `go` is set."""

    rows: dict[str, StoredImage] = field(default_factory=dict)
    originals: dict[str, bytes] = field(default_factory=dict)
    letters: list[DeadLetter] = field(default_factory=list)
    reply: Callable[[SearchRequest], SearchReply] | None = None
    live: bool = True
    hanging: set[str] = field(default_factory=set)
    go: threading.Event = field(default_factory=threading.Event)
    sent: list[tuple[str, Callable[[Any], None]]] = field(default_factory=list)
    confirms: bool = True
    at_work: dict[str, int] = field(default_factory=dict)

    def touched(self, part: str) -> None:
        """Some work came to that part."""
        self.at_work[part] = self.at_work.get(part, 0) + 1
        if part in self.hanging:
            self.go.wait(_HANGS_S)

    # the catalog and the index
    def _live(self) -> Generation | None:
        self.touched("index")
        return GENERATION if self.live else None

    def open(self, _: Generation) -> "Behind":
        """The one collection."""
        return self

    def get(self, ids: Collection[str]) -> dict[str, StoredImage]:
        """Rows, by their ids."""
        self.touched("index")
        return {name: self.rows[name] for name in ids if name in self.rows}

    def close(self) -> None:
        """Nothing to let go."""

    def stand(self) -> list[GenerationProgress]:
        """Where the generation stands."""
        self.touched("counts")
        return [
            GenerationProgress(
                generation=GENERATION.name,
                state=GENERATION.state,
                is_live=True,
                verified_at=None,
                live=1,
                deleted=0,
                dead_lettered=0,
                done=1,
                total=2,
                retry_lag=0,
                workers=None,
            )
        ]


GENERATION = Generation(
    name="v1",
    model="starter",
    fingerprint="f",
    dimension=4,
    collection="c",
    group="ingest.v1",
    log=LogIdentity(topic="images.uploaded", topic_id="t", partitions=3),
    created_at=NOW,
    state=GenerationState.READY,
)


class _Catalog:
    def __init__(self, behind: Behind) -> None:
        self.live = behind._live
        self.list = lambda: [GENERATION]
        self.open = behind.open
        self.close = behind.close


class _Fetcher:
    def __init__(self, behind: Behind) -> None:
        self._behind = behind

    def fetch(self, picture: Any) -> bytes:
        self._behind.touched("originals")
        return self._behind.originals[picture.uri]


class _Decoders:
    """Decodes nothing: a picture named in `hanging` hangs."""

    def __init__(self, behind: Behind) -> None:
        self._behind = behind

    def thumbnail(self, data: bytes, _side: int) -> bytes:
        if data.startswith(b"slow"):
            self._behind.touched("slow pictures")
        if not data.startswith((b"\xff\xd8\xff", b"slow")):
            raise PoisonError(ReasonCode.UNIDENTIFIED_FORMAT, "no picture")
        return PICTURE


class _Publisher:
    def __init__(self, behind: Behind) -> None:
        self._behind = behind

    def upload(self, source: Any, _description: Any, *, inline: bool, delivered: Any) -> None:
        assert inline
        self._behind.touched("image store")
        self._send(source.image_id, delivered)

    def delete(self, image_id: str, *, delivered: Any) -> None:
        self._send(image_id, delivered)

    def poll(self, wait_s: float) -> None:
        threading.Event().wait(wait_s)

    def _send(self, image_id: str, delivered: Callable[[Any], None]) -> None:
        self._behind.sent.append((image_id, delivered))
        if self._behind.confirms:
            delivered(PublishedPosition(image_id, 0, len(self._behind.sent)))


class _Letters:
    def __init__(self, behind: Behind) -> None:
        self._behind = behind

    def letters(self) -> list[DeadLetter]:
        self._behind.touched("letters")
        return self._behind.letters

    def record_at(self, place: str) -> Record:
        self._behind.touched("letters")
        if place not in {letter.place for letter in self._behind.letters}:
            raise UsageError(f"no dead letter at {place}")
        return Record("dlq", 0, 0, 0, b"x", PICTURE, [])

    def content_of(self, *_: Any) -> None:
        return None

    def picture_of(self, *_: Any) -> bytes:
        return PICTURE

    def close(self) -> None:
        return


class _Retrier:
    def send(self, plan: RetryPlan) -> RetryResult:
        return RetryResult(plan.letters, ())


class _Client:
    def __init__(self, behind: Behind) -> None:
        self._behind = behind

    async def __aenter__(self) -> "_Client":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return

    async def search(self, request: SearchRequest) -> SearchReply:
        if "searches" in self._behind.hanging:
            await asyncio.sleep(_HANGS_S)
        if self._behind.reply is not None:
            return self._behind.reply(request)
        results = tuple(_result(row) for row in self._behind.rows.values())
        return SearchReply(results=results, generation="v1", took_ms={"search": 1.0})


class _Deaf(Outcomes):
    """Outcomes with no broker to hear them of."""

    def start(self) -> None:
        return

    async def close(self) -> None:
        return


def a_row(image_id: str, data: bytes = PICTURE, **fields: Any) -> StoredImage:
    """A live row of a picture with these bytes."""
    return StoredImage(
        image_id,
        RowState.LIVE,
        Version(1, 0, 0),
        **{
            "uri": f"memory:{image_id}",
            "sha256": hashlib.sha256(data).hexdigest(),
            "width": 4,
            "height": 3,
            "format": "JPEG",
            "bytes": len(data),
            "uploaded_at": NOW,
            **fields,
        },
    )


def a_letter(number: int, **fields: Any) -> DeadLetter:
    """A dead letter, the `number`th of its partition."""
    return DeadLetter(
        **{
            "place": f"0@{number}",
            "arrived_ms": 1_700_000_000_000 + number,
            "image_id": f"web/{number}.jpg",
            "size": 10,
            "code": "TRUNCATED_IMAGE",
            "stage": "decode",
            "exception": "PoisonError",
            "message": "cut short",
            "generation": "v1",
            "source": SourceRecord(
                topic="images.uploaded",
                topic_id="t",
                partition=0,
                offset=number,
                timestamp_ms=1_700_000_000_000,
            ),
            "state": LetterState.WAITING,
            **fields,
        }
    )


def _result(row: StoredImage) -> SearchResult:
    return SearchResult(
        image_id=row.image_id,
        uri=row.uri,
        similarity=0.5,
        caption=row.caption,
        tags=row.tags,
        uploaded_at=NOW,
        width=row.width,
        height=row.height,
        format=row.format,
        bytes=row.bytes,
        sha256=row.sha256,
    )


def a_site(behind: Behind, folder: Path, *, patience_s: float = 60.0, **access: Any) -> Site:
    """The page, with `behind` behind it."""
    given = Access(**{"hosts": (), "token": None, "max_body": 200_000} | access)
    catalog = cast(Any, _Catalog(behind))
    index = LiveIndex(catalog)
    decoders = cast(Any, _Decoders(behind))
    lanes = PictureLanes(2, 400_000, patience_s)
    often = 1_000_000
    return Site(
        SiteParts(
            access=given,
            index=index,
            searches=Searches(
                lambda: cast(Any, _Client(behind)), Rate("searches", often), patience_s=patience_s
            ),
            pictures=Pictures(
                index, cast(Any, _Fetcher(behind)), decoders, Thumbnails(folder, 10**6), lanes
            ),
            publishing=Publishing(
                lambda: cast(Any, _Publisher(behind)),
                decoders,
                Rate("uploads", often),
                UploadLanes(2, given.max_body, patience_s),
                max_bytes=100_000,
                read_only=False,
            ),
            outcomes=_Deaf(KafkaConnection("127.0.0.1:1"), "images.indexed", lambda _: None),
            status=StatusApi(
                index,
                behind.stand,
                PartsWatch(
                    {"the index": index.probe, "the log": lambda: behind.touched("log")},
                    every_s=0.05,
                    silent_s=0.5,
                ),
                read_only=False,
            ),
            dead_letters=DeadLetterApi(
                lambda: cast(Any, _Letters(behind)),
                lambda _: cast(Any, _Retrier()),
                decoders,
                lanes.decoding,
                Rate("retries", often),
                most_bytes=10**6,
                read_only=False,
            ),
            session=Session(given, Rate("attempts", often)),
        )
    )


@contextlib.contextmanager
def served(
    site: Site, *, patience: ConnectionLimits | None = None, proxies: tuple[str, ...] = ()
) -> Iterator[int]:
    """The port that it is served on meanwhile, by the very server of the product."""
    up = threading.Event()
    with listen("127.0.0.1", 0) as listener:
        port = int(listener.getsockname()[1])
        server = server_of(site, proxies=proxies, patience=patience, on_ready=up.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        assert up.wait(60)
        try:
            yield port
        finally:
            site.end_streams()
            server.should_exit = True
            thread.join(60)
    assert not thread.is_alive()
