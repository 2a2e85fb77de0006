"""The work of `pixtide publish` and `pixtide delete`: publish with a progress bar, wait, sum up."""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pixtide.schemas.outcomes import Outcome, OutcomeKind
from pixtide.streams import terminal
from pixtide.streams.publish.outcomes import OutcomeWatch
from pixtide.streams.publish.publisher import Description, NoImageIdError, Publisher
from pixtide.streams.publish.sources import Source
from pixtide.streams.settings import Settings

#: `--wait` gives up when no outcome at all has come for this long.
_STALLED_S = 120.0
_SHOWN = 20


@dataclass
class Summary:
    """What was published, and the outcomes if they were waited for."""

    published: int
    took_s: float
    waited: bool
    outcomes: list[Outcome] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether anything that was asked for did not happen."""
        return bool(self.dead_letters or self.unreadable)

    @property
    def dead_letters(self) -> list[Outcome]:
        """The outcomes of records that could not be indexed."""
        return [o for o in self.outcomes if o.outcome is OutcomeKind.DEAD_LETTERED]

    @property
    def replaced(self) -> list[str]:
        """The ids that had another picture before."""
        return [o.image_id for o in self.outcomes if o.outcome is OutcomeKind.REPLACED]

    def show(self, *, as_json: bool) -> None:
        """Print it."""
        counts = Counter(str(o.outcome) for o in self.outcomes)
        if as_json:
            terminal.line(
                json.dumps(
                    {
                        "published": self.published,
                        "took_s": round(self.took_s, 3),
                        "outcomes": dict(counts) if self.waited else None,
                        "unreadable": self.unreadable,
                        "replaced": self.replaced,
                        "dead_letters": [json.loads(o.to_json()) for o in self.dead_letters],
                    }
                )
            )
            return
        said = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))
        rate = self.published / self.took_s if self.took_s else 0
        terminal.say(
            f"{self.published} event{'' if self.published == 1 else 's'} published"
            f" in {self.took_s:.1f} s ({rate:.0f}/s)" + (f": {said}" if said else "")
        )
        _show_some(terminal.complain, "files could not be published", self.unreadable)
        _show_some(terminal.say, "replaced another picture", self.replaced)
        letters = [f"{o.image_id}  {o.reason}: {o.message}" for o in self.dead_letters]
        _show_some(terminal.complain, "dead letters", letters)


def publish_all(
    settings: Settings,
    sources: Sequence[Source],
    describe: Callable[[Source], Description],
    *,
    inline: bool = False,
    wait_for: str | None = None,
) -> Summary:
    """Publish pictures; `wait_for` names the generation whose outcomes to wait for."""
    publisher = Publisher(settings)
    watch = OutcomeWatch(settings, wait_for) if wait_for else None
    started = time.monotonic()
    unreadable = []
    for source in terminal.tracked(sources, "publishing", len(sources)):
        try:
            publisher.upload(source, describe(source), inline=inline)
        except (NoImageIdError, OSError) as error:
            unreadable.append(f"{source.at}: {getattr(error, 'strerror', None) or error}")
    publisher.flush()
    summary = _finish(publisher, watch, started, "indexing")
    summary.unreadable = unreadable
    return summary


def delete_all(
    settings: Settings, image_ids: Sequence[str], *, wait_for: str | None = None
) -> Summary:
    """Delete pictures; `wait_for` as in `publish_all`."""
    publisher = Publisher(settings)
    watch = OutcomeWatch(settings, wait_for) if wait_for else None
    started = time.monotonic()
    for image_id in image_ids:
        publisher.delete(image_id)
    publisher.flush()
    return _finish(publisher, watch, started, "deleting")


def _finish(publisher: Publisher, watch: OutcomeWatch | None, started: float, what: str) -> Summary:
    outcomes: list[Outcome] = []
    if watch is not None:
        try:
            coming = watch.outcomes_of(publisher.positions, stalled_s=_STALLED_S)
            outcomes.extend(terminal.tracked(coming, what, len(publisher.positions)))
        finally:
            watch.close()
    took_s = time.monotonic() - started
    return Summary(len(publisher.positions), took_s, watch is not None, outcomes)


def _show_some(say: Callable[[str], None], what: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    say(f"{len(lines)} {what}:")
    for shown in lines[:_SHOWN]:
        say(f"  {shown}")
    if len(lines) > _SHOWN:
        say(f"  … and {len(lines) - _SHOWN} more (--json lists all)")
