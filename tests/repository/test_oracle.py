"""What the oracle of the fault tests finds wrong with the order of a key's outcomes."""

from datetime import UTC, datetime

import pytest

from pixtide.schemas.outcomes import Outcome, OutcomeKind
from pixtide.streams.kafka.records import Record
from tests.faults.oracle import check_order

LOG = [
    Record("log", partition=0, offset=offset, timestamp_ms=0, key=key, value=b"", headers=[])
    for offset, key in enumerate([b"a", b"b", b"a", b"a"])
]


def told(*outcomes: tuple[int, str]) -> dict[tuple[int, int], list[Outcome]]:
    """By record, as they would be read: of each an offset and what became of it."""
    found: dict[tuple[int, int], list[Outcome]] = {}
    for offset, kind in outcomes:
        outcome = Outcome(
            image_id=(LOG[offset].key or b"").decode(),
            outcome=OutcomeKind("superseded" if kind == "passed" else kind),
            generation="v1",
            topic="log",
            topic_id="AAAAAAAAAAAAAAAAAAAAAQ",
            partition=0,
            offset=offset,
            at=datetime.now(UTC),
            took_ms={} if kind == "passed" else {"look_up": 1.0},
        )
        found.setdefault((0, offset), []).append(outcome)
    return found


def test_keys_side_by_side_and_repetitions_are_in_order() -> None:
    read = told((1, "indexed"), (0, "indexed"), (2, "replaced"), (3, "deleted"))
    check_order(LOG, read)
    check_order(LOG, told((1, "indexed"), (0, "indexed"), (2, "passed"), (3, "replaced")))
    again = told(
        *((0, "indexed"), (2, "replaced"), (1, "indexed"), (3, "deleted")),
        *((0, "superseded"), (2, "superseded"), (1, "indexed"), (3, "deleted"), (2, "replaced")),
    )
    check_order(LOG, again)


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        ([(2, "indexed"), (0, "superseded"), (3, "replaced")], "not worked on in order"),
        ([(0, "indexed"), (3, "replaced"), (2, "replaced")], "not worked on in order"),
        ([(0, "indexed"), (3, "replaced")], "not worked on in order"),
        ([(0, "indexed"), (2, "superseded"), (3, "replaced")], "was overtaken"),
        ([(0, "indexed"), (2, "replaced"), (3, "passed")], "was overtaken"),
    ],
)
def test_what_was_overtaken_or_left_out_is_found(
    outcomes: list[tuple[int, str]], said: str
) -> None:
    with pytest.raises(AssertionError, match=said):
        check_order(LOG, told((1, "indexed"), *outcomes))
