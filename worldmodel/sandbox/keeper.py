"""The keeper: a small single-threaded process per worker that owns workspaces and starts boxes.

Owns: a private mount namespace with one sized tmpfs per episode, dropping root, rlimits, cgroups, reaping.
Refuses: reading a workspace, running anything but bubblewrap, importing more than the standard library and this
package (it is started isolated, without site packages, with an empty environment).

Nothing outlives it: its mounts exist in its namespace alone, boxes die with their parent (what was just starting is
ended by the worker's ``link``, or by the next keeper's ``cgroups``), and it ends as soon as the worker does (end of
file on the socket, or the worker's pidfd). So a killed worker leaves no mount, no directory and no process; empty
cgroups of dead keepers are removed by the next one.

Arguments: the worker's pid, the number of the stream socket it inherited. Requests there: ``workspace`` (files,
dirs, modes, bytes, inodes), ``spawn`` (workspace, argv, bwrap, rlimits, memory, seccomp; descriptors in, out, marker,
info; answered with a pidfd), ``drop`` (workspace), ``show`` (source: a folder of the host, for boxes to read).
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback

from worldmodel.sandbox.box import MARKER_FD
from worldmodel.sandbox.cgroups import Cgroups
from worldmodel.sandbox.skeleton import EPOCH, build
from worldmodel.sandbox.wire import receive, send

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 1, 2, 4, 0x1000, 0x4000, 0x40000, 2
CLONE_NEWNS, CLONE_NEWUSER, PR_SET_PDEATHSIG = 0x20000, 0x10000000, 1
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
STATUS_FD = 220

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    if getattr(libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def mount(kind: str, target: str, flags: int, options: str) -> None:
    call("mount", kind.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())


def enter_private_namespace() -> str:
    """Unshare mounts (as root) or users and mounts (otherwise); returns the folder for workspaces."""
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        call("unshare", CLONE_NEWNS)
    else:
        call("unshare", CLONE_NEWNS | CLONE_NEWUSER)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as stream:
                stream.write(text)
    call("mount", b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
    base = next((path for path in ("/media", "/srv", "/mnt", "/tmp") if os.path.isdir(path)), None)
    if base is None:
        raise OSError(2, "no folder to mount on: need one of /media /srv /mnt /tmp")
    mount("tmpfs", base, MS_NOSUID | MS_NODEV, "size=8m,nr_inodes=8192,mode=0711")
    return base


def first_uid(slot: int) -> int:
    """An id that no other process uses: derived from this process's pid, so unique while it lives."""
    with open("/proc/self/uid_map") as stream:
        rows = [tuple(map(int, line.split())) for line in stream]
    pid = os.getpid()
    if any(start == 0 and count >= 0xFFFFFFFF for start, _, count in rows):
        return 0x40000000 + (pid % (1 << 22)) * 250 + slot % 250  # below 2**31: bubblewrap prints ids signed
    count = max((count for start, _, count in rows if start == 0), default=0)
    if count < 40000:
        raise OSError(22, "too few user ids are mapped to drop root")
    return 10000 + (pid * 64 + slot % 64) % 25000


