"""What the page answers: as its own description says, and harmless whatever strangers wrote."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from pixtide.schemas.errors import QueryCode, RequestError, TransientError
from pixtide.schemas.outcomes import Outcome, OutcomeKind
from pixtide.schemas.queries import SearchReply
from pixtide.streams.web.openapi import openapi_document
from pixtide.streams.web.problems import shortened
from tests.support.pages import NOW, PICTURE, Behind, a_letter, a_row, a_site, served

DOCUMENT = json.loads(openapi_document())
EVIL = "<script>alert(1)</script>\"'`\r\nSet-Cookie: a=b\x1b]0;owned\x07\u202egpj.exe"


@pytest.fixture(scope="module")
def behind() -> Behind:
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
    html = b"<!doctype html><script>alert(1)</script>"
    rows = {
        "plain": a_row("plain"),
        "bare": a_row("bare", uploaded_at=None),
        "evil": a_row(EVIL, caption=EVIL, tags=(EVIL,), attributes={EVIL: [EVIL, None]}),
        "svg.html": a_row("svg.html", svg),
        "page.jpg": a_row("page.jpg", html),
    }
    return Behind(
        rows=rows | {EVIL: rows["evil"]},
        originals={
            **dict.fromkeys(("memory:plain", "memory:bare", f"memory:{EVIL}"), PICTURE),
            "memory:svg.html": svg,
            "memory:page.jpg": html,
        },
        letters=[
            a_letter(0),
            a_letter(1, source=None, code="", stage="", generation="", message=EVIL * 5000),
            a_letter(2, arrived_ms=2**63 - 1, image_id="\ufffd" * 100_000),
            a_letter(3, arrived_ms=-1),
        ],
    )


@pytest.fixture(scope="module")
def page(behind: Behind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with (
        served(a_site(behind, tmp_path_factory.mktemp("page"))) as port,
        httpx.Client(base_url=f"http://localhost:{port}", timeout=60) as client,
    ):
        yield client


def described(method: str, path: str, answer: httpx.Response) -> None:
    """The answer follows the schema that the description has for it."""
    responses = DOCUMENT["paths"][path][method]["responses"]
    response = responses.get(str(answer.status_code), responses["default"])
    [(kind, content)] = response.get("content", {"": {}}).items()
    assert answer.headers.get("content-type", "").startswith(kind.rstrip("*"))
    if kind == "application/json":
        schema = {**content["schema"], "components": DOCUMENT["components"]}
        Draft202012Validator(schema).validate(answer.json())


FORM = {"picture": ("a.jpg", PICTURE)}


@pytest.mark.parametrize(
    ("method", "path", "filled", "request_", "status"),
    [
        ("post", "/api/search", "", {"json": {"text": "a"}}, 200),
        ("post", "/api/search", "", {"json": {}}, 400),
        ("post", "/api/search", "", {"content": b"{"}, 400),
        ("post", "/api/search", "", {"content": bytes(950_000)}, 413),
        ("get", "/api/images/{image_id}", "/api/images/plain", {}, 200),
        ("get", "/api/images/{image_id}", "/api/images/bare", {}, 200),
        ("get", "/api/images/{image_id}", "/api/images/evil", {}, 200),
        ("get", "/api/images/{image_id}", "/api/images/none", {}, 404),
        ("get", "/api/images/{image_id}", "/api/images/%FF", {}, 400),
        ("delete", "/api/images/{image_id}", "/api/images/plain", {}, 202),
        ("post", "/api/images", "", {"files": FORM}, 202),
        ("post", "/api/images", "", {"content": b"x"}, 400),
        ("post", "/api/images", "", {"files": {"picture": ("a.jpg", b"no")}}, 422),
        ("get", "/thumbnails/{image_id}", "/thumbnails/plain", {}, 200),
        ("get", "/thumbnails/{image_id}", "/thumbnails/none", {}, 404),
        ("get", "/originals/{image_id}", "/originals/plain", {}, 200),
        ("get", "/api/status", "", {}, 200),
        ("get", "/api/dead-letters", "", {}, 200),
        ("get", "/api/dead-letters/{place}/thumbnail", "/api/dead-letters/0@0/thumbnail", {}, 200),
        ("get", "/api/dead-letters/{place}/thumbnail", "/api/dead-letters/x/thumbnail", {}, 404),
        ("post", "/api/dead-letters/retry", "", {"json": {"places": ["0@0"]}}, 202),
        ("post", "/api/dead-letters/retry", "", {"json": {"places": []}}, 400),
        ("post", "/api/session", "", {"json": {"token": "x"}}, 401),
        ("get", "/live", "", {}, 200),
        ("get", "/ready", "", {}, 200),
    ],
)
def test_each_answer_is_as_described(
    page: httpx.Client, method: str, path: str, filled: str, request_: dict[str, Any], status: int
) -> None:
    answer = page.request(method.upper(), filled or path, **request_)
    assert answer.status_code == status, answer.text[:500]
    described(method, path, answer)


@pytest.mark.parametrize(
    ("fails", "status"),
    [
        (lambda _: SearchReply(results=()), 200),
        (lambda _: SearchReply.failed(RequestError(QueryCode.OVERLOADED, "full")), 503),
        (lambda _: SearchReply.failed(RequestError(QueryCode.UNKNOWN_IMAGE, "none")), 400),
        (lambda _: _raise(TransientError("away")), 503),
        (lambda _: _raise(RequestError(QueryCode.INVALID_FILTER, "no")), 400),
    ],
)
def test_a_search_is_answered_as_described(
    page: httpx.Client, behind: Behind, fails: Callable[[object], SearchReply], status: int
) -> None:
    behind.reply = fails
    try:
        answer = page.post("/api/search", json={"text": "a"})
    finally:
        behind.reply = None
    assert answer.status_code == status
    described("post", "/api/search", answer)


def _raise(error: Exception) -> SearchReply:
    raise error


def test_nothing_that_may_be_left_out_is_required() -> None:
    """Answers leave out what is null."""
    for name, schema in DOCUMENT["components"]["schemas"].items():
        for field in schema.get("required", ()):
            kinds = schema["properties"][field].get("anyOf", [])
            assert {"type": "null"} not in kinds, f"{name}.{field}"


def test_an_outcome_is_as_described() -> None:
    outcome = Outcome(
        image_id="a",
        outcome=OutcomeKind.INDEXED,
        generation="v1",
        topic="t",
        topic_id="i",
        partition=0,
        offset=0,
        at=NOW,
    )
    schema = {"$ref": "#/components/schemas/Outcome", "components": DOCUMENT["components"]}
    Draft202012Validator(schema).validate(json.loads(outcome.to_json()))


def test_letters_of_any_time_and_length_are_listed(page: httpx.Client) -> None:
    answer = page.get("/api/dead-letters")
    letters = {letter["place"]: letter for letter in answer.json()["letters"]}
    assert letters["0@2"]["arrived_at"].startswith("9999-12-31")
    assert letters["0@3"]["arrived_at"].startswith("1970-01-01")
    assert len(letters["0@2"]["image_id"]) <= 1001
    assert len(letters["0@1"]["message"]) <= 1001


@pytest.mark.parametrize("name", ["svg.html", "page.jpg"])
def test_an_original_that_is_no_picture_is_only_ever_saved(page: httpx.Client, name: str) -> None:
    answer = page.get(f"/originals/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment; ")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert page.get(f"/thumbnails/{name}").status_code == 422


def test_what_a_stranger_wrote_ends_no_header(page: httpx.Client) -> None:
    answer = page.get("/originals/evil")
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    disposition = answer.headers["content-disposition"]
    assert re.fullmatch(r"inline; filename\*=UTF-8''[A-Za-z0-9%._~-]+", disposition)


def test_pictures_can_run_nothing(page: httpx.Client) -> None:
    for path in (
        *("/thumbnails/plain", "/originals/plain", "/api/dead-letters/0@0/thumbnail"),
        *("/originals/svg.html", "/thumbnails/none", "/api/images/evil", "/"),
    ):
        answer = page.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        kind = answer.headers["content-type"].partition(";")[0]
        assert kind in ("image/jpeg", "application/octet-stream", "application/json", "text/html")
        assert (kind == "text/html") == (path == "/")


def test_the_scripts_make_no_markup_from_texts() -> None:
    """The policy forbids it to browsers that know trusted types; the others rely on this."""
    static = Path(__file__).parents[4] / "streams/web/static"
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc"
        r"|createContextualFragment|javascript:|setHTML"
    )
    for file in (*static.glob("*.js"), static / "index.html"):
        assert not forbidden.search(file.read_text()), file.name


def test_a_message_is_short_and_can_be_written() -> None:
    assert shortened("a" * 1000) == "a" * 1000
    assert shortened("a" * 10**6) == "a" * 1000 + "…"
    assert shortened("\ud800") == "?"
    assert len(shortened("\U0001f600" * 10**6)) == 1001


def test_what_servers_say_of_themselves_is_for_the_log(page: httpx.Client, behind: Behind) -> None:
    behind.reply = lambda _: _raise(TransientError("broker 10.1.2.3:9092 at /var/lib"))
    try:
        answer = page.post("/api/search", json={"text": "a"})
    finally:
        behind.reply = None
    assert "10.1.2.3" not in answer.text
    assert "/var" not in answer.text
