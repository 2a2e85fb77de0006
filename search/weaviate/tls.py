"""The CA bundle for Weaviate: one for its client (REST and gRPC) and for our own REST calls."""

import ssl
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import httpx
from weaviate import WeaviateClient

from pixtide.schemas.errors import UsageError


class Trust:
    """The CAs of a PEM file; without one, those that the libraries include."""

    def __init__(self, ca_file: Path | None) -> None:
        """Read the file. Raises UsageError if it can't be read or holds no certificate."""
        self._context: ssl.SSLContext | None = None
        #: For gRPC.
        self.credentials: Any = None
        if ca_file is None:
            return
        try:
            self._context = ssl.create_default_context(cafile=ca_file)
            self.credentials = grpc.ssl_channel_credentials(ca_file.read_bytes())
        except OSError as error:  # ssl.SSLError is one
            raise UsageError(f"Weaviate's CA file {ca_file}: {error}") from error

    @property
    def verify(self) -> ssl.SSLContext | bool:
        """For httpx."""
        return self._context or True

    def have_of(self, client: WeaviateClient) -> None:
        """Make a client that isn't connected trust them over REST, for which it has no setting."""
        if self._context is None:
            return
        connection = client._connection

        def make(_colour: str) -> httpx.Client:
            return httpx.Client(headers=connection._headers, verify=self.verify, trust_env=False)

        setattr(connection, "_make_client", make)  # noqa: B010
