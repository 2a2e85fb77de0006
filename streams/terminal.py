"""What a person sees: progress with rate and ETA, tables of results, and plain JSON lines.

Whatever is shown goes through `pixtide.streams.escaping`: captions, ids and messages are strangers'
words.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from pixtide.schemas.base import shortened
from pixtide.schemas.errors import TransientError
from pixtide.schemas.queries import SearchReply
from pixtide.streams.escaping import visible, visible_json, visible_lines

T = TypeVar("T")

#: Messages and progress go to stderr, so that stdout stays what was asked for.
messages = Console(stderr=True, highlight=False)
output = Console(highlight=False)

#: Of a cell, the characters that are shown: an id of a dead letter may have any length.
_WIDEST_CELL = 200
#: Columns of a table of results that its ids leave to the rest.
_BESIDE_IDS = 40
_WIDEST = 10_000

_hushed = False


def hush() -> None:
    """From now on no news and no progress: only what was asked for, and what went wrong."""
    global _hushed  # as the terminal it speaks to
    _hushed = True


def say(message: str) -> None:
    """News for the person at the terminal."""
    if not _hushed:
        complain(message)


def complain(message: str) -> None:
    """What is said however quiet we are to be."""
    messages.print(visible_lines(message), markup=False, soft_wrap=True)


def line(text: str) -> None:
    """One line of JSON on stdout."""
    sys.stdout.write(visible_json(text) + "\n")


def fact(name: str, value: str) -> None:
    """One line of text on stdout: what is asked about, and the answer."""
    sys.stdout.write(f"{name}  {visible(value)}\n")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.0f}/s" if speed else "–/s", style="cyan")


def tracked(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Pass items through under a progress bar with count, rate and time left."""
    with Progress(*_columns(), console=messages, disable=_hushed) as progress:
        yield from progress.track(items, total=total, description=what)


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )


def show_reply(query: str, reply: SearchReply) -> None:
    """A reply as a table, or its error as a sentence."""
    shown = repr(query if len(query) <= 60 else query[:59] + "…") if query else "by picture"
    if reply.error is not None:
        complain(f"{shown}: {reply.error.code}: {reply.error.message}")
        return
    took = sum(reply.took_ms.values())
    table = Table(
        title=Text(visible(f"{shown}  ({took:.0f} ms, generation {reply.generation})")),
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, 2, 0, 0),
    )
    table.add_column("similarity", justify="right", style="cyan")
    longest = max((len(_cell(result.image_id)) for result in reply.results or ()), default=0)
    table.add_column("picture", no_wrap=True)  # ids are copied: captions give way to them
    table.add_column("size", justify="right", style="dim")
    if with_caption := any(result.caption for result in reply.results or ()):
        table.add_column("caption", style="dim")
    for result in reply.results or ():
        row = [f"{result.similarity:.3f}", result.image_id, f"{result.width}×{result.height}"]
        table.add_row(*map(_cell, row + ([result.caption] if with_caption else [])))
    if reply.results and output.is_terminal:
        _print_at_width(table, longest + _BESIDE_IDS)
    elif reply.results:
        show_whole(table)  # a line a result, for whatever reads them
    else:
        nothing = visible(f"{shown}: no match; filters, a cutoff, or an empty index")
        output.print(nothing, markup=False)


def show_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A plain table."""
    show_whole(table(headings, rows))


def show_whole(made: Table) -> None:
    """A table as wide as it needs to be: half an id or a heading is of no use to anybody."""
    options = output.options.update(max_width=_WIDEST)
    _print_at_width(made, output.measure(made, options=options).maximum)


def _print_at_width(made: Table, least: int) -> None:
    """The terminal itself folds what is wider than it is."""
    width = output.width
    output.width = max(width, least)
    try:
        output.print(made)
    finally:
        output.width = width


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A plain table, not shown yet."""
    made = Table(*headings, box=None, padding=(0, 2, 0, 0), header_style="bold")
    for row in rows:
        made.add_row(*map(_cell, row))
    return made


def _cell(value: object) -> Text:
    return Text(shortened(visible(str(value)), _WIDEST_CELL))


def duration(seconds: float) -> str:
    """A time as a person reads it: 5 s, 3:20 min, 2:05 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours}:{minutes_left:02} h" if hours else f"{minutes}:{rest:02} min"


@contextlib.contextmanager
def steps() -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars, one for each step that is told of: its name, what is done, what there is."""
    with Progress(*_columns(), console=messages) as progress:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield tell


def refreshing(look: Callable[[], RenderableType], every_s: float) -> None:
    """Show what `look` gives, again and again until Ctrl-C; while a server is away, that."""
    with contextlib.suppress(KeyboardInterrupt), Live(look(), console=output) as live:
        while True:
            time.sleep(every_s)
            try:
                live.update(look(), refresh=True)
            except TransientError as error:
                live.update(_cell(error), refresh=True)
