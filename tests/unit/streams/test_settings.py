"""A wrong setting stops the start and names its variable."""

import json
import os
from pathlib import Path

import pytest

from pixtide.schemas.errors import UsageError
from pixtide.streams.settings import Settings, load_settings
from pixtide.streams.wiring.ingest import records_of, threads_of


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in list(os.environ):
        if name.startswith("PIXTIDE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIXTIDE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_typo_is_told_with_the_name_that_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXTIDE_WEAVIATE_URI", "http://x")
    with pytest.raises(UsageError, match="did you mean PIXTIDE_WEAVIATE_URL"):
        load_settings()


def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXTIDE_BATCH_SIZE", "many")
    with pytest.raises(UsageError, match="PIXTIDE_BATCH_SIZE"):
        load_settings()


def test_lists_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXTIDE_ALLOWED_HOSTS", "a:1, b")
    assert load_settings().allowed_hosts == ("a:1", "b")


def test_secrets_come_from_files_and_are_masked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("hush\n")
    monkeypatch.setenv("PIXTIDE_WEAVIATE_API_KEY_FILE", str(tmp_path / "key"))
    settings = load_settings()
    assert settings.weaviate_api_key is not None
    assert settings.weaviate_api_key.get_secret_value() == "hush"
    assert "hush" not in repr(settings) + settings.model_dump_json()


def test_a_running_stack_is_found_and_a_dead_one_is_not(clean: Path) -> None:
    clean.mkdir()
    stack = {"pid": os.getpid(), "kafka": "127.0.0.1:1", "roots": ["/pictures"]}
    (clean / "stack.json").write_text(json.dumps(stack))
    settings = load_settings()
    assert settings.kafka == "127.0.0.1:1" and settings.embedded_log
    assert settings.roots == (Path("/pictures"),)
    (clean / "stack.json").write_text(json.dumps(stack | {"pid": 2**22 + 1}))
    with pytest.raises(UsageError, match="pixtide up"):
        load_settings().bootstrap()


def test_in_production_no_file_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXTIDE_KAFKA", "kafka:9092")
    assert load_settings().roots == ()


def test_the_encoder_has_the_threads_that_it_is_told_else_those_of_openmp_else_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_of(Settings(threads=5)) == 5
    assert threads_of(Settings()) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "0")
    assert threads_of(Settings()) == len(os.sched_getaffinity(0))


def test_four_batches_are_in_flight_unless_a_number_of_records_is_set() -> None:
    assert records_of(Settings()) == 256
    assert records_of(Settings(batch_size=256)) == 1024
    assert records_of(Settings(batch_size=256, in_flight_records=8)) == 8


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PIXTIDE_WEAVIATE_URL", "https://pixtide:hush@weaviate:8080"),
        ("PIXTIDE_WEAVIATE_URL", "http://one:8080,http://hush@two:8080"),
        ("PIXTIDE_WEAVIATE_URL", "https://weaviate:8080/?key=hush"),
        ("PIXTIDE_IMAGE_STORE", "s3://key:hush@bucket/originals"),
        ("PIXTIDE_IMAGE_STORE", "az://container/originals?sig=hush"),
        ("PIXTIDE_KAFKA_TOKEN_URL", "https://id:hush@login.example.org/token"),
        ("PIXTIDE_KAFKA", "SASL_SSL://pixtide:hush@kafka:9092"),
        ("PIXTIDE_KAFKA", "kafka:9092,pixtide:hush@kafka:9092"),
    ],
)
def test_an_address_with_a_secret_in_it_is_refused_without_telling_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=name) as refused:
        load_settings()
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("secret", ["WEB_TOKEN", "WEAVIATE_API_KEY", "KAFKA_PASSWORD"])
@pytest.mark.parametrize("content", [b"", b" \n", b"\xff"])
def test_a_secret_that_was_not_filled_in_stops_the_start(
    secret: str, content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(content)
    monkeypatch.setenv(f"PIXTIDE_{secret}_FILE", str(tmp_path / "secret"))
    with pytest.raises(UsageError, match=f"PIXTIDE_{secret}_FILE"):
        load_settings()
    monkeypatch.setenv(f"PIXTIDE_{secret}_FILE", "")
    with pytest.raises(UsageError, match=f"PIXTIDE_{secret}_FILE"):
        load_settings()
    monkeypatch.delenv(f"PIXTIDE_{secret}_FILE")
    if content != b"\xff":
        monkeypatch.setenv(f"PIXTIDE_{secret}", content.decode())
        with pytest.raises(UsageError, match=f"PIXTIDE_{secret}:.*empty"):
            load_settings()
