"""One slow thing costs those who asked for it: others, and the probes, are answered meanwhile.

A client is an address; here each has one of the loopback's.
"""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from pixtide.schemas.errors import TransientError
from pixtide.schemas.queries import SearchError, SearchReply
from pixtide.streams.publish.publisher import PublishedPosition
from pixtide.streams.web.connections import ConnectionLimits
from tests.support.pages import PICTURE, Behind, a_letter, a_row, a_site, served

ONE, OTHER = "127.0.0.1", "127.0.0.2"
_SOON_S = 60.0


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["error"]["code"])


class Page:
    """A page that is served, and the threads that ask it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._threads = ThreadPoolExecutor(64)

    def ask(
        self, method: str, path: str, body: bytes = b"", kind: str = "", *, by: str = ONE
    ) -> Answer:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=_SOON_S, source_address=(by, 0)
        )
        try:
            connection.request(method, path, body, {"Content-Type": kind} if kind else {})
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, headers, answer.read())
        finally:
            connection.close()

    def get(self, path: str, *, by: str = ONE) -> Answer:
        return self.ask("GET", path, by=by)

    def upload(self, name: str, data: bytes, *, by: str = ONE) -> Answer:
        head = f'form-data; name="picture"; filename="{name}"'.encode()
        body = b"--B\r\nContent-Disposition: " + head + b"\r\n\r\n" + data + b"\r\n--B--\r\n"
        return self.ask("POST", "/api/images", body, "multipart/form-data; boundary=B", by=by)

    def later(self, ask: Callable[[], Answer]) -> "Future[Answer]":
        return self._threads.submit(ask)

    def connection(self, raw: bytes, *, by: str = ONE) -> socket.socket:
        made = socket.create_connection(
            ("127.0.0.1", self.port), timeout=_SOON_S, source_address=(by, 0)
        )
        made.sendall(raw)
        return made

    def close(self) -> None:
        self._threads.shutdown()


@pytest.fixture
def behind() -> Iterator[Behind]:
    made = Behind(
        rows={"a": a_row("a"), "b": a_row("b"), "c": a_row("c")},
        originals={f"memory:{name}": PICTURE for name in "abc"},
        letters=[a_letter(number) for number in range(3)],
    )
    yield made
    made.go.set()


PATIENCE = ConnectionLimits(
    head_s=0.5, body_s=0.5, body_rate=10**6, read_s=0.5, connections=24, each=12
)


@pytest.fixture
def page(behind: Behind, tmp_path: Path) -> Iterator[Page]:
    with served(a_site(behind, tmp_path)) as port:
        made = Page(port)
        try:
            yield made
        finally:
            behind.go.set()
            made.close()


@pytest.fixture
def hasty(behind: Behind, tmp_path: Path) -> Iterator[Page]:
    """A page with little patience."""
    with served(a_site(behind, tmp_path), patience=PATIENCE) as port:
        yield Page(port)
        behind.go.set()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SOON_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def everything_else_answers(page: Page, *but: str) -> None:
    answers = {
        "live": page.get("/live", by=OTHER),
        "ready": page.get("/ready", by=OTHER),
        "page": page.get("/", by=OTHER),
        "rows": page.get("/api/images/a", by=OTHER),
        "thumbnails": page.get("/thumbnails/b", by=OTHER),
        "originals": page.get("/originals/c", by=OTHER),
        "status": page.get("/api/status", by=OTHER),
        "letters": page.get("/api/dead-letters", by=OTHER),
        "letters' thumbnails": page.get("/api/dead-letters/0@0/thumbnail", by=OTHER),
        "search": page.ask("POST", "/api/search", b'{"text":"a"}', by=OTHER),
        "uploads": page.upload("a.jpg", b"\xff\xd8\xff", by=OTHER),
        "deletes": page.ask("DELETE", "/api/images/a", by=OTHER),
    }
    assert {name for name, answer in answers.items() if answer.status not in (200, 202)} == set(but)


def test_uploads_that_decode_slowly_are_waited_for_by_their_senders(
    page: Page, behind: Behind
) -> None:
    behind.hanging.add("slow pictures")
    slow = [page.later(lambda n=n: page.upload(f"{n}.jpg", b"slow")) for n in range(14)]  # type: ignore[misc]
    until(lambda: behind.at_work.get("slow pictures", 0) > 0)
    everything_else_answers(page)
    assert behind.at_work["slow pictures"] == 1  # half of two decoders
    behind.go.set()
    assert {answer.result(_SOON_S).status for answer in slow} == {202}


def test_an_image_store_that_hangs_holds_up_uploads_alone(page: Page, behind: Behind) -> None:
    behind.hanging.add("image store")
    slow = [page.later(lambda n=n: page.upload(f"{n}.jpg", PICTURE)) for n in range(8)]  # type: ignore[misc]
    until(lambda: behind.at_work.get("image store", 0) == 2)
    behind.hanging.clear()  # for who comes now
    everything_else_answers(page)
    behind.go.set()
    assert {answer.result(_SOON_S).status for answer in slow} == {202}


def test_events_that_are_not_acknowledged_hold_up_nobody_else(page: Page, behind: Behind) -> None:
    behind.confirms = False
    asked = [page.later(lambda n=n: page.upload(f"{n}.jpg", PICTURE)) for n in range(12)]  # type: ignore[misc]
    asked += [page.later(lambda: page.ask("DELETE", "/api/images/x")) for _ in range(12)]
    until(lambda: len(behind.sent) == 24)
    behind.confirms = True
    everything_else_answers(page)
    for image_id, told in behind.sent[:24]:
        told(PublishedPosition(image_id, 1, 5))
    assert {answer.result(_SOON_S).status for answer in asked} == {202}


def test_originals_that_are_slow_to_come_are_waited_for_by_who_wants_them(
    page: Page, behind: Behind
) -> None:
    behind.hanging.add("originals")
    slow = [page.later(lambda: page.get("/thumbnails/a?side=800")) for _ in range(20)]
    slow += [page.later(lambda: page.get("/originals/a")) for _ in range(20)]
    until(lambda: behind.at_work.get("originals", 0) == 2)
    behind.hanging.clear()
    everything_else_answers(page)
    behind.go.set()
    assert {answer.result(_SOON_S).status for answer in slow} <= {200, 503}


def test_a_topic_of_dead_letters_that_is_slow_to_read_holds_up_itself_alone(
    page: Page, behind: Behind
) -> None:
    behind.hanging.add("letters")
    for _ in range(40):
        page.later(lambda: page.get("/api/dead-letters/0@0/thumbnail"))
    until(lambda: behind.at_work.get("letters", 0) == 1)
    behind.hanging.clear()
    everything_else_answers(page)


def test_an_index_that_hangs_is_told_of_while_searches_go_on(page: Page, behind: Behind) -> None:
    assert page.get("/ready").status == 200
    behind.hanging.add("index")
    for _ in range(40):
        page.later(lambda: page.get("/api/images/a"))
    until(lambda: page.get("/ready", by=OTHER).status == 503)
    told = json.loads(page.get("/ready", by=OTHER).body)
    assert told == {"ready": False, "problem": "the index has not answered for 0.5 s"}
    assert page.get("/live", by=OTHER).status == 200
    assert page.ask("POST", "/api/search", b'{"text":"a"}', by=OTHER).status == 200
    behind.hanging.clear()
    behind.go.set()
    until(lambda: page.get("/ready", by=OTHER).status == 200)


def test_counting_that_hangs_holds_up_itself_alone(page: Page, behind: Behind) -> None:
    behind.hanging.add("counts")
    for _ in range(30):
        page.later(lambda: page.get("/api/status"))
    until(lambda: behind.at_work.get("counts", 0) == 1)
    assert page.get("/ready", by=OTHER).status == 200
    assert page.get("/api/images/a").status == 200
    assert behind.at_work["counts"] == 1


def test_a_reply_names_the_place_of_its_own_upload(page: Page, behind: Behind) -> None:
    behind.confirms = False
    first = page.later(lambda: page.upload("first.jpg", PICTURE))
    until(lambda: len(behind.sent) == 1)
    second = page.later(lambda: page.upload("second.jpg", PICTURE))
    until(lambda: len(behind.sent) == 2)
    (_, told_first), (_, told_second) = behind.sent
    told_second(PublishedPosition("web/second.jpg", 2, 8))
    assert json.loads(second.result(_SOON_S).body) == {
        "image_id": "web/second.jpg",
        "partition": 2,
        "offset": 8,
    }
    told_first(TransientError("broker-3.internal:9092 timed out"))
    failed = first.result(_SOON_S)
    assert (failed.status, failed.code) == (503, "NOT_ACKNOWLEDGED")
    assert b"internal" not in failed.body
    assert int(failed.headers["retry-after"]) > 0


def test_uploads_under_way_are_bounded_together_and_by_client(page: Page) -> None:
    head = (
        b"POST /api/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 199000\r\n"
        b"Content-Type: multipart/form-data; boundary=B\r\n\r\n--B\r\n"
    )
    held = [page.connection(head) for _ in range(2)]
    until(lambda: page.upload("a.jpg", PICTURE + bytes(90_000)).status == 503)
    full = page.upload("a.jpg", PICTURE + bytes(90_000))
    assert (full.code, full.headers["retry-after"]) == ("BUSY", "2")
    assert page.upload("a.jpg", PICTURE + bytes(90_000), by=OTHER).status == 202
    for connection in held:
        connection.close()
    until(lambda: page.upload("a.jpg", PICTURE + bytes(90_000)).status == 202)


def test_nobody_takes_all_streams_of_outcomes(page: Page) -> None:
    ask = b"GET /api/outcomes HTTP/1.1\r\nHost: localhost\r\n\r\n"
    mine = [page.connection(ask) for _ in range(16)]
    assert {stream.recv(15)[9:12] for stream in mine} == {b"200"}
    assert page.get("/api/outcomes").status == 503
    with page.connection(ask, by=OTHER) as others:
        assert others.recv(15)[9:12] == b"200"
    for stream in mine:
        stream.close()

    def is_free() -> bool:
        with page.connection(ask) as again:
            return again.recv(15)[9:12] == b"200"

    until(is_free)


def ended(connection: socket.socket) -> bool:
    """Whether the server ends it; anything it still says is taken."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def test_requests_that_never_end_are_ended(hasty: Page) -> None:
    form = b"POST /api/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n"
    for raw in (
        b"",
        b"GET /",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ",
        form + b"Content-Type: multipart/form-data; boundary=B\r\n\r\n--B\r\n",
        b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"POST /api/search HTTP/1.1\r\nHost: [\r\nContent-Length: 99999\r\n\r\n{",
    ):
        with hasty.connection(raw) as connection:
            assert ended(connection), raw


