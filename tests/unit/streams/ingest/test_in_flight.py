"""The tracker's promises, over every order of events that Hypothesis finds."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from pixtide.streams.ingest.in_flight import InFlight


@dataclass(eq=False)
class Item:
    partition: int
    offset: int
    key: bytes | None = field(default=None)
    size: int = 1
    topic: str = "log"


def test_one_key_starts_one_after_the_other() -> None:
    flight: InFlight[Item] = InFlight()
    first, second, other = Item(0, 0, b"a"), Item(0, 1, b"a"), Item(0, 2, b"b")
    assert [flight.admit(i) for i in (first, second, other)] == [True, False, True]
    assert flight.finish(other) is None
    assert flight.finish(first) is second
    assert flight.finish(second) is None
    assert (len(flight), flight.bytes) == (0, 0)


def test_only_what_is_finished_without_a_gap_may_be_committed() -> None:
    flight: InFlight[Item] = InFlight()
    items = [Item(0, offset) for offset in (3, 7, 8)]  # a compacted log has holes
    for item in items:
        flight.admit(item)
    assert flight.committable() == {("log", 0): 3}
    flight.finish(items[1])
    assert flight.committable() == {("log", 0): 3}
    flight.finish(items[0])
    assert flight.committable() == {("log", 0): 8}
    flight.committed({("log", 0): 8})
    assert flight.committable() == {}
    flight.finish(items[2])
    assert flight.committable() == {("log", 0): 9}


def test_an_end_without_a_record_before_it_is_read_too() -> None:
    """A transaction's marker, or what compaction has removed."""
    flight: InFlight[Item] = InFlight()
    item = Item(0, 3)
    flight.admit(item)
    flight.reached(("log", 0), 6)
    assert flight.committable() == {("log", 0): 3}
    flight.finish(item)
    assert flight.committable() == {("log", 0): 6}
    flight.committed({("log", 0): 6})
    flight.reached(("log", 0), 5)  # of before
    assert flight.committable() == {}
    assert flight.committable(again=True) == {("log", 0): 6}


def test_what_was_forgotten_is_no_longer_ours() -> None:
    flight: InFlight[Item] = InFlight()
    old, again = Item(1, 5, b"a"), Item(1, 5, b"a")
    flight.admit(old)
    flight.forget([1])
    assert not flight.holds(old)
    flight.admit(again)
    assert flight.finish(old) is None
    assert flight.holds(again)
    assert flight.committable() == {("log", 1): 5}


def test_a_key_keeps_its_order_across_the_log_and_the_retries() -> None:
    flight: InFlight[Item] = InFlight()
    retry, newer = Item(0, 7, b"a", topic="retry"), Item(0, 7, b"a")
    assert [flight.admit(retry), flight.admit(newer)] == [True, False]
    assert flight.holds(retry) and flight.holds(newer)
    assert flight.finish(retry) is newer
    assert flight.committable() == {("retry", 0): 8, ("log", 0): 7}
    assert flight.committable([1]) == {}


def test_of_a_key_that_waits_the_newest_starts_and_no_retry_is_passed() -> None:
    flight: InFlight[Item] = InFlight(lambda item: item.topic == "log")
    items = [Item(0, offset, b"a") for offset in range(3)]
    retry, last = Item(0, 0, b"a", topic="retry"), Item(0, 3, b"a")
    for item in (*items, retry, last):
        flight.admit(item)
    assert flight.newest(items[0]) == items
    assert flight.finish(items[0]) is items[1]
    assert flight.newest(items[1]) == items[1:]
    assert flight.finish(items[2]) is items[1], "it had no row: what it passed over still waits"
    assert flight.newest(items[1]) == [items[1]]
    assert flight.finish(items[1]) is retry
    assert flight.newest(retry) == [retry]
    assert flight.finish(retry) is last
    keyless = Item(0, 4)
    assert flight.admit(keyless) and flight.newest(keyless) == [keyless]


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=12))
def test_passing_over_ends_as_working_on_each_would(steps: list[tuple[int, bool]]) -> None:
    """`steps`: how many records of one key come, and whether the one in work gets its row."""
    flight: InFlight[Item] = InFlight(lambda _: True)
    offset, row, finished, rows = 0, -1, list[int](), set[int]()
    working: list[Item] = []

    def end(*, with_row: bool) -> None:
        nonlocal row, working
        *passed, newest = working
        if with_row:
            rows.add(newest.offset)
            assert newest.offset > row, "newest wins"
            row = newest.offset
            for each in passed:
                flight.finish(each)
                finished.append(each.offset)
        following = flight.finish(newest)
        finished.append(newest.offset)
        working = flight.newest(following) if following else []

    for count, with_row in steps:
        for _ in range(count):
            item = Item(0, offset, b"a")
            offset += 1
            if flight.admit(item):
                working = flight.newest(item)
        end(with_row=with_row)
    while working:
        end(with_row=True)
    assert sorted(finished) == list(range(offset)), "each is finished once"
    assert (len(flight), flight.bytes) == (0, 0)
    assert flight.committable() == {("log", 0): offset}


TOPICS = ("log", "retry")


@given(
    records=st.lists(
        st.tuples(st.sampled_from(TOPICS), st.integers(0, 2), st.sampled_from([None, b"a", b"b"])),
        max_size=20,
    ),
    data=st.data(),
)
def test_any_order(records: list[tuple[str, int, bytes | None]], data: st.DataObject) -> None:
    """Admit, finish and let go in any order: keys in order, no gap committed, nothing left."""
    flight: InFlight[Item] = InFlight()
    waiting = [Item(p, offset, key, topic=t) for offset, (t, p, key) in enumerate(records)]
    admitted: list[Item] = []
    started: list[Item] = []
    finished: list[Item] = []
    while waiting or started:
        if waiting and (not started or data.draw(st.booleans())):
            item = waiting.pop(0)
            admitted.append(item)
            if flight.admit(item):
                started.append(item)
        elif data.draw(st.integers(0, 9)) == 0:
            lost = data.draw(st.integers(0, 2))
            flight.forget([lost])
            gone = [item for item in admitted if item.partition == lost]
            assert not any(map(flight.holds, gone))
            for item in gone:
                assert flight.finish(item) is None, "what was let go has started something"
            admitted = [item for item in admitted if item.partition != lost]
            started = [item for item in started if item.partition != lost]
        else:
            item = started.pop(data.draw(st.integers(0, len(started) - 1)))
            following = flight.finish(item)
            finished.append(item)
            if following is not None:
                started.append(following)
        check_invariants(flight, admitted, started, finished)
    assert (len(flight), flight.bytes) == (0, 0)
    for key in {(i.partition, i.key) for i in admitted if i.key}:
        order = [i.offset for i in finished if (i.partition, i.key) == key and i in admitted]
        assert order == sorted(order), "one key ran out of order"


def check_invariants(
    flight: InFlight[Item], admitted: list[Item], started: list[Item], finished: list[Item]
) -> None:
    running = [(item.partition, item.key) for item in started if item.key is not None]
    assert len(running) == len(set(running)), "one key ran side by side with itself"
    unfinished = [item for item in admitted if item not in finished]
    assert set(map(id, flight)) == set(map(id, unfinished))
    assert flight.bytes == len(unfinished)
    for (topic, partition), offset in flight.committable().items():
        ours = [i for i in admitted if (i.topic, i.partition) == (topic, partition)]
        assert ours, "a partition that isn't ours would be committed"
        assert all(i in finished for i in ours if i.offset < offset)
        assert all(i.offset < offset for i in ours) or any(
            i.offset == offset and i in unfinished for i in ours
        ), "less is committed than could be"
