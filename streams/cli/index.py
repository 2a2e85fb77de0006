"""The commands that look after generations. Heavy imports wait inside them."""

import contextlib
import json
import re
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from pixtide.schemas.errors import UsageError
from pixtide.streams.cli.help import quiet_option

if TYPE_CHECKING:
    from pixtide.search.generations import Compression
from pixtide.streams.cli.options import compression_option, json_option

_LOOK_EVERY_S = 2.0


@click.group()
def index() -> None:
    """The generations of the index."""


@index.command("create")
@click.argument("name")
@click.option("--model", help="As PIXTIDE_MODEL, which is the default.")
@compression_option
@click.option(
    "--attribute",
    "attributes",
    multiple=True,
    metavar="NAME:TYPE",
    help="Store this attribute typed (text, number, boolean, date); repeatable.",
)
@quiet_option
@json_option
def index_create(
    name: str,
    model: str | None,
    compression: "Compression",
    attributes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Create a generation: an empty collection for one model, over the log as it is today.

    The first generation goes live at once. Then run `pixtide ingest --generation NAME`.
    """
    from pixtide.streams import terminal
    from pixtide.streams.generations.create import create_generation
    from pixtide.streams.settings import load_settings
    from pixtide.streams.wiring.adapters import open_catalog

    settings = load_settings()
    with contextlib.closing(open_catalog(settings)) as catalog:
        generation = create_generation(
            settings,
            catalog,
            name,
            model=model or settings.model,
            compression=compression,
            attributes=_attributes(attributes),
        )
    if as_json:
        terminal.line(generation.to_json().decode())
    else:
        terminal.say(f"created {name}: {generation.model}, {generation.dimension} dimensions")


@index.command("writable")
@json_option
def index_writable(as_json: bool) -> None:
    """Let Weaviate take writes again that it has closed as its disk was nearly full.

    It never does so by itself. Free some space first: it looks at its disk again only once it is
    restarted.
    """
    from pixtide.streams import terminal
    from pixtide.streams.settings import load_settings
    from pixtide.streams.wiring.adapters import open_catalog

    with contextlib.closing(open_catalog(load_settings())) as catalog:
        opened = catalog.make_writable()
    for shard in opened:
        terminal.line(json.dumps({"opened": shard}) if as_json else f"opened {shard}")
    if not opened and not as_json:
        terminal.say("nothing refuses writes")


@index.command("list")
@json_option
def index_list(as_json: bool) -> None:
    """List the generations; the live one is marked."""
    from pixtide.streams import terminal
    from pixtide.streams.settings import load_settings
    from pixtide.streams.wiring.adapters import open_catalog

    with contextlib.closing(open_catalog(load_settings())) as catalog:
        live, generations = catalog.live(), catalog.list()
    if as_json:
        for generation in generations:
            terminal.line(generation.to_json().decode())
        return
    terminal.show_table(
        ["", "generation", "state", "model", "fingerprint", "dimension", "created"],
        [
            (
                "live" if g.is_same(live) else "",
                g.name,
                g.state,
                g.model,
                g.fingerprint[:16],
                g.dimension,
                f"{g.created_at:%Y-%m-%d %H:%M}",
            )
            for g in generations
        ],
    )


@index.command("status")
@click.option("--watch", is_flag=True, help="Keep looking until Ctrl-C.")
@json_option
def index_status(watch: bool, as_json: bool) -> None:
    """Say of each generation what it holds, how far behind the log it is, and how fast it reads.

    Events are counted by offsets: what compaction has removed counts as done.
    """
    import json

    from pixtide.streams import terminal
    from pixtide.streams.generations.status import Watch, table, warnings
    from pixtide.streams.settings import load_settings
    from pixtide.streams.wiring.adapters import open_catalog

    settings = load_settings()
    with contextlib.closing(open_catalog(settings)) as catalog:
        standings = Watch(settings, catalog, counts_workers=True)
        if watch and not as_json:
            terminal.refreshing(lambda: table(standings.look()), _LOOK_EVERY_S)
            return
        looked = standings.look()
        if any(standing.lag for standing in looked):
            time.sleep(_LOOK_EVERY_S)  # a second look tells the rate
            looked = standings.look()
        while True:
            for standing in looked if as_json else ():
                terminal.line(json.dumps(standing.as_json()))
            if not watch:
                break
            sys.stdout.flush()
            time.sleep(_LOOK_EVERY_S)
            looked = standings.look()
    if not as_json:
        terminal.show_whole(table(looked))
        for warning in warnings(looked):
            terminal.say(f"WARNING: {warning}")


def _attributes(declared: tuple[str, ...]) -> dict[str, Any]:
    from pixtide.search.generations import ATTRIBUTE

    pairs = [one.partition(":") for one in declared]
    for name, colon, kind in pairs:
        if not colon or kind not in ("text", "number", "boolean", "date"):
            raise UsageError(
                f"--attribute {name}{colon}{kind}: write NAME:TYPE, TYPE one of text, number, "
                "boolean, date"
            )
        if not re.fullmatch(ATTRIBUTE, name):
            raise UsageError(f"--attribute {name}: a name is a-z, 0-9 and _, from a letter on")
    return {name: kind for name, _, kind in pairs}