def test_a_body_that_trickles_is_ended(hasty: Page) -> None:
    raw = b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n"
    deadline = time.monotonic() + _SOON_S
    with hasty.connection(raw) as connection, pytest.raises(ConnectionError):
        while time.monotonic() < deadline:
            connection.sendall(b" ")
            time.sleep(0.02)


def test_an_answer_that_is_not_read_is_ended_and_gives_its_memory_back(
    hasty: Page, behind: Behind
) -> None:
    large = PICTURE + bytes(190_000)
    many = PICTURE + bytes(30_000_000)
    behind.rows |= {"large": a_row("large", large), "many": a_row("many", many)}
    behind.originals |= {"memory:large": large, "memory:many": many}
    ask = b"GET /originals/many HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with hasty.connection(ask) as unread:
        assert unread.recv(15)[9:12] == b"200"
        assert hasty.get("/originals/large").status == 503  # it would be too much of one client
        assert hasty.get("/originals/large", by=OTHER).body == large
        until(lambda: hasty.get("/originals/large").status == 200)
        assert ended(unread)


def test_connections_are_bounded_and_those_without_a_request_go_first(hasty: Page) -> None:
    asked = b"GET /api/outcomes HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with hasty.connection(asked) as stream:
        assert stream.recv(15)[9:12] == b"200"
        for by in (ONE, OTHER, "127.0.0.3"):
            half = [hasty.connection(b"GET / HTTP/1.1\r\nX: ", by=by) for _ in range(30)]
            assert hasty.get("/live", by=by).status == 200
            assert hasty.get("/live", by="127.0.0.4").status == 200
            for connection in half:
                connection.close()
        stream.settimeout(0.2)
        with pytest.raises(TimeoutError):  # it is open still
            while stream.recv(65536):
                pass


