"""What `pixtide doctor` looks at: one function for each likely mistake."""

import asyncio
import contextlib
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from confluent_kafka.admin import AdminClient

from pixtide.schemas import topics
from pixtide.schemas.errors import TransientError, UsageError
from pixtide.search.generations import Generation
from pixtide.search.port import GenerationCatalog
from pixtide.streams.ingest.commit_metadata import moved_since
from pixtide.streams.kafka import aiokafka
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import errors as kafka_errors
from pixtide.streams.kafka import groups as kafka_groups
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.originals.store import ImageStore
from pixtide.streams.settings import Settings
from pixtide.streams.wiring.adapters import load_encoder, open_catalog
from pixtide.streams.wiring.generations import check_fingerprint

if TYPE_CHECKING:
    from pixtide.encoders.port import Encoder

_DIAL_S = 3.0
_ASK_S = 3.0
_LEAST_FREE = 2**30
#: Clocks that differ by more make deadlines pass too early, or too late.
_CLOCKS_S = 5.0


class Seen(StrEnum):
    """What a look came to."""

    WELL = "well"
    BAD = "bad"
    UNSEEN = "unseen"


@dataclass(frozen=True)
class Finding:
    """What one look found. `mend` says what to do where it isn't well."""

    seen: Seen
    said: str
    mend: str = ""

    def told(self) -> dict[str, str]:
        """As JSON has it."""
        return {"seen": self.seen.value, "said": self.said, "mend": self.mend}


class Broker(NamedTuple):
    """A broker where it says that it is to be reached."""

    id: int
    host: str
    port: int


async def _advertised(connection: KafkaConnection) -> list[Broker]:
    """What the first bootstrap address that answers says.

    Raises:
        KafkaError: aiokafka's: none answers.
        ModuleNotFoundError: aiokafka is not installed.
    """
    from aiokafka.client import AIOKafkaClient

    client = AIOKafkaClient(request_timeout_ms=int(_ASK_S * 1000), **aiokafka.arguments(connection))
    try:
        await client.bootstrap()
        return [Broker(b.nodeId, b.host, b.port) for b in client.cluster.brokers()]
    finally:
        await client.close()


def _well(said: str) -> Finding:
    return Finding(Seen.WELL, said)


