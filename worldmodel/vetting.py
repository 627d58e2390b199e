"""Which tasks and families a simulator may be used for, and how far its verdicts can be trusted.

Owns: decisions on recorded verdicts alone: booleans in, numbers and named reasons out.
Refuses: running anything (the pool replays gold, wrong and empty solutions and hands in the outcomes).

A simulated success is an estimate. Per task, gold must pass and wrong and empty must fail in the simulator too;
per family, the share of truly failed endings that the simulator calls a success must stay within a limit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

NO_TASK = "no task passes its own gold, wrong and empty replays"

Behaviour = Literal["gold", "wrong", "empty", "policy"]


@dataclass(frozen=True, slots=True)
class Ending:
    """One ending of a task with its true verdict and the simulator's (None: it reached none). ``supported``: what the
    world says for the policy's own answer, where the task asks for one, the simulator says too."""

    task_id: str
    family: str
    behaviour: Behaviour
    real: bool
    simulated: bool | None
    supported: bool = True


@dataclass(frozen=True, slots=True)
class VerdictQuality:
    """Agreement of simulated with real verdicts. Rates are over endings with a simulated verdict and None where
    there is no such ending; ``coverage`` is the share of endings that have one."""

    n: int
    n_real_success: int
    n_real_failure: int
    coverage: float
    false_positive_rate: float | None
    false_negative_rate: float | None
    balanced_accuracy: float | None


@dataclass(frozen=True, slots=True)
class Vetting:
    """``usable`` task ids; ``rejected`` task id -> reason; ``left_out`` family -> reason; quality per family."""

    usable: tuple[str, ...]
    rejected: Mapping[str, str]
    left_out: Mapping[str, str]
    families: Mapping[str, VerdictQuality]
    overall: VerdictQuality

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def verdict_quality(endings: Iterable[Ending]) -> VerdictQuality:
    """Confusion of simulated against real verdicts over ``endings``."""
    every = list(endings)
    judged = [e for e in every if e.simulated is not None]
    failures = [e for e in judged if not e.real]
    successes = [e for e in judged if e.real]
    false_positive = _share(sum(e.simulated is True for e in failures), len(failures))
    false_negative = _share(sum(e.simulated is False for e in successes), len(successes))
    balanced = None
    if false_positive is not None and false_negative is not None:
        balanced = 1.0 - (false_positive + false_negative) / 2
    return VerdictQuality(
        n=len(every),
        n_real_success=sum(e.real for e in every),
        n_real_failure=sum(not e.real for e in every),
        coverage=len(judged) / len(every) if every else 0.0,
        false_positive_rate=false_positive,
        false_negative_rate=false_negative,
        balanced_accuracy=balanced,
    )


def reject_reason(endings: Sequence[Ending]) -> str:
    """Why one task may not be used in the simulator, or ''. Gold must pass, wrong and empty must fail, in the
    simulator as in reality; each of gold and (wrong or empty) must have been tried. An answer is judged by what the
    policy said, so gold would pass whatever the simulator shows: it must show what the answer rests on."""
    if not any(e.behaviour == "gold" for e in endings):
        return "gold was not replayed"
    for ending in endings:
        if ending.behaviour == "policy":
            continue
        expected = ending.behaviour == "gold"
        if ending.real != expected:
            return f"{ending.behaviour} {_verb(ending.real)} in reality"
        if ending.simulated is None:
            return f"{ending.behaviour} has no simulated verdict"
        if expected and not ending.supported:
            return "the simulator does not show what gold's answer rests on"
        if ending.simulated != expected:
            return f"{ending.behaviour} {_verb(ending.simulated)} in the simulator"
    if not any(e.behaviour in ("wrong", "empty") for e in endings):
        return "neither wrong nor empty was replayed"
    return ""


def vet(endings: Iterable[Ending], max_false_positive: float = 0.15) -> Vetting:
    """Choose the tasks for training in the simulator. A family leaves whole when its false-positive rate is above
    ``max_false_positive``, cannot be measured, or when none of its tasks is usable; it is named with the reason."""
    every = list(endings)
    families, tasks = _group(every, lambda e: e.family), _group(every, lambda e: e.task_id)
    reasons = {task: reject_reason(group) for task, group in tasks.items()}
    quality = {family: verdict_quality(group) for family, group in sorted(families.items())}
    left_out: dict[str, str] = {}
    for family, measured in quality.items():
        rate = measured.false_positive_rate
        if rate is None:
            left_out[family] = "no failed ending has a simulated verdict"
        elif rate > max_false_positive:
            left_out[family] = f"false-positive rate {rate:.0%} is above {max_false_positive:.0%}"
        elif all(reasons[e.task_id] for e in families[family]):
            left_out[family] = NO_TASK
    rejected = {task: reason for task, reason in reasons.items() if reason}
    for task, group in tasks.items():
        if task not in rejected and group[0].family in left_out:
            rejected[task] = f"family {group[0].family}: {left_out[group[0].family]}"
    usable = tuple(task for task in tasks if task not in rejected)
    return Vetting(usable, rejected, left_out, quality, verdict_quality(every))


def alarm(pairs: Iterable[tuple[bool | None, bool]], limit: float = 0.2, minimum: int = 20) -> str:
    """The run-time guard: (simulated, real) verdicts of training trajectories replayed in reality. Returns the
    reason to stop, or ''. Silent until ``minimum`` truly failed trajectories with a verdict have been seen."""
    failed = [simulated for simulated, real in pairs if simulated is not None and not real]
    wrong = sum(failed)
    if len(failed) < minimum or wrong <= limit * len(failed):
        return ""
    return (
        f"the simulator calls {wrong} of {len(failed)} truly failed trajectories a success ({wrong / len(failed):.0%}, "
        f"limit {limit:.0%}): the policy exploits it"
    )


def _group(endings: Sequence[Ending], key: Any) -> dict[str, list[Ending]]:
    groups: dict[str, list[Ending]] = defaultdict(list)
    for ending in endings:
        groups[key(ending)].append(ending)
    return dict(groups)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _verb(passed: bool) -> str:
    return "passes" if passed else "fails"
