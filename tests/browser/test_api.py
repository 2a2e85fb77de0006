"""The JSON API as a program that is no browser meets it, behind a token and with small limits."""

import io
import os
import socket
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image

from tests.browser.conftest import Site
from tests.support.pictures import jpeg

TOKEN = "a long secret"
KITTEN = "animals%2Fkitten.jpg"


@pytest.fixture(scope="module")
def exposed(site: Site) -> Iterator[str]:
    """A second page of the same stack, as one would expose it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token_file = site.stack.folder / "token"
    token_file.write_text(f"{TOKEN}\n")
    limits = {
        "PIXTIDE_WEB_PORT": str(port),
        "PIXTIDE_WEB_TOKEN_FILE": str(token_file),
        "PIXTIDE_WEB_UPLOAD_BYTES": "100000",
        "PIXTIDE_WEB_UPLOADS_PER_MINUTE": "6",
        "PIXTIDE_WEB_SEARCHES_PER_MINUTE": "3",
    }
    ready = site.stack.folder / "exposed.ready"
    before = dict(site.stack.env)
    site.stack.env.update(limits)
    try:
        site.stack.spawn("exposed", "web", "--ready-file", str(ready), ready=ready)
    finally:
        site.stack.env = before
    yield f"http://127.0.0.1:{port}"
    site.stack.stop_process("exposed")  # SIGTERM: it must end well
    assert not ready.exists()


@pytest.fixture
def client(exposed: str) -> Iterator[httpx.Client]:
    """Somebody with the token."""
    headers = {"authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=exposed, headers=headers, timeout=30) as client:
        yield client


def code(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


def test_without_the_token_there_is_the_page_and_no_data(exposed: str) -> None:
    with httpx.Client(base_url=exposed) as stranger:
        assert stranger.get("/").is_success
        assert stranger.get("/ready").json() == {"ready": True}
        for path in (f"/thumbnails/{KITTEN}", f"/originals/{KITTEN}", "/api/status"):
            assert stranger.get(path).status_code == 401
        wrong = stranger.post("/api/session", json={"token": "no"})
        assert (wrong.status_code, code(wrong)) == (401, "WRONG_TOKEN")
        assert stranger.post("/api/session", json={"token": TOKEN}).status_code == 204
        cookie = stranger.cookies.get("pixtide")
        assert cookie is not None
        assert TOKEN not in cookie
        assert stranger.get(f"/thumbnails/{KITTEN}").is_success


def test_thumbnails_and_originals_are_of_what_is_indexed_alone(client: httpx.Client) -> None:
    row = client.get(f"/api/images/{KITTEN}").json()
    small = client.get(f"/thumbnails/{KITTEN}", params={"side": 400, "sha256": row["sha256"]})
    assert small.headers["content-type"] == "image/jpeg"
    assert "immutable" in small.headers["cache-control"]
    assert max(Image.open(io.BytesIO(small.content)).size) == 400
    again = client.get(f"/thumbnails/{KITTEN}", headers={"if-none-match": small.headers["etag"]})
    assert again.status_code == 304 or again.headers["etag"] != small.headers["etag"]
    whole = client.get(f"/originals/{KITTEN}")
    assert whole.headers["content-type"] == "image/jpeg"
    assert whole.headers["content-disposition"] == "inline; filename*=UTF-8''kitten.jpg"
    assert "sandbox" in whole.headers["content-security-policy"]
    assert len(whole.content) == row["bytes"]
    for path in ("thumbnails", "originals", "api/images"):
        for name in ("no-such.jpg", "..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "a" * 600):
            assert client.get(f"/{path}/{name}").status_code in (400, 404)
    assert client.get(f"/thumbnails/{KITTEN}", params={"side": 401}).status_code == 400


def test_an_upload_is_a_picture_and_within_its_limits(client: httpx.Client) -> None:
    def upload(name: str, data: bytes, kind: str = "image/jpeg") -> httpx.Response:
        return client.post("/api/images", files={"picture": (name, data, kind)})

    assert (
        code(upload("a.jpg", b"<svg xmlns='http://www.w3.org/2000/svg'/>")) == "FORMAT_NOT_ALLOWED"
    )
    assert code(upload("a.jpg", jpeg(1)[:300])) == "TRUNCATED_IMAGE"
    too_large = upload("a.jpg", os.urandom(100_001))
    assert (too_large.status_code, code(too_large)) == (422, "TOO_LARGE")
    assert upload("a.jpg", os.urandom(200_000)).status_code == 413
    taken = upload("../../x/b.txt", jpeg(2), "text/plain")
    assert taken.status_code == 202
    assert taken.json()["image_id"] == "web/b.txt"
    for _ in range(3):
        last = upload("c.jpg", b"")
    assert (last.status_code, code(last)) == (429, "TOO_MANY_REQUESTS")
    assert 0 < int(last.headers["retry-after"]) <= 10


def test_searches_are_typed_limited_and_reach_no_local_files(client: httpx.Client) -> None:
    def search(**request: object) -> httpx.Response:
        return client.post("/api/search", json=request)

    found = search(text="a kitten", limit=1)
    assert found.json()["results"][0]["image_id"].startswith("animals/")
    refused = search(text="x", filters={"colour": "red"})
    assert (refused.status_code, code(refused)) == (400, "INVALID_FILTER")
    local = search(terms=[{"uri": "file:///etc/hostname"}])
    assert (local.status_code, code(local)) == (400, "SCHEME_NOT_ALLOWED")
    assert search(text="one too many").status_code == 429


def test_the_description_is_of_what_is_served(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    known = described["components"]["schemas"]
    used = {part.split('"')[0] for part in str(described).replace("'", '"').split("schemas/")[1:]}
    assert used <= set(known)
    for path, methods in described["paths"].items():
        for method in methods:
            filled = path.replace("{image_id}", "no-such")
            if method == "get" and path != "/api/outcomes":
                assert client.get(filled).status_code in (200, 404), path
            assert client.request("PATCH", filled).status_code == 405, path