class Patient:
    """What is looked at, opened when first needed."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._opened = contextlib.ExitStack()

    @cached_property
    def admin(self) -> AdminClient:
        """Raises UsageError where no address is set."""
        return kafka_clients.admin(self.settings.kafka_connection())

    @cached_property
    def brokers(self) -> list["Broker"]:
        """Each as it advertises itself. Raises TransientError where none answers.

        librdkafka explains best what is wrong, but once it has heard of an advertised address
        it may ask there, in vain, what only the bootstrap address answers.
        """
        connection = self.settings.kafka_connection()
        asking = kafka_clients.admin(connection)
        try:
            with kafka_errors.translated(asking):
                known = asking.list_topics(timeout=_ASK_S).brokers.values()
        except TransientError:
            with contextlib.suppress(ModuleNotFoundError):  # without pixtide[worker]
                from aiokafka.errors import KafkaError

                with contextlib.suppress(KafkaError):
                    return asyncio.run(_advertised(connection))
            raise
        return [Broker(broker.id, str(broker.host), int(broker.port)) for broker in known]

    @cached_property
    def catalog(self) -> GenerationCatalog:
        """Raises UsageError where there is none."""
        home = self.settings.home
        if self.settings.embedded_index and not home.exists():
            raise UsageError(f"nothing has been indexed here: there is no {home}")
        return self._opened.enter_context(contextlib.closing(open_catalog(self.settings)))

    @cached_property
    def live(self) -> Generation:
        """The live generation. Raises UsageError where none is."""
        if (live := self.catalog.live()) is None:
            raise UsageError("no generation is live")
        return live

    @cached_property
    def encoder(self) -> "Encoder":
        """The live generation's. Raises UsageError where it can't be loaded."""
        return load_encoder(self.settings, self.live.model)

    def close(self) -> None:
        """Let connections go."""
        self._opened.close()


@dataclass(frozen=True)
class Look:
    """One look, the mend where it raises, and the looks that must have gone well before."""

    what: str
    at: Callable[[Patient], Finding]
    mend: str
    needs: tuple[str, ...] = ()


def _broker(patient: Patient) -> Finding:
    return _well(f"{len(patient.brokers)} broker(s) at {patient.settings.kafka}")


def _listener(patient: Patient) -> Finding:
    """Clients ask the bootstrap address once, and then dial what each broker advertises."""
    for broker in patient.brokers:
        try:
            socket.create_connection((broker.host, broker.port), _DIAL_S).close()
        except OSError as error:
            return Finding(
                Seen.BAD,
                f"{patient.settings.kafka} answers, but says that broker {broker.id} is to be "
                f"reached at {broker.host}:{broker.port}, where nobody answers: {error}",
                "set advertised.listeners of that broker to an address that this machine reaches, "
                "or PIXTIDE_KAFKA to a listener meant for this network",
            )
    return _well(", ".join(f"{broker.host}:{broker.port}" for broker in patient.brokers))


def _topics(patient: Patient) -> Finding:
    return _compare(patient, "cleanup.policy", lambda has, wants: has == wants)


def _message_size(patient: Patient) -> Finding:
    return _compare(patient, "max.message.bytes", lambda has, wants: int(has) >= int(wants))


def _compare(patient: Patient, key: str, fits: Callable[[str, str], bool]) -> Finding:
    settings = patient.settings
    for topic in topics.topics(embedded=settings.embedded_log):
        name, wants = settings.named(topic.name), topic.config()[key]
        kafka_topics.partitions_of(patient.admin, name)
        has = kafka_topics.topic_config(patient.admin, name).get(key, "")
        if not fits(has, wants):
            return Finding(
                Seen.BAD,
                f"{name} has {key}={has}, not {wants}",
                f"kafka-configs.sh --bootstrap-server {settings.kafka} --alter --entity-type "
                f"topics --entity-name {name} --add-config {key}={wants}",
            )
    return _well(f"{key} of each is as it should be")


def _clock(patient: Patient) -> Finding:
    """Whoever stamps a record with a time to come has another clock than this machine."""
    settings = patient.settings
    for topic in (topics.UPLOADED, topics.REQUESTS):
        newest_ms = kafka_offsets.newest_timestamp(patient.admin, settings.named(topic))
        ahead_s = newest_ms / 1000 - time.time()
        if ahead_s > _CLOCKS_S:
            return Finding(
                Seen.BAD,
                f"a record of {settings.named(topic)} is of {ahead_s:.0f} s from now: its "
                "producer's clock and this machine's differ",
                "run NTP (chrony, systemd-timesyncd) on both; search deadlines are times of day",
            )
    return _well("no record is stamped with a time to come")


def _index(patient: Patient) -> Finding:
    kind = "LanceDB" if patient.settings.embedded_index else "Weaviate"
    if closed := patient.catalog.read_only():
        return Finding(
            Seen.BAD,
            f"{kind} takes no writes in {', '.join(closed)}: its disk was nearly full",
            "free some space or enlarge its disk, then run: pixtide index writable",
        )
    return _well(f"{kind}; generation {patient.live.name} is live")


def _model(patient: Patient) -> Finding:
    live, settings = patient.live, patient.settings
    said = f"{live.model}, {patient.encoder.dimension} dimensions"
    if settings.model != live.model and "model" in settings.model_fields_set:
        said += (
            f", since generation {live.name} was made with it; not PIXTIDE_MODEL={settings.model}"
        )
    return _well(f"{said}; to change it: pixtide reindex --model MODEL")


def _fingerprint(patient: Patient) -> Finding:
    check_fingerprint(patient.encoder, patient.live)
    return _well(f"{patient.live.fingerprint[:16]}…, as generation {patient.live.name}'s")


def _workers(patient: Patient) -> Finding:
    live, settings = patient.live, patient.settings
    starts = {live.group: f"ingest --generation {live.name}", settings.named("query"): "query"}
    peopled = kafka_groups.groups_with_members(patient.admin)
    for group, command in starts.items():
        if group not in peopled:
            return Finding(Seen.BAD, f"group {group} has no members", f"start `pixtide {command}`")
    return _well("there are members in " + " and ".join(starts))


def _positions(patient: Patient) -> Finding:
    """A group that has lost its position, or was moved, does other than its index needs."""
    live, connection = patient.live, patient.settings.kafka_connection()
    topic, numbers = live.log.topic, range(live.log.partitions)
    stands = kafka_offsets.positions(connection, live.group, topic, numbers)
    first, ends = (
        ask(patient.admin, topic, numbers) for ask in (kafka_offsets.beginnings, kafka_offsets.ends)
    )
    verify = f"pixtide index verify {live.name} --repair"
    if expired := [number for number in numbers if number not in stands]:
        return Finding(
            Seen.BAD,
            f"group {live.group} has no position in partitions {expired}: they expired, as after a "
            "week without a worker, or were deleted",
            f"start `pixtide ingest --generation {live.name}`: it reads the log again from its "
            f"beginning, which changes no row that is right; then `{verify}`",
        )
    if beyond := [number for number, at in stands.items() if at.offset > ends[number]]:
        return Finding(
            Seen.BAD,
            f"partitions {beyond} of {topic} end before what was read of them: the log was cut "
            "short",
            f"build a new index from what is left: pixtide reindex --model {live.model}",
        )
    if moved := moved_since(stands, first, live.verified_at):
        return Finding(
            Seen.BAD,
            f"positions of partitions {moved} were moved by hand, or committed by an older "
            "version, and no verification has been clean since: events may have been passed",
            verify,
        )
    return _well(f"group {live.group} stands where its workers have read to")


def _store(patient: Patient) -> Finding:
    url = patient.settings.image_store_url
    ImageStore(url).put_raw("doctor", b"written by pixtide doctor")
    return _well(f"{url} can be written to")


def _disk(patient: Patient) -> Finding:
    home = patient.settings.home
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    said = f"{free / 2**30:.1f} GiB free at {home}"
    if free < _LEAST_FREE:
        return Finding(Seen.BAD, said, "free some space, or move PIXTIDE_HOME")
    return _well(said)


LOOKS = (
    Look(
        "broker",
        _broker,
        "start one (`pixtide up`), or set PIXTIDE_KAFKA to where one listens",
    ),
    Look("listener", _listener, "see whether the broker is well", ("broker",)),
    Look("topics", _topics, "pixtide topics create", ("broker", "listener")),
    Look("message size", _message_size, "pixtide topics create", ("topics",)),
    Look("clock", _clock, "pixtide topics create", ("topics",)),
    Look(
        "index",
        _index,
        "where there is none yet, `pixtide up` or `pixtide index create v1`; of Weaviate check "
        "PIXTIDE_WEAVIATE_URL, _API_KEY and _CA_FILE, and upgrade a server that is too old",
    ),
    Look(
        "model",
        _model,
        "install what it needs or bring its files back; or change the model: pixtide reindex "
        "--model MODEL",
        ("index",),
    ),
    Look(
        "fingerprint",
        _fingerprint,
        "bring the model's files back that the generation was made with, or make the index anew "
        "with those that are there now: pixtide reindex --model MODEL",
        ("model",),
    ),
    Look("positions", _positions, "see whether the broker is well", ("topics", "index")),
    Look("workers", _workers, "see whether the broker is well", ("topics", "index")),
    Look("image store", _store, "check PIXTIDE_IMAGE_STORE and its credentials", ("broker",)),
    Look("disk", _disk, "free some space, or move PIXTIDE_HOME"),
)
