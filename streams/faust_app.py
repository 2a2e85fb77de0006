"""Faust as a thin shell: no tables, no web server, no topics of its own, raw bytes."""

import tempfile
from typing import Any

import faust

from streams.kafka_connection import KafkaConnection
from streams.kafka_tokens import TokenProvider

#: A killed consumer's partitions are another's after so long; Faust would wait a minute.
_SESSION_S = 10.0
#: Faust makes folders there and leaves them empty; the default is the working folder.
_datadir = tempfile.TemporaryDirectory(prefix="pixtide-query-")


def faust_app(connection: KafkaConnection, group: str, *, buffered: int) -> Any:
    """An app of that group; `buffered` is how many records may wait in its stream.

    Raises:
        UsageError: one of the connection's PEM files can't be used.
    """
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


def fetcher_ended(app: Any) -> str | None:
    """Why the app's consumer fetches no more, though its process goes on; None while it does.

    aiokafka fetches in a task of its own. What ends that, such as a record that it can't decode,
    is told to nobody whom Faust asks.
    """
    thread = getattr(app.consumer, "_thread", None) if app.started else None
    fetcher = getattr(getattr(thread, "_consumer", None), "_fetcher", None)
    task = getattr(fetcher, "_fetch_task", None)
    if task is None or not task.done():
        return None
    error = None if task.cancelled() else task.exception()
    return f"has ended: {error.__cause__ or error!r}" if error else "was cancelled"
