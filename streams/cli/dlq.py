"""The commands that work off dead letters. Heavy imports wait inside them."""

import contextlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pixtide.schemas.errors import PoisonError, UsageError
from pixtide.streams.cli.options import json_option

if TYPE_CHECKING:
    from pixtide.streams.dead_letters.letters import DeadLetter, LetterContent, Selection
    from pixtide.streams.dead_letters.retry import RetryResult

_THUMBNAIL_SIDE = 256
_SHOWN_TEXT = 400

code_option = click.option(
    "--code", "codes", multiple=True, help="Only letters of this code; may be repeated."
)
id_option = click.option(
    "--id", "image_ids", multiple=True, help="Only letters of this image id; may be repeated."
)


@click.group()
def dlq() -> None:
    """Records that could not be indexed: see why, and try them again.

    A letter is `waiting` until its record is indexed after all (`healed`) or a newer record of
    its picture is (`superseded`). One is `orphaned` where the generation that wrote it is gone.
    """


@dlq.command("list")
@code_option
@id_option
@json_option
def dlq_list(codes: tuple[str, ...], image_ids: tuple[str, ...], as_json: bool) -> None:
    """Count dead letters by code, with examples; with --code or --id, list each."""
    from pixtide.schemas.base import shortened
    from pixtide.streams import terminal
    from pixtide.streams.dead_letters.letters import LetterState, by_code
    from pixtide.streams.settings import load_settings
    from pixtide.streams.wiring.clients import dead_letters

    with contextlib.closing(dead_letters(load_settings())) as source:
        letters = source.letters(_selection(codes, image_ids))
    if codes or image_ids:
        _show_letters(letters, as_json=as_json)
        return
    groups = by_code(letters)
    if as_json:
        for group in groups:
            counts = {str(state): group.counts.get(state, 0) for state in LetterState}
            examples = [_plain(letter) for letter in group.examples]
            terminal.line(json.dumps({"code": group.code, **counts, "examples": examples}))
        return
    terminal.show_table(
        ["code", *LetterState, "latest that wait"],
        [
            (
                group.code or "(none)",
                *(group.counts.get(state, 0) for state in LetterState),
                ", ".join(shortened(e.image_id, 60) or e.place for e in group.examples),
            )
            for group in groups
        ],
    )


@dlq.command("show")
@click.argument("which", metavar="IMAGE_ID|PARTITION@OFFSET")
@click.option(
    "--thumbnail",
    "thumbnail_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a small JPEG of the letter's picture there, where it can be had.",
)
@json_option
def dlq_show(which: str, thumbnail_file: Path | None, as_json: bool) -> None:
    """Show one dead letter: why it is one, its event, headers and value."""
    from pixtide.streams import terminal
    from pixtide.streams.settings import load_settings
    from pixtide.streams.wiring.clients import dead_letters
    from pixtide.streams.wiring.pictures import decoder_pool

    settings = load_settings()
    with contextlib.closing(dead_letters(settings)) as source:
        content = source.find(which)
        picture = source.picture_of(content) if thumbnail_file is not None else None
    shown = _content(content)
    if thumbnail_file is not None and picture is not None:
        try:
            with contextlib.closing(decoder_pool(settings, 1)) as decoders:
                thumbnail_file.write_bytes(decoders.thumbnail(picture, _THUMBNAIL_SIDE))
            shown["thumbnail"] = str(thumbnail_file)
        except PoisonError as error:
            shown["thumbnail_error"] = str(error)
    if as_json:
        terminal.line(json.dumps(shown))
        return
    flat = {name: value for name, value in shown.items() if value not in (None, "", {})}
    width = max(map(len, flat))
    for name, value in flat.items():
        said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        terminal.fact(f"{name:<{width}}", said)


