"""A worker's part of its group: how the retry topic goes with the log."""

from typing import Any
from unittest.mock import Mock

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from pixtide.schemas.errors import TransientError
from pixtide.streams.ingest.assignment import Assignment
from pixtide.streams.ingest.in_flight import InFlight
from pixtide.streams.ingest.start_positions import Begin, Positions
from pixtide.streams.kafka.offsets import CommittedPosition

IN_TIME_S = 60.0
STANDS = Begin(TopicPartition("log", 0, 7, leader_epoch=3), CommittedPosition(7, 3, "pixtide"))


def joined(consumer: Mock, positions: Mock | None = None) -> Assignment:
    """A worker that has joined, and was given partition 0."""
    positions = positions or Mock(spec=Positions, topic="log")
    positions.begins.return_value = [STANDS]
    flight: InFlight[Any] = InFlight()
    assignment = Assignment(
        lambda _: consumer, positions, flight, retry_topic="retry", settle=lambda: None
    )
    assignment.join()
    consumer.assignment.return_value = []
    consumer.subscribe.call_args.kwargs["on_assign"](consumer, [TopicPartition("log", 0)])
    return assignment


def places(partitions: list[TopicPartition]) -> set[tuple[str, int, int]]:
    return {(p.topic, p.partition, p.offset) for p in partitions}


def turned(assignment: Assignment, times: int = 3) -> None:
    """The main thread turns until all that is done aside has been done, so many times."""
    for _ in range(times):
        assignment.commit_now_and_then()
        assignment._aside.end(IN_TIME_S)
        assignment._letting_go.end(IN_TIME_S)


def test_the_group_shares_out_the_log_alone() -> None:
    """It would share out the sum, and one worker might get all retries, another the whole log."""
    consumer = Mock(spec=Consumer)
    joined(consumer)
    assert consumer.subscribe.call_args.args == (["log"],)


def test_nothing_is_read_before_it_is_known_where_to_begin() -> None:
    consumer = Mock(spec=Consumer)
    assignment = joined(consumer)
    consumer.incremental_assign.assert_called_once_with([])
    turned(assignment)
    [taken] = consumer.incremental_assign.call_args.args
    assert places(taken) == {("log", 0, 7), ("retry", 0, -1001)}
    assert taken[0].leader_epoch == 3, "librdkafka compares it only where it is told"


def test_while_the_broker_does_not_say_it_is_asked_again() -> None:
    consumer, positions = Mock(spec=Consumer), Mock(spec=Positions, topic="log")
    positions.begins.side_effect = [TransientError("no broker"), [STANDS]]
    turned(joined(consumer, positions))
    assert positions.begins.call_count == 2
    [taken] = consumer.incremental_assign.call_args.args
    assert places(taken) == {("log", 0, 7), ("retry", 0, -1001)}


def test_what_is_taken_away_before_it_was_read_is_let_go() -> None:
    consumer = Mock(spec=Consumer)
    assignment = joined(consumer)
    consumer.subscribe.call_args.kwargs["on_revoke"](consumer, [TopicPartition("log", 0)])
    turned(assignment)
    consumer.incremental_unassign.assert_called_with([])
    consumer.incremental_assign.assert_called_once_with([])


def test_what_is_taken_away_is_let_go_once_no_row_is_being_written() -> None:
    consumer = Mock(spec=Consumer)
    assignment = joined(consumer)
    turned(assignment)
    consumer.assignment.return_value = consumer.incremental_assign.call_args.args[0]
    consumer.incremental_unassign.side_effect = KafkaException(KafkaError(KafkaError._INVALID_ARG))
    with assignment.lock:  # as a writer does
        revoke = consumer.subscribe.call_args.kwargs["on_revoke"]
        revoke(consumer, [TopicPartition("log", 0)])
        consumer.incremental_unassign.assert_called_once()  # in vain: so the answer is put off
        consumer.incremental_unassign.reset_mock(side_effect=True)
        turned(assignment)
        consumer.incremental_unassign.assert_not_called()
        [held] = consumer.pause.call_args.args
        assert ("log", 0, 7) in places(held)
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
