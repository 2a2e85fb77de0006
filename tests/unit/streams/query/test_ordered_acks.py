"""Acknowledgements come in order."""

from hypothesis import given
from hypothesis import strategies as st

from pixtide.streams.query.ordered_acks import InOrder


def test_a_slow_one_holds_back_those_after_it_in_its_partition() -> None:
    acknowledged: list[str] = []
    in_order = InOrder()
    slow, quick, other = (
        in_order.take(partition, lambda name=name: acknowledged.append(name))  # type: ignore[misc]
        for partition, name in ((0, "slow"), (0, "quick"), (1, "other"))
    )
    quick()
    other()
    assert acknowledged == ["other"]
    slow()
    assert acknowledged == ["other", "slow", "quick"]
    late = in_order.take(0, lambda: acknowledged.append("late"))
    late()
    assert acknowledged[-1] == "late"


@given(st.permutations(range(8)))
def test_each_once_and_in_order_whatever_is_done_first(order: list[int]) -> None:
    acknowledged: list[int] = []
    in_order = InOrder()
    done = [in_order.take(0, lambda n=n: acknowledged.append(n)) for n in range(8)]  # type: ignore[misc]
    finished: set[int] = set()
    for number in order:
        done[number]()
        finished.add(number)
        assert acknowledged == list(range(len(acknowledged)))
        assert len(acknowledged) == min(set(range(9)) - finished)
