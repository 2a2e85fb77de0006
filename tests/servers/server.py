"""What both servers have in common: a life of starts, stops and faults at one address."""

import time

from tests.servers.runners import Runner, ServerError

_READY_WITHIN_S = 120
_POLL_S = 0.1


class Server:
    """A server that keeps its address and its data from one start to the next."""

    def __init__(self, name: str, runner: Runner):
        self.name = name
        self._runner = runner
        self._paused = False

    @property
    def runs(self) -> bool:
        """Whether it was started and hasn't ended."""
        return self._runner.running()

    def launch(self) -> None:
        """Begin to start it, without waiting; nothing where it runs."""
        self._runner.launch()

    def start(self) -> None:
        """Start it, if it doesn't run, and wait until it serves.

        Raises:
            ServerError: it ended, or wasn't ready in time.
        """
        self._runner.launch()
        self.await_ready()

    def stop(self) -> None:
        """End it cleanly. Raises NotOurServerError where the environment gave it."""
        self._runner.stop()

    def kill(self) -> None:
        """End it by SIGKILL. Raises NotOurServerError where the environment gave it."""
        self._runner.kill()

    def pause(self) -> None:
        """Freeze it by SIGSTOP: connections stay, answers don't come."""
        self._runner.pause()
        self._paused = True

    def resume(self) -> None:
        """Let a paused server go on, and wait until it serves."""
        self._runner.resume()
        self._paused = False
        self.await_ready()

    def heal(self) -> None:
        """Have it serve again, whatever was done to it; nothing where it was left running."""
        if self._paused and self._runner.running():
            self.resume()
        if not self._runner.running():
            self._paused = False
            self.start()

    def close(self) -> None:
        """End it for good and remove its data."""
        self._runner.close()

    def await_ready(self) -> None:
        """Wait until it serves.

        Raises:
            ServerError: it ended, or wasn't ready in time.
        """
        deadline = time.monotonic() + _READY_WITHIN_S
        while not self._serves():
            if not self._runner.running():
                raise ServerError(f"{self.name} ended:\n{self._runner.log_tail()}")
            if time.monotonic() > deadline:
                tail = self._runner.log_tail()
                raise ServerError(f"{self.name} wasn't ready in {_READY_WITHIN_S} s:\n{tail}")
            time.sleep(_POLL_S)

    def _serves(self) -> bool:
        raise NotImplementedError
