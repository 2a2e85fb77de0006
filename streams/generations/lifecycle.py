"""A generation's life after it is built: verify, promote, roll back, retire.

Every step is recorded with the index before the next one starts. So after a crash each command can
be run again, and goes on from there.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pixtide.schemas.errors import PixtideError, UsageError
from pixtide.search.generations import Generation, GenerationState
from pixtide.search.port import GenerationCatalog
from pixtide.streams.generations.originals_check import StoreSide
from pixtide.streams.generations.progress import NotReadError, Tell, await_group
from pixtide.streams.generations.repair import repair
from pixtide.streams.generations.search_check import SearchCheck
from pixtide.streams.generations.verify import Verification, Verifier
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka.groups import delete_group, workers_in
from pixtide.streams.originals.store import ImageStore
from pixtide.streams.settings import Settings
from pixtide.streams.wiring.generations import generation_to_work_for

_LEAVE_S = 60.0
_ASK_AGAIN_S = 0.5


class RefusedError(PixtideError):
    """A step would lose something, or show users less than they see now."""


@dataclass(frozen=True)
class Checks:
    """How much a verification checks, and whether it repairs what it finds.

    `searched` is how many rows, chosen at random, are searched for by their own vectors and words;
    0: none, None: all.
    """

    mend: bool = False
    originals: bool = True
    searched: int | None = 0


def verify(
    settings: Settings,
    catalog: GenerationCatalog,
    generation: Generation,
    checks: Checks,
    *,
    timeout_s: float,
    tell: Tell,
) -> Verification:
    """Verify, repair if asked, and record whether the generation is ready.

    Raises as `Verifier.run` and `repair` do.
    """
    index = catalog.open(generation)
    store = ImageStore(settings.image_store_url) if checks.originals else None
    verifier = Verifier(
        settings,
        generation,
        index,
        timeout_s=timeout_s,
        tell=tell,
        store=StoreSide(store, generation, catalog) if store else None,
        finding=None if checks.searched == 0 else SearchCheck(index, checks.searched),
    )
    try:
        found = verifier.run()
        if checks.mend:
            found = repair(settings, generation, index, verifier)
    finally:
        verifier.close()
    changes = (
        {"state": GenerationState.READY, "verified_at": datetime.now(UTC)}
        if found.rows_agree
        else {"state": GenerationState.BUILDING, "verified_at": None}
    )

    def judged(now: Generation) -> Generation:  # as it is after what may have been hours
        if now.state is GenerationState.RETIRED:
            raise UsageError(f"generation {now.name} is retired")
        return now.model_copy(update=changes)

    catalog.change(generation.name, judged)
    return found


def promote(
    settings: Settings,
    catalog: GenerationCatalog,
    generation: Generation,
    *,
    force: bool,
    timeout_s: float,
    tell: Tell,
) -> list[str]:
    """Make a generation live in one atomic step; returns what was skipped because of `force`.

    Raises:
        RefusedError: it isn't verified, or has not read the log to its current end.
    """
    before = catalog.live()
    if generation.is_same(before):
        return []
    unmet = _unmet(settings, generation, timeout_s, tell)
    if unmet and not force:
        raise RefusedError(f"not promoted: {'; '.join(unmet)}")
    before = catalog.live()  # after the wait, which may have taken minutes
    if generation.is_same(before):
        return unmet

    def still_ready(now: Generation) -> Generation:
        if now.state is GenerationState.RETIRED:
            raise UsageError(f"generation {now.name} is retired")
        if now.state is not GenerationState.READY and not force:
            raise RefusedError(f"not promoted: {_unverified(now)}")
        return now if before is None else now.model_copy(update={"previous": before.name})

    # Before the alias moves: a live generation is never retired, whatever is written here.
    catalog.change(generation.name, still_ready)
    if before is not None:
        catalog.change(before.name, _live_until_now)
    catalog.promote(generation.name)
    return unmet


def _live_until_now(generation: Generation) -> Generation:
    return generation.model_copy(update={"live_until": datetime.now(UTC)})


def _unverified(generation: Generation) -> str:
    return (
        f"no verification of {generation.name} was clean: run `pixtide index verify "
        f"{generation.name}`"
    )


def _unmet(settings: Settings, generation: Generation, timeout_s: float, tell: Tell) -> list[str]:
    """Why a generation can't be promoted."""
    unmet = [] if generation.state is GenerationState.READY else [_unverified(generation)]
    return unmet + _unread(settings, generation, timeout_s, tell)


