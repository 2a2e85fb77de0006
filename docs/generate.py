"""Writes docs/cli.md, docs/settings.md, docs/metrics.md and the grants in docs/security.md.

Run `python docs/generate.py`.
"""

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from pixtide.streams.cli.help import SECTIONS
from pixtide.streams.cli.main import cli
from pixtide.streams.kafka.acls import grants
from pixtide.streams.process.metrics import (
    Described,
    IngestMetrics,
    Instruments,
    ProcessMetrics,
    QueryMetrics,
)
from pixtide.streams.settings import PREFIX, Settings

PAGE = Path(__file__).parent / "settings.md"
METRICS_PAGE = Path(__file__).parent / "metrics.md"
SECURITY_PAGE = Path(__file__).parent / "security.md"
CLI_PAGE = Path(__file__).parent / "cli.md"
#: A bar within a table's cell.
BAR = "\\|"
_GRANTS_BEGIN, _GRANTS_END = "<!-- grants: written by docs/generate.py -->\n", "<!-- end -->\n"


def settings_page() -> str:
    """The page, as it should be."""
    lines = [
        "# Settings",
        "",
        "Written by `python docs/generate.py`. Each is an environment variable, read once at the",
        "start; a wrong value or an unknown `PIXTIDE_` name stops the start by name. Lists are",
        "written with commas. `PIXTIDE_KAFKA_PASSWORD_FILE`, `PIXTIDE_WEAVIATE_API_KEY_FILE` and",
        "`PIXTIDE_WEB_TOKEN_FILE` name files that hold the secret. `pixtide config` prints the",
        "effective values.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, "", ()) else f"`{_written(field.default)}`"
        meaning = (field.description or _MEANINGS[name]).replace("|", BAR)
        lines.append(f"| `{PREFIX}{name.upper()}` | {default.replace('|', BAR)} | {meaning} |")
    return "\n".join(lines) + "\n"


def security_page() -> str:
    """The page, with the grants as they should be."""
    before, rest = SECURITY_PAGE.read_text().split(_GRANTS_BEGIN)
    after = rest.split(_GRANTS_END)[1]
    lines = ["```text"]
    for process, given in grants().items():
        lines += [f"# {process}", *(grant.command(process) for grant in given)]
    block = "\n".join([*lines, "```"]) + "\n"
    return before + _GRANTS_BEGIN + block + _GRANTS_END + after


def metrics_page() -> str:
    """The page, as it should be."""
    both, ingest, query = Instruments(), Instruments(), Instruments()
    ProcessMetrics(both)
    IngestMetrics(ingest)
    QueryMetrics(query)
    lines = [
        "# Metrics",
        "",
        "Written by `python docs/generate.py`. A worker serves them to Prometheus at `/metrics` of",
        "`PIXTIDE_HEALTH_PORT`; times are in seconds, sizes in bytes. Counters begin at 0 with",
        "their process: look at their `rate` or `increase`.",
        "",
        "## Both",
        "",
        *_metrics_table(both.described),
        "",
        "and the usual `process_…` of memory, CPU, files and start.",
        "",
        "## `pixtide ingest`",
        "",
        *_metrics_table(ingest.described),
        "",
        "## `pixtide query`",
        "",
        *_metrics_table(query.described),
    ]
    return "\n".join(lines) + "\n"


def cli_page() -> str:
    """The page, as it should be."""
    lines = [
        "# Command line",
        "",
        "Written by `python docs/generate.py`. `pixtide COMMAND --help` says the same. Every",
        "command reads the [settings](settings.md); without `PIXTIDE_KAFKA` it finds the stack",
        "that runs in `PIXTIDE_HOME`. What was asked for goes to stdout, news to stderr.",
        "Exit codes: 0 fine, 1 the work failed, 2 wrong usage.",
    ]
    for section, names in SECTIONS.items():
        lines += ["", f"## {section}"]
        for name in names:
            for path, command in _commands(name, cli.commands[name]):
                lines += ["", f"### `pixtide {path}`", "", *_command(path, command)]
    return "\n".join(lines) + "\n"


def _commands(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """A command, or a group and all in it."""
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in sorted(command.commands.items()):
            yield from _commands(f"{path} {name}", inner)


def _command(path: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=f"pixtide {path}")
    usage = " ".join(command.collect_usage_pieces(context))
    yield from ("```text", f"pixtide {path} {usage}".rstrip(), "```")
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        as_it_is, text = paragraph.startswith("\b\n"), paragraph.removeprefix("\b\n")
        yield from ("", "```text", text, "```") if as_it_is else ("", text)
    records = [each.get_help_record(context) for each in command.params]
    options = [each for each in records if each is not None]
    if options:
        yield from ("", "| option | meaning |", "|---|---|")
    for option, meaning in options:
        yield f"| `{option.replace('|', BAR)}` | {meaning.replace('|', BAR)} |"


def _metrics_table(described: list[Described]) -> list[str]:
    rows = [
        f"| `{each.name}` | {each.kind} | {', '.join(f'`{x}`' for x in each.labels)} "
        f"| {each.meaning} |"
        for each in described
    ]
    return ["| metric | kind | labels | meaning |", "|---|---|---|---|", *rows]


def _written(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


#: Settings whose name and type say it all in the code.
_MEANINGS = {
    "weaviate_grpc_port": "Weaviate's gRPC port, on the URL's host; one for each URL, or for all",
    "weaviate_api_key": "Weaviate's API key",
    "web_port": "port that the page listens on; the embedded stack takes another where this one "
    "is taken and was not asked for",
    "device": "auto, cpu or cuda: where the model runs; auto takes a GPU if there is one",
    "precision": "auto takes bf16 where the processor or GPU computes with it, else fp32 or, on a "
    "GPU, fp16; for the starter model's pictures fp32. These share a model's fingerprint; int8, of "
    "pictures on a CPU, has its own and needs pixtide[int8]",
    "batch_size": "pictures encoded at once",
    "max_picture_bytes": "a larger picture is dead-lettered as TOO_LARGE",
    "max_pixels": "a picture of more pixels, or that takes more than 8 bytes for each of "
    "these to decode, is dead-lettered as PIXEL_LIMIT",
    "decode_timeout_s": "for one picture; then it is dead-lettered as DECODE_TIMEOUT",
    "in_flight_bytes": "bytes of records (a quarter), fetched pictures and cut pixels that a "
    "worker holds; each picture is fetched with room for `PIXTIDE_MAX_PICTURE_BYTES`",
}


if __name__ == "__main__":
    CLI_PAGE.write_text(cli_page())
    PAGE.write_text(settings_page())
    METRICS_PAGE.write_text(metrics_page())
    SECURITY_PAGE.write_text(security_page())
