"""OAuth tokens for aiokafka, which doesn't get them itself; librdkafka gets its own."""

import asyncio
import ssl
import threading
import time
from collections.abc import Callable

import httpx
from aiokafka.abc import AbstractTokenProvider

from pixtide.schemas.errors import UsageError
from pixtide.streams.kafka.connection import Sasl, Tokens

_ASK_S = 10.0
#: Ask for a new token after this share of a token's life, as librdkafka does.
_USED = 0.8
#: How long to use a token whose life is unknown.
_LIFE_S = 60.0


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """Returns its current token, or a new one. Safe to share between event loops.

    Raises:
        UsageError: the CA bundle is not valid.
    """

    def __init__(
        self, sasl: Sasl, tokens: Tokens, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sasl = sasl
        self._tokens = tokens
        self._clock = clock
        self._lock = threading.Lock()
        self._token, self._until = "", clock()
        try:
            self._trusted = ssl.create_default_context(cafile=tokens.ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise UsageError(f"the CA file for Kafka's tokens: {error}") from error

    async def token(self) -> str:
        """A valid token. Raises OSError if it can't get one, as aiokafka expects."""
        return await asyncio.get_running_loop().run_in_executor(None, self._current)

    def _current(self) -> str:
        with self._lock:
            if self._clock() >= self._until:
                self._token, life_s = self._ask()
                self._until = self._clock() + life_s * _USED
            return self._token

    def _ask(self) -> tuple[str, float]:
        wanted = {"grant_type": "client_credentials"}
        if self._tokens.scope:
            wanted["scope"] = self._tokens.scope
        try:
            answer = httpx.post(
                self._tokens.url,
                data=wanted,
                auth=(self._sasl.username, self._sasl.password),
                timeout=_ASK_S,
                verify=self._trusted,
                trust_env=False,
            ).raise_for_status()
            said = answer.json()
            return str(said["access_token"]), float(said.get("expires_in") or _LIFE_S)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            raise OSError(f"no token from {self._tokens.url}: {error!r}") from error
