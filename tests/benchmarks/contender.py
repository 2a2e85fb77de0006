"""A contender of a benchmark: a process of its own, often of another virtual environment.

It is told jobs and answers results as lines of JSON, over its standard input and output, and
measures its own work, so that what passes through the pipe costs nobody anything.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

#: What libraries read to know how many threads to start.
_CAPS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
)


def capped(threads: int) -> dict[str, str]:
    """This process's environment, offline, with every library told the same number of threads."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    return dict(os.environ) | offline | dict.fromkeys(_CAPS, str(threads))


class Contender:
    """A running contender; a context manager, which ends it.

    Args:
        name: as the table calls it.
        command: starts it.
        threads: that each of its libraries may use.
        log: where its standard error goes.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        threads: int,
        log: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._log = log
        with log.open("ab") as err:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
                env=capped(threads) | dict(env or {}),
            )
        assert self._process.stdin and self._process.stdout
        self._jobs, self._results = self._process.stdin, self._process.stdout

    def ask(self, **job: Any) -> Any:
        """Have it do one job.

        Raises:
            RuntimeError: it has ended, or answers an "error".
        """
        try:
            self._jobs.write(json.dumps(job) + "\n")
            self._jobs.flush()
            # libraries print to standard output as they please
            while (line := self._results.readline()) and not line.startswith("{"):
                continue
        except OSError:
            line = ""
        if not line:
            raise RuntimeError(f"{self.name} has ended; see {self._log}")
        result = json.loads(line)
        if "error" in result:
            raise RuntimeError(f"{self.name}: {result['error']}")
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._jobs.close()
        self._results.close()
