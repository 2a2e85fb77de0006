"""What an ingest worker tells while it waits for others."""

import contextlib

from prometheus_client import CollectorRegistry

from pixtide.schemas.errors import TransientError
from pixtide.streams.ingest.telemetry import IngestWatch
from pixtide.streams.process.health import Health
from pixtide.streams.process.metrics import IngestMetrics, Instruments, QueryMetrics


def watched() -> tuple[IngestWatch, Health, CollectorRegistry]:
    health, instruments = Health({}), Instruments()
    return IngestWatch(health, IngestMetrics(instruments), "v1"), health, instruments.registry


def test_a_step_that_is_tried_again_is_told_until_the_last_thread_has_done_it() -> None:
    watch, health, registry = watched()

    def retrying(step: str) -> float | None:
        labels = {"generation": "v1", "step": step}
        return registry.get_sample_value("pixtide_ingest_retrying", labels)

    with watch.trying("write"):
        assert health.problems == {} and retrying("write") == 0
    with watch.trying("fetch") as failed:
        failed(TransientError("the store is away"))
        with watch.trying("fetch") as failed_too:
            failed_too(TransientError("the store is away"))
            failed_too(TransientError("the store is full"))
            assert health.problems == {"fetch": "the store is full"} and retrying("fetch") == 2
        assert "fetch" in health.problems and retrying("fetch") == 1
    assert health.problems == {} and retrying("fetch") == 0
    labels = {"generation": "v1", "step": "fetch"}
    assert registry.get_sample_value("pixtide_ingest_retries_total", labels) == 3


def test_a_step_that_is_given_up_is_no_problem_any_more() -> None:
    watch, health, _ = watched()
    with contextlib.suppress(KeyboardInterrupt), watch.trying("write") as failed:
        failed(TransientError("away"))
        raise KeyboardInterrupt
    assert health.problems == {}


def test_a_full_worker_is_ready_and_a_stopping_one_is_not() -> None:
    watch, health, registry = watched()

    def paused() -> list[float | None]:
        labels = [{"generation": "v1", "reason": reason} for reason in ("full", "stopping")]
        return [registry.get_sample_value("pixtide_ingest_paused", each) for each in labels]

    assert paused() == [0, 0]
    watch.paused("full")
    assert paused() == [1, 0] and health.problems == {}
    watch.paused("stopping")
    assert paused() == [0, 1] and health.problems == {"worker": "is stopping"}
    watch.paused(None)
    assert paused() == [0, 0] and health.problems == {}


def test_only_the_partitions_that_a_worker_has_have_a_lag() -> None:
    watch, _, registry = watched()
    watch.lags({0: 3, 1: 0})
    watch.lags({1: 5})
    found = [
        (sample.labels["partition"], sample.value)
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "pixtide_ingest_lag_records"
    ]
    assert found == [("1", 5)]


def test_names_are_as_prometheus_wants_them() -> None:
    instruments = Instruments()
    IngestMetrics(instruments)
    QueryMetrics(instruments)
    for each in instruments.described:
        assert each.name.startswith(("pixtide_ingest_", "pixtide_query_"))
        assert each.name.endswith("_total") == (each.kind == "counter")
        assert each.name.endswith("_seconds") == ("time per" in each.meaning)
