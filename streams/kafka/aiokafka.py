"""Connection settings for aiokafka."""

from typing import Any

from pixtide.streams.kafka.connection import KafkaConnection


def arguments(connection: KafkaConnection) -> dict[str, Any]:
    """The arguments of an aiokafka client. Raises UsageError if a TLS file can't be used."""
    made: dict[str, Any] = {
        "bootstrap_servers": connection.bootstrap.split(","),
        "security_protocol": connection.protocol,
        "ssl_context": connection.tls.context() if connection.tls else None,
    }
    if connection.sasl is None:
        return made
    made["sasl_mechanism"] = connection.sasl.mechanism
    if connection.sasl.tokens is None:
        made["sasl_plain_username"] = connection.sasl.username
        made["sasl_plain_password"] = connection.sasl.password
    else:
        from pixtide.streams.kafka.tokens import TokenProvider

        made["sasl_oauth_token_provider"] = TokenProvider(connection.sasl, connection.sasl.tokens)
    return made
