"""Every setting, read once: `PIXTIDE_*` in the environment, or the defaults below."""

import difflib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pixtide.schemas.base import explain
from pixtide.schemas.errors import UsageError
from pixtide.schemas.identity import Partitioner
from pixtide.streams.kafka.connection import KafkaConnection, Mechanism, Sasl, Tls, Tokens

PREFIX = "PIXTIDE_"
KiB, MiB = 1024, 1024 * 1024
Words = Annotated[tuple[str, ...], NoDecode]
Ports = Annotated[tuple[Annotated[int, Field(ge=1, le=65535)], ...], NoDecode]


class Settings(BaseSettings):
    """The effective settings. Lists are written with commas; sizes are in bytes."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    home: Path = Field(Path(".pixtide"), description="where the embedded stack lives")
    namespace: str = Field(
        "",
        pattern=r"^([a-z][a-z0-9]{0,19})?$",
        description="prefix of topics, groups and collections, where several share servers",
    )
    kafka: str | None = Field(
        None, description="bootstrap address; unset: the stack running in PIXTIDE_HOME"
    )
    kafka_security: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = Field(
        "plaintext", description="how PIXTIDE_KAFKA is spoken to; an embedded stack: plaintext"
    )
    kafka_sasl_mechanism: Mechanism = Field(
        "SCRAM-SHA-512", description="PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"
    )
    kafka_username: str | None = Field(
        None, description="for sasl_plaintext and sasl_ssl; with OAUTHBEARER the client's id"
    )
    kafka_password: SecretStr | None = Field(
        None, description="for sasl_plaintext and sasl_ssl; with OAUTHBEARER the client's secret"
    )
    kafka_token_url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="where OAUTHBEARER's tokens are had, by the client-credentials grant",
    )
    kafka_token_scope: str | None = Field(None, description="that is asked for there")
    kafka_token_ca_file: Path | None = Field(
        None, description="PEM of who may vouch for that server; unset: the system's list"
    )
    kafka_ca_file: Path | None = Field(
        None, description="PEM of who may vouch for the brokers; unset: the system's list"
    )
    kafka_cert_file: Path | None = Field(
        None, description="PEM of a client certificate, where the brokers ask for one"
    )
    kafka_key_file: Path | None = Field(None, description="PEM of that certificate's key")
    weaviate_url: str | None = Field(
        None,
        description="http(s)://host:port, or http:// ones of several nodes of a cluster; "
        "unset: LanceDB in PIXTIDE_HOME",
    )
    weaviate_grpc_port: Ports = (50051,)
    weaviate_api_key: SecretStr | None = None
    weaviate_ca_file: Path | None = Field(
        None,
        description="PEM of who may vouch for Weaviate's certificate; unset: certifi's list",
    )
    weaviate_replication: int = Field(
        1, ge=1, description="nodes of Weaviate that keep each row of generations made from now on"
    )
    model: str = Field(
        "starter",
        description="architecture::pretrained, hf-hub:name@revision, local-dir:path, or starter",
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    batch_size: int = Field(16, ge=1, le=4096)
    compile: bool = Field(
        False, description="compile the model for a GPU: starts a minute later, then runs faster"
    )
    threads: int = Field(
        0,
        ge=0,
        description="of the encoder on a CPU; 0: as many as cores. An ingest worker shares them "
        "among up to 4 batches at once",
    )
    image_store: str | None = Field(
        None, description="URL of the originals' folder or bucket; unset: PIXTIDE_HOME/originals"
    )
    keep_originals: Literal["inline", "all"] = Field(
        "inline", description="all: fetched pictures are stored too, against dead links"
    )
    file_roots: Words | None = Field(
        None,
        description="folders that file: URIs may name; unset: none, and on the embedded stack "
        "your home and the folder that it was started in",
    )
    allowed_hosts: Words = Field(
        (), description="host or host:port that may be fetched from though private"
    )
    allowed_buckets: Words = Field(
        (), description="s3://bucket, gs://bucket, az://container: what may be fetched from there"
    )
    partitioner: Partitioner = Field("murmur2", description="of images.uploaded")
    reply_topics: str = Field(
        r"search\.(replies(\..+)?|requests\.reply|requests-replies)",
        description="pattern of the topics that may be replied to",
    )
    replication: int = Field(1, ge=1, description="replication factor of created topics")
    max_picture_bytes: int = Field(64 * MiB, ge=1)
    max_pixels: int = Field(89_000_000, ge=1)
    fetch_timeout_s: float = Field(30.0, gt=0, description="for one picture, retries included")
    fetch_give_up_s: float = Field(
        300.0,
        gt=0,
        description="after which a file, or an original in our own store, that can't be read "
        "becomes a dead letter; while the store answers nothing, no time passes",
    )
    fetchers: int = Field(8, ge=1, description="pictures fetched side by side")
    fetchers_per_host: int = Field(
        4,
        ge=1,
        description="of these from one host or bucket, so that a slow one doesn't take all; "
        "always fewer than PIXTIDE_FETCHERS, where that is more than 1",
    )
    decode_timeout_s: float = Field(20.0, gt=0)
    decoders: int = Field(2, ge=1, description="decoding processes")
    in_flight_records: int = Field(
        0,
        ge=0,
        description="records a worker takes on before it pauses; 0: 256, or four batches where "
        "that is more",
    )
    in_flight_bytes: int = Field(512 * MiB, ge=1)
    breaker_window: int = Field(
        200,
        ge=0,
        description="a worker pauses, and tries its parts, when 95 % of its last so many became "
        "dead letters whose code may be its own fault; 0: never, as in an embedded stack where it "
        "isn't set",
    )
    session_timeout_s: float = Field(
        30.0,
        ge=6,
        le=120,
        description="after which an ingest worker that fell silent loses its partitions to others",
    )
    stalled_s: float = Field(
        300.0,
        ge=0,
        description="a worker ends, to be started again, when none of its work, or of that of one "
        "partition, gets done for so long though some waits and the brokers answer others; "
        "0: never",
    )
    query_queue: int = Field(
        2048, ge=1, description="search requests that wait; more are refused, retryably"
    )
    reply_cache_bytes: int = Field(
        64 * MiB, ge=0, description="of replies kept while the index stays the same; 0: none"
    )
    log: Literal["text", "json"] = Field(
        "text", description="text or json: how the workers write their log lines to stderr"
    )
    health_host: str = Field("127.0.0.1", description="address that PIXTIDE_HEALTH_PORT is on")
    health_port: int = Field(
        0, ge=0, le=65535, description="where a worker serves /live, /ready, /metrics; 0: nowhere"
    )

    web_host: str = Field("127.0.0.1", description="address that the page listens on")
    web_port: int = Field(8080, ge=1, le=65535)
    web_hosts: Words = Field(
        (), description="names that the page is reached under, besides localhost and addresses"
    )
    web_proxies: Words = Field(
        (), description="addresses or networks of proxies whose X-Forwarded-* is believed"
    )
    web_token: SecretStr | None = Field(
        None, description="data is only given to those who send it; unset: to everybody"
    )
    web_read_only: bool = Field(False, description="true: nothing is published or deleted")
    web_upload_bytes: int = Field(32 * MiB, ge=1, description="of one picture sent to the page")
    web_uploads_per_minute: int = Field(120, ge=1, description="and deletes, by one client")
    web_searches_per_minute: int = Field(300, ge=1, description="by one client")
    web_cache_bytes: int = Field(256 * MiB, ge=0, description="of thumbnails in a temporary folder")

    @field_validator(
        "file_roots",
        "allowed_hosts",
        "allowed_buckets",
        "web_hosts",
        "web_proxies",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("kafka_password", "weaviate_api_key", "web_token")
    @classmethod
    def _not_empty(cls, value: SecretStr | None) -> SecretStr | None:
        """A secret that wasn't filled in must not count as none: that would let everybody in."""
        if value is not None and not value.get_secret_value().strip():
            raise ValueError("it is empty; leave it unset where there is none")
        return value

    @field_validator("weaviate_grpc_port", mode="before")
    @classmethod
    def _ports(cls, value: object) -> object:
        return value.split(",") if isinstance(value, str) else value

    @field_validator("allowed_buckets")
    @classmethod
    def _buckets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for bucket in value:
            if not re.fullmatch(r"(s3|gs|az)://[^/?#@\s]+/?", bucket):
                raise ValueError(f"{bucket!r} is not s3://bucket, gs://bucket or az://container")
        return tuple(bucket.rstrip("/") for bucket in value)

    @field_validator("kafka", "kafka_token_url", "weaviate_url", "image_store")
    @classmethod
    def _no_secrets(cls, value: str | None) -> str | None:
        """Addresses are shown, logged and stored."""
        for address in (value or "").split(","):
            if re.match(r"\s*([a-z0-9+._-]+://)?[^/]*@", address, re.IGNORECASE):
                raise ValueError(
                    "has a user name or a password in it; addresses are shown and logged. What "
                    "signs in has settings of its own: see docs/settings.md"
                )
        return value

    @field_validator("weaviate_url", "image_store")
    @classmethod
    def _no_query(cls, value: str | None) -> str | None:
        if value is not None and re.search(r"[?#]", value):
            raise ValueError(
                "has a query (?) or a fragment (#), which may be a secret; leave it out"
            )
        return value

    @property
    def embedded_index(self) -> bool:
        """Whether vectors are kept in LanceDB under `home`."""
        return self.weaviate_url is None

    @property
    def index_replication(self) -> int:
        """How many copies of each row a new generation has."""
        return 1 if self.embedded_index else self.weaviate_replication

    @property
    def stack_file(self) -> Path:
        """Where a running embedded stack says how to reach it."""
        return self.home / "stack.json"

    @property
    def embedded_log(self) -> bool:
        """Whether the log is the embedded broker of the stack in `home`."""
        return self.kafka is not None and self.kafka == self._stack().get("kafka")

    @property
    def image_store_url(self) -> str:
        """The image store's URL, never ending in a slash."""
        if self.image_store:
            return self.image_store.rstrip("/")
        return (self.home.absolute() / "originals").as_uri()

    @property
    def inline_limit(self) -> int:
        """Largest picture that our publisher puts into an event, in bytes."""
        return 256 * KiB if self.embedded_log else 512 * KiB

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders whose files `file:` URIs may name, resolved.

        On the embedded stack those of the process that started it, for publishers too: what a
        publisher can read, a worker need not.
        """
        if self.embedded_log:
            return tuple(Path(root) for root in self._stack().get("roots", ()))
        return tuple(Path(root).expanduser().resolve() for root in self.file_roots or ())

    def _stack(self) -> dict[str, Any]:
        return running_stack(self.stack_file)

    def named(self, name: str) -> str:
        """A topic or group name within the namespace."""
        return f"{self.namespace}.{name}" if self.namespace else name

    def bootstrap(self) -> str:
        """The Kafka address. Raises UsageError where there is none to be had."""
        if self.kafka is None:
            raise UsageError(
                f"no Kafka address: start a stack with `pixtide up` (looked in {self.home}), "
                "or set PIXTIDE_KAFKA=host:port"
            )
        return self.kafka

    def kafka_connection(self) -> KafkaConnection:
        """How Kafka is reached. Raises UsageError where a setting for that is missing or wrong."""
        bootstrap = self.bootstrap()
        if self.embedded_log:
            return KafkaConnection(bootstrap)  # on loopback, and it knows of no security
        tls = sasl = None
        if self.kafka_security.endswith("ssl"):
            tls = Tls(self.kafka_ca_file, self.kafka_cert_file, self.kafka_key_file)
        if self.kafka_security.startswith("sasl"):
            if self.kafka_username is None or self.kafka_password is None:
                raise UsageError(
                    f"PIXTIDE_KAFKA_SECURITY={self.kafka_security} needs PIXTIDE_KAFKA_USERNAME "
                    "and PIXTIDE_KAFKA_PASSWORD (or PIXTIDE_KAFKA_PASSWORD_FILE)"
                )
            password = self.kafka_password.get_secret_value()
            tokens = None
            if self.kafka_token_url is not None:
                tokens = Tokens(
                    self.kafka_token_url, self.kafka_token_scope, self.kafka_token_ca_file
                )
            sasl = Sasl(self.kafka_username, password, self.kafka_sasl_mechanism, tokens)
        elif self.kafka_username is not None or self.kafka_password is not None:
            raise UsageError(
                f"PIXTIDE_KAFKA_USERNAME and _PASSWORD are not used with PIXTIDE_KAFKA_SECURITY="
                f"{self.kafka_security}: set sasl_ssl (or sasl_plaintext)"
            )
        return KafkaConnection(bootstrap, tls, sasl)

    def changed(self, **fields: object) -> Self:
        """A copy with these fields set."""
        return self.model_copy(update=fields)


def running_stack(stack_file: Path) -> dict[str, Any]:
    """What the stack that wrote this file says of itself; empty if it doesn't run any more."""
    try:
        stack = json.loads(stack_file.read_text())
        os.kill(stack["pid"], 0)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return {}
    return dict(stack)


