"""`python -m tests.servers prepare`: have both servers at hand before the tests are run."""

import sys

from tests.servers.install import SetupError
from tests.servers.runners import ServerError
from tests.servers.suite import SERVERS, prepare


def _main(arguments: list[str]) -> int:
    if arguments != ["prepare"]:
        sys.stderr.write(f"usage: python -m tests.servers prepare\n\n{__doc__}\n")
        return 2
    try:
        prepare(SERVERS, _say)
    except (SetupError, ServerError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
