"""When a worker that has work, and does none, is taken for stuck; and when it isn't."""

import pytest

from pixtide.schemas.errors import FatalError, TransientError
from pixtide.streams.ingest.telemetry import IngestWatch
from pixtide.streams.kafka.errors import BrokerAwayError
from pixtide.streams.process.health import Health
from pixtide.streams.process.metrics import IngestMetrics, Instruments, QueryMetrics
from pixtide.streams.process.overtaken import Overtaken
from pixtide.streams.process.progress import Progress
from pixtide.streams.query.telemetry import QueryWatch

LIMIT_S, LOOK_S = 300.0, 5.0


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Looked:
    """A worker's progress, looked at every few seconds."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self.clock = Clock()
        self.progress = Progress(limit_s, "record has finished", self.clock)

    def after(
        self,
        seconds: float,
        waiting: int | None,
        *,
        excused: bool = False,
        cut_off: bool = False,
    ) -> str | None:
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.clock.now += LOOK_S
            self.progress.saw(waiting, excused=excused, cut_off=cut_off)
        return self.progress.stalled


def test_work_that_waits_while_none_is_done() -> None:
    looked = Looked()
    assert looked.after(LIMIT_S, 3) is None
    said = looked.after(2 * LOOK_S, 3)
    assert said == "no record has finished for 305 s, though 3 wait and the broker answers"
    looked.progress.did()
    assert looked.after(LOOK_S, 3) is None


def test_a_partition_of_which_nothing_comes_while_others_are_busy() -> None:
    looked = Looked()
    looked.progress.did()
    looked.progress.late({3: LIMIT_S})
    assert looked.after(LOOK_S, 3) is None
    looked.progress.late({3: LIMIT_S + 1})
    assert looked.progress.stalled == "records of partition 3 have not come for 301 s"
    looked.progress.late({})
    assert looked.progress.stalled is None


class Item:
    def __init__(self, partition: int, offset: int, since: float | None) -> None:
        self.partition, self.offset, self.since = partition, offset, since


def test_a_record_that_later_ones_have_overtaken_is_stuck() -> None:
    clock, looked = Clock(), Looked()
    overtaken = Overtaken(clock)
    stuck, source = Item(2, 7, 10.0), Item(1, 3, None)
    assert overtaken.look([stuck, source], excused=False) == {}
    clock.now += 1000
    assert overtaken.look([stuck, source], excused=False) == {}, "nobody has overtaken it"
    overtaken.finished(Item(0, 9, 11.0))
    assert overtaken.look([stuck, source, Item(0, 10, 12.0)], excused=False) == {2: (0.0, 7)}
    clock.now += 301
    late = overtaken.look([stuck, source], excused=False)
    assert late == {2: (301.0, 7)}
    looked.progress.overtaken(late)
    assert "partition 2 is stuck at offset 7" in (looked.progress.stalled or "")
    assert overtaken.look([stuck], excused=True) == {}
    assert overtaken.look([stuck], excused=False) == {2: (0.0, 7)}, "its time begins again"
    clock.now += 100
    stuck.since = 10.5
    assert overtaken.look([stuck], excused=False) == {2: (0.0, 7)}, "it is in another step"
    stuck.since = 12.0
    assert overtaken.look([stuck], excused=False) == {}


def test_a_stuck_partition_is_told_by_name_before_it_ends_the_worker() -> None:
    looked, health = Looked(), Health({})
    watch = IngestWatch(health, IngestMetrics(Instruments()), "v1", looked.progress)
    watch.overtaken({2: (59.0, 7)})
    assert health.problems == {}
    watch.overtaken({1: (1.0, 3), 2: (61.0, 7)})
    assert "partition 2 is stuck at offset 7" in health.problems["partitions"]
    watch.check()
    watch.overtaken({2: (301.0, 7)})
    with pytest.raises(FatalError, match="partition 2"):
        watch.check()
    watch.overtaken({})
    assert health.problems == {}


def test_who_has_nothing_to_do_is_not_stuck() -> None:
    assert Looked().after(100 * LIMIT_S, 0) is None


def test_who_is_kept_from_it_by_something_else_is_not_stuck() -> None:
    looked = Looked()
    assert looked.after(100 * LIMIT_S, 3, excused=True) is None
    assert looked.after(LIMIT_S - LOOK_S, 3) is None, "it is given time from then on"
    assert looked.after(2 * LOOK_S, 3) is not None


def test_while_the_broker_is_away_time_does_not_count() -> None:
    looked = Looked()
    looked.after(LIMIT_S, 3)
    looked.clock.now += 10 * LIMIT_S  # nothing is heard of it
    assert looked.after(LIMIT_S, 3) is None


def test_a_group_that_never_lets_it_in() -> None:
    said = Looked().after(LIMIT_S + 2 * LOOK_S, None)
    assert said == "its group has not let it in for 305 s"


def test_a_consumer_that_has_forgotten_all_brokers_is_found_out_soon() -> None:
    looked = Looked()
    assert looked.after(60, 0, cut_off=True) is None
    assert looked.after(2 * LOOK_S, 0) is None, "it has found them again"
    assert "known no broker" in (looked.after(60 + 2 * LOOK_S, 0, cut_off=True) or "")


def test_it_can_be_turned_off() -> None:
    assert Looked(0).after(100 * LIMIT_S, 3, cut_off=True) is None


def test_a_worker_that_is_stuck_is_not_live_and_ends() -> None:
    looked, health = Looked(), Health({})
    watch = IngestWatch(health, IngestMetrics(Instruments()), "v1", looked.progress)
    watch.check()
    looked.after(LIMIT_S + 2 * LOOK_S, 3)
    with pytest.raises(FatalError, match="no record has finished"):
        watch.check()
    assert health.lost is not None
    health.ask_checks()
    assert "work" in health.problems


def test_only_what_another_start_may_help_counts() -> None:
    looked = Looked()
    watch = IngestWatch(Health({}), IngestMetrics(Instruments()), "v1", looked.progress)

    def stalled(error: TransientError) -> bool:
        looked.progress.did()
        with watch.trying("write") as failed:
            failed(error)
            for _ in range(int(LIMIT_S / LOOK_S) + 2):
                looked.clock.now += LOOK_S
                watch.waits(3)
            return looked.progress.stalled is not None

    watch.waits(0)
    assert not stalled(TransientError("Weaviate is away"))
    assert stalled(BrokerAwayError("no broker answers this client, though others are answered"))


def test_a_query_consumer_whose_parts_have_ended_ends() -> None:
    looked, health = Looked(), Health({})
    watch = QueryWatch(health, QueryMetrics(Instruments()), looked.progress)
    watch.turned()
    looked.after(LIMIT_S + 2 * LOOK_S, 3)
    with pytest.raises(FatalError):
        watch.turned()
    watch.took(0, 7)
    looked.after(LOOK_S, 3)
    watch.turned()
    watch.broke("deliveries", "the thread that hears of them has ended")
    with pytest.raises(FatalError, match="deliveries"):
        watch.turned()
