"""Whatever bytes come in over a connection: one request is refused, and the page goes on."""

import json
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pixtide.streams.web.connections import ConnectionLimits
from tests.support.pages import Behind, a_letter, a_row, a_site, served

_ANSWER_S = 60.0
PATHS = (
    *("/api/images/", "/thumbnails/", "/originals/", "/api/dead-letters/", "/static/", "/"),
    *("/api/search", "/api/images", "/api/session", "/api/dead-letters/retry", "/api/status"),
    *("/ready", "/live", "/openapi.json", "/static/main.js"),
)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    behind = Behind(rows={"a": a_row("a")}, originals={}, letters=[a_letter(0)])
    soon = ConnectionLimits(head_s=0.5, body_s=0.5)
    with served(a_site(behind, tmp_path_factory.mktemp("thumbnails")), patience=soon) as port:
        yield port


def sent(port: int, raw: bytes, *, ends: bool = False) -> bytes:
    """All that is answered to these bytes; with `ends` nothing more can come."""
    with socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_S) as connection:
        connection.sendall(raw)
        if ends:
            connection.shutdown(socket.SHUT_WR)
        answer = bytearray()
        try:
            while part := connection.recv(65536):
                answer += part
                if b"text/event-stream" in answer:
                    break
        except ConnectionResetError:
            pass  # it was refused before all of it was read
        return bytes(answer)


def status(answer: bytes) -> int:
    return int(answer[9:12]) if answer else 0


