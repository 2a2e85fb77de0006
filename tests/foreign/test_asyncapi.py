"""The AsyncAPI document as the specification's own parser sees it: its schema and its rules."""

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parents[2] / "docs" / "asyncapi.yaml"


@pytest.fixture(scope="module")
def validator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parser, installed where it stays out of the repository."""
    folder = tmp_path_factory.mktemp("parser")
    source = Path(__file__).parent / "asyncapi"
    for name in ("package.json", "package-lock.json", "validate.mjs"):
        shutil.copy(source / name, folder)
    subprocess.run(["npm", "ci", "--silent"], cwd=folder, check=True, timeout=240)
    return folder / "validate.mjs"


def validate(validator: Path, document: Path) -> tuple[int, str]:
    done = subprocess.run(
        ["node", validator, document], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_the_document_is_valid(validator: Path) -> None:
    assert validate(validator, DOCUMENT) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("action: receive", "action: listen"),
        ("$ref: '#/channels/search.requests'", "$ref: '#/channels/search.nowhere'"),
    ],
)
def test_a_wrong_document_is_noticed(
    validator: Path, tmp_path: Path, right: str, wrong: str
) -> None:
    assert right in DOCUMENT.read_text()
    changed = tmp_path / "asyncapi.yaml"
    changed.write_text(DOCUMENT.read_text().replace(right, wrong))
    code, said = validate(validator, changed)
    assert code == 1
    assert "operations" in said
