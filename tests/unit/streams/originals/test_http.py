"""Every code of URLs, against a server that behaves badly on request; and the one deadline."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixtide.schemas.errors import PoisonError
from pixtide.schemas.events import PictureAt
from pixtide.schemas.identity import original_key
from pixtide.streams.originals.fetcher import Fetcher, FetchLimits, OriginalGoneError
from pixtide.streams.originals.store import ImageStore
from tests.support.hostile import PICTURE, HostileServer, hostile_server

LIMIT = 10_000
#: For what comes, and for what ends at the deadline.
PATIENCE_S, DEADLINE_S = 60.0, 0.5
#: What a fetch may take beyond its deadline on a busy machine.
SLACK_S = 15.0


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    with hostile_server() as running:
        yield running


def fetcher_of(tmp_path: Path, *allowed: str, timeout_s: float = PATIENCE_S) -> Fetcher:
    store = ImageStore((tmp_path / "originals").as_uri())
    limits = FetchLimits(max_bytes=LIMIT, timeout_s=timeout_s, allowed_hosts=frozenset(allowed))
    return Fetcher(store, limits)


@pytest.fixture
def fetcher(tmp_path: Path, server: HostileServer) -> Iterator[Fetcher]:
    made = fetcher_of(tmp_path, server.address)
    yield made
    made.close()


@pytest.fixture
def hasty(tmp_path: Path, server: HostileServer) -> Iterator[Fetcher]:
    made = fetcher_of(tmp_path, server.address, timeout_s=DEADLINE_S)
    yield made
    made.close()


def refusal(fetcher: Fetcher, uri: str, etag: str | None = None) -> PoisonError:
    with pytest.raises(PoisonError) as caught:
        fetcher.fetch(PictureAt(uri=uri, etag=etag))
    return caught.value


def test_an_allowed_host_is_fetched_and_followed(fetcher: Fetcher, server: HostileServer) -> None:
    base = f"http://{server.address}"
    for path in ("/ok", f"/redirect/{base}/ok", "/redirect//ok", "/ok/ä b?q=ü#fragment", "/gzip/9"):
        data = fetcher.fetch(PictureAt(uri=(base + path).replace(" ", "%20")))
        assert data == (b"x" * 9 if path == "/gzip/9" else PICTURE), path
    assert fetcher.fetch(PictureAt(uri=f"{base}/gzip-members/9")) == b"x" * 9
    for path in ("/gzip-padded", "/gzip-tail"):  # what follows the end is not waited for
        assert fetcher.fetch(PictureAt(uri=base + path)) == PICTURE
    assert server.asked["/ok/%C3%A4%20b?q=%C3%BC"] == 1


def test_a_server_that_recovers_is_waited_for(fetcher: Fetcher, server: HostileServer) -> None:
    assert fetcher.fetch(PictureAt(uri=f"http://{server.address}/flaky/1")) == PICTURE
    assert server.asked["/flaky/1"] == 2


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (f"/size/{LIMIT + 1}", "TOO_LARGE"),
        ("/endless", "TOO_LARGE"),
        ("/announced/999999999", "TOO_LARGE"),
        ("/gzip/10000000", "TOO_LARGE"),
        ("/gzip-nothing", "TOO_LARGE"),
        ("/gzip-hollow", "SOURCE_UNAVAILABLE"),
        ("/announced/5000", "SOURCE_UNAVAILABLE"),
        ("/two-lengths", "SOURCE_UNAVAILABLE"),
        ("/gzip-cut", "SOURCE_UNAVAILABLE"),
        ("/gzip-no", "SOURCE_UNAVAILABLE"),
        ("/brotli", "SOURCE_UNAVAILABLE"),
        ("/endless-headers", "SOURCE_UNAVAILABLE"),
        ("/no-http", "SOURCE_UNAVAILABLE"),
        ("/hang-up", "SOURCE_UNAVAILABLE"),
        ("/no-location", "SOURCE_UNAVAILABLE"),
        ("/status/404", "SOURCE_GONE"),
        ("/status/410", "SOURCE_GONE"),
        ("/status/401", "SOURCE_FORBIDDEN"),
        ("/status/403", "SOURCE_FORBIDDEN"),
        ("/status/503", "SOURCE_UNAVAILABLE"),
        ("/status/429", "SOURCE_UNAVAILABLE"),
        ("/status/418", "SOURCE_UNAVAILABLE"),
        ("/redirect/http://127.0.0.1:1/", "ADDRESS_BLOCKED"),
        ("/redirect/http://169.254.169.254/latest/meta-data", "ADDRESS_BLOCKED"),
        ("/redirect/file:///etc/passwd", "SCHEME_NOT_ALLOWED"),
        ("/redirect/s3://bucket/key", "SCHEME_NOT_ALLOWED"),
        ("/redirect/http://user@example.org/", "INVALID_URL"),
        ("/redirect/http://[::1", "INVALID_URL"),
        ("/redirect/http://example.org:x/", "INVALID_URL"),
    ],
)
def test_bad_servers(
    fetcher: Fetcher, hasty: Fetcher, server: HostileServer, path: str, code: str
) -> None:
    one = hasty if code == "SOURCE_UNAVAILABLE" else fetcher
    assert refusal(one, f"http://{server.address}{path}").code == code


def test_a_redirect_loop_ends(fetcher: Fetcher, server: HostileServer) -> None:
    loop = f"http://{server.address}/redirect/./x"
    assert refusal(fetcher, loop).code == "REDIRECT_LIMIT"
    assert sum(count for path, count in server.asked.items() if "/redirect/./" in path) <= 6


@pytest.mark.parametrize(
    "path", ["/trickled-headers", "/trickled-body", "/silent", "/slow-redirect/9", "/status/503"]
)
def test_the_deadline_holds_for_all_of_a_fetch(
    hasty: Fetcher, server: HostileServer, path: str
) -> None:
    started = time.monotonic()
    error = refusal(hasty, f"http://{server.address}{path}")
    assert time.monotonic() - started < DEADLINE_S + SLACK_S
    assert error.code == "SOURCE_UNAVAILABLE"
    assert "given up after 0.5 s" in error.message


def test_the_deadline_holds_for_a_tls_handshake(hasty: Fetcher, server: HostileServer) -> None:
    started = time.monotonic()  # the server waits for an HTTP request that never comes
    assert refusal(hasty, f"https://{server.address}/ok").code == "SOURCE_UNAVAILABLE"
    assert time.monotonic() - started < DEADLINE_S + SLACK_S


def test_the_deadline_holds_for_looking_up_a_name(
    hasty: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def slow(*_: object, **__: object) -> list[object]:
        over.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    started = time.monotonic()
    error = refusal(hasty, "http://slow-dns.example/")
    assert time.monotonic() - started < DEADLINE_S + SLACK_S
    over.set()
    assert error.code == "SOURCE_UNAVAILABLE" and "not resolved in time" in error.message


def test_a_pinned_etag_must_still_be_there(fetcher: Fetcher, server: HostileServer) -> None:
    base = f"http://{server.address}"
    for path, etag in (("/ok", '"v1"'), ("/ok", "v1"), ("/weak", '"v1"'), ("/ok", 'W/"v1"')):
        assert fetcher.fetch(PictureAt(uri=base + path, etag=etag)) == PICTURE
    changed = refusal(fetcher, base + "/ok", '"v0"')
    assert changed.code == "SOURCE_CHANGED"
    assert '"v1"' in changed.message and '"v0"' in changed.message
    assert refusal(fetcher, base + "/no-etag", '"v0"').code == "SOURCE_CHANGED"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "10.1.2.3",
        "192.168.0.1",
        "172.16.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "2130706433",
        "0177.0.0.1",
        "0x7f.1",
        "[::1]",
        "[::]",
        "[::127.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "168.63.129.16",
        "192.88.99.1",
        "192.0.0.8",
        "198.18.0.1",
        "240.0.0.1",
        "[::ffff:168.63.129.16]",
        "[64:ff9b::a83f:8110]",
        "[2002:a83f:8110::1]",
        "[::7f00:1]",
        "[100::1]",
        "[2001::1]",
        "[2001:2::1]",
        "[2001:20::1]",
        "[2001:db8::1]",
        "[3fff::1]",
        "[5f00::1]",
        "[ff02::1]",
        "[fec0::1]",
        "[fd00::1]",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
def test_private_addresses_are_blocked_in_every_spelling(fetcher: Fetcher, host: str) -> None:
    assert refusal(fetcher, f"http://{host}:9/").code == "ADDRESS_BLOCKED"


def answering(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let names resolve to these, one answer after the other; the addresses then dialled."""
    left, dialled = list(answers), []

    def look_up(_host: str, port: int, **_: Any) -> list[Any]:
        addresses = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in addresses]

    def dial(address: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        dialled.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket, "create_connection", dial)
    return dialled


