"""What a person sees of results in a terminal of 80 columns."""

from datetime import UTC, datetime

import pytest
from rich.console import Console

from pixtide.schemas.queries import SearchReply, SearchResult
from pixtide.streams import terminal as console


def shown(monkeypatch: pytest.MonkeyPatch, image_id: str, caption: str) -> list[str]:
    terminal = Console(width=80, highlight=False)
    monkeypatch.setattr(console, "output", terminal)
    result = SearchResult(
        image_id=image_id,
        uri="",
        similarity=0.7,
        caption=caption,
        uploaded_at=datetime(2026, 1, 1, tzinfo=UTC),
        width=640,
        height=480,
        format="JPEG",
        bytes=1,
        sha256="",
    )
    with terminal.capture() as captured:
        console.show_reply("a cat", SearchReply(results=(result,), generation="v1"))
    return captured.get().splitlines()


def test_captions_give_way_to_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    image_id = "demo/animals/tabby-cat-asleep.jpg"
    caption = "A tabby cat asleep on the floor of a room"
    lines = shown(monkeypatch, image_id, caption)
    assert any(image_id in line for line in lines)
    said = " ".join(line.split("480")[-1].strip() for line in lines[2:])
    assert said.split() == caption.split()


def test_an_id_too_long_for_a_line_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, "x" * 200, "")
    assert any("x" * 200 in line for line in lines)


def test_a_table_wider_than_the_terminal_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(width=20, highlight=False)
    monkeypatch.setattr(console, "output", terminal)
    with terminal.capture() as captured:
        console.show_table(["generation", "dead letters"], [["x" * 30, 1]])
    assert captured.get().splitlines()[1].startswith("x" * 30)
    assert "dead letters" in captured.get()
    assert terminal.width == 20


def test_an_id_of_any_length_leaves_a_table_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(width=80, highlight=False)
    monkeypatch.setattr(console, "output", terminal)
    with terminal.capture() as captured:
        console.show_table(["letter", "picture"], [("0@1", "x" * 16_384), ("0@2", "short")])
    lines = captured.get().splitlines()
    assert len(lines) == 3 and max(map(len, lines)) < 250
    assert max(map(len, shown(monkeypatch, "y" * 16_384, "caption"))) < 300
