"""The command line. Heavy imports wait inside the commands, so that `--help` is quick."""

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pixtide.schemas.errors import PixtideError, TransientError, UsageError
from pixtide.streams.cli.dlq import dlq
from pixtide.streams.cli.help import Sectioned, completion, quiet_option
from pixtide.streams.cli.index import index
from pixtide.streams.cli.options import json_option, max_rate_option
from pixtide.streams.cli.reindex import reindex
from pixtide.streams.cli.search import search
from pixtide.streams.cli.topics import topics
from pixtide.streams.escaping import escape_output, visible, visible_lines
from pixtide.streams.extras import need

if TYPE_CHECKING:
    from pixtide.streams.settings import Settings

#: The extras of the stack on one machine.
_STACK = ("embedded", "starter", "web", "worker")
_EXAMPLES = """
\b
Try it, with nothing to install besides this package:
  pixtide demo                         the whole system on this machine, with pictures
  pixtide up                           the same, to use: it stays in the foreground; then:
  pixtide publish ~/Pictures --wait    make a folder searchable
  pixtide search "a red bicycle"       find pictures by words

Settings are PIXTIDE_* variables in the environment. Without PIXTIDE_KAFKA, every command
finds the stack running in PIXTIDE_HOME (default ./.pixtide).
Exit codes: 0 fine, 1 the work failed, 2 wrong usage.
"""

ready_option = click.option(
    "--ready-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Exists while this process is ready, as /ready says it; for supervisors.",
)


@click.group(
    cls=Sectioned,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EXAMPLES,
)
@click.version_option(package_name="pixtide")
@click.pass_context
def cli(context: click.Context) -> None:
    """Makes a stream of pictures searchable by words.

    Image events on Kafka are encoded by a CLIP model into a vector index; text searches are
    answered over a reply topic.
    """
    if "OTEL_TRACES_EXPORTER" in os.environ:
        from pixtide.streams.process.tracing import send_spans

        send_spans(context.invoked_subcommand or "")


cli.add_command(dlq)
cli.add_command(completion)
cli.add_command(index)
cli.add_command(topics)
cli.add_command(search)
cli.add_command(reindex)


@cli.command()
@click.argument(
    "folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--once", is_flag=True, help="Exit after the searches instead of serving on.")
def demo(folder: Path | None, once: bool) -> None:
    """Show the whole system at work on this machine.

    Starts the embedded stack, publishes the pictures of FOLDER (or those that come with
    pixtide) to the log, waits until all are indexed, searches for some of them by words over
    Kafka, and keeps serving `pixtide search` until Ctrl-C. Where its output is no terminal, it
    ends after the searches, as with --once.

    What it publishes stays in PIXTIDE_HOME (default ./.pixtide), beside what was there; to begin
    anew, set that to another folder.
    """
    need("demo", *_STACK)
    from pixtide.streams.demo.run import run_demo

    run_demo(_settings(), folder, once=once or not sys.stdout.isatty())


@cli.command()
def up() -> None:
    """Run the embedded stack in the foreground: broker, ingest worker, query consumer, page.

    It lives in PIXTIDE_HOME (default ./.pixtide), where every other command finds it.
    """
    need("up", *_STACK)
    from pixtide.streams import terminal
    from pixtide.streams.process.signals import interrupt_on_signals
    from pixtide.streams.stack.stack import Stack

    interrupt_on_signals()
    stack = Stack(_settings(), terminal.say)
    try:
        settings = stack.start()
        stack.serve(
            f"ready: Kafka at {settings.kafka}, logs in {settings.home / 'logs'}\n"
            f"the page:             {stack.page}\n"
            "in another terminal:  pixtide publish FOLDER --wait\n"
            "and then:             pixtide search WORDS\n"
            "Ctrl-C stops everything"
        )
    finally:
        stack.stop()


