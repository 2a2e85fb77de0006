"""pixtide as it is where only some of its extras are installed:

    python tests/support/only_extra.py EXTRA,EXTRA COMMAND ARGUMENT…

What those don't bring along can't be imported. That is as good as an environment of its own, and
takes no installing.
"""

import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: For `Deployment.program`, before the extras.
PROGRAM = (sys.executable, "-P", __file__)


def distributions(extras: Sequence[str]) -> set[str]:
    """The canonical names of all that `pip install pixtide[extras]` installs."""
    found: set[str] = set()
    waiting = [Requirement(f"pixtide[{','.join(extras)}]")]
    seen: set[tuple[str, str]] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        found.add(name)
        for extra in ("", *wanted.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            waiting += [
                each
                for each in map(Requirement, metadata.requires(name) or ())
                if each.marker is None or each.marker.evaluate({"extra": extra})
            ]
    return found


class Missing(MetaPathFinder):
    """Finds nothing of what isn't installed."""

    def __init__(self, installed: set[str]) -> None:
        self._missing = {
            module
            for module, owners in metadata.packages_distributions().items()
            if not installed & set(map(canonicalize_name, owners))
        }

    def find_spec(
        self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As an import has it."""
        if name.partition(".")[0] in self._missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def main() -> None:
    """Run a command there."""
    extras = [each for each in sys.argv.pop(1).split(",") if each]
    installed = distributions(extras)
    sys.meta_path.insert(0, Missing(installed))
    find = metadata.Distribution.from_name

    def found(name: str) -> metadata.Distribution:
        if canonicalize_name(name) not in installed:
            raise metadata.PackageNotFoundError(name)
        return find(name)

    metadata.Distribution.from_name = staticmethod(found)  # type: ignore[method-assign]
    from pixtide.streams.cli.main import main as pixtide

    pixtide()


if __name__ == "__main__":
    main()