def _unread(settings: Settings, generation: Generation, timeout_s: float, tell: Tell) -> list[str]:
    """What its workers have not read up to the log's current end, after waiting for them."""
    ends = kafka_offsets.ends(
        kafka_clients.admin(settings.kafka_connection()),
        generation.log.topic,
        range(generation.log.partitions),
    )
    try:
        await_group(settings, generation, ends, timeout_s, tell=tell)
    except NotReadError as error:
        return [str(error)]
    return []


def rollback(
    settings: Settings,
    catalog: GenerationCatalog,
    *,
    force: bool,
    timeout_s: float,
    tell: Tell,
) -> tuple[Generation, list[str]]:
    """Make the previously live generation live again; returns it, and what `force` skipped.

    It has gone on reading the log all the time, so nothing is lost. If its workers are behind, this
    waits for them, since users would see less than they see now. The other generation stays, and
    may be promoted again.

    Raises:
        RefusedError: the previous one has not read the log to its current end.
        UsageError: nothing was live before, or it is retired.
    """
    previous = _before(catalog)
    unmet = _unread(settings, previous, timeout_s, tell)
    if unmet and not force:
        raise RefusedError(
            f"not rolled back: {'; '.join(unmet)} With --force it is live at once, and catches up "
            "when they run"
        )
    if _before(catalog).name != previous.name:
        raise RefusedError("another generation was made live meanwhile: look at `index status`")
    if (live := catalog.live()) is not None:
        catalog.change(live.name, _live_until_now)
    catalog.promote(previous.name)
    return previous, unmet


def _before(catalog: GenerationCatalog) -> Generation:
    live = catalog.live()
    if live is None or live.previous is None:
        raise UsageError("no generation was live before this one")
    return generation_to_work_for(catalog, live.previous)


def retire(
    settings: Settings,
    catalog: GenerationCatalog,
    generation: Generation,
    *,
    grace: timedelta,
    timeout_s: float = _LEAVE_S,
) -> None:
    """Take a generation down: its workers stop, its collection and its offsets are deleted.

    The record stays, so that the name is never used again. Safe to repeat, also after a failure
    half-way.

    Raises:
        RefusedError: it is live, or was within the grace time, or workers don't leave.
        TransientError: a server can't be reached.
    """
    if generation.is_same(catalog.live()):
        raise RefusedError(f"generation {generation.name} is live: promote another one first")
    over = (generation.live_until or datetime.min.replace(tzinfo=UTC)) + grace
    if generation.state is not GenerationState.RETIRED and over > datetime.now(UTC):
        raise RefusedError(
            f"generation {generation.name} was live until {generation.live_until:%Y-%m-%d %H:%M} "
            f"UTC: retire it after {over:%Y-%m-%d %H:%M}, or with a shorter --grace"
        )

    def retired(now: Generation) -> Generation:
        if now.is_same(catalog.live()):  # promoted just now
            raise RefusedError(f"generation {now.name} is live: promote another one first")
        return now.model_copy(update={"state": GenerationState.RETIRED})

    catalog.change(generation.name, retired)
    client = kafka_clients.admin(settings.kafka_connection())
    deadline = time.monotonic() + timeout_s
    while left := workers_in(client, generation.group):
        if time.monotonic() > deadline:
            raise RefusedError(
                f"{left} workers of {generation.name} don't stop: end them, then run this again"
            )
        time.sleep(_ASK_AGAIN_S)
    catalog.drop(generation)
    delete_group(client, generation.group)
