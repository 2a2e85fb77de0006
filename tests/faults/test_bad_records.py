"""One bad record costs one record: what can't be read, fetched or foreseen, beside good neighbours.

One worker for all, in this process, so that its parts can be made to fail at a certain record.
"""

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from confluent_kafka import Producer, TopicPartition

from pixtide.encoders.open_clip.encoder import OpenClipEncoder
from pixtide.encoders.pictures.decoder_pool import DecoderPool
from pixtide.schemas import topics
from pixtide.schemas.errors import PoisonError, ReasonCode, TransientError
from pixtide.schemas.identity import original_key, partition_of
from pixtide.schemas.outcomes import Outcome, OutcomeKind
from pixtide.search.port import RowState, StoredImage, Written
from pixtide.search.weaviate.index import WeaviateIndex
from pixtide.streams.client.channel import Addresses, Replies
from pixtide.streams.ingest import record_reader, telemetry
from pixtide.streams.ingest.breaker import Breaker
from pixtide.streams.ingest.kept_originals import Originals
from pixtide.streams.ingest.reporter import MOST_KEPT, Reporter
from pixtide.streams.ingest.worker import IngestWorker
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import consumer_check
from pixtide.streams.originals.fetcher import Fetcher
from pixtide.streams.originals.store import ImageStore
from pixtide.streams.process.health import Health
from pixtide.streams.wiring.ingest import ingest_worker
from pixtide.streams.wiring.observed import Vitals
from tests.faults.oracle import outcomes_by_record, read_topic, topic
from tests.servers import KafkaServer, WeaviateServer
from tests.support.deployments import OnServers, on_servers
from tests.support.pictures import jpeg
from tests.support.raw_records import RawRecord, batch, produce

PARTITIONS = topics.topics(embedded=False)[0].partitions
UPLOADED = (
    (b"ce_specversion", b"1.0"),
    (b"ce_id", b"1"),
    (b"ce_source", b"/test"),
    (b"ce_type", b"pixtide.image.uploaded.v1"),
)
GIVE_UP_S = 2.0


class Running:
    """A deployment whose only worker runs in a thread; what was wrong with it, if it has ended."""

    def __init__(self, stack: OnServers) -> None:
        self.stack = stack
        self.health = Health({})
        self.worker: IngestWorker = ingest_worker(stack.settings(), None, Vitals(self.health))
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.worker.run()
        except BaseException as error:  # noqa: BLE001  # the tests tell it
            self.error = error

    def outcomes(self, ids: Collection[str]) -> dict[str, Outcome]:
        """The latest outcome of each of these ids, once all have one."""
        deadline = time.monotonic() + 120
        while True:
            assert self.thread.is_alive(), f"the worker has ended: {self.error!r}"
            found = {o[-1].image_id: o[-1] for o in outcomes_by_record(self.stack).values()}
            if found.keys() >= set(ids):
                return {each: found[each] for each in ids}
            assert time.monotonic() < deadline, f"no outcome: {set(ids) - found.keys()}"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, kafka: KafkaServer, weaviate: WeaviateServer
) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("bad-records")
    stack = on_servers(
        folder,
        kafka,
        weaviate,
        PIXTIDE_BREAKER_WINDOW="0",
        PIXTIDE_DECODERS="1",
        PIXTIDE_FETCH_GIVE_UP_S=str(GIVE_UP_S),
        PIXTIDE_FETCH_TIMEOUT_S=str(GIVE_UP_S),
        PIXTIDE_FILE_ROOTS=str(folder),
    )
    stack.create()
    made = Running(stack)
    yield made
    made.worker.stop()
    made.thread.join(60)
    assert made.error is None


@dataclass(frozen=True)
class Placed(RawRecord):
    """A record as bytes, and where it goes."""

    topic: str = ""
    partition: int = 0


def send(bootstrap: str, records: Sequence[Placed]) -> None:
    """Produce these as they are, each in a batch of its own."""
    for record in records:
        code, _ = produce(bootstrap, record.topic, record.partition, batch([record]))
        assert code == 0, record


