"""Run a command that dies with the thread that started it, whatever ends that: Linux only.

    python -I -S bound_to_parent.py PARENT_PID COMMAND ARGUMENT…

It becomes the command (same process id), so that nothing stands between the two.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h; kept across exec


def _main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            sys.exit("the starter is gone")
    os.execvp(command[0], command)


_main()
