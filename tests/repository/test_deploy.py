"""deploy/ as files: what can be known of them without an engine to build and run them."""

import importlib.util
import json
import re
import shlex
from fnmatch import fnmatch
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from pixtide.streams.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = [DEPLOY / "compose.yaml", DEPLOY / "compose.cpu.yaml"]
SETTINGS = {PREFIX + name.upper() for name in Settings.model_fields}


class _Loader(yaml.SafeLoader):
    """Knows Compose's `!reset`, which takes away what it stands at."""


_Loader.add_constructor("!reset", lambda _loader, _node: [])


def _compose(file: Path) -> dict[str, Any]:
    # S506: the loader is a SafeLoader.
    content: dict[str, Any] = yaml.load(file.read_text(), _Loader)
    return content


def _merged(base: Any, over: Any) -> Any:
    """As Compose merges mappings; sequences aren't needed here."""
    if isinstance(base, dict) and isinstance(over, dict):
        return base | {key: _merged(base.get(key), value) for key, value in over.items()}
    return over


GPU = _compose(COMPOSE[0])
CPU = _merged(GPU, _compose(COMPOSE[1]))
WORKERS = ["init", "ingest", "query", "web", "cli"]


def _instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions: name and the rest, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = (line.strip() for line in text.replace("\\\n", " ").splitlines())
    pairs = (line.partition(" ") for line in lines if line)
    return [(name, re.sub(r" +", " ", rest.strip())) for name, _, rest in pairs]


def _stages() -> dict[str, str]:
    """Each stage's name and what it is built from."""
    froms = (rest.split() for name, rest in _instructions() if name == "FROM")
    return {words[2]: words[0] for words in froms}


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.name)
def test_compose_files_follow_the_schema_of_compose(file: Path) -> None:
    _follows("compose-spec", _compose(file))


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("dependabot", ".github/dependabot.yml"),
        *(
            ("github-workflows", f".github/workflows/{name}.yml")
            for name in ("ci", "audit", "nightly")
        ),
    ],
)
def test_what_github_runs_follows_its_schema(schema: str, file: str) -> None:
    content = yaml.safe_load((ROOT / file).read_text())
    content = {str(key).replace("True", "on"): value for key, value in content.items()}
    _follows(schema, content)


def test_github_runs_no_more_than_make_and_what_ci_runs() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for file in (ROOT / ".github/workflows").glob("*.yml"):
        for job in yaml.safe_load(file.read_text())["jobs"].values():
            runs = job.get("strategy", {}).get("matrix", {}).get("include", [{}])
            commands = [
                line.replace("${{ matrix.run }}", run.get("run", ""))
                for run in runs
                for step in job["steps"]
                for line in step.get("run", "").splitlines()
            ]
            assert commands
            for command in commands:
                words = shlex.split(command)
                if words[:2] == ["bash", ".ci/run"] and len(words) > 2:
                    words = words[2:]  # which it runs alone
                known = words[0] == "make" and words[1] in targets
                audit = words[:2] == ["pipx", "run"] and words[2].startswith("pip-audit==")
                assert known or audit or words == ["bash", ".ci/run"], command


def test_the_bill_of_materials_has_each_package_of_the_lock_with_its_digests() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    bill = _script(DEPLOY / "sbom.py").bill_of_materials()
    packages = {f"{each['name']}=={each['version']}": each for each in bill["components"]}
    assert packages.keys() == set(re.findall(r"^[\w.-]+==[^\s;\\]+", lock, re.MULTILINE))
    assert len(packages) == len(bill["components"]) > 100
    digests = [digest["content"] for each in packages.values() for digest in each["hashes"]]
    assert digests == re.findall(r"--hash=sha256:(\w+)", lock)


