"""The tracker's promises, over every order of events that Hypothesis finds."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from streams.offsets import InFlight


@dataclass(eq=False)
class Item:
    partition: int
    offset: int
    key: bytes | None = field(default=None)
    size: int = 1


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
    assert flight.committable() == {0: 3}
    flight.finish(items[1])
    assert flight.committable() == {0: 3}
    flight.finish(items[0])
    assert flight.committable() == {0: 8}
    flight.committed({0: 8})
    assert flight.committable() == {}
    flight.finish(items[2])
    assert flight.committable() == {0: 9}


def test_what_was_forgotten_is_no_longer_ours() -> None:
    flight: InFlight[Item] = InFlight()
    old, again = Item(1, 5, b"a"), Item(1, 5, b"a")
    flight.admit(old)
    flight.forget([1])
    assert not flight.holds(old)
    flight.admit(again)
    assert flight.finish(old) is None
    assert flight.holds(again)
    assert flight.committable() == {1: 5}


@given(
    keys=st.lists(st.tuples(st.integers(0, 2), st.sampled_from([None, b"a", b"b"])), max_size=40),
    data=st.data(),
)
def test_any_order(keys: list[tuple[int, bytes | None]], data: st.DataObject) -> None:
    flight: InFlight[Item] = InFlight()
    waiting = [Item(p, offset, key) for offset, (p, key) in enumerate(keys)]
    admitted: list[Item] = []
    started: list[Item] = []
    finished: list[Item] = []
    while waiting or started:
        if waiting and (not started or data.draw(st.booleans())):
            item = waiting.pop(0)
            admitted.append(item)
            if flight.admit(item):
                started.append(item)
        else:
            item = started.pop(data.draw(st.integers(0, len(started) - 1)))
            following = flight.finish(item)
            finished.append(item)
            if following is not None:
                started.append(following)
        running = [(i.partition, i.key) for i in started if i.key is not None]
        assert len(running) == len(set(running)), "one key ran side by side with itself"
        for partition, offset in flight.committable().items():
            done = {i.offset for i in finished if i.partition == partition}
            assert all(
                i.offset in done for i in admitted if i.partition == partition and i.offset < offset
            )
    assert len(finished) == len(keys)
    assert flight.bytes == 0
    for key in {(i.partition, i.key) for i in admitted if i.key}:
        order = [i.offset for i in finished if (i.partition, i.key) == key]
        assert order == sorted(order), "one key ran out of order"
