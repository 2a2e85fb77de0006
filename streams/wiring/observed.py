"""A worker process as seen from outside: its logs, health and metrics."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pixtide.streams.process.health import Health
from pixtide.streams.process.health_server import serving
from pixtide.streams.process.metrics import Instruments, ProcessMetrics
from pixtide.streams.process.signals import log_to_stderr, readiness
from pixtide.streams.settings import Settings


@dataclass(frozen=True)
class Vitals:
    """The health and the metrics of a process."""

    health: Health
    instruments: Instruments = field(default_factory=Instruments)


@contextlib.contextmanager
def seen_from_outside(
    settings: Settings, unproven: Mapping[str, str], ready_file: Path | None
) -> Iterator[Vitals]:
    """Log as the settings say, answer probes and scrapes, and keep the ready file while ready.

    Args:
        unproven: the parts that must report before the process is ready, and why they aren't ready
            yet.
    """
    log_to_stderr(settings.log)
    with contextlib.ExitStack() as stack:
        vitals = Vitals(Health(unproven, stack.enter_context(readiness(ready_file))))
        health = vitals.health
        ProcessMetrics(vitals.instruments).ready.set_function(lambda: not health.problems)
        if settings.health_port:
            registry = vitals.instruments.registry
            stack.enter_context(
                serving(settings.health_host, settings.health_port, vitals.health, registry)
            )
        stack.enter_context(vitals.health.checked())
        yield vitals
