"""What strangers wrote, made safe for a terminal and for a line of a log.

Captions, image ids, file names, URIs and error messages come from whoever publishes pictures. Sent
to a terminal as they are, they could move its cursor, set its title, or start a line that looks
like another one's. So all that can't be seen is shown as an escape, as Python and JSON write it.
"""

import sys
import traceback
import unicodedata
from types import TracebackType

#: Control, format, surrogate and private characters, and separators of lines and paragraphs.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
#: Format characters that scripts and emoji are written with: the non-joiner and the joiner.
_JOINERS = "\u200c\u200d"


def visible(text: str) -> str:
    r"""The text with all that can't be seen escaped: ``\x1b``, ``\n``, ``\u202e``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _is_seen(c) else _python_escape(c) for c in text)


def visible_lines(text: str) -> str:
    """The same of each line; those after the first are indented, so that none can be forged."""
    return "\n  ".join(map(visible, text.split("\n")))


def visible_json(text: str) -> str:
    """A JSON text that means the same, with all that can't be seen as JSON's own escapes."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _is_seen(c) else _json_escape(c) for c in text)


def visible_error(error: BaseException | None) -> str:
    """An exception's traceback, its lines as `visible_lines` has them."""
    return visible_lines("".join(traceback.format_exception(error)).rstrip("\n"))


def escape_output() -> None:
    """Have this process write what its streams' encoding lacks as escapes, and tracebacks visibly.

    For command lines: what ends the process unexpectedly may tell a stranger's words.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # text streams

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        sys.stderr.write(visible_error(error) + "\n")

    sys.excepthook = show


def _is_seen(character: str) -> bool:
    return unicodedata.category(character) not in _UNSEEN or character in _JOINERS


def _python_escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
