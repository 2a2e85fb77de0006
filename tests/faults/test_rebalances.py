"""Members come and go all the time, in the middle of batches; nothing is skipped or overtaken."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.members import Passenger
from tests.faults.oracle import POISON, check_against_the_log
from tests.faults.test_ingest_faults import publish, wait_until, wait_until_read
from tests.servers import KafkaServer, WeaviateServer
from tests.support.deployments import OnServers, killed_in_the_end, on_servers
from tests.support.pictures import jpeg
from tests.support.traffic import Publishing

pytestmark = pytest.mark.slow
PICTURES, TURNS = 30, 12


@pytest.fixture
def stack(tmp_path: Path, kafka: KafkaServer, weaviate: WeaviateServer) -> Iterator[OnServers]:
    made = on_servers(
        tmp_path,
        kafka,
        weaviate,
        real_model=False,
    )
    made.create()
    with killed_in_the_end(made):
        yield made


@pytest.mark.fault("a member joins before anything is committed")
@pytest.mark.fault("members join and leave all the time (cooperative-sticky)")
@pytest.mark.fault("a rebalance in the middle of a batch")
def test_members_that_come_and_go(stack: OnServers) -> None:
    def update(turn: int) -> None:
        """Every picture anew, so that all keys are in work whenever partitions move."""
        change: dict[str, bytes | None] = {
            f"picture-{n}": jpeg(turn * PICTURES + n) for n in range(PICTURES)
        }
        change[f"picture-{turn % PICTURES}"] = None
        change[f"picture-{turn * 7 % PICTURES}"] = POISON
        publish(stack, change)

    update(0)
    with Passenger(stack) as first:  # takes all partitions, and reads what it won't finish
        wait_until(lambda: first.has_partitions)
        for name in ("ingest", "ingest-2"):
            stack.spawn(name, "ingest")
        wait_until(lambda: bool(stack.rows()))
    with Publishing(update, every_s=0.5) as publishing:
        for _ in range(TURNS):
            with Passenger(stack) as other:
                wait_until(lambda other=other: other.has_partitions)  # type: ignore[misc]
    assert publishing.published > 2
    wait_until_read(stack)
    check_against_the_log(stack)
    for name in ("ingest", "ingest-2"):
        stack.stop_process(name)
