"""Repair: makes a generation's collection equal to the log again, after a verification.

1. remove   rows that the log's record can't replace: extra rows, and rows whose version is the
            record's own or newer
2. replay   the latest records of everything that differs, through an ordinary ingest worker; it
            also stores missing originals of inline pictures
3. rewrite  the rows that searches don't find, unchanged
4. check    again whether everything agrees. If so, remove deletes that have expired from the log,
            and originals that nothing names. Values of expired dead letters are removed anyway.
"""

from itertools import islice

from pixtide.search.generations import Generation
from pixtide.search.port import VectorIndex
from pixtide.streams.extras import extra
from pixtide.streams.generations.comparison_store import ComparisonStore, Kind
from pixtide.streams.generations.verify import Verification, Verifier
from pixtide.streams.kafka.replay_consumer import ReplayConsumer
from pixtide.streams.settings import Settings

_IN_THE_WAY = (Kind.EXTRA, Kind.AHEAD, Kind.WRONG_STATE, Kind.WRONG_CONTENT)

_CHUNK = 500


def repair(
    settings: Settings, generation: Generation, index: VectorIndex, verifier: Verifier
) -> Verification:
    """Repair what `verifier` has found, and verify that again. Safe to repeat.

    An original that was not sent inline can't be stored again, and is reported as missing again.

    Raises as a verification and as an ingest worker do.
    """
    ledger = verifier.ledger
    if ledger.counts():
        _remove_what_is_in_the_way(index, ledger)
        _replay(settings, generation, ledger)
    verifier.rewrite()
    verifier.expire_values()
    verification = verifier.look_again()
    if verification.rows_agree:
        verification = verifier.sweep()
        while expired := ledger.expired_deletes():
            index.remove(expired)
            ledger.forget_rows(expired)
    return verification


def _remove_what_is_in_the_way(index: VectorIndex, ledger: ComparisonStore) -> None:
    differences = ledger.differences(_IN_THE_WAY)
    while some := list(islice(differences, _CHUNK)):
        index.remove({d.image_id: d.found for d in some if d.found is not None})


def _replay(settings: Settings, generation: Generation, ledger: ComparisonStore) -> None:
    places = (
        (difference.expected.partition, difference.expected.offset)
        for difference in ledger.differences()
        if difference.expected is not None
    )
    with extra("worker"):  # verifying alone needs none
        from pixtide.streams.process.health import Health
        from pixtide.streams.wiring.ingest import ingest_worker
        from pixtide.streams.wiring.observed import Vitals
    worker = ingest_worker(
        settings,
        generation.name,
        Vitals(Health({})),
        replay=lambda config: ReplayConsumer(
            config, settings.kafka_connection(), generation.log.topic, places, lambda: worker.stop()
        ),
    )
    worker.run()
