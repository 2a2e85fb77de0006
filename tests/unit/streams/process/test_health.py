"""Readiness, liveness, and how they are served."""

import json
import logging
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from pixtide.schemas.errors import TransientError, UsageError
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.consumer_check import ConsumerCheck
from pixtide.streams.kafka.consumer_position import ConsumerPosition, Statistics
from pixtide.streams.process.health import LIVE_S, Health
from pixtide.streams.process.health_server import serving
from pixtide.streams.process.metrics import Instruments
from pixtide.streams.settings import Settings
from pixtide.streams.wiring.observed import seen_from_outside


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_ready_when_all_is_proven_and_nothing_is_wrong() -> None:
    changes: list[bool] = []
    health = Health({"encoder": "is being loaded", "log": "is not read yet"}, changes.append)
    health.report("encoder", None)
    assert health.problems == {"log": "is not read yet"} and changes == []
    health.report("log", None)
    assert health.problems == {} and changes == [True]
    health.report("index", "Weaviate is away")
    health.report("write", "refused")
    health.report("index", None)
    assert health.problems == {"write": "refused"} and changes == [True, False]
    health.report("write", None)
    assert changes == [True, False, True]


def test_live_while_the_main_loop_turns() -> None:
    clock = Clock()
    health = Health({}, clock=clock)

    def after(seconds: float) -> tuple[str | None, dict[str, str]]:
        clock.now += seconds
        health.ask_checks()
        return health.stuck, health.problems

    assert after(1000) == (None, {}), "it hasn't begun: a model may take its time to load"
    health.beat()
    assert after(LIVE_S) == (None, {})
    stuck = "has not turned for 121 s"
    assert after(1) == (stuck, {"main loop": stuck})
    health.beat()
    assert after(0) == (None, {})


def test_checks_report_what_they_return_and_what_they_raise() -> None:
    answers = iter(["no member", None])
    health = Health({"log": "is not read yet"})
    health.check("log", lambda: next(answers))

    def away() -> None:
        raise TransientError("Weaviate is away")

    health.check("index", away)
    health.ask_checks()
    assert health.problems == {"log": "no member", "index": "Weaviate is away"}
    health.check("index", lambda: None)
    health.ask_checks()
    assert health.problems == {}


def test_the_endpoints_and_the_file_say_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port, file = free_port(), tmp_path / "ready"
    file.touch()
    caplog.set_level(logging.INFO, "pixtide")
    with seen_from_outside(Settings(health_port=port), {"log": "is not read yet"}, file) as vitals:
        vitals.instruments.counter("met", "How often.").inc()
        assert get(port, "/ready") == (
            503,
            b'{"ready": false, "problems": {"log": "is not read yet"}}\n',
        )
        assert not file.exists(), "one left over from a killed process says nothing"
        vitals.health.report("log", None)
        assert get(port, "/ready") == (200, b'{"ready": true, "problems": {}}\n')
        assert file.exists()
        assert get(port, "/live") == (200, b'{"live": true, "main loop": "turns"}\n')
        assert b"met_total 1.0" in get(port, "/metrics")[1]
        assert b"pixtide_ready 1.0" in get(port, "/metrics")[1]
        assert get(port, "/")[0] == 404
        vitals.health.report("index", "is away")
        assert json.loads(get(port, "/ready")[1])["problems"] == {"index": "is away"}
        scraped = get(port, "/metrics")[1]
        assert b"pixtide_ready 0.0" in scraped and b"process_start_time_seconds" in scraped
        assert not file.exists()
        vitals.health.report("index", None)
    assert not file.exists()
    assert caplog.messages == ["ready", "not ready: index: is away", "ready"]


def test_a_process_that_only_another_start_helps_is_not_live() -> None:
    health, registry, stalled = Health({}), Instruments().registry, list[str]()
    health.watch(lambda: stalled[-1] if stalled else None)
    with serving("127.0.0.1", 0, health, registry) as (_, port):
        assert get(port, "/live")[0] == 200
        stalled.append("no record has finished for 305 s")
        live = {"live": False, "main loop": "turns", "work": stalled[-1]}
        assert get(port, "/live") == (503, json.dumps(live).encode() + b"\n")
        stalled.clear()
        assert get(port, "/live")[0] == 200
        health.broke("deliveries", "the thread has ended")
        status, said = get(port, "/live")
        assert status == 503 and json.loads(said)["work"] == "deliveries: the thread has ended"