@dlq.command("retry")
@code_option
@id_option
@click.option("--all", "everything", is_flag=True, help="All that wait.")
@click.option("--execute", is_flag=True, help="Do it; without this, only say what would be done.")
@json_option
def dlq_retry(
    codes: tuple[str, ...],
    image_ids: tuple[str, ...],
    everything: bool,
    execute: bool,
    as_json: bool,
) -> None:
    """Try dead letters again, under their original version: newer data always stays.

    Letters that are healed or superseded by now are left out.
    """
    from pixtide.streams import terminal
    from pixtide.streams.dead_letters.retry import plan_retry
    from pixtide.streams.settings import load_settings
    from pixtide.streams.wiring.clients import dead_letters, retrier

    if everything == bool(codes or image_ids):
        raise UsageError("say which letters: --all, or some by --code, by --id or by both")
    settings = load_settings()
    with contextlib.closing(dead_letters(settings)) as source:
        plan = plan_retry(source.letters(_selection(codes, image_ids)))
        result = retrier(settings, source).send(plan) if execute and plan.letters else None
    if as_json:
        for letter in plan.letters:
            terminal.line(json.dumps({**_plain(letter), **_fate(letter, result)}))
    elif not execute:
        _show_letters(plan.letters, as_json=False)
    for state, count in plan.left_out.items():
        terminal.say(f"{count} {state}: left out")
    if result is None:
        terminal.say(
            f"{len(plan.letters)} would be tried again" + "; add --execute" * (not execute)
        )
        return
    for letter, reason in result.refused:
        terminal.say(f"{letter.place}: not sent: {reason}")
    terminal.say(f"{len(result.sent)} sent; `pixtide dlq list` tells what becomes of them")
    if result.refused:
        sys.exit(1)


def _selection(codes: Sequence[str], image_ids: Sequence[str]) -> "Selection":
    from pixtide.schemas.errors import ReasonCode
    from pixtide.streams.dead_letters.letters import Selection

    for code in codes:
        if code not in ReasonCode.__members__:
            raise UsageError(f"--code {code}: no such code; docs/codes.md lists them")
    return Selection(frozenset(codes), frozenset(image_ids))


def _fate(letter: "DeadLetter", result: "RetryResult | None") -> dict[str, Any]:
    if result is None:
        return {"sent": False}
    reasons = {refused.place: reason for refused, reason in result.refused}
    if letter.place in reasons:
        return {"sent": False, "refused": reasons[letter.place]}
    return {"sent": True}


def _show_letters(letters: Iterable["DeadLetter"], *, as_json: bool) -> None:
    from pixtide.streams import terminal

    if as_json:
        for letter in letters:
            terminal.line(json.dumps(_plain(letter)))
        return
    terminal.show_table(
        ["letter", "picture", "code", "state", "message"],
        [(e.place, e.image_id, e.code, e.state, e.message[:100]) for e in letters],
    )


def _plain(letter: "DeadLetter") -> dict[str, Any]:
    """A letter for JSON."""
    from dataclasses import asdict

    source = letter.source.model_dump(mode="json") if letter.source else None
    return {**asdict(letter), "source": source, "state": str(letter.state)}


def _content(content: "LetterContent") -> dict[str, Any]:
    """A letter and what is in it, for JSON; of bytes, what a person can read."""
    import hashlib

    value = content.value
    event = (
        content.event.model_dump(mode="json", exclude={"picture": {"data"}})
        if (content.event)
        else None
    )
    return {
        **_plain(content.letter),
        "event": event,
        "event_error": content.event_error or content.value_missing,
        "headers": {name: (raw or b"").decode(errors="replace") for name, raw in content.headers},
        "value": None
        if value is None
        else {
            "bytes": len(value),
            "sha256": hashlib.sha256(value).hexdigest(),
            "text": _readable(value),
        },
        "thumbnail": None,
    }


def _readable(value: bytes) -> str | None:
    try:
        text = value.decode()[:_SHOWN_TEXT]
    except UnicodeDecodeError:
        return None
    return text if all(part.isprintable() for part in text.split()) else None
