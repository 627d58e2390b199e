"""How trace collection behaves in a domain: which sessions are run, and what kind of step each action was.

Owns: the seam (``Behaviours``, as the optional ``behaviours`` of a ``DomainKit``), and the behaviours of a domain that
offers none of its own, made from its grammar, its tasks and what saying nothing is (``default``).
Refuses: running sessions (``worldmodel.traces``), knowing any domain.

A session is a list of actions that may change the world, then read-only probes of its final state. A world model learns
most from what goes wrong: of the default sessions about a quarter of the actions are mistakes, and well over 40 % fail.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rollout.reward.checks import holds
from rollout.types import Action, Check, Task, World
from worldmodel.types import Domain, Episode, Span, refusal

MIX = {"gold": 0.16, "noisy": 0.28, "wrong": 0.18, "explore": 0.3, "empty": 0.08}
MISTAKES = 0.5  # of exploring actions; with those of noisy sessions about a quarter of all
TRIES = 12  # draws of an action that the grammar takes
FINAL_CLASS = "final"  # of a final action that says something: probes may ask about it, nobody predicts its reply
_ERROR = re.compile(
    r"(?i)^\W*(?:[\w.]+ )?(?:\w*error|\w*exception|traceback|failed|failure|cannot|could not|unable|invalid|unknown|"
    r"no such|not found|refused|denied|forbidden)(?=[:,!]?\s+\S|:)"
    r"|\"is_?error\"\s*:\s*true|: (?:no such file|not found|command not found|permission denied|cannot )"
)


@dataclass(frozen=True, slots=True)
class Session:
    """One planned episode: ``steps`` as a policy would say them, a final action among them or not."""

    behaviour: str
    steps: tuple[str, ...]
    probes: tuple[str, ...]


class Ledger(Protocol):
    """Follows one session."""

    def classify(self, action: str, observation: str) -> tuple[str, int]:
        """(class, depth) of a step, before its own effect is noted; depth = state-changing steps it depends on."""
        ...

    def note(self, action: str, failed: bool) -> None:
        """The step was taken; ``failed``: its class was ``error``."""
        ...


def nothing_open(world: World, action: str, observation: str) -> Sequence[Span]:
    return ()


@dataclass(frozen=True, slots=True)
class Behaviours:
    """What trace collection asks of a domain; ``dataclasses.replace`` on ``default`` changes single parts.

    ``plan(task, others, rng)``: a session for ``task``; ``others`` are tasks of the same split to borrow from.
    ``slip(task, rng)``: a near miss of the gold solution. ``ledger(task)``: names the steps of one session.
    ``words(tasks)``: texts that a tokenizer should know whole. ``open(world, action, observation)``: the spans of an
    observation that the simulator cannot know from spec and history, so that it is neither trained on nor measured by
    them. ``record``: a faster way to record a session, with the same result as in the real environment.
    """

    plan: Callable[[Task, Sequence[Task], random.Random], Session]
    slip: Callable[[Task, random.Random], tuple[str, ...]]
    ledger: Callable[[Task], Ledger]
    words: Callable[[Sequence[Task]], Iterable[str]]
    open: Callable[[World, str, str], Sequence[Span]] = nothing_open
    record: Callable[[Task, Session], Episode] | None = None


def default(domain: Domain, empty: Sequence[str]) -> Behaviours:
    """Behaviours of ``domain`` from its grammar, its tasks' solutions and ``empty``, what a policy that does nothing
    says."""
    usual = _Default(domain, tuple(empty))
    return Behaviours(usual.plan, usual.slip, lambda task: CountingLedger(domain), usual.words)


def verdict(checks: Sequence[Check], replies: Mapping[str, str]) -> bool | None:
    """Whether every check holds on the reply to each of its probes; None where a probe was not run."""
    if any(probe not in replies for check in checks for probe in check.probes):
        return None
    return all(holds(check.predicate, replies[probe]) for check in checks for probe in check.probes)


def is_error(observation: str) -> bool:
    """Whether a reply begins like a complaint."""
    return _ERROR.search(observation[:300]) is not None


@dataclass(slots=True)
class CountingLedger:
    """Classes: ``silent``, ``error``, else the action's name. Depth: the earlier steps of the session that were no
    errors, an upper bound where nothing says which of them changed the state."""

    domain: Domain
    steps: int = 0

    def classify(self, action: str, observation: str) -> tuple[str, int]:
        if not observation.strip():
            return "silent", self.steps
        if is_error(observation):
            return "error", self.steps
        return self.domain.parse(action).name or "other", self.steps

    def note(self, action: str, failed: bool) -> None:
        self.steps += not failed


@dataclass(frozen=True, slots=True)
class _Default:
    domain: Domain
    empty: tuple[str, ...]

    def plan(self, task: Task, others: Sequence[Task], rng: random.Random) -> Session:
        behaviour = rng.choices(list(MIX), list(MIX.values()))[0]
        if behaviour == "gold":
            steps = task.reference.gold
        elif behaviour == "wrong":
            steps = rng.choice(task.reference.wrong or (self.slip(task, rng),))
        elif behaviour == "noisy":
            steps = self.noisy(task, others, rng)
        elif behaviour == "explore":
            steps = self.explore(task, others, rng)
        else:
            steps = self.empty
        return Session(behaviour, steps, self.probes(task, others, rng))

    def noisy(self, task: Task, others: Sequence[Task], rng: random.Random) -> tuple[str, ...]:
        """Gold with one to three accidents before its last action: something done in between, twice, not, or wrong."""
        steps = list(task.reference.gold[:-1])
        for _ in range(rng.randint(1, 3)):
            room = len(steps) + 1 < task.max_turns
            kind = rng.choice(("insert", "insert", "mangle", "mangle", "repeat", "drop"))
            if not steps or kind == "insert":
                if room:
                    steps.insert(rng.randint(0, len(steps)), self.foreign(task, others, rng))
                continue
            at = rng.randrange(len(steps))
            if kind == "mangle":
                steps[at] = self.mangled(steps[at], rng) or steps[at]
            elif kind == "drop":
                del steps[at]
            elif room:
                steps.insert(at, steps[at])
        return (*steps, task.reference.gold[-1])

    def explore(self, task: Task, others: Sequence[Task], rng: random.Random) -> tuple[str, ...]:
        """Actions out of place, mistakes among them, and an ending of a wrong solution."""
        steps = []
        for _ in range(min(rng.randint(3, 7), max(1, task.max_turns - 1))):
            text = self.foreign(task, others, rng) if rng.random() < 0.6 else self.borrowed(task, rng)
            steps.append((self.mangled(text, rng) or text) if rng.random() < MISTAKES else text)
        ending = rng.choice(task.reference.wrong or (self.empty,))
        return (*steps, ending[-1])

    def foreign(self, task: Task, others: Sequence[Task], rng: random.Random) -> str:
        """An action of another task's solutions."""
        return self.borrowed(rng.choice(list(others) or [task]), rng)

    def borrowed(self, task: Task, rng: random.Random) -> str:
        """An action of one of the solutions of ``task`` that does not end the episode, where there is one."""
        for _ in range(TRIES):
            text = rng.choice(rng.choice((task.reference.gold, *(w for w in task.reference.wrong if w))))
            if _ordinary(self.domain.parse(text)):
                return text
        return task.reference.gold[0]

    def mangled(self, text: str, rng: random.Random) -> str | None:
        """``text`` with another number or a slip in a word, still the same kind of action. None: no such slip found."""
        kind = self.domain.parse(text)
        for _ in range(TRIES):
            changed = typo(text, rng)
            action = self.domain.parse(changed)
            same = (action.name, action.final, action.probe) == (kind.name, kind.final, kind.probe)
            if same and action.error is None and self.domain.show(action) != self.domain.show(kind):
                return changed
        return None

    def slip(self, task: Task, rng: random.Random) -> tuple[str, ...]:
        gold = list(task.reference.gold)
        certain = rng.randrange(len(gold))
        steps = [(self.mangled(t, rng) or t) if i == certain or rng.random() < 0.5 else t for i, t in enumerate(gold)]
        if steps == gold and len(gold) > 1:
            del steps[rng.randrange(len(steps) - 1)]
        return tuple(steps)

    def probes(self, task: Task, others: Sequence[Task], rng: random.Random) -> tuple[str, ...]:
        """Those of the task's checks, and up to two of other tasks', whose answers nobody expects."""
        own = [probe for check in task.checks for probe in check.probes]
        for other in rng.sample(list(others), min(len(others), rng.randint(0, 2))):
            own.append(rng.choice([probe for check in other.checks for probe in check.probes]))
        return tuple(dict.fromkeys(own))

    def words(self, tasks: Sequence[Task]) -> list[str]:
        """The words of what is said in every episode: the policy's opening and the simulator's constant parts."""
        texts: list[str] = []
        for task in tasks[:1]:
            spec = self.domain.spec(task.world)
            texts += [spec.task_description, spec.action_space, spec.demonstrations, spec.simulation_instruction]
            texts += [message.content for message in self.domain.prompt(task).messages if message.role == "system"]
        return sorted({word for text in texts for word in re.findall(r"[A-Za-z]{2,}", text)})


def _ordinary(action: Action) -> bool:
    return refusal(action) is None and not action.final


def typo(text: str, rng: random.Random) -> str:
    """``text`` with one whole number replaced, or one letter of a word swapped, lost, doubled or replaced."""
    found = list(re.finditer(r"\d+|[^\W\d_]{2,}", text))
    if not found:
        return text
    at = rng.choice(found)
    word, i = at.group(), rng.randrange(max(1, len(at.group()) - 1))
    if word.isdigit():
        new = str(rng.randint(0, min(2 * int(word[:9]) + 3, 10**9)))
    else:
        new = rng.choice((
            word[:i] + word[i + 1] + word[i] + word[i + 2 :], word[:i] + word[i + 1 :],
            word[: i + 1] + word[i:], word[:i] + rng.choice("aeiorstn") + word[i + 1 :],
        ))  # fmt: skip
    return f"{text[: at.start()]}{new}{text[at.end() :]}"
