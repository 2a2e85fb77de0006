"""A server that speaks S3: moto's, a child process of ours. It keeps everything in memory."""

import sys
import urllib.error
import urllib.request
from pathlib import Path

import obstore
from obstore.store import S3Store

from tests.servers.runners import ChildProcess, Runner, free_ports
from tests.servers.server import Server

#: Never through a proxy that the environment may name.
_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_VERSIONED = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"


class S3Server(Server):
    """An S3 for tests; `environment` is how its clients find it."""

    def __init__(self, port: int, runner: Runner):
        super().__init__(f"S3 at port {port}", runner)
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
        }

    def create_bucket(self, name: str) -> S3Store:
        """A new bucket that keeps versions."""
        self._send("PUT", f"/{name}", b"")
        self._send("PUT", f"/{name}?versioning", _VERSIONED)
        return S3Store(
            name,
            endpoint=self.url,
            region="us-east-1",
            access_key_id="tests",
            secret_access_key="tests",
            client_options={"allow_http": True},
        )

    def keys(self, bucket: S3Store) -> list[str]:
        """What a bucket holds now."""
        return sorted(meta["path"] for page in obstore.list(bucket) for meta in page)

    def deny(self, *, everyone: bool) -> None:
        """From now on, refuse all who have no account here, which is everyone; or nobody."""
        self._send("POST", "/moto-api/reset-auth", b"0" if everyone else b"inf")

    def _serves(self) -> bool:
        try:
            self._send("GET", "/moto-api/data.json", None)
        except (OSError, urllib.error.URLError):
            return False
        return True

    def _send(self, method: str, path: str, body: bytes | None) -> None:
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        _http.open(request, timeout=10).close()


def s3_server(folder: Path) -> S3Server:
    """An S3 that isn't launched yet, with its log in `folder`."""
    [port] = free_ports(1)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    return S3Server(port, ChildProcess(command, {}, folder))
