"""CloudEvents 1.0 over Kafka to and from `ImageEvent`.

Reads the binary mode (`ce_*` headers) and the structured mode
(`application/cloudevents+json`); writes the binary mode. Sources: CloudEvents specification
1.0.2, its JSON format, and its Kafka protocol binding.
"""

import base64
import binascii
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import from_json, to_json

from pixtide.schemas.base import explain
from pixtide.schemas.dead_letters import LATEST_MS
from pixtide.schemas.errors import PoisonError, ReasonCode
from pixtide.schemas.events import (
    DELETED_V1,
    UPLOADED_V1,
    ImageDeleted,
    ImageEvent,
    ImageUploaded,
    InlinePicture,
    PictureAt,
    UploadData,
)
from pixtide.schemas.identity import MAX_IMAGE_ID_BYTES

Headers = Sequence[tuple[str, bytes | None]]

_STRUCTURED = "application/cloudevents+json"
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: How deep JSON may be nested. A reply holds attributes a few levels further in, and many readers
#: of JSON stop at 100 or 128.
MAX_DEPTH = 64
#: What an event may say of its picture, as JSON: replies hold that of each result.
MAX_DESCRIPTION_BYTES = 16 * 1024


class CloudEventAttributes(BaseModel):
    """CloudEvents context attributes and our extensions, as they stand in either mode."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    specversion: str
    id: str = Field(min_length=1)
    source: str = Field(min_length=1)
    type: str = Field(min_length=1)
    subject: str | None = None
    time: datetime | None = None
    datacontenttype: str = "application/json"
    caption: str | None = None
    tags: str | None = None
    attributes: str | None = None
    sha256: str | None = None


def image_id_of(key: bytes | None) -> str:
    """The image id that a record's key spells.

    Raises:
        PoisonError: MISSING_KEY, or INVALID_CLOUDEVENT for bytes that are no image id.
    """
    if not key:
        raise PoisonError(ReasonCode.MISSING_KEY, "the record has no key; the key is the image id")
    if len(key) > MAX_IMAGE_ID_BYTES:
        raise PoisonError(
            ReasonCode.INVALID_CLOUDEVENT,
            f"the key has {len(key)} bytes; an image id has at most {MAX_IMAGE_ID_BYTES}",
        )
    try:
        return key.decode()
    except UnicodeDecodeError as error:
        raise PoisonError(
            ReasonCode.INVALID_CLOUDEVENT, "the key, which is the image id, is not UTF-8"
        ) from error


def decode_event(
    key: bytes | None, value: bytes | None, headers: Headers, timestamp_ms: int
) -> ImageEvent:
    """Read one record of `images.uploaded`.

    Args:
        timestamp_ms: the record's timestamp, epoch milliseconds: the upload time where the
            event gives none.

    Raises:
        PoisonError: with the code that says what is wrong.
    """
    image_id = image_id_of(key)
    if value is None:
        return ImageDeleted(image_id=image_id)
    named = _single_headers(headers)
    content_type = _media_type(named.get("content-type", "application/json"))
    if content_type.startswith("application/cloudevents"):
        if content_type != _STRUCTURED:
            raise PoisonError(
                ReasonCode.MALFORMED_EVENT, f"{content_type} is not read; send {_STRUCTURED}"
            )
        envelope = _json_object(value)
        attributes = _attributes(envelope)
        data = _structured_data(envelope)
        content_type = _media_type(attributes.datacontenttype)
    else:
        attributes = _attributes({k[3:]: v for k, v in named.items() if k.startswith("ce_")})
        data = value
    if attributes.subject is not None and attributes.subject != image_id:
        raise PoisonError(
            ReasonCode.KEY_MISMATCH,
            f"the subject {attributes.subject!r} is not the record's key {image_id!r}",
        )
    if attributes.type == DELETED_V1:
        return ImageDeleted(image_id=image_id)
    if attributes.type != UPLOADED_V1:
        raise PoisonError(
            ReasonCode.UNSUPPORTED_TYPE,
            f"type {attributes.type!r}; known are {UPLOADED_V1} and {DELETED_V1}",
        )
    uploaded_at = attributes.time or datetime.fromtimestamp(
        min(max(timestamp_ms, 0), LATEST_MS) / 1000, UTC
    )
    if uploaded_at.tzinfo is None:
        uploaded_at = uploaded_at.replace(tzinfo=UTC)
    return _uploaded(image_id, attributes, content_type, data, uploaded_at)


def encode_event(event: ImageUploaded) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    """Write an upload in binary mode: (key, value, headers)."""
    headers = {
        "ce_specversion": "1.0",
        "ce_id": event.event_id,
        "ce_source": event.source,
        "ce_type": UPLOADED_V1,
        "ce_subject": event.image_id,
        "ce_time": event.uploaded_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
    }
    if isinstance(event.picture, InlinePicture):
        headers["content-type"] = event.picture.content_type or "image/*"
        if event.caption:
            headers["ce_caption"] = event.caption
        if event.tags:
            headers["ce_tags"] = to_json(event.tags).decode()
        if event.attributes:
            headers["ce_attributes"] = to_json(event.attributes).decode()
        if event.sha256:
            headers["ce_sha256"] = event.sha256
        value = event.picture.data
    else:
        headers["content-type"] = "application/json"
        value = (
            UploadData(
                uri=event.picture.uri,
                etag=event.picture.etag,
                caption=event.caption or None,
                tags=event.tags or None,
                attributes=event.attributes or None,
                sha256=event.sha256,
            )
            .model_dump_json(exclude_none=True)
            .encode()
        )
    return event.image_id.encode(), value, [(k, v.encode()) for k, v in headers.items()]


def _single_headers(headers: Headers) -> dict[str, str]:
    """The headers that matter here, lower-cased; a repeated one must say the same each time."""
    named: dict[str, str] = {}
    for raw_name, raw in headers:
        name = raw_name.lower()
        if raw is None or not (name.startswith("ce_") or name == "content-type"):
            continue
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise PoisonError(
                ReasonCode.MALFORMED_EVENT, f"header {raw_name} is not UTF-8"
            ) from error
        if named.setdefault(name, text) != text:
            raise PoisonError(
                ReasonCode.AMBIGUOUS_HEADER, f"header {raw_name} occurs twice and differs"
            )
    return named


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _json_object(data: bytes) -> dict[str, JsonValue]:
    try:
        parsed = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise PoisonError(ReasonCode.MALFORMED_EVENT, f"not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise PoisonError(ReasonCode.MALFORMED_EVENT, "the JSON is not an object")
    _require_plain(parsed)
    return parsed


def _require_plain(parsed: JsonValue) -> None:
    """Make sure that every reader of JSON can read it again, when a reply holds it.

    JSON sets no bounds to numbers and depth; its readers do. 1e400 would become an infinity, which
    JSON has no word for.

    Raises:
        PoisonError: INVALID_NUMBER, or MALFORMED_EVENT where it is nested too deep.
    """
    level, depth = [parsed], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise PoisonError(
                ReasonCode.MALFORMED_EVENT, f"the JSON is nested more than {MAX_DEPTH} levels deep"
            )
        inner: list[JsonValue] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, int | float) and not _is_finite(value):
                raise PoisonError(
                    ReasonCode.INVALID_NUMBER,
                    "the JSON has a number beyond ±1.8e308, the largest that computers agree on",
                )
        level = inner


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number of more digits than a double holds
        return False


def _attributes(named: Mapping[str, JsonValue]) -> CloudEventAttributes:
    specversion = named.get("specversion")
    if specversion is not None and specversion != "1.0":
        raise PoisonError(
            ReasonCode.UNSUPPORTED_VERSION, f"specversion {specversion!r}; known is '1.0'"
        )
    try:
        return CloudEventAttributes.model_validate(named)
    except ValidationError as error:
        raise PoisonError(ReasonCode.INVALID_CLOUDEVENT, explain(error)) from error


def _structured_data(envelope: Mapping[str, JsonValue]) -> bytes:
    if "data_base64" in envelope and "data" in envelope:
        raise PoisonError(ReasonCode.AMBIGUOUS_SOURCE, "the envelope has data and data_base64")
    if "data_base64" in envelope:
        return _unbase64(envelope["data_base64"])
    data = envelope.get("data")
    return b"{}" if data is None else to_json(data)


def _unbase64(text: JsonValue) -> bytes:
    if not isinstance(text, str):
        raise PoisonError(ReasonCode.INVALID_DATA, "data_base64 is not a string")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PoisonError(ReasonCode.INVALID_DATA, f"data_base64: {error}") from error


def _uploaded(
    image_id: str,
    attributes: CloudEventAttributes,
    content_type: str,
    data: bytes,
    uploaded_at: datetime,
) -> ImageUploaded:
    picture: InlinePicture | PictureAt
    if content_type.startswith("image/"):
        picture, body = InlinePicture(data=data, content_type=content_type), UploadData()
    elif content_type == "application/json" or content_type.endswith("+json"):
        body = _upload_data(data)
        picture = _picture(body)
    else:
        raise PoisonError(
            ReasonCode.MALFORMED_EVENT,
            f"content type {content_type!r}; known are application/json and image/*",
        )
    sha256 = body.sha256 or attributes.sha256
    if sha256 is not None and not _SHA256.fullmatch(sha256.lower()):
        raise PoisonError(ReasonCode.INVALID_DATA, "sha256 is not 64 hexadecimal digits")
    uploaded = ImageUploaded(
        image_id=image_id,
        event_id=attributes.id,
        source=attributes.source,
        uploaded_at=uploaded_at,
        picture=picture,
        caption=body.caption if body.caption is not None else attributes.caption or "",
        tags=body.tags if body.tags is not None else _tags(attributes.tags),
        attributes=(
            body.attributes
            if body.attributes is not None
            else _json_object((attributes.attributes or "{}").encode())
        ),
        sha256=sha256.lower() if sha256 else None,
    )
    _require_brief(uploaded)
    return uploaded


def _require_brief(event: ImageUploaded) -> None:
    """A search's reply holds what is said of each of its pictures, and must fit into a record."""
    uri = event.picture.uri if isinstance(event.picture, PictureAt) else ""
    size = len(to_json((uri, event.caption, event.tags, event.attributes)))
    if size > MAX_DESCRIPTION_BYTES:
        raise PoisonError(
            ReasonCode.TOO_LARGE,
            f"uri, caption, tags and attributes take {size} bytes as JSON; the limit is "
            f"{MAX_DESCRIPTION_BYTES}",
        )


