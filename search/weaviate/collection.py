"""The schema of a generation's Weaviate collection, and filters for Weaviate."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
from weaviate import WeaviateClient
from weaviate.classes.config import (
    Configure,
    DataType,
    Property,
    Reconfigure,
    ReplicationDeletionStrategy,
    StopwordsPreset,
    Tokenization,
    VectorDistances,
)
from weaviate.classes.query import Filter
from weaviate.collections.classes.filters import _Filters
from weaviate.exceptions import UnexpectedStatusCodeError

from pixtide.schemas.queries import Filters
from pixtide.search.conditions import Condition, Operator, conditions
from pixtide.search.generations import Compression, Generation
from pixtide.search.port import RowState, StoredImage
from pixtide.search.rows import FIELDS, WORDS, FieldType, attribute_field, from_record

#: Fields that only scans and replies read: they need no index.
_NOT_INDEXED = {"epoch", "partition", "offset", "uri", "attributes_json", "caption", WORDS}
_RANGES = {"width", "height", "bytes", "uploaded_at"}

#: Weaviate compares times as nanoseconds in 64 bits, which overflow beyond these.
_FIRST = datetime(1677, 9, 22, tzinfo=UTC)
_LAST = datetime(2262, 4, 11, tzinfo=UTC)

_DATA_TYPES: Mapping[FieldType, DataType] = {
    "text": DataType.TEXT,
    "texts": DataType.TEXT_ARRAY,
    "integer": DataType.INT,
    "number": DataType.NUMBER,
    "boolean": DataType.BOOL,
    "date": DataType.DATE,
}


def create_collection(client: WeaviateClient, name: str, generation: Generation) -> None:
    """Create the empty collection: cosine, our own vectors, compressed as the record says."""
    declared = {
        attribute_field(attribute): kind for attribute, kind in generation.attributes.items()
    }
    client.collections.create(
        name,
        properties=[
            *(_property(field, kind) for field, kind in FIELDS.items()),
            _property(WORDS, "text"),
            *(_property(field, kind, ranges=True) for field, kind in declared.items()),
        ],
        inverted_index_config=Configure.inverted_index(
            index_timestamps=True,  # to find deleted rows by their age
            stopwords_preset=StopwordsPreset.NONE,  # captions may be in any language
        ),
        vector_config=Configure.Vectors.self_provided(
            vector_index_config=Configure.VectorIndex.hnsw(
                distance_metric=VectorDistances.COSINE,
                # Candidates to look at. Of 10,000 random vectors this found 99.5 % of the true ten
                # nearest, the default of 100 found 94 %, at hardly any cost in time.
                dynamic_ef_min=400,
                dynamic_ef_max=1000,
                quantizer=_quantizer(generation.compression),
            )
        ),
        replication_config=_replication(generation.replication),
    )


def _replication(copies: int) -> Any:
    """How many nodes keep each row; one that was away gets what it missed from the others."""
    if copies == 1:
        return None
    return Configure.replication(
        factor=copies,
        async_enabled=True,
        deletion_strategy=ReplicationDeletionStrategy.TIME_BASED_RESOLUTION,
    )


def _quantizer(compression: Compression) -> Any:
    """How the vectors are kept in memory; the full ones stay on disk, to rank the results again."""
    quantizers = Configure.VectorIndex.Quantizer
    match compression:
        case "rq8":
            return quantizers.rq(bits=8)
        case "rq1":
            return quantizers.rq(bits=1)
        case "pq":
            return quantizers.pq()
        case "none":
            return quantizers.none()


def train(client: WeaviateClient, name: str) -> None:
    """Let Weaviate train product quantization on the collection's vectors; safe to repeat.

    Weaviate (1.35) trains when the setting is written, and at the collection's creation that is too
    early. Training goes on after this call, and the collection refuses writes until it is done.
    """
    index = Reconfigure.VectorIndex.hnsw(quantizer=Reconfigure.VectorIndex.Quantizer.pq())
    vectors = Reconfigure.Vectors.update(vector_index_config=index)
    try:
        client.collections.use(name).config.update(vector_config=vectors)
    except UnexpectedStatusCodeError as error:
        if "UpdateVectorIndexConfigs" not in str(error):  # else it is training already
            raise


def create_records(client: WeaviateClient, name: str, replication: int) -> None:
    """Create the collection of generation records, which has no vectors."""
    client.collections.create(
        name,
        properties=[
            _property("name", "text"),
            Property(
                name="record",
                data_type=DataType.TEXT,
                index_filterable=False,
                index_searchable=False,
            ),
        ],
        vector_config=Configure.Vectors.self_provided(
            vector_index_config=Configure.VectorIndex.none()
        ),
        replication_config=_replication(replication),
    )


def condition(filters: Filters, generation: Generation) -> _Filters | None:
    """The filters for Weaviate, or None if there are none.

    An unfiltered search needs no condition for live rows, since other rows have neither vector nor
    words. With other conditions, it keeps those rows out of the list of candidates.

    Raises:
        ValueError: an attribute filter is wrong.
    """
    wanted = [_compared(each) for each in conditions(filters, generation.attributes)]
    return Filter.all_of([in_state(RowState.LIVE), *wanted]) if wanted else None


def _compared(condition: Condition) -> _Filters:
    field = Filter.by_property(condition.field)
    values: list[Any] = list(condition.values)
    match condition.comparison:
        case Operator.HAS_ALL:
            return field.contains_all(values)
        case Operator.HAS_ANY:
            return field.contains_any(values)
        case Operator.HAS_NONE:
            return field.contains_none(values)
        case Operator.ONE_OF:
            return Filter.any_of([field.equal(value) for value in values])
        case Operator.GT:
            return field.greater_than(_comparable(values[0]))
        case Operator.GTE:
            return field.greater_or_equal(_comparable(values[0]))
        case Operator.LT:
            return field.less_than(_comparable(values[0]))
        case Operator.LTE:
            return field.less_or_equal(_comparable(values[0]))


def _comparable(value: Any) -> Any:
    return max(_FIRST, min(value, _LAST)) if isinstance(value, datetime) else value


def in_state(state: RowState) -> _Filters:
    """A filter for rows in that state."""
    return Filter.by_property("state").equal(str(state))


def with_any(field: str, values: Collection[str]) -> _Filters:
    """A filter for rows whose field has one of these values."""
    return Filter.by_property(field).contains_any(list(values))


def row_of(found: Mapping[str, Any]) -> StoredImage:
    """The row of an object as the REST interface returns it."""
    record = dict(found["properties"])
    if uploaded_at := record.get("uploaded_at"):
        record["uploaded_at"] = datetime.fromisoformat(uploaded_at)
    values = (found.get("vectors") or {}).get("default")
    return from_record(record, np.asarray(values, dtype=np.float32) if values else None)


def _property(name: str, kind: FieldType, *, ranges: bool = False) -> Property:
    """Text is compared as a whole, but caption and tags are searched word by word."""
    is_text = kind in ("text", "texts")
    may_range = kind in ("integer", "number", "date")
    return Property(
        name=name,
        data_type=_DATA_TYPES[kind],
        tokenization=(
            (Tokenization.WORD if name == WORDS else Tokenization.FIELD) if is_text else None
        ),
        index_filterable=name not in _NOT_INDEXED,
        index_searchable=name == WORDS if is_text else None,
        index_range_filters=may_range and (ranges or name in _RANGES) if may_range else None,
    )
