"""A real Prometheus, for the tests of dashboards and alerts."""

import json
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.servers.install import SetupError
from tests.servers.runners import ChildProcess, free_ports
from tests.servers.server import Server

_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class PrometheusServer(Server):
    """Scrapes `jobs` (a port of this machine by job name) every second, and follows `rules`."""

    def __init__(self, folder: Path, jobs: Mapping[str, str], rules: Path):
        (folder / "data").mkdir(parents=True)
        config = folder / "prometheus.yaml"
        scraped = [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
            for job, port in jobs.items()
        ]
        every_second = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        content = {"global": every_second, "rule_files": [str(rules)], "scrape_configs": scraped}
        config.write_text(yaml.safe_dump(content))
        [port] = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        command = [program("prometheus"), f"--config.file={config}"]
        command += [f"--storage.tsdb.path={folder / 'data'}"]
        command += [f"--web.listen-address=127.0.0.1:{port}"]
        super().__init__(f"Prometheus at {self.url}", ChildProcess(command, {}, folder))

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector that it is now: each `metric` with its labels, and its `value`."""
        result: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return result

    def rules(self) -> list[dict[str, Any]]:
        """Every rule, with its `health`."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, what: str, **arguments: str) -> Any:
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(arguments)}"
        try:
            with _http.open(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{arguments}: {error.read().decode()}") from error

    def _serves(self) -> bool:
        try:
            _http.open(f"{self.url}/-/ready", timeout=2).close()
        except (OSError, urllib.error.URLError):
            return False
        return True


def program(name: str) -> str:
    """`prometheus` or `promtool`. Raises SetupError where it isn't installed."""
    if (found := shutil.which(name)) is None:
        raise SetupError(f"there is no `{name}`: install the Debian package `prometheus`")
    return found
