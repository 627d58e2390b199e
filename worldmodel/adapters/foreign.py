"""A foreign environment as a real environment of ours: what every adapter shares.

Owns: the deadline of each call, faults of foreign code as typed world faults, the verdict from its reward, a thread
for code that blocks. Refuses: knowing a framework, and isolation: foreign code is trusted by whoever installs it.

A foreign environment says how well it went by a reward of its own. The one probe that such a world answers is
``reward``, and ``REWARD`` is the check that asks it. An exception, a missed deadline or a reward that is no number is
a fault: no verdict, and never a reward of 0.
"""

from __future__ import annotations

import asyncio
import json
import math
import queue
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, Protocol, TypeVar

from rollout.errors import AgentworldError, ConfigError, TaskError, WorldFault
from rollout.reward.checks import holds
from rollout.types import (
    Action,
    Check,
    CheckResult,
    Message,
    Observation,
    ObservationKind,
    Predicate,
    Prompt,
    Reference,
    Task,
    Trajectory,
    Turn,
    World,
)

T = TypeVar("T")
PROBE = "reward"
REWARD = Check("reward", (PROBE,), Predicate("regex", "^success "))
OVER = "the episode is over"
CLOSE_SECONDS = 5.0  # a call that hangs also keeps whatever is to be closed behind it


@dataclass(frozen=True, slots=True)
class Terms:
    """``seconds``: the deadline of each call. From a reward of ``success`` on an episode is one. ``reward``: what
    counts of rewards that are given step by step, their ``sum`` or the ``last``. Raises ConfigError."""

    seconds: float = 60.0
    success: float = 1.0
    reward: Literal["sum", "last"] = "sum"

    def __post_init__(self) -> None:
        if not self.seconds > 0 or not math.isfinite(self.seconds):
            raise ConfigError(f"adapters: seconds {self.seconds} must be above 0")
        if not math.isfinite(self.success):
            raise ConfigError(f"adapters: success {self.success} must be a number")
        if self.reward not in ("sum", "last"):
            raise ConfigError(f"adapters: reward {self.reward!r} must be sum or last")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a foreign step returned. ``refused``: the action was not one, and nothing happened."""

    text: str
    done: bool = False
    reward: float | None = None
    refused: bool = False


class Session(Protocol):
    """One episode of a foreign environment: what an adapter writes. Whatever it raises is a fault of the world,
    except ``ConfigError`` and ``TaskError``, which are the user's mistakes."""

    async def reset(self) -> Prompt: ...

    def parse(self, text: str) -> Action: ...

    async def step(self, action: Action) -> Seen: ...

    async def reward(self) -> float | None:
        """Asked once, at the end. None: only what the steps returned counts."""
        ...

    async def close(self) -> None: ...


class ForeignEnvironment:
    """Implements ``Environment`` over a session: single use, not restorable. After a fault nothing more is asked of
    the session but to close."""

    world_version = ""
    controls: tuple[str, ...] = ()

    def __init__(self, name: str, session: Session, terms: Terms) -> None:
        self.world_id = f"real:{name}"
        self._session, self._terms = session, terms
        self._rewards: list[float] = []
        self._ended = self._closed = False
        self._fault = ""
        self._reply: str | None = None

    async def start(self) -> Prompt:
        """Raises WorldFault, or ConfigError where the user asked for what is not there."""
        return await self._call("reset", self._session.reset)

    def parse(self, text: str) -> Action:
        return self._session.parse(text)

    async def step(self, action: Action) -> Observation:
        """A fault is an observation that stops the episode unscored."""
        if action.error is not None or self._ended:
            return Observation(action.error or OVER, done=self._ended, kind=ObservationKind.INVALID_ACTION)
        try:
            seen = await self._call("step", lambda: self._session.step(action))
        except WorldFault as fault:
            return Observation("", kind=ObservationKind.WORLD_ERROR, error=str(fault))
        if seen.reward is not None:
            self._rewards.append(float(seen.reward))
        self._ended = seen.done or action.final
        kind = ObservationKind.INVALID_ACTION if seen.refused else ObservationKind.OK
        return Observation(seen.text, done=seen.done, kind=kind)

    async def verify(self, checks: Sequence[Check]) -> tuple[CheckResult, ...]:
        """Raises WorldFault where the episode had a fault, or the reward is missing or no number."""
        if self._reply is None:
            self._reply = self._verdict(await self._call("reward", self._session.reward))
        return tuple(judge(check, self._reply) for check in checks)

    def _verdict(self, given: float | None) -> str:
        """An episode that was cut before the environment gave any reward has not succeeded; one that it ended
        without a reward has no verdict."""
        if given is None and self._rewards:
            given = sum(self._rewards) if self._terms.reward == "sum" else self._rewards[-1]
        if given is None and self._ended:
            raise WorldFault(f"{self.world_id}: the environment ended the episode without a reward")
        value = 0.0 if given is None else float(given)
        if not math.isfinite(value):
            raise WorldFault(f"{self.world_id}: the reward is {value}")
        passed = given is not None and value >= self._terms.success
        return f"{'success' if passed else 'failure'} {value!r}"

    async def restore(self, turns: Sequence[Turn]) -> bool:
        return False

    async def close(self) -> None:
        """Once. Raises WorldFault where the foreign side does not close."""
        if not self._closed:
            self._closed, self._fault = True, ""
            await self._call("close", self._session.close, min(self._terms.seconds, CLOSE_SECONDS))

    async def _call(self, verb: str, work: Callable[[], Coroutine[Any, Any, T]], seconds: float = 0.0) -> T:
        """``work`` within its deadline; what it raises becomes the fault of this episode, kept for later calls."""
        if self._fault:
            raise WorldFault(self._fault)
        seconds = seconds or self._terms.seconds
        task = asyncio.ensure_future(work())
        try:
            await asyncio.wait({task}, timeout=seconds)
            if not task.done():
                self._fault = f"{self.world_id}: {verb} did not end within {seconds:g} s"
                raise WorldFault(self._fault)
            return task.result()
        except AgentworldError as error:
            self._fault = str(error)
            raise
        except Exception as error:
            self._fault = f"{self.world_id}: {verb} raised {one_line(error)}"
            raise WorldFault(self._fault) from error
        finally:
            if not task.done():  # it may ignore that: nobody waits for it any more
                task.cancel()
                task.add_done_callback(_forget)


