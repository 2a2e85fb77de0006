"""`pixtide doctor`: looks for the likeliest mistakes and names the mend of each."""

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass

from schemas import topics
from schemas.errors import PixtideError, UsageError
from search.generations import Generation
from streams import console, kafka
from streams.image_store import ImageStore
from streams.settings import Settings
from streams.wiring import check_fingerprint, load_encoder, open_catalog

_LEAST_FREE = 2**30


@dataclass(frozen=True)
class Finding:
    """What one look found. `mend` says what to do where it isn't well."""

    what: str
    well: bool
    said: str
    mend: str = ""


def examine(settings: Settings, *, as_json: bool) -> bool:
    """Look at everything, print what was found; true if all is well."""
    looks: tuple[tuple[str, Callable[[Settings], Finding]], ...] = (
        ("broker", _broker),
        ("topics", _topics),
        ("index", _index),
        ("model", _model),
        ("image store", _store),
        ("disk", _disk),
    )
    well = True
    for what, look in looks:
        try:
            finding = look(settings)
        except PixtideError as error:
            finding = Finding(what, False, str(error), _MENDS[what])
        well = well and finding.well
        if as_json:
            console.line(json.dumps(vars(finding)))
        else:
            console.say(f"{'ok  ' if finding.well else 'BAD '} {what}: {finding.said}")
            if not finding.well:
                console.say(f"     → {finding.mend}")
    return well


_MENDS = {
    "broker": "start one (`pixtide up`), or set PIXTIDE_KAFKA to an address it advertises",
    "topics": "run `pixtide topics create`",
    "index": "check PIXTIDE_WEAVIATE_URL and PIXTIDE_WEAVIATE_GRPC_PORT, then "
    "`pixtide index create v1`",
    "model": "set PIXTIDE_MODEL to a model that can be loaded here, or install its extra",
    "image store": "check PIXTIDE_IMAGE_STORE and its credentials",
    "disk": "free some space, or move PIXTIDE_HOME",
}


def _broker(settings: Settings) -> Finding:
    client = kafka.admin(settings.kafka_connection())
    with kafka.translated(client):
        found = client.list_topics(timeout=5)
    said = f"{len(found.brokers)} broker(s) at {settings.kafka}"
    return Finding("broker", True, said)


def _topics(settings: Settings) -> Finding:
    client = kafka.admin(settings.kafka_connection())
    for topic in topics.topics(embedded=settings.embedded_log):
        name = settings.named(topic.name)
        kafka.partitions_of(client, name)
        config = kafka.topic_config(client, name)
        for key in ("cleanup.policy", "max.message.bytes"):
            if config.get(key) != topic.config()[key]:
                wanted = topic.config()[key]
                return Finding(
                    "topics",
                    False,
                    f"{name} has {key}={config.get(key)}, not {wanted}",
                    f"kafka-configs.sh --alter --entity-type topics --entity-name {name} "
                    f"--add-config {key}={wanted}",
                )
    return Finding("topics", True, "all there, as they should be")


def _index(settings: Settings) -> Finding:
    live = _live(settings)
    kind = "LanceDB" if settings.embedded_index else "Weaviate"
    return Finding("index", True, f"{kind}; generation {live.name} is live")


def _model(settings: Settings) -> Finding:
    live = _live(settings)
    check_fingerprint(load_encoder(settings, live.model), live)
    said = f"{live.model}, {live.dimension} dimensions; another one: `pixtide index create v2 "
    return Finding("model", True, said + "--model …`")


def _store(settings: Settings) -> Finding:
    store = ImageStore(settings.image_store_url)
    store.put_raw("doctor", b"written by pixtide doctor")
    return Finding("image store", True, f"{settings.image_store_url} can be written to")


def _disk(settings: Settings) -> Finding:
    settings.home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.home).free
    said = f"{free / 2**30:.1f} GiB free at {settings.home}"
    return Finding("disk", free > _LEAST_FREE, said, _MENDS["disk"])


def _live(settings: Settings) -> Generation:
    with contextlib.closing(open_catalog(settings)) as catalog:
        live = catalog.live()
    if live is None:
        raise UsageError("no generation is live")
    return live
