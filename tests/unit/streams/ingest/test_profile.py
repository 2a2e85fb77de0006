"""What `pixtide ingest --profile` makes of a worker's metrics."""

import threading
import time

import pytest

from pixtide.streams.ingest.profile import Profile, Stage, Usage, stages
from pixtide.streams.ingest.worker import IngestLimits
from pixtide.streams.process.metrics import IngestMetrics, Instruments

LIMITS = IngestLimits(
    records=256,
    bytes=2**20,
    picture_bytes=2**20,
    batch=16,
    decoders=2,
    encoders=1,
    fetchers=8,
    fetchers_per_host=4,
    breaker_window=200,
    session_s=30.0,
)
STAGES = [Stage("decode", 2, "PIXTIDE_DECODERS"), Stage("encode", 1, "a quicker device")]


def profiled(*, used_s: float, decode_s: float, encode_s: float, full_s: float = 0.0) -> str:
    """Of 100 records, 90 of them pictures, in 10 s on two processors."""
    instruments = Instruments()
    metrics = IngestMetrics(instruments)
    metrics.outcomes.labels("v1", "indexed").inc(90)
    metrics.outcomes.labels("v1", "deleted").inc(10)
    for stage, seconds in (("decode", decode_s), ("encode", encode_s)):
        for _ in range(90):
            metrics.stage_seconds.labels("v1", stage).observe(seconds / 90)
    for _ in range(6):
        metrics.batch_pictures.labels("v1").observe(15)
    profile = Profile(instruments.registry, STAGES)
    profile.usage = Usage(clock=10.0, processors=20.0, used=used_s, ours=used_s / 2)
    profile.full_s = full_s
    return profile.text()


def test_it_says_how_busy_each_stage_was() -> None:
    lines = profiled(used_s=10, decode_s=4.5, encode_s=9).splitlines()
    assert lines[0].startswith("profile: 100 records in 10.0 s, 10.0 a second")
    assert "of 2 processors 50% was used, 25% by this worker" in lines[0]
    assert lines[2].split() == ["decode", "90", "50.00", "2", "22%"]
    assert lines[3].split() == ["encode", "90", "100.00", "1", "90%"]
    assert lines[4] == "90 pictures encoded, 15.0 at once"


@pytest.mark.parametrize(
    ("used_s", "decode_s", "encode_s", "full_s", "said"),
    [
        (10, 4.5, 9, 9, "bound by encode, which was nearly always at work; more: a quicker device"),
        (10, 18, 5, 9, "bound by decode, which was nearly always at work; more: PIXTIDE_DECODERS"),
        (19, 9, 5, 9, "bound by the processors"),
        (2, 1, 1, 0, "bound by what comes in: for 100% of the time there was room"),
        (10, 9, 5, 9, "bound by no stage alone; encode was the busiest"),
    ],
)
def test_it_says_what_bounds_the_rate(
    used_s: float, decode_s: float, encode_s: float, full_s: float, said: str
) -> None:
    text = profiled(used_s=used_s, decode_s=decode_s, encode_s=encode_s, full_s=full_s)
    assert text.splitlines()[-1].startswith(said)


def test_it_counts_the_time_in_which_something_is_in_flight() -> None:
    instruments = Instruments()
    metrics = IngestMetrics(instruments)
    profile = Profile(instruments.registry, STAGES)
    assert profile.text() == "profile: nothing was ingested"
    in_flight = metrics.in_flight_records.labels("v1")
    thread = threading.Thread(target=profile.watch)
    thread.start()
    time.sleep(0.5)
    assert profile.usage == Usage()
    in_flight.set(1)
    deadline = time.monotonic() + 30
    while not profile.usage.ours and time.monotonic() < deadline:
        sum(range(100_000))  # this is our work
    profile.end()
    thread.join()
    usage = profile.usage
    assert 0 < usage.ours <= usage.processors and usage.clock > 0


def test_every_stage_is_one_that_is_measured() -> None:
    told = {stage.name for stage in stages(LIMITS)}
    instruments = Instruments()
    IngestMetrics(instruments)
    names = {each.name: each.meaning for each in instruments.described}
    assert all(name in names["pixtide_ingest_stage_seconds"] for name in told)
