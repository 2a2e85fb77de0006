"""Servers that speak Azure's and Google's protocols: Azurite and fake-gcs-server, kept programs.

Both keep everything in memory. Azurite checks signatures; fake-gcs-server lets everybody in, and
takes no uploads as obstore makes them.
"""

import base64
import email.utils
import hashlib
import hmac
import json
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import obstore
from obstore.store import from_url

from tests.servers.install import (
    Say,
    SetupError,
    check_go,
    complete,
    kept_as,
    run_slowly,
)
from tests.servers.runners import ChildProcess, Runner, free_ports
from tests.servers.server import Server

AZURITE_VERSION = "3.35.0"  # the last that runs on Node 20
FAKE_GCS_VERSION = "1.56.1"

_AZURITE, _AZURITE_PROGRAM = f"azurite-{AZURITE_VERSION}", "node_modules/.bin/azurite-blob"
_FAKE_GCS, _FAKE_GCS_PROGRAM = f"fake-gcs-server-{FAKE_GCS_VERSION}", "fake-gcs-server"
#: Everybody's: https://learn.microsoft.com/azure/storage/common/storage-connect-azurite
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_API = "2021-12-02"
#: Never through a proxy that the environment may name.
_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class BucketServer(Server):
    """A server of buckets; `scheme` begins their URLs, `environment` is how clients find it."""

    scheme = ""

    def __init__(self, port: int, runner: Runner) -> None:
        super().__init__(f"{type(self).__name__} at port {port}", runner)
        self.url = f"http://127.0.0.1:{port}"
        self.environment: Mapping[str, str] = {}

    def create_bucket(self, name: str) -> str:
        """A new bucket; its URL."""
        self._create(name)
        return f"{self.scheme}://{name}"

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Put an object into a bucket of that URL."""
        obstore.put(from_url(bucket), key, data)

    def _create(self, name: str) -> None:
        raise NotImplementedError  # each kind has its own way

    def _serves(self) -> bool:
        try:
            _http.open(f"{self.url}/", timeout=2).close()
        except urllib.error.HTTPError:
            return True  # it answers
        except OSError:
            return False
        return True


class Azurite(BucketServer):
    """Azure's blobs."""

    scheme = "az"

    def __init__(self, port: int, runner: Runner) -> None:
        super().__init__(port, runner)
        self.environment = {
            "AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": _KEY,
            "AZURE_STORAGE_ENDPOINT": f"{self.url}/{_ACCOUNT}",
            "AZURE_ALLOW_HTTP": "true",
        }

    def _create(self, name: str) -> None:
        """https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key."""
        sent = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": _API}
        lines = ["PUT" + 11 * "\n", *(f"{header}:{value}" for header, value in sent.items())]
        lines += [f"/{_ACCOUNT}/{_ACCOUNT}/{name}", "restype:container"]
        key, said = base64.b64decode(_KEY), "\n".join(lines).encode()
        signature = base64.b64encode(hmac.digest(key, said, hashlib.sha256)).decode()
        sent |= {"authorization": f"SharedKey {_ACCOUNT}:{signature}", "content-length": "0"}
        address = f"{self.url}/{_ACCOUNT}/{name}?restype=container"
        _http.open(urllib.request.Request(address, headers=sent, method="PUT")).close()


class FakeGcs(BucketServer):
    """Google's objects."""

    scheme = "gs"

    def __init__(self, port: int, runner: Runner, folder: Path) -> None:
        super().__init__(port, runner)
        account = folder / "account.json"
        nobody = {"client_email": "", "private_key": "", "private_key_id": ""}
        account.write_text(json.dumps(nobody | {"gcs_base_url": self.url, "disable_oauth": True}))
        self.environment = {"GOOGLE_SERVICE_ACCOUNT": str(account), "GOOGLE_ALLOW_HTTP": "true"}

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """By the JSON protocol."""
        named = urllib.parse.urlencode({"uploadType": "media", "name": key})
        name = bucket.removeprefix("gs://")
        self._post(f"/upload/storage/v1/b/{name}/o?{named}", data, "image/jpeg")

    def _create(self, name: str) -> None:
        named = json.dumps({"name": name}).encode()
        self._post("/storage/v1/b?project=tests", named, "application/json")

    def _post(self, path: str, data: bytes, kind: str) -> None:
        _http.open(urllib.request.Request(self.url + path, data, {"content-type": kind})).close()


def azurite(folder: Path, say: Say) -> Azurite:
    """An Azurite that isn't launched yet, with its log in `folder`."""
    [port] = free_ports(1)
    program = kept_as(_AZURITE, [_AZURITE_PROGRAM], _fetch_azurite, say) / _AZURITE_PROGRAM
    options = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    command = [str(program), *options, "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    return Azurite(port, ChildProcess(command, {}, folder))


def fake_gcs(folder: Path, say: Say) -> FakeGcs:
    """A fake-gcs-server that isn't launched yet, with its log in `folder`."""
    [port] = free_ports(1)
    program = kept_as(_FAKE_GCS, [_FAKE_GCS_PROGRAM], _build_fake_gcs, say) / _FAKE_GCS_PROGRAM
    command = [str(program), "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1"]
    command += ["-port", str(port), "-public-host", f"127.0.0.1:{port}"]
    return FakeGcs(port, ChildProcess(command, {}, folder), folder)


def check() -> None:
    """Raises SetupError where one of the two can't be had."""
    if not complete(_AZURITE, [_AZURITE_PROGRAM]) and shutil.which("npm") is None:
        raise SetupError("Azurite is fetched by npm: install Node 20 with npm")
    if not complete(_FAKE_GCS, [_FAKE_GCS_PROGRAM]):
        check_go("fake-gcs-server")


def prepare(say: Say) -> None:
    """Fetch the one and build the other."""
    kept_as(_AZURITE, [_AZURITE_PROGRAM], _fetch_azurite, say)
    kept_as(_FAKE_GCS, [_FAKE_GCS_PROGRAM], _build_fake_gcs, say)


def _fetch_azurite(into: Path, say: Say) -> None:
    npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
    run_slowly(
        f"Azurite {AZURITE_VERSION} by npm",
        [*npm, "--prefix", str(into), f"azurite@{AZURITE_VERSION}"],
        {},
        say,
    )


def _build_fake_gcs(into: Path, say: Say) -> None:
    run_slowly(
        f"fake-gcs-server {FAKE_GCS_VERSION} by go install",
        ["go", "install", "-v", f"github.com/fsouza/fake-gcs-server@v{FAKE_GCS_VERSION}"],
        {"CGO_ENABLED": "0", "GOBIN": str(into)},
        say,
    )
