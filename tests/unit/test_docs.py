"""The docs say what the code does."""

import importlib.util
import re
from pathlib import Path

from schemas.errors import QueryCode, ReasonCode
from schemas.topics import topics

DOCS = Path(__file__).parents[2] / "docs"


def test_what_is_generated_is_current() -> None:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for page, wanted in {
        "settings.md": generate.settings_page(),
        "metrics.md": generate.metrics_page(),
        "security.md": generate.security_page(),
    }.items():
        assert (DOCS / page).read_text() == wanted, "run: python docs/generate.py"


def test_every_topic_and_code_is_explained() -> None:
    page = (DOCS / "contracts.md").read_text()
    for name in [*ReasonCode, *QueryCode, *(topic.name for topic in topics(embedded=False))]:
        assert f"`{name}`" in page, name


def test_links_lead_somewhere() -> None:
    root = DOCS.parent
    for page in [root / "README.md", *DOCS.rglob("*.md"), *(root / "deploy").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"
