"""The bounded queue: what is refused, and whose turn it is."""

from hypothesis import given
from hypothesis import strategies as st

from pixtide.streams.query.fair_queue import FairPlaces, FairQueue


def test_lines_are_served_in_turn_and_each_in_order() -> None:
    queue: FairQueue[str] = FairQueue(10, 100)
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        assert queue.put(item[0], item) == []
    assert queue.take(4) == ["a1", "b1", "c1", "a2"]
    assert queue.put("b", "b2") == []
    assert queue.take(10) == ["c2", "a3", "b2"]
    assert queue.take(10) == []
    assert len(queue) == 0


def test_a_full_queue_refuses_the_newest_of_the_longest_line() -> None:
    queue: FairQueue[str] = FairQueue(3, 100)
    for item in ("a1", "a2", "a3"):
        queue.put("a", item)
    assert queue.put("a", "a4") == ["a4"]
    assert queue.put("b", "b1") == ["a3"]
    assert queue.put("b", "b2") == ["b2"]
    assert queue.take(3) == ["a1", "b1", "a2"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_nothing_is_lost_or_doubled(steps: list[tuple[str, bool]]) -> None:
    queue: FairQueue[int] = FairQueue(5, 100)
    put, out = [], []
    for number, (owner, taking) in enumerate(steps):
        if taking:
            out += queue.take(2)
        else:
            put.append(number)
            out += queue.put(owner, number)
        assert len(queue) == len(put) - len(out) <= 5
    out += queue.take(100)
    assert sorted(out) == put


def test_what_is_heavy_makes_room_for_what_is_light() -> None:
    queue: FairQueue[str] = FairQueue(100, 10)
    assert queue.put("heavy", "h1", 4) == []
    assert queue.put("heavy", "h2", 4) == []
    assert queue.put("light", "l1", 1) == []
    assert queue.put("heavy", "h3", 4) == ["h3"]
    assert queue.put("light", "l2", 9) == ["l2"]
    assert queue.put("light", "l3", 1) == []
    assert queue.put("other", "o1", 3) == ["h2"]
    assert queue.take(9) == ["h1", "l1", "o1", "l3"]


def test_places_are_shared_by_owner_and_by_host() -> None:
    places: FairPlaces[str] = FairPlaces(4, {"owner": 3, "host": 2}, waiting=4)
    for number in range(5):
        assert places.put("a", f"a{number}", host="slow") == []
    at_work = [places.take(), places.take()]
    assert [one and one[0] for one in at_work] == ["a0", "a1"]
    assert places.take() is None, "the host has no more places"
    places.put("a", "a5", host="quick")
    third = places.take()
    assert third is not None and third[0] == "a5", "another host has"
    places.put("a", "a6", host="quicker")
    assert places.take() is None, "the owner has no more places"
    assert places.put("b", "b0", host="quick") == []
    fourth = places.take()
    assert fourth is not None and fourth[0] == "b0", "another owner has"
    assert places.put("b", "b1", host="quick") == ["a6"], "too many wait"
    for one in (*at_work, third):
        assert one is not None
        places.leave(one[1])
    assert [one and one[0] for one in (places.take(), places.take())] == ["a2", "b1"]
    assert places.drop(lambda item: item == "a3") == ["a3"]
    last = places.take()
    assert last is not None and last[0] == "a4"
    assert places.take() is None
