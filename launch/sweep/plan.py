"""What a sweep does next: a pure function of its ledger, so that neither timing nor a crash can change the answer.

Owns: fates (asynchronous successive halving), which trial may be proposed, which units are due, when it is over.
Refuses: files, Ray, clocks, and proposing values (``launch.sweep.proposals``).

Asynchronous search normally depends on who happened to finish first. Here trial n knows exactly the trials
0 .. n - parallel, all of which have their fate before n is proposed: for its proposal and for its comparisons alike.
A smaller ``parallel`` knows more; a larger one keeps more machines busy. Results that arrive in another order, or
again after a crash, lead to the same trials with the same fates.
"""

from __future__ import annotations

from collections.abc import Sequence

from launch.sweep.config import SweepConfig
from launch.sweep.ledger import Ended, State, Trial, Unit


def known(config: SweepConfig, trials: Sequence[Trial], number: int) -> tuple[Trial, ...]:
    """The trials that trial ``number`` knows."""
    return tuple(trials[: max(0, number - config.parallel + 1)])


def mean_at(config: SweepConfig, trial: Trial, step: int) -> float | None:
    """Mean of the metric over all seeds at ``step``; None unless every seed got there."""
    values = [trial.reached[seed, step].value for seed in config.seeds if (seed, step) in trial.reached]
    return sum(values) / len(values) if len(values) == len(config.seeds) else None


def due(config: SweepConfig, rungs: Sequence[int], state: State) -> Ended | None:
    """A fate that follows from what is known and is not yet recorded."""
    for trial in state.trials:
        if trial.fate is None:
            ended = _fate(config, rungs, state, trial)
            if ended is not None:
                return ended
    return None


def _fate(config: SweepConfig, rungs: Sequence[int], state: State, trial: Trial) -> Ended | None:
    peers = known(config, state.trials, trial.number)
    for step in rungs:
        keys = [(seed, step) for seed in config.seeds]
        if not all(key in trial.reached or key in trial.failed for key in keys):
            return None
        if any(key in trial.failed for key in keys):
            return Ended(trial.number, "failed", step)
        if step == rungs[-1]:
            return Ended(trial.number, "finished", step)
        if not goes_on(config, trial, step, peers):
            return Ended(trial.number, "pruned", step)
    return None


def goes_on(config: SweepConfig, trial: Trial, step: int, peers: Sequence[Trial]) -> bool:
    """Whether ``trial`` is among the best 1/factor of those seen at ``step``, itself included; at least one always is.
    Equals go on."""
    own = mean_at(config, trial, step)
    assert own is not None and config.asha is not None
    others = [value for peer in peers if (value := mean_at(config, peer, step)) is not None]
    room = max(1, (len(others) + 1) // config.asha.factor)
    return sum(value > own for value in others) < room


def units(config: SweepConfig, rungs: Sequence[int], state: State) -> list[Unit]:
    """What is to be run now, trial by trial; fates that are due come first. Units under way are among them."""
    found: list[Unit] = []
    for trial in state.trials:
        if trial.fate is not None:
            continue
        for step in rungs:
            keys = [(seed, step) for seed in config.seeds]
            open_ = [key for key in keys if key not in trial.reached and key not in trial.failed]
            if open_:
                found += [Unit(trial.number, seed, step) for seed, _ in open_]
                break
    return found


def may_propose(config: SweepConfig, state: State) -> bool:
    """Whether everything that the next trial knows has its fate."""
    return all(trial.fate is not None for trial in known(config, state.trials, len(state.trials)))


def spent(config: SweepConfig, state: State, elapsed: float) -> str | None:
    """Why no further trial is proposed, where one could be; judged by what that trial would know, so that the
    answer is the same whenever it is asked. Only ``budget.hours`` (``elapsed`` in seconds) looks at a clock."""
    budget, past = config.budget, known(config, state.trials, len(state.trials))
    if too_many_failed(config, past):
        return f"more than max_failed {config.max_failed} trials failed"
    if budget.trials is not None and len(state.trials) >= budget.trials:
        return f"budget.trials {budget.trials}"
    if budget.tokens is not None and sum(tokens(trial) for trial in past) >= budget.tokens:
        return f"budget.tokens {budget.tokens:,}"
    if budget.hours is not None and elapsed >= budget.hours * 3600:
        return f"budget.hours {budget.hours:g}"
    return None


def too_many_failed(config: SweepConfig, trials: Sequence[Trial]) -> bool:
    return sum(trial.fate == "failed" for trial in trials) > config.max_failed


def tokens(trial: Trial) -> int:
    """Tokens that the trial's runs were trained on, as far as they were measured."""
    most: dict[int, int] = {}
    for (seed, _), reached in trial.reached.items():
        most[seed] = max(most.get(seed, 0), reached.tokens)
    return sum(most.values())
