"""`pixtide doctor`: looks for the likeliest mistakes and names the mend of each."""

import contextlib
import json
from collections.abc import Iterator, Set

from pixtide.schemas.errors import PixtideError
from pixtide.streams import terminal
from pixtide.streams.doctor.checks import LOOKS, Finding, Look, Patient, Seen
from pixtide.streams.settings import Settings

_MARKS = {Seen.WELL: "ok  ", Seen.BAD: "BAD ", Seen.UNSEEN: "?   "}


def examine(settings: Settings, *, as_json: bool, quiet: bool) -> bool:
    """Look at everything, print what was found (quietly: what isn't well); true if all is well."""
    well = True
    for look, finding in findings(settings):
        well = well and finding.seen is Seen.WELL
        if quiet and finding.seen is Seen.WELL:
            continue
        if as_json:
            terminal.line(json.dumps({"what": look.what, **finding.told()}))
        else:
            _show(look, finding)
    return well


def findings(settings: Settings) -> Iterator[tuple[Look, Finding]]:
    """Each look and what it found. What needs something that isn't well isn't looked at."""
    unwell: set[str] = set()
    with contextlib.closing(Patient(settings)) as patient:
        for look in LOOKS:
            finding = _found(look, patient, unwell)
            if finding.seen is not Seen.WELL:
                unwell.add(look.what)
            yield look, finding


def _found(look: Look, patient: Patient, unwell: Set[str]) -> Finding:
    for needed in look.needs:
        if needed in unwell:
            return Finding(Seen.UNSEEN, f"not looked at; mend first: {needed}")
    try:
        return look.at(patient)
    except PixtideError as error:
        return Finding(Seen.BAD, str(error), look.mend)


def _show(look: Look, finding: Finding) -> None:
    terminal.say(f"{_MARKS[finding.seen]} {look.what}: {finding.said}")
    if finding.mend:
        terminal.say(f"     → {finding.mend}")
