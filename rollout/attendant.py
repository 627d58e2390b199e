"""A thread that looks after a source between the trainer's calls.

Owns: the thread. Refuses: what is done in a round, and its locks (``source``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

_TICK = 0.5  # seconds between rounds in which nothing arrived: deadlines pass then too
_JOIN_SECONDS = 15.0


class Attendant:
    """Calls ``tend``, then waits at most half a second in ``arrived``, until ``tend`` answers False."""

    def __init__(self, arrived: Callable[[float], bool], tend: Callable[[], bool]) -> None:
        self._arrived, self._tend = arrived, tend
        self._thread = threading.Thread(target=self._run, name="rollout source", daemon=True)

    def start(self) -> None:
        """Once; later calls change nothing."""
        if self._thread.ident is None:
            self._thread.start()

    def join(self) -> None:
        """After ``tend`` has been told to answer False."""
        if self._thread.is_alive():
            self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        while self._tend():
            self._arrived(_TICK)
