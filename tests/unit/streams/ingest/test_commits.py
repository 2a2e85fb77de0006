"""What is committed, and when that counts as done."""

from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

from confluent_kafka import Consumer, KafkaError, TopicPartition

from pixtide.streams.ingest.commit_metadata import Mark, Marks, moved, moved_since
from pixtide.streams.ingest.commits import Commits
from pixtide.streams.ingest.in_flight import InFlight
from pixtide.streams.kafka.offsets import CommittedPosition
from pixtide.streams.kafka.records import Record

REFUSED = KafkaError(KafkaError.REBALANCE_IN_PROGRESS)
LOG, OTHER = ("log", 0), ("log", 1)


class Committing:
    """Partitions 0 and 1 have been read to 5 and to 7."""

    def __init__(self) -> None:
        self.now = 100.0
        self.consumer = Mock(spec=Consumer)
        self.flight: InFlight[Record] = InFlight()
        self.commits = Commits(self.flight, Marks(), lambda: self.now)
        self.flight.reached(LOG, 5)
        self.flight.reached(OTHER, 7)

    def sent(self, after_s: float = 1.0) -> dict[tuple[str, int], int]:
        """What is sent at the next turn."""
        self.now += after_s
        self.consumer.commit.reset_mock()
        self.commits.now_and_then(self.consumer)
        calls = self.consumer.commit.call_args_list
        return {(p.topic, p.partition): p.offset for c in calls for p in c.kwargs["offsets"]}

    def answer(
        self, error: KafkaError | None = None, refused: tuple[tuple[str, int], ...] = ()
    ) -> None:
        places = [TopicPartition(*LOG, 5), TopicPartition(*OTHER, 7)]
        answered: list[Any] = [
            Mock(topic=p.topic, partition=p.partition, offset=p.offset, error=None) for p in places
        ]
        for place in answered:
            if (place.topic, place.partition) in refused:
                place.error = REFUSED
        self.commits.answered(error, answered)


def test_what_the_broker_has_is_not_sent_again() -> None:
    one = Committing()
    assert one.sent() == {LOG: 5, OTHER: 7}
    assert one.sent() == {}, "the answer is awaited"
    one.answer()
    assert one.sent() == {}


def test_what_the_broker_refuses_is_sent_until_it_has_it() -> None:
    one = Committing()
    for _ in range(3):
        assert one.sent() == {LOG: 5, OTHER: 7}
        one.answer(REFUSED)
    assert one.sent() == {LOG: 5, OTHER: 7}
    one.answer(REFUSED, refused=(OTHER,))
    assert one.sent() == {OTHER: 7}
    one.answer()
    assert one.sent() == {}


def test_an_answer_that_never_comes_is_not_awaited_for_ever() -> None:
    one = Committing()
    one.sent()
    assert one.sent(after_s=91) == {LOG: 5, OTHER: 7}


def test_everything_is_committed_again_once_a_minute() -> None:
    one = Committing()
    one.sent()
    one.answer()
    assert one.sent(after_s=30) == {}
    assert one.sent(after_s=31) == {LOG: 5, OTHER: 7}


def test_a_problem_is_told_when_it_lasts_longer_than_a_rebalance() -> None:
    one = Committing()
    one.sent()
    told = [one.commits.problem]
    one.answer(REFUSED)
    told.append(one.commits.problem)
    one.now += 60
    told.append(one.commits.problem)
    one.answer()
    told.append(one.commits.problem)
    assert told == [None, None, f"nothing can be committed: {REFUSED.str()}", None]


def test_what_is_no_longer_ours_is_not_noted() -> None:
    one = Committing()
    one.sent()
    assert {(p.topic, p.partition, p.offset) for p in one.commits.take([0])} == {(*LOG, 5)}
    one.answer()
    one.flight.reached(LOG, 5)  # given back
    assert one.sent() == {LOG: 5}


def record(offset: int, value: bytes = b"v", leader_epoch: int | None = 4) -> Record:
    return Record("log", 0, offset, 1_800_000_000_000, b"k", value, [], leader_epoch)


def test_with_an_offset_goes_what_tells_the_log_below_it() -> None:
    marks = Marks()
    for offset in (3, 4, 8):
        marks.read(record(offset))
    place = marks.position(LOG, 8)
    assert (place.offset, place.leader_epoch) == (8, 4)
    assert place.metadata == Mark.of(record(4)).text
    assert Mark.read(place.metadata) == Mark.of(record(4)) != Mark.of(record(4, b"w"))
    assert marks.position(LOG, 9).metadata == Mark.of(record(8)).text
    assert marks.position(LOG, 9).metadata == Mark.of(record(8)).text, "is committed again"
    assert marks.position(OTHER, 2).metadata == "pixtide"


def test_of_an_end_without_a_record_the_leader_is_asked_for() -> None:
    """A marker may be of a newer epoch than the record before it."""
    marks = Marks()
    marks.read(record(4))
    assert marks.lacking([(LOG, 5), (LOG, 6)]) == {LOG}
    assert marks.position(LOG, 6).leader_epoch is None
    marks.vouch(LOG, 5, 6)
    assert marks.lacking([(LOG, 6)]) == set()
    assert marks.position(LOG, 6).leader_epoch == 5


def test_what_was_committed_before_goes_on() -> None:
    marks = Marks()
    stood = marks.position(LOG, 3)
    marks.read(record(8))
    marks.forget([0])
    text = Mark.of(record(8)).text
    marks.begin(LOG, CommittedPosition(9, 4, text))
    again = marks.position(LOG, 9)
    assert (again.metadata, again.leader_epoch) == (text, 4)
    assert stood.metadata == "pixtide"
    assert Mark.read("") is Mark.read("pixtide") is Mark.read("by somebody else") is None


def test_a_position_moved_by_hand_is_told_until_a_verification() -> None:
    by_hand, ours = CommittedPosition(9, 4, ""), CommittedPosition(9, 4, "pixtide")
    at = datetime(2027, 1, 1, tzinfo=UTC)
    earlier, later = at - timedelta(hours=1), at + timedelta(hours=1)
    assert moved_since({0: by_hand, 1: by_hand, 2: ours}, {0: 0, 1: 9, 2: 0}, later) == [0]
    marks = Marks()
    marks.begin(LOG, moved(by_hand, at))
    first = marks.position(LOG, 9)  # goes on from it, commits again, and so does its successor
    marks.read(record(9))
    marks.begin(LOG, CommittedPosition(10, 4, marks.position(LOG, 10).metadata or ""))
    marks.read(record(10))
    again = marks.position(LOG, 11)
    assert Mark.read(again.metadata or "") == Mark.of(record(10))
    for place in (first, again):
        stands = {0: CommittedPosition(place.offset, 4, place.metadata or "")}
        told = [moved_since(stands, {0: 0}, verified) for verified in (None, earlier, later)]
        assert told == [[0], [0], []]
    marks.begin(LOG, ours)
    assert marks.position(LOG, 9).metadata == "pixtide"