def _forget(task: asyncio.Future[Any]) -> None:
    """Marks the exception of an abandoned call as seen."""
    if not task.cancelled():
        task.exception()


def judge(check: Check, reply: str) -> CheckResult:
    """``check`` against the reply to ``reward``; no verdict where it asks for anything else. A check without probes
    asks for the reward too."""
    if not set(check.probes) <= {PROBE}:
        return CheckResult(check.name, None, (), f"this world answers no probe but {PROBE!r}")
    try:
        return CheckResult(check.name, holds(check.predicate, reply), (reply,))
    except TaskError as error:
        return CheckResult(check.name, None, (reply,), str(error))


@dataclass(frozen=True, slots=True)
class ForeignReward:
    """A ``Reward``: the number that the foreign environment gave, instead of whether it is a success."""

    async def __call__(self, trajectory: Trajectory, results: Sequence[CheckResult]) -> float | None:
        for result in results:
            if result.name == REWARD.name and result.passed is not None:
                return float(result.replies[0].split()[1])
        return None


def foreign_task(
    id: str,
    instruction: str = "",
    *,
    domain: str,
    state: Mapping[str, Any] | None = None,
    max_turns: int = 20,
    seed: int = 0,
    split: str = "train",
) -> Task:
    """A task in a foreign environment: ``seed`` and ``state`` are what its reset is told, so that all members of a
    group meet the same world; its reward is the one check."""
    return Task(
        id=id,
        domain=domain,
        family=domain,
        split=split,
        instruction=instruction,
        world=World(dict(state or {})),
        checks=(REWARD,),
        reference=Reference(),
        max_turns=max_turns,
        seed=seed,
    )


def opening(*parts: str, system: str = "") -> Prompt:
    """The prompt: ``system`` where there is one, then one user message of the ``parts`` that say something."""
    said = "\n\n".join(part.strip() for part in parts if part.strip())
    messages = (Message("user", said or "Begin."),)
    return Prompt((Message("system", system), *messages) if system else messages)


def plain(text: str) -> Action:
    """``text`` as it is; an empty one is no action."""
    if not text.strip():
        return Action(text, error="an action is not empty")
    return Action(text, name="say", arguments={"text": text.strip()})


def json_object(text: str) -> dict[str, Any] | None:
    """The object that ``text`` is, or None."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def needed(module: str) -> Any:
    """``module``, of the extra. Raises ConfigError with the one command that gets it."""
    try:
        return import_module(module)
    except ImportError as error:
        name = module.split(".")[0]
        hint = f"pip install 'agentworld-trainer[{name}]'"
        raise ConfigError(f"adapters: {name} cannot be imported ({one_line(error)}); {hint}") from error


def one_line(error: BaseException) -> str:
    """Type and message of ``error`` in one line of at most 300 characters."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}"[:300] if said else type(error).__name__


class OneThread:
    """A daemon thread for code that blocks or is bound to a thread. A call that never returns keeps its thread, which
    ends with the process: what must be killed for certain belongs behind a server."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    async def call(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._submit(work))

    async def finish(self, last: Callable[[], object]) -> None:
        """``last`` after all else, then the thread ends. It is done even if nobody waits for it any more."""
        future = self._submit(last)
        self.end()
        while not future.done():
            await asyncio.sleep(0.005)
        future.result()

    def end(self) -> None:
        """The thread ends after what it was given so far."""
        self._jobs.put(None)

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._jobs.put((future, work))
        if self._thread.ident is None:
            self._thread.start()
        return future

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, work = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except Exception as error:
                    future.set_exception(error)
                except SystemExit as error:
                    future.set_exception(RuntimeError(f"it called exit({error.code})"))
