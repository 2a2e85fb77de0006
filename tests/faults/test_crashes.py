"""What goes wrong within a worker, at a certain point: a kill, its model, its device, a picture.

One deployment for all, whose log grows from test to test; each ends in the oracle over all of it.
"""

import io
import urllib.request
from collections.abc import Iterator

import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from pixtide.schemas import topics
from pixtide.search.port import RowState
from tests.faults import sabotage
from tests.faults.members import Passenger
from tests.faults.oracle import (
    POISON,
    check_against_the_log,
    check_commits,
    committed,
    outcomes_by_record,
    read_topic,
)
from tests.faults.test_ingest_faults import publish, wait_until, wait_until_read
from tests.servers import KafkaServer, WeaviateServer
from tests.servers.runners import free_ports
from tests.support.deployments import PIXTIDE, OnServers, on_servers
from tests.support.pictures import jpeg

pytestmark = pytest.mark.slow
[PORT] = free_ports(1)


@pytest.fixture(scope="module")
def deployed(
    tmp_path_factory: pytest.TempPathFactory, kafka: KafkaServer, weaviate: WeaviateServer
) -> OnServers:
    folder = tmp_path_factory.mktemp("crashes")
    made = on_servers(
        folder,
        kafka,
        weaviate,
        PIXTIDE_BREAKER_WINDOW="0",
        PIXTIDE_HEALTH_PORT=str(PORT),
        PIXTIDE_SESSION_TIMEOUT_S="9",  # so that a killed worker's partitions are soon another's
    )
    made.create()
    return made


@pytest.fixture
def stack(deployed: OnServers) -> Iterator[OnServers]:
    yield deployed
    deployed.program = PIXTIDE
    for name in list(deployed.processes):
        deployed.kill(name)


@pytest.mark.fault("kill -9 after the write, before the commit")
@pytest.mark.fault("kill -9 between a dead letter's delivery and the commit")
def test_killed_after_its_writes_and_before_their_commit(stack: OnServers) -> None:
    publish(stack, {f"written-{n}": jpeg(n) for n in range(5)} | {"lettered": POISON})
    before, stood = len(read_topic(stack, topics.DEAD_LETTERS)), committed(stack)
    stack.program = sabotage.program("killed_before_its_commit")
    stack.spawn("ingest", "ingest")
    assert stack.processes.pop("ingest").wait(120) == -9, stack.log("ingest")
    rows = stack.rows()
    assert rows["written-4"].state is RowState.LIVE
    assert rows["lettered"].state is RowState.DEAD_LETTERED
    assert len(read_topic(stack, topics.DEAD_LETTERS)) == before + 1
    assert committed(stack) == stood, "nothing was meant to be committed"

    stack.program = PIXTIDE
    stack.start_process("ingest")
    wait_until_read(stack)
    check_against_the_log(stack)
    by_record = outcomes_by_record(stack).values()
    kinds = {o[0].image_id: [each.outcome for each in o] for o in by_record}
    assert kinds["written-4"] == ["indexed", "indexed"], "read twice, written once"
    assert kinds["lettered"] == ["dead_lettered", "dead_lettered"]
    stack.stop_process("ingest")


@pytest.mark.fault("SIGTERM under load")
def test_terminated_under_load_it_finishes_what_it_has_begun(stack: OnServers) -> None:
    stack.env["PIXTIDE_IN_FLIGHT_RECORDS"] = "16"
    try:
        stack.start_process("ingest")
        publish(stack, {f"loaded-{n}": jpeg(n) for n in range(400)})
        wait_until(lambda: "loaded-9" in stack.rows())
        stack.stop_process("ingest")  # with 0, within its grace
    finally:
        del stack.env["PIXTIDE_IN_FLIGHT_RECORDS"]
    check_commits(stack)
    done = {c for c, told in outcomes_by_record(stack).items() if "loaded" in told[0].image_id}
    assert done, "it was meant to be at work"
    stack.start_process("ingest")
    wait_until_read(stack)
    check_against_the_log(stack)
    found = outcomes_by_record(stack)
    assert {len(found[c]) for c in done} == {1}, "what was finished is not read again"
    stack.stop_process("ingest")


