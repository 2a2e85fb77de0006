"""What `pip install 'pixtide[…]'` adds, and what to say where it lacks."""

import contextlib
import re
from collections.abc import Iterator
from importlib import metadata

from pixtide.schemas.errors import UsageError

#: A requirement of one extra, as a wheel's metadata has it.
_REQUIREMENT = re.compile(r"""([\w.-]+).*\bextra\s*==\s*['"](\w+)['"]""")


def need(command: str, *extras: str) -> None:
    """Raises UsageError, which names all that a command needs, where some of it isn't installed."""
    if not all(map(_is_installed, extras)):
        raise UsageError(
            f"`pixtide {command}` needs more than is installed: "
            f"pip install 'pixtide[{','.join(extras)}]'"
        )


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Turn a package that is not installed into what to do about it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed: pip install 'pixtide[{name}]'") from error


def _is_installed(extra: str) -> bool:
    """Whether each package that the extra names is installed, in whatever version."""
    for requirement in metadata.requires("pixtide") or ():
        found = _REQUIREMENT.match(requirement)
        if found and found[2] == extra:
            try:
                metadata.distribution(found[1])
            except metadata.PackageNotFoundError:
                return False
    return True
