"""The commands that look after the topics, and the log in them. Heavy imports wait inside them."""

import json
import sys
from dataclasses import replace

import click

from pixtide.schemas.errors import UsageError
from pixtide.streams.cli.help import quiet_option
from pixtide.streams.cli.options import json_option


@click.group()
def topics() -> None:
    """The Kafka topics."""


@topics.command("create")
@quiet_option
@json_option
def topics_create(as_json: bool) -> None:
    """Create the topics that are missing; existing ones stay as they are.

    To have another number of partitions, create `images.uploaded` with it beforehand: the topic of
    retries gets as many.
    """
    from pixtide.schemas.topics import RETRY, UPLOADED
    from pixtide.schemas.topics import topics as topics_table
    from pixtide.streams import terminal
    from pixtide.streams.kafka import clients as kafka_clients
    from pixtide.streams.kafka import topics as kafka_topics
    from pixtide.streams.settings import load_settings

    settings = load_settings()
    client = kafka_clients.admin(settings.kafka_connection())
    log, retries = settings.named(UPLOADED), settings.named(RETRY)
    usual = {settings.named(t.name): t for t in topics_table(embedded=settings.embedded_log)}
    created = kafka_topics.create_topics(client, [(log, usual[log])], settings.replication)
    # each record's retry goes to its own partition
    usual[retries] = replace(usual[retries], partitions=created[log].partitions)
    others = [(name, topic) for name, topic in usual.items() if name != log]
    created |= kafka_topics.create_topics(client, others, settings.replication)
    for name, (new, has) in created.items():
        wants = usual[name].partitions
        if as_json:
            terminal.line(json.dumps({"topic": name, "created": new, "partitions": has}))
        else:
            unlike = f", with {has} partitions instead of {wants}" if has != wants else ""
            terminal.say(f"{name}: {'created' if new else 'exists'}{unlike}")
    if created[retries].partitions < created[log].partitions:
        raise UsageError(
            f"{retries} has fewer partitions than {log}, so that no worker starts: raise them to "
            f"{created[log].partitions}"
        )


@topics.command("dump")
def topics_dump() -> None:
    """Write the log, `images.uploaded`, to stdout: one JSON line a record.

    Run it as `pixtide topics dump | gzip > log.jsonl.gz`. What comes later isn't in it. Originals
    aren't either: back up the image store too. A dump that breaks off can't be loaded. A record
    that can't be read is named and left out; then this exits 1.
    """
    from pixtide.streams import terminal
    from pixtide.streams.publish.log_dump import dump
    from pixtide.streams.settings import load_settings

    count, left_out = -1, _LeftOut()  # for the last line is no record
    for line in dump(load_settings(), left_out):
        terminal.line(line)
        count += 1
    terminal.say(f"{count:,} records")
    left_out.end()


@topics.command("load")
@quiet_option
def topics_load() -> None:
    """Read what `dump` wrote from stdin into an `images.uploaded` that is new.

    It may have another number of partitions. Where it has ever held a record, nothing is loaded;
    where what is read breaks off, it fails. A record that the topic doesn't take is named and left
    out; then this exits 1.
    """
    from pixtide.streams import terminal
    from pixtide.streams.publish.log_dump import load
    from pixtide.streams.settings import load_settings

    left_out = _LeftOut()
    terminal.say(f"{load(load_settings(), sys.stdin, left_out):,} records")
    left_out.end()


class _LeftOut:
    """Tells of each record that is left out, and how many were."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, problem: str) -> None:
        from pixtide.streams import terminal

        self._count += 1
        terminal.complain(problem)

    def end(self) -> None:
        """Exit 1 where there were any."""
        from pixtide.streams import terminal

        if self._count:
            terminal.complain(f"{self._count:,} left out; of their pictures older records count")
            sys.exit(1)
