"""Processes of this process, and what they leave behind: for ``bench/soak.py``.

Owns: finding descendants, striking one of them, comparing the machine before and after. Refuses: touching any process
that this one did not start.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SPARE = 20  # descriptors that pools and warm worlds may add
SHARED = ("/tmp", "/var/tmp", "/dev/shm")


@dataclass(slots=True)
class Watch:
    """Every process that this one was ever seen to have, and the keepers among them."""

    seen: dict[int, psutil.Process] = field(default_factory=dict)
    keepers: set[int] = field(default_factory=set)

    def family(self) -> tuple[list[psutil.Process], list[psutil.Process]]:
        """(keepers, processes of boxes), now."""
        keepers, boxes = [], []
        for process in psutil.Process().children(recursive=True):
            try:
                keeper = "worldmodel.sandbox.keeper" in " ".join(process.cmdline())
            except psutil.Error:
                continue
            self.seen[process.pid] = process
            (keepers if keeper else boxes).append(process)
        self.keepers |= {process.pid for process in keepers}
        return keepers, boxes

    def strike(self, death: str, rng: random.Random) -> str:
        """Do it to one process; its name, or '' where there is none."""
        keepers, boxes = self.family()
        possible = keepers if death.startswith("keeper") else boxes
        if not possible:
            return ""
        victim = rng.choice(possible)
        try:
            name = victim.name()
            victim.send_signal(signal.SIGSTOP if death.endswith("stop") else signal.SIGKILL)
        except psutil.NoSuchProcess:  # it ended by itself meanwhile
            return ""
        return name

    def ours(self, uid: int) -> bool:
        """Whether a user id is one that a keeper gives to its boxes (see ``worldmodel.sandbox.keeper.first_uid``)."""
        return any(0 <= uid - (0x40000000 + pid % (1 << 22) * 250) < 250 for pid in self.keepers)


@dataclass(frozen=True, slots=True)
class Traces:
    """What a leak would show up in."""

    mounts: tuple[str, ...]
    descriptors: int
    files: frozenset[str]


def traces() -> Traces:
    mounts = tuple(sorted(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()))
    files = frozenset(str(path) for folder in SHARED if Path(folder).is_dir() for path in Path(folder).iterdir())
    return Traces(mounts, len(os.listdir("/proc/self/fd")), files)


def leaks(before: Traces, watch: Watch, temporary: Path, alone: bool, patience: float = 20.0) -> list[str]:
    """One line for each thing that is left ``patience`` seconds after every keeper was told to go."""
    until = time.monotonic() + patience
    while (found := running(watch)) and time.monotonic() < until:
        time.sleep(0.1)
    mine = {os.getpid(), *(pid for pid, process in watch.seen.items() if alive(process))}
    for socket in psutil.net_connections("inet"):
        if socket.pid in mine and socket.status == psutil.CONN_LISTEN:
            found.append(f"port {socket.laddr.port}")
    after = traces()
    found += [f"mount {place}" for place in Counter(after.mounts) - Counter(before.mounts)]
    if after.descriptors > before.descriptors + SPARE:
        found.append(f"descriptors: {before.descriptors} before, {after.descriptors} after")
    for folder, _, _ in os.walk("/sys/fs/cgroup"):
        _, there, pid = Path(folder).name.partition("agentworld-box-")
        if there and pid.isdigit() and int(pid) in watch.keepers:
            found.append(f"cgroup {folder}")
    found += [f"temporary file {path.name}" for path in temporary.iterdir()]
    return found + [f"file {path}" for path in sorted(after.files - before.files) if alone or owned(path, watch)]


def running(watch: Watch) -> list[str]:
    """Processes that were seen and are still there, that belong to the user of a box, or that nobody waited for."""
    found = [f"process {pid}" for pid, process in watch.seen.items() if alive(process)]
    for process in psutil.process_iter(["pid", "uids"]):
        if process.info["uids"] and watch.ours(process.info["uids"].real):
            found.append(f"process {process.pid} of a box's user")
    return found + [f"child {process.pid}" for process in psutil.Process().children(recursive=True)]


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def owned(path: str, watch: Watch) -> bool:
    try:
        return watch.ours(os.lstat(path).st_uid)
    except FileNotFoundError:
        return False
