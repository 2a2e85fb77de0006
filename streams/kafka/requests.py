"""Requests to the brokers: how long each may take, and when one is repeated."""

import time
from collections.abc import Callable
from typing import TypeVar

from pixtide.schemas.errors import TransientError

T = TypeVar("T")

REQUEST_TIMEOUT_S = 10.0

#: After that a client has lost a request: it answers each, or says that it can't, in time.
ANSWERED_S = REQUEST_TIMEOUT_S + 2

STEP_S = 2.0

AGAIN_S = 0.1


def patiently(ask: Callable[[], T]) -> T:
    """Ask again, for a while, what can't be answered.

    A new topic's partition has no leader for a moment, and a group no coordinator where the
    broker that was it is restarted.
    """
    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    while True:
        try:
            return ask()
        except TransientError:
            if time.monotonic() > deadline:
                raise
        time.sleep(AGAIN_S)
