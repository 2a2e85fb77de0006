"""Alerts and dashboards, judged by Prometheus: against written series, and a running stack's."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.end_to_end.test_seen_from_outside import wait_for
from tests.servers import KafkaServer, WeaviateServer
from tests.servers.prometheus import PrometheusServer, program
from tests.servers.runners import free_ports
from tests.support.deployments import OnServers, on_servers
from tests.support.pictures import jpeg

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus/alerts.yaml"
DASHBOARDS = sorted((DEPLOY / "grafana").glob("*.json"))

pytestmark = pytest.mark.slow


def promtool(*arguments: str) -> None:
    done = subprocess.run(
        [program("promtool"), *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=ALERTS.parent,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    promtool("check", "config", "prometheus.yaml")
    promtool("test", "rules", "alerts_test.yaml")
    cases = [
        case
        for group in yaml.safe_load((ALERTS.parent / "alerts_test.yaml").read_text())["tests"]
        for case in group["alert_rule_test"]
    ]
    named = {alert["alert"] for alert in alerts()}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == named
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == named


@pytest.fixture(scope="module")
def prometheus(
    tmp_path_factory: pytest.TempPathFactory, kafka: KafkaServer, weaviate: WeaviateServer
) -> Iterator[PrometheusServer]:
    """It looks at a worker and a query consumer that have had pictures, bad ones and requests."""
    folder = tmp_path_factory.mktemp("prometheus")
    ports = dict(zip(("ingest", "query"), map(str, free_ports(2)), strict=True))
    stack = on_servers(
        folder,
        kafka,
        weaviate,
        real_model=False,
    )
    stack.create()
    jobs = {f"pixtide-{name}": port for name, port in ports.items()}
    server = PrometheusServer(folder / "prometheus", jobs, ALERTS)
    try:
        for name, port in ports.items():
            ready = stack.home / name
            spawned = (name, name, "--ready-file", str(ready))
            stack.spawn(*spawned, ready=ready, PIXTIDE_HEALTH_PORT=port)
        use(stack, "first")  # some series begin with what happens first
        server.start()
        wait_for(lambda: len(server.query("pixtide_ready == 1")) == 2, seconds=180)
        wait_for(lambda: server.query('pixtide_query_stage_seconds_count{stage="search"} > 0'))
        use(stack, "second")
        yield server
        stack.stop()
    finally:
        for name in list(stack.processes):
            stack.kill(name)
        server.close()


def use(stack: OnServers, name: str) -> None:
    """Pictures that are indexed, one that isn't, and a search."""
    pictures = stack.folder / name
    pictures.mkdir()
    for number in range(3):
        (pictures / f"{number}.jpg").write_bytes(jpeg(number + len(name)))
    (pictures / "text.jpg").write_text("not a picture")
    stack.publish(str(pictures), code=1)
    stack.search(name)


def panels() -> Iterator[tuple[str, str, str]]:
    """Each query of each dashboard: where, the labels that its legend names, PromQL."""
    for file in DASHBOARDS:
        board = json.loads(file.read_text())
        for panel in board["panels"]:
            for target in panel["targets"]:
                query = target["expr"].replace("$generation", ".*")
                where = f"{file.stem}: {panel['title']}"
                yield where, target["legendFormat"], query.replace("$__rate_interval", "5m")


def test_each_query_of_each_dashboard_shows_something(prometheus: PrometheusServer) -> None:
    assert len(DASHBOARDS) == 4
    for where, legend, query in panels():

        def shown(query: str = query) -> list[dict[str, Any]]:
            return [one for one in prometheus.query(query) if one["value"][1] != "NaN"]

        found = wait_for(shown, seconds=120)
        named = set(re.findall(r"\{\{(\w+)\}\}", legend))
        assert all(named == one["metric"].keys() for one in found), where


def test_each_alert_looks_at_metrics_that_there_are(prometheus: PrometheusServer) -> None:
    rules = wait_for(
        lambda: (found := prometheus.rules()) and all(r["health"] == "ok" for r in found) and found
    )
    assert len(rules) == len(alerts())
    for alert in alerts():
        selectors = re.findall(r"(?:pixtide|process)_\w+(?:\{[^}]*\})?|up\{[^}]*\}", alert["expr"])
        assert selectors
        for selector in selectors:
            assert prometheus.query(selector), f"{alert['alert']}: {selector}"
        grouped = r"by \(([^)]*)\) \((?:rate\(|increase\()?(\w+)"
        for labels, metric in re.findall(grouped, alert["expr"]):
            found = prometheus.query(metric)
            assert set(labels.split(", ")) <= found[0]["metric"].keys(), alert["alert"]
