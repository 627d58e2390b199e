"""The one agent loop: a task, a world and a policy become a trajectory.

Owns: order of calls, token bookkeeping, deadlines, and turning faults of world and sampler into a typed stop.
Refuses: knowing which world or engine it drives, scoring rules (``reward/``), and hiding bugs: only typed faults
and missed deadlines become data, any other exception propagates after the world is closed.

A step of the world is never repeated. Sampler calls and probes, which change nothing, are, within a budget.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar, runtime_checkable

from rollout.errors import SamplerFault, WorldFault
from rollout.protocols import Chat, Environment, Reward, Sampler
from rollout.reward import score
from rollout.seeds import derive_seed
from rollout.types import (
    Check,
    CheckResult,
    Completion,
    Message,
    ObservationKind,
    Prompt,
    Sampling,
    Score,
    Session,
    Stop,
    Task,
    Trajectory,
    Turn,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EpisodeSettings:
    """Limits of one episode. Timeouts in seconds; the earliest of call, turn and episode counts.

    A call is one sampler call; a turn is one completion and one world step; the episode is everything before the
    verdict, which has ``verify_timeout`` of its own. ``max_context`` counts every id of the row, sampled or not.
    ``sampler_retries`` and ``world_retries`` (probes only) are further tries after a typed fault.
    """

    max_tokens_per_turn: int = 64
    max_context: int = 1024
    call_timeout: float = 60.0
    turn_timeout: float = 120.0
    episode_timeout: float = 600.0
    verify_timeout: float = 120.0
    close_timeout: float = 10.0
    sampler_retries: int = 1
    world_retries: int = 1


@runtime_checkable
class Described(Protocol):
    """A world that also says which weights or image it ran on and what was injected into it."""

    world_version: str
    controls: tuple[str, ...]


class _Ended(Exception):
    """Carries the stop out of nested calls."""

    def __init__(self, stop: Stop, error: str | None = None) -> None:
        super().__init__(error)
        self.stop = stop
        self.error = error


@dataclass(slots=True)
class _Run:
    """State of one episode while it runs."""

    task: Task
    environment: Environment
    sampler: Sampler
    chat: Chat
    settings: EpisodeSettings
    sampling: Sampling
    session: str
    seed: int
    deadline: float
    prompt: Prompt = field(default_factory=lambda: Prompt(()))
    turns: list[Turn] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)  # every id so far, up to the last sampled one
    timings: dict[str, float] = field(default_factory=lambda: defaultdict(float))


async def run_episode(
    task: Task,
    environment: Environment,
    sampler: Sampler,
    chat: Chat,
    reward: Reward,
    settings: EpisodeSettings,
    *,
    group: str,
    member: int,
    seed: int,
    sampling: Sampling,
    resume: Sequence[Turn] = (),
    turns: list[Turn] | None = None,
) -> Trajectory:
    """One episode of ``task``, scored. Closes ``environment`` in every case, cancellation included.

    Args:
        seed: root seed; each sampler call gets f(seed, task, group, member, turn).
        resume: whole turns of an interrupted try. They are kept if ``environment.restore`` says it can continue
            after them, else the episode starts again; ``timings["turns_restored"]`` says how many were kept.
        turns: an empty list that gets each whole turn as it ends, for whoever wants to look at a running episode.
    """
    begun = time.monotonic()
    run = _Run(
        task=task,
        environment=environment,
        sampler=sampler,
        chat=chat,
        settings=settings,
        sampling=sampling,
        session=f"{task.id}/{group}/{member}",
        seed=derive_seed(seed, task.id, group, member),
        deadline=begun + settings.episode_timeout,
        turns=[] if turns is None else turns,
    )
    results: tuple[CheckResult, ...] = ()
    try:
        stop, error = await _act(run, resume)
        if not stop.failed and run.turns:
            stop, error, results = await _verify(run, task.checks, stop, error)
        trajectory = _trajectory(run, group, member, stop, error, results)
        outcome = await _score(trajectory, results, reward, settings.verify_timeout)
    finally:
        await _close(environment, settings.close_timeout)
    run.timings["total"] = time.monotonic() - begun
    return replace(trajectory, score=outcome, timings=dict(run.timings))


async def _act(run: _Run, resume: Sequence[Turn]) -> tuple[Stop, str | None]:
    """Turns until something stops them."""
    try:
        run.prompt = await _world(run, "start", run.environment.start, run.deadline)
        restored = False
        if resume:
            restored = await _world(run, "restore", lambda: run.environment.restore(resume), run.deadline)
        if restored:
            run.turns.extend(resume)
            run.timings["turns_restored"] = len(resume)
            for turn in resume:
                run.ids += (*turn.context_ids, *turn.completion.ids)
            _stop_after(run, resume[-1])
        while True:
            _stop_after(run, await _turn(run))
    except _Ended as ended:
        return ended.stop, ended.error


async def _turn(run: _Run) -> Turn:
    begun = time.monotonic()
    deadline = min(run.deadline, begun + run.settings.turn_timeout)
    new_ids = _context(run)
    completion = await _sample(run, new_ids, deadline)
    action = run.environment.parse(completion.text)
    observation = await _world(run, "step", lambda: run.environment.step(action), deadline)
    turn = Turn(new_ids, completion, action, observation, time.monotonic() - begun)
    run.ids += (*new_ids, *completion.ids)
    run.turns.append(turn)
    return turn


def _stop_after(run: _Run, turn: Turn) -> None:
    if turn.observation.kind is ObservationKind.WORLD_ERROR:
        raise _Ended(Stop.WORLD_ERROR, turn.observation.error or "the world gave no reason")
    if turn.observation.done or turn.action.final:
        raise _Ended(Stop.DONE)
    if len(run.turns) >= run.task.max_turns:
        raise _Ended(Stop.MAX_TURNS)


def _context(run: _Run) -> tuple[int, ...]:
    """Ids new since the last completion."""
    if not run.turns:
        new_ids = run.chat.prompt(run.prompt.messages)
    else:
        last = run.turns[-1]
        finished = last.completion.ids[-1] in run.chat.stop_ids
        new_ids = run.chat.extend((Message("user", last.observation.text),), finished)
    room = run.settings.max_context - len(run.ids) - len(new_ids)
    if room < 1:
        size = len(run.ids) + len(new_ids)
        raise _Ended(Stop.LENGTH, f"a context of {size} ids leaves no room in max_context {run.settings.max_context}")
    return new_ids


async def _sample(run: _Run, new_ids: tuple[int, ...], turn_deadline: float) -> Completion:
    context = (*run.ids, *new_ids)
    settings = run.settings
    room = settings.max_context - len(context)
    max_tokens = min(settings.max_tokens_per_turn, run.sampling.max_tokens, room)
    seed = derive_seed(run.seed, len(run.turns))
    begun = time.monotonic()
    for attempt in range(settings.sampler_retries + 1):
        deadline = min(turn_deadline, time.monotonic() + settings.call_timeout)
        session = Session(run.session, seed, deadline, run.sampling.temperature)
        try:
            completion = await _by(deadline, run.sampler(context, max_tokens, session))
            _check_completion(completion, max_tokens)
        except TimeoutError as error:
            raise _Ended(Stop.TIMEOUT, _waited("the sampler", begun)) from error
        except SamplerFault as fault:
            run.timings["sampler_faults"] += 1
            if time.monotonic() >= deadline:
                raise _Ended(Stop.TIMEOUT, f"{_waited('the sampler', begun)}: {fault}") from fault
            if attempt == settings.sampler_retries:
                raise _Ended(Stop.SAMPLER_ERROR, str(fault)) from fault
        else:
            run.timings["sample"] += time.monotonic() - begun
            return replace(completion, text=run.chat.decode(completion.ids))
    raise AssertionError("unreachable: the last attempt returns or raises")


def _check_completion(completion: Completion, max_tokens: int) -> None:
    lengths = {len(completion.ids), len(completion.logprobs), len(completion.versions)}
    if len(lengths) != 1 or not 1 <= len(completion.ids) <= max_tokens:
        raise SamplerFault(
            f"sampler returned {len(completion.ids)} ids, {len(completion.logprobs)} logprobs and "
            f"{len(completion.versions)} versions where 1 to {max_tokens} of each were asked for"
        )


async def _world(run: _Run, verb: str, call: Callable[[], Awaitable[T]], deadline: float) -> T:
    """One call of the environment, timed; faults and missed deadlines end the episode."""
    begun = time.monotonic()
    try:
        return await _by(deadline, call())
    except TimeoutError as error:
        raise _Ended(Stop.TIMEOUT, _waited(f"environment.{verb}", begun)) from error
    except WorldFault as fault:
        raise _Ended(Stop.WORLD_ERROR, f"environment.{verb}: {fault}") from fault
    finally:
        run.timings[verb] += time.monotonic() - begun


async def _verify(
    run: _Run, checks: Sequence[Check], stop: Stop, error: str | None
) -> tuple[Stop, str | None, tuple[CheckResult, ...]]:
    deadline = time.monotonic() + run.settings.verify_timeout
    attempt = 0
    while True:
        try:
            return stop, error, tuple(await _world(run, "verify", lambda: run.environment.verify(checks), deadline))
        except _Ended as ended:
            if attempt == run.settings.world_retries or ended.stop is Stop.TIMEOUT:
                return ended.stop, ended.error, ()
            attempt += 1


async def _score(trajectory: Trajectory, results: tuple[CheckResult, ...], reward: Reward, timeout: float) -> Score:
    begun = time.monotonic()
    try:
        return await _by(begun + timeout, score(trajectory, results, reward))
    except TimeoutError:
        return Score(None, {}, _waited("the reward", begun))


def _trajectory(
    run: _Run, group: str, member: int, stop: Stop, error: str | None, results: tuple[CheckResult, ...]
) -> Trajectory:
    world = run.environment
    world_version, controls = "", tuple[str, ...]()
    if isinstance(world, Described):
        world_version, controls = world.world_version, tuple(world.controls)
    return Trajectory(
        task=run.task,
        group=group,
        member=member,
        prompt=run.prompt,
        turns=tuple(run.turns),
        stop=stop,
        score=Score(None),
        results=results,
        world_id=world.world_id,
        world_version=world_version,
        controls=controls,
        sampling=run.sampling,
        error=error,
    )


async def _close(environment: Environment, timeout: float) -> None:
    """A world that does not close in time, or fails to, is left behind: its episode is already decided. Shielded,
    so that a cancelled episode still closes its world."""
    closing = asyncio.ensure_future(_by(time.monotonic() + timeout, environment.close()))
    try:
        await asyncio.shield(closing)
    except (TimeoutError, WorldFault):
        return
    except asyncio.CancelledError:
        await asyncio.wait({closing}, timeout=timeout)
        raise


async def _by(deadline: float, call: Awaitable[T]) -> T:
    """``call``, or TimeoutError at ``deadline`` (monotonic seconds), even if the call ignores its cancellation."""
    task = asyncio.ensure_future(call)
    try:
        await asyncio.wait({task}, timeout=max(0.0, deadline - time.monotonic()))
        if task.done():
            return task.result()
        raise TimeoutError
    finally:
        if not task.done():
            task.cancel()
            task.add_done_callback(_forget)


def _forget(task: asyncio.Future[T]) -> None:
    """Marks the exception of an abandoned call as seen."""
    if not task.cancelled():
        task.exception()


def _waited(what: str, begun: float) -> str:
    return f"waited {time.monotonic() - begun:.1f} s for {what}"
