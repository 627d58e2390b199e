"""The real swe world: a checkout with a bug in a throw-away machine, a bash and file tools on it.

Owns: the async face, what each call prints, verdicts from probes. Refuses: isolation (sandbox), what passing means
(``verdict``).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from rollout.errors import ConfigError, TaskError
from rollout.reward.checks import holds
from rollout.types import Action, Check, CheckResult, Observation, ObservationKind, Prompt, Task, Turn
from worldmodel.domains.swe import SWE
from worldmodel.domains.swe.mutate import Edit, apply
from worldmodel.domains.swe.packages import PACKAGES, PYTHON, Package, site, tree
from worldmodel.domains.swe.testing import HOME, LIMITS, Bench, program
from worldmodel.domains.swe.verdict import merged, verdict
from worldmodel.sandbox import Machine, SandboxError, Service
from worldmodel.types import refusal

T = TypeVar("T")
TOOL_SECONDS = 10.0
MARKS = {"pending": "[ ]", "in_progress": "[>]", "done": "[x]"}
GITCONFIG = "[user]\n\tname = user\n\temail = user@box\n[init]\n\tdefaultBranch = main\n[core]\n\tpager = cat\n"
DATE = "2025-01-01T12:00:00+0000"


@cache
def _threads() -> ThreadPoolExecutor:
    """Machines block their thread while a command runs; the event loop never does."""
    return ThreadPoolExecutor(max_workers=64, thread_name_prefix="swe")


def checkout(task: Task) -> tuple[Package, dict[str, str]]:
    """The package of ``task`` and its files with the bug in them. Raises ConfigError where they are not installed, or
    not in the version of the task."""
    state = task.world.state
    package = PACKAGES.get(state["package"])
    if package is None or package.version != state["version"]:
        raise ConfigError(f"{task.id}: {state['package']} {state['version']} is not a package of the swe domain")
    files, bug = dict(tree(package.name)), state["bug"]
    files[bug["path"]] = apply(files[bug["path"]], [Edit(*edit) for edit in bug["edits"]])
    return package, files


class SweEnvironment:
    """Implements ``Environment``: single use, not restorable (a real machine starts again)."""

    world_id = "real:swe"
    controls: tuple[str, ...] = ()

    def __init__(self, task: Task) -> None:
        self.world_version = ""
        self._task = task
        self._machine: Machine | None = None
        self._tools: Service | None = None
        self._bench: Bench | None = None
        self._fresh = True  # the shell is one that has not been set up yet
        self._todo: list[dict[str, str]] = []
        self._turn = threading.Lock()  # a cancelled call may still be running in its thread
        self._anchor = _digest(json.dumps(dict(task.world.state), sort_keys=True))

    async def start(self) -> Prompt:
        """Raises ConfigError where the package is not installed, SandboxError where no machine can be had."""
        await self._call(self._start)
        return SWE.prompt(self._task)

    def _start(self) -> None:
        self._package, files = self._checkout()
        self.world_version = f"{self._package.name} {self._package.version}"
        self._root = f"{HOME}/{self._package.name}"
        state = {"files": {f"{self._package.name}/{path}": text for path, text in files.items()}}
        state["files"][".gitconfig"] = GITCONFIG
        self._machine = Machine(state, LIMITS, shows={"site": site()})
        self._machine.start()
        done = self._shell(f"git init -q && git add -A && git commit -q -m 'Import {self.world_version}'")
        if done:
            raise SandboxError(f"swe: git in the box: {done.splitlines()[-1]}")

    def _checkout(self) -> tuple[Package, dict[str, str]]:
        return checkout(self._task)

    def parse(self, text: str) -> Action:
        return SWE.parse(text)

    async def step(self, action: Action) -> Observation:
        """Deadlines, floods and a killed shell are the action's doing: ``ok`` with what there was to see."""
        anchor = self._anchor
        if (refused := refusal(action)) is not None:
            return Observation(refused, kind=ObservationKind.INVALID_ACTION, anchor=anchor)
        if action.final:
            return Observation("", done=True, anchor=anchor)
        try:
            text = await self._call(lambda: self._act(action.name, action.arguments))
        except SandboxError as error:
            return Observation("", kind=ObservationKind.WORLD_ERROR, anchor=anchor, error=str(error))
        self._anchor = _digest(f"{anchor}\n{SWE.show(action)}\n{text}")
        return Observation(text, anchor=anchor)

    def _act(self, name: str, arguments: Mapping[str, Any]) -> str:
        if name == "shell":
            return self._shell(str(arguments["command"]))
        if name == "todo":
            self._todo = list(arguments.get("items", self._todo))
            return "\n".join(f"{MARKS[item['status']]} {item['text']}" for item in self._todo) or "[empty list]"
        return str(self._ask(name, arguments).get("text", "[timed out]"))

    def _running(self) -> Machine:
        if self._machine is None:
            raise SandboxError("swe: the environment was not started")
        return self._machine

    def _shell(self, command: str) -> str:
        """Output, and the exit status where it is not 0. A shell that ended is replaced at the next command."""
        machine = self._running()
        if self._fresh:
            path = ":".join(f"{self._root}/{folder}".rstrip("/") for folder in self._package.paths)
            machine.run(
                f"cd {self._root}; export PYTHONPATH={path}:/opt/site; "
                f"export GIT_AUTHOR_DATE={DATE} GIT_COMMITTER_DATE={DATE}; "
                'python() { python3 "$@"; }; pytest() { python3 -m pytest "$@"; }'
            )
        screen = machine.run(command)
        self._fresh = screen.end != "ok"
        note = [f"[exit code {screen.status}]"] if screen.status else []
        return "\n".join([*([screen.text] if screen.text else []), *note])

    def _ask(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """A reply of ``box_tools``; {} where it took too long or was too much. Raises SandboxError where the machine is
        the cause."""
        request = json.dumps({"root": self._root, "name": name, "arguments": dict(arguments)}).encode()
        tools = self._served()
        try:
            reply: dict[str, Any] = json.loads(tools.ask(request, TOOL_SECONDS))
        except (SandboxError, ValueError):
            self._served()
            return {}
        return reply

    def _served(self) -> Service:
        """The running tools. Where no box can be had for them the episode's processes are ended first: they may have
        used up what it needs."""
        machine, argv = self._running(), [PYTHON, "-I", "-S", "-B", "-c", program("box_tools")]
        if self._tools is None or not self._tools.running:
            try:
                self._tools = machine.serve(argv)
            except SandboxError:
                self._fresh = True
                machine.freeze()
                self._tools = machine.serve(argv)
        return self._tools

    async def verify(self, checks: Sequence[Check]) -> tuple[CheckResult, ...]:
        """Every process of the episode is killed, then each probe runs the pristine tests on the source as it was left,
        in a machine of its own. Raises SandboxError."""
        replies = {probe: await self._probe(probe) for probe in dict.fromkeys(p for c in checks for p in c.probes)}
        return tuple(judge(check, [replies[probe] for probe in check.probes]) for check in checks)

    async def _probe(self, probe: str) -> str | None:
        action = SWE.parse(probe)
        return await self._call(lambda: self._tested(action.arguments)) if action.probe else None

    def _tested(self, arguments: Mapping[str, Any]) -> str:
        self._running().freeze()
        self._tools, self._fresh = None, True
        found = self._ask("sources", {"below": list(self._package.code)}).get("files", {})
        with Bench(self._package, self._judged_files(found)) as bench:
            self._bench = bench
            return self._verdict(bench, arguments)

    def _judged_files(self, found: Mapping[str, str]) -> dict[str, str]:
        return merged(self._package, found)

    def _verdict(self, bench: Bench, arguments: Mapping[str, Any]) -> str:
        return verdict(bench, self._package, arguments["files"], arguments["failing"])

    async def restore(self, turns: Sequence[Turn]) -> bool:
        return False

    async def close(self) -> None:
        """Ends whatever still runs, at once; safe to call at any time and twice."""
        for running in (self._bench, self._machine):
            if running is not None:
                running.interrupt()
        await self._call(self._close)

    def _close(self) -> None:
        if self._machine is not None:
            self._machine.close()

    async def _call(self, work: Callable[[], T]) -> T:
        def locked() -> T:
            with self._turn:
                return work()

        return await asyncio.get_running_loop().run_in_executor(_threads(), locked)


def judge(check: Check, replies: Sequence[str | None]) -> CheckResult:
    """Passed iff every reply satisfies the predicate; no verdict where a probe is no probe."""
    texts = tuple(reply for reply in replies if reply is not None)
    if None in replies:
        return CheckResult(check.name, None, texts, "a probe is not run_tests")
    try:
        passed = bool(texts) and all(holds(check.predicate, text) for text in texts)
    except TaskError as error:
        return CheckResult(check.name, None, texts, str(error))
    return CheckResult(check.name, passed, texts)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="replace")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class SweFactory:
    """Picklable ``EnvFactory``."""

    def __call__(self, task: Task, seed: int) -> SweEnvironment:
        return SweEnvironment(task)