def _secret_in(name: str, path: str) -> SecretStr:
    """The secret in the file that this variable names. Raises UsageError: there is none."""
    try:
        secret = Path(path).read_text().strip()
    except (OSError, ValueError) as error:
        raise UsageError(f"{name}: {path or 'it names no file'}: {error}") from error
    if not secret:
        raise UsageError(f"{name}: {path} is empty; leave it unset where there is no secret")
    return SecretStr(secret)


def load_settings() -> Settings:
    """Read the environment, and find a stack running in the home where no address is set.

    Raises:
        UsageError: naming the variable that is wrong or unknown.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    secret_files = {
        PREFIX + name.upper() + "_FILE": name
        for name in ("kafka_password", "weaviate_api_key", "web_token")
    }
    for name in os.environ:
        if not name.startswith(PREFIX) or name.startswith(PREFIX + "TEST_"):
            continue
        if name not in known and name not in secret_files:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"{name} is no setting of pixtide{hint}")
    given: dict[str, object] = {}
    for name, field in secret_files.items():
        if (path := os.environ.get(name)) is not None:
            given[field] = _secret_in(name, path)
    try:
        settings = Settings(**given)  # type: ignore[arg-type]  # fields are checked by pydantic
    except ValidationError as error:
        where = error.errors()[0]["loc"]
        raise UsageError(f"{PREFIX}{str(where[0]).upper()}: {explain(error)}") from error
    try:
        settings = settings.changed(home=settings.home.expanduser().absolute())
    except (RuntimeError, OSError) as error:  # no such user; a working folder that is gone
        raise UsageError(f"PIXTIDE_HOME={settings.home} can't be used: {error}") from error
    if settings.kafka is None:
        settings = settings.changed(kafka=running_stack(settings.stack_file).get("kafka"))
    return settings
