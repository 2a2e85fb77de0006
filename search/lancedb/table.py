"""The schema of a generation's LanceDB table, and how to call LanceDB and read its errors."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pixtide.schemas.errors import TransientError
from pixtide.schemas.queries import Filters
from pixtide.search.conditions import Operator, Value, conditions
from pixtide.search.generations import Generation
from pixtide.search.port import CollectionGoneError, StoredImage
from pixtide.search.rows import FIELDS, WORDS, FieldType, attribute_field, to_record

T = TypeVar("T")

_ARROW: Mapping[FieldType, pa.DataType] = {
    "text": pa.string(),
    "texts": pa.list_(pa.string()),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.timestamp("us", tz="UTC"),
}


def table_schema(generation: Generation) -> pa.Schema:
    """A record's fields, and `vector`, which is null if the row isn't live."""
    declared = {attribute_field(n): kind for n, kind in generation.attributes.items()}
    kinds: Mapping[str, FieldType] = {**FIELDS, WORDS: "text", **declared}
    vector = pa.field("vector", pa.list_(pa.float32(), generation.dimension))
    return pa.schema([*(pa.field(name, _ARROW[kind]) for name, kind in kinds.items()), vector])


def to_arrow(rows: Sequence[StoredImage], generation: Generation) -> pa.Table:
    """Normalised rows in the table's schema."""
    records = [{**to_record(row, generation.attributes), "vector": row.vector} for row in rows]
    return pa.Table.from_pylist(records, schema=table_schema(generation))


def nearest_exactly(found: pa.Table, vectors: NDArray[np.float32], limit: int) -> pa.Table:
    """The nearest rows by exact vectors, among those that an index of rounded vectors found.

    `vectors`, of shape (queries, dimension), are the queries. `found` has the columns `vector`,
    `_distance` and, for more than one query, `query_index`. The distances are replaced.
    """
    several = "query_index" in found.column_names
    numbers = found["query_index"].to_numpy() if several else np.zeros(len(found), np.int64)
    stored = found["vector"].combine_chunks().flatten().to_numpy().reshape(-1, vectors.shape[1])
    distances = 1 - np.einsum("rd,rd->r", stored, vectors[numbers])
    order = np.lexsort((distances, numbers))
    starts = np.searchsorted(numbers[order], numbers[order])
    order = order[np.arange(len(order)) - starts < limit]
    place = found.column_names.index("_distance")
    return found.set_column(place, "_distance", pa.array(distances)).take(order)


def attempt(ask: Callable[[], T], what: str) -> T:
    """Make a call of LanceDB, which raises RuntimeError for every error below it.

    Raises:
        CollectionGoneError: the table is gone.
        TransientError: the disk is full or fails.
    """
    try:
        return ask()
    except (RuntimeError, OSError) as error:
        if "Not found" in str(error) and "_versions" in str(error):
            raise CollectionGoneError(f"{what} is gone") from error
        raise TransientError(f"{what}: {error}") from error


_SQL: Mapping[Operator, str] = {
    Operator.HAS_ALL: "array_has_all({}, make_array({}))",
    Operator.HAS_ANY: "array_has_any({}, make_array({}))",
    Operator.HAS_NONE: "NOT array_has_any({}, make_array({}))",
    Operator.ONE_OF: "{} IN ({})",
    Operator.GT: "{} > {}",
    Operator.GTE: "{} >= {}",
    Operator.LT: "{} < {}",
    Operator.LTE: "{} <= {}",
}


def condition(filters: Filters, generation: Generation) -> str | None:
    """The filters as a SQL condition, or None if there are none.

    No condition for live rows is needed: other rows have neither vector nor words.

    Raises:
        ValueError: an attribute filter is wrong.
    """
    wanted = conditions(filters, generation.attributes)
    return (
        " AND ".join(_SQL[c.comparison].format(c.field, literals(c.values)) for c in wanted) or None
    )


def literals(values: Collection[Value]) -> str:
    """The values as SQL literals, with commas."""
    return ", ".join(map(_literal, values))


def _literal(value: Value) -> str:
    """A literal that its value can't end early, whatever it contains.

    In a text of DataFusion's SQL only the quote is special, and two quotes mean one; a backslash is
    an ordinary character. LanceDB's own `lit` uses `\\'` for an escaped quote, which is wrong, and
    rounds times.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        moment = value.astimezone(UTC).replace(tzinfo=None)
        return f"CAST('{moment.isoformat(sep=' ')}' AS TIMESTAMP)"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)