def test_one_private_address_among_several_blocks_the_name(
    fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled = answering(monkeypatch, ["93.184.215.14", "10.0.0.1"])
    assert refusal(fetcher, "http://mixed.example/").code == "ADDRESS_BLOCKED"
    assert dialled == []


def test_a_name_that_is_rebound_gains_nothing(
    fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address that was checked is the one dialled, and each dial has a check of its own."""
    dialled = answering(monkeypatch, ["93.184.215.14"], ["127.0.0.1"])
    assert refusal(fetcher, "http://rebound.example/").code == "ADDRESS_BLOCKED"
    assert dialled == ["93.184.215.14"]


def test_every_address_of_a_name_is_tried(hasty: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    dialled = answering(monkeypatch, ["93.184.215.14", "93.184.215.15"])
    assert refusal(hasty, "http://several.example/").code == "SOURCE_UNAVAILABLE"
    assert dialled[:2] == ["93.184.215.14", "93.184.215.15"]


def test_a_proxy_of_the_environment_is_not_used(
    tmp_path: Path, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    fetcher = fetcher_of(tmp_path, server.address)
    assert fetcher.fetch(PictureAt(uri=f"http://{server.address}/ok")) == PICTURE
    fetcher.close()


@pytest.mark.parametrize(
    "uri",
    [
        "http://",
        "http:///path",
        "http://user:secret@example.org/",
        "http://example.org:99999/",
        "http://example.org:0/",
        "http://example.org/a\r\nX: y",
        "http://example.org\r\n/",
        "http://[::1",
        "http://a..b/",
        f"http://{'a' * 64}.example/",
        f"http://{'a.' * 127}example/",
        "http://1.2.3.4.5/",
        "http://256.1.1.1/",
        "http://a%41.example/",
        'http://a".example/',
        "http://[::1.2]/",
    ],
)
def test_urls_that_no_honest_publisher_writes(fetcher: Fetcher, uri: str) -> None:
    assert refusal(fetcher, uri).code == "INVALID_URL"


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fetcher]:
    made = fetcher_of(tmp_path_factory.mktemp("impatient"), timeout_s=0.05)
    yield made
    made.close()


@settings(max_examples=300, deadline=None)
@given(
    scheme=st.sampled_from(
        [
            *("", "http://", "https://", "http://h/", "s3://", "s3://b/", "gs://", "az://c/"),
            *("file:", "file://", "file:///", "STORE/"),
            f"STORE/{original_key('a', '0' * 64, 'jpg')}",
        ]
    ),
    rest=st.text(max_size=40) | st.text("./\\%#?\0\n:@[]1a", max_size=40),
)
def test_no_text_breaks_the_worker(impatient: Fetcher, scheme: str, rest: str) -> None:
    """Poison, or an original that is gone; nothing that would be tried for ever."""
    store = impatient._store.uri_of("a", b"", "jpg").rpartition("/")[0].rpartition("/")[0]
    picture = PictureAt(uri=scheme.replace("STORE", store) + rest)
    with pytest.MonkeyPatch.context() as patch:
        answering(patch, ["10.0.0.1"])
        impatient.host_of(picture)
        with pytest.raises((PoisonError, OriginalGoneError)):
            impatient.fetch(picture)
