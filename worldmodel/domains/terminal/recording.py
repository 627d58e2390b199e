"""Recording sessions of the terminal quickly, and what trace collection is told about the domain.

Owns: the fast path: one machine for steps and probes. Refuses: which sessions there are (``behaviours``).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from rollout.seeds import derive_seed
from rollout.types import Task
from worldmodel.behaviours import Behaviours, Session, verdict
from worldmodel.domains.terminal import TERMINAL
from worldmodel.domains.terminal import behaviours as terminal
from worldmodel.domains.terminal.behaviours import Ledger
from worldmodel.domains.terminal.vocabulary import WORDS
from worldmodel.sandbox import Limits, Machine
from worldmodel.types import Episode, Transition


def record(task: Task, session: Session, limits: Limits | None = None) -> Episode:
    """Run one session in a fresh machine. Probes are read-only and come last, so they run in the same machine: a
    session of ours forges nothing, and a box of its own for each would cost more than all steps. Raises SandboxError.
    """
    ledger, transitions = Ledger(task), []
    name = f"{task.id}-{session.behaviour}-{derive_seed(*session.steps) % 10**6}"
    with Machine(task.world.state, limits or Limits()) as machine:
        steps = [step for step in session.steps if not TERMINAL.parse(step).final]
        for turn, command in enumerate(steps):
            text = machine.run(command).text
            kind, depth = ledger.classify(command, text)
            ledger.note(command, kind == "error")
            transitions.append(Transition(name, turn, command, text, kind, depth))
        replies = [machine.run(command).text for command in session.probes]
    for command, text in zip(session.probes, replies, strict=True):
        kind, depth = ledger.classify(command, text)
        transitions.append(Transition(name, len(steps), command, text, kind, depth, probe=True))
    return Episode(
        id=name, task_id=task.id, domain=task.domain, family=task.family, behaviour=session.behaviour,
        world=task.world, transitions=tuple(transitions),
        success=verdict(task.checks, dict(zip(session.probes, replies, strict=True))),
    )  # fmt: skip


def _plan(task: Task, others: Sequence[Task], rng: random.Random) -> Session:
    return terminal.plan(task, rng)


def _words(tasks: Sequence[Task]) -> tuple[str, ...]:
    """Also in capitals, often enough to be one token each."""
    return (*WORDS, *map(str.upper, WORDS))


TERMINAL_BEHAVIOURS = Behaviours(_plan, terminal.near_miss, Ledger, _words, record=record)
