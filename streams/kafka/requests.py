"""Requests to the brokers: how long each may take, and when to repeat one."""

import time
from collections.abc import Callable
from typing import TypeVar

from pixtide.schemas.errors import TransientError

T = TypeVar("T")

REQUEST_TIMEOUT_S = 10.0

#: After this, a client has lost the request: it answers each one in time, or says that it can't.
ANSWERED_S = REQUEST_TIMEOUT_S + 2

STEP_S = 2.0

AGAIN_S = 0.1


def patiently(ask: Callable[[], T]) -> T:
    """Repeat, for a while, a request that can't be answered.

    A new topic's partition has no leader for a moment. Nor has a group a coordinator while its
    broker restarts.
    """
    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    while True:
        try:
            return ask()
        except TransientError:
            if time.monotonic() > deadline:
                raise
        time.sleep(AGAIN_S)
