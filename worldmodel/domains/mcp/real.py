"""The real tool world: MCP servers in boxes, on the files of one throw-away machine.

Owns: the life of an episode's servers, what a call returns, verdicts from fresh servers on read-only files.
Refuses: programs and paths (``servers``), the protocol (``client``), isolation (sandbox), scoring (rollout.reward).

A server that dies or hangs under an action is the action's doing: the policy is told, and the server is started again
on the same files. Only where that fails is it a fault of the world.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from rollout.protocols import Environment
from rollout.types import Action, Check, CheckResult, Observation, ObservationKind, Prompt, Task, Turn
from worldmodel.domains.mcp import MCP, tau2
from worldmodel.domains.mcp.catalogue import CHANGING, TOOLS, mismatch
from worldmodel.domains.mcp.client import Connection, in_thread
from worldmodel.domains.mcp.grammar import NO_ANSWER, PROBE, said
from worldmodel.domains.mcp.judge import judge
from worldmodel.domains.mcp.servers import LIMITS, START_SECONDS, build, machine, program
from worldmodel.domains.mcp.thirdparty.grammar import is_benchmark
from worldmodel.domains.mcp.thirdparty.real import BenchmarkEnvironment
from worldmodel.sandbox import Machine, SandboxError
from worldmodel.types import refusal

T = TypeVar("T")


class McpEnvironment:
    """Implements ``Environment``: single use, not restorable (real servers start again)."""

    world_id = "real:mcp"
    world_version = ""
    controls: tuple[str, ...] = ()

    def __init__(self, task: Task) -> None:
        self._task = task
        self._state = task.world.state
        self._machine: Machine | None = None
        self._connections: dict[str, Connection] = {}
        self._answer = NO_ANSWER
        self._turn = threading.Lock()  # a cancelled call may still be running in its thread
        self._anchor = _digest(json.dumps(self._state, sort_keys=True))

    async def start(self) -> Prompt:
        """Raises SandboxError where the machine or a server cannot be had."""
        self._machine = made = machine(self._state)
        await self._call(lambda: _begin(made, self._state))
        await self._serve(self._state["servers"], writable=True)
        return MCP.prompt(self._task)

    async def _serve(self, servers: Sequence[str], writable: bool) -> None:
        """Start ``servers`` all at once, and hold each to the tools that are offered."""
        made = self._running()
        for server in servers:
            argv = program(server, self._state)
            service = await self._call(partial(made.serve, argv, LIMITS, writable=writable))
            self._connections[server] = Connection(service, START_SECONDS)
        await asyncio.gather(*(self._connections[server].open() for server in servers))
        for server in servers:
            if problem := mismatch(server, self._connections[server].schemas):
                raise SandboxError(f"mcp: {problem}: agentworld setup mcp")

    def _running(self) -> Machine:
        if self._machine is None:
            raise SandboxError("mcp: the episode has not begun")
        return self._machine

    def parse(self, text: str) -> Action:
        return MCP.parse(text)

    async def step(self, action: Action) -> Observation:
        anchor = self._anchor
        if (refused := refusal(action)) is not None:
            return Observation(refused, kind=ObservationKind.INVALID_ACTION, anchor=anchor)
        if action.final:
            self._answer = said(action.arguments["text"])
            return Observation("", done=True, anchor=anchor)
        try:
            text = await self._act(action)
        except SandboxError as error:
            return Observation("", kind=ObservationKind.WORLD_ERROR, anchor=anchor, error=str(error))
        if action.name.startswith(CHANGING) and not text.startswith("Error"):
            self._anchor = _digest(f"{anchor}\n{MCP.show(action)}")
        return Observation(text, anchor=anchor)

    async def _act(self, action: Action) -> str:
        server = TOOLS[action.name].server
        if server not in self._connections:
            return absent(action)
        try:
            return await self._connections[server].call(action.name, action.arguments)
        except SandboxError:
            await self._connections[server].close()
            await self._serve([server], writable=True)
            return f"Error: the {server} server gave no answer and was started again"

    async def verify(self, checks: Sequence[Check]) -> tuple[CheckResult, ...]:
        """Every process of the episode is ended, then each probe asks fresh servers that cannot write. One that asks a
        server which this world has not is told so, as a policy is. Raises SandboxError."""
        probes = {probe: MCP.parse(probe) for check in checks for probe in check.probes}
        tools = {probe: action for probe, action in probes.items() if action.name in TOOLS}
        asked = {p: action for p, action in tools.items() if TOOLS[action.name].server in self._state["servers"]}
        await self._freeze()
        await self._serve(sorted({TOOLS[action.name].server for action in asked.values()}), writable=False)
        replies: dict[str, str | None] = {
            probe: self._answer if action.name == PROBE else absent(action) if probe in tools else None
            for probe, action in probes.items()
        }
        for probe, action in asked.items():
            replies[probe] = await self._connections[TOOLS[action.name].server].call(action.name, action.arguments)
        await self._freeze()
        return tuple(judge(check, [replies[probe] for probe in check.probes]) for check in checks)

    async def _freeze(self) -> None:
        """End every process; the files stay."""
        open_, self._connections = self._connections, {}
        await asyncio.gather(*(connection.close() for connection in open_.values()))
        if self._machine is not None:
            await self._call(self._machine.freeze)

    async def restore(self, turns: Sequence[Turn]) -> bool:
        return False

    async def close(self) -> None:
        """Ends whatever still runs, at once; safe to call at any time and twice."""
        if self._machine is not None:
            self._machine.interrupt()
            await self._freeze()
            await self._call(self._machine.close)

    async def _call(self, work: Callable[[], T]) -> T:
        def locked() -> T:
            with self._turn:
                return work()

        return await in_thread(locked)


def absent(action: Action) -> str:
    """The answer to a tool of a server that this world has not."""
    return f"Error: no server here offers {action.name}"


def _begin(made: Machine, state: Any) -> None:
    made.start()
    build(made, state)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="replace")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class McpFactory:
    """Picklable ``EnvFactory``."""

    def __call__(self, task: Task, seed: int) -> Environment:
        if tau2.KEY in task.world.state:
            from worldmodel.domains.mcp.tau2.real import Tau2Environment

            return Tau2Environment(task)
        if is_benchmark(task.world):
            return BenchmarkEnvironment(task)
        return McpEnvironment(task)
