"""The real desktop: a task on a machine of its own.

Owns: what an action returns there, verdicts from probes, taking ready desktops from a pool.
Refuses: the boxes (``desktop``), scoring (rollout.reward).

The calculator's display is read by the screen's box before everything is killed; files are read afterwards, by a
program of ours in a fresh box over the read-only state.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shlex
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from rollout.errors import TaskError
from rollout.reward.checks import holds
from rollout.types import Action, Check, CheckResult, Observation, ObservationKind, Prompt, Task, Turn
from worldmodel.domains.os import OS
from worldmodel.domains.os.desktop import BOOT, PACKAGE, Desktop, Pool
from worldmodel.domains.os.grammar import PROBE
from worldmodel.sandbox import Limits, SandboxError, Screen
from worldmodel.types import refusal

T = TypeVar("T")
SECONDS = 30.0  # for one block
MAX_OUTPUT, MAX_SCREEN = 3000, 12_000  # characters of an observation's two parts
NOTES = {"timeout": "(the block took too long and was ended)", "lost": "(the block ended all applications)"}
READER = f"exec({BOOT!r}); from {PACKAGE}.documents import main; main()"


@cache
def _threads() -> ThreadPoolExecutor:
    """Desktops block their thread while a block runs; the event loop never does."""
    return ThreadPoolExecutor(max_workers=16, thread_name_prefix="os")


class OsEnvironment:
    """Implements ``Environment``: single use, not restorable (a desktop starts again)."""

    world_id = "real:os"
    world_version = ""
    controls: tuple[str, ...] = ()

    def __init__(self, task: Task, pool: Pool, seconds: float = SECONDS) -> None:
        self._task, self._pool, self._seconds = task, pool, seconds
        self._desktop: Desktop | None = None
        self._closed = False
        self._turn = threading.Lock()  # a cancelled call may still be running in its thread
        self._anchor = _digest(json.dumps(dict(task.world.state), sort_keys=True))

    async def start(self) -> Prompt:
        """Raises SandboxError where no desktop can be had."""
        await self._call(self._begin)
        return OS.prompt(self._task)

    def _begin(self) -> None:
        state = self._task.world.state
        desktop = self._pool.take(bool(state.get("office")))
        self._desktop = desktop
        if self._closed:
            desktop.machine.close()
        desktop.prepare(state)

    def parse(self, text: str) -> Action:
        return OS.parse(text)

    async def step(self, action: Action) -> Observation:
        """A block that fails, takes too long or ends its own box is answered: ``ok`` with what is shown then."""
        anchor = self._anchor
        if (refused := refusal(action)) is not None:
            return Observation(refused, kind=ObservationKind.INVALID_ACTION, anchor=anchor)
        if action.final:
            return Observation("", done=True, anchor=anchor)
        try:
            text, cut = await self._call(lambda: self._act(str(action.arguments["code"])))
        except SandboxError as error:
            return Observation("", kind=ObservationKind.WORLD_ERROR, anchor=anchor, error=str(error))
        self._anchor = _digest(f"{anchor}\n{OS.show(action)}\n{text}")
        return Observation(text, anchor=anchor, truncated=cut)

    def _running(self) -> Desktop:
        if self._desktop is None:
            raise SandboxError("os: the desktop was not started")
        return self._desktop

    def _act(self, code: str) -> tuple[str, bool]:
        output, end, cut = self._running().run(code, self._seconds)
        screen = self._running().look()
        cut = cut or len(output) > MAX_OUTPUT or len(screen) > MAX_SCREEN
        return observation(output, end, screen), cut

    async def verify(self, checks: Sequence[Check]) -> tuple[CheckResult, ...]:
        """What only a running program knows is read first; then everything is killed and files are read. Raises
        SandboxError."""
        probes = list(dict.fromkeys(probe for check in checks for probe in check.probes))
        replies = await self._call(lambda: self._replies(probes))
        return tuple(judge(check, [replies[probe] for probe in check.probes]) for check in checks)

    def _replies(self, probes: Sequence[str]) -> dict[str, str | Screen | None]:
        replies: dict[str, str | Screen | None] = {}
        asked = {probe: action for probe in probes if (action := OS.parse(probe)).name == PROBE}
        shown = [probe for probe in asked if asked[probe].arguments["what"] == "display"]
        if shown:
            display = self._running().display()
            replies.update((probe, "(no calculator)" if display is None else display) for probe in shown)
        files = [probe for probe in asked if probe not in replies]
        screens = self._running().machine.probe([reader(asked[probe]) for probe in files])
        return {**dict.fromkeys(probes), **replies, **dict(zip(files, screens, strict=True))}

    async def restore(self, turns: Sequence[Turn]) -> bool:
        return False

    async def close(self) -> None:
        """Ends whatever still runs, at once; safe to call at any time and twice."""
        self._closed = True
        if self._desktop is not None:
            self._desktop.machine.interrupt()
            await self._call(self._desktop.machine.close)

    async def _call(self, work: Callable[[], T]) -> T:
        def locked() -> T:
            with self._turn:
                return work()

        return await asyncio.get_running_loop().run_in_executor(_threads(), locked)


def observation(output: str, end: str, screen: str) -> str:
    """What a block printed, a note where it did not end by itself, and the screen."""
    said = output.rstrip()
    if len(said) > MAX_OUTPUT:
        said = said[:MAX_OUTPUT] + "\n(output cut)"
    if len(screen) > MAX_SCREEN:
        screen = screen[:MAX_SCREEN].rpartition("\n")[0] + "\n(screen cut)"
    parts = [f"output:\n{said}"] if said else []
    parts += [NOTES[end]] if end in NOTES else []
    return "\n".join([*parts, f"screen:\n{screen}" if screen else "screen: no window"])


def reader(action: Action) -> str:
    """The command that answers a probe, in a box of its own."""
    what, path = action.arguments["what"], action.arguments["path"]
    words = ("/usr/bin/python3", "-I", "-S", "-c", READER, str(what), str(path))
    return " ".join(map(shlex.quote, words))


def judge(check: Check, replies: Sequence[str | Screen | None]) -> CheckResult:
    """Passed iff every probe ended by itself and its reply satisfies the predicate; no verdict for what is no probe."""
    texts = tuple(reply.text if isinstance(reply, Screen) else reply or "" for reply in replies)
    if None in replies:
        return CheckResult(check.name, None, texts, "a probe is no PROBE action")
    ends = [reply.end for reply in replies if isinstance(reply, Screen) and reply.end != "ok"]
    if ends:
        return CheckResult(check.name, False, texts, f"a probe did not end by itself: {ends[0]}")
    try:
        return CheckResult(check.name, bool(texts) and all(holds(check.predicate, text) for text in texts), texts)
    except TaskError as error:
        return CheckResult(check.name, None, texts, str(error))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="replace")).hexdigest()[:32]


@dataclass
class OsFactory:
    """Picklable ``EnvFactory``. Its pool is made at the first task in a process and left out of the pickle."""

    limits: Limits | None = None
    seconds: float = SECONDS  # for one block
    _pool: Pool | None = field(default=None, init=False, repr=False, compare=False)

    def __call__(self, task: Task, seed: int) -> OsEnvironment:
        return OsEnvironment(task, self.pool(), self.seconds)

    def pool(self) -> Pool:
        if self._pool is None:
            self._pool = Pool(self.limits) if self.limits else Pool()
        return self._pool

    def __getstate__(self) -> dict[str, Any]:
        return {"limits": self.limits, "seconds": self.seconds, "_pool": None}
