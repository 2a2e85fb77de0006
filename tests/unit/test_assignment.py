"""A worker's part of its group: how the retry topic goes with the log."""

from typing import Any
from unittest.mock import Mock

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from search.generations import LogIdentity
from streams.assignment import Assignment
from streams.log_guard import LogGuard
from streams.offsets import InFlight

IN_TIME_S = 60.0


def joined(consumer: Mock) -> Assignment:
    """A worker that has joined, and was given partition 0."""
    guard = Mock(spec=LogGuard, log=LogIdentity(topic="log", topic_id="t", partitions=2))
    flight: InFlight[Any] = InFlight()
    assignment = Assignment(consumer, guard, flight, retry_topic="retry", settle=lambda: None)
    assignment.join()
    consumer.subscribe.call_args.kwargs["on_assign"](consumer, [TopicPartition("log", 0)])
    [taken] = consumer.incremental_assign.call_args.args
    consumer.assignment.return_value = taken
    return assignment


def places(partitions: list[TopicPartition]) -> set[tuple[str, int, int]]:
    return {(p.topic, p.partition, p.offset) for p in partitions}


def test_the_group_shares_out_the_log_alone() -> None:
    """It would share out the sum, and one worker might get all retries, another the whole log."""
    consumer = Mock(spec=Consumer)
    joined(consumer)
    assert consumer.subscribe.call_args.args == (["log"],)


def turned(assignment: Assignment, times: int = 3) -> None:
    """The main thread turns until all that is done aside has been done, so many times."""
    for _ in range(times):
        assignment.commit_now_and_then()
        assignment._aside.end(IN_TIME_S)
        assignment._letting_go.end(IN_TIME_S)


def test_positions_of_retries_are_renewed_once_they_are_taken() -> None:
    consumer = Mock(spec=Consumer)
    consumer.committed.return_value = [TopicPartition("retry", 0, 7)]
    turned(joined(consumer))
    [asked] = consumer.committed.call_args.args
    assert [(p.topic, p.partition) for p in asked] == [("retry", 0)]
    [call] = consumer.commit.call_args_list
    assert places(call.kwargs["offsets"]) == {("retry", 0, 7)}


def test_a_position_that_nobody_knows_is_left_alone() -> None:
    consumer = Mock(spec=Consumer)
    consumer.committed.return_value = [TopicPartition("retry", 0, -1001)]
    turned(joined(consumer))
    consumer.committed.assert_called_once()
    consumer.commit.assert_not_called()


def test_a_broker_that_does_not_say_stops_nothing() -> None:
    consumer = Mock(spec=Consumer)
    consumer.committed.side_effect = KafkaException(KafkaError(KafkaError._TIMED_OUT))
    turned(joined(consumer))
    consumer.committed.assert_called_once()
    consumer.commit.assert_not_called()


def test_nothing_is_read_before_the_guard_has_looked_at_it() -> None:
    consumer = Mock(spec=Consumer)
    consumer.committed.return_value = []
    assignment = joined(consumer)
    [held] = consumer.pause.call_args.args
    assert places(held) == {("log", 0, -1001), ("retry", 0, -1001)}
    turned(assignment)
    [free] = consumer.resume.call_args.args
    assert places(free) == places(held)


def test_what_is_taken_away_is_let_go_once_no_row_is_being_written() -> None:
    consumer = Mock(spec=Consumer)
    consumer.committed.return_value = []
    assignment = joined(consumer)
    turned(assignment)
    consumer.incremental_unassign.side_effect = KafkaException(KafkaError(KafkaError._INVALID_ARG))
    with assignment.lock:  # as a writer does
        revoke = consumer.subscribe.call_args.kwargs["on_revoke"]
        revoke(consumer, [TopicPartition("log", 0)])
        consumer.incremental_unassign.assert_called_once()  # in vain: so the answer is put off
        consumer.incremental_unassign.reset_mock(side_effect=True)
        turned(assignment)
        consumer.incremental_unassign.assert_not_called()
        [held] = consumer.pause.call_args.args
        assert ("log", 0, -1001) in places(held)
    turned(assignment)
    [gone] = consumer.incremental_unassign.call_args.args
    assert {(p.topic, p.partition) for p in gone} == {("log", 0), ("retry", 0)}


def test_what_was_lost_and_came_back_meanwhile_is_kept() -> None:
    consumer = Mock(spec=Consumer)
    consumer.committed.return_value = []
    assignment = joined(consumer)
    turned(assignment)
    told = consumer.subscribe.call_args.kwargs
    told["on_revoke"](consumer, [TopicPartition("log", 0)])
    assignment.commit_now_and_then()  # begins to let it go
    told["on_lost"](consumer, [TopicPartition("log", 0)])
    told["on_assign"](consumer, [TopicPartition("log", 0)])
    consumer.incremental_unassign.reset_mock()
    turned(assignment)
    consumer.incremental_unassign.assert_not_called()
