"""The commands that look after topics and generations. Heavy imports wait inside them."""

import contextlib
from typing import Any, Literal

import click

from schemas.errors import UsageError
from streams.cli_help import quiet_option

json_option = click.option("--json", "as_json", is_flag=True, help="For machines: JSON lines.")


@click.group()
def topics() -> None:
    """The Kafka topics."""


@topics.command("create")
@quiet_option
@json_option
def topics_create(as_json: bool) -> None:
    """Create the topics that are missing; existing ones stay as they are."""
    import json

    from schemas.topics import topics as topics_table
    from streams import console, kafka
    from streams.settings import load_settings

    settings = load_settings()
    client = kafka.admin(settings.kafka_connection())
    table = topics_table(embedded=settings.embedded_log)
    created = kafka.create_topics(
        client, [(settings.named(t.name), t) for t in table], settings.replication
    )
    for name, new in created.items():
        if as_json:
            console.line(json.dumps({"topic": name, "created": new}))
        else:
            console.say(f"{name}: {'created' if new else 'exists'}")


@click.group()
def index() -> None:
    """The generations of the index."""


@index.command("create")
@click.argument("name")
@click.option("--model", help="As PIXTIDE_MODEL, which is the default.")
@click.option(
    "--compression",
    type=click.Choice(["rq", "none"]),
    default="rq",
    show_default=True,
    help="Of the vectors in Weaviate; the embedded index keeps them whole.",
)
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
    compression: Literal["rq", "none"],
    attributes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Create a generation: an empty collection for one model, over the log as it is today.

    The first generation goes live at once. Then run `pixtide ingest --generation NAME`.
    """
    from streams import console
    from streams.reindex import create_generation
    from streams.settings import load_settings
    from streams.wiring import open_catalog

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
        console.line(generation.to_json().decode())
    else:
        console.say(f"created {name}: {generation.model}, {generation.dimension} dimensions")


@index.command("list")
@json_option
def index_list(as_json: bool) -> None:
    """List the generations; the live one is marked."""
    from streams import console
    from streams.settings import load_settings
    from streams.wiring import open_catalog

    with contextlib.closing(open_catalog(load_settings())) as catalog:
        live, generations = catalog.live(), catalog.list()
    if as_json:
        for generation in generations:
            console.line(generation.to_json().decode())
        return
    console.show_table(
        ["", "generation", "model", "fingerprint", "dimension", "created"],
        [
            (
                "live" if g == live else "",
                g.name,
                g.model,
                g.fingerprint[:16],
                g.dimension,
                f"{g.created_at:%Y-%m-%d %H:%M}",
            )
            for g in generations
        ],
    )


@index.command("status")
@json_option
def index_status(as_json: bool) -> None:
    """Say of each generation how many pictures it holds and how far behind the log it is."""
    import json

    from streams import console
    from streams.reindex import lag_of
    from streams.settings import load_settings
    from streams.wiring import open_catalog

    settings = load_settings()
    rows = []
    with contextlib.closing(open_catalog(settings)) as catalog:
        live = catalog.live()
        for generation in catalog.list():
            counts = {str(k): n for k, n in catalog.open(generation).count().items()}
            rows.append(
                {
                    "generation": generation.name,
                    "is_live": generation == live,
                    "lag": lag_of(settings, generation),
                    "live": counts.get("live", 0),
                    "deleted": counts.get("deleted", 0),
                    "dead_lettered": counts.get("dead_lettered", 0),
                }
            )
    if as_json:
        for row in rows:
            console.line(json.dumps(row))
        return
    headings = ["", "generation", "pictures", "deleted", "dead-lettered", "lag"]
    console.show_table(
        headings,
        [
            (
                "live" if r["is_live"] else "",
                r["generation"],
                r["live"],
                r["deleted"],
                r["dead_lettered"],
                r["lag"],
            )
            for r in rows
        ],
    )


def _attributes(declared: tuple[str, ...]) -> dict[str, Any]:
    pairs = [one.partition(":") for one in declared]
    for name, colon, kind in pairs:
        if not colon or kind not in ("text", "number", "boolean", "date"):
            raise UsageError(
                f"--attribute {name}{colon}{kind}: write NAME:TYPE, TYPE one of text, number, "
                "boolean, date"
            )
    return {name: kind for name, _, kind in pairs}