def test_a_check_that_fails_proves_nothing_and_the_others_are_asked_on() -> None:
    health = Health({"index": "is not read yet"})

    def fail() -> None:
        raise ZeroDivisionError

    health.check("log", fail)
    health.check("index", lambda: None)
    health.ask_checks()
    assert health.problems == {"log": "can't be looked at: ZeroDivisionError()"}


def test_a_check_that_hangs_is_told() -> None:
    clock, hangs, asked = Clock(), threading.Event(), threading.Event()
    health = Health({}, clock=clock)
    health.report("encoder", "is being loaded")  # oftener, while not ready

    def hang() -> None:
        asked.set()
        hangs.wait(60)

    health.check("index", hang)
    with health.checked():
        assert asked.wait(60)
        health.report("encoder", None)
        assert health.problems == {}
        clock.now += LIVE_S + 1
        assert health.problems == {"checks": "have not come back for 121 s"}
        hangs.set()


def test_a_main_loop_that_hangs_is_ended_from_outside_unless_it_goes_on() -> None:
    clock, ended = Clock(), list[int]()
    health = Health({}, clock=clock)
    health.end_if_hung(ended.append)
    health.beat()
    clock.now += 3 * LIVE_S
    health.end_if_hung(ended.append)
    health.beat()  # it was stopped, and goes on
    health.end_if_hung(ended.append)
    assert ended == []
    clock.now += 3 * LIVE_S
    health.end_if_hung(ended.append)
    health.end_if_hung(ended.append)
    assert ended == [1]


def test_a_file_that_cannot_be_kept_ends_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def full(_: bool) -> None:
        raise OSError("no space left on device")

    health = Health({"log": "is not read yet"}, full)
    health.report("log", None)
    assert health.problems == {} and "no space left" in caplog.text


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        health, registry = Health({}), Instruments().registry
        with (
            pytest.raises(UsageError, match="PIXTIDE_HEALTH_PORT"),
            serving("127.0.0.1", port, health, registry),
        ):
            pass


