"""`traceparent` headers, by the rules of W3C Trace Context."""

import pytest

from pixtide.schemas.trace import Trace, trace_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
WELL = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize("text", [WELL, f"01-{TRACE}-{SPAN}-00", f"cc-{TRACE}-{SPAN}-01-more"])
def test_a_valid_one_is_told_as_it_came(text: str) -> None:
    trace = trace_of([("other", None), ("traceparent", text.encode())])
    assert trace == Trace(text, TRACE, SPAN)
    assert trace.header() == ("traceparent", text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"01-{TRACE}-{SPAN}-01more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01\n",
        f"01-{TRACE}-{SPAN}-01-{'x' * 10_000}",
    ],
)
def test_a_malformed_one_is_as_none(text: str) -> None:
    assert trace_of([("traceparent", text.encode())]) is None


def test_none_two_that_differ_and_bytes_that_are_no_text() -> None:
    other = WELL.replace("01", "00").encode()
    assert trace_of([]) is None
    assert trace_of([("traceparent", None)]) is None
    assert trace_of([("traceparent", b"\xff\xfe")]) is None
    assert trace_of([("traceparent", WELL.encode()), ("Traceparent", other)]) is None
    assert trace_of([("traceparent", WELL.encode()), ("Traceparent", WELL.encode())]) is not None
