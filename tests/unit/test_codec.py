"""Every event code has a test here, next to what is accepted."""

import base64
import json
from datetime import UTC, datetime

import pytest

from schemas.codec import decode_event, encode_event
from schemas.errors import PoisonError, ReasonCode
from schemas.events import ImageDeleted, ImageUploaded, InlinePicture, PictureAt

BINARY = {
    "ce_specversion": "1.0",
    "ce_id": "1",
    "ce_source": "/test",
    "ce_type": "pixtide.image.uploaded.v1",
    "ce_subject": "a",
    "content-type": "application/json",
}
URI = b'{"uri": "https://example.org/a.jpg"}'


def headers(**changes: str | None) -> list[tuple[str, bytes | None]]:
    named = BINARY | {k.replace("content_type", "content-type"): v for k, v in changes.items()}
    return [(k, v.encode()) for k, v in named.items() if v is not None]


def structured(**changes: object) -> bytes:
    envelope = {
        "specversion": "1.0",
        "id": "1",
        "source": "/test",
        "type": "pixtide.image.uploaded.v1",
        "subject": "a",
        "data": {"uri": "https://example.org/a.jpg"},
    } | changes
    return json.dumps({k: v for k, v in envelope.items() if v is not None}).encode()


STRUCTURED: list[tuple[str, bytes | None]] = [("content-type", b"application/cloudevents+json")]


def code_of(key: bytes | None, value: bytes, named: list[tuple[str, bytes | None]]) -> ReasonCode:
    with pytest.raises(PoisonError) as caught:
        decode_event(key, value, named, 0)
    assert caught.value.message
    return caught.value.code


def upload(value: bytes, named: list[tuple[str, bytes | None]]) -> ImageUploaded:
    event = decode_event(b"a", value, named, 1_700_000_000_000)
    assert isinstance(event, ImageUploaded)
    return event


def test_a_null_value_is_a_delete_whatever_the_headers() -> None:
    assert decode_event(b"a", None, [], 0) == ImageDeleted(image_id="a")


def test_a_delete_event_is_a_delete_in_both_modes() -> None:
    deleted = "pixtide.image.deleted.v1"
    assert decode_event(b"a", b"", headers(ce_type=deleted), 0) == ImageDeleted(image_id="a")
    value = structured(type=deleted, data=None)
    assert decode_event(b"a", value, STRUCTURED, 0) == ImageDeleted(image_id="a")


def test_both_modes_say_the_same() -> None:
    assert upload(URI, headers()) == upload(structured(), STRUCTURED)


def test_a_picture_may_be_the_value() -> None:
    event = upload(
        b"\xff\xd8", headers(content_type="image/jpeg", ce_caption="Ünï", ce_tags='["x"]')
    )
    assert event.picture == InlinePicture(data=b"\xff\xd8", content_type="image/jpeg")
    assert (event.caption, event.tags) == ("Ünï", ("x",))


def test_a_picture_may_be_the_envelopes_data() -> None:
    value = structured(
        data=None, data_base64=base64.b64encode(b"\xff\xd8").decode(), datacontenttype="image/png"
    )
    picture = upload(value, STRUCTURED).picture
    assert picture == InlinePicture(data=b"\xff\xd8", content_type="image/png")


def test_unknown_fields_and_headers_are_ignored() -> None:
    value = b'{"uri": "https://example.org/a.jpg", "later": {"version": 2}}'
    assert upload(value, [*headers(), ("other", b"\xff")]).picture == PictureAt(
        uri="https://example.org/a.jpg"
    )


def test_time_is_the_events_or_the_records() -> None:
    assert upload(URI, headers(ce_time="2026-01-02T03:04:05Z")).uploaded_at == datetime(
        2026, 1, 2, 3, 4, 5, tzinfo=UTC
    )
    assert upload(URI, headers()).uploaded_at == datetime.fromtimestamp(1_700_000_000, UTC)


def test_equal_headers_may_repeat() -> None:
    assert upload(URI, headers() + headers()).image_id == "a"


