"""The chart and the Compose files, judged by the tools that would install them."""

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from pixtide.schemas.topics import topics
from pixtide.streams.ingest.worker import GRACE_S
from pixtide.streams.kafka.acls import grants
from pixtide.streams.settings import PREFIX, Settings
from tests.repository.test_docs import generator
from tests.servers.deploy_tools import KUBERNETES, DeployTools

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "kubernetes/pixtide"
VALUES = {
    "defaults": [],
    "laptop": ["--values", str(DEPLOY / "kubernetes/laptop.yaml")],
    "production": ["--values", str(DEPLOY / "kubernetes/production.yaml")],
    "servers that are there already": [
        *("--set", "kafka.create=false,kafka.manage=false,scaling=false,network.policies=false"),
        *("--set", "kafka.address=kafka:9092,kafka.security=plaintext,web.replicas=0"),
        *("--set", "weaviate.url=https://weaviate.example.org"),
    ],
}
#: Values with which each option matters in one of the two.
ALL_IN_USE: dict[str, dict[str, Any]] = {
    "created here": {
        "kafka": {"address": "kafka:9092"},  # for when `create` is taken away
        "prometheusOperator": {"create": True},
        "ingest": {"gpu": 1},
        "web": {"host": "pixtide.example.org"},
    },
    "there already": {
        "kafka": {"create": False, "address": "kafka:9092"},
        "weaviate": {"url": "https://weaviate.example.org"},
        "originals": {"url": "s3://pictures"},
    },
}
Rendered = dict[tuple[str, str], dict[str, Any]]

pytestmark = pytest.mark.slow


def template(tools: DeployTools, *values: str) -> str:
    """What the chart makes of these values, as it would be sent to Kubernetes."""
    return tools.run(tools.helm, "template", "pixtide", str(CHART), *values)


def rendered(text: str) -> Rendered:
    """The same by kind and name."""
    found = [each for each in yaml.safe_load_all(text) if each]
    named = {(each["kind"], each["metadata"]["name"]): each for each in found}
    assert len(named) == len(found)
    return named


@pytest.fixture(scope="module", params=VALUES, ids=lambda name: name.replace(" ", "-"))
def text(request: pytest.FixtureRequest, deploy_tools: DeployTools) -> str:
    return template(deploy_tools, *VALUES[request.param])


@pytest.fixture(scope="module")
def manifests(text: str) -> Rendered:
    return rendered(text)


def pods(manifests: Rendered) -> Iterator[tuple[str, dict[str, Any]]]:
    """The pod of each process: the name of what makes it, and its spec."""
    for (kind, name), each in manifests.items():
        if kind in ("Deployment", "Job"):
            yield name, each["spec"]["template"]["spec"]


def test_helm_finds_nothing_to_complain_about(deploy_tools: DeployTools) -> None:
    said = deploy_tools.run(deploy_tools.helm, "lint", "--strict", str(CHART))
    assert "[WARNING]" not in said


def test_each_resource_follows_its_schema(
    deploy_tools: DeployTools, text: str, manifests: Rendered, tmp_path: Path
) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(text)
    said = deploy_tools.run(deploy_tools.kubeconform, *_judged_by(deploy_tools), str(file))
    counted = json.loads(said)["summary"]
    assert counted["valid"] == len(manifests)
    assert counted["invalid"] == counted["errors"] == counted["skipped"] == 0


def test_a_misspelt_field_is_found(deploy_tools: DeployTools, tmp_path: Path) -> None:
    text = template(deploy_tools, *VALUES["production"])
    for right, wrong in (
        ("readinessProbe", "readynessProbe"),
        ("minReplicaCount", "minimumReplicaCount"),
        ("patternType", "pattern"),
        ("podMetricsEndpoints", "endpoints"),
        ("maxUnavailable: 1", 'maxUnavailable: "1" \n  nonsense: 1'),
    ):
        assert right in text
        file = tmp_path / "wrong.yaml"
        file.write_text(text.replace(right, wrong))
        done = subprocess.run(
            [str(deploy_tools.kubeconform), *_judged_by(deploy_tools), str(file)],
            check=False,
            capture_output=True,
        )
        assert done.returncode == 1, right


def _judged_by(tools: DeployTools) -> list[str]:
    named = f"{tools.schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    judged = ["-strict", "-summary", "-output", "json", "-schema-location", named]
    return [*judged, "-kubernetes-version", KUBERNETES]


@pytest.mark.parametrize(
    "wrong", ["nonsense=1", "web.replica=1", "query.minReplicas=-1", "weaviate.replication=0"]
)
def test_an_option_that_is_none_is_refused(deploy_tools: DeployTools, wrong: str) -> None:
    command = [str(deploy_tools.helm), "template", "pixtide", str(CHART), "--set", wrong]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1 and wrong.partition("=")[0].split(".")[-1] in done.stderr


