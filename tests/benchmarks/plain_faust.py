"""The search service as it is usually written: a faust agent that serves one request at a time.

Beside it an agent that searches for nothing: it shows what the way through Kafka takes.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import faust

from pixtide.search.answering.query_vectors import TextEncoder
from pixtide.search.port import Query
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.query.faust_app import rest_between_fetches
from pixtide.streams.settings import load_settings
from pixtide.streams.wiring.adapters import load_encoder, open_catalog
from pixtide.streams.wiring.generations import generation_to_work_for

#: Requests of its own, so that it and pixtide can serve beside the same broker.
TOPIC = "search.requests.plain"
#: Requests that are sent back as they are.
ECHO = "search.requests.echo"


def serve(ready: Path) -> None:
    """Answer until killed; touch the file when ready."""
    settings = load_settings()
    catalog = open_catalog(settings)
    generation = generation_to_work_for(catalog, None)
    encoder: TextEncoder = load_encoder(settings, generation.model)
    index = catalog.open(generation)
    app: Any = faust.App(
        "plain-faust",
        broker=f"kafka://{settings.bootstrap()}",
        store="memory://",
        datadir=str(ready.parent),
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="latest",
        value_serializer="raw",
    )
    requests = app.topic(TOPIC, value_type=bytes)

    @app.agent(requests)  # type: ignore[untyped-decorator]
    async def search(stream: Any) -> None:
        async for event in stream.events():
            headers = dict(event.message.headers)
            text = json.loads(event.message.value)["text"]
            [vector] = encoder.encode_texts([text])
            [hits] = index.search([Query(vector, 10)])
            reply = [{"image_id": h.row.image_id, "similarity": h.similarity} for h in hits]
            await app.topic(headers["kafka_replyTopic"].decode()).send(
                value=json.dumps({"results": reply}).encode(),
                partition=int(headers["kafka_replyPartition"]),
                headers={"kafka_correlationId": headers["kafka_correlationId"]},
            )

    echoing = kafka_clients.reply_producer(settings.kafka_connection())

    @app.agent(app.topic(ECHO, value_type=bytes))  # type: ignore[untyped-decorator]
    async def echo(stream: Any) -> None:
        async for event in stream.events():
            headers = dict(event.message.headers)
            echoing.produce(
                headers["kafka_replyTopic"].decode(),
                event.message.value,
                partition=int(headers["kafka_replyPartition"]),
                headers=[("kafka_correlationId", headers["kafka_correlationId"])],
            )
            echoing.flush(1)

    async def run() -> None:
        await app.start()
        rest_between_fetches(app)  # as for ours: the embedded broker never holds a fetch
        ready.touch()
        await asyncio.Event().wait()

    asyncio.run(run())


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
