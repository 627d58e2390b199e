"""Traces of the real terminal: seeded sessions -> recorded episodes.

Owns: which sessions are run (``sessions``), running one (``record``), and a whole share of a collection
(``collect_share``), the unit that a worker process executes. Refuses: fan-out over workers (``launch``), files on
disk (``worldmodel.episodes``).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from rollout.reward.checks import holds
from rollout.seeds import derive_seed
from rollout.types import Check, Task
from worldmodel.domains.terminal.behaviours import Ledger, Session, plan
from worldmodel.domains.terminal.tasks import Split, generate
from worldmodel.sandbox import Limits, Machine
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
