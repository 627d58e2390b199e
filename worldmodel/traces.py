"""Traces of real worlds: seeded sessions -> recorded episodes.

Owns: which sessions are run (``sessions``), playing actions in a real environment (``play``), recording a session
(``record``, ``record_in``), a policy's trajectory as an episode (``as_episode``), and a whole share of a collection
(``record_share``), the unit that a worker process executes. Refuses: fan-out over workers (``launch``), files on disk
(``worldmodel.episodes``), what a domain's sessions are (``worldmodel.behaviours``).
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from rollout.errors import WorldFault
from rollout.protocols import EnvFactory, Environment
from rollout.seeds import derive_seed
from rollout.spot import success
from rollout.types import (
    Action,
    Check,
    CheckResult,
    Observation,
    ObservationKind,
    Predicate,
    Prompt,
    Task,
    Trajectory,
)
from worldmodel.behaviours import FINAL_CLASS, Behaviours, Session
from worldmodel.domains import RealWorlds, behaviours, kit
from worldmodel.spans import differing, to_meta
from worldmodel.tasks import Split
from worldmodel.types import Episode, Transition, refusal

T = TypeVar("T")
OTHERS = 16  # tasks that a session may borrow from
AT_ONCE = 4  # sessions of a share in flight
SESSION_SECONDS = 300.0
TRIES = 3  # of a session whose world fails
_CLOSE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Played:
    """What a real world said. ``results``: of the checks asked for."""

    prompt: Prompt
    turns: tuple[tuple[Action, Observation], ...]
    results: tuple[CheckResult, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """Recorded episodes in order; ``lost``: the reason for each session whose world failed ``TRIES`` times."""

    episodes: list[Episode]
    lost: tuple[str, ...] = ()


def sessions(
    split: Split, seed: int, start: int, count: int, domain: str = "terminal"
) -> Iterator[tuple[Task, Session]]:
    """The planned sessions ``start .. start+count`` of a collection; independent of how it is shared out.
    Every session has a task of its own, and borrows from the tasks just before it."""
    tasks = kit(domain).generate(split, max(start + count, OTHERS + 1), seed)
    chosen = behaviours(domain)
    for index in range(start, start + count):
        first = max(0, index - OTHERS)
        others = [other for other in tasks[first : first + OTHERS + 1] if other is not tasks[index]]
        yield tasks[index], chosen.plan(tasks[index], others, random.Random(derive_seed("session", seed, index)))


async def play(environment: Environment, steps: Sequence[str], checks: Sequence[Check], deadline: float) -> Played:
    """Act ``steps`` out from the start of ``environment``, ask ``checks``, close it. Stops early where the world or the
    grammar says the episode is over. Raises WorldFault, also at the ``deadline`` (of ``time.monotonic``)."""
    turns: list[tuple[Action, Observation]] = []
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            prompt = await environment.start()
            for text in steps:
                action = environment.parse(text)
                seen = await environment.step(action)
                turns.append((action, seen))
                if seen.kind is ObservationKind.WORLD_ERROR:
                    raise WorldFault(f"step {len(turns)}: {seen.error or 'no reason given'}")
                if action.final or seen.done:
                    break
            results = tuple(await environment.verify(checks)) if checks else ()
    except TimeoutError as error:
        raise WorldFault(f"no end within the deadline, after {len(turns)} steps") from error
    finally:
        await _close(environment)
    return Played(prompt, tuple(turns), results)


def play_all(wanted: Sequence[tuple[Task, Sequence[str]]], at_once: int) -> list[Played]:
    """Act out each of ``wanted`` in the real environment of its task, without checks. Raises WorldFault where a world
    fails ``TRIES`` times."""

    async def run() -> list[Played]:
        worlds, gate = RealWorlds(), asyncio.Semaphore(at_once)

        async def one(task: Task, steps: Sequence[str]) -> Played:
            async with gate:
                for tries_left in reversed(range(TRIES)):
                    environment = worlds(task, derive_seed("play", task.id))
                    try:
                        return await play(environment, steps, (), time.monotonic() + SESSION_SECONDS)
                    except WorldFault:
                        if not tries_left:
                            raise
            raise AssertionError("unreachable")

        return list(await asyncio.gather(*(one(task, steps) for task, steps in wanted)))

    return _wait(run())


async def _close(environment: Environment) -> None:
    """A world that does not close in time is left behind: what it said is already known."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await environment.close()
    except (TimeoutError, WorldFault):
        return


async def record_in(worlds: EnvFactory, task: Task, session: Session, chosen: Behaviours) -> Episode:
    """Run one session in the real environment of its domain. Raises WorldFault."""
    own = {probe for check in task.checks for probe in check.probes}
    looks = tuple(Check(p, (p,), Predicate("contains", "")) for p in session.probes if p not in own)
    name = f"{task.domain}-{task.id}-{session.behaviour}-{derive_seed(*session.steps) % 10**6}"
    environment = worlds(task, derive_seed("record", task.id))
    try:
        done = await play(environment, session.steps, (*task.checks, *looks), time.monotonic() + SESSION_SECONDS)
    except WorldFault as fault:
        raise WorldFault(f"{name}: {fault}") from fault
    return _episode(name, task, session.behaviour, done.turns, (*task.checks, *looks), done.results, chosen)


