"""A live system for tests: a client that searches all the time, a publisher that never rests."""

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np

from pixtide.encoders.port import Encoder
from pixtide.schemas.errors import TransientError
from pixtide.schemas.queries import SearchReply, SearchRequest
from pixtide.streams.settings import Settings
from pixtide.streams.wiring.clients import search_client

TEXTS = [f"a picture of {n}" for n in range(20)]


class Background:
    """A loop in a thread, ended on leaving; what broke it is raised there."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join(60)
        if self._broken is not None and error is None:
            raise self._broken

    def _run(self) -> None:
        try:
            self.loop()
        except BaseException as error:  # noqa: BLE001  # raised again by whoever waits for us
            self._broken = error

    def loop(self) -> None:
        """What is done until `_stopping`."""
        raise NotImplementedError  # each kind has its own


@dataclass
class Heard:
    """What became of the searches, and how long they took in each phase of the test, in ms."""

    asked: int = 0
    took_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    by_generation: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def latencies(self) -> str:
        """The p50 and the p99 of each phase, for a person to read."""
        return "; ".join(
            f"{phase}: {len(took):,} searches, p50 {np.percentile(took, 50):.0f} ms, "
            f"p99 {np.percentile(took, 99):.0f} ms"
            for phase, took in self.took_ms.items()
        )


class Searching(Background):
    """Searches all the time, and checks of each reply that one model has made all of it.

    The similarity of a result must be the cosine of its vector and of what the encoder of the
    generation named in the reply makes of the text. A search may take `timeout_s`: long, since
    what is looked for are searches that are lost, on however slow a machine.
    """

    def __init__(
        self, settings: Settings, encoders: Mapping[str, Encoder], timeout_s: float = 60
    ) -> None:
        super().__init__()
        self._timeout_s = timeout_s
        self._settings = settings
        self._expected = {
            name: dict(zip(TEXTS, encoder.encode_texts(TEXTS), strict=True))
            for name, encoder in encoders.items()
        }
        self.heard = Heard()
        self.phase = "idle"

    def await_searches(self, least: int, within_s: float) -> None:
        """Wait until so many were answered in this phase."""
        deadline = time.monotonic() + within_s
        while len(self.heard.took_ms[self.phase]) < least:
            assert time.monotonic() < deadline, self.heard
            time.sleep(0.05)

    def await_generation(self, name: str, within_s: float = 120) -> None:
        """Wait until a reply comes from that generation."""
        before = self.heard.by_generation.get(name, 0)
        deadline = time.monotonic() + within_s
        while self.heard.by_generation.get(name, 0) == before:
            assert time.monotonic() < deadline, self.heard
            time.sleep(0.05)

    def loop(self) -> None:
        """One search after the other, without the client's own repetitions."""
        with search_client(self._settings, timeout_s=self._timeout_s) as client:
            while not self._stopping.is_set():
                text = random.choice(TEXTS)
                started = time.monotonic()
                request = SearchRequest(text=text, limit=5, with_vectors=True)
                try:
                    [reply] = client.search_many([request])
                except TransientError as error:
                    self.heard.failed.append(str(error))
                    continue
                took_s = time.monotonic() - started
                self.heard.slowest_s = max(self.heard.slowest_s, took_s)
                self.heard.took_ms[self.phase].append(took_s * 1000)
                self._check(text, reply)

    def _check(self, text: str, reply: SearchReply) -> None:
        self.heard.asked += 1
        if reply.error is not None:
            self.heard.failed.append(f"{reply.error.code}: {reply.error.message}")
            return
        generation = reply.generation or ""
        expected = self._expected[generation][text]
        for result in reply.results or ():
            vector = np.asarray(result.vector, np.float32)
            if vector.shape != expected.shape or abs(vector @ expected - result.similarity) > 0.02:
                self.heard.mixed.append(f"{generation}: {result.image_id} for {text}")
        counted = self.heard.by_generation
        counted[generation] = counted.get(generation, 0) + 1


class Publishing(Background):
    """Updates and deletes all the time, some of it of the same few ids."""

    def __init__(self, publish: Callable[[int], None], every_s: float) -> None:
        super().__init__()
        self._publish = publish
        self._every_s = every_s
        self.published = 0

    def loop(self) -> None:
        """One event after the other."""
        while not self._stopping.wait(self._every_s):
            self._publish(self.published)
            self.published += 1
