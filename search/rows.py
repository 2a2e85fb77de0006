"""Rows as stored: the flat record that both adapters keep of a `StoredImage`, and checks.

A record maps the stored object's field names to plain values. All attributes are stored together as
JSON. Those that the generation declares are also copied into a field `attr_<name>`, if their value
has the declared type, so that searches can filter by them.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from pydantic import JsonValue
from pydantic_core import from_json

from pixtide.schemas.errors import ReasonCode
from pixtide.schemas.identity import Version
from pixtide.search.generations import AttributeType
from pixtide.search.port import RowState, StoredImage, Vector, Written

FieldType = Literal["text", "texts", "integer", "number", "boolean", "date"]

#: Every field of a stored object except its vector and its `attr_<name>` fields.
FIELDS: Mapping[str, FieldType] = {
    "image_id": "text",
    "state": "text",
    "epoch": "integer",
    "partition": "integer",
    "offset": "integer",
    "uri": "text",
    "sha256": "text",
    "width": "integer",
    "height": "integer",
    "format": "text",
    "orientation": "text",
    "bytes": "integer",
    "caption": "text",
    "tags": "texts",
    "uploaded_at": "date",
    "attributes_json": "text",
    "reason": "text",
}

#: Caption and tags as one text, to search for words; never read back.
WORDS = "words"

#: How far a vector's length may be from 1: float32 rounding, and models that normalise in half
#: precision.
_NORM_TOLERANCE = 1e-2
#: Weaviate stores whole numbers as JSON does: exactly up to here.
_GREATEST = 2**53 - 1
#: The most bytes of a row's texts in UTF-8. A record has at most 1 MiB, but a compressed one may
#: contain more. A row that doesn't fit into any message to an index would be retried for ever.
_MOST_TEXT = 2 * 2**20


def normalised(row: StoredImage) -> StoredImage:
    """The row as it will be read back: its time in UTC.

    Raises:
        ValueError: the time has no time zone.
    """
    return row if row.uploaded_at is None else replace(row, uploaded_at=in_utc(row.uploaded_at))


def in_utc(moment: datetime) -> datetime:
    """The same moment in UTC; at either end of the calendar, the same digits in UTC.

    Raises:
        ValueError: the time has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"the time {moment.isoformat()} has no zone")
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # 0001-01-01T00:00+02:00 would be before the first year
        return moment.replace(tzinfo=UTC)


