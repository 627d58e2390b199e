"""Traces of the real terminal: seeded sessions -> recorded episodes.

Owns: which sessions are run (``sessions``), running one (``record``), a policy's trajectory as one (``as_episode``),
and a whole share of a collection (``collect_share``), the unit that a worker process executes. Refuses: fan-out over
workers (``launch``), files on disk (``worldmodel.episodes``).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from rollout.reward.checks import holds
from rollout.seeds import derive_seed
from rollout.types import Check, ObservationKind, Task, Trajectory
from worldmodel.domains.terminal import TERMINAL
from worldmodel.domains.terminal.behaviours import Ledger, Session, plan
from worldmodel.domains.terminal.tasks import generate
from worldmodel.sandbox import Limits, Machine
from worldmodel.tasks import Split
from worldmodel.types import Episode, Transition


def record(task: Task, session: Session, limits: Limits | None = None) -> Episode:
    """Run one session in a fresh machine. Probes are read-only and come last, so they run in the same machine: a
    session of ours forges nothing, and a box of its own for each would cost more than all steps. Raises SandboxError.
    """
    ledger, transitions = Ledger(task), []
    name = f"{task.id}-{session.behaviour}-{derive_seed(*session.steps) % 10**6}"
    with Machine(task.world.state, limits or Limits()) as machine:
        for turn, command in enumerate(session.steps):
            text = machine.run(command).text
            kind, depth = ledger.classify(command, text)
            ledger.note(command, kind == "error")
            transitions.append(Transition(name, turn, command, text, kind, depth))
        replies = [machine.run(command).text for command in session.probes]
    for command, text in zip(session.probes, replies, strict=True):
        kind, depth = ledger.classify(command, text)
        transitions.append(Transition(name, len(session.steps), command, text, kind, depth, probe=True))
    success = verdict(task.checks, dict(zip(session.probes, replies, strict=True)))
    return Episode(
        id=name, task_id=task.id, domain=task.domain, family=task.family, behaviour=session.behaviour,
        world=task.world, transitions=tuple(transitions), success=success,
    )  # fmt: skip


def as_episode(trajectory: Trajectory) -> Episode | None:
    """What a policy did in the real world, as a recorded episode: its whole turns and the probes of its checks. None
    where the world failed. Invalid actions were answered by the grammar, not by the world, and are left out."""
    task, turns = trajectory.task, trajectory.turns
    if trajectory.error or any(turn.observation.kind is ObservationKind.WORLD_ERROR for turn in turns):
        return None
    ledger, transitions = Ledger(task), []
    name = f"{task.id}-policy-{trajectory.member}"
    acted = [turn for turn in turns if turn.action.error is None and not turn.action.final]
    for number, turn in enumerate(acted):
        shown, text = TERMINAL.show(turn.action), turn.observation.text
        kind, depth = ledger.classify(shown, text)
        ledger.note(shown, kind == "error")
        transitions.append(Transition(name, number, shown, text, kind, depth))
    answered = {
        probe: reply
        for check, result in zip(task.checks, trajectory.results, strict=True)
        for probe, reply in zip(check.probes, result.replies, strict=True)
    }
    for probe, text in answered.items():
        kind, depth = ledger.classify(probe, text)
        transitions.append(Transition(name, len(acted), probe, text, kind, depth, probe=True))
    return Episode(
        id=name, task_id=task.id, domain=task.domain, family=task.family, behaviour="policy",
        world=task.world, transitions=tuple(transitions), success=verdict(task.checks, answered),
    )  # fmt: skip


def verdict(checks: Sequence[Check], replies: dict[str, str]) -> bool | None:
    """Whether every check holds on the reply to each of its probes; None where a probe was not run."""
    if any(probe not in replies for check in checks for probe in check.probes):
        return None
    return all(holds(check.predicate, replies[probe]) for check in checks for probe in check.probes)


def sessions(split: Split, seed: int, start: int, count: int) -> Iterator[tuple[Task, Session]]:
    """The planned sessions ``start .. start+count`` of a collection; independent of how it is shared out.
    Every session has a task of its own."""
    for index, task in enumerate(generate(split, start + count, seed)):
        if index >= start:
            yield task, plan(task, random.Random(derive_seed("session", seed, index)))


def collect_share(split: Split, seed: int, start: int, count: int) -> list[Episode]:
    """Record a contiguous share of a collection in this process."""
    return [record(task, session) for task, session in sessions(split, seed, start, count)]
