"""Fixtures for the whole suite: a real Kafka and a real Weaviate, shared by one run's tests."""

import signal
from collections.abc import Iterator

import hypothesis
import pytest

from tests.servers import (
    SERVERS,
    KafkaServer,
    ServerError,
    Servers,
    Toxiproxy,
    WeaviateServer,
)
from tests.servers.deploy_tools import DeployTools
from tests.servers.deploy_tools import deploy_tools as tools_at_hand
from tests.servers.install import SetupError
from tests.servers.s3 import S3Server, s3_server
from tests.servers.suite import TOOLS, prepare

# No property fails because the machine is busy: how long an example takes, and how fast examples
# are made, says nothing of the product. What fails prints how to repeat it.
hypothesis.settings.register_profile(
    "anywhere",
    deadline=None,
    print_blob=True,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.data_too_large,
        hypothesis.HealthCheck.large_base_example,
    ],
)
hypothesis.settings.load_profile("anywhere")

_needed = pytest.StashKey[set[str]]()
_unprepared = pytest.StashKey[Exception]()
_started = pytest.StashKey[Servers]()


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marks; let Ctrl-C reach what tests start."""
    config.addinivalue_line("markers", "slow: in `make test-all`, not in `make test`")
    config.addinivalue_line("markers", "cluster: three of each server; in `make faults-cluster`")
    config.addinivalue_line("markers", "fault(name): shows what is done about it; in `make faults`")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # a shell that starts us in the background has it ignored, by all our children too
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish(session: pytest.Session) -> None:
    """See which servers this run needs and have them at hand.

    Here and not in a fixture: the first time takes longer than a test may.
    """
    names = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    needed = session.config.stash[_needed] = names & (SERVERS.keys() | TOOLS.keys())
    if needed and not session.config.option.collectonly:
        try:
            prepare(needed, _Sayer(session.config))
        except (SetupError, ServerError) as error:
            session.config.stash[_unprepared] = error


@pytest.fixture(scope="session")
def servers(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    """The run's servers; those it needs are started together, at the first use of one."""
    if (error := pytestconfig.stash.get(_unprepared, None)) is not None:
        raise error
    folder = tmp_path_factory.mktemp("servers")
    needed = pytestconfig.stash.get(_needed, set())
    with Servers(folder, needed, _Sayer(pytestconfig)) as servers:
        pytestconfig.stash[_started] = servers
        yield servers


@pytest.fixture(autouse=True)
def _servers_outlive_a_test(pytestconfig: pytest.Config) -> Iterator[None]:
    """A test that stops a server, and fails before it starts it again, harms no other."""
    yield
    if (servers := pytestconfig.stash.get(_started, None)) is not None:
        servers.heal()


@pytest.fixture(scope="session")
def kafka(servers: Servers) -> KafkaServer:
    """A real Apache Kafka, shared: use topics and groups of your own; leave it running."""
    return servers.kafka()


@pytest.fixture(scope="session")
def weaviate(servers: Servers) -> WeaviateServer:
    """A real Weaviate, shared: use collections of your own; leave it running."""
    return servers.weaviate()


@pytest.fixture(scope="session")
def bucket_servers(pytestconfig: pytest.Config) -> None:
    """That Azurite and fake-gcs-server are at hand."""
    if (error := pytestconfig.stash.get(_unprepared, None)) is not None:
        raise error


@pytest.fixture(scope="session")
def deploy_tools(pytestconfig: pytest.Config) -> DeployTools:
    """Helm, kubeconform with its schemas, and Compose's loader."""
    if (error := pytestconfig.stash.get(_unprepared, None)) is not None:
        raise error
    return tools_at_hand(_Sayer(pytestconfig))


@pytest.fixture(scope="session")
def toxiproxy(servers: Servers) -> Toxiproxy:
    """What makes links to the others fail, shared: use links of your own; leave it running."""
    return servers.toxiproxy()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that speaks S3, shared: use buckets of your own; leave it running."""
    server = s3_server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.close()


class _Sayer:
    """Shows lines of progress in the run's own output, from any thread."""

    def __init__(self, config: pytest.Config):
        self._terminal = config.pluginmanager.get_plugin("terminalreporter")

    def __call__(self, line: str) -> None:
        if self._terminal is not None:
            self._terminal.write_line(line)