@pytest.mark.parametrize(
    ("code", "key", "value", "named"),
    [
        ("MISSING_KEY", None, URI, headers()),
        ("MISSING_KEY", b"", URI, headers()),
        ("INVALID_CLOUDEVENT", b"\xff", URI, headers()),
        ("INVALID_CLOUDEVENT", b"k" * 513, URI, headers(ce_subject=None)),
        ("INVALID_CLOUDEVENT", b"a", URI, headers(ce_id=None)),
        ("INVALID_CLOUDEVENT", b"a", URI, headers(ce_source="")),
        ("INVALID_CLOUDEVENT", b"a", URI, headers(ce_type=None)),
        ("INVALID_CLOUDEVENT", b"a", URI, headers(ce_specversion=None)),
        ("INVALID_CLOUDEVENT", b"a", URI, headers(ce_time="yesterday")),
        ("INVALID_CLOUDEVENT", b"a", structured(id=5), STRUCTURED),
        ("UNSUPPORTED_VERSION", b"a", URI, headers(ce_specversion="0.3")),
        ("UNSUPPORTED_VERSION", b"a", structured(specversion="2.0"), STRUCTURED),
        ("AMBIGUOUS_HEADER", b"a", URI, [*headers(), ("ce_id", b"2")]),
        ("KEY_MISMATCH", b"b", URI, headers()),
        ("UNSUPPORTED_TYPE", b"a", URI, headers(ce_type="pixtide.image.uploaded.v9")),
        ("MALFORMED_EVENT", b"a", b"{", headers()),
        ("MALFORMED_EVENT", b"a", b"[]", headers()),
        ("MALFORMED_EVENT", b"a", b'{"uri": "\xff"}', headers()),
        ("MALFORMED_EVENT", b"a", b'{"a":' * 5000, headers()),
        ("MALFORMED_EVENT", b"a", b'{"attributes": {"x": NaN}}', headers()),
        ("MALFORMED_EVENT", b"a", b"x", [("content-type", b"application/cloudevents+json")]),
        ("MALFORMED_EVENT", b"a", b"x", [("content-type", b"application/cloudevents-batch+json")]),
        ("MALFORMED_EVENT", b"a", b"x", headers(content_type="text/plain")),
        ("MALFORMED_EVENT", b"a", URI, [*headers(), ("ce_caption", b"\xff")]),
        ("MALFORMED_EVENT", b"a", b"x", headers(content_type="image/png", ce_tags="x")),
        ("INVALID_DATA", b"a", b"x", headers(content_type="image/png", ce_tags="[1]")),
        ("NO_SOURCE", b"a", b"{}", headers()),
        ("NO_SOURCE", b"a", b'{"uri": ""}', headers()),
        ("AMBIGUOUS_SOURCE", b"a", b'{"uri": "http://x/", "data_base64": ""}', headers()),
        ("AMBIGUOUS_SOURCE", b"a", structured(data_base64="AA=="), STRUCTURED),
        ("INVALID_DATA", b"a", b'{"data_base64": "!!"}', headers()),
        ("INVALID_DATA", b"a", structured(data=None, data_base64="@"), STRUCTURED),
        ("INVALID_DATA", b"a", b'{"uri": "http://x/", "tags": "no list"}', headers()),
        ("INVALID_DATA", b"a", b'{"uri": "http://x/", "sha256": "12"}', headers()),
    ],
)
def test_bad_events_have_their_code(
    code: str, key: bytes | None, value: bytes, named: list[tuple[str, bytes | None]]
) -> None:
    assert code_of(key, value, named) == code


@pytest.mark.parametrize(
    "picture",
    [InlinePicture(data=b"\x89PNG", content_type="image/png"), PictureAt(uri="s3://b/k", etag="1")],
)
def test_what_is_written_is_read(picture: InlinePicture | PictureAt) -> None:
    event = ImageUploaded(
        image_id="ordner/ä b.png",
        event_id="e",
        source="/test",
        uploaded_at=datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC),
        picture=picture,
        caption="two\nlines",
        tags=("a", "ß"),
        attributes={"n": 1, "deep": {"x": [True, None]}},
        sha256="0" * 64,
    )
    key, value, written = encode_event(event)
    assert decode_event(key, value, list(written), 0) == event
