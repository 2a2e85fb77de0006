"""Hypothesis strategies for what strangers send: any JSON, odd events and requests, raw records."""

import base64
import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import strategies as st

from tests.support.pictures import jpeg
from tests.support.raw_records import RawRecord

#: Stands in an event for the URL of the deployment's own image store.
STORE = "http://store.invalid"
Codec = Literal["none", "gzip", "snappy", "lz4", "zstd"]
CODECS: tuple[Codec, ...] = ("none", "gzip", "snappy", "lz4", "zstd")

_ODD_TEXTS = (
    *("", " ", "\0", "\n", "'", "\\'", "' OR true --", '"', "%", "_", "\x1b]0;x\x07", "\u202e"),
    *("\ud800", "é" * 300, "x" * 600, "../../etc/passwd", "a/./b", "//", "a#1", "a?b", "%2e%2e"),
    *("NaN", "null", "1e400", "{}", "猫", "👩‍👩‍👧", "a" * 70_000),
)
odd_texts = st.sampled_from(_ODD_TEXTS) | st.text(st.characters(), max_size=40)
numbers = (
    st.integers()
    | st.floats()
    | st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**400, math.inf, math.nan, 1e308, -0.0])
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | odd_texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(odd_texts, inner, max_size=4),
    max_leaves=8,
)
names = st.binary(max_size=12) | st.sampled_from(
    [b"\xff\xfe", b"", b"ce_\xe9", b"traceparent", b"kafka_correlationId", b"x" * 300]
)
values = st.none() | st.binary(max_size=40)


def written(value: object) -> bytes:
    """As JSON, with what JSON doesn't allow left in: NaN, and numbers beyond all floats."""
    return json.dumps(value).replace("Infinity", "1e400").encode()


@dataclass(frozen=True)
class Sent:
    """A record, and how it is sent: by `codec`, and in a transaction that ends or is given up."""

    record: RawRecord
    codec: Codec = "none"
    transaction: Literal["none", "commit", "abort"] = "none"
    astray: bool = False

    @property
    def is_raw(self) -> bool:
        """Whether no client library can send it."""
        try:
            for name, _ in self.record.headers:
                name.decode()
        except UnicodeDecodeError:
            return True
        return any(b"\0" in name for name, _ in self.record.headers)


_URIS = st.sampled_from(
    [
        *(f"{STORE}/{path}" for path in ("x/./y.jpg", "/", "", "a/", "a#1", "n" * 300, "a\0b")),
        *(f"{STORE}/{path}" for path in ("a\nb", "../x", "%2e%2e/x", "a\\b", "gone/0.jpg")),
        *(
            "file:///etc/passwd",
            "file://",
            "file:///proc/self/environ",
            "s3://b/k",
            "s3://",
            "az:/x",
        ),
        *(
            "http://127.0.0.1:1/a.jpg",
            "http://[::1]/a",
            "http://0x7f.1/",
            "http://a b/",
            "http://[",
        ),
        *(
            "gs://b/\0",
            "ftp://x",
            "data:image/png;base64,AAAA",
            "javascript:1",
            "http://127.1:99999/",
        ),
    ]
) | st.text(max_size=30)
_DATA = st.sampled_from([base64.b64encode(jpeg(n)).decode() for n in range(3)]) | odd_texts


@st.composite
def _mutated(draw: st.DrawFn, whole: dict[str, Any]) -> dict[str, Any]:
    """The same with up to three fields changed, left out or added."""
    made = dict(whole)
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(whole)) | odd_texts)
        if draw(st.booleans()):
            made[name] = draw(json_values)
        else:
            made.pop(name, None)
    return made


@st.composite
def _headers(draw: st.DrawFn, whole: dict[bytes, bytes | None]) -> list[tuple[bytes, bytes | None]]:
    made: list[tuple[bytes, bytes | None]] = list(whole.items())
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, max(0, len(made) - 1)))
        change = draw(st.sampled_from(["add", "drop", "double", "value", "none"]))
        if change == "add":
            made.append((draw(names), draw(values)))
        elif made and change == "drop":
            made.pop(at)
        elif made and change == "double":
            made.append((made[at][0], draw(values)))
        elif made and change == "value":
            made[at] = (made[at][0], draw(values | odd_texts.map(_encoded)))
    return made


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


@st.composite
def _sent(draw: st.DrawFn, record: RawRecord) -> Sent:
    return Sent(
        record,
        draw(st.sampled_from(CODECS)),
        draw(st.sampled_from(["none", "none", "none", "commit", "abort"])),
        draw(st.integers(0, 9)) == 0,
    )


@st.composite
def uploads(draw: st.DrawFn) -> Sent:
    """A record for the log: an event with something odd about it, or anything at all."""
    key = draw(st.binary(min_size=1, max_size=600) | odd_texts.map(_encoded))
    event = {"caption": "A field", "tags": ["a"], "attributes": {"year": 2026, "place": "x"}}
    event |= {"uri": draw(_URIS)} if draw(st.booleans()) else {"data_base64": draw(_DATA)}
    ce: dict[bytes, bytes | None] = {
        b"ce_specversion": b"1.0",
        b"ce_type": b"pixtide.image.uploaded.v1",
        b"ce_id": b"4711",
        b"ce_source": b"/stranger",
        b"content-type": b"application/json",
    }
    kind = draw(st.sampled_from(["event", "event", "picture", "structured", "anything", "null"]))
    value: bytes | None = draw(_mutated(event).map(written))
    if kind == "picture":
        ce |= {b"content-type": b"image/jpeg", b"ce_attributes": draw(json_values.map(written))}
        value = draw(st.sampled_from([jpeg(4), jpeg(5)[:200], b"", b"GIF89a" + b"\0" * 20]))
    elif kind == "structured":
        envelope = {"specversion": "1.0", "type": "pixtide.image.uploaded.v1", "id": "1"}
        envelope |= {"source": "/s", "datacontenttype": "application/json"}
        whole = envelope | {"data": event, "attributes": "{}", "subject": "x"}
        ce = {b"content-type": b"application/cloudevents+json"}
        value = draw(_mutated(whole).map(written))
    elif kind == "anything":
        value = draw(st.binary(max_size=200) | json_values.map(written))
    elif kind == "null":
        value = None
    return draw(_sent(RawRecord(key, value, draw(_headers(ce)))))


@st.composite
def requests(draw: st.DrawFn) -> Sent:
    """A search request with something odd about it; its address is added when it is sent."""
    whole: dict[str, Any] = {
        "text": "a red square",
        "limit": 3,
        "filters": {"tags_any": ["a"], "min_width": 1},
        "cursor": None,
        "min_similarity": -1,
        "terms": [{"text": "blue", "weight": -0.5}],
    }
    deep = {"filters": draw(_mutated({"attributes": {"year": {"gte": 1}}, "formats": ["JPEG"]}))}
    request = draw(_mutated(whole | (deep if draw(st.booleans()) else {})))
    value = draw(st.just(written(request)) | json_values.map(written) | st.binary(max_size=99))
    if draw(st.integers(0, 19)) == 0:
        value = b"[" * 100_000
    key = draw(st.none() | st.binary(max_size=20))
    return draw(_sent(RawRecord(key, draw(st.just(value) | st.none()), draw(_headers({})))))
