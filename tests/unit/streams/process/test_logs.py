"""Log lines: for machines, and not too many."""

import json
import logging
import subprocess
import sys

from pixtide.schemas.dead_letters import SourceRecord
from pixtide.schemas.errors import PoisonError, ReasonCode
from pixtide.streams.ingest.work import Work
from pixtide.streams.kafka.records import Record
from pixtide.streams.process.logs import Seldom


def test_lines_about_a_record_carry_its_names() -> None:
    code = """
import logging
from pixtide.streams.process.logs import about
from pixtide.streams.process.signals import log_to_stderr
log_to_stderr("json")
log = logging.getLogger("pixtide.streams.ingest.worker")
with about(image_id="a.jpg", partition=3, code=None):
    with about(code="EMPTY_IMAGE"):
        log.warning("dead letter: %s", "a\\nb")
    log.info("on")
log.info("off")
logging.getLogger("weaviate").info("chatter")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second, third = map(json.loads, done.stderr.splitlines())
    assert first.pop("timestamp").startswith("20")
    assert first == {
        "level": "WARNING",
        "logger": "pixtide.streams.ingest.worker",
        "message": "dead letter: a\nb",
        "image_id": "a.jpg",
        "partition": 3,
        "code": "EMPTY_IMAGE",
    }
    assert second["image_id"] == "a.jpg" and "code" not in second
    assert "image_id" not in third


def test_a_work_names_its_trace_and_its_failure() -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    record = Record("images.uploaded", 2, 7, 0, b"a.jpg", b"", [("traceparent", trace.encode())])
    source = SourceRecord(
        topic=record.topic, topic_id="id", partition=2, offset=7, timestamp_ms=record.timestamp_ms
    )
    work = Work(record, source, epoch=1)
    names = {"image_id": "a.jpg", "partition": 2, "offset": 7, "code": None}
    traced = {"trace_id": trace[3:35], "span_id": trace[36:52]}
    assert work.names() == names | traced
    work.fail("decode", PoisonError(ReasonCode.EMPTY_IMAGE, "empty"))
    assert work.names() == names | traced | {"code": "EMPTY_IMAGE"}


def test_a_library_says_the_same_only_every_ten_seconds() -> None:
    now = 100.0
    seldom = Seldom("aiokafka", clock=lambda: now)

    def said(name: str, *args: object) -> str | None:
        """What comes of a line."""
        record = logging.LogRecord(name, logging.ERROR, "", 0, "no node %s: %s", args, None)
        return record.getMessage() if seldom.filter(record) else None

    assert said("aiokafka.consumer", 1, "refused") == "no node 1: refused"
    assert [said("aiokafka.consumer", 1, "refused") for _ in range(98)] == [None] * 98
    assert said("aiokafka.consumer", 2, "refused") == "no node 2: refused"  # which is news
    assert (
        said("aiokafkas", 1, "refused")
        == said("pixtide.streams.query.consumer", 1, "refused")
        is not None
    )
    assert said("pixtide.streams.query.consumer", 1, "refused") == "no node 1: refused"
    now += 10
    assert said("aiokafka.consumer", 1, "refused") == (
        "no node 1: refused (and 98 times more since)"
    )
    assert said("aiokafka.consumer", 1, "refused") is None
    now += 10
    assert said("aiokafka.consumer", 2, "refused") == "no node 2: refused"  # none were left out
