"""The main job, as a user does it: publish, search, update, delete, restart everything."""

import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path

import pytest

from pixtide.search.port import RowState
from tests.servers import KafkaServer, WeaviateServer
from tests.support.deployments import Deployment, Embedded, OnServers

HUNDRED = 100
#: Queries, and a picture that must be among the first three.
RIGHT = {
    "a cat": "cat-face.jpg",
    "a hot drink": "cup-of-coffee.jpg",
    "fruit": "fruit-salad.jpg",
    "musical instrument": "violin.webp",
    "a medieval castle": "castle-carcassonne.jpg",
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred real pictures, of the demo's."""
    folder = tmp_path_factory.mktemp("pictures")
    with as_file(files("pixtide.streams.demo") / "pictures") as shipped:
        for source in sorted(p for p in shipped.rglob("*") if p.is_file())[:HUNDRED]:
            shutil.copyfile(source, folder / source.name)
    assert len(list(folder.iterdir())) == HUNDRED
    return folder


@pytest.fixture(scope="module")
def web(pictures: Path) -> Iterator[str]:
    """A local web server of the pictures: host:port."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(pictures))
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(params=["servers", "embedded"])
def deployment(
    request: pytest.FixtureRequest, tmp_path: Path, pictures: Path, web: str
) -> Iterator[Deployment]:
    settings = {"PIXTIDE_ALLOWED_HOSTS": web, "PIXTIDE_FILE_ROOTS": str(pictures)}
    made: Deployment
    if request.param == "embedded":
        made = Embedded(tmp_path / "home", **settings)
    else:
        kafka: KafkaServer = request.getfixturevalue("kafka")
        weaviate: WeaviateServer = request.getfixturevalue("weaviate")
        made = OnServers(
            tmp_path / "home",
            kafka=kafka.bootstrap,
            weaviate_url=weaviate.http_url,
            grpc_port=weaviate.grpc_port,
            **settings,
        )
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_the_main_job(deployment: Deployment, pictures: Path, web: str) -> None:
    names = sorted(p.name for p in pictures.iterdir())
    inline, by_path, by_http = names[:30], names[30:60], names[60:]

    # publish 100 pictures in three ways
    paths = {name: str(pictures / name) for name in names}
    for arguments in (
        ["--inline", *(paths[n] for n in inline)],
        [*(paths[n] for n in by_path)],
        [*(f"http://{web}/{n}" for n in by_http)],
    ):
        summary = deployment.publish(*arguments, "--prefix", "p", "--tag", "first")
        assert summary["outcomes"] == {"indexed": len([a for a in arguments if a != "--inline"])}
    rows = deployment.rows()
    assert set(rows) == {f"p/{name}" for name in names}
    assert all(row.state is RowState.LIVE for row in rows.values())

    # words find them
    for query, picture in RIGHT.items():
        assert picture in top(deployment, query, 3), query

    # an original sent inline is kept, and its result leads there
    kept = rows[f"p/{inline[0]}"].uri
    assert (
        kept.startswith("file://")
        and Path(kept.removeprefix("file://")).read_bytes() == (pictures / inline[0]).read_bytes()
    )

    # update one: its id now holds a cat; delete another
    cat = paths["cat-face.jpg"]
    updated, deleted = inline[0], inline[1]
    replacement = deployment.folder / updated
    shutil.copyfile(cat, replacement)
    summary = deployment.publish(str(replacement), "--prefix", "p", "--inline", "--tag", "second")
    assert summary["outcomes"] == {"replaced": 1}
    assert summary["replaced"] == [f"p/{updated}"]
    original = Path(rows[f"p/{deleted}"].uri.removeprefix("file://"))
    assert original.exists()
    gone = json.loads(deployment.run("delete", f"p/{deleted}", "--wait", "--json"))
    assert gone["outcomes"] == {"deleted": 1}

    def as_it_should_be() -> None:
        found = deployment.search("a cat", "-k", "100")
        ids = [result["image_id"] for result in found]
        assert len(ids) == len(set(ids)) == HUNDRED - 1
        assert f"p/{deleted}" not in ids
        similarity = {result["image_id"]: result["similarity"] for result in found}
        assert similarity[f"p/{updated}"] == pytest.approx(
            similarity[f"p/{Path(cat).name}"], abs=0.02
        )
        second = deployment.search("a cat", "--tag", "second")
        assert [result["image_id"] for result in second] == [f"p/{updated}"]
        assert not original.exists(), "the original of a deleted picture is still there"
        assert not Path(kept.removeprefix("file://")).exists(), "a replaced original is still there"

    as_it_should_be()

    # restart every process: still true, and nothing is indexed again
    deployment.stop()
    before = deployment.rows()
    deployment.start()
    as_it_should_be()
    assert deployment.rows() == before

    # 400 queries from standard input: in order, one reply a line
    queries = [name.rpartition(".")[0].replace("-", " ") for name in names] * 4
    lines = deployment.run(
        "search", "-", "--json", "-k", "1", stdin="\n".join(queries)
    ).splitlines()
    assert len(lines) == 400
    same = {f"p/{updated}": "p/cat-face.jpg"}  # one picture under two ids: a tie
    firsts = [json.loads(line)["results"][0]["image_id"] for line in lines]
    replies = [same.get(first, first) for first in firsts]
    assert replies[:HUNDRED] * 4 == replies
    assert len(set(replies)) > HUNDRED / 4, "the replies don't depend on the queries"
    alone = [deployment.search(queries[n], "-k", "1")[0]["image_id"] for n in (10, 50)]
    assert alone == [replies[10], replies[50]]


def top(deployment: Deployment, query: str, count: int) -> list[str]:
    return [r["image_id"].removeprefix("p/") for r in deployment.search(query, "-k", str(count))]
