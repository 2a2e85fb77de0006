"""Where an ingest worker's time goes: what `pixtide ingest --profile` prints at the end."""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from pixtide.streams import terminal
from pixtide.streams.ingest.worker import IngestLimits

_EVERY_S = 0.2
_BUSY, _USED = 0.85, 0.9
_IN_FLIGHT, _PAUSED = "pixtide_ingest_in_flight_records", "pixtide_ingest_paused"
_STAGE, _BATCH = "pixtide_ingest_stage_seconds", "pixtide_ingest_batch_pictures"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Stage:
    """A stage of the path: how many of it run in parallel, and which setting raises that."""

    name: str
    at_once: int
    more: str


@dataclass
class Usage:
    """Seconds of wall clock and CPU: all that exist, those used, and those used by us."""

    clock: float = 0.0
    processors: float = 0.0
    used: float = 0.0
    ours: float = 0.0

    @classmethod
    def now(cls) -> Self:
        """Totals up to now. Decoding processes count as ours."""
        system = Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
        seconds = [int(ticks) / _TICKS_PER_S for ticks in system]
        used = sum(seconds) - seconds[3] - seconds[4]  # idle, and idle while waiting for a disk
        threads = Path("/proc/self/task").glob("*/children")
        children = [child for thread in threads for child in _text(thread).split()]
        ours = sum(os.times()[:4]) + sum(map(_processor_s, children))
        return cls(time.monotonic(), sum(seconds), used, ours)

    def grow(self, earlier: "Usage", later: "Usage") -> None:
        """Add the difference between two."""
        for name in ("clock", "processors", "used", "ours"):
            setattr(self, name, getattr(self, name) + getattr(later, name) - getattr(earlier, name))


def stages(limits: IngestLimits) -> list[Stage]:
    """The stages of a worker with these limits; write and report share a thread."""
    return [
        Stage("fetch", limits.fetchers, "PIXTIDE_FETCHERS"),
        Stage("look_up", 1, "a quicker index"),
        Stage("decode", limits.decoders, "PIXTIDE_DECODERS"),
        Stage("store", limits.fetchers, "a quicker image store"),
        Stage("encode", limits.encoders, "a quicker device, or more workers"),
        Stage("write", 1, "a quicker index, or more workers"),
        Stage("report", 1, "a quicker broker, or more workers"),
    ]


class Profile:
    """Adds up a worker's metrics and the system's counters while records are in flight."""

    def __init__(self, registry: CollectorRegistry, stages: list[Stage]) -> None:
        self.usage = Usage()
        self.full_s = 0.0
        self._registry = registry
        self._stages = stages
        # reading a few metrics is cheap; reading all of them so often would not be
        self._watched = registry.restricted_registry([_IN_FLIGHT, _PAUSED])
        self._over = threading.Event()

    def watch(self) -> None:
        """Watch until `end` is called."""
        before, busy = Usage.now(), False
        while True:
            over = self._over.wait(_EVERY_S)
            now = Usage.now()
            found = _read(self._watched)
            was_busy, busy = busy, found[_IN_FLIGHT, ""] > 0
            if busy or was_busy:
                self.usage.grow(before, now)
                self.full_s += (now.clock - before.clock) * found[_PAUSED, "full"]
            before = now
            if over:
                return

    def end(self) -> None:
        """Make `watch` return."""
        self._over.set()

    def text(self) -> str:
        """The table, and what limits the rate."""
        found, usage = _read(self._registry), self.usage
        records = found["pixtide_ingest_outcomes_total", ""]
        if not records or not usage.clock:
            return "profile: nothing was ingested"
        used = usage.used / usage.processors
        lines = [
            f"profile: {records:,.0f} records in {usage.clock:.1f} s, "
            f"{records / usage.clock:.1f} a second; "
            f"of {usage.processors / usage.clock:.0f} processors {used:.0%} was used, "
            f"{usage.ours / usage.processors:.0%} by this worker",
            "stage    records  ms each  at once   busy",
        ]
        busy = {}
        for stage in self._stages:
            count = found[f"{_STAGE}_count", stage.name]
            seconds = found[f"{_STAGE}_sum", stage.name]
            busy[stage] = seconds / usage.clock / stage.at_once
            each_ms = seconds / count * 1000 if count else 0.0
            lines.append(
                f"{stage.name:8} {count:7,.0f} {each_ms:8.2f} {stage.at_once:8} {busy[stage]:6.0%}"
            )
        if batches := found[f"{_BATCH}_count", ""]:
            pictures = found[f"{_BATCH}_sum", ""]
            lines.append(f"{pictures:,.0f} pictures encoded, {pictures / batches:.1f} at once")
        return "\n".join([*lines, f"bound by {self._bound(used, busy)}"])

    def _bound(self, used: float, busy: dict[Stage, float]) -> str:
        fullest = max(busy, key=lambda stage: busy[stage])
        if used >= _USED:
            return "the processors, which were nearly always in use"
        if busy[fullest] >= _BUSY:
            return f"{fullest.name}, which was nearly always at work; more: {fullest.more}"
        waited = 1 - self.full_s / self.usage.clock
        if waited >= _BUSY:
            return f"what comes in: for {waited:.0%} of the time there was room for more records"
        return f"no stage alone; {fullest.name} was the busiest"


@contextmanager
def profiled(registry: CollectorRegistry, limits: IngestLimits) -> Iterator[None]:
    """Print at the end where the time inside the block went."""
    profile = Profile(registry, stages(limits))
    thread = threading.Thread(target=profile.watch, name="profile", daemon=True)
    thread.start()
    try:
        yield
    finally:
        profile.end()
        thread.join()
        for line in profile.text().split("\n"):
            terminal.complain(line)


def _read(registry: Collector) -> defaultdict[tuple[str, str], float]:
    """The values by name and by stage or reason, if they have one; else their sum."""
    found: defaultdict[tuple[str, str], float] = defaultdict(float)
    for family in registry.collect():
        for sample in family.samples:
            of = sample.labels.get("stage") or sample.labels.get("reason") or ""
            found[sample.name, of] += sample.value
    return found


def _processor_s(process: str) -> float:
    after_name = _text(Path(f"/proc/{process}/stat")).rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / _TICKS_PER_S if after_name else 0.0


def _text(file: Path) -> str:
    """The file's text; empty if the process or thread has just ended."""
    try:
        return file.read_text()
    except OSError:
        return ""
