"""Repair: makes a generation's collection again what the log says, where a verification found not.

1. remove  rows that the log's record couldn't replace: extra ones, and those that stand at the
           record's own version or beyond it
2. replay  the log's latest records of all that differs, through an ordinary ingest worker: it
           stores the originals of inline pictures anew, too
3. rewrite the rows that searches don't find, as they are
4. look    again whether all agrees now; then let go of deletes that the log has forgotten, and of
           the originals that nothing names; values of dead letters that have expired go, too
"""

from itertools import islice

from pixtide.search.generations import Generation
from pixtide.search.port import VectorIndex
from pixtide.streams.generations.comparison_store import ComparisonStore, Kind
from pixtide.streams.generations.verify import Verification, Verifier
from pixtide.streams.kafka.replay_consumer import ReplayConsumer
from pixtide.streams.process.health import Health
from pixtide.streams.settings import Settings
from pixtide.streams.wiring.ingest import ingest_worker
from pixtide.streams.wiring.observed import Vitals

_IN_THE_WAY = (Kind.EXTRA, Kind.AHEAD, Kind.WRONG_STATE, Kind.WRONG_CONTENT)

_CHUNK = 500


def repair(
    settings: Settings, generation: Generation, index: VectorIndex, verifier: Verifier
) -> Verification:
    """Mend what `verifier` has found, and verify that again. Safe to repeat.

    An original that was not sent inline can't be stored anew, and is found missing again.

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
    worker = ingest_worker(
        settings,
        generation.name,
        Vitals(Health({})),
        replay=lambda config: ReplayConsumer(
            config, settings.kafka_connection(), generation.log.topic, places, lambda: worker.stop()
        ),
    )
    worker.run()
