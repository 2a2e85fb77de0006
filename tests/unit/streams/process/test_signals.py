"""A process ends where a part of it has."""

import subprocess
import sys

FAILS = """
import threading
from pixtide.streams.process.signals import VitalThread

def fail():
    raise {error}("broken")

VitalThread(fail, "probe").start()
threading.Event().wait(60)
"""


def run(error: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", FAILS.format(error=error)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_vital_thread_that_fails_ends_its_process() -> None:
    for error in ("RuntimeError", "SystemExit"):
        ended = run(error)
        assert ended.returncode == 1, ended
        assert "the thread 'probe' has failed" in ended.stderr and error in ended.stderr
