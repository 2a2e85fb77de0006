"""The wheel, as a service has it that has folders of our names."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("schemas", "encoders", "search", "streams")
#: What a service writes; `wrong` is what mypy is to find.
CLIENT = """
import schemas
from pixtide.client import KafkaConnection, SearchClient, SearchRequest, TransientError

assert schemas.OURS


def found(text: str) -> list[str]:
    with SearchClient(KafkaConnection("localhost:9092")) as client:
        reply = client.search(SearchRequest(text=text, limit=5))
        return [result.image_id for result in reply.results or ()]
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is in the wheel, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [built] = folder.glob("*.whl")
    with zipfile.ZipFile(built) as packed:
        packed.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """A service's folder, with packages called as our folders are."""
    for part in PARTS:
        (tmp_path / part).mkdir()
        (tmp_path / part / "__init__.py").write_text("OURS: bool = True\n")
    (tmp_path / "service.py").write_text(CLIENT)
    return tmp_path


def python(folder: Path, wheel: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PYTHONPATH": f"{folder}:{wheel}", "MYPYPATH": f"{folder}:{wheel}", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_holds_one_package_and_no_links(wheel: Path) -> None:
    assert {each.name for each in wheel.iterdir() if each.suffix != ".dist-info"} == {"pixtide"}
    assert {each.name for each in (wheel / "pixtide").iterdir() if each.is_dir()} == set(PARTS)
    assert not any(each.is_symlink() for each in wheel.rglob("*"))


def test_a_service_with_folders_of_our_names_imports_the_client(service: Path, wheel: Path) -> None:
    lines = "import service, pixtide.client, sys; print(pixtide.client.__file__, *sys.modules)"
    done = python(service, wheel, "-c", lines)
    assert done.returncode == 0, done.stderr
    where, *modules = done.stdout.split()
    assert where == str(wheel / "pixtide" / "client.py")
    heavy = {
        "torch",
        "open_clip",
        "PIL",
        "faust",
        "weaviate",
        "lancedb",
        "rich",
        "pydantic_settings",
    }
    assert not heavy & set(modules)


@pytest.mark.slow
def test_its_types_are_followed(service: Path, wheel: Path) -> None:
    checked = ("-m", "mypy", "--strict", "--cache-dir", str(service / "cache"), "service.py")
    done = python(service, wheel, *checked)
    assert done.returncode == 0, done.stdout
    wrong = CLIENT.replace("limit=5", 'limit="five"')
    (service / "service.py").write_text(wrong)
    done = python(service, wheel, *checked)
    assert "arg-type" in done.stdout, done.stdout
