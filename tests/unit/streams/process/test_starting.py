"""A start while a server is away waits; one that can't succeed ends; a signal ends both."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pixtide.schemas.errors import TransientError, UsageError
from pixtide.streams.process.health import Health
from pixtide.streams.process.starting import Starting

IN_TIME_S = 120.0


def test_what_is_away_is_waited_for_and_named() -> None:
    health, rests = Health({}), list[float]()
    seen: list[dict[str, str]] = []

    def rest(seconds: float) -> None:
        rests.append(seconds)
        seen.append(health.problems)

    left = iter(range(8))

    def step() -> str:
        if next(left) < 7:
            raise TransientError("Weaviate is away")
        return "there"

    assert Starting(health, rest)(step) == "there"
    assert rests == [0.5, 1, 2, 4, 8, 10, 10]
    assert seen == [{"start": "waits: Weaviate is away"}] * 7
    assert health.problems == {}


def test_what_no_waiting_helps_is_not_waited_for() -> None:
    def step() -> None:
        raise UsageError("no such topic")

    with pytest.raises(UsageError):
        Starting(Health({}), lambda _: pytest.fail("it waited"))(step)


def test_a_command_says_at_once_what_is_away() -> None:
    def step() -> None:
        raise TransientError("Weaviate is away")

    with pytest.raises(TransientError):
        Starting(Health({}), lambda _: pytest.fail("it waited"), waits=False)(step)


@pytest.fixture(params=["ingest", "query"])
def waiting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A worker that has been started while there is no broker, and says that it waits."""
    environment = {
        **os.environ,
        "PIXTIDE_HOME": str(tmp_path),
        "PIXTIDE_KAFKA": "127.0.0.1:1",
        "PIXTIDE_WEAVIATE_URL": "http://127.0.0.1:1",
        "PIXTIDE_DECODERS": "1",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "pixtide.streams.cli.main", request.param],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stderr is not None
        try:
            for line in worker.stderr:
                if "waiting to start" in line:
                    break
            yield worker
        finally:
            worker.kill()


@pytest.mark.fault("a server is away at the start")
def test_a_signal_ends_a_worker_that_waits(waiting: subprocess.Popen[str]) -> None:
    assert waiting.poll() is None, "it waits"
    time.sleep(0.1)
    waiting.send_signal(signal.SIGTERM)
    assert waiting.wait(IN_TIME_S) == 0
