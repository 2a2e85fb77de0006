"""Any text in the embedded index's SQL: found alone, filtered by alone, removed alone.

PIXTIDE_TEST_STRANGERS says how many examples are tried; a failure prints how to try it again.
"""

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pixtide.schemas.identity import Version
from pixtide.schemas.queries import AttributeFilter, Filters
from pixtide.search.lancedb.catalog import LanceCatalog
from pixtide.search.lancedb.index import LanceIndex
from pixtide.search.port import Query
from tests.contracts.samples import generation, live, towards

#: Pieces that mean something in SQL, and any character, half surrogate pairs too.
_PIECES = st.sampled_from(
    ["'", "''", "\\", "\\'", '"', "`", "--", "/*", "*/", ";", ")", "))", ") OR true ", " OR ",
     "1=1", "%", "_", "\x00", "\n", "$$", "{}", "E'", "U&'", "\ud800", "\udfff", "NULL", "a"]
)  # fmt: skip
_TEXTS = st.lists(_PIECES | st.characters(codec=None), min_size=1, max_size=8).map("".join)
_EXAMPLES = int(os.environ.get("PIXTIDE_TEST_STRANGERS", "25"))
_offsets = itertools.count(1)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> LanceIndex:
    """A table that all examples share; each leaves it as it was."""
    folder: Path = tmp_path_factory.mktemp("strangers")
    catalog = LanceCatalog(folder=folder / "index")
    catalog.create(generation())
    index = catalog.open(generation())
    index.write([live("bystander", 0, towards(1), attributes={"shop": "bystander"})])
    return index


@settings(
    max_examples=_EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(texts=st.sets(_TEXTS, min_size=2, max_size=3))
def test_any_text_is_only_ever_a_value(index: LanceIndex, texts: set[str]) -> None:
    texts -= {"bystander"}
    rows = [
        live(text, next(_offsets), towards(1), tags=(text,), attributes={"shop": text}, sha256=text)
        for text in sorted(texts)
    ]
    written = index.write(rows)
    kept = {
        row.image_id: row.version for row, each in zip(rows, written, strict=True) if each.applied
    }
    assert kept.keys() == {text for text in texts if _is_text(text)}
    assert all(each.applied != (each.error is not None) for each in written)
    assert index.get(texts).keys() == kept.keys()
    assert index.with_content(texts).keys() == kept.keys()
    for text in kept:
        assert index.get([text]).keys() == {text}
        alone = (AttributeFilter(name="shop", eq=text),)
        filters = {
            Filters(tags_any=(text,)): {text},
            Filters(tags_all=(text, "nobody's")): set(),
            Filters(attributes=alone): {text},
            Filters(tags_none=(text,)): {"bystander", *kept} - {text},
            Filters(formats=(text,)): set(),
        }
        queries = [Query(towards(1), 10, each) for each in filters]
        for hits, expected in zip(index.search(queries), filters.values(), strict=True):
            assert {hit.row.image_id for hit in hits} == expected
    for text, version in list(kept.items()):
        index.remove({text: Version(1, 0, 0)})
        assert index.get([text]), "removed at another version than its own"
        index.remove({text: version})
        del kept[text]
        assert {row.image_id for row in index.scan()} == {"bystander", *kept}


def _is_text(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)