def _another(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return "another"
        case [{}, *_]:
            return [*value, {"name": "another"}]
        case list():
            return [7]
        case {"requests": _, **_more}:
            return {"requests": {"cpu": "7"}}
        case _:
            return value | {"another": "x"}


def test_each_documented_option_changes_what_is_made(
    deploy_tools: DeployTools, tmp_path: Path
) -> None:
    options = [
        (path, value) for path, value, _ in generator("generate", DEPLOY / "kubernetes").options()
    ]
    assert len(options) > 60

    def made(name: str, base: dict[str, Any], path: str = "", value: Any = None) -> str:
        values = json.loads(json.dumps(base))
        *parents, last = path.split(".")
        into = values
        for parent in parents:
            into = into.setdefault(parent, {})
        if path:
            into[last] = value
        file = tmp_path / f"{name}.{path}.json"
        file.write_text(json.dumps(values))
        return template(deploy_tools, "--values", str(file))

    before = {name: made(name, base) for name, base in ALL_IN_USE.items()}

    def changes(option: tuple[str, Any]) -> bool:
        path, value = option
        return any(
            made(name, base, path, _another(value)) != before[name]
            for name, base in ALL_IN_USE.items()
        )

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(changes, options))
    assert [path for (path, _), good in zip(options, done, strict=True) if not good] == []


