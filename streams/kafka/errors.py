"""What Kafka's errors mean: which ones pass on their own, and which need a setting or a grant."""

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from pixtide.schemas.errors import FatalError, TransientError, UsageError
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.renewed_client import RenewedClient

_HOW = (
    "is the broker running, does it advertise an address that this machine reaches, and is it "
    "spoken to as PIXTIDE_KAFKA_SECURITY says?"
)
_LOGIN = "check PIXTIDE_KAFKA_SECURITY, _USERNAME, _PASSWORD, _CA_FILE and _TOKEN_URL"
_GRANTS = "its principal lacks a grant (docs/security.md lists what each process needs)"

_LOG_CHANGED = (
    KafkaError._AUTO_OFFSET_RESET,
    KafkaError.OFFSET_OUT_OF_RANGE,
)
#: Part of the error for a position whose leader epoch ends before it: what was read there is gone.
_TRUNCATED = KafkaError(KafkaError._LOG_TRUNCATION).str().removeprefix("Local: ")
_NOT_LET_IN = (
    KafkaError._AUTHENTICATION,
    KafkaError._SSL,
    KafkaError.SASL_AUTHENTICATION_FAILED,
)
_NOT_GRANTED = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
)


class KafkaDeniedError(UsageError):
    """The brokers refuse this login, or this login may not do this."""


class BrokerAwayError(TransientError):
    """No broker has answered a Kafka client; another client may get an answer."""


class Admin:
    """An admin client that remembers error events, and is replaced when it fails for long.

    A failed call only says that no broker could be reached. librdkafka reports the reason, such as
    a refused password, as a separate event.
    """

    def __init__(self, connection: KafkaConnection, **config: object) -> None:
        heard = self._heard = deque[KafkaError](maxlen=16)
        whole: dict[str, Any] = {**connection.librdkafka(), **config, "error_cb": heard.append}
        self.lasting = RenewedClient(lambda: AdminClient(dict(whole)))

    def __getattr__(self, name: str) -> Any:
        """Every method of an AdminClient."""
        return getattr(self.lasting.now, name)

    def heard(self) -> list[KafkaError]:
        """The error events since the last call."""
        self.lasting.now.poll(0)
        said = list(self._heard)
        self._heard.clear()
        return said


def verdict(error: KafkaError) -> FatalError | TransientError:
    """What a client-level error means for a worker."""
    if error.code() in _LOG_CHANGED:
        what = "was cut short" if _TRUNCATED in error.str() else "changed"
        return FatalError(f"the log {what} ({error.str()}): create a generation")
    if error.code() in _NOT_GRANTED:
        return FatalError(f"Kafka: {error.str()}: {_GRANTS}")
    if error.fatal():
        return FatalError(error.str())
    return BrokerAwayError(f"Kafka: {error.str()}; {_HOW}")


def require_granted(error: KafkaError | None, what: str) -> None:
    """Raises KafkaDeniedError if the error says that access to the topic or group is denied."""
    if error is not None and error.code() in _NOT_GRANTED:
        raise KafkaDeniedError(f"Kafka refuses access to {what}: {_GRANTS}")


@contextlib.contextmanager
def translated(client: AdminClient | None = None) -> Iterator[None]:
    """Turn librdkafka's exceptions into ours.

    Their messages include that client's error events since its last success. The client may report
    a refused token before it is asked anything.

    Raises:
        KafkaDeniedError: a password, a certificate or an access is refused.
        BrokerAwayError: no broker answered; an admin client that fails so for long is replaced.
        TransientError: any other error of Kafka.
    """
    admin = _lasting(client)
    try:
        yield
    except TimeoutError as error:  # of a future: the client has lost the request
        if admin is not None:
            admin.lasting.failed()
        raise BrokerAwayError(f"Kafka: no answer in time; {_HOW}") from error
    except KafkaException as error:
        inner = error.args[0]
        if not isinstance(inner, KafkaError):
            raise
        raise _said(inner, admin) from error
    if admin is not None:
        admin.heard()
        admin.lasting.worked()


def _lasting(client: object) -> Admin | None:
    return client if isinstance(client, Admin) else None


def _said(error: KafkaError, admin: Admin | None) -> UsageError | TransientError:
    if error.code() in _NOT_GRANTED:
        return KafkaDeniedError(f"Kafka: {error.str()}: {_GRANTS}")
    for heard in admin.heard() if admin is not None else ():
        if heard.code() in _NOT_LET_IN:
            return KafkaDeniedError(f"Kafka: {heard.str()}; {_LOGIN}")
    if error.code() >= 0:  # a broker's code; librdkafka's are negative
        return TransientError(f"Kafka: {error.str()}; {_HOW}")
    if admin is not None:
        admin.lasting.failed()
    return BrokerAwayError(f"Kafka: {error.str()}; {_HOW}")
