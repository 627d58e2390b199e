"""The browser of a worker process: one Chromium in one box, shared by its episodes.

Owns: the box and its limits, starting the driver, requests and their deadlines, ending it after a fault and after many
episodes. Refuses: what an episode is (``real``), what happens in the box (``inside``).

Everything runs on one thread of its own (``on_thread``): the driver answers one request at a time anyway. A fault or a
missed deadline kills the box, with every session in it; the next episode starts another.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from worldmodel.domains.web.install import PYTHON, executable, folder, missing
from worldmodel.sandbox import Limits, Machine, SandboxError
from worldmodel.sandbox.limits import MIB

T = TypeVar("T")
START_SECONDS, SECONDS = 180.0, 60.0  # Chromium's start; any one request
EPISODES = 200  # after so many a new browser is started when no episode is open
# Chromium and V8 reserve terabytes of addresses and use little of them: what is bounded is writable private memory of
# each process, and, where there is a memory cgroup, the whole box. No system call is allowed beyond a box's usual ones.
LIMITS = Limits(
    deadline=SECONDS, output=8 * MIB, workspace=512 * MIB, inodes=32 * 1024, processes=1024, address_space=1 << 47,
    data=2048 * MIB, memory=3072 * MIB, file_size=256 * MIB, open_files=4096, cpu_seconds=24 * 3600,
)  # fmt: skip
# The box sees one folder of this package: the packages around it are made up so that its imports resolve.
_BOOT = """import sys, types
sys.path[:0] = ["/opt/tools"]
for name, path in (("worldmodel", []), ("worldmodel.domains", []), ("worldmodel.domains.web", ["/opt"])):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = path
from playwright.sync_api import Error, sync_playwright
from worldmodel.domains.web.inside.driver import main
main(sys.argv[1], sync_playwright, Error)"""
_names = itertools.count()


@cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="web")


async def on_thread(work: Callable[[], T]) -> T:
    """Run ``work`` on the browser's thread: everything below is called there."""
    return await asyncio.get_running_loop().run_in_executor(_thread(), work)


class Browser:
    """A running Chromium. Raises SandboxError where it cannot be had."""

    def __init__(self) -> None:
        if lacking := missing():
            raise SandboxError(f"web: missing {lacking}")
        inside = Path(__file__).with_name("inside")
        self._machine = Machine({}, LIMITS, shows={"inside": inside, "tools": folder()}, shell=False)
        self.open: set[str] = set()
        self.served = 0
        self._machine.start()
        try:
            fonts = "FONTCONFIG_FILE=/opt/inside/fonts.conf"
            self._service = self._machine.serve(("/usr/bin/env", fonts, PYTHON, "-c", _BOOT, executable()))
            self.version = str(self._read(START_SECONDS).get("ready", ""))
        except BaseException:
            self._machine.close()
            raise

    @property
    def running(self) -> bool:
        return self._service.running and self._machine.alive

    def ask(self, **request: Any) -> dict[str, Any]:
        """The driver's answer. Raises SandboxError on any fault; the browser is gone then."""
        if not self.running:
            raise SandboxError("web: the browser is gone")
        self._service.send(json.dumps(request).encode())
        return self._read(SECONDS)

    def _read(self, seconds: float) -> dict[str, Any]:
        try:
            answer = json.loads(self._service.receive(seconds))
        except SandboxError as error:
            self.close()
            raise SandboxError(f"web: the browser failed: {error}") from None
        except ValueError:
            answer = {"fault": "the driver wrote no JSON"}
        if not isinstance(answer, dict) or "fault" in answer:
            self.close()
            raise SandboxError(f"web: the browser failed: {answer['fault'] if isinstance(answer, dict) else answer}")
        return answer

    def close(self) -> None:
        """Ends every process of it; safe to call twice."""
        self.open.clear()
        self._machine.close()


_shared: list[Browser] = []


def shared() -> Browser:
    """This process's browser; a new one where there is none, it died, or it is worn and no episode is open."""
    if _shared and (not _shared[0].running or (_shared[0].served >= EPISODES and not _shared[0].open)):
        _shared.pop().close()
    if not _shared:
        _shared.append(Browser())
    return _shared[0]


def stop() -> None:
    """End this process's browser, if any. Call it through ``on_thread``."""
    while _shared:
        _shared.pop().close()


class Visitor:
    """One episode's session in the shared browser."""

    def __init__(self, site: str, state: Mapping[str, Any]) -> None:
        self._site, self._state = site, state
        self._name, self.goal = "", ""
        self._browser: Browser | None = None

    def start(self) -> str:
        """The first screen; ``goal`` then is what the page itself asks for, or ''. A browser that has served before
        and turns out to be broken is replaced. Raises SandboxError."""
        browser, name = shared(), str(next(_names))
        request = {"op": "open", "id": name, "site": self._site, "state": dict(self._state)}
        try:
            answer = browser.ask(**request)
        except SandboxError:
            if not browser.served:
                raise
            browser = shared()
            answer = browser.ask(**request)
        browser.open.add(name)
        browser.served += 1
        self._browser, self._name = browser, name
        self.goal = " ".join(str(answer.get("goal", "")).split())
        return str(answer["screen"])

    def act(self, name: str, arguments: Mapping[str, Any]) -> str:
        return str(self._held().ask(op="act", id=self._name, name=name, arguments=dict(arguments))["screen"])

    def end(self) -> dict[str, Any]:
        """Close the context and stop the site: its last state, which nothing can change any more."""
        browser, self._browser = self._held(), None
        browser.open.discard(self._name)
        return browser.ask(op="end", id=self._name)

    def close(self) -> None:
        """Let go of it, whatever has happened."""
        if self._browser is not None and self._browser.running:
            try:
                self.end()
            except SandboxError:
                return  # the browser is gone, and the session with it

    def _held(self) -> Browser:
        if self._browser is None:
            raise SandboxError("web: no session is open")
        return self._browser
