"""One set of settings says the same to librdkafka and to aiokafka, or stops the start."""

import asyncio
import os
from pathlib import Path

import pytest
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from pixtide.schemas.errors import UsageError
from pixtide.streams.kafka import aiokafka
from pixtide.streams.kafka.connection import KafkaConnection, Sasl, Tokens
from pixtide.streams.kafka.tokens import TokenProvider
from pixtide.streams.query.faust_app import faust_app
from pixtide.streams.settings import load_settings
from tests.servers.certificates import Certificates, make_certificates
from tests.servers.tokens import LIFE_S, SECRET, TokenServer

BEARER = {
    "security": "sasl_ssl",
    "sasl_mechanism": "OAUTHBEARER",
    "username": "ingest",
    "password": "hush",
}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def connection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **given: object) -> KafkaConnection:
    for name in list(os.environ):
        if name.startswith("PIXTIDE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIXTIDE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIXTIDE_KAFKA", "a:1,b:2")
    for name, value in given.items():
        monkeypatch.setenv(f"PIXTIDE_KAFKA_{name.upper()}", str(value))
    return load_settings().kafka_connection()


def test_plaintext_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain = connection(monkeypatch, tmp_path)
    assert plain == KafkaConnection("a:1,b:2")
    assert plain.librdkafka() == {
        "bootstrap.servers": "a:1,b:2",
        "security.protocol": "PLAINTEXT",
    }
    assert faust_app(plain, "g", buffered=1).conf.broker_credentials is None


def test_scram_over_tls(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, certificates: Certificates
) -> None:
    (tmp_path / "password").write_text("hush\n")
    secured = connection(
        monkeypatch,
        tmp_path,
        security="sasl_ssl",
        username="ingest",
        password_file=tmp_path / "password",
        ca_file=certificates.authority,
    )
    assert "hush" not in repr(secured)
    assert secured.librdkafka() == {
        "bootstrap.servers": "a:1,b:2",
        "security.protocol": "SASL_SSL",
        "sasl.mechanisms": "SCRAM-SHA-512",
        "sasl.username": "ingest",
        "sasl.password": "hush",
        "ssl.ca.location": str(certificates.authority),
    }
    credentials = faust_app(secured, "g", buffered=1).conf.broker_credentials
    auth = dict(credentials_to_aiokafka_auth(credentials))
    context = auth.pop("ssl_context")
    assert auth == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "ingest",
        "sasl_plain_password": "hush",
    }
    assert context.check_hostname
    assert [ca["serialNumber"] for ca in context.get_ca_certs()] == [certificates.serial]


def test_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secured = connection(
        monkeypatch, tmp_path, **BEARER, token_url="https://login/token", token_scope="kafka"
    )
    assert secured.librdkafka() == {
        "bootstrap.servers": "a:1,b:2",
        "security.protocol": "SASL_SSL",
        "sasl.mechanisms": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.client.id": "ingest",
        "sasl.oauthbearer.client.secret": "hush",
        "sasl.oauthbearer.token.endpoint.url": "https://login/token",
        "sasl.oauthbearer.scope": "kafka",
    }
    assert isinstance(aiokafka.arguments(secured)["sasl_oauth_token_provider"], TokenProvider)
    credentials = faust_app(secured, "g", buffered=1).conf.broker_credentials
    auth = credentials_to_aiokafka_auth(credentials)
    assert (auth["security_protocol"], auth["sasl_mechanism"]) == ("SASL_SSL", "OAUTHBEARER")


def test_a_token_is_used_for_most_of_its_life() -> None:
    now = 0.0
    with TokenServer() as server:
        tokens = Tokens(f"http://127.0.0.1:{server.port}")
        sasl = Sasl("x", SECRET, "OAUTHBEARER", tokens)
        provider = TokenProvider(sasl, tokens, clock=lambda: now)
        assert asyncio.run(provider.token()) == asyncio.run(provider.token())
        now = LIFE_S * 0.9
        asyncio.run(provider.token())
        assert len(server.asked) == 2


def test_a_client_certificate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, certificates: Certificates
) -> None:
    secured = connection(
        monkeypatch,
        tmp_path,
        security="ssl",
        ca_file=certificates.authority,
        cert_file=certificates.certificate,
        key_file=certificates.key,
    )
    config = secured.librdkafka()
    assert config["security.protocol"] == "SSL"
    assert config["ssl.certificate.location"] == str(certificates.certificate)
    assert config["ssl.key.location"] == str(certificates.key)
    credentials = faust_app(secured, "g", buffered=1).conf.broker_credentials
    assert credentials_to_aiokafka_auth(credentials)["security_protocol"] == "SSL"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"security": "sasl_ssl"}, "PIXTIDE_KAFKA_USERNAME"),
        ({"security": "sasl_plaintext", "username": "u"}, "PIXTIDE_KAFKA_PASSWORD_FILE"),
        ({"username": "u", "password": "p"}, "PIXTIDE_KAFKA_SECURITY=plaintext"),
        ({"security": "tls"}, "PIXTIDE_KAFKA_SECURITY"),
        (BEARER, "PIXTIDE_KAFKA_TOKEN_URL"),
        (BEARER | {"token_url": "x"}, "PIXTIDE_KAFKA_TOKEN_URL"),
        (BEARER | {"token_url": "https://x", "sasl_mechanism": "PLAIN"}, "no other mechanism"),
        (BEARER | {"token_url": "https://x", "token_ca_file": "/nowhere/ca"}, "/nowhere/ca"),
        ({"security": "sasl_ssl", "sasl_mechanism": "GSSAPI"}, "PIXTIDE_KAFKA_SASL_MECHANISM"),
        ({"security": "ssl", "ca_file": "/nowhere/ca.pem"}, "/nowhere/ca.pem"),
        ({"security": "ssl", "cert_file": __file__}, "both"),
        ({"password_file": "/nowhere/password"}, "PIXTIDE_KAFKA_PASSWORD_FILE"),
    ],
)
def test_what_is_missing_or_wrong_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        connection(monkeypatch, tmp_path, **given)


def test_a_file_that_is_no_certificate_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secured = connection(monkeypatch, tmp_path, security="ssl", ca_file=__file__)
    with pytest.raises(UsageError, match="TLS"):
        faust_app(secured, "g", buffered=1)
