"""How to connect to Kafka: address, TLS and login, defined once for librdkafka and aiokafka."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pixtide.schemas.errors import UsageError

Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]


@dataclass(frozen=True)
class Tls:
    """Which servers to trust, and our own certificate. PEM files.

    `ca_file` is the CA bundle; None: the system's. `cert_file` and `key_file` are the client's own
    certificate, for brokers that ask for one.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise UsageError("a client certificate for Kafka needs both its file and its key's")
        for file in (self.ca_file, self.cert_file, self.key_file):
            if file is not None and not file.is_file():
                raise UsageError(f"no such file, for Kafka's TLS: {file}")

    def context(self) -> ssl.SSLContext:
        """The same for Python's own TLS. Raises UsageError if a file is no certificate."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except (ssl.SSLError, OSError) as error:
            raise UsageError(f"Kafka's TLS files: {error}") from error
        return context


@dataclass(frozen=True)
class Tokens:
    """Where to get OAuth tokens for a client's id and secret (client credentials, RFC 6749 4.4).

    `ca_file` is the CA bundle (PEM) for that server; None: the system's.
    """

    url: str
    scope: str | None = None
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        if self.ca_file is not None and not self.ca_file.is_file():
            raise UsageError(f"no such file, for Kafka's tokens: {self.ca_file}")


@dataclass(frozen=True)
class Sasl:
    """A user name and a password; with OAUTHBEARER a client's id and secret, and `tokens`."""

    username: str
    password: str = field(repr=False)
    mechanism: Mechanism = "SCRAM-SHA-512"
    tokens: Tokens | None = None

    def __post_init__(self) -> None:
        if (self.mechanism == "OAUTHBEARER") != (self.tokens is not None):
            raise UsageError(
                "OAUTHBEARER, and no other mechanism, needs a URL to get tokens from: "
                "PIXTIDE_KAFKA_TOKEN_URL"
            )

    def librdkafka(self) -> dict[str, str]:
        """The configuration of a confluent-kafka client, which gets its tokens on its own."""
        config: dict[str, str] = {"sasl.mechanisms": self.mechanism}
        if self.tokens is None:
            return config | {"sasl.username": self.username, "sasl.password": self.password}
        config |= {
            "sasl.oauthbearer.method": "oidc",
            "sasl.oauthbearer.client.id": self.username,
            "sasl.oauthbearer.client.secret": self.password,
            "sasl.oauthbearer.token.endpoint.url": self.tokens.url,
        }
        if self.tokens.scope:
            config["sasl.oauthbearer.scope"] = self.tokens.scope
        if self.tokens.ca_file:
            config["https.ca.location"] = str(self.tokens.ca_file)
        return config


@dataclass(frozen=True)
class KafkaConnection:
    """The brokers as `host:port,…`, and the protocol; by default without TLS and login."""

    bootstrap: str
    tls: Tls | None = None
    sasl: Sasl | None = None

    @property
    def protocol(self) -> str:
        """Kafka's name of the protocol: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."""
        return ("SASL_" if self.sasl else "") + ("SSL" if self.tls else "PLAINTEXT")

    def librdkafka(self) -> dict[str, Any]:
        """The configuration of a confluent-kafka client."""
        config: dict[str, Any] = {
            "bootstrap.servers": self.bootstrap,
            "security.protocol": self.protocol,
        }
        if self.sasl is not None:
            config |= self.sasl.librdkafka()
        if self.tls is not None:
            files = {
                "ssl.ca.location": self.tls.ca_file,
                "ssl.certificate.location": self.tls.cert_file,
                "ssl.key.location": self.tls.key_file,
            }
            config |= {name: str(file) for name, file in files.items() if file is not None}
        return config


def connection_to(kafka: str | KafkaConnection) -> KafkaConnection:
    """A connection unchanged, or a connection without TLS and login for an address."""
    return KafkaConnection(kafka) if isinstance(kafka, str) else kafka
