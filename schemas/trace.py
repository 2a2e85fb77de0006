"""The trace that a record belongs to, as its `traceparent` header tells it.

Source: W3C Trace Context, https://www.w3.org/TR/trace-context/#traceparent-header
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

TRACEPARENT = "traceparent"

#: Version, trace, span and flags; what follows them is for versions to come. No field but the
#: version's and the flags' may be all zeros, and no version is ff.
_FORM = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})"
    r"-(?P<span>(?!0{16})[0-9a-f]{16})-[0-9a-f]{2}(?P<more>-[!-~]{0,200})?"
)


@dataclass(frozen=True)
class Trace:
    """A trace, and the span in it that a record was sent from, both in hexadecimal."""

    traceparent: str
    trace_id: str
    span_id: str

    def header(self) -> tuple[str, bytes]:
        """The header by which another record joins the trace."""
        return TRACEPARENT, self.traceparent.encode()

    def names(self) -> dict[str, object]:
        """What a log line calls it."""
        return {"trace_id": self.trace_id, "span_id": self.span_id}


def trace_of(headers: Iterable[tuple[str, bytes | None]]) -> Trace | None:
    """The trace that these headers name; None where they name none, several, or it is malformed."""
    found = {value for name, value in headers if name.lower() == TRACEPARENT}
    if len(found) != 1:
        return None
    form = _FORM.fullmatch((found.pop() or b"").decode(errors="replace"))
    if form is None or (form["version"] == "00" and form["more"] is not None):
        return None
    return Trace(form[0], form["trace"], form["span"])
