"""The embedded stack with pictures in it, and Chromium: once for all that is tested here."""

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from pixtide.schemas.outcomes import OutcomeKind
from pixtide.streams.demo.captions import captions
from pixtide.streams.publish.outcomes import OutcomeWatch
from pixtide.streams.publish.publisher import Description, Publisher
from pixtide.streams.publish.sources import Source
from tests.support.deployments import Embedded

#: Debian's; a browser that a library downloads does not run everywhere.
CHROMIUM = os.environ.get("PIXTIDE_TEST_CHROMIUM") or shutil.which("chromium") or "chromium"
#: Nothing that looks for a display, a sandbox, or the outside.
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
MARKUP = "<img src=x onerror=alert(1)> & <b>bold</b>"
#: What is published: more than a page of results holds.
ANIMALS = (
    *("cat-face", "kitten", "tabby-cat-asleep", "golden-retriever", "german-shepherd", "horses"),
    *("goldfish", "clownfish", "giant-panda", "polar-bear", "koala", "sheep", "pig", "hens"),
    *("owl-on-a-branch", "scarlet-macaw", "crab", "lobster", "hedgehog", "honey-bee"),
)
PLACES = (
    *("castle-chambord", "castle-neuschwanstein", "castle-chenonceau", "eiffel-tower", "petra"),
    *("taj-mahal", "great-wall", "colosseum", "leaning-tower", "dutch-windmills"),
)
FOOD = ("hamburger", "cup-of-coffee", "sushi", "pancakes", "cocktail")
#: Published by the tests themselves.
UPLOADED = "nature/sunflower.jpg"
_PATIENCE_MS = 15_000


@dataclass(frozen=True)
class Site:
    """The page under test, and the stack behind it."""

    url: str
    stack: Embedded
    pictures: Path

    @contextmanager
    def frozen(self, part: str) -> Iterator[None]:
        """Stop one process of the stack in its tracks for a while."""
        pid = self._pid_of(part)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def _pid_of(self, part: str) -> int:
        pids = json.loads((self.stack.home / "stack.json").read_text())["children"]
        wanted = f"run/{part}.ready".encode()
        [found] = [pid for pid in pids if wanted in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return int(found)


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """`pixtide up`, with some of the demo's pictures published."""
    folder = tmp_path_factory.mktemp("page")
    stack = Embedded(folder / "home")
    stack.start()
    try:
        with as_file(files("pixtide.streams.demo") / "pictures") as shipped:
            publish(stack, shipped)
            url = json.loads((stack.home / "stack.json").read_text())["web"]
            yield Site(url, stack, shipped)
    finally:
        stack.stop()


def publish(stack: Embedded, shipped: Path) -> None:
    """Some of the demo's pictures as it describes them, tagged by their folders; and wait."""
    settings, shows = stack.settings(), captions()
    publisher = Publisher(settings)
    watch = OutcomeWatch(settings, "v1")
    for tag, names in (("animals", ANIMALS), ("places", PLACES), ("food", FOOD)):
        for name in names:
            source = Source(f"{tag}/{name}.jpg", shipped / tag / f"{name}.jpg")
            publisher.upload(source, Description(caption=shows[source.image_id], tags=(tag,)))
    odd = Source("odd/odd.jpg", shipped / "things" / "scissors.jpg")
    publisher.upload(odd, Description(caption=MARKUP, tags=(MARKUP,)))
    publisher.flush()
    with contextlib.closing(watch):
        outcomes = list(watch.outcomes_of(publisher.positions, stalled_s=60))
    assert {outcome.outcome for outcome in outcomes} == {OutcomeKind.INDEXED}


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    expect.set_options(timeout=_PATIENCE_MS)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A profile of its own for each test."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.set_default_timeout(_PATIENCE_MS)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A tab; what goes wrong in its scripts, or against its policy, fails the test."""
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda message: (
            problems.append(message.text)
            if message.type == "error" and "Failed to load resource" not in message.text
            else None
        ),
    )
    yield page
    assert problems == []
