"""deploy/ as files: what can be known of them without an engine to build and run them."""

import json
import re
import shlex
import shutil
import subprocess
from fnmatch import fnmatch
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from streams.settings import PREFIX, Settings

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
    jsonschema = pytest.importorskip("jsonschema")
    carries_it = pytest.importorskip("check_jsonschema").__name__
    schema = resources.files(carries_it) / "builtin_schemas/vendor/compose-spec.json"
    jsonschema.Draft7Validator(json.loads(schema.read_text())).validate(_compose(file))


@pytest.mark.skipif(
    shutil.which("docker") is None
    or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode != 0,
    reason="the Docker client has no Compose plugin",
)
@pytest.mark.parametrize("files", [COMPOSE[:1], COMPOSE], ids=["gpu", "cpu"])
def test_compose_itself_accepts_the_files(files: list[Path]) -> None:
    named = [word for file in files for word in ("--file", str(file))]
    done = subprocess.run(
        ["docker", "compose", *named, "config", "--quiet"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


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


def test_images_are_of_the_versions_that_the_tests_run_against() -> None:
    from tests.servers import kafka, weaviate

    assert GPU["services"]["kafka"]["image"] == kafka.IMAGE
    assert GPU["services"]["weaviate"]["image"] == weaviate.IMAGE


def test_init_finds_a_generation_in_what_index_list_prints() -> None:
    from datetime import UTC, datetime

    from search.generations import Generation, LogIdentity

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