def _upload_data(data: bytes) -> UploadData:
    fields = _json_object(data)
    try:
        return UploadData.model_validate(fields, extra="ignore")
    except ValidationError as error:
        raise PoisonError(ReasonCode.INVALID_DATA, explain(error)) from error


def _picture(body: UploadData) -> InlinePicture | PictureAt:
    if body.uri is not None and body.data_base64 is not None:
        raise PoisonError(ReasonCode.AMBIGUOUS_SOURCE, "the data has both uri and data_base64")
    if body.data_base64 is not None:
        return InlinePicture(data=_unbase64(body.data_base64))
    if body.uri:
        return PictureAt(uri=body.uri, etag=body.etag)
    raise PoisonError(ReasonCode.NO_SOURCE, "the data has neither uri nor data_base64")


def _tags(header: str | None) -> tuple[str, ...]:
    if header is None:
        return ()
    try:
        parsed = from_json(header)
    except ValueError as error:
        raise PoisonError(ReasonCode.MALFORMED_EVENT, f"ce_tags: not JSON: {error}") from error
    if not isinstance(parsed, list) or not all(isinstance(tag, str) for tag in parsed):
        raise PoisonError(ReasonCode.INVALID_DATA, "ce_tags is not a JSON array of strings")
    return tuple(parsed)