@pytest.mark.fault("the device is out of memory")
def test_a_device_without_memory_gets_smaller_batches(stack: OnServers) -> None:
    publish(stack, {f"small-{n}": jpeg(n + 1000) for n in range(40)})
    stack.program = sabotage.program("small_device")
    stack.start_process("ingest")
    wait_until_read(stack)
    check_against_the_log(stack)
    sizes = [line for line in stack.log("ingest").splitlines() if "rows from now on" in line]
    assert int(sizes[-1].partition("batches are of ")[2].split()[0]) <= sabotage.MOST_ROWS
    assert len(sizes) <= 4, "it remembers what has fitted"
    stack.stop_process("ingest")


@pytest.mark.fault("the device is lost")
def test_a_lost_device_ends_the_worker_and_no_picture_is_blamed(stack: OnServers) -> None:
    before = len(read_topic(stack, topics.DEAD_LETTERS))
    publish(stack, {f"device-{n}": jpeg(n + 2000) for n in range(40)})
    stack.program = sabotage.program("device_lost")
    stack.spawn("ingest", "ingest")
    assert stack.processes.pop("ingest").wait(120) == 1, stack.log("ingest")
    assert "unspecified launch failure" in stack.log("ingest")
    check_commits(stack)
    assert len(read_topic(stack, topics.DEAD_LETTERS)) == before
    stack.program = PIXTIDE
    stack.start_process("ingest")
    wait_until_read(stack)
    check_against_the_log(stack)
    stack.stop_process("ingest")


@pytest.mark.fault("a vector that is not finite")
@pytest.mark.fault("a decoder crashes")
def test_pictures_that_break_the_model_or_a_decoder_cost_themselves(stack: OnServers) -> None:
    codes = {"black": "INVALID_VECTOR", "deadly": "DECODER_CRASHED"}
    publish(stack, {f"bad-{n}": jpeg(n + 3000) for n in range(10)})
    publish(stack, {"black": picture((32, 32), 0), "deadly": picture(sabotage.DEADLY, 99)})
    publish(stack, {f"bad-{n}": jpeg(n + 4000) for n in range(5, 15)})
    stack.program = sabotage.program("bad_pictures")
    stack.start_process("ingest")
    wait_until_read(stack)
    check_against_the_log(stack, poisoned=codes)
    rows = stack.rows()
    assert {name: rows[name].reason for name in codes} == codes
    publish(stack, dict.fromkeys(codes, jpeg(1)))
    wait_until_read(stack)
    check_against_the_log(stack)
    stack.stop_process("ingest")


def picture(size: tuple[int, int], brightness: int) -> bytes:
    """A JPEG of one shade."""
    out = io.BytesIO()
    Image.new("RGB", size, (brightness,) * 3).save(out, "JPEG")
    return out.getvalue()


@pytest.mark.fault("the model is slower than a member may be silent")
@pytest.mark.fault("a rebalance while paused")
def test_a_slow_model_costs_no_membership(stack: OnServers) -> None:
    """The worker polls on while the model takes longer than `max.poll.interval.ms`."""
    changed = {"PIXTIDE_IN_FLIGHT_RECORDS": "8", "PIXTIDE_SESSION_TIMEOUT_S": "6"}
    before = dict(stack.env)
    stack.env |= changed
    stack.program = sabotage.program("slow_model")
    try:
        stack.start_process("ingest")
        publish(stack, {f"slow-{n}": jpeg(n + 5000) for n in range(16)})
        wait_until(lambda: in_flight() == 8)
        with Passenger(stack) as other:  # comes while the worker is full, and goes
            wait_until(lambda: other.has_partitions)
            most = in_flight()
        wait_until_read(stack)
        stack.stop_process("ingest")
    finally:
        stack.env = before
    check_against_the_log(stack)
    assert most <= 8, "it was meant to stay paused"
    assert "the session expired" not in stack.log("ingest")


def in_flight() -> float:
    """Records that the worker has taken on, as its metrics tell."""
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        name = "pixtide_ingest_in_flight_records"
        return sum(
            sample.value for each in families if each.name == name for sample in each.samples
        )
