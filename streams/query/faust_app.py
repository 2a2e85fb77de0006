"""Faust with almost everything off: no tables, no web server, no topics of its own, raw bytes."""

import asyncio
import contextlib
import tempfile
from typing import Any

import faust

from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.tokens import TokenProvider
from pixtide.streams.query import record_batches

#: After this, a killed consumer's partitions go to another one; Faust's default is a minute.
_SESSION_S = 10.0
#: Faust makes folders there and leaves them empty; its default is the working folder.
_datadir = tempfile.TemporaryDirectory(prefix="pixtide-query-")


def faust_app(connection: KafkaConnection, group: str, *, buffered: int) -> Any:
    """A Faust app in that group; `buffered` is how many records may wait in its stream.

    Raises:
        UsageError: one of the connection's PEM files can't be used.
    """
    record_batches.install()
    return faust.App(
        group,
        broker=[f"kafka://{address}" for address in connection.bootstrap.split(",")],
        broker_credentials=_credentials(connection),
        store="memory://",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        autodiscover=False,
        consumer_auto_offset_reset="earliest",  # deadlines drop what is too old
        broker_commit_interval=1.0,
        broker_session_timeout=_SESSION_S,
        stream_wait_empty=False,
        stream_buffer_maxsize=buffered,
        datadir=_datadir.name,
    )


def died_of(app: Any) -> str | None:
    """What ended a started app's consumer, if anything did; the app itself doesn't report it.

    aiokafka fetches and keeps its group membership in tasks that nobody awaits.
    """
    if app.crashed:
        return f"it crashed: {app.crash_reason!r}"
    consumer = app.consumer._thread._consumer
    tasks = {"fetcher": consumer._fetcher._fetch_task}
    tasks["group member"] = getattr(consumer._coordinator, "_coordination_task", None)
    for name, task in tasks.items():
        if task is not None and task.done():
            error = None if task.cancelled() else task.exception()
            return f"its {name} ended: {error!r}"
    return None


def _credentials(connection: KafkaConnection) -> Any:
    context = connection.tls.context() if connection.tls else None
    sasl = connection.sasl
    if sasl is not None and sasl.tokens is not None:
        return faust.OAuthCredentials(
            oauth_cb=TokenProvider(sasl, sasl.tokens), ssl_context=context
        )
    if sasl is not None:
        return faust.SASLCredentials(
            username=sasl.username,
            password=sasl.password,
            mechanism=sasl.mechanism,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context else None


_SHORT_REST_S = 0.01


def rest_between_fetches(faust_app: Any) -> None:
    """Make a started Faust app's consumer wait a moment after each fetch that found nothing."""
    fetcher = faust_app.consumer._thread._consumer._fetcher
    fetch = fetcher._proc_fetch_request

    async def fetch_then_rest(*arguments: Any) -> bool:
        found_something: bool = await fetch(*arguments)
        if not found_something:
            with contextlib.suppress(asyncio.CancelledError):  # the end, which its owner awaits
                await asyncio.sleep(_SHORT_REST_S)
        return found_something

    fetcher._proc_fetch_request = fetch_then_rest
