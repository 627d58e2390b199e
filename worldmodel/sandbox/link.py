"""The worker's end of the keeper: start it, ask it, notice that it is gone.

Owns: one keeper process per worker process, its socket and the lock around a request.
Refuses: policy (what to run, with which bounds: box).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldmodel.sandbox.limits import SandboxError
from worldmodel.sandbox.wire import receive, send

_TIMEOUT = 30.0  # seconds for one answer: mounting and forking take milliseconds
_PROGRAM = (
    f"import sys; sys.path.append({str(Path(__file__).parents[2])!r}); "
    "from worldmodel.sandbox.keeper import main; sys.exit(main())"
)
_links: dict[int, Link] = {}
_guard = threading.Lock()


class Link:
    """A connection to one keeper. Thread-safe; raises SandboxError when the keeper refuses or is gone."""

    def __init__(self) -> None:
        bubblewrap = shutil.which("bwrap")
        if not sys.platform.startswith("linux") or bubblewrap is None:
            raise SandboxError("sandbox: bubblewrap (bwrap) not found; install it, e.g. apt-get install bubblewrap")
        self.bubblewrap = bubblewrap
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(_TIMEOUT)
        with theirs:
            self._process = _start(theirs)
        try:
            self.facts, _ = receive(self._socket)
        except (OSError, ValueError) as error:
            self.close()
            raise SandboxError(f"sandbox: keeper did not start: {error}") from None
        if "error" in self.facts:
            self.close()
            raise SandboxError(f"sandbox: {self.facts['error']}; needs root or unprivileged user namespaces")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it could answer: a keeper that somebody stopped (SIGSTOP) is as good as gone."""
        return self._socket.fileno() >= 0 and self._process.poll() is None and not _stopped(self.pid)

    def ask(self, body: Mapping[str, Any], descriptors: Sequence[int] = ()) -> tuple[dict[str, Any], list[int]]:
        """One request, one answer; descriptors go and come with it."""
        with self._lock:
            if not self.alive:
                if self._process.poll() is not None:
                    _end_session(self.pid)
                raise SandboxError("sandbox: the keeper process is gone")
            try:
                send(self._socket, body, descriptors)
                answer, received = receive(self._socket)
            except (OSError, ValueError) as error:
                self.close()
                raise SandboxError(f"sandbox: lost the keeper during {body['op']}: {error}") from None
        if "error" in answer:
            raise SandboxError(f"sandbox: {body['op']}: {answer['error']}")
        return answer, received

    def kill(self) -> None:
        """``close`` where the keeper does not answer: a thread that waits for it gets its fault. From any thread."""
        self._process.kill()
        with self._lock:
            self.close()

    def close(self) -> None:
        """Ends the keeper and, with it, every box and mount it holds."""
        self._socket.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        _end_session(self.pid)


def _stopped(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] in (b"T", b"t")


def _end_session(leader: int) -> None:
    """Kill what a keeper that was killed left behind: of a box that was just starting, the first process inside waits
    for the one outside, for ever, and is still of the keeper's session. No other process can be: a pid is not given
    again while it names a session."""
    until = time.monotonic() + 1.0
    while (left := _of_session(leader)) and time.monotonic() < until:
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def _of_session(leader: int) -> list[int]:
    """Pids whose session is ``leader``, without those that only wait to be reaped."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                state, _, _, session = (path / "stat").read_bytes().rpartition(b")")[2].split()[:4]
                if int(session) == leader and state not in (b"Z", b"X"):
                    found.append(int(path.name))
    return found


def _start(theirs: socket.socket) -> subprocess.Popen[bytes]:
    """The keeper, isolated from site packages, with nothing in its environment, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PROGRAM, str(os.getpid()), str(theirs.fileno())],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), env={}, cwd="/",
        start_new_session=True,
    )  # fmt: skip


def keeper() -> Link:
    """This process's keeper, started at the first call and again if it died."""
    with _guard:
        link = _links.get(os.getpid())
        if link is None or not link.alive:
            _links.clear()
            if link is not None:
                link.kill()
            link = _links[os.getpid()] = Link()
        return link


def stop_keeper() -> None:
    """End this process's keeper, if any (a worker that stays alive but needs no more boxes)."""
    with _guard:
        link = _links.pop(os.getpid(), None)
        if link is not None:
            link.close()
