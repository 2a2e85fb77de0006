"""Clients written against other libraries find what ours finds: docs/clients, run as documented."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pixtide.schemas import topics
from pixtide.schemas.queries import SearchReply
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import topics as kafka_topics
from tests.servers import KafkaServer, WeaviateServer
from tests.support.deployments import OnServers, on_servers
from tests.support.pictures import jpeg

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs"
#: As in an activated .venv.
PYTHON_BIN = Path(sys.executable).parent
PAGE = (DOCS / "clients" / "README.md").read_text()
#: Each example's commands, by what they run.
EXAMPLES = {
    next(name for name in ("python", "kcat", "mvn", "kafkajs", "nestjs") if name in block): block
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
}


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, kafka: KafkaServer, weaviate: WeaviateServer
) -> Iterator[OnServers]:
    """A running service over a dozen pictures, with NestJS's reply topic."""
    folder = tmp_path_factory.mktemp("foreign")
    made = on_servers(
        folder,
        kafka,
        weaviate,
        real_model=False,
    )
    try:
        made.start()
        like = {topic.name: topic for topic in topics.topics(embedded=False)}
        table = [(made.settings().named(f"{topics.REQUESTS}.reply"), like[topics.REPLIES])]
        admin = kafka_clients.admin(made.settings().kafka_connection())
        kafka_topics.create_topics(admin, table, replication=1)
        for number in range(12):
            (folder / f"{number}.jpg").write_bytes(jpeg(number))
        made.publish(*(str(folder / f"{n}.jpg") for n in range(12)), "--prefix", "p")
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands are run: what npm and Maven build stays out of the repository."""
    folder = tmp_path_factory.mktemp("checkout")
    # Not what someone may have built there by hand, following the page.
    built = shutil.ignore_patterns("node_modules", "target")
    shutil.copytree(DOCS / "clients", folder / "docs" / "clients", ignore=built)
    return folder


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_documented_client_finds_what_ours_finds(
    service: OnServers, checkout: Path, name: str
) -> None:
    settings = service.settings()
    commands = EXAMPLES[name].replace("localhost:9092", settings.bootstrap())
    for topic in (topics.REQUESTS, topics.REPLIES):
        commands = commands.replace(f" {topic} ", f" {settings.named(topic)} ")
    done = subprocess.run(
        ["bash", "-euc", commands],
        cwd=checkout,
        env=service.env | {"PATH": f"{PYTHON_BIN}:{service.env['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
    [said] = [line for line in done.stdout.splitlines() if line.startswith("{")]  # no log line
    reply = SearchReply.from_json(said.encode())
    expected = service.search("a red square", "-k", "5")
    assert [r.image_id for r in reply.results or ()] == [r["image_id"] for r in expected]
    assert len(expected) == 5
    assert reply.generation == "v1"