def must_be_refused_or_served(port: int, raw: bytes, *, ends: bool = False) -> None:
    answer = sent(port, raw, ends=ends)
    assert status(answer) in range(200, 500) or not answer, (raw, answer[:500])
    assert (
        status(sent(port, b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
        == 200
    )


def request(
    method: str,
    path: bytes,
    headers: dict[str, bytes],
    body: bytes = b"",
    *,
    host: bytes = b"localhost",
) -> bytes:
    lines = [method.encode() + b" " + path + b" HTTP/1.1", b"Host: " + host, b"Connection: close"]
    lines += [name.encode() + b": " + value for name, value in headers.items()]
    if body:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


quick = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
escaped = st.lists(
    st.one_of(
        st.integers(0, 255).map(lambda byte: b"%%%02X" % byte),
        st.sampled_from(
            [b"..", b"/", b"%", b"%2", b"%zz", b"%5C%27", b"%00", b"@", b"a", b"?", b"#"]
        ),
    ),
    max_size=12,
).map(b"".join)
line = st.binary(max_size=60).filter(lambda text: not set(text) & set(b"\r\n"))
visible = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60).map(str.encode)


@quick
@given(st.sampled_from(["GET", "DELETE", "POST", "HEAD"]), st.sampled_from(PATHS), escaped)
@example("DELETE", "/api/images/", b"%5C%27")
@example("DELETE", "/api/images/", b"%FF")
@example("GET", "/static/", b"%00")
@example("GET", "/static/", b"..%2f..%2fetc/passwd")
@example("GET", "/api/dead-letters/", b"9" * 5000 + b"@1/thumbnail")
@example("GET", "/api/dead-letters/", b"%D9%A1@1/thumbnail")
@example("GET", "/thumbnails/", b"a?side=" + b"4" * 5000)
@example("GET", "/originals/", b"a" * 3000)
def test_no_path_is_more_than_refused(port: int, method: str, path: str, more: bytes) -> None:
    must_be_refused_or_served(port, request(method, path.encode() + more, {}))


@quick
@given(
    st.sampled_from(["GET", "POST"]),
    st.sampled_from(PATHS),
    st.sampled_from(
        [
            "Origin",
            "Cookie",
            "Range",
            "If-Range",
            "If-None-Match",
            "Authorization",
            "Content-Type",
            "Accept",
            "Sec-Fetch-Site",
            "Upgrade",
            "X-Forwarded-For",
            "Content-Length",
            "Transfer-Encoding",
            "Expect",
            "Connection",
        ]
    ),
    st.one_of(line, visible),
)
@example("POST", "/api/search", "Origin", b"http://[")
@example("POST", "/api/search", "Origin", b"http://[::1")
@example("GET", "/", "Range", b"bytes=" + b"9" * 5000 + b"-")
@example("GET", "/static/main.js", "Range", b"bytes=" + b"0-0," * 3000)
@example("GET", "/static/main.js", "Range", b"bytes=-")
@example("GET", "/api/status", "Cookie", b'pixtide="\\' + b"\\" * 5000)
@example("POST", "/api/search", "Content-Length", b"9" * 19)
@example("POST", "/api/search", "Content-Length", b"-1")
@example("POST", "/api/search", "Transfer-Encoding", b"gzip, chunked")
@example("GET", "/", "Upgrade", b"websocket")
def test_no_header_is_more_than_refused(
    port: int, method: str, path: str, name: str, value: bytes
) -> None:
    must_be_refused_or_served(port, request(method, path.encode(), {name: value}))


@quick
@given(st.one_of(line, visible))
@example(b"[")
@example(b"[::1")
@example(b"localhost:99999999")
@example(b"[::1]]")
@example(b"local\xffhost")
@example(b"")
def test_no_host_is_more_than_refused(port: int, host: bytes) -> None:
    must_be_refused_or_served(port, request("GET", b"/api/status", {}, host=host))
    must_be_refused_or_served(port, request("POST", b"/api/search", {}, b"{}", host=host))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["text", "terms", "filters", "attributes", "limit", "places", "token", "x"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@quick
@given(
    st.sampled_from([b"/api/search", b"/api/session", b"/api/dead-letters/retry"]),
    st.one_of(st.binary(max_size=60), values.map(lambda value: json.dumps(value).encode())),
)
@example(b"/api/search", b"[" * 3000)
@example(b"/api/search", b"[" * 300_000)
@example(b"/api/search", b'{"text":' * 3000)
@example(b"/api/search", b'{"text":"a","filters":{"tags_all":[' + b"0," * 400_000 + b"0]}}")
@example(b"/api/search", b'{"text":"\\ud800"}')
@example(b"/api/search", b'{"limit":' + b"9" * 10_000 + b"}")
@example(b"/api/search", b'{"text":"a","filters":{"attributes":5}}')
@example(b"/api/session", b'{"token":"' + b"x" * 900_000 + b'"}')
@example(b"/api/session", b'{"token":"\\ud800"}')
@example(b"/api/dead-letters/retry", b'{"places":[' + b"0," * 30_000 + b"0]}")
def test_no_json_is_more_than_refused(port: int, path: bytes, body: bytes) -> None:
    must_be_refused_or_served(port, request("POST", path, {}, body))


def form(disposition: bytes, content: bytes, kind: bytes) -> bytes:
    body = b"--B\r\nContent-Disposition: " + disposition + b"\r\n\r\n" + content + b"\r\n--B--\r\n"
    return request("POST", b"/api/images", {"Content-Type": kind}, body)


@quick
@given(
    st.one_of(
        line,
        st.sampled_from(
            [
                b'form-data; name="picture"; filename="a.jpg"',
                b'form-data; name="caption"',
                b'form-data; name="tags"',
                b'form-data; name="picture"; filename="\xff\xfe"',
            ]
        ),
    ),
    st.binary(max_size=60),
    st.one_of(
        line,
        st.sampled_from(
            [
                b"utf-8",
                b"utf-16",
                b"utf-7",
                b"punycode",
                b"idna",
                b"undefined",
                b"unicode_escape",
                b"raw_unicode_escape",
                b"zlib",
                b"rot13",
                b"base64",
                b"\xff",
                b"cp037",
                b"mbcs",
            ]
        ).map(lambda charset: b"multipart/form-data; boundary=B; charset=" + charset),
        st.sampled_from(
            [
                b"multipart/form-data",
                b"multipart/form-data; boundary=",
                b"multipart/form-data; boundary=B",
                b"application/x-www-form-urlencoded",
                b"multipart/form-data; boundary=" + b"B" * 5000,
            ]
        ),
    ),
)
@example(
    b'form-data; name="caption"',
    rb"\ud800",
    b"multipart/form-data; boundary=B; charset=unicode_escape",
)
@example(
    rb'form-data; name="picture"; filename="\ud800.jpg"',
    b"\xff\xd8\xff",
    b"multipart/form-data; boundary=B; charset=unicode_escape",
)
@example(
    b'form-data; name="caption"', b"\xff-\xff", b"multipart/form-data; boundary=B; charset=punycode"
)
@example(
    b'form-data; name="caption"', b"\xff", b"multipart/form-data; boundary=B; charset=undefined"
)
@example(b'form-data; name="caption"', b"a\0b", b"multipart/form-data; boundary=B; charset=a\0b")
def test_no_form_is_more_than_refused(
    port: int, disposition: bytes, content: bytes, kind: bytes
) -> None:
    must_be_refused_or_served(port, form(disposition, content, kind))


@quick
@given(st.binary(max_size=200))
@example(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
@example(b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n")
@example(
    b"POST /api/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
    b"Content-Type: multipart/form-data; boundary=B\r\n\r\n--B\r\n"
)
@example(
    b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
)
def test_no_bytes_are_more_than_refused(port: int, raw: bytes) -> None:
    must_be_refused_or_served(port, raw, ends=True)


def test_a_malformed_host_or_origin_is_the_clients_mistake(port: int) -> None:
    assert status(sent(port, request("GET", b"/live", {}, host=b"["))) == 400
    odd = request("POST", b"/api/search", {"Origin": b"http://["}, b"{}")
    assert status(sent(port, odd)) == 400


def test_an_id_is_the_one_that_was_sent_or_none(port: int) -> None:
    """Bytes that are no UTF-8 don't become another picture's id."""
    assert status(sent(port, request("DELETE", b"/api/images/%FF", {}))) == 400
    assert status(sent(port, request("DELETE", b"/api/images/" + b"a" * 513, {}))) == 400
    assert status(sent(port, request("DELETE", b"/api/images/%5C%27", {}))) == 202


def test_a_mistake_is_explained_in_few_words(port: int) -> None:
    body = b'{"text":"a","filters":{"tags_all":[' + b"0," * 3000 + b"0]}}"
    answer = sent(port, request("POST", b"/api/search", {}, body))
    assert status(answer) == 400
    assert len(answer) < 5000
    answer = sent(port, request("GET", b"/api/images/" + b"%01" * 500, {}))
    assert status(answer) == 404
    assert len(answer) < 5000


def test_what_ends_too_early_or_comes_too_late_takes_nothing_with_it(
    port: int,
) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(
                b"POST /api/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 150000\r\n"
                b"Content-Type: multipart/form-data; boundary=B\r\n\r\n--B\r\n"
            )
    whole = form(
        b'form-data; name="picture"; filename="a.jpg"',
        b"\xff\xd8\xff",
        b"multipart/form-data; boundary=B",
    )
    assert status(sent(port, whole)) == 202