@cli.command()
@click.argument("names", metavar="PATH|URL...", nargs=-1, required=True)
@click.option("--wait", is_flag=True, help="Wait for the outcomes; exit 1 if any is a dead letter.")
@click.option("--caption", default="", help="Stored with each picture and returned with it.")
@click.option("--tag", "tags", multiple=True, help="Stored and filterable; may be repeated.")
@click.option("--inline", is_flag=True, help="Send the picture in the event where it is small.")
@click.option("--prefix", help="Stands for the folder's name in the image ids.")
@quiet_option
@json_option
def publish(
    names: tuple[str, ...],
    wait: bool,
    caption: str,
    tags: tuple[str, ...],
    inline: bool,
    prefix: str | None,
    as_json: bool,
) -> None:
    """Publish pictures: files, folders (walked), http(s) or object-store URLs.

    A file's image id is its folder's name and the path within it; publishing an id again
    replaces its picture.

    \b
    pixtide publish ~/Pictures --wait
    pixtide publish https://example.org/a.jpg --tag web --caption "Found there"
    """
    from pixtide.streams.publish.bulk import publish_all
    from pixtide.streams.publish.publisher import Description
    from pixtide.streams.publish.sources import find_sources

    settings, description = _settings(), Description(caption=caption, tags=tags)
    summary = publish_all(
        settings,
        find_sources(names, prefix),
        lambda _: description,
        inline=inline,
        wait_for=_live_name(settings) if wait else None,
    )
    summary.show(as_json=as_json)
    if summary.failed:
        sys.exit(1)


@cli.command()
@click.argument("image_ids", metavar="IMAGE_ID...", nargs=-1, required=True)
@click.option("--wait", is_flag=True, help="Wait until the deletes are in the index.")
@quiet_option
@json_option
def delete(image_ids: tuple[str, ...], wait: bool, as_json: bool) -> None:
    """Delete pictures from the index, and what the image store keeps of them.

    Your own files stay. An id that nothing is indexed under may be deleted, too: the log may hold
    an upload that is still to come.
    """
    from pixtide.streams.publish.bulk import delete_all
    from pixtide.streams.publish.publisher import image_key

    for image_id in image_ids:
        image_key(image_id)
        if image_id.startswith(("/", "./", "../")) and Path(image_id).exists():
            raise UsageError(
                f"{image_id} is a file, not an image id; ids are as `pixtide search` shows them, "
                f"such as {Path(image_id).resolve().parent.name}/{Path(image_id).name}"
            )
    settings = _settings()
    wait_for = _live_name(settings) if wait else None
    delete_all(settings, image_ids, wait_for=wait_for).show(as_json=as_json)


@cli.command()
@click.option("--generation", metavar="NAME", help="Build this generation; default: the live one.")
@max_rate_option
@click.option("--background", is_flag=True, help="Give way to all else on this machine (nice 19).")
@click.option("--profile", is_flag=True, help="Say in the end where the time went.")
@ready_option
def ingest(
    generation: str | None,
    max_rate: float | None,
    background: bool,
    profile: bool,
    ready_file: Path | None,
) -> None:
    """Run an ingest worker: image events from the log into the index.

    One deployment for each generation that isn't retired; without --generation it stays with
    the one that was live when it started. It ends when its generation is retired.

    As many as the topic has partitions share the work of one generation. SIGTERM lets one finish
    what it has begun. PIXTIDE_HEALTH_PORT serves /live, /ready and /metrics, PIXTIDE_LOG=json
    writes log lines for machines.
    """
    need("ingest", "worker")
    from pixtide.streams.ingest.profile import profiled
    from pixtide.streams.process.starting import end_at_signals
    from pixtide.streams.wiring.ingest import ingest_worker
    from pixtide.streams.wiring.observed import seen_from_outside

    settings = _settings()
    if background or settings.embedded_log:
        os.nice(19 if background else 5)  # searches go first where they share the processor
    unproven = {"encoder": "is being loaded", "log": "is not read yet"}
    end_at_signals()
    with seen_from_outside(settings, unproven, ready_file) as vitals:
        worker = ingest_worker(settings, generation, vitals, max_rate=max_rate)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.stop())
        registry = vitals.instruments.registry
        with profiled(registry, worker.limits) if profile else contextlib.nullcontext():
            worker.run()


