"""Every event code has a test here, next to what is accepted."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixtide.schemas.codec import decode_event, encode_event
from pixtide.schemas.errors import PoisonError, ReasonCode
from pixtide.schemas.events import ImageDeleted, ImageUploaded, InlinePicture, PictureAt

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


NUMBER = structured().replace(b'{"uri"', b'{"attributes": {"x": 1e400}, "uri"')


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
        ("MALFORMED_EVENT", b"a", b'{"uri": "http://x/", "caption": "\\ud83c"}', headers()),
        (
            "MALFORMED_EVENT",
            b"a",
            b'{"attributes": {"x":' + b"[" * 70 + b"]" * 70 + b"}}",
            headers(),
        ),
        ("INVALID_NUMBER", b"a", b'{"uri": "http://x/", "attributes": {"x": 1e400}}', headers()),
        ("INVALID_NUMBER", b"a", b'{"attributes": {"x": [{"y": -1e999}]}}', headers()),
        ("INVALID_NUMBER", b"a", b'{"attributes": {"x": ' + b"9" * 400 + b"}}", headers()),
        (
            "INVALID_NUMBER",
            b"a",
            b"x",
            headers(content_type="image/png", ce_attributes='{"x":1e400}'),
        ),
        ("INVALID_NUMBER", b"a", NUMBER, STRUCTURED),
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


def test_what_is_said_of_a_picture_is_bounded_as_replies_hold_it() -> None:
    uri = "https://example.org/a.jpg"
    for said in (
        {"caption": "é" * 9_000},
        {"caption": "\x01" * 3_000},  # six bytes each as JSON
        {"tags": ["x" * 100] * 200},
        {"attributes": {"x": "y" * 17_000}},
        {"uri": uri + "?" + "x" * 17_000},
        {"caption": "x" * 9_000, "attributes": {"x": "y" * 9_000}},
    ):
        value = json.dumps({"uri": uri} | said).encode()
        assert code_of(b"a", value, headers()) == ReasonCode.TOO_LARGE
    named = headers(content_type="image/jpeg", ce_caption="x" * 17_000)
    assert code_of(b"a", b"picture", named) == ReasonCode.TOO_LARGE
    long = json.dumps({"uri": uri, "caption": "x" * 15_000}).encode()
    assert len(upload(long, headers()).caption) == 15_000


def test_a_time_beyond_the_calendar_is_its_end() -> None:
    event = decode_event(b"a", URI, headers(), 2**63 - 1)
    assert isinstance(event, ImageUploaded)
    assert event.uploaded_at.year == 9999


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text(max_size=8)
    | st.integers(10**300, 10**320),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
_NAMES = st.sampled_from(
    [
        "specversion",
        "id",
        "source",
        "type",
        "subject",
        "time",
        "datacontenttype",
        "caption",
        "tags",
        "attributes",
        "sha256",
        "data",
        "data_base64",
        "uri",
        "etag",
    ]
)
_FIELDS = st.dictionaries(
    _NAMES, _JSON | st.sampled_from(["1.0", "image/png", "application/json", "", "NaN"]), max_size=5
)


def _dumped(value: object) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _enveloped(fields: dict[str, Any], data: dict[str, Any]) -> bytes:
    named = {"specversion": "1.0", "id": "1", "source": "s", "type": "pixtide.image.uploaded.v1"}
    return _dumped({**named, **fields, "data": data})


@settings(max_examples=500, deadline=None)
@given(
    key=st.just(b"a") | st.binary(max_size=8) | st.none(),
    value=st.none()
    | st.binary(max_size=40)
    | _FIELDS.map(_dumped)
    | st.builds(_enveloped, _FIELDS, _FIELDS),
    more=st.lists(
        st.tuples(
            _NAMES.map("ce_{}".format) | st.just("content-type") | st.text(max_size=5),
            st.none()
            | st.binary(max_size=10)
            | _JSON.map(_dumped)
            | st.sampled_from([b"image/png", b"application/cloudevents+json", b"1e400"]),
        ),
        max_size=5,
    ),
    usual=st.booleans(),
    timestamp_ms=st.integers(-(2**63), 2**63 - 1),
)
def test_whatever_comes_is_an_event_or_poison(
    key: bytes | None,
    value: bytes | None,
    more: list[tuple[str, bytes | None]],
    usual: bool,
    timestamp_ms: int,
) -> None:
    try:
        event = decode_event(key, value, (headers() if usual else []) + more, timestamp_ms)
    except PoisonError as error:
        assert error.message.encode()
        return
    if isinstance(event, ImageUploaded):
        json.dumps(event.attributes, allow_nan=False).encode()
