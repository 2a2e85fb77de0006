"""A worker's memory stays under its configured bound, whatever the pictures."""

import contextlib
import io
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from pixtide.schemas.codec import encode_event
from pixtide.schemas.events import PictureAt
from pixtide.streams.kafka import clients as kafka_clients
from tests.faults.oracle import topic
from tests.faults.test_ingest_faults import outcomes, upload, wait_until_read
from tests.servers import KafkaServer, WeaviateServer
from tests.support.deployments import OnServers, on_servers
from tests.support.pictures import jpeg

MiB = 2**20
IN_FLIGHT = 64 * MiB
MAX_PIXELS = 89_000_000
#: Bytes that decoding takes for each pixel that it has reserved.
PER_PIXEL = 8
#: What allocators keep, buffers of Kafka's client, and pictures on their way through a pipe.
SLACK = 250 * MiB
LARGE = 50


@pytest.mark.fault("pictures larger than the memory")
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fifty_pictures_of_80_megapixels(
    tmp_path: Path, kafka: KafkaServer, weaviate: WeaviateServer
) -> None:
    stack = on_servers(
        tmp_path,
        kafka,
        weaviate,
        real_model=False,
        PIXTIDE_FILE_ROOTS=str(tmp_path / "pictures"),
        PIXTIDE_IN_FLIGHT_BYTES=str(IN_FLIGHT),
        PIXTIDE_MAX_PICTURE_BYTES=str(16 * MiB),
        PIXTIDE_MAX_PIXELS=str(MAX_PIXELS),
        PIXTIDE_DECODERS="4",
        PIXTIDE_DECODE_TIMEOUT_S="120",
    )
    stack.run("topics", "create")
    stack.run("index", "create", "v1")
    try:
        stack.start_process("ingest")
        pid = stack.processes["ingest"].pid
        at_rest = memory_of(pid)
        publish_files(stack, tmp_path / "pictures")
        with peak_of(pid) as peak:
            wait_until_read(stack, seconds=500)
        assert Counter(o.outcome for o in outcomes(stack).values()) == {"indexed": LARGE * 5}
        bound = IN_FLIGHT + PER_PIXEL * MAX_PIXELS + SLACK
        used = max(peak) - at_rest
        assert used < bound, f"{used // MiB} MiB; the bound is {bound // MiB} MiB"
        assert used > 80_000_000 * 3, "a picture of 80 megapixels was never in memory"
        stack.stop_process("ingest")
    finally:
        for name in list(stack.processes):
            stack.kill(name)


def publish_files(stack: OnServers, folder: Path) -> None:
    """Large ones, each with four small ones around it."""
    folder.mkdir()
    out = io.BytesIO()
    Image.new("L", (10_000, 8_000), 99).save(out, "PNG")  # a JPEG would be decoded to a fraction
    producer = kafka_clients.producer(stack.settings().kafka_connection(), linger_ms=5)
    for n in range(LARGE * 5):
        file = folder / f"{n}.{'jpg' if n % 5 else 'png'}"
        # bytes after the picture's end make another file of it, and no other picture
        file.write_bytes(jpeg(n) if n % 5 else out.getvalue() + bytes([n]))
        at = PictureAt(uri=file.as_uri())
        event = upload(file.name, b"").model_copy(update={"picture": at})
        key, value, headers = encode_event(event)
        producer.produce(topic(stack), value, key, headers=list(headers))
    assert producer.flush(30) == 0


@contextlib.contextmanager
def peak_of(pid: int) -> Iterator[list[int]]:
    """The greatest memory of a process and its children, looked at 20 times a second."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            peak[0] = max(peak[0], memory_of(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def memory_of(pid: int) -> int:
    """The resident bytes of a process and its children, now."""
    children: list[str] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():  # a child is that of a thread
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            children += (thread / "children").read_text().split()
    return _resident(pid) + sum(_resident(int(child)) for child in children)


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    except (FileNotFoundError, ProcessLookupError):
        return 0
