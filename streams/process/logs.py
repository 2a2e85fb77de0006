"""Log lines for people or for machines, with fields of the record that they are about."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Literal

from pixtide.streams.escaping import visible

LogFormat = Literal["text", "json"]

_about: ContextVar[dict[str, object]] = ContextVar("about", default={})  # noqa: B039  # replaced


@contextlib.contextmanager
def about(**fields: object) -> Iterator[None]:
    """Add these fields to every JSON log line of this thread meanwhile; None is left out."""
    known = {name: value for name, value in fields.items() if value is not None}
    token = _about.set(_about.get() | known)
    try:
        yield
    finally:
        _about.reset(token)


def handler_of(written_as: LogFormat) -> logging.Handler:
    """A handler that writes lines to stderr."""
    handler = logging.StreamHandler()
    handler.addFilter(Seldom("aiokafka"))
    handler.addFilter(_tell)
    handler.setFormatter(_json() if written_as == "json" else _Text(_TEXT))
    return handler


_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _Text(logging.Formatter):
    """Keeps each message on one line and indents tracebacks, whatever the input contains."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # as logging has it
        record.message = visible(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        first, *traceback = super().format(record).split("\n")
        return "\n    ".join([first, *map(visible, traceback)])


class Seldom(logging.Filter):
    """Passes a repeated line of a library only now and then, with the number left out.

    aiokafka looks for a lost broker ten times a second, and logs two lines each time.
    """

    _MOST_LINES = 1000

    def __init__(
        self, library: str, *, every_s: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._library = library
        self._every_s = every_s
        self._clock = clock
        self._said: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log a line now."""
        if record.name.partition(".")[0] != self._library:
            return True
        now, line = self._clock(), (record.name, record.getMessage())
        said_at, left_out = self._said.get(line, (now - self._every_s, 0))
        if now - said_at < self._every_s:
            self._said[line] = said_at, left_out + 1
            return False
        if len(self._said) >= self._MOST_LINES:
            self._said.clear()
        self._said[line] = now, 0
        if left_out:
            record.msg, record.args = f"{line[1]} (and {left_out} times more since)", None
        return True


def _json() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter  # from the extra `worker`

    return JsonFormatter(
        ["levelname", "name", "message"],
        rename_fields={"levelname": "level", "name": "logger"},
        timestamp=True,
    )


def _tell(record: logging.LogRecord) -> bool:
    """Add the fields to a line; fields that the line has already stay."""
    for name, value in _about.get().items():
        if not hasattr(record, name):
            setattr(record, name, value)
    return True
