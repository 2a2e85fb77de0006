"""The oracle: after any fault, once all is read, the index is what the log says, and no record
of the log is without its outcome.
"""

import contextlib
import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import urlsplit

import numpy as np

from pixtide.schemas import topics
from pixtide.schemas.identity import Version
from pixtide.schemas.outcomes import Outcome, OutcomeKind
from pixtide.search.port import RowState
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka.records import Record
from pixtide.streams.kafka.topic_reader import records_of
from pixtide.streams.originals.store import ImageStore
from pixtide.streams.wiring.adapters import open_catalog
from pixtide.streams.wiring.generations import generation_to_work_for
from tests.support.deployments import Deployment

#: What records hold that are meant to be dead-lettered.
POISON = b"no picture"
_JPEG = b"\xff\xd8"
#: How long the name of a picture's folder is in the image store.
_FOLDER = 36
_APPLIED = {
    RowState.LIVE: {OutcomeKind.INDEXED, OutcomeKind.REPLACED, OutcomeKind.UNCHANGED},
    RowState.DELETED: {OutcomeKind.DELETED},
    RowState.DEAD_LETTERED: {OutcomeKind.DEAD_LETTERED},
}

#: A record's partition and offset.
Coordinates = tuple[int, int]


def topic(stack: Deployment, name: str = topics.UPLOADED) -> str:
    """The deployment's topic of that name."""
    return stack.settings().named(name)


def read_topic(stack: Deployment, name: str) -> list[Record]:
    """Everything that a topic holds now."""
    return list(records_of(stack.settings().kafka_connection(), topic(stack, name)))


def outcomes_by_record(stack: Deployment) -> dict[Coordinates, list[Outcome]]:
    """All outcomes by source coordinates, in order; a key's records in that of their first ones."""
    found = defaultdict(list)
    for record in read_topic(stack, topics.INDEXED):
        outcome = Outcome.from_json(record.value or b"")
        found[outcome.partition, outcome.offset].append(outcome)
    return dict(found)


def committed(stack: Deployment) -> dict[int, int]:
    """What the live generation's group has committed, by partition."""
    settings = stack.settings()
    with contextlib.closing(open_catalog(settings)) as catalog:
        generation = generation_to_work_for(catalog, None)
    log = generation.log
    return kafka_offsets.committed_offsets(
        settings.kafka_connection(), generation.group, log.topic, range(log.partitions)
    )


def check_commits(stack: Deployment) -> None:
    """At any moment: what lies below the committed offsets is finished, and has its outcome."""
    offsets = committed(stack)  # first, since outcomes go on coming
    found = outcomes_by_record(stack)
    finished = {
        (record.partition, record.offset)
        for record in read_topic(stack, topics.UPLOADED)
        if record.offset < offsets.get(record.partition, 0)
    }
    assert finished <= found.keys(), f"committed without outcome: {finished - found.keys()}"


def check_against_the_log(stack: Deployment, *, poisoned: Collection[str] = ()) -> None:
    """One row for each key of the log, at its latest record's version, state and content; an
    outcome for each record, each key's in order, of which that of each latest record was applied;
    a dead letter for each that says so; and all of it committed.

    Args:
        poisoned: the ids whose latest record is bad, besides those of `POISON`.
    """
    log = sorted(read_topic(stack, topics.UPLOADED), key=lambda record: record.offset)
    latest = {(record.key or b"").decode(): record for record in log}
    states = {i: _state(r, is_bad=i in poisoned) for i, r in latest.items()}
    check_rows(stack, latest, states)
    found = outcomes_by_record(stack)
    assert found.keys() == {(r.partition, r.offset) for r in log}
    check_order(log, found)
    for image_id, record in latest.items():
        kinds = {outcome.outcome for outcome in found[record.partition, record.offset]}
        assert kinds & _APPLIED[states[image_id]], f"{image_id}: {kinds}"
    letters = _lettered(stack)
    told = {c for c, each in found.items() if any(o.reason for o in each)}
    assert told <= letters, f"no dead letter: {told - letters}"
    check_commits(stack)


