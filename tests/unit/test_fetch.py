"""Every code of URLs and paths, against a server on loopback that behaves badly on request."""

import contextlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.errors import PoisonError
from schemas.events import InlinePicture, PictureAt
from streams.fetch import Fetcher, FetchLimits, OriginalGoneError
from streams.image_store import ImageStore

LIMIT = 10_000
PICTURE = b"p" * 1000


class Hostile(http.server.BaseHTTPRequestHandler):
    failures_left = 0

    def do_GET(self) -> None:
        path = self.path
        if path == "/ok":
            self.answer(200, PICTURE)
        elif path == "/flaky":
            Hostile.failures_left -= 1
            self.answer(200 if Hostile.failures_left < 0 else 503, PICTURE)
        elif path == "/huge":
            self.answer(200, b"x" * (LIMIT + 1))
        elif path == "/endless":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(b"x" * 10_000_000)
        elif path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "5000")
            self.end_headers()
            self.wfile.write(b"x" * 10)
        elif path.startswith("/redirect-to/"):
            self.answer(302, b"", path.removeprefix("/redirect-to/"))
        elif path == "/loop":
            self.answer(302, b"", "/loop")
        elif path.startswith("/status/"):
            self.answer(int(path.removeprefix("/status/")), b"")

    def answer(self, status: int, body: bytes, location: str | None = None) -> None:
        self.send_response(status)
        if location is not None:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def fetcher(tmp_path: Path, port: int) -> Iterator[Fetcher]:
    (tmp_path / "root").mkdir()
    store = ImageStore((tmp_path / "originals").as_uri())
    limits = FetchLimits(
        max_bytes=LIMIT,
        timeout_s=1.0,
        roots=((tmp_path / "root").resolve(),),
        allowed_hosts=frozenset({f"127.0.0.1:{port}"}),
    )
    made = Fetcher(store, limits)
    yield made
    made.close()


def code_of(fetcher: Fetcher, uri: str) -> str:
    with pytest.raises(PoisonError) as caught:
        fetcher.fetch(PictureAt(uri=uri))
    return caught.value.code


def test_an_allowed_host_is_fetched_and_followed(fetcher: Fetcher, port: int) -> None:
    base = f"http://127.0.0.1:{port}"
    assert fetcher.fetch(PictureAt(uri=f"{base}/ok")) == PICTURE
    assert fetcher.fetch(PictureAt(uri=f"{base}/redirect-to/{base}/ok")) == PICTURE
    assert fetcher.fetch(PictureAt(uri=f"{base}/redirect-to//ok")) == PICTURE


def test_a_server_that_recovers_is_waited_for(fetcher: Fetcher, port: int) -> None:
    Hostile.failures_left = 1
    assert fetcher.fetch(PictureAt(uri=f"http://127.0.0.1:{port}/flaky")) == PICTURE


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/huge", "TOO_LARGE"),
        ("/endless", "TOO_LARGE"),
        ("/short", "SOURCE_UNAVAILABLE"),
        ("/loop", "REDIRECT_LIMIT"),
        ("/status/404", "SOURCE_GONE"),
        ("/status/410", "SOURCE_GONE"),
        ("/status/401", "SOURCE_FORBIDDEN"),
        ("/status/403", "SOURCE_FORBIDDEN"),
        ("/status/503", "SOURCE_UNAVAILABLE"),
        ("/status/418", "SOURCE_UNAVAILABLE"),
        ("/redirect-to/http://127.0.0.1:1/", "ADDRESS_BLOCKED"),
        ("/redirect-to/http://169.254.169.254/latest/meta-data", "ADDRESS_BLOCKED"),
        ("/redirect-to/file:///etc/passwd", "SCHEME_NOT_ALLOWED"),
    ],
)
def test_bad_servers(fetcher: Fetcher, port: int, path: str, code: str) -> None:
    assert code_of(fetcher, f"http://127.0.0.1:{port}{path}") == code


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
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[fe80::1]",
        "[fd00::1]",
        "224.0.0.1",
    ],
)
def test_private_addresses_are_blocked_in_every_spelling(fetcher: Fetcher, host: str) -> None:
    assert code_of(fetcher, f"http://{host}:9/") == "ADDRESS_BLOCKED"


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("ftp://example.org/a.jpg", "SCHEME_NOT_ALLOWED"),
        ("data:image/png;base64,AA==", "SCHEME_NOT_ALLOWED"),
        ("no-scheme.jpg", "SCHEME_NOT_ALLOWED"),
        ("s3://elsewhere/a.jpg", "BUCKET_NOT_ALLOWED"),
        ("http://", "INVALID_URL"),
        ("http://user:secret@example.org/", "INVALID_URL"),
        ("http://example.org:99999/", "INVALID_URL"),
        ("http://example.org:0/", "INVALID_URL"),
        ("http://example.org/a\r\nX: y", "INVALID_URL"),
        ("http://[::1", "INVALID_URL"),
    ],
)
def test_bad_uris(fetcher: Fetcher, uri: str, code: str) -> None:
    assert code_of(fetcher, uri) == code


def test_files_under_a_root_and_no_others(fetcher: Fetcher, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "ä b.jpg").write_bytes(PICTURE)
    assert fetcher.fetch(PictureAt(uri=(root / "ä b.jpg").as_uri())) == PICTURE
    (tmp_path / "outside.jpg").write_bytes(PICTURE)
    (root / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    os.mkfifo(root / "pipe")
    (root / "huge").write_bytes(b"x" * (LIMIT + 1))
    for uri, code in {
        (tmp_path / "outside.jpg").as_uri(): "PATH_NOT_ALLOWED",
        (root / "link.jpg").as_uri(): "PATH_NOT_ALLOWED",
        f"{root.as_uri()}/../outside.jpg": "PATH_NOT_ALLOWED",
        f"{root.as_uri()}/%2e%2e/outside.jpg": "PATH_NOT_ALLOWED",
        (root / "pipe").as_uri(): "PATH_NOT_ALLOWED",
        root.as_uri(): "PATH_NOT_ALLOWED",
        "file:///proc/self/environ": "PATH_NOT_ALLOWED",
        f"file://elsewhere{root}/link.jpg": "PATH_NOT_ALLOWED",
        "file:///a%00b": "PATH_NOT_ALLOWED",
        (root / "huge").as_uri(): "TOO_LARGE",
        (root / "missing.jpg").as_uri(): "SOURCE_GONE",
    }.items():
        assert code_of(fetcher, uri) == code, uri


def test_inline_pictures_have_the_same_limit(fetcher: Fetcher) -> None:
    assert fetcher.fetch(InlinePicture(data=PICTURE)) == PICTURE
    with pytest.raises(PoisonError, match="TOO_LARGE"):
        fetcher.fetch(InlinePicture(data=b"x" * (LIMIT + 1)))


def test_an_original_that_is_gone_was_superseded(fetcher: Fetcher, tmp_path: Path) -> None:
    store = ImageStore((tmp_path / "originals").as_uri())
    uri = store.put("a", PICTURE, "jpg")
    assert fetcher.fetch(PictureAt(uri=uri)) == PICTURE
    with pytest.raises(OriginalGoneError):
        fetcher.fetch(PictureAt(uri=uri + "x"))
    assert code_of(fetcher, f"{(tmp_path / 'originals').as_uri()}/../outside") == "PATH_NOT_ALLOWED"
