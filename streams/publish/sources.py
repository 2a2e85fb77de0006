"""The pictures that command-line arguments name: files, folders and URLs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pixtide.schemas.errors import UsageError

_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
    | {".heic", ".heif", ".avif"}
)


@dataclass(frozen=True)
class Source:
    """One picture to publish: its id, and its file or URL.

    If the bytes are already in `data`, the path is only a name that shows their format.
    """

    image_id: str
    at: Path | str
    data: bytes | None = None


def find_sources(names: Sequence[str], prefix: str | None) -> list[Source]:
    """The pictures that paths and URLs name; folders are searched, hidden files left out.

    A file's id is the folder's name and the path within it; `prefix` replaces the name.

    Raises:
        UsageError: a path doesn't exist, a folder holds no picture, or an id would repeat.
    """
    sources = [source for name in names for source in _sources_of(name, prefix)]
    seen: dict[str, Source] = {}
    for source in sources:
        if (other := seen.setdefault(source.image_id, source)) is not source:
            raise UsageError(
                f"{other.at} and {source.at} would both be {source.image_id}: publish them "
                "apart, each with its own --prefix"
            )
    return sources


def _sources_of(name: str, prefix: str | None) -> Iterator[Source]:
    if "://" in name:
        url = urlsplit(name)
        whole = f"{url.hostname or ''}{url.path}" + (f"?{url.query}" if url.query else "")
        yield Source(f"{prefix}/{Path(url.path).name}" if prefix else whole, name)
        return
    named = Path(name).expanduser().resolve()
    if named.is_file():
        yield Source(f"{prefix or named.parent.name}/{named.name}", named)
        return
    if not named.is_dir():
        raise UsageError(f"{name}: no such file or folder")
    found = [path for path in sorted(named.rglob("*")) if _is_picture(path, named)]
    if not found:
        raise UsageError(f"{name} holds no picture (looked for {', '.join(sorted(_SUFFIXES))})")
    for path in found:
        yield Source(f"{prefix or named.name}/{path.relative_to(named).as_posix()}", path)


def _is_picture(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return path.suffix.lower() in _SUFFIXES and not hidden and path.is_file()