def records(stack: OnServers, events: Mapping[str, Mapping[str, str] | bytes]) -> list[Placed]:
    """Upload events by id: their data, or the picture itself."""
    return [
        Placed(
            image_id.encode(),
            event if isinstance(event, bytes) else json.dumps(dict(event)).encode(),
            (*UPLOADED, (b"content-type", _type(event))),
            topic(stack),
            partition_of(image_id.encode(), PARTITIONS, "murmur2") or 0,
        )
        for image_id, event in events.items()
    ]


def _type(event: object) -> bytes:
    return b"image/jpeg" if isinstance(event, bytes) else b"application/json"


def publish(running: Running, events: Mapping[str, Mapping[str, str] | bytes]) -> None:
    stack = running.stack
    producer = kafka_clients.producer(stack.settings().kafka_connection(), linger_ms=0)
    for record in records(stack, events):
        named: Any = [(name.decode(), value) for name, value in record.headers]
        producer.produce(record.topic, record.value, record.key, record.partition, headers=named)
    assert producer.flush(30) == 0


def reasons(outcomes: dict[str, Outcome]) -> dict[str, str]:
    return {image_id: str(each.reason or each.outcome) for image_id, each in outcomes.items()}


@pytest.mark.fault("a header's name is not UTF-8")
def test_a_header_name_that_is_not_utf_8_costs_its_record(running: Running) -> None:
    stack = running.stack
    publish(running, {"named-gone": jpeg(1)})
    running.outcomes(["named-gone"])
    # many, since only code that Python has specialised meets with the worst of it
    ids = [f"named-bad-{number}" for number in range(40)]
    [first, gone, last, *bad] = records(
        stack,
        {"named-1": jpeg(2), "named-gone": b"", "named-2": jpeg(4)} | dict.fromkeys(ids, jpeg(3)),
    )
    wrong = (b"\xff\xfe", b"x")
    bad = [replace(each, headers=(*each.headers, wrong)) for each in bad]
    gone = replace(gone, value=None, headers=(wrong,))
    send(stack.settings().bootstrap(), [first, *bad, gone, last])
    found = reasons(running.outcomes(["named-1", "named-2", *ids]))
    good = {"named-1": "indexed", "named-2": "indexed"}
    assert found == good | dict.fromkeys(ids, "UNREADABLE_RECORD")
    deadline = time.monotonic() + 60
    while stack.rows()["named-gone"].state is not RowState.DELETED:
        assert time.monotonic() < deadline, "a delete needs no headers"
    letters = {r.key: r.value for r in read_topic(stack, topics.DEAD_LETTERS)}
    assert letters == {each.encode(): jpeg(3) for each in ids}
    verified = json.loads(stack.run_here("index", "verify", "v1", "--json"))
    assert verified["clean"], verified


def test_a_client_passes_over_replies_that_it_can_not_read(running: Running) -> None:
    settings = running.stack.settings()
    reply_topic = settings.named(topics.REPLIES)
    wire = Replies(
        Addresses(settings.kafka_connection(), settings.named(topics.REQUESTS), reply_topic)
    )
    where = range(topics.topics(embedded=False)[-1].partitions)  # it listens to one of these
    good = [Placed(None, b"{}", ((b"kafka_correlationId", b"1"),), reply_topic, p) for p in where]
    bad = [replace(each, headers=((b"\xff", b""), *each.headers)) for each in good]
    send(settings.bootstrap(), [*bad * 10, *good])
    deadline = time.monotonic() + 60
    heard: list[tuple[bytes, bytes]] = []
    while not heard:
        assert time.monotonic() < deadline
        heard += wire.heard(0.1)
    assert heard == [(b"1", b"{}")]
    wire.close()


