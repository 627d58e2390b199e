"""One desktop: a machine whose two boxes share its files, and a spare one that is ready before it is asked for.

Owns: starting both boxes, asking them, what a dead box means, the pool. Refuses: actions and verdicts (``real``).

The screen's box (display, bus, calculator, reader) and the blocks' box (blocks and the applications that they start)
see no process of each other. A block that ends its own box gets a new one on the same files and the same screen.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldmodel.domains.os import install
from worldmodel.sandbox import Limits, Machine, SandboxError, Service
from worldmodel.sandbox.limits import MIB

FOLDER = Path(__file__).parent / "inside"
PACKAGE = "worldmodel.domains.os.inside"
# the package's name without the packages above it: only this folder is shown into the box
BOOT = "; ".join(
    [
        "import sys, types",
        f"parts = {PACKAGE!r}.split('.')",
        "names = ['.'.join(parts[:i]) for i in range(1, 5)]",
        "sys.modules.update((name, types.ModuleType(name)) for name in names)",
        "[setattr(sys.modules[name], '__path__', ['/opt/inside'] if name == names[-1] else []) for name in names]",
    ]
)
PROGRAM = "import os, sys; os.environ['AGENTWORLD_BOOT'] = sys.argv[1]; exec(sys.argv[1]); " + (
    f"from importlib import import_module; sys.exit(import_module('{PACKAGE}.' + sys.argv[2]).main())"
)
LIMITS = Limits(
    deadline=10.0, start_deadline=60.0, output=4 * MIB, workspace=192 * MIB, inodes=16384, processes=160,
    address_space=8192 * MIB, memory=2048 * MIB, file_size=64 * MIB, open_files=512, cpu_seconds=300,
)  # fmt: skip
START, SLACK = 60.0, 15.0  # seconds until a box is ready; beyond what a request may take by itself


def argv(program: str) -> tuple[str, ...]:
    return ("/usr/bin/python3", "-I", "-S", "-c", PROGRAM, BOOT, program)


class Desktop:
    """Use from one thread at a time, except ``interrupt``."""

    def __init__(self, office: bool, limits: Limits = LIMITS) -> None:
        shows = {"inside": FOLDER, "packages": install.folder(), "registry": install.REGISTRY.resolve()}
        self.machine = Machine({}, limits, shows=shows, shell=False)
        self.office = office
        self._screen: Service | None = None
        self._blocks: Service | None = None

    def start(self) -> Desktop:
        """Raises SandboxError where one of the boxes does not come up; nothing is left then."""
        try:
            self.machine.start()
            self._screen = self._serve("screen")
            self._blocks = self._serve("blocks")
            if self.office and not self._ask(self._blocks, {"op": "office"}, START).get("started"):
                raise SandboxError("os: the office suite did not start")
        except BaseException:
            self.machine.close()
            raise
        return self

    def _serve(self, program: str) -> Service:
        service = self.machine.serve(argv(program))
        found = json.loads(service.receive(START))
        if "ready" not in found:
            raise SandboxError(f"os: the {program} box: {found.get('error', 'no reason given')}")
        return service

    def _ask(self, service: Service | None, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        if service is None:
            raise SandboxError("os: the desktop was not started")
        raw = service.ask(json.dumps(request).encode(), seconds + SLACK)
        try:
            found = json.loads(raw)
        except ValueError:
            raise SandboxError("os: a box answered something else than JSON") from None
        return found if isinstance(found, dict) else {}

    def whole(self, seconds: float = 3.0) -> bool:
        """Whether both boxes answer and everything runs that ran when they were ready: to ask before the first
        block, which may end what it likes."""
        if not self.machine.alive:
            return False
        try:
            return all(bool(self._ask(box, {"op": "whole"}, seconds)["whole"]) for box in (self._screen, self._blocks))
        except (SandboxError, KeyError):
            return False

    def prepare(self, state: Mapping[str, Any]) -> None:
        """The files of a task, and the calculator where it is open from the beginning."""
        files = {key: state.get(key, {}) for key in ("files", "documents")}
        self._ask(self._blocks, {"op": "put", **files, "dirs": list(state.get("dirs", ()))}, 5.0)
        if state.get("calculator") and not self._ask(self._screen, {"op": "calculator"}, START).get("started"):
            raise SandboxError("os: the calculator did not start")

    def run(self, code: str, seconds: float) -> tuple[str, str, bool]:
        """(output, how it ended, whether output was cut). What a block does to its own box is no fault of ours."""
        request = {"op": "run", "code": code, "seconds": seconds}
        try:
            if self._blocks is None or not self._blocks.running:
                self._blocks = self._serve("blocks")
            found = self._ask(self._blocks, request, seconds)
            return str(found["output"]), str(found["end"]), bool(found["cut"])
        except (SandboxError, KeyError):
            self.look(0.5)  # raises where the machine itself has failed
            if self._blocks is not None:
                self._blocks.kill()
            return "", "lost", False

    def look(self, seconds: float = 4.0) -> str:
        return str(self._ask(self._screen, {"op": "look", "seconds": seconds}, seconds).get("text", ""))

    def display(self) -> str | None:
        """What the calculator of the task shows; None where it is not there any more."""
        value = self._ask(self._screen, {"op": "display"}, 10.0).get("value")
        return None if value is None else str(value)


@dataclass
class Pool:
    """One ready desktop of each kind that was asked for; the next is started when one is taken. Any thread."""

    limits: Limits = LIMITS
    _ready: dict[bool, Future[Desktop]] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _threads: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="os-desktop")

    def warm(self, office: bool) -> None:
        """Begin to start a desktop of this kind, where none is waiting."""
        with self._lock:
            if office not in self._ready:
                self._ready[office] = self._threads.submit(Desktop(office, self.limits).start)

    def wait(self, office: bool, seconds: float) -> None:
        """Until one of this kind waits: for measurements. Raises SandboxError or TimeoutError."""
        self.warm(office)
        with self._lock:
            waiting = self._ready.get(office)
        if waiting is not None:
            waiting.result(seconds)

    def take(self, office: bool) -> Desktop:
        """The waiting one, or the first that comes up. Raises SandboxError."""
        self.warm(office)
        with self._lock:
            waiting = self._ready.pop(office, None)
        desktop = _alive(waiting) or Desktop(office, self.limits).start()
        self.warm(office)
        return desktop

    def close(self) -> None:
        """Ends the waiting ones; those taken belong to whoever took them."""
        with self._lock:
            waiting, self._ready = list(self._ready.values()), {}
        self._threads.shutdown(wait=True, cancel_futures=True)
        for future in waiting:
            _end(future)


def _alive(waiting: Future[Desktop] | None) -> Desktop | None:
    """The one that waited, or None where none did, it did not come up, or something of it was lost meanwhile."""
    if waiting is None:
        return None
    try:
        desktop = waiting.result(START + START)
    except (SandboxError, TimeoutError):
        waiting.cancel()
        waiting.add_done_callback(_end)
        return None
    if desktop.whole():
        return desktop
    desktop.machine.close()
    return None


def _end(waiting: Future[Desktop]) -> None:
    if not waiting.cancelled() and waiting.exception() is None:
        waiting.result().machine.close()