def filter_time(moment: datetime) -> datetime:
    """A filter's time in UTC; a time without a zone counts as UTC."""
    return in_utc(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def to_record(row: StoredImage, declared: Mapping[str, AttributeType]) -> dict[str, Any]:
    """The record of a normalised row, without its vector."""
    record: dict[str, Any] = {
        "image_id": row.image_id,
        "state": str(row.state),
        **row.version._asdict(),
        "uri": row.uri,
        "sha256": row.sha256,
        "width": row.width,
        "height": row.height,
        "format": row.format,
        "orientation": row.orientation,
        "bytes": row.bytes,
        "caption": row.caption,
        "tags": list(row.tags),
        "uploaded_at": row.uploaded_at,
        "attributes_json": _as_json(row.attributes),
        "reason": None if row.reason is None else str(row.reason),
        WORDS: "\n".join((row.caption, *row.tags)),
    }
    for name, kind in declared.items():
        record[attribute_field(name)] = typed_value(row.attributes.get(name), kind)
    return record


def from_record(record: Mapping[str, Any], vector: Vector | None = None) -> StoredImage:
    """The row of a record; fields that the store left out get their defaults."""
    reason = record.get("reason") or ""
    return StoredImage(
        image_id=record["image_id"],
        state=RowState(record["state"]),
        version=Version(int(record["epoch"]), int(record["partition"]), int(record["offset"])),
        uri=record.get("uri") or "",
        sha256=record.get("sha256") or "",
        width=int(record.get("width") or 0),
        height=int(record.get("height") or 0),
        format=record.get("format") or "",
        orientation=record.get("orientation") or "",
        bytes=int(record.get("bytes") or 0),
        caption=record.get("caption") or "",
        tags=tuple(record.get("tags") or ()),
        attributes=_from_json(record.get("attributes_json") or "{}"),
        uploaded_at=record.get("uploaded_at"),
        # A code that only a later version knows must not make the row unreadable.
        reason=ReasonCode(reason) if reason in ReasonCode.__members__ else None,
        vector=vector,
    )


def attribute_field(name: str) -> str:
    """The field of a declared attribute."""
    return f"attr_{name}"


def typed_value(value: JsonValue, kind: AttributeType) -> str | float | bool | datetime | None:
    """The value converted to that type, or None if it doesn't have that type."""
    return _TYPED[kind](value)


def write_each(
    rows: Sequence[StoredImage],
    dimension: int,
    write: Callable[[Sequence[StoredImage]], Sequence[Written]],
) -> list[Written]:
    """Write all storable rows at once; each other row fails alone.

    Raises:
        ValueError: an id occurs twice.
    """
    if len({row.image_id for row in rows}) < len(rows):
        raise ValueError("an image id occurs twice in one write; keep its newest row")
    results: dict[int, Written] = {}
    fit: dict[int, StoredImage] = {}
    for place, row in enumerate(rows):
        try:
            check_row(row, dimension)
            fit[place] = normalised(row)
        except ValueError as error:
            results[place] = Written(applied=False, error=str(error))
    results |= dict(zip(fit, write(list(fit.values())) if fit else (), strict=True))
    return [results[place] for place in range(len(rows))]


def check_row(row: StoredImage, dimension: int) -> None:
    """Check that an index can store this row and give it back unchanged.

    Raises:
        ValueError: a live row's vector is missing or wrong, or another row has a vector; a text is
            invalid or the texts are too long; a number is too large; or an attribute isn't JSON.
    """
    if row.state is RowState.LIVE:
        check_vector(row.vector, dimension)
    elif row.vector is not None:
        raise ValueError(f"the {row.state} row of {row.image_id!r} has a vector")
    try:
        size = size_of(row)
    except UnicodeEncodeError as error:
        raise ValueError("half of a surrogate pair is no text") from error
    if size > _MOST_TEXT:
        raise ValueError(f"its texts have {size} bytes, more than {_MOST_TEXT}")
    for number in (*row.version, row.width, row.height, row.bytes):
        if abs(number) > _GREATEST:
            raise ValueError(f"the number {number} is out of range: {_GREATEST} is the greatest")


def may_stand(image_id: str, version: Version) -> bool:
    """Whether a row with this id and version can exist."""
    return is_text(image_id) and all(abs(part) <= _GREATEST for part in version)


def size_of(row: StoredImage) -> int:
    """The size of its texts in UTF-8 bytes.

    Raises:
        ValueError: a text is invalid (UnicodeEncodeError), or an attribute isn't JSON.
    """
    names = (row.image_id, row.uri, row.sha256, row.format, row.orientation)
    texts = (*names, row.caption, *row.tags, _as_json(row.attributes))
    return sum(len(text.encode()) for text in texts)


def is_text(text: str) -> bool:
    """Whether it can be encoded in UTF-8. Half a surrogate pair can't, so no row contains one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_vector(vector: Vector | None, dimension: int) -> None:
    """Check for float32, shape (dimension,), finite values and unit length.

    Raises:
        ValueError: one of them is wrong. An index that accepts NaN gives wrong answers ever after.
    """
    if vector is None:
        raise ValueError("a live row needs a vector")
    if vector.dtype != np.float32 or vector.shape != (dimension,):
        raise ValueError(
            f"the vector is {vector.dtype} of shape {vector.shape}, not float32 of ({dimension},)"
        )
    length = float(np.linalg.norm(vector))
    if not abs(length - 1) <= _NORM_TOLERANCE:  # this form also refuses NaN
        raise ValueError(f"the vector's length is {length}, not 1")


def _as_json(attributes: Mapping[str, JsonValue]) -> str:
    """Strict JSON, so that a reply can contain it.

    Raises:
        ValueError: a number in it isn't finite.
    """
    try:
        return json.dumps(attributes, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"the attributes aren't JSON: {error}") from error


def _from_json(text: str) -> dict[str, JsonValue]:
    """The attributes. Earlier versions stored infinite numbers, which no reply can contain."""
    attributes: dict[str, JsonValue] = from_json(text)
    if "Infinity" in text or "NaN" in text:
        return {name: _finite(value) for name, value in attributes.items()}
    return attributes


def _finite(value: JsonValue) -> JsonValue:
    match value:
        case dict():
            return {name: _finite(each) for name, each in value.items()}
        case list():
            return [_finite(each) for each in value]
        case float() if not math.isfinite(value):
            return None
    return value


def similarity_of(distance: float) -> float:
    """The cosine similarity of a cosine distance; rounding never leads outside −1 to 1."""
    return min(1.0, max(-1.0, 1.0 - distance))


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: JsonValue) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON's whole numbers have no limit
        return None
    return number if math.isfinite(number) else None


def _boolean(value: JsonValue) -> bool | None:
    return value if isinstance(value, bool) else None


def _date(value: JsonValue) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return filter_time(moment)


_TYPED: Mapping[AttributeType, Callable[[JsonValue], str | float | bool | datetime | None]] = {
    "text": _text,
    "number": _number,
    "boolean": _boolean,
    "date": _date,
}
