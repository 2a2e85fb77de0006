"""Golden messages: what is on the wire is pinned, one file a message.

A change here is a change of contract: it needs a new version or must only add. To write new
files, run `python -m tests.golden.test_golden` and read the difference.
"""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pixtide.schemas.codec import decode_event, encode_event
from pixtide.schemas.dead_letters import SourceRecord, dead_letter_headers, retry_headers
from pixtide.schemas.errors import PoisonError, QueryCode, ReasonCode, RequestError
from pixtide.schemas.events import ImageDeleted, ImageEvent, ImageUploaded, InlinePicture, PictureAt
from pixtide.schemas.outcomes import DeadLetterReason, Outcome, OutcomeKind
from pixtide.schemas.queries import Filters, SearchReply, SearchRequest, SearchResult, read_request
from pixtide.schemas.topics import topics

FOLDER = Path(__file__).parent / "v1"
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
Message = dict[str, Any]
PINNED = PictureAt(uri="https://example.org/beach.jpg", etag='"686897696a7c876b7e"')


def uploaded(picture: InlinePicture | PictureAt) -> ImageUploaded:
    return ImageUploaded(
        image_id="holiday/beach 1.jpg",
        event_id="6f1c2a7e-0000-4000-8000-000000000001",
        source="/pixtide/publish",
        uploaded_at=AT,
        picture=picture,
        caption="Strand, früh am Morgen",
        tags=("beach", "holiday"),
        attributes={"camera": "X100", "iso": 200},
        sha256="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    )


def binary(event: ImageUploaded) -> Message:
    key, value, headers = encode_event(event)
    return {
        "key": key.decode(),
        "headers": {name: text.decode() for name, text in headers},
        "value": json.loads(value) if value.startswith(b"{") else base64.b64encode(value).decode(),
    }


SOURCE = SourceRecord(
    topic="images.uploaded",
    topic_id="AAAAAAAAAAAAAAAAAAAAAQ",
    partition=3,
    offset=42,
    timestamp_ms=1767323045000,
)


def letter_headers() -> list[tuple[str, bytes | None]]:
    reason = DeadLetterReason(
        code=ReasonCode.TRUNCATED_IMAGE,
        stage="decode",
        exception="builtins.OSError",
        message="image file is truncated",
    )
    return dead_letter_headers(SOURCE, reason, "v1", [("ce_id", b"1")])


def with_headers(headers: list[tuple[str, bytes | None]]) -> Message:
    return {"headers": {name: (value or b"").decode() for name, value in headers}}


def reply() -> SearchReply:
    result = SearchResult(
        image_id="holiday/beach 1.jpg",
        uri="https://example.org/beach.jpg",
        similarity=0.3125,
        caption="Strand, früh am Morgen",
        tags=("beach", "holiday"),
        attributes={"camera": "X100"},
        uploaded_at=AT,
        width=640,
        height=480,
        format="JPEG",
        bytes=53_211,
        sha256="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    )
    return SearchReply(results=(result,), generation="v1", took_ms={"encode": 5.5, "search": 2.0})


MESSAGES: dict[str, Callable[[], Message]] = {
    "upload-by-uri": lambda: binary(uploaded(PictureAt(uri="https://example.org/beach.jpg"))),
    "upload-pinned": lambda: binary(uploaded(PINNED)),
    "upload-inline": lambda: binary(
        uploaded(InlinePicture(data=b"\xff\xd8\xff\xe0", content_type="image/jpeg"))
    ),
    "outcome": lambda: json.loads(
        Outcome(
            image_id="holiday/beach 1.jpg",
            outcome=OutcomeKind.DEAD_LETTERED,
            generation="v1",
            topic="images.uploaded",
            topic_id="AAAAAAAAAAAAAAAAAAAAAQ",
            partition=3,
            offset=42,
            at=AT,
            reason=ReasonCode.TRUNCATED_IMAGE,
            message="image file is truncated",
            took_ms={"fetch": 1.5, "decode": 3.25},
        ).to_json()
    ),
    "dead-letter": lambda: with_headers(letter_headers()),
    "retry": lambda: with_headers(retry_headers(SOURCE, letter_headers())),
    "search-request": lambda: json.loads(
        SearchRequest(
            text="a beach in the morning",
            limit=5,
            min_similarity=0.1,
            filters=Filters(tags_all=("beach",), uploaded_after=AT, formats=("JPEG",)),
        ).to_json()
    ),
    "search-reply": lambda: json.loads(reply().to_json()),
    "search-error": lambda: json.loads(
        SearchReply.failed(RequestError(QueryCode.EMPTY_QUERY, "the text is empty")).to_json()
    ),
    "topics": lambda: {
        t.name: {"partitions": t.partitions} | t.config() for t in topics(embedded=False)
    },
}


@pytest.mark.parametrize("name", MESSAGES)
def test_what_is_written_is_golden(name: str) -> None:
    assert MESSAGES[name]() == json.loads((FOLDER / f"{name}.json").read_text())


@pytest.mark.parametrize("name", ["upload-by-uri", "upload-pinned", "upload-inline"])
def test_golden_uploads_are_read(name: str) -> None:
    golden = json.loads((FOLDER / f"{name}.json").read_text())
    inline = isinstance(golden["value"], str)
    value = base64.b64decode(golden["value"]) if inline else json.dumps(golden["value"]).encode()
    headers = [(name, text.encode()) for name, text in golden["headers"].items()]
    event: ImageEvent = decode_event(golden["key"].encode(), value, headers, 0)
    assert not isinstance(event, ImageDeleted)
    assert event == uploaded(event.picture)
    assert (event.picture == PINNED) == (name == "upload-pinned")


def test_a_golden_retry_names_its_source() -> None:
    golden = json.loads((FOLDER / "retry.json").read_text())["headers"]
    assert SourceRecord.from_headers([(n, t.encode()) for n, t in golden.items()]) == SOURCE


@pytest.mark.parametrize("missing", SourceRecord.model_fields)
def test_a_retry_without_its_source_is_no_retry(missing: str) -> None:
    name = f"pixtide-source-{missing.replace('_', '-')}"
    headers = retry_headers(SOURCE, letter_headers())
    assert name in dict(headers)
    with pytest.raises(PoisonError, match="INVALID_RETRY"):
        SourceRecord.from_headers([header for header in headers if header[0] != name])


def test_golden_requests_and_replies_are_read() -> None:
    assert read_request((FOLDER / "search-request.json").read_bytes()).limit == 5
    assert SearchReply.from_json((FOLDER / "search-reply.json").read_bytes()) == reply()


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, message in MESSAGES.items():
        text = json.dumps(message(), indent=2, ensure_ascii=False, sort_keys=True)
        (FOLDER / f"{name}.json").write_text(text + "\n")