def test_a_search_that_can_not_be_served_says_when_to_come_again(
    page: Page, behind: Behind
) -> None:
    behind.reply = lambda _: SearchReply(
        error=SearchError(code="OVERLOADED", message="full", retryable=True)
    )
    refused = page.ask("POST", "/api/search", b'{"text":"a"}')
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")

    def unreachable(_: object) -> SearchReply:
        raise TransientError("Kafka: broker-3.internal:9092 is down")

    behind.reply = unreachable
    refused = page.ask("POST", "/api/search", b'{"text":"a"}')
    assert (refused.status, refused.code) == (503, "SEARCH_UNAVAILABLE")
    assert b"internal" not in refused.body


def test_what_takes_too_long_is_said_to(behind: Behind, tmp_path: Path) -> None:
    """Whatever hangs behind a handler, nobody waits for it for ever."""
    behind.hanging |= {"searches", "originals", "image store", "slow pictures"}
    with served(a_site(behind, tmp_path, patience_s=0.2)) as port:
        page = Page(port)
        answers = [
            page.ask("POST", "/api/search", b'{"text":"a"}'),
            page.get("/thumbnails/a"),
            page.get("/originals/a"),
            page.upload("a.jpg", PICTURE),
            page.upload("a.jpg", b"slow"),
        ]
        behind.hanging.add("index")
        answers.append(page.get("/api/images/a"))
        assert [answer.status for answer in answers] == [503] * len(answers)
        for answer in answers:
            assert int(answer.headers["retry-after"]) > 0
        assert page.get("/live").status == 200
        behind.go.set()


def test_threads_are_given_back(page: Page, behind: Behind) -> None:
    before = threading.active_count()
    behind.hanging.add("originals")
    asked = [page.later(lambda: page.get("/thumbnails/a")) for _ in range(30)]
    until(lambda: behind.at_work.get("originals", 0) == 2)
    behind.go.set()
    for each in asked:
        each.result(_SOON_S)
    until(lambda: sum(t.name == "page" for t in threading.enumerate()) == 0)
    assert before > 0