def _script(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _follows(schema: str, content: object) -> None:
    file = resources.files("check_jsonschema") / f"builtin_schemas/vendor/{schema}.json"
    Draft7Validator(json.loads(file.read_text())).validate(content)


def test_the_chart_says_what_the_code_says() -> None:
    generate = _script(DEPLOY / "kubernetes/generate.py")
    for file, wanted in {
        "pixtide/files/topics.yaml": generate.topics_file(),
        "pixtide/files/users.yaml": generate.users_file(),
        "pixtide/files/alerts.yaml": generate.alerts_file(),
        "pixtide/values.schema.json": generate.values_schema(),
        "README.md": generate.readme(),
    }.items():
        written = (DEPLOY / "kubernetes" / file).read_text()
        assert written == wanted, "run: python deploy/kubernetes/generate.py"


@pytest.mark.parametrize("project", [GPU, CPU], ids=["gpu", "cpu"])
def test_compose_names_what_there_is(project: dict[str, Any]) -> None:
    services = project["services"]
    for service in services.values():
        for needed, how in service.get("depends_on", {}).items():
            needs_health = how["condition"] == "service_healthy"
            assert not needs_health or "test" in services[needed]["healthcheck"]
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in project["volumes"]
        assert "container_name" not in service  # or it couldn't be scaled
    for name in WORKERS:
        build = services[name]["build"]
        assert build["target"] in _stages()
        assert services[name]["image"] == f"pixtide:{build['target']}"
        assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()


def test_only_the_gpu_project_asks_for_a_gpu() -> None:
    assert GPU["services"]["ingest"]["deploy"]["resources"]["reservations"]["devices"]
    assert CPU["services"]["ingest"]["deploy"]["resources"]["reservations"]["devices"] == []
    assert GPU["services"]["ingest"]["build"]["target"] == "cuda"
    assert {CPU["services"][name]["build"]["target"] for name in WORKERS} == {"cpu"}


@pytest.mark.parametrize("project", [GPU, CPU], ids=["gpu", "cpu"])
def test_every_variable_of_the_workers_is_a_setting(
    project: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in WORKERS:
        given = dict(_dockerfile_environment(project["services"][name]["build"]["target"]))
        given |= project["services"][name]["environment"]
        settings = {k: _defaults(str(v)) for k, v in given.items() if k.startswith(PREFIX)}
        assert settings.keys() <= SETTINGS
        for variable, value in settings.items():
            monkeypatch.setenv(variable, value)
        assert Settings().kafka == "kafka:9092"


@pytest.mark.parametrize("name", ["ingest", "query"])
def test_workers_are_healthy_while_they_say_that_they_are_ready(name: str) -> None:
    assert "healthcheck" not in GPU["services"][name], "the image's holds"
    environment = dict(_dockerfile_environment("cuda"))
    [check] = [rest for kind, rest in _instructions() if kind == "HEALTHCHECK"]
    assert f"http://127.0.0.1:{environment['PIXTIDE_HEALTH_PORT']}/ready" in check
    assert environment["PIXTIDE_HEALTH_HOST"] == "0.0.0.0"  # the scraper is elsewhere


def test_the_page_is_healthy_while_it_says_that_it_is_ready() -> None:
    page = GPU["services"]["web"]
    [port] = page["ports"]
    inside = port.rpartition(":")[2]
    assert f"http://127.0.0.1:{inside}/ready" in page["healthcheck"]["test"][-1]
    assert int(inside) == Settings.model_fields["web_port"].default


def test_images_are_of_the_versions_that_the_tests_run_against() -> None:
    from tests.servers import kafka, weaviate

    assert GPU["services"]["kafka"]["image"] == kafka.IMAGE
    assert GPU["services"]["weaviate"]["image"] == weaviate.IMAGE


def test_init_finds_a_generation_in_what_index_list_prints() -> None:
    from datetime import UTC, datetime

    from pixtide.search.generations import Generation, LogIdentity

    generation = Generation(
        name="v1",
        model="starter",
        fingerprint="f" * 64,
        dimension=384,
        collection="images_v1",
        group="ingest.v1",
        log=LogIdentity(topic="images.uploaded", topic_id="t", partitions=6),
        created_at=datetime.now(UTC),
    )
    (script,) = GPU["services"]["init"]["command"]
    sought = re.search(r"grep --fixed-strings (\S+)", script)
    assert sought is not None
    (pattern,) = shlex.split(sought[1])
    assert pattern.replace("$$GENERATION", "v1").encode() in generation.to_json()


def test_dockerfile_builds_both_targets_from_stages_that_exist() -> None:
    stages = _stages()
    assert {"cpu", "cuda"} <= stages.keys()
    for name, source in stages.items():
        before = list(stages)[: list(stages).index(name)]
        assert source in [*before, "${PYTHON}"]


def test_dockerfile_copies_what_exists_and_isnt_ignored() -> None:
    # The last pattern that matches decides; `*` and `!` are all that the file uses.
    ignore = [p for p in (ROOT / ".dockerignore").read_text().splitlines() if p and p[0] != "#"]
    for name, rest in _instructions():
        if name != "COPY":
            continue
        flags = [word for word in rest.split() if word.startswith("--")]
        *sources, _ = [word for word in rest.split() if not word.startswith("--")]
        if flags:
            assert flags[0].removeprefix("--from=") in _stages()
            continue
        for source in sources:
            assert (ROOT / source).exists()
            matching = [p for p in ignore if fnmatch(source, p.lstrip("!"))]
            assert matching[-1].startswith("!"), f"{source} is in .dockerignore"


def test_dockerfile_ends_without_root_and_installs_by_hash_alone() -> None:
    instructions = _instructions()
    users = [rest for name, rest in instructions if name == "USER"]
    assert users == ["10001:10001"]
    for name, rest in instructions:
        for command in re.findall(r"pip install [^&]*", rest) if name == "RUN" else []:
            assert "--require-hashes" in command or "--verify-hashes" in command


def _dockerfile_environment(target: str) -> list[tuple[str, str]]:
    """What ENV sets in this stage and those it is built from; the nearest last."""
    stages = _stages()
    inherited = _dockerfile_environment(stages[target]) if target in stages else []
    stage, own = "", []
    for name, rest in _instructions():
        if name == "FROM":
            stage = rest.split()[2]
        elif name == "ENV" and stage == target:
            pairs = (word.partition("=") for word in rest.split())
            own += [(variable, value) for variable, _, value in pairs]
    return inherited + own


def _defaults(value: str) -> str:
    """The value where the shell's variables that it names are unset."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