@cli.command()
@ready_option
def query(ready_file: Path | None) -> None:
    """Run a query consumer: searches answered over the reply topics that they name.

    It follows the live generation. PIXTIDE_HEALTH_PORT serves /live, /ready and /metrics,
    PIXTIDE_LOG=json writes log lines for machines.
    """
    need("query", "worker")
    import asyncio

    from pixtide.streams.process.starting import end_at_signals
    from pixtide.streams.wiring.observed import seen_from_outside
    from pixtide.streams.wiring.query import query_consumer

    settings = _settings()
    unproven = {"index": "is not read yet", "log": "is not read yet"}
    end_at_signals()
    with seen_from_outside(settings, unproven, ready_file) as vitals:
        asyncio.run(query_consumer(settings, vitals).run())


@cli.command()
@ready_option
def web(ready_file: Path | None) -> None:
    """Serve the page: search, publish, watch; and its JSON API (docs/web.md)."""
    need("web", "web")
    import tempfile

    from pixtide.streams.process.signals import log_to_stderr, readiness
    from pixtide.streams.web.build import build_site
    from pixtide.streams.web.serve import listen, serve

    settings = _settings()
    log_to_stderr(settings.log)
    with (
        listen(settings.web_host, settings.web_port) as listener,
        tempfile.TemporaryDirectory(prefix="pixtide-thumbnails-") as thumbnails,
        readiness(ready_file) as ready,
    ):
        site = build_site(settings, Path(thumbnails))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # the server's to heed; it tells us afterwards
        serve(site, listener, proxies=settings.web_proxies, on_ready=lambda: ready(True))


@cli.command()
@click.option("-q", "--quiet", is_flag=True, help="Say only what isn't well.")
@json_option
def doctor(quiet: bool, as_json: bool) -> None:
    """Look for the likeliest mistakes, and say how to mend each.

    Broker, advertised listeners, topics, message size, clocks, index, model and its fingerprint,
    workers, image store, disk. Also says which model is in use, and how to change it. Exits 1
    where something isn't well.
    """
    from pixtide.streams.doctor.run import examine

    sys.exit(0 if examine(_settings(), as_json=as_json, quiet=quiet) else 1)


@cli.command()
@json_option
def config(as_json: bool) -> None:
    """Print the effective settings; secrets are masked."""
    import json

    from pixtide.streams import terminal
    from pixtide.streams.settings import PREFIX

    values = _settings().model_dump(mode="json")
    if as_json:
        terminal.line(json.dumps(values))
    else:
        terminal.show_table(
            ["setting", "value"], [(PREFIX + k.upper(), v) for k, v in values.items()]
        )


def _settings() -> "Settings":
    from pixtide.streams.settings import load_settings

    return load_settings()


def _live_name(settings: "Settings") -> str:
    from pixtide.streams.wiring.adapters import open_catalog
    from pixtide.streams.wiring.generations import generation_to_work_for

    settings.bootstrap()  # without a log, to create an index is no help
    with contextlib.closing(open_catalog(settings)) as catalog:
        return generation_to_work_for(catalog, None).name


def _is_utf8(argument: str) -> bool:
    """Whether it came so; other bytes are surrogates here, which no message can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in argument)


def main() -> None:
    """Run a command; expected failures end with one line that says what to do."""
    escape_output()
    for argument in sys.argv[1:]:
        if not _is_utf8(argument) and not Path(argument).exists():
            click.echo(f"pixtide: {visible(argument)} is not UTF-8, and no file's name", err=True)
            sys.exit(2)
    try:
        cli.main(prog_name="pixtide")
    except PixtideError as error:
        click.echo(visible_lines(f"pixtide: {error}"), err=True)
        if isinstance(error, TransientError):
            click.echo("what is wrong, and how to fix it: pixtide doctor", err=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except OSError as error:  # a folder, a file or a disk of this machine
        click.echo(visible_lines(f"pixtide: {error}"), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