def test_every_variable_is_a_setting(manifests: Rendered, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = manifests["ConfigMap", "pixtide-settings"]["data"]
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    secrets = {"PIXTIDE_KAFKA_PASSWORD_FILE", "PIXTIDE_WEAVIATE_API_KEY_FILE"}
    secrets.add("PIXTIDE_WEB_TOKEN_FILE")
    for _, pod in pods(manifests):
        assert pod["enableServiceLinks"] is False, "or a service's name becomes a setting"
        [container] = pod["containers"]
        given = shared | {each["name"]: each["value"] for each in container["env"]}
        ours = {name for name in given if name.startswith(PREFIX)}
        assert ours <= known | secrets
        for name in ours & known:
            monkeypatch.setenv(name, given[name])
    assert Settings().kafka == shared["PIXTIDE_KAFKA"]


def test_behind_an_ingress_clients_are_told_apart(deploy_tools: DeployTools) -> None:
    def settings_with(*values: str) -> dict[str, str]:
        made: dict[str, str] = rendered(template(deploy_tools, *values))[
            "ConfigMap", "pixtide-settings"
        ]["data"]
        return made

    host = ("--set", "web.host=pixtide.example.org")
    assert "PIXTIDE_WEB_PROXIES" not in settings_with()
    assert "10.0.0.0/8" in settings_with(*host)["PIXTIDE_WEB_PROXIES"].split(",")
    narrow = settings_with(*host, "--set", "web.proxies={10.1.0.0/16,10.2.0.0/16}")
    assert narrow["PIXTIDE_WEB_PROXIES"] == "10.1.0.0/16,10.2.0.0/16"
    own = settings_with(*host, "--set", "settings.PIXTIDE_WEB_PROXIES=10.1.2.3")
    assert own["PIXTIDE_WEB_PROXIES"] == "10.1.2.3"


def test_pods_have_no_rights_that_they_do_not_need(manifests: Rendered) -> None:
    for name, pod in pods(manifests):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        [container] = pod["containers"]
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        assert mounted.keys() == {each["name"] for each in pod["volumes"]}, name
        files = [each["value"] for each in container["env"] if each["name"].endswith("_FILE")]
        for file in files:  # each secret is a file of a volume that is mounted there
            assert any(fnmatch(file, f"{path}/*") for path in mounted.values()), file
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


def test_processes_are_probed_where_they_tell_the_truth_and_may_finish(
    manifests: Rendered,
) -> None:
    for (kind, name), each in manifests.items():
        if kind != "Deployment":
            continue
        pod = each["spec"]["template"]["spec"]
        [container] = pod["containers"]
        assert container["livenessProbe"]["httpGet"] == {"path": "/live", "port": "health"}
        assert container["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "health"}
        assert "startupProbe" not in container
        assert pod["terminationGracePeriodSeconds"] >= 30
        if "ingest" in name:  # it finishes its batch, then its threads: GRACE_S each
            assert pod["terminationGracePeriodSeconds"] > 2 * GRACE_S
        budget = manifests["PodDisruptionBudget", name]["spec"]
        assert budget["maxUnavailable"] == 1
        assert budget["selector"] == each["spec"]["selector"]
        labels = each["spec"]["template"]["metadata"]["labels"]
        assert each["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_topics_and_users_are_those_of_the_code(deploy_tools: DeployTools) -> None:
    made = rendered(template(deploy_tools))
    table = {topic.name: topic for topic in topics(embedded=False)}
    found = {name: each["spec"] for (kind, name), each in made.items() if kind == "KafkaTopic"}
    assert found.keys() == table.keys()
    for name, spec in found.items():
        assert spec["partitions"] == table[name].partitions and spec["replicas"] == 3
        assert spec["config"] == table[name].config()
    users = {name for kind, name in made if kind == "KafkaUser"}
    assert users == {f"pixtide-{process}" for process in grants()}
    for _, pod in pods(made):
        [volume] = [each for each in pod["volumes"] if each["name"] == "kafka"]
        assert volume["secret"]["secretName"] in users


def test_workers_come_and_go_by_the_lag_of_their_own_group(deploy_tools: DeployTools) -> None:
    values = [*VALUES["production"], "--set", "ingest.generations[1].name=v2"]
    made = rendered(template(deploy_tools, *values))
    live, building = (
        made["ScaledObject", "pixtide-ingest-v1"],
        made["Deployment", "pixtide-ingest-v2"],
    )
    assert live["spec"]["minReplicaCount"] == 0
    groups = {trigger["metadata"]["consumerGroup"] for trigger in live["spec"]["triggers"]}
    assert groups == {"ingest.v1"}
    for (kind, name), each in made.items():
        if kind == "ScaledObject":
            target = made["Deployment", each["spec"]["scaleTargetRef"]["name"]]
            assert "replicas" not in target["spec"], f"{name}: an upgrade would undo the scaling"
            for trigger in each["spec"]["triggers"]:
                assert trigger["metadata"]["topic"] in {t.name for t in topics(embedded=False)}
    [gpu] = made["Deployment", "pixtide-ingest-v1"]["spec"]["template"]["spec"]["containers"]
    [cpu] = building["spec"]["template"]["spec"]["containers"]
    rolled = made["Deployment", "pixtide-ingest-v1"]["spec"]["strategy"]["rollingUpdate"]
    assert rolled == {"maxSurge": 0, "maxUnavailable": 1}, "there may be no GPU to spare"
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == 1 and gpu["image"].endswith("cuda")
    assert "nvidia.com/gpu" not in cpu["resources"]["limits"] and cpu["image"].endswith("cpu")


def test_prometheus_finds_each_worker_under_the_job_that_alerts_know(
    deploy_tools: DeployTools,
) -> None:
    made = rendered(template(deploy_tools, *VALUES["production"]))
    for kind in ("ingest", "query"):
        monitor = made["PodMonitor", f"pixtide-{kind}"]["spec"]
        [endpoint] = monitor["podMetricsEndpoints"]
        [job, _] = endpoint["relabelings"]
        assert job == {"targetLabel": "job", "replacement": f"pixtide-{kind}"}
        wanted = monitor["selector"]["matchLabels"].items()
        found = [
            each["spec"]["template"]
            for (resource, _), each in made.items()
            if resource == "Deployment"
            and wanted <= each["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert len(found) == 1
        [container] = found[0]["spec"]["containers"]
        assert endpoint["port"] in {port["name"] for port in container["ports"]}
    rules = made["PrometheusRule", "pixtide"]["spec"]
    assert rules == yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())


def test_each_pod_reaches_what_it_needs_and_only_those_that_fetch_the_world(
    deploy_tools: DeployTools,
) -> None:
    made = rendered(template(deploy_tools))
    policies = {name: p["spec"] for (kind, name), p in made.items() if kind == "NetworkPolicy"}
    world = [
        name
        for name, spec in policies.items()
        if any("ipBlock" in to for rule in spec.get("egress", ()) for to in rule["to"])
    ]
    assert world == ["pixtide-fetching"]
    [rule] = policies["pixtide-fetching"]["egress"]
    assert {each["port"] for each in rule["ports"]} == {80, 443}
    assert "10.0.0.0/8" in rule["to"][0]["ipBlock"]["except"]
    reached = policies["pixtide-servers"]["egress"]
    assert {each["port"] for rule in reached for each in rule["ports"]} == {53, 9093, 8080, 50051}
    [broker] = [rule for rule in reached if rule["ports"][0]["port"] == 9093]
    assert broker["to"] == [
        {"podSelector": {"matchLabels": {"strimzi.io/cluster": "pixtide-kafka"}}}
    ]


@pytest.mark.parametrize(
    "files", [["compose.yaml"], ["compose.yaml", "compose.cpu.yaml"]], ids=["gpu", "cpu"]
)
def test_compose_itself_accepts_the_files(deploy_tools: DeployTools, files: list[str]) -> None:
    project = yaml.safe_load(
        deploy_tools.run(deploy_tools.compose, *(str(DEPLOY / file) for file in files))
    )
    services = project["services"]
    published = {name: each["ports"] for name, each in services.items() if "ports" in each}
    assert {name: [port["target"] for port in ports] for name, ports in published.items()} == {
        "kafka": [29092],
        "web": [8080],
    }
    assert all(port["host_ip"] == "127.0.0.1" for ports in published.values() for port in ports)
    reserved = services["ingest"]["deploy"]["resources"].get("reservations", {})
    assert bool(reserved.get("devices")) == (len(files) == 1)