@pytest.mark.fault("a URI that nothing can be at")
def test_an_address_that_nothing_can_be_at_is_poison(running: Running) -> None:
    """More of each kind than there are threads, and a good one behind them."""
    stack = running.stack
    store, root = stack.settings().image_store_url, stack.folder.as_uri()
    (stack.folder / "loop").symlink_to(stack.folder / "loop")
    (stack.folder / "file").write_bytes(jpeg(5))
    paths = ["x/./y.jpg", "x//y.jpg", "", "/", ".", "a\0b", "a\nb", "a" * 300, "a/" * 3000 + "x"]
    paths += ["x/../y", "../../x", "%2e%2e/x", "a\\b", "a#1", "a%23", "in/", "\x7f", "a?b", "%ff"]
    paths += ["a" * 200 + "/" + "b" * 300, "file/x", "loop", "loop/x", "café.jpg"]
    urls = ["http://", "http:///x", "http://a..b/", f"http://{'a' * 64}.example/", "http://a b/"]
    urls += ["http://[::1/", "http://999.1.1.1/", "http://1.2.3.4.5/", "http://a:99999/"]
    urls += [f"http://{'a.' * 127}example/", "s3://", "gs:///x", f"az://b/{'k' * 1025}", "ftp://x/"]
    urls += ["http://x/\0", "https://u@x/", "s3://b/x/../y", "file://", "file:", "no scheme", ":"]
    uris = [f"{base}/{path}" for base in (store, root) for path in paths] + urls
    events: Mapping[str, Mapping[str, str] | bytes] = {
        f"address-{n}": {"uri": uri} for n, uri in enumerate(uris)
    }
    publish(running, events)
    publish(running, {"address-good": jpeg(6)})
    found = reasons(running.outcomes([*events, "address-good"]))
    assert found.pop("address-good") == "indexed"
    codes = {uris[int(name.removeprefix("address-"))]: code for name, code in found.items()}
    allowed = {"PATH_NOT_ALLOWED", "INVALID_URL", "SOURCE_GONE", "SCHEME_NOT_ALLOWED"}
    allowed |= {"BUCKET_NOT_ALLOWED"}
    assert not {uri: code for uri, code in codes.items() if code not in allowed}
    assert running.health.problems == {}