def check_order(log: Sequence[Record], found: Mapping[Coordinates, Sequence[Outcome]]) -> None:
    """Each key's records were worked on one after the other, none of them overtaken.

    A record begins when the outcome of the one before it has been delivered, whoever worked on
    that. So the first outcomes of a key come in the log's order, and none says that a newer record
    was found in the index. One that was passed over for a newer one was not looked for there. Of
    repetitions nothing is asked: after a crash older records are read again,
    and what a dying worker had sent may arrive late.

    Args:
        log: its records, those of each partition in order.
        found: as `outcomes_by_record` gives them.
    """
    written = {(record.partition, record.offset): record.key for record in log}
    in_log, told = defaultdict(list), defaultdict(list)
    for place, key in written.items():
        in_log[key].append(place)
    for place in found:
        told[written[place]].append(place)
    for key, places in in_log.items():
        assert told[key] == places, f"{key!r} was not worked on in order: {told[key]}"
        late = [p for p in places if found[p][0].outcome == OutcomeKind.SUPERSEDED]
        overtaken = [p for p in late if "look_up" in found[p][0].took_ms or p == places[-1]]
        assert not overtaken, f"{key!r} was overtaken: {overtaken}"


def _state(record: Record, *, is_bad: bool) -> RowState:
    if record.value is None:
        return RowState.DELETED
    is_bad = is_bad or record.value.startswith(POISON)
    return RowState.DEAD_LETTERED if is_bad else RowState.LIVE


def check_rows(
    stack: Deployment, latest: Mapping[str, Record], states: Mapping[str, RowState]
) -> None:
    """The index holds these records and no others, each once; what is live has its vector."""
    with stack.index() as index:
        rows = list(index.scan(with_vectors=True))
    by_id = {row.image_id: row for row in rows}
    assert len(by_id) == len(rows), "an image id has two rows"
    store = ImageStore(stack.settings().image_store_url)
    ours = {row.uri for row in rows if row.state is RowState.LIVE and store.owns(row.uri)}
    assert not (lost := ours - originals(store)), f"originals are missing: {lost}"
    expected = {
        image_id: (Version(1, record.partition, record.offset), states[image_id])
        for image_id, record in latest.items()
    }
    assert {i: (row.version, row.state) for i, row in by_id.items()} == expected
    for image_id, row in by_id.items():
        value = latest[image_id].value or b""
        if row.state is not RowState.LIVE:
            assert row.vector is None, image_id
            continue
        assert row.vector is not None, image_id
        assert abs(np.linalg.norm(row.vector) - 1) < 0.01, image_id
        if value.startswith(_JPEG):
            assert row.sha256 == hashlib.sha256(value).hexdigest(), image_id


def check_originals(stack: Deployment, *generations: str) -> None:
    """Each live row's original is there, where it lies in our store; and after a sweep no others.

    Args:
        generations: whose rows name originals; the first one's verification sweeps.
    """
    store = ImageStore(stack.settings().image_store_url)
    named = set()
    with contextlib.closing(open_catalog(stack.settings())) as catalog:
        for name in generations:
            generation = generation_to_work_for(catalog, name)
            rows = [r for r in catalog.open(generation).scan() if r.state is RowState.LIVE]
            named |= {row.uri for row in rows if store.owns(row.uri)}
    missing = {uri for uri in named if not store.holds(uri)}
    assert not missing, f"originals are missing: {missing}"
    make_old(store)
    found = json.loads(stack.run("index", "verify", generations[0], "--repair", "--json"))
    assert (found["clean"], found["notes"]) == (True, [])
    assert originals(store) == named


def originals(store: ImageStore) -> set[str]:
    """Where all originals lie."""
    return {each.uri for each in store.files() if len(each.key.partition("/")[0]) == _FOLDER}


def make_old(store: ImageStore) -> None:
    """As if all files had been put hours ago, so that none may be on its way."""
    then = time.time() - 7200
    for each in store.files():
        os.utime(urlsplit(each.uri).path, (then, then))


def _lettered(stack: Deployment) -> set[Coordinates]:
    """The source coordinates of all dead letters."""
    prefix, log = "__connect.errors.", topic(stack).encode()
    letters = [dict(record.headers) for record in read_topic(stack, topics.DEAD_LETTERS)]
    return {
        (int(letter[f"{prefix}partition"] or b""), int(letter[f"{prefix}offset"] or b""))
        for letter in letters
        if letter[f"{prefix}topic"] == log
    }
