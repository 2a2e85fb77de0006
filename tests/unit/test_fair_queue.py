"""The bounded queue: what is refused, and whose turn it is."""

from hypothesis import given
from hypothesis import strategies as st

from streams.fair_queue import FairQueue


def test_lines_are_served_in_turn_and_each_in_order() -> None:
    queue: FairQueue[str] = FairQueue(10)
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        assert queue.put(item[0], item) is None
    assert queue.take(4) == ["a1", "b1", "c1", "a2"]
    assert queue.put("b", "b2") is None
    assert queue.take(10) == ["c2", "a3", "b2"]
    assert queue.take(10) == []
    assert len(queue) == 0


def test_a_full_queue_refuses_the_newest_of_the_longest_line() -> None:
    queue: FairQueue[str] = FairQueue(3)
    for item in ("a1", "a2", "a3"):
        queue.put("a", item)
    assert queue.put("a", "a4") == "a4"
    assert queue.put("b", "b1") == "a3"
    assert queue.put("b", "b2") == "b2"
    assert queue.take(3) == ["a1", "b1", "a2"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_nothing_is_lost_or_doubled(steps: list[tuple[str, bool]]) -> None:
    queue: FairQueue[int] = FairQueue(5)
    put, out = [], []
    for number, (owner, taking) in enumerate(steps):
        if taking:
            out += queue.take(2)
        else:
            put.append(number)
            refused = queue.put(owner, number)
            out += [] if refused is None else [refused]
        assert len(queue) == len(put) - len(out) <= 5
    out += queue.take(100)
    assert sorted(out) == put