@pytest.mark.fault("a file or an original can't be read, for long")
def test_what_can_not_be_read_for_long_is_given_up_and_holds_up_nobody(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our store answers, but for certain originals; a whole store that is away is waited for."""
    stack = running.stack
    store = ImageStore(stack.settings().image_store_url)
    stuck = [f"stuck-{number}" for number in range(20)]
    keys = {each: original_key(each, "0" * 64, "jpg") for each in stuck}
    uris = {
        each: {"uri": f"{stack.settings().image_store_url}/{key}"} for each, key in keys.items()
    }
    get, answers = ImageStore.get, ImageStore.answers
    away, healed = threading.Event(), threading.Event()

    def failing_get(self: ImageStore, uri: str, max_bytes: int) -> bytes | None:
        if "0" * 64 in uri and not healed.is_set():
            raise TransientError("the image store: an error (simulated)")
        return get(self, uri, max_bytes)

    def answers_or_not(self: ImageStore) -> bool:
        return not away.is_set() and answers(self)

    monkeypatch.setattr(ImageStore, "get", failing_get)
    monkeypatch.setattr(ImageStore, "answers", answers_or_not)
    publish(running, dict(uris))
    publish(running, {"beside-inline": jpeg(7)})
    publish(running, {"beside-stored": {"uri": store.put("beside-stored", jpeg(8), "jpg")}})
    beside = running.outcomes(["beside-inline", "beside-stored"])
    assert reasons(beside) == {"beside-inline": "indexed", "beside-stored": "indexed"}
    assert set(reasons(running.outcomes(stuck)).values()) == {"SOURCE_UNAVAILABLE"}

    away.set()
    publish(running, {"waits": {"uri": f"{stack.settings().image_store_url}/{keys['stuck-0']}"}})
    time.sleep(2 * GIVE_UP_S)  # longer than one that is to blame gets
    told = {o[-1].image_id for o in outcomes_by_record(stack).values()}
    assert "waits" not in told
    assert "fetch" in running.health.problems
    healed.set()
    away.clear()
    assert running.outcomes(["waits"])["waits"].outcome is OutcomeKind.SUPERSEDED


@pytest.mark.fault("hundreds of records of one key wait")
def test_of_many_records_of_one_key_only_the_newest_that_waits_is_worked_on(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the last gets no row: then the one before it counts, as if it had been alone."""
    stack, count = running.stack, 120
    number = partition_of(b"many", PARTITIONS, "murmur2") or 0
    before = [r.offset for r in read_topic(stack, topics.UPLOADED) if r.partition == number]
    offsets = range(max(before, default=-1) + 1, max(before, default=-1) + 1 + count)
    rows: list[StoredImage] = []
    write = WeaviateIndex.write

    def is_last(row: StoredImage) -> bool:
        return row.image_id == "many" and row.version.offset == offsets[-1]

    def refuse(self: WeaviateIndex, batch: list[StoredImage]) -> list[Written]:
        rows.extend(row for row in batch if row.image_id == "many")
        taken = iter(write(self, [row for row in batch if not is_last(row)]))
        refused = Written(applied=False, error="invalid property (simulated)")
        return [refused if is_last(row) else next(taken) for row in batch]

    monkeypatch.setattr(WeaviateIndex, "write", refuse)
    _publish_of_one_key(running, "many", [jpeg(400 + n) for n in range(count)])
    deadline = time.monotonic() + 120
    while len(told := _told(stack, number, offsets)) < count:
        assert running.thread.is_alive() and time.monotonic() < deadline, len(told)
        time.sleep(0.2)
    assert told[offsets[-1]] == "dead_lettered"
    assert told[offsets[-2]] in ("indexed", "replaced")
    assert stack.rows()["many"].version.offset == offsets[-2]
    assert Counter(told.values())["superseded"] > count / 2
    assert set(told.values()) <= {"superseded", "indexed", "replaced", "dead_lettered"}
    assert len(rows) < count / 2, "each would have had its own round"


def test_originals_of_records_that_were_passed_over_are_erased(running: Running) -> None:
    stack = running.stack
    store = ImageStore(stack.settings().image_store_url)
    uris = [store.put("passed", jpeg(600 + n), "jpg") for n in range(30)]
    _publish_of_one_key(running, "passed", [{"uri": uri} for uri in uris])
    deadline = time.monotonic() + 120
    folder = urlsplit(uris[0]).path.rsplit("/", 2)[1]
    while {each.uri for each in store.files(folder)} != {uris[-1]}:
        assert running.thread.is_alive() and time.monotonic() < deadline
        time.sleep(0.2)


def _publish_of_one_key(
    running: Running, image_id: str, events: Sequence[Mapping[str, str] | bytes]
) -> None:
    """All at once."""
    connection = running.stack.settings().kafka_connection()
    producer = kafka_clients.producer(connection, linger_ms=500)
    for event in events:
        [record] = records(running.stack, {image_id: event})
        named: Any = [(name.decode(), value) for name, value in record.headers]
        producer.produce(record.topic, record.value, record.key, record.partition, headers=named)
    assert producer.flush(30) == 0


def _told(stack: OnServers, partition: int, offsets: Collection[int]) -> dict[int, str]:
    found = outcomes_by_record(stack)
    return {n: str(found[partition, n][0].outcome) for n in offsets if (partition, n) in found}


@pytest.mark.fault("nothing but pictures that crash decoders, or that no decoder takes")
def test_what_publishers_can_do_neither_ends_nor_stops_a_worker(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    breaker = Breaker(20, running.worker._check_parts)
    monkeypatch.setattr(running.worker, "_breaker", breaker)
    decode = DecoderPool.decode

    def crash(self: DecoderPool, data: bytes, *arguments: Any) -> Any:
        if data.startswith(b"crash"):
            raise PoisonError(ReasonCode.DECODER_CRASHED, "simulated")
        return decode(self, data, *arguments)

    monkeypatch.setattr(DecoderPool, "decode", crash)
    bad = {f"crash-{n}": b"crash %d" % n for n in range(50)}
    worse = {f"nothing-{n}": b"nothing %d" % n for n in range(50)}
    publish(running, bad | worse)
    publish(running, {"crash-beside": jpeg(70)})
    found = reasons(running.outcomes([*bad, *worse, "crash-beside"]))
    assert found.pop("crash-beside") == "indexed"
    assert Counter(found.values()) == {"DECODER_CRASHED": 50, "UNIDENTIFIED_FORMAT": 50}
    assert "the decoder and the model do well" in caplog.text
    deadline = time.monotonic() + 60
    while running.health.problems:
        assert time.monotonic() < deadline, running.health.problems


@pytest.mark.fault("one record, or one partition, is stuck beside busy ones")
def test_a_stuck_partition_beside_busy_ones_is_told_by_name(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "_TOLD_S", 1.0)
    monkeypatch.setattr(consumer_check, "_COME_S", 1.0)
    going_on = threading.Event()
    keep = Originals.keep

    def keep_or_hang(self: Originals, upload: Any, *arguments: Any) -> str:
        if upload.image_id == "hangs":
            going_on.wait(120)
        return keep(self, upload, *arguments)

    monkeypatch.setattr(Originals, "keep", keep_or_hang)
    number = partition_of(b"hangs", PARTITIONS, "murmur2") or 0
    others = (f"beside-{n}" for n in itertools.count())
    others = (o for o in others if partition_of(o.encode(), PARTITIONS, "murmur2") != number)
    publish(running, {"hangs": jpeg(80)})
    told = _problem_beside(running, others, "partitions")
    assert f"partition {number} is stuck at offset" in told
    going_on.set()
    running.outcomes(["hangs"])

    consumer = running.worker._assignment._consumer
    place = TopicPartition(topic(running.stack), number)
    consumer.pause([place])  # as one of which librdkafka delivers nothing any more
    publish(running, {"hangs": jpeg(81)})
    told = _problem_beside(running, others, "log")
    assert f"records of partition {number} do not come" in told
    consumer.resume([place])
    deadline = time.monotonic() + 60
    while running.health.problems:
        assert time.monotonic() < deadline, running.health.problems
        running.health.ask_checks()
        time.sleep(0.5)


def _problem_beside(running: Running, others: Iterator[str], part: str) -> str:
    """What the worker says of that part, while others' records go on."""
    deadline = time.monotonic() + 120
    while part not in running.health.problems:
        assert time.monotonic() < deadline and running.thread.is_alive()
        other = next(others)
        publish(running, {other: jpeg(82)})
        assert running.outcomes([other])
        running.health.ask_checks()
    return running.health.problems[part]


class PanicException(BaseException):
    """As a library in Rust raises it: no `Exception`."""


class _Sabotage:
    """Makes a method raise for calls that are about a certain record."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(
        self, owner: Any, name: str, is_meant: Callable[..., bool], error: BaseException
    ) -> None:
        original = getattr(owner, name)

        def failing(*arguments: Any, **named: Any) -> Any:
            if is_meant(*arguments):
                raise error
            return original(*arguments, **named)

        self._monkeypatch.setattr(owner, name, failing)


@pytest.mark.fault("a step raises what nobody expects")
def test_what_nobody_expects_costs_its_record_at_every_step(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sabotage = _Sabotage(monkeypatch)
    pictures = {
        f"{step}-{kind}": jpeg(100 + number)
        for number, (step, kind) in enumerate(
            (step, kind)
            for step in ("read", "fetch", "look", "decode", "store", "encode", "write", "report")
            for kind in ("bad", "good", "better")
        )
    }
    sabotage(record_reader, "event_of", lambda r, _: r.key == b"read-bad", RuntimeError("at read"))
    sabotage(
        Fetcher, "attempt", lambda _, p, *__: p.data == pictures["fetch-bad"], KeyError("at fetch")
    )
    sabotage(WeaviateIndex, "get", lambda _, ids: "look-bad" in ids, TypeError("at look up"))
    sabotage(
        DecoderPool, "decode", lambda _, d, *__: d == pictures["decode-bad"], EOFError("at decode")
    )
    sabotage(
        Originals, "keep", lambda _, u, *__: u.image_id == "store-bad", PanicException("at store")
    )
    decode = DecoderPool.decode
    unlucky: list[bytes] = []

    def decode_and_note(self: DecoderPool, data: bytes, *arguments: Any) -> Any:
        seen = decode(self, data, *arguments)
        if data == pictures["encode-bad"]:
            unlucky.append(seen.pixels.tobytes())
        return seen

    monkeypatch.setattr(DecoderPool, "decode", decode_and_note)
    sabotage(
        OpenClipEncoder,
        "encode_pictures",
        lambda _, pixels: any(each.tobytes() in unlucky for each in pixels),
        IndexError("at encode"),
    )
    live = RowState.LIVE
    sabotage(
        WeaviateIndex,
        "write",
        lambda _, rows: any(r.image_id == "write-bad" and r.state is live for r in rows),
        ValueError("at write"),
    )
    sabotage(
        Reporter,
        "outcome",
        lambda _, w, kind: w.image_id == "report-bad" and kind is OutcomeKind.INDEXED,
        UnicodeError("at report"),
    )
    publish(running, dict(pictures))
    found = running.outcomes(pictures)
    good = {name for name in pictures if not name.endswith("bad")}
    assert {name for name, each in found.items() if each.outcome is OutcomeKind.INDEXED} == good
    messages = {name: each.message or "" for name, each in found.items() if name not in good}
    assert {name: each.partition(":")[0] for name, each in messages.items()} == {
        "read-bad": "RuntimeError",
        "fetch-bad": "KeyError",
        "look-bad": "TypeError",
        "decode-bad": "EOFError",
        "store-bad": "PanicException",
        "encode-bad": "IndexError",
        "write-bad": "ValueError",
        "report-bad": "UnicodeError",
    }
    codes = {name: str(found[name].reason) for name in messages}
    assert codes.pop("write-bad") == "REJECTED_BY_INDEX"
    assert set(codes.values()) == {"UNEXPECTED"}
    lettered = {r.key for r in read_topic(running.stack, topics.DEAD_LETTERS)}
    assert lettered >= {name.encode() for name in messages}
    rows = running.stack.rows()
    assert {rows[name].state for name in messages if name != "report-bad"} == {
        RowState.DEAD_LETTERED
    }
    assert "Traceback" in caplog.text


@pytest.mark.fault("a record that was compressed is larger than its dead letter may be")
def test_a_record_larger_than_a_topic_takes_uncompressed_costs_itself(running: Running) -> None:
    """A topic's limit is that of compressed batches; a dead letter has another."""
    connection = running.stack.settings().kafka_connection()
    producer = Producer(
        {**connection.librdkafka(), "compression.type": "zstd", "message.max.bytes": 2**26}
    )
    large, uploaded = bytes(3 * 2**20), topic(running.stack)
    [record] = records(running.stack, {"inflated-value": large})
    named: Any = [(name.decode(), value) for name, value in record.headers]
    producer.produce(uploaded, large, record.key, record.partition, headers=named)
    swollen: Any = [("large", large)]
    beyond = records(running.stack, {"inflated-beyond": bytes(MOST_KEPT + 1)})[0]
    producer.produce(uploaded, beyond.value, beyond.key, beyond.partition, headers=named)
    headed = b"inflated-headers"
    producer.produce(uploaded, b"x", headed, headers=swollen)
    producer.produce(uploaded, b"x", b"k" * 3 * 2**20, 0, headers=named)
    assert producer.flush(30) == 0
    publish(running, {"inflated-neighbour": jpeg(60)})
    found = running.outcomes(
        ["inflated-value", "inflated-beyond", "inflated-headers", "inflated-neighbour", "k" * 512]
    )
    told = reasons(found)
    assert told.pop("inflated-neighbour") == "indexed"
    assert set(told.values()) <= {"UNIDENTIFIED_FORMAT", "INVALID_CLOUDEVENT", "WRONG_PARTITION"}
    letters = {r.key: r for r in read_topic(running.stack, topics.DEAD_LETTERS)}
    assert {b"inflated-value", b"inflated-beyond", headed, b"k" * 512} <= letters.keys()
    assert "pixtide-value-uri" in dict(letters[b"inflated-value"].headers)
    unkept = dict(letters[b"inflated-beyond"].headers)
    assert "pixtide-value-missing" in unkept and "pixtide-value-uri" not in unkept
    assert "pixtide-reason" in dict(letters[headed].headers)


@pytest.mark.fault("the index refuses a row, and then the one that says so")
def test_a_row_that_the_index_refuses_twice_is_a_dead_letter(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = WeaviateIndex.write

    def refuse(self: WeaviateIndex, rows: list[StoredImage]) -> list[Written]:
        taken = iter(write(self, [row for row in rows if row.image_id != "refused"]))
        refused = Written(applied=False, error="invalid property (simulated)")
        return [refused if row.image_id == "refused" else next(taken) for row in rows]

    monkeypatch.setattr(WeaviateIndex, "write", refuse)
    publish(running, {"refused": jpeg(50), "taken": jpeg(51)})
    found = running.outcomes(["refused", "taken"])
    assert reasons(found) == {"refused": "REJECTED_BY_INDEX", "taken": "indexed"}
    [letter] = [r for r in read_topic(running.stack, topics.DEAD_LETTERS) if r.key == b"refused"]
    assert letter.value == jpeg(50)
