"""The commands that take a generation through its life. Heavy imports wait inside them."""

import contextlib
import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from pixtide.streams.cli.index import index
from pixtide.streams.cli.options import json_option

if TYPE_CHECKING:
    from pixtide.search.port import GenerationCatalog
    from pixtide.streams.generations.verify import Verification
    from pixtide.streams.settings import Settings

timeout_option = click.option(
    "--timeout",
    default=120.0,
    show_default=True,
    help="Seconds that the workers may get nowhere before waiting for them ends.",
)


@contextlib.contextmanager
def opened() -> Iterator[tuple["Settings", "GenerationCatalog"]]:
    """The settings and the index that they reach."""
    from pixtide.streams.settings import load_settings
    from pixtide.streams.wiring.adapters import open_catalog

    settings = load_settings()
    with contextlib.closing(open_catalog(settings)) as catalog:
        yield settings, catalog


@index.command("verify")
@click.argument("name")
@click.option("--repair", "mend", is_flag=True, help="Mend what differs, and verify it again.")
@click.option(
    "--originals/--no-originals",
    default=True,
    show_default=True,
    help="Compare the rows with the image store, too.",
)
@click.option(
    "--vectors", is_flag=True, help="Search for rows by their own vectors and words, too."
)
@click.option(
    "--sample",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="How many rows `--vectors` searches for, taken at random; 0: all.",
)
@timeout_option
@json_option
def index_verify(
    name: str,
    mend: bool,
    originals: bool,
    vectors: bool,
    sample: int,
    timeout: float,
    as_json: bool,
) -> None:
    """Compare a generation with the log: ids, versions, states and content hashes.

    Exits 1 if anything differs. The generation is ready to be promoted when no row does.
    """
    from pixtide.streams import terminal
    from pixtide.streams.generations.lifecycle import Checks, verify
    from pixtide.streams.wiring.generations import generation_to_work_for

    checks = Checks(mend=mend, originals=originals, searched=(sample or None) if vectors else 0)
    with opened() as (settings, catalog), terminal.steps() as tell:
        generation = generation_to_work_for(catalog, name)
        found = verify(settings, catalog, generation, checks, timeout_s=timeout, tell=tell)
    show_verification(found, as_json=as_json)
    sys.exit(0 if found.is_clean else 1)


@index.command("promote")
@click.argument("name")
@click.option("--force", is_flag=True, help="Though it is not verified or not up to date.")
@timeout_option
@json_option
def index_promote(name: str, force: bool, timeout: float, as_json: bool) -> None:
    """Let searches be answered from this generation.

    Refuses unless a verification was clean and the workers have read the log to its end.
    """
    from pixtide.streams import terminal
    from pixtide.streams.generations.lifecycle import promote
    from pixtide.streams.wiring.generations import generation_to_work_for

    with opened() as (settings, catalog), terminal.steps() as tell:
        generation = generation_to_work_for(catalog, name)
        skipped = promote(settings, catalog, generation, force=force, timeout_s=timeout, tell=tell)
    for what in skipped:
        terminal.say(f"SKIPPED: {what}")
    say_live(name, as_json=as_json, skipped=skipped)


@index.command("rollback")
@click.option("--force", is_flag=True, help="Though it is not up to date.")
@timeout_option
@json_option
def index_rollback(force: bool, timeout: float, as_json: bool) -> None:
    """Let searches be answered from the generation that was live before this one.

    Refuses unless its workers have read the log to its end.
    """
    from pixtide.streams import terminal
    from pixtide.streams.generations.lifecycle import rollback

    with opened() as (settings, catalog), terminal.steps() as tell:
        now, skipped = rollback(settings, catalog, force=force, timeout_s=timeout, tell=tell)
    for what in skipped:
        terminal.say(f"SKIPPED: {what}")
    say_live(now.name, as_json=as_json, skipped=skipped)


@index.command("retire")
@click.argument("name")
@click.option(
    "--grace",
    "grace_hours",
    default=24.0,
    show_default=True,
    help="Hours that must have passed since it was live.",
)
@json_option
def index_retire(name: str, grace_hours: float, as_json: bool) -> None:
    """Take a generation down: its workers end, and its collection and its offsets are removed."""
    from pixtide.schemas.errors import UsageError
    from pixtide.streams import terminal
    from pixtide.streams.generations.lifecycle import retire

    with opened() as (settings, catalog):
        generation = catalog.get(name)
        if generation is None:
            raise UsageError(f"there is no generation {name!r}")
        retire(settings, catalog, generation, grace=timedelta(hours=grace_hours))
    if as_json:
        terminal.line(json.dumps({"retired": name}))
    else:
        terminal.say(f"{name} is retired")


def show_verification(found: "Verification", *, as_json: bool) -> None:
    """Print what a verification found."""
    from pixtide.streams import terminal

    if as_json:
        terminal.line(json.dumps(found.as_json()))
        return

    terminal.say(
        f"{found.generation}: {found.images:,} pictures in {found.records:,} records of the log, "
        f"{found.rows:,} rows, {sum(found.differences.values()):,} differences "
        f"({terminal.duration(found.took_s)})"
    )
    for kind, number in found.differences.items():
        terminal.say(f"  {kind}: {number:,}")
    if found.searched:
        terminal.say(f"  searched for {found.searched:,} rows")
    for note in found.notes:
        terminal.say(f"  NOTE: {note}")
    for code, number in found.dead_letters.items():
        terminal.say(f"  dead letters: {number:,} of {code}")
    if found.examples:
        terminal.show_table(
            ["difference", "picture", "the log says", "the index says"],
            [(d.kind, d.image_id, _place(d.expected), _place(d.found)) for d in found.examples],
        )
        terminal.say(f"mend them with `pixtide index verify {found.generation} --repair`")


def _place(version: tuple[int, int, int] | None) -> str:
    return "–" if version is None else f"{version[1]}@{version[2]}"


def say_live(name: str, *, as_json: bool, skipped: list[str] | None = None) -> None:
    """Which generation is live now, and what was skipped on the way."""
    from pixtide.streams import terminal

    if as_json:
        terminal.line(json.dumps({"live": name, "skipped": skipped or []}))
    else:
        terminal.say(f"{name} is live")
