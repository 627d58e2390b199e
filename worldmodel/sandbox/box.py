"""One box: bubblewrap around one program, started through the keeper and killed for certain.

Owns: the bubblewrap arguments, the limits handed to the keeper, the box's descriptors, the kill.
Refuses: what is said to the program (shell, terminal), the workspace's life (machine).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import signal
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from worldmodel.sandbox.limits import ENVIRONMENT, HOME, HOST, UID, Limits, SandboxError
from worldmodel.sandbox.link import Link
from worldmodel.sandbox.seccomp import program

MARKER_FD = 199
_MASKED = ("keys", "cmdline", "kallsyms", "kcore", "timer_list", "sched_debug", "config.gz", "version", "modules")


def bubblewrap_arguments(workspace: str, base: str, writable: bool, shows: Mapping[str, str]) -> list[str]:
    """Everything unshared, an allow-list of host paths, nothing writable but the workspace's two folders. ``shows``:
    name below /opt -> folder, read-only.

    The program enters home itself: an episode may have made home impossible to enter, which is no fault of the box.
    """
    words = ["--unshare-user", "--uid", str(UID), "--gid", str(UID), "--disable-userns", "--unshare-ipc",
             "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try", "--hostname", HOST,
             "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv",
             "--ro-bind", "/usr", "/usr"]  # fmt: skip
    if os.path.isdir("/usr/local"):
        words += ["--ro-bind", f"{base}/local", "/usr/local"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if os.path.islink(f"/{name}"):
            words += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
        elif os.path.isdir(f"/{name}"):
            words += ["--ro-bind", f"/{name}", f"/{name}"]
    words += ["--perms", "0755", "--dir", "/home"]
    for name, folder in shows.items():
        words += ["--ro-bind", folder, f"/opt/{name}"]
    words += ["--ro-bind", f"{base}/etc", "/etc", "--dev", "/dev", "--remount-ro", "/dev", "--proc", "/proc"]
    for name in _MASKED:
        if os.path.exists(f"/proc/{name}"):
            words += ["--ro-bind", f"{base}/blank", f"/proc/{name}"]
    bind = "--bind" if writable else "--ro-bind"
    words += ["--remount-ro", "/proc", bind, f"{workspace}/home", HOME, bind, f"{workspace}/tmp", "/tmp",
              "--remount-ro", "/", "--chdir", "/"]  # fmt: skip
    for name, value in ENVIRONMENT:
        words += ["--setenv", name, value]
    return [*words, "--seccomp", "5", "--info-fd", "4"]


@cache
def _filter() -> str:
    return base64.b64encode(program()).decode()


def spawn_request(
    link: Link, workspace: dict[str, Any], limits: Limits, writable: bool, argv: Sequence[str]
) -> dict[str, Any]:
    """What the keeper needs to start a box; the rlimits hold for each process in it."""
    return {
        "op": "spawn",
        "workspace": workspace["workspace"],
        "bubblewrap": link.bubblewrap,
        "bwrap": bubblewrap_arguments(workspace["path"], workspace["base"], writable, workspace.get("shows", {})),
        "argv": list(argv),
        "seccomp": _filter(),
        "memory": limits.memory,
        "rlimits": {
            "NPROC": limits.processes,
            "AS": limits.address_space,
            "FSIZE": limits.file_size,
            "NOFILE": limits.open_files,
            "CPU": limits.cpu_seconds,
            "CORE": 0,
            "MEMLOCK": 0,
            "MSGQUEUE": 0,
            "SIGPENDING": 64,
            **({} if limits.data is None else {"DATA": limits.data}),
        },
    }


class Box:
    """A running program in its own namespaces. ``given`` are its standard input and output, closed here.

    ``pidfds`` are its first process inside (once ``adopt`` has read it) and bubblewrap outside. Use from one
    thread at a time, except ``interrupt``.
    """

    def __init__(
        self,
        link: Link,
        workspace: dict[str, Any],
        limits: Limits,
        writable: bool,
        argv: Sequence[str],
        given: tuple[int, int],
    ) -> None:
        self.limits = limits
        self.pidfds: list[int] = []
        self._guard = threading.Lock()
        self.marker, marker_write = os.pipe()
        self._info, info_write = os.pipe()
        theirs = list(dict.fromkeys((*given, marker_write, info_write)))
        request = spawn_request(link, workspace, limits, writable, argv)
        try:
            _, self.pidfds = link.ask(request, [*given, marker_write, info_write])
        except SandboxError:
            self._close()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        os.set_blocking(self.marker, False)

    def adopt(self) -> None:
        """Once the program runs: hold its first process too, whose death is the death of all others. Raises
        SandboxError where it does not run."""
        raw = bytearray()  # bubblewrap writes its object in parts
        while not raw.rstrip().endswith(b"}") and (part := os.read(self._info, 4096)):
            raw += part
        try:
            info = json.loads(raw or b"{}")
        except ValueError:
            info = {}
        if "child-pid" not in info:
            raise SandboxError("sandbox: bubblewrap ended before its program began")
        with contextlib.suppress(ProcessLookupError):  # it ran and ended in between: nothing of it is left
            self.pidfds.insert(0, os.pidfd_open(info["child-pid"]))

    def interrupt(self) -> None:
        """From any thread: SIGKILL to the first process; the call that runs then sees the box exit."""
        with self._guard:
            send_kill(self.pidfds[:1])

    def kill(self) -> None:
        """Kill every process of the box and wait until none is left; safe to call twice. Raises SandboxError
        where one is left after 10 s."""
        self.interrupt()  # bubblewrap outside reaps it and ends by itself
        if self.pidfds and not ends(self.pidfds[-1], 1.0):
            send_kill(self.pidfds)
        with self._guard:  # a closed descriptor must not be signalled: its number may be another box's by then
            pidfds, self.pidfds = self.pidfds, []
        stuck = [fd for fd in pidfds if not ends(fd, 10.0)]
        for fd in pidfds:
            os.close(fd)
        self._close()
        if stuck:
            raise SandboxError("sandbox: a killed box did not end within 10 s")

    def _close(self) -> None:
        for name in ("marker", "_info"):
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)


def send_kill(pidfds: Sequence[int]) -> None:
    for fd in pidfds:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)


def ends(pidfd: int, seconds: float) -> bool:
    poll = select.poll()  # not select(): descriptors may lie above 1023 in a large worker
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(int(seconds * 1000)))


def take(fd: int, size: int = 65536) -> bytes:
    """What can be read now; empty at the end and where nothing waits."""
    try:
        return os.read(fd, size)
    except (BlockingIOError, OSError):
        return b""