def record(task: Task, session: Session) -> Episode:
    """Run one session in this process, in its domain's fast way where there is one. Raises WorldFault."""
    chosen = behaviours(task.domain)
    if chosen.record is not None:
        return chosen.record(task, session)
    return _wait(record_in(RealWorlds(), task, session, chosen))


def as_episode(trajectory: Trajectory) -> Episode | None:
    """What a policy did in the real world, as a recorded episode: its whole turns and the probes of its checks. None
    where the world failed. Refused actions were answered by the grammar, not by the world, and are left out."""
    task, turns = trajectory.task, trajectory.turns
    if trajectory.error or any(turn.observation.kind is ObservationKind.WORLD_ERROR for turn in turns):
        return None
    taken = [(turn.action, turn.observation) for turn in turns]
    name = f"{task.id}-policy-{trajectory.member}"
    return _episode(name, task, "policy", taken, task.checks, trajectory.results, behaviours(task.domain))


def _episode(
    name: str,
    task: Task,
    behaviour: str,
    turns: Sequence[tuple[Action, Observation]],
    checks: Sequence[Check],
    results: Sequence[CheckResult],
    chosen: Behaviours,
) -> Episode:
    """The steps that a simulator would have been asked for, a final action that says something, and the probes."""
    domain, ledger = kit(task.domain).domain, chosen.ledger(task)
    transitions: list[Transition] = []
    for action, seen in turns:
        if refusal(action) is not None or (action.final and not action.arguments):
            continue
        shown, text = domain.show(action), "" if action.final else seen.text
        kind, depth = (FINAL_CLASS, 0) if action.final else ledger.classify(shown, text)
        ledger.note(shown, kind == "error")
        transitions.append(Transition(name, len(transitions), shown, text, kind, depth))
    answered: dict[str, str] = {}
    for check, result in zip(checks, results, strict=True):
        answered.update(zip(check.probes, result.replies, strict=False))  # one that nobody could ask has no reply
    turn = len(transitions)
    for probe, text in answered.items():
        shown = domain.show(domain.parse(probe))
        kind, depth = ledger.classify(shown, text)
        transitions.append(Transition(name, turn, shown, text, kind, depth, probe=True))
    known = {i: spans for i, t in enumerate(transitions) if (spans := chosen.open(task.world, t.action, t.observation))}
    return Episode(
        id=name, task_id=task.id, domain=task.domain, family=task.family, behaviour=behaviour, world=task.world,
        transitions=tuple(transitions), success=success(tuple(results)[: len(task.checks)]), meta=to_meta(known),
    )  # fmt: skip


def record_share(
    split: Split, seed: int, start: int, count: int, domain: str = "terminal", twice: bool = False
) -> Share:
    """Record a contiguous share of a collection in this process. ``twice``: every session is executed a second time,
    and what differs then is marked as open. Raises WorldFault where more than a tenth of the sessions are lost."""
    chosen, planned = behaviours(domain), list(sessions(split, seed, start, count, domain))
    if chosen.record is not None:
        found = [_retried(task, session, chosen, twice) for task, session in planned]
    else:
        found = _wait(_record_all(planned, chosen, twice))
    lost = tuple(item for item in found if isinstance(item, str))
    if len(lost) > max(1, count // 10):
        raise WorldFault(f"{domain}: {len(lost)} of {count} sessions were lost: {lost[0]}")
    return Share([item for item in found if isinstance(item, Episode)], lost)


def collect_share(split: Split, seed: int, start: int, count: int, domain: str = "terminal") -> list[Episode]:
    """The episodes of ``record_share``."""
    return record_share(split, seed, start, count, domain).episodes


def _retried(task: Task, session: Session, chosen: Behaviours, twice: bool) -> Episode | str:
    """The fast way: each execution in its own machine."""
    reason = ""
    assert chosen.record is not None
    for _ in range(TRIES):
        try:
            first = chosen.record(task, session)
            return differing(first, chosen.record(task, session)) if twice else first
        except WorldFault as fault:
            reason = str(fault)
    return reason


async def _record_all(planned: Sequence[tuple[Task, Session]], chosen: Behaviours, twice: bool) -> list[Episode | str]:
    worlds, gate = RealWorlds(), asyncio.Semaphore(AT_ONCE)

    async def one(task: Task, session: Session) -> Episode | str:
        reason = ""
        async with gate:
            for _ in range(TRIES):
                try:
                    first = await record_in(worlds, task, session, chosen)
                    return differing(first, await record_in(worlds, task, session, chosen)) if twice else first
                except WorldFault as fault:
                    reason = str(fault)
        return reason

    return list(await asyncio.gather(*(one(task, session) for task, session in planned)))


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One for the process's life: what environments share among them, such as a browser, belongs to a loop."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="traces", daemon=True).start()
    return loop


def _wait(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, _loop()).result()
