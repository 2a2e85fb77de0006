"""The commands for another model: build it and compare it. Heavy imports wait inside them."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from pixtide.streams.cli.index import index
from pixtide.streams.cli.lifecycle import opened, say_live, show_verification, timeout_option
from pixtide.streams.cli.options import compression_option, json_option, max_rate_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from pixtide.search.generations import Generation
    from pixtide.search.port import GenerationCatalog
    from pixtide.streams.generations.verify import Verification
    from pixtide.streams.settings import Settings

#: Pixels a side.
_THUMBNAIL = 160


@index.command("compare")
@click.argument("names", metavar="NAME NAME", nargs=2)
@click.option(
    "--queries",
    type=click.File(encoding="utf-8"),
    required=True,
    help="A file of searches, one a line; - is standard input.",
)
@click.option("-k", "limit", default=10, show_default=True, help="Results of each.")
@click.option(
    "--html",
    "html_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a page with the pictures of both side by side.",
)
@json_option
def index_compare(
    names: tuple[str, str], queries: TextIO, limit: int, html_file: Path | None, as_json: bool
) -> None:
    """Search in two generations and say how the results differ.

    Recall is the share of an exact search's results that each generation's index finds; for it
    both collections are read whole.

    With --json a line for each query, then one of the sums.
    """
    from functools import partial

    from pixtide.streams import terminal
    from pixtide.streams.generations.compare import compare, page
    from pixtide.streams.wiring.generations import encoder_of, generation_to_work_for
    from pixtide.streams.wiring.pictures import thumbnails

    texts = [line.strip() for line in queries if line.strip()]
    with opened() as (settings, catalog):
        pair = (
            generation_to_work_for(catalog, names[0]),
            generation_to_work_for(catalog, names[1]),
        )
        compared = compare(catalog, pair, partial(encoder_of, settings), texts, limit)
        if html_file is not None:
            with thumbnails(settings, _THUMBNAIL) as thumbnail:
                html_file.write_text(page(compared, thumbnail))
    if as_json:
        for each in compared.compared:
            terminal.line(json.dumps(each.as_json()))
        terminal.line(json.dumps(compared.as_json()))
        return
    terminal.show_table(
        [
            *("query", f"overlap@{limit}", "places moved"),
            *(f"{name} ms" for name in names),
            *(f"{name} recall@{limit}" for name in names),
        ],
        [
            (
                c.query,
                f"{c.overlap:.2f}",
                "" if c.rank_change is None else f"{c.rank_change:.1f}",
                *(f"{ms:.1f}" for ms in c.took_ms),
                *(f"{share:.2f}" for share in c.recall),
            )
            for c in compared.compared
        ],
    )
    terminal.say(", ".join(f"{name} {value}" for name, value in compared.as_json().items()))


@click.command("reindex")
@click.option("--model", required=True, help="As PIXTIDE_MODEL.")
@click.option("--name", help="Of the generation; default: the next free v1, v2, ….")
@compression_option
@click.option("--yes", is_flag=True, help="Promote without asking.")
@max_rate_option
@timeout_option
@json_option
def reindex(model: str, yes: bool, timeout: float, as_json: bool, **wanted: Any) -> None:
    """Change the model, or the compression, without an outage.

    Creates a generation, builds it from the log beside the live one, verifies it, asks, and
    promotes it. Run it again to go on where it broke off. Pictures of a generation of the same
    model are copied, not encoded.
    """
    from pixtide.streams import terminal
    from pixtide.streams.generations.reindex import Reindex, begin, worker_for
    from pixtide.streams.kafka.clients import admin
    from pixtide.streams.kafka.groups import workers_in

    plan = Reindex(model, **wanted)
    with opened() as (settings, catalog):
        generation = begin(settings, catalog, plan)
        name = generation.name
        if generation.is_same(catalog.live()):
            terminal.say(f"{name} is live and of that model; --name builds another one anyway")
            return
        terminal.say(f"building generation {name} of {model}")
        with worker_for(settings, generation, plan.max_rate) as check:
            found = _built(settings, catalog, generation, timeout, check)
            show_verification(found, as_json=as_json)
            if not found.rows_agree:
                sys.exit(1)
            if not (yes or click.confirm(f"promote {name}?", err=True)):
                terminal.say(f"later: `pixtide index promote {name}`")
                return
            _promote(settings, catalog, name, timeout)
        say_live(name, as_json=as_json)
        if not workers_in(admin(settings.kafka_connection()), generation.group):
            terminal.say(
                f"NOTE: nobody reads the log for it now: run `pixtide ingest --generation {name}`"
            )


def _built(
    settings: "Settings",
    catalog: "GenerationCatalog",
    generation: "Generation",
    timeout_s: float,
    check: "Callable[[], None]",
) -> "Verification":
    """Build and verify it under progress bars, for as long as `check` raises nothing."""
    from pixtide.streams import terminal
    from pixtide.streams.generations.lifecycle import Checks, verify
    from pixtide.streams.generations.reindex import build

    with terminal.steps() as show:

        def tell(what: str, done: int, total: int) -> None:
            check()
            show(what, done, total)

        build(settings, generation, timeout_s=timeout_s, tell=tell)
        return verify(settings, catalog, generation, Checks(), timeout_s=timeout_s, tell=tell)


def _promote(
    settings: "Settings", catalog: "GenerationCatalog", name: str, timeout_s: float
) -> None:
    from pixtide.streams import terminal
    from pixtide.streams.generations.lifecycle import promote
    from pixtide.streams.wiring.generations import generation_to_work_for

    with terminal.steps() as tell:
        generation = generation_to_work_for(catalog, name)
        promote(settings, catalog, generation, force=False, timeout_s=timeout_s, tell=tell)
