"""A rank that stops moving ends itself, so that its siblings and the launcher learn of it.

Owns: one daemon thread per rank with a deadline between beats.
Refuses: judging why. DeepSpeed opens process groups of its own that wait 30 minutes whatever the launcher asked
for, so a collective cannot be trusted to time out.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time

EXIT_STUCK = 70


class Watchdog:
    """Ends the process with status 70 and every thread's stack on stderr when ``beat`` stays away too long."""

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self._last = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self) -> None:
        self._last = time.monotonic()

    def __enter__(self) -> Watchdog:
        self.beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self.timeout_seconds / 4)):
            silent = time.monotonic() - self._last
            if silent > self.timeout_seconds:
                print(f"watchdog: no training progress for {silent:.0f} s, ending this rank", file=sys.stderr)
                faulthandler.dump_traceback(all_threads=True)
                sys.stderr.flush()
                os._exit(EXIT_STUCK)
