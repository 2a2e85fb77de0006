"""`pixtide demo`: publish pictures, wait until they are indexed, search for them by words."""

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path

from pixtide.schemas.errors import FatalError
from pixtide.schemas.queries import Filters, SearchRequest
from pixtide.streams import terminal
from pixtide.streams.demo.captions import captions
from pixtide.streams.process.signals import interrupt_on_signals
from pixtide.streams.publish.bulk import Summary, publish_all
from pixtide.streams.publish.publisher import Description
from pixtide.streams.publish.sources import Source, find_sources
from pixtide.streams.settings import Settings
from pixtide.streams.stack.stack import Stack
from pixtide.streams.wiring.adapters import open_catalog
from pixtide.streams.wiring.clients import search_client
from pixtide.streams.wiring.generations import generation_to_work_for

#: Searches for the pictures that come with pixtide; none is a file's name.
QUERIES = ("a cat", "a hot drink", "hand tools", "medieval fortress", "musical instrument")
#: Searches for anybody's own pictures.
QUERIES_FOR_ANY = ("an animal", "food", "a landscape", "a vehicle")
_HITS = 3


def run_demo(settings: Settings, folder: Path | None, *, once: bool) -> None:
    """Run it; serve on until Ctrl-C unless `once`.

    Raises:
        UsageError: a stack is running in this home, or the folder holds no picture.
        FatalError: a picture that comes with pixtide could not be indexed.
    """
    started = time.monotonic()
    interrupt_on_signals()
    stack = Stack(settings, terminal.say)
    with contextlib.ExitStack() as ending:
        sources, shows = ending.enter_context(pictures(folder))
        ending.callback(stack.stop)
        running = stack.start()
        shown = f"demo:{folder.resolve().name if folder else ''}"
        summary = publish(running, sources, shows, tag=shown)
        summary.show(as_json=False)
        with search_client(running, timeout_s=30) as client:
            for query in QUERIES_FOR_ANY if folder else QUERIES:
                only_these = Filters(tags_all=(shown,))
                request = SearchRequest(text=query, limit=_HITS, filters=only_these)
                reply = client.search(request)
                terminal.output.print()
                terminal.show_reply(query, reply)
        terminal.say("")
        terminal.say(f"from start to answers in {time.monotonic() - started:.0f} s")
        if summary.dead_letters and folder is None:
            raise FatalError("pictures that come with pixtide were not indexed: see above")
        if once:
            if not sys.stdout.isatty():
                terminal.say("no terminal, so it ends here; `pixtide up` serves on")
            return
        command = "pixtide" if shutil.which("pixtide") else sys.argv[0]
        stack.serve(
            f"the page: {stack.page}\n"
            f'or try, in another terminal, in this folder:  {command} search "a bird"\n'
            f"and:  {command} publish ~/Pictures --wait        Ctrl-C stops everything"
        )


@contextlib.contextmanager
def pictures(folder: Path | None) -> Iterator[tuple[list[Source], dict[str, str]]]:
    """The pictures of a folder, or those that come with pixtide; and captions by image id."""
    if folder is not None:
        yield find_sources([str(folder)], None), {}
        return
    with as_file(files("pixtide.streams.demo") / "pictures") as shipped:
        shows = {f"demo/{path}": caption for path, caption in captions().items()}
        yield find_sources([str(shipped)], "demo"), shows


def publish(
    running: Settings, sources: Sequence[Source], shows: Mapping[str, str], *, tag: str
) -> Summary:
    """Publish pictures with their captions under a tag, and wait until they are indexed."""
    with contextlib.closing(open_catalog(running)) as catalog:
        live = generation_to_work_for(catalog, None).name
    return publish_all(
        running,
        sources,
        lambda source: Description(caption=shows.get(source.image_id, ""), tags=(tag,)),
        wait_for=live,
    )
