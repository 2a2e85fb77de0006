"""`pixtide search`."""

import base64
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pixtide.schemas.errors import UsageError
from pixtide.schemas.reply_address import CLIENT_TIMEOUT_S
from pixtide.streams.cli.options import json_option

if TYPE_CHECKING:
    from pixtide.schemas.queries import SearchRequest
    from pixtide.streams.settings import Settings

_ORIENTATIONS = ("landscape", "portrait", "square")


@click.command()
@click.argument("words", metavar="[TEXT]...", nargs=-1)
@click.option("--not", "against", multiple=True, help="Words to stay away from; repeatable.")
@click.option("--like", "like", metavar="IMAGE_ID", multiple=True, help="More like this picture.")
@click.option("--picture", "pictures", metavar="FILE|URL", multiple=True, help="Near this picture.")
@click.option(
    "--mode",
    type=click.Choice(["meaning", "hybrid", "keyword"]),
    default="meaning",
    show_default=True,
    help="Search by what is meant, by the words of captions and tags, or both.",
)
@click.option("-k", "--limit", default=10, show_default=True, help="How many results.")
@click.option("--cursor", help="The next_cursor of the page before.")
@click.option("--newest", is_flag=True, help="Of those that match, the newest first.")
@click.option("--cutoff", is_flag=True, help="Leave out what is no match.")
@click.option("--min-similarity", type=float, help="Cosine, -1 to 1.")
@click.option("--collapse", type=float, metavar="COSINE", help="Show near-duplicates once: 0.98.")
@click.option("--tag", "tags_all", multiple=True, help="Only pictures with this tag; repeatable.")
@click.option("--any-tag", "tags_any", multiple=True, help="Only with at least one of these.")
@click.option("--not-tag", "tags_none", multiple=True, help="Only without this tag.")
@click.option("--after", "uploaded_after", metavar="TIME", help="Uploaded then or later, ISO 8601.")
@click.option("--before", "uploaded_before", metavar="TIME", help="Uploaded before, ISO 8601.")
@click.option("--format", "formats", multiple=True, help="Only JPEG, PNG, …; repeatable.")
@click.option(
    "--orientation",
    "orientations",
    type=click.Choice(_ORIENTATIONS),
    multiple=True,
    help="Only of this shape; repeatable.",
)
@click.option("--min-width", type=int, help="In pixels.")
@click.option("--max-width", type=int, help="In pixels.")
@click.option("--min-height", type=int, help="In pixels.")
@click.option("--max-height", type=int, help="In pixels.")
@click.option(
    "--where", metavar="NAME=VALUE", multiple=True, help="A declared attribute; also <, <=, >, >=."
)
@click.option(
    "--timeout", default=CLIENT_TIMEOUT_S, show_default=True, help="Seconds to wait for a reply."
)
@json_option
def search(words: tuple[str, ...], timeout: float, as_json: bool, **options: Any) -> None:
    """Find pictures by words, by pictures, or by both.

    With `-` as TEXT, each line of standard input is a query; the replies come in their order.
    Exits 1 if a query could not be served. Times without a zone are UTC.
    """
    from pixtide.streams import terminal
    from pixtide.streams.settings import load_settings
    from pixtide.streams.wiring.clients import search_client

    settings = load_settings()
    text = " ".join(words)
    asked = _request(settings, "" if text == "-" else text, options)
    if not text.strip() and not asked.terms:
        raise UsageError("say what to look for: words, --like or --picture")
    texts: deque[str] = deque()

    def requests() -> "Iterator[SearchRequest]":
        for line in sys.stdin if text == "-" else [text]:
            # bytes that are no UTF-8 arrive as surrogates, which JSON can't hold
            texts.append(line.rstrip("\n").encode(errors="replace").decode())
            yield asked.model_copy(update={"text": texts[-1]})

    failed = False
    with search_client(settings, timeout_s=timeout) as client:
        for reply in client.search_many(requests()):
            failed = failed or reply.error is not None
            if as_json:
                terminal.line(reply.to_json().decode())
            else:
                terminal.show_reply(texts.popleft(), reply)
    sys.exit(1 if failed else 0)


def _request(settings: "Settings", text: str, options: dict[str, Any]) -> "SearchRequest":
    from pydantic import ValidationError

    from pixtide.schemas.base import explain
    from pixtide.schemas.queries import SearchRequest

    terms = [{"text": words, "weight": -1} for words in options.pop("against")]
    terms += [{"image_id": image_id} for image_id in options.pop("like")]
    terms += [_picture_term(settings, name) for name in options.pop("pictures")]
    filters = {
        name: options.pop(name)
        for name in list(options)
        if name.startswith(("tags_", "uploaded_", "min_w", "max_w", "min_h", "max_h"))
        or name in ("formats", "orientations")
    }
    filters["attributes"] = [_attribute(condition) for condition in options.pop("where")]
    try:
        return SearchRequest.model_validate(
            {
                "text": text,
                "terms": terms,
                "filters": filters,
                "sort": "newest" if options.pop("newest") else "relevance",
                "cutoff": "auto" if options.pop("cutoff") else "none",
                "collapse_above": options.pop("collapse"),
                **options,
            }
        )
    except ValidationError as error:
        raise UsageError(explain(error)) from error


def _picture_term(settings: "Settings", name: str) -> dict[str, str]:
    """A URL as it is; a file's bytes."""
    if "://" in name:
        return {"uri": name}
    try:
        data = Path(name).expanduser().read_bytes()
    except OSError as error:
        raise UsageError(f"--picture {name}: {error.strerror}") from error
    if len(data) > settings.inline_limit:
        raise UsageError(
            f"--picture {name}: {len(data):,} bytes are too many for a request, which takes "
            f"{settings.inline_limit:,}; publish it and use --like, or make it smaller"
        )
    return {"data_base64": base64.b64encode(data).decode()}


def _attribute(condition: str) -> dict[str, Any]:
    """`price<=10`: a number or a boolean where it reads as one, else text."""
    for sign, name in (("<=", "lte"), (">=", "gte"), ("<", "lt"), (">", "gt"), ("=", "eq")):
        attribute, found, value = condition.partition(sign)
        if found and attribute:
            return {"name": attribute, name: _scalar(value)}
    raise UsageError(f"--where {condition}: write NAME=VALUE, or <, <=, >, >= for =")


def _scalar(value: str) -> Any:
    from pydantic_core import from_json

    try:
        parsed = from_json(value)
    except ValueError:
        return value
    return parsed if isinstance(parsed, bool | int | float) else value
