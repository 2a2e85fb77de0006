"""What every `VectorIndex` does with what a stranger may send: any text is only ever a value."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pixtide.schemas.identity import Version
from pixtide.schemas.queries import AttributeFilter, Filters
from pixtide.search.port import Hit, Query, StoredImage, VectorIndex, WordQuery
from pixtide.search.weaviate.index import WeaviateIndex
from tests.contracts.samples import deleted, live, poisoned, towards

#: What ends, escapes, comments or stands for something in one language or another.
TEXTS = (
    "\\", "\\'", "\\\\'", "'", "''", "\\') OR true -- ", "' OR true --", "a\\'b", "a\\b", "x' --",
    "--", "/*", "*/", "# ", ";", "\x00", "a\x00b", "\n", "\r\n", "\x1a", "\x7f", "\x85", "\u2028",
    "%", "_", "*", "?", "{}", "{0}", "$1", ":a", "@a", "$$", "E'x'", "U&'x'", "0x41", "NULL",
    '"', '\\"', '"}){', "`", "\u2019", "\uff07", "é", "e\u0301", "猫", "\u202e", "\ufeff", "\uffff",
    "\U0010ffff", " ", "\t", "../..", "y" * 512,
)  # fmt: skip
#: Of half a surrogate pair there is no UTF-8; JSON and Python have it all the same.
NO_TEXT = "\ud800"


@pytest.mark.fault("an id, a tag or an attribute looks like SQL")
def test_what_looks_like_a_language_is_found_alone_and_removed_alone(index: VectorIndex) -> None:
    rows = [
        live(text, n, towards(1, n), tags=(text, "all"), caption=text, attributes={"shop": text})
        for n, text in enumerate(TEXTS)
    ]
    assert all(written.applied for written in index.write(rows))
    trimmed = isinstance(index, WeaviateIndex)  # it compares texts without the spaces around them
    for text in TEXTS:
        same = {each for each in TEXTS if trimmed and each.strip() == text.strip()} | {text}
        assert index.get([text]).keys() == {text}
        assert found(index, tags_any=[text]) == same
        assert found(index, tags_all=["all", text]) == same
        assert found(index, tags_all=["nobody's", text]) == set()
        assert found(index, tags_none=[text]) == {*TEXTS} - same
        assert found(index, attributes=[{"name": "shop", "eq": text}]) == same
        assert found(index, formats=[text]) == set()
        assert index.with_content([text]) == {}
        index.search_words([WordQuery(text, 5)])
    left = {*TEXTS}
    for n, text in enumerate(TEXTS):
        index.remove({text: Version(1, 0, n)})
        left -= {text}
        assert {row.image_id for row in index.scan()} == left


@pytest.mark.fault("a row that no index can keep")
def test_what_an_index_cannot_keep_is_refused_alone(index: VectorIndex) -> None:
    inf, nan = float("inf"), float("nan")
    vector = towards(1)
    vector[3] = np.nan
    bad: list[StoredImage] = [
        live("bad", vector=vector),
        live("bad", vector=towards(1) * 2),
        live("bad", vector=towards(1)[:5]),
        live("bad", vector=towards(1).astype(np.float64)),
        replace(live("bad"), vector=None),
        replace(deleted("bad", 1), vector=towards(1)),
        live("bad", uploaded_at=datetime(2026, 1, 1)),
        live(NO_TEXT),
        live("bad", caption=NO_TEXT),
        live("bad", tags=("good", NO_TEXT)),
        live("bad", attributes={"shop": NO_TEXT}),
        live("bad", attributes={NO_TEXT: 1}),
        live("bad", attributes={"price": inf}),
        live("bad", attributes={"deep": [{"er": [-inf, nan]}]}),
        live("bad", bytes=2**63),
        live("bad", width=2**60 + 1),
        live("bad", version=Version(1, 0, 2**63)),
        live("bad", caption="y" * 3 * 2**20),
    ]
    for n, row in enumerate(bad):
        first, refused, last = index.write([live("first", n), row, live("last", n)])
        assert first.applied, row
        assert last.applied, row
        assert (refused.applied, refused.error is None) == (False, False), row
        [alone] = index.write([row])
        assert (alone.applied, alone.error) == (False, refused.error)
    assert {row.image_id for row in index.scan()} == {"first", "last"}
    assert index.write([poisoned("bad", 1)])[0].applied


def test_what_no_row_has_is_found_nowhere(index: VectorIndex) -> None:
    index.write([live("a", 1, sha256="ab")])
    assert index.get([NO_TEXT, "a", ""]).keys() == {"a"}
    assert index.get([NO_TEXT]) == {}
    assert index.with_content([NO_TEXT, "ab"]).keys() == {"ab"}
    assert index.with_content([NO_TEXT]) == {}
    index.remove({NO_TEXT: Version(1, 0, 1), "nobody": Version(1, 0, 2**63)})
    assert index.get(["a"])
    assert index.search_words([WordQuery("", 5)]) == [[]]
    for name in ("tags_any", "tags_none", "formats"):
        with pytest.raises(ValidationError, match="unicode"):
            Filters(**{name: (NO_TEXT,)})
    with pytest.raises(ValidationError, match="unicode"):
        AttributeFilter(name="shop", eq=NO_TEXT)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"max_width": 10**30}, "a"),
        ({"min_width": 2**63}, ""),
        ({"max_height": 2**63 - 1}, "a"),
        ({"uploaded_before": datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)}, "a"),
        ({"uploaded_after": datetime(9999, 12, 31, tzinfo=UTC)}, ""),
        ({"uploaded_after": datetime(1, 1, 1, tzinfo=UTC)}, "a"),
        ({"uploaded_before": datetime(1, 1, 1, tzinfo=UTC)}, ""),
        ({"attributes": [{"name": "made", "lt": "9999-12-31T23:59:59.999999Z"}]}, "a"),
        ({"attributes": [{"name": "made", "gt": "9999-12-31T23:59:59.999999Z"}]}, ""),
        ({"attributes": [{"name": "price", "lt": 10**300}]}, "a"),
        ({"attributes": [{"name": "price", "gt": -(10**300)}]}, "a"),
        ({"tags_none": [str(n) for n in range(5000)]}, "a"),
        ({"tags_any": [str(n) for n in range(5000)]}, ""),
    ],
)
def test_filters_at_the_ends_of_their_types(
    index: VectorIndex, filters: dict[str, Any], expected: str
) -> None:
    index.write([live("a", 1, attributes={"price": 1.5, "made": "2026-02-03"})])
    # not checked as a request's are: an adapter holds by itself
    known = {name: tuple(v) if isinstance(v, list) else v for name, v in filters.items()}
    if "attributes" in known:
        known["attributes"] = tuple(AttributeFilter(**each) for each in known["attributes"])
    wanted = Filters().model_copy(update=known)
    assert {hit.row.image_id for hit in index.search([Query(towards(1), 5, wanted)])[0]} == set(
        expected
    )


def found(index: VectorIndex, **filters: Any) -> set[str]:
    """The ids that filters leave of all."""
    hits: list[Hit]
    [hits] = index.search([Query(towards(1), 100, Filters(**filters))])
    return {hit.row.image_id for hit in hits}
