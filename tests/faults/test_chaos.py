"""Workers killed again and again while pictures come, change, go and are bad.

PIXTIDE_TEST_CHAOS=full makes it 5,000 pictures and a kill every 15 seconds, as `make faults` does;
else it is small. PIXTIDE_TEST_SEED gives another course of events than that of 0.
"""

import json
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pixtide.schemas import topics
from pixtide.search.port import RowState
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka import topics as kafka_topics
from tests.faults.oracle import POISON, check_against_the_log, check_commits, topic
from tests.faults.test_ingest_faults import produce, wait_until, wait_until_read
from tests.servers import KafkaServer, WeaviateServer
from tests.support.deployments import OnServers, killed_in_the_end, on_servers
from tests.support.pictures import jpeg
from tests.support.traffic import Background

WORKERS = ("ingest", "ingest-2")
SEED = int(os.environ.get("PIXTIDE_TEST_SEED", "0"))


@dataclass(frozen=True)
class Chaos:
    """How many pictures, and how many kills, one every so many seconds."""

    pictures: int
    kills: int
    every_s: float


SMALL, FULL = Chaos(500, 8, 4), Chaos(5000, 20, 15)
CHAOS = FULL if os.environ.get("PIXTIDE_TEST_CHAOS") == "full" else SMALL

Event = tuple[str, bytes | None]


def events(chance: random.Random, pictures: int) -> Iterator[Event]:
    """Each picture once, and every now and then something about an earlier one."""
    for n in range(pictures):
        yield f"picture-{n}", jpeg(n, 32)
        earlier = f"picture-{chance.randrange(n + 1)}"
        what = chance.random()
        if what < 0.15:
            yield earlier, jpeg(pictures + n, 32)
        elif what < 0.25:
            yield earlier, None
        elif what < 0.32:
            yield earlier, POISON
        elif what < 0.35:
            yield earlier, jpeg(n, 32)  # known content, under another id


class Publishing(Background):
    """Publishes events some at a time, spread over so many seconds."""

    def __init__(self, stack: OnServers, course: Sequence[Event], seconds: float) -> None:
        super().__init__()
        connection = stack.settings().kafka_connection()
        self._producer = kafka_clients.producer(connection, linger_ms=5)
        self._topic = topic(stack)
        self._course = course
        self._pause_s = seconds * 20 / len(course)
        self.is_done = False

    def loop(self) -> None:
        """Twenty and a pause, to the end."""
        for start in range(0, len(self._course), 20):
            for image_id, data in self._course[start : start + 20]:
                produce(self._producer, self._topic, image_id, data)
            assert self._producer.flush(60) == 0
            if self._stopping.wait(self._pause_s):
                return
        self.is_done = True


@pytest.fixture
def stack(tmp_path: Path, kafka: KafkaServer, weaviate: WeaviateServer) -> Iterator[OnServers]:
    made = on_servers(
        tmp_path,
        kafka,
        weaviate,
        real_model=False,
        PIXTIDE_SESSION_TIMEOUT_S="6",  # or a group of two would wait for its dead most of the time
    )
    made.create()
    with killed_in_the_end(made):
        yield made


def told(stack: OnServers) -> int:
    """How many outcomes there are, repeated ones too."""
    client = kafka_clients.admin(stack.settings().kafka_connection())
    name = topic(stack, topics.INDEXED)
    numbers = range(kafka_topics.partitions_of(client, name))
    return sum(kafka_offsets.ends(client, name, numbers).values())


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.fault("kill -9 of a random worker, again and again, under random events")
def test_nothing_differs_after_many_kills(
    stack: OnServers, record_property: Callable[[str, object], None]
) -> None:
    chance = random.Random(SEED)
    course = list(events(chance, CHAOS.pictures))
    for name in WORKERS:
        stack.spawn(name, "ingest")
    with Publishing(stack, course, CHAOS.kills * CHAOS.every_s) as publishing:
        for _ in range(CHAOS.kills):
            kill_one(stack, chance, publishing)
        wait_until(lambda: publishing.is_done, seconds=600)
    began = time.monotonic()
    wait_until_read(stack, seconds=600)
    record_property("recovery_s", round(time.monotonic() - began, 1))
    check_against_the_log(stack)
    check_originals(stack)
    verified = json.loads(stack.run("index", "verify", "v1", "--json"))
    assert (verified["clean"], verified["images"]) == (True, CHAOS.pictures)


def kill_one(stack: OnServers, chance: random.Random, publishing: Publishing) -> None:
    """Let some seconds pass in which the group gets on, kill a worker, and start it again."""
    before, until = told(stack), time.monotonic() + CHAOS.every_s
    wait_until(
        lambda: time.monotonic() > until and (told(stack) > before or publishing.is_done),
    )
    for name in WORKERS:
        assert stack.processes[name].poll() is None, stack.log(name)
    killed = chance.choice(WORKERS)
    stack.kill(killed)
    check_commits(stack)
    stack.spawn(killed, "ingest")


def check_originals(stack: OnServers) -> None:
    """The image store holds the original of each live row."""
    store = stack.settings().home / "originals"
    kept = {path.as_uri() for path in store.rglob("*.*") if path.is_file()}
    assert {row.uri for row in stack.rows().values() if row.state is RowState.LIVE} <= kept
