"""Memory cgroups for boxes, where they are writable.

Owns: one cgroup per keeper, below the keeper's own, with one child per workspace; removing what killed keepers left,
processes too.
Refuses: being required: without them the bounds are the rlimits, and the kernel's killer takes boxes first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time


class Cgroups:
    """One memory cgroup per slot, under the keeper's own: bounds a box's memory, tmpfs pages included."""

    def __init__(self) -> None:
        self.root = ""
        self.limit_file, self.swap_file = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
        with contextlib.suppress(OSError, ValueError):
            self._create()

    def _create(self) -> None:
        with open("/proc/self/cgroup") as stream:
            rows = [line.rstrip("\n").split(":", 2) for line in stream]
        paths = {names: path for _, names, path in rows}
        if "memory" in paths:
            parent = "/sys/fs/cgroup/memory" + paths["memory"]
        else:
            parent = "/sys/fs/cgroup" + paths.get("", "/")
            self.limit_file, self.swap_file = "memory.max", "memory.swap.max"
            with open(f"{parent}/cgroup.controllers") as stream:
                if "memory" not in stream.read().split():
                    return
        for name in os.listdir(parent):  # left by keepers that were killed
            prefix, _, pid = name.partition("-box-")
            if prefix == "agentworld" and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
                self._end(f"{parent}/{name}")
                self._remove(f"{parent}/{name}")
        root = f"{parent}/agentworld-box-{os.getpid()}"
        os.mkdir(root)
        self.root = root
        if self.limit_file == "memory.max":
            with open(f"{root}/cgroup.subtree_control", "w") as stream:
                stream.write("+memory")

    def slot(self, number: int, limit: int) -> str:
        """The file to write a pid to, or '' where there is no cgroup to use."""
        if not self.root:
            return ""
        path = f"{self.root}/{number}"
        try:
            if not os.path.isdir(path):
                os.mkdir(path)
            with open(f"{path}/{self.limit_file}", "w") as stream:
                stream.write(str(limit))
            with contextlib.suppress(OSError), open(f"{path}/{self.swap_file}", "w") as stream:
                stream.write(str(limit if "memsw" in self.swap_file else 0))
        except OSError:
            return ""
        return f"{path}/cgroup.procs"

    @staticmethod
    def _end(path: str) -> None:
        """Kill what a killed keeper left there: a box that was just starting may outlive it."""
        until = time.monotonic() + 1.0
        while left := _processes(path):
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > until:
                return
            time.sleep(0.002)

    @staticmethod
    def _remove(path: str) -> None:
        with contextlib.suppress(OSError):
            for entry in os.scandir(path):
                if entry.is_dir():
                    os.rmdir(entry.path)
            os.rmdir(path)

    def close(self) -> None:
        if self.root:
            self._remove(self.root)


def _processes(path: str) -> list[int]:
    """Pids in a cgroup and those below it, as this process sees them."""
    found: list[int] = []
    for folder, _, _ in os.walk(path):
        with contextlib.suppress(OSError), open(f"{folder}/cgroup.procs") as stream:
            found += [int(pid) for pid in stream.read().split() if pid != "0"]
    return found
