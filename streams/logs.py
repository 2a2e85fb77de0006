"""Log lines for people or for machines, and what they say of the record that they are about."""

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal

LogFormat = Literal["text", "json"]

_about: ContextVar[dict[str, object]] = ContextVar("about", default={})  # noqa: B039  # replaced


@contextlib.contextmanager
def about(**fields: object) -> Iterator[None]:
    """Every line that this thread logs meanwhile has these fields, in JSON; None is left out."""
    known = {name: value for name, value in fields.items() if value is not None}
    token = _about.set(_about.get() | known)
    try:
        yield
    finally:
        _about.reset(token)


def handler_of(written_as: LogFormat) -> logging.Handler:
    """Writes lines to stderr."""
    handler = logging.StreamHandler()
    handler.addFilter(_tell)
    handler.setFormatter(_json() if written_as == "json" else logging.Formatter(_TEXT))
    return handler


_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def _json() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter  # of the extra `worker`

    return JsonFormatter(
        ["levelname", "name", "message"],
        rename_fields={"levelname": "level", "name": "logger"},
        timestamp=True,
    )


def _tell(record: logging.LogRecord) -> bool:
    """Give a line the fields that it is about; those that it brings itself stand."""
    for name, value in _about.get().items():
        if not hasattr(record, name):
            setattr(record, name, value)
    return True
