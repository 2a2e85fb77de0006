"""What strangers wrote reaches no terminal and no log as they wrote it."""

import json
import logging
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pixtide.streams import terminal as console
from pixtide.streams.escaping import visible, visible_error, visible_json, visible_lines
from pixtide.streams.process.logs import handler_of

#: Sets a terminal's title, clears it, hides what follows, forges a line, turns the text around.
HOSTILE = "a\x1b]0;owned\x07\x1b[2J\x9b8m\r\n2026-01-01 INFO forged\u2028\u202egpj.\x00\udc80"
_ANYTHING = st.text(
    st.characters() | st.sampled_from("\x1b\x9b\x00\r\n\u2028\u202e\ud800\U000e0041")
)


def is_safe(text: str) -> bool:
    return all(
        unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} or c in "\u200c\u200d"
        for c in text
    )


@given(_ANYTHING)
def test_all_that_cannot_be_seen_is_escaped(text: str) -> None:
    assert is_safe(visible(text))
    first, *rest = visible_lines(text).split("\n")
    assert is_safe(first)
    assert all(is_safe(line) and line.startswith("  ") for line in rest)


@given(st.recursive(_ANYTHING, lambda inner: st.lists(inner) | st.dictionaries(_ANYTHING, inner)))
def test_json_means_the_same(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert is_safe(visible_json(text))
        assert json.loads(visible_json(text)) == json.loads(text)


def test_what_people_write_stays() -> None:
    for text in ("Ein Café, 50 %", "猫", "می‌خواهم", "👩‍👩‍👧 at the sea", "naïve\u0301"):
        assert visible(text) == text


def test_tables_messages_and_facts_show_escapes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Console(width=200, highlight=False, force_terminal=True, color_system=None)
    monkeypatch.setattr(console, "output", terminal)
    monkeypatch.setattr(console, "messages", terminal)
    with terminal.capture() as captured:
        console.show_table(["picture"], [[HOSTILE]])
        console.complain(HOSTILE)
    console.fact("id", HOSTILE)
    console.line(json.dumps(HOSTILE, ensure_ascii=False))
    for written in (captured.get(), capsys.readouterr().out):
        assert is_safe(written.replace("\n", ""))
        assert not any(line.startswith("2026") for line in written.splitlines())


def test_a_log_line_stays_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    handler = handler_of("text")
    assert isinstance(handler, logging.StreamHandler)
    monkeypatch.setattr(handler.stream, "write", written.append)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        record = logging.LogRecord(
            "pixtide.streams.ingest.worker",
            logging.WARNING,
            "",
            0,
            "dead letter: %s",
            (HOSTILE,),
            sys.exc_info(),
        )
    handler.emit(record)
    first, *rest = "".join(written).rstrip("\n").split("\n")
    assert is_safe(first) and "forged" in first
    assert rest and all(is_safe(line) and line.startswith("    ") for line in rest)


def test_a_traceback_forges_no_line() -> None:
    first, *rest = visible_error(ValueError(HOSTILE)).split("\n")
    assert first.startswith("ValueError")
    assert all(is_safe(line) and line.startswith("  ") for line in rest)
