"""How consumed messages are looked at."""

import ast
from pathlib import Path

import pytest

STREAMS = Path(__file__).parents[2] / "streams"


@pytest.mark.parametrize("file", sorted(STREAMS.rglob("*.py")), ids=lambda file: file.stem)
def test_no_message_is_asked_for_its_headers_but_by_record_of(file: Path) -> None:
    """A name that is not UTF-8 would end the process; see `streams/kafka/records.py`."""
    calls = [
        node.lineno
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "headers"
        and ast.unparse(node.func.value) == "message"
    ]
    assert not calls, f"{file.name}: use kafka.record_of(message).headers"
