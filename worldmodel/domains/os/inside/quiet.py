"""When the processes of a box have come to rest.

Owns: reading /proc. Refuses: knowing what the processes are. A screen is read when nobody works on it any more, so
that two executions of a block see the same one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

TICK, STILL = 0.02, 3  # seconds between looks; looks without work that count as rest


def _stat(pid: str) -> tuple[str, int] | None:
    """(state, ticks of processor time) of a process; None where it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="latin-1") as stream:
            fields = stream.read().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[11]) + int(fields[12])


def pids() -> Iterator[str]:
    return (name for name in os.listdir("/proc") if name.isdigit())


def up(pid: int) -> bool:
    """Whether the process is there and neither stopped nor a zombie."""
    found = _stat(str(pid))
    return found is not None and found[0] not in "TtZX"


def at_work(before: dict[str, int]) -> bool:
    """Whether a process but this one runs, or has run since ``before`` was filled; fills it again."""
    now, running = {}, False
    for pid in pids():
        found = _stat(pid) if pid != str(os.getpid()) else None
        if found is not None and found[0] != "Z":
            now[pid] = found[1]
            running = running or found[0] in "RD"
    changed = now != before
    before.clear()
    before.update(now)
    return running or changed


def rest(seconds: float) -> bool:
    """Wait until nothing works; False where that was not so within ``seconds``."""
    until, before, still = time.monotonic() + seconds, dict[str, int](), 0
    at_work(before)
    while time.monotonic() < until:
        time.sleep(TICK)
        still = 0 if at_work(before) else still + 1
        if still >= STILL:
            return True
    return False