class Keeper:
    def __init__(self) -> None:
        self.root = os.getuid() == 0
        self.base = enter_private_namespace()
        build(self.base)
        self.cgroups = Cgroups()
        self.slots: dict[int, int] = {}  # slot -> uid
        self.shown: dict[str, str] = {}  # source -> where boxes find it
        self.boxes: set[int] = set()  # what was spawned and has not ended
        # orphans of boxes come to this process and are reaped: zombies count against a box's process limit
        call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def workspace(self, request: dict) -> dict:
        slot = next(number for number in range(len(self.slots) + 1) if number not in self.slots)
        path = f"{self.base}/{slot}"
        uid = first_uid(slot) if self.root else os.getuid()
        gid = uid if self.root else os.getgid()
        os.mkdir(path, 0o711)
        try:
            options = f"size={int(request['bytes'])},nr_inodes={int(request['inodes'])},mode=0711"
            mount("tmpfs", path, MS_NOSUID | MS_NODEV, options)
            self.slots[slot] = uid
            fill(path, request, uid, gid)
        except BaseException:
            self.drop({"workspace": slot})
            raise
        return {"workspace": slot, "path": path, "base": self.base}

    def drop(self, request: dict) -> dict:
        slot = int(request["workspace"])
        path = f"{self.base}/{slot}"
        with contextlib.suppress(OSError):
            call("umount2", path.encode(), MNT_DETACH)
        with contextlib.suppress(OSError):
            os.rmdir(path)
        self.slots.pop(slot, None)
        return {}

    def show(self, request: dict) -> dict:
        """Bind a folder to where the boxes' users can reach it: their way to the source may be barred."""
        source = os.path.realpath(str(request["source"]))
        if source not in self.shown:
            target = f"{self.base}/shown-{len(self.shown)}"
            os.mkdir(target, 0o755)
            try:
                flags = ctypes.c_ulong(MS_BIND | MS_REC)
                call("mount", source.encode(), target.encode(), None, flags, None)
            except BaseException:
                os.rmdir(target)
                raise
            self.shown[source] = target
        return {"path": self.shown[source]}

    def spawn(self, request: dict, descriptors: list[int]) -> tuple[dict, int]:
        slot = int(request["workspace"])
        uid = self.slots[slot]
        gid = uid if self.root else os.getgid()
        procs = self.cgroups.slot(slot, int(request["memory"]))
        filter_fd = feed(base64.b64decode(request["seccomp"]))
        arguments_fd = feed(b"".join(word.encode() + b"\0" for word in request["bwrap"]))
        status_read, status_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.dup2(status_write, STATUS_FD, False)
                start_box(request, [*descriptors, arguments_fd, filter_fd], uid if self.root else None, gid, procs)
            except BaseException as error:
                os.write(STATUS_FD, (str(error) or type(error).__name__).encode()[:500])
            finally:
                os._exit(126)
        self.boxes.add(pid)
        pidfd = os.pidfd_open(pid)
        for fd in (filter_fd, arguments_fd, status_write):
            os.close(fd)
        failure = os.read(status_read, 500).decode(errors="replace")  # closed by a successful exec
        os.close(status_read)
        if failure:
            os.close(pidfd)
            raise OSError(failure)
        return {"pid": pid, "cgroup": bool(procs)}, pidfd

    def reap(self) -> None:
        """Collect what ended, and end what lost its bubblewrap: while a box starts, its first process inside waits for
        the one outside, for ever if that was killed."""
        with contextlib.suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                self.boxes.discard(pid)
        for pid in children():
            if pid not in self.boxes:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill every box and wait for the last process: a cgroup with processes cannot be removed."""
        until = time.monotonic() + 5.0
        while time.monotonic() < until:
            left = children()
            if not left:
                break
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            self.reap()
            time.sleep(0.002)
        self.cgroups.close()


def children() -> list[int]:
    """Of this process, which has one thread."""
    with open(f"/proc/self/task/{os.getpid()}/children") as stream:
        return [int(pid) for pid in stream.read().split()]


def feed(content: bytes) -> int:
    """A sealed-off descriptor that reads as ``content``."""
    fd = os.memfd_create("box", 0)
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def fill(path: str, request: dict, uid: int, gid: int) -> None:
    """Write the initial files. No process of the box exists yet, so no link can be in the way."""
    home = f"{path}/home"
    made = [home, f"{path}/tmp"]
    os.mkdir(home, 0o755)
    os.mkdir(f"{path}/tmp", 0o755)
    folders = {name.strip("/") for name in request["dirs"]}
    for name in [*folders, *(os.path.dirname(file) for file in request["files"])]:
        while name:
            folders.add(name)
            name = os.path.dirname(name)
    for name in sorted(folders):
        os.mkdir(f"{home}/{name}", 0o755)
        made.append(f"{home}/{name}")
    for name, text in request["files"].items():
        with open(f"{home}/{name}", "x", encoding="utf-8", newline="") as stream:
            stream.write(text)
        os.chmod(f"{home}/{name}", 0o644)
        made.append(f"{home}/{name}")
    for name in reversed(made):
        os.chown(name, uid, gid)
        os.utime(name, (EPOCH, EPOCH))
    for name in sorted(request["modes"], reverse=True):  # children before the folders that may shut them off
        os.chmod(f"{home}/{name}", int(request["modes"][name], 8) & 0o777)


def start_box(request: dict, descriptors: list[int], uid: int | None, gid: int, procs: str) -> None:
    """In the forked child: bound it, drop root, become bubblewrap. Descriptors: in, out, marker, info, args, filter."""
    with open("/proc/self/oom_score_adj", "w") as stream:
        stream.write("1000")
    if procs:
        with open(procs, "w") as stream:
            stream.write("0")
    read, write, marker, info, arguments, filter_ = (os.dup2(fd, 210 + i, False) for i, fd in enumerate(descriptors))
    for source, target in ((read, 0), (write, 1), (write, 2), (marker, MARKER_FD), (arguments, 3), (info, 4),
                           (filter_, 5)):  # fmt: skip
        os.dup2(source, target, True)
    os.closerange(6, MARKER_FD)
    os.closerange(MARKER_FD + 1, 220)
    if uid is not None:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
    for name, value in request["rlimits"].items():
        if name == "NPROC" and uid is None:
            continue  # would count every process of this user; the box's shell sets it for its own namespace
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    if uid is not None:
        os.setresuid(uid, uid, uid)
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    argv = [request["bubblewrap"], "--args", "3", "--", *request["argv"]]
    os.execve(argv[0], argv, {})


def serve(link: socket.socket, keeper: Keeper) -> bool:
    """Answer one request; False at the end of the link."""
    try:
        request, descriptors = receive(link)
    except ConnectionError:
        return False
    pidfd = None
    try:
        if request["op"] == "spawn":
            body, pidfd = keeper.spawn(request, descriptors)
        else:
            body = {"workspace": keeper.workspace, "drop": keeper.drop, "show": keeper.show}[request["op"]](request)
    except (OSError, KeyError, ValueError) as error:
        body = {"error": str(error) or type(error).__name__}
    try:
        send(link, body, [] if pidfd is None else [pidfd])
    finally:
        for fd in [*descriptors, *([] if pidfd is None else [pidfd])]:
            os.close(fd)
    return True


def main() -> int:
    link = socket.socket(fileno=int(sys.argv[2]))
    link.set_inheritable(False)
    os.umask(0o022)  # what is made here must be readable by the boxes' users
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # ends with its worker, not with the terminal
    try:
        keeper = Keeper()
    except OSError as error:
        send(link, {"error": f"private mount namespace: {error}"}, [])
        return 1
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    worker = os.pidfd_open(int(sys.argv[1]))
    poll = select.poll()
    for fd in (link.fileno(), wake_read, worker):
        poll.register(fd, select.POLLIN)
    send(link, {"base": keeper.base, "root": keeper.root, "cgroup": bool(keeper.cgroups.root)}, [])
    try:
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if wake_read in ready:
                os.read(wake_read, 4096)
            keeper.reap()
            if worker in ready or (link.fileno() in ready and not serve(link, keeper)):
                return 0
    except (OSError, ValueError):
        traceback.print_exc()
        return 1
    finally:
        keeper.close()
