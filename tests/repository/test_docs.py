"""The docs say what the code does."""

import ast
import importlib.util
import json
import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from pixtide.schemas.errors import QueryCode, ReasonCode
from pixtide.schemas.topics import topics

DOCS = Path(__file__).parents[2] / "docs"
GOLDEN = Path(__file__).parents[1] / "golden" / "v1"


def generator(name: str, folder: Path = DOCS) -> Any:
    """A script of docs/ or deploy/, as a module."""
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # for its dataclasses
    spec.loader.exec_module(module)
    return module


def test_what_is_generated_is_current() -> None:
    generate = generator("generate")
    for page, wanted in {
        "cli.md": generate.cli_page(),
        "settings.md": generate.settings_page(),
        "metrics.md": generate.metrics_page(),
        "security.md": generate.security_page(),
    }.items():
        assert (DOCS / page).read_text() == wanted, "run: python docs/generate.py"


def test_the_dashboards_are_current() -> None:
    folder = DOCS.parent / "deploy/grafana"
    boards = generator("dashboards", folder)
    assert {file.stem for file in folder.glob("*.json")} == boards.BOARDS.keys()
    for name in boards.BOARDS:
        expected = boards.dashboard(name)
        assert (folder / f"{name}.json").read_text() == expected, (
            "run: python deploy/grafana/dashboards.py"
        )


def test_each_alert_has_its_section_in_the_runbooks() -> None:
    content = yaml.safe_load((DOCS.parent / "deploy/prometheus/alerts.yaml").read_text())
    alerts = [rule for group in content["groups"] for rule in group["rules"]]
    named = set()
    for alert in alerts:
        page, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert anchor == alert["alert"].lower()  # as Markdown makes anchors of headings
        named.add((DOCS.parent / page, alert["alert"]))
    pages = set((DOCS / "runbooks").glob("*.md")) - {DOCS / "runbooks/README.md"}
    sections = {
        (page, heading)
        for page in pages
        for heading in re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
    }
    assert named == sections


def test_the_asyncapi_document_is_current() -> None:
    expected = generator("asyncapi").page()
    assert (DOCS / "asyncapi.yaml").read_text() == expected, "run: python docs/asyncapi.py"


@pytest.mark.parametrize(
    ("golden", "message"),
    [
        ("upload-by-uri", "Upload"),
        ("upload-inline", "UploadedPicture"),
        ("outcome", "Outcome"),
        ("dead-letter", "DeadLetter"),
        ("search-request", "SearchRequest"),
        ("search-reply", "SearchReply"),
        ("search-error", "SearchReply"),
    ],
)
def test_golden_messages_are_as_the_asyncapi_document_says(golden: str, message: str) -> None:
    content = json.loads((GOLDEN / f"{golden}.json").read_text())
    if "headers" in content:  # else it is the payload alone
        assert problems(message, "headers", content["headers"]) == []
        content = content.get("value")
    assert problems(message, "payload", content) == []


@pytest.mark.parametrize(
    ("message", "payload"),
    [
        ("SearchRequest", {"text": "a", "limit": 0}),
        ("SearchRequest", {"text": "a", "filters": {"colour": 1}}),
        ("SearchReply", {"results": [{"image_id": "a"}]}),
        ("Outcome", {"outcome": "lost"}),
        ("Upload", {"uri": 1}),
        ("Tombstone", {}),
    ],
)
def test_the_asyncapi_document_refuses_what_is_wrong(message: str, payload: object) -> None:
    assert problems(message, "payload", payload)


def problems(message: str, part: str, value: object) -> list[str]:
    """What the document's schema for a message's headers or payload says against a value."""
    components = yaml.safe_load((DOCS / "asyncapi.yaml").read_text())["components"]
    schema = components["messages"][message][part] | {"components": components}
    return [error.message for error in Draft7Validator(schema).iter_errors(value)]


def test_every_topic_is_described() -> None:
    page = (DOCS / "contracts.md").read_text()
    for topic in topics(embedded=False):
        assert f"| `{topic.name}` |" in page, topic.name


@pytest.mark.parametrize(
    ("codes", "heading"), [(ReasonCode, "dead letters"), (QueryCode, "searches")]
)
def test_every_code_is_explained_once_with_what_to_do(codes: type[StrEnum], heading: str) -> None:
    page = (DOCS / "codes.md").read_text()
    [section] = re.findall(rf"^## Of {heading}\n(.*?)(?=^## )", page, re.DOTALL | re.MULTILINE)
    rows = re.findall(r"^\| (`[A-Z_`, ]+`) \| (.+) \| (.+) \|$", section, re.MULTILINE)
    explained = [code for names, *_ in rows for code in re.findall(r"[A-Z_]+", names)]
    assert sorted(explained) == sorted(codes)


def test_links_lead_somewhere() -> None:
    root = DOCS.parent
    for page in [root / "README.md", *DOCS.rglob("*.md"), *(root / "deploy").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_tests_that_promises_name_exist() -> None:
    named = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", (DOCS / "promises.md").read_text())
    assert len(named) > 20
    for file, test in named:
        sources = [path.read_text() for path in (DOCS.parent / "tests").rglob(file)]
        assert any(f"def {test}(" in source for source in sources) if test else sources, (
            file,
            test,
        )


def test_the_figures_of_the_concepts_are_those_that_were_measured() -> None:
    measured = (DOCS / "benchmarks" / "story.md").read_text()
    told = (DOCS / "concepts.md").read_text()
    [shares] = re.findall(r"\*\*mean share\*\* \| \| (.+) \|", measured)
    assert re.findall(r"\| (\d+) % \|", told) == re.findall(r"(\d+)%", shares)
    [none] = re.findall(r"find none \| \| (.+) \|", measured)
    told_none = re.findall(r"% \| (\d+|none)\b", told)
    assert [each.replace("none", "0") for each in told_none] == none.split(" | ")
    rows = re.findall(r"^\| .+ \| 0\.\d\d \| 0\.\d\d \| 0\.\d\d \| \d+ \|", told, re.MULTILINE)
    assert len(rows) > 4
    assert [row for row in rows if row not in measured] == []


def test_the_faults_page_names_every_fault_and_its_test() -> None:
    rows = re.findall(
        r"^\| (.+?) \|.*`(test_\w+\.py)::(test_\w+)` \|$", (DOCS / "faults.md").read_text(), re.M
    )
    shown = {
        (mark.args[0].value, path.name, test.name)
        for path in (DOCS.parent / "tests").rglob("test_*.py")
        for test in ast.walk(ast.parse(path.read_text()))
        if isinstance(test, ast.FunctionDef)
        for decorator in test.decorator_list
        for mark in ast.walk(decorator)  # those of parameters lie deeper
        if isinstance(mark, ast.Call)
        and ast.unparse(mark.func) == "pytest.mark.fault"
        and isinstance(mark.args[0], ast.Constant)
    }
    assert len(shown) > 40
    assert set(rows) == shown


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_places_that_are_named_exist(page: str) -> None:
    root = DOCS.parent
    named = re.findall(
        r"`((?:schemas|encoders|search|streams|tests|deploy|src)/[\w/.]+)`",
        (root / page).read_text(),
    )
    assert named
    assert not [each for each in named if not (root / each).exists()]
