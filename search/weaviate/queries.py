"""One search of a Weaviate collection: by vector, or by words."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from weaviate.classes.query import MetadataQuery
from weaviate.collections import Collection
from weaviate.collections.classes.internal import Object

from pixtide.search.generations import Generation
from pixtide.search.port import Hit, Query, RowState, StoredImage, WordHit, WordQuery
from pixtide.search.rows import FIELDS, WORDS, from_record, similarity_of
from pixtide.search.weaviate.collection import condition

Objects = Collection[Mapping[str, Any], None]
Found = Object[Mapping[str, Any], None]
READ = list(FIELDS)


def nearest(objects: Objects, query: Query, generation: Generation) -> list[Hit]:
    """The live rows nearest to the query's vector, best first.

    If Weaviate (1.35) can't read a row because it is being replaced, it leaves out the row but not
    its distance. Then each row after it gets the distance of the row before. So if fewer rows come
    than were asked for, they are asked for again, with their vectors.
    """

    def ask(*, with_vectors: bool) -> list[Found]:
        return objects.query.near_vector(
            query.vector.tolist(),
            limit=query.limit,
            filters=condition(query.filters, generation),
            include_vector=with_vectors,
            return_metadata=MetadataQuery(distance=True),
            return_properties=READ,
        ).objects

    found = ask(with_vectors=query.with_vectors)
    if len(found) < query.limit:
        found = ask(with_vectors=True)
    hits: dict[str, Hit] = {}  # Weaviate may return an object twice
    for each in found:
        row, distance = row_found(each), each.metadata.distance
        if row.state is RowState.LIVE and distance is not None:
            if row.vector is not None:
                distance = 1.0 - float(row.vector @ query.vector)
                row = row if query.with_vectors else row.without_vector()
            hits.setdefault(row.image_id, Hit(row, similarity_of(distance)))
    return sorted(hits.values(), key=lambda hit: -hit.similarity)


def worded(objects: Objects, query: WordQuery, generation: Generation) -> list[WordHit]:
    """The live rows with any of the query's words, best first."""
    if not query.words:
        return []  # Weaviate calls it an error
    found = objects.query.bm25(
        query.words,
        query_properties=[WORDS],
        limit=query.limit,
        filters=condition(query.filters, generation),
        include_vector=True,
        return_metadata=MetadataQuery(score=True),
        return_properties=READ,
    )
    hits: dict[str, WordHit] = {}
    for each in found.objects:
        row = row_found(each)
        if row.state is RowState.LIVE:
            hits.setdefault(row.image_id, WordHit(row, each.metadata.score or 0.0))
    return list(hits.values())


def row_found(found: Found) -> StoredImage:
    """The row of an object, with its vector if that was asked for and exists."""
    values = found.vector.get("default")
    return from_record(found.properties, np.asarray(values, dtype=np.float32) if values else None)