class Member:
    """A consumer and its broker, both answered from here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.standing = Clock(), ConsumerPosition()
        self.begins, self.ends, self.lags = {0: 0}, {0: 0}, {9: 9}
        self.late: dict[int, float] = {}
        monkeypatch.setattr(kafka_topics, "partitions_of", lambda *_: 1)
        monkeypatch.setattr(kafka_offsets, "beginnings", lambda *_: self.begins)
        monkeypatch.setattr(kafka_offsets, "ends", lambda *_: self.ends)
        self.membership = ConsumerCheck(
            kafka_clients.admin(KafkaConnection("127.0.0.1:1")),
            "t",
            look=lambda: self.standing,
            on_lags=lambda lags: setattr(self, "lags", lags),
            on_late=lambda late: setattr(self, "late", late),
            clock=self.clock,
        )

    def stands(self, committed: int, read: int, *, idle: bool = True) -> None:
        self.standing = ConsumerPosition(frozenset({0}), {0: committed}, {0: read}, idle)

    def after(self, seconds: float) -> str | None:
        self.clock.now += seconds
        return self.membership.check()


@pytest.fixture
def member(monkeypatch: pytest.MonkeyPatch) -> Member:
    return Member(monkeypatch)


def test_only_a_member_is_ready_even_one_without_partitions(member: Member) -> None:
    assert member.after(0) == "the group has not let this consumer in"
    member.standing = ConsumerPosition(frozenset())
    assert member.after(1) is None and member.lags == {}


def test_a_consumer_that_died_without_a_word_is_found_out(member: Member) -> None:
    member.ends = {0: 10}
    member.stands(10, 10)
    assert member.after(0) is None
    member.ends = {0: 14}
    assert member.after(5) is None
    assert member.lags == {0: 4}
    assert member.after(31) == "records of partition 0 do not come, for 31 s by now"
    member.stands(10, 12)
    assert member.after(5) is None, "it moves"


@pytest.mark.parametrize("waits", [1, 4])
def test_a_partition_that_is_not_read_is_found_out_beside_busy_ones(
    member: Member, waits: int
) -> None:
    """However little waits there, and however much comes of the others."""
    member.begins, member.ends = {0: 0, 1: 0}, {0: 10 + waits, 1: 1000}

    def after(seconds: float, read: int) -> str | None:
        committed = {0: 10, 1: read - 5}
        member.standing = ConsumerPosition(
            frozenset({0, 1}), committed, {0: 10, 1: read}, idle=False
        )
        return member.after(seconds)

    assert [after(10, read) for read in (100, 200, 300, 400)] == [None] * 4, "30 s, and no more"
    assert after(10, 500) == "records of partition 0 do not come, for 40 s by now"
    assert member.late == {0: 40.0}


def test_while_a_consumer_is_full_its_partitions_have_turns(member: Member) -> None:
    member.ends = {0: 14}

    def after(seconds: float, *, resumed: int, full: bool = True) -> str | None:
        read = {0: 10}
        member.standing = ConsumerPosition(frozenset({0}), read, read, False, full, resumed)
        return member.after(seconds)

    assert after(0, resumed=0) is None
    assert after(500, resumed=5) is None, "it might have been others' turns"
    assert after(500, resumed=10) is not None
    assert after(1, resumed=10, full=False) is not None
    member.stands(10, 12)
    assert member.after(5) is None
    assert after(100, resumed=12) is None
    assert after(20, resumed=12, full=False) is None
    assert after(20, resumed=12, full=False) is not None, "it has had 40 s to read"


def test_what_is_never_delivered_is_not_waited_for(member: Member) -> None:
    member.ends = {0: 11}
    member.stands(10, 11)
    assert [member.after(31) for _ in range(3)] == [None] * 3, "a transaction's marker"
    member.ends = {0: 50}
    member.stands(10, 50)
    assert [member.after(31) for _ in range(3)] == [None] * 3, "the log was compacted there"
    assert member.lags == {0: 0}
    member.begins, member.ends = {0: 90}, {0: 90}
    member.stands(-1001, -1001)
    assert [member.after(31) for _ in range(3)] == [None] * 3, "all of it is past its retention"


def test_where_a_consumer_stands_by_what_librdkafka_tells() -> None:
    clock = Clock()
    waiting: list[int] = []
    coordinator = {"GroupCoordinator": {"source": "logical"}, ":0/internal": {"source": "internal"}}
    brokers = coordinator | {"127.0.0.1:9092/1": {"source": "learned"}}
    statistics = Statistics("t", "retries", waiting.append, clock)

    def told(join_state: str) -> ConsumerPosition:
        partition = {"committed_offset": 5, "fetch_state": "active"}
        other = {"committed_offset": -1001, "fetch_state": "none"}
        partitions = {"3": partition, "4": partition | {"fetch_state": "stopped"}, "-1": other}
        lags = {"0": 4, "1": -1, "2": 5}
        retried = {n: {"consumer_lag": lag, "fetch_state": "active"} for n, lag in lags.items()}
        topics = {"t": {"partitions": partitions}, "retries": {"partitions": retried}}
        report = {"cgrp": {"join_state": join_state}, "topics": topics, "brokers": brokers}
        statistics.take(json.dumps(report))
        return statistics.standing(idle=False, read={3: 7})

    assert statistics.standing(idle=True) == ConsumerPosition(), "it has told nothing yet"
    assert told("wait-join") == ConsumerPosition()
    settled = ConsumerPosition(frozenset({3}), {3: 5}, {3: 7}, idle=False)
    assert told("steady") == settled
    assert waiting[-1] == 9
    clock.now += 100
    assert told("wait-sync") == settled, "others come and go"
    clock.now += 51
    assert told("wait-sync") == ConsumerPosition(), "for too long"
    assert told("steady") == settled
    clock.now += 31
    assert statistics.standing(idle=False) == ConsumerPosition(), "it tells nothing any more"
    assert not statistics.cut_off
    del brokers["127.0.0.1:9092/1"]
    told("steady")
    assert statistics.cut_off


def get(port: int, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])
