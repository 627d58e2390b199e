"""The driver's memory and its next move: the ledger, what follows from it, and who is at work.

Owns: turning results into events and plans into units, one after another. Refuses: knowing what runs a unit (Ray
Tune does, in ``launch.sweep.tune``; a test's loop can).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from launch.sweep.config import Sweep, text_of
from launch.sweep.ledger import Assigned, Failed, Ledger, Lost, Opened, Proposed, Reached, Session, State, Unit
from launch.sweep.plan import due, may_propose, mean_at, spent, units
from launch.sweep.proposals import propose
from launch.sweep.unit import Outcome
from rollout.errors import ConfigError

# what decides proposals and fates; the rest (budget, resources, retries) may change between sessions
_DECIDES = ("seed", "seeds", "metric", "parameters", "asha", "sampler", "startup", "parallel")
_EXHAUSTED = "every combination of the parameters was tried"


class Control:
    """One session of a sweep."""

    def __init__(self, sweep: Sweep, ledger: Ledger, say: Callable[[str], None]) -> None:
        """Opens the ledger or goes on with it. Raises ConfigError where it holds another sweep."""
        self.sweep, self.ledger, self.say = sweep, ledger, say
        self.working: set[Unit] = set()
        self._exhausted = False
        decides = deciding(sweep)
        if self.state.decides is None:
            ledger.record(Opened(decides, uuid.uuid4().hex[:8]))
        else:
            _check_same(sweep, self.state.decides, decides)
        ledger.record(Session(self.state.sessions + 1))
        if self.state.sessions > 1:
            reached = sum(len(trial.reached) for trial in self.state.trials)
            say(f"session {self.state.sessions} goes on: {len(self.state.trials)} trials, {reached} units done")

    @property
    def state(self) -> State:
        return self.ledger.state

    def next_unit(self) -> Unit | None:
        """The next unit to run now, or None: wait for one under way, or, where none is (``over``), the end."""
        while True:
            self._settle()
            for unit in units(self.sweep.config, self.sweep.rungs, self.state):
                if unit not in self.working:
                    self.working.add(unit)
                    self.ledger.record(Assigned(unit, self.state.sessions))
                    return unit
            if not self._propose():
                return None

    @property
    def over(self) -> bool:
        """Nothing is under way and nothing is left to do. Ask after ``next_unit``."""
        return not self.working

    def done(self, unit: Unit, outcome: Outcome) -> None:
        """``unit`` came back."""
        self.working.discard(unit)
        found = outcome.measured
        if found is None or found.value is None:
            self.ledger.record(Failed(unit, outcome.error))
            self.say(f"{unit}: failed: {outcome.error}")
            return
        self.ledger.record(Reached(unit, found.value, found.coverage, found.tokens, outcome.seconds))
        self.say(f"{unit}: {found.value:.1%} in {outcome.seconds:.0f} s")

    def lost(self, unit: Unit, reason: str) -> None:
        """The process that had ``unit`` is gone: it is due again, or given up."""
        self.working.discard(unit)
        self.ledger.record(Lost(unit, reason))
        times = self.state.trials[unit.trial].lost[unit.seed, unit.until]
        self.say(f"{unit}: its process was lost: {reason}")
        if times > self.sweep.config.retries:
            why = f"its process was lost {times} times (retries {self.sweep.config.retries}); last: {reason}"
            self.ledger.record(Failed(unit, why))

    def reason(self) -> str:
        """Why the sweep is over."""
        if self._exhausted:
            return _EXHAUSTED
        return spent(self.sweep.config, self.state, self.ledger.elapsed) or ""

    def _settle(self) -> None:
        """Record every fate that is due."""
        while (ended := due(self.sweep.config, self.sweep.rungs, self.state)) is not None:
            self.ledger.record(ended)
            mean = mean_at(self.sweep.config, self.state.trials[ended.trial], ended.step)
            score = "" if mean is None else f", mean {mean:.1%}"
            self.say(f"trial {ended.trial}: {ended.fate} at step {ended.step}{score}")

    def _propose(self) -> bool:
        """Propose the next trial where it may be; a combination that cannot be is failed on the spot."""
        config, number = self.sweep.config, len(self.state.trials)
        if self._exhausted or not may_propose(config, self.state):
            return False
        if spent(config, self.state, self.ledger.elapsed) is not None:
            return False
        values = propose(config, self.state.trials)
        if values is None:
            self._exhausted = True
            return False
        self.ledger.record(Proposed(number, values))
        self.say(f"trial {number}: {text_of(config, values)}")
        for seed in config.seeds:
            try:
                self.sweep.experiment(values, number, seed)
            except ConfigError as error:
                self.ledger.record(Failed(Unit(number, seed, self.sweep.rungs[0]), str(error)))
        return True


def deciding(sweep: Sweep) -> dict[str, Any]:
    """What a continuation must not change, as JSON."""
    config = sweep.config.model_dump(mode="json", by_alias=True)
    return {
        **{key: config[key] for key in _DECIDES},
        "experiment": sweep.base.model_dump(mode="json", exclude={"run_dir"}),
    }


def _check_same(sweep: Sweep, before: Any, now: Any) -> None:
    key = _difference(before, now, "")
    if key is not None:
        raise ConfigError(
            f"{sweep.folder} holds a sweep with another '{key}': choose another sweep_dir, or restore the value"
        )


def _difference(before: Any, now: Any, key: str) -> str | None:
    """Dotted name of the first value that differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in [*before, *(name for name in now if name not in before)]:
            found = _difference(before.get(name), now.get(name), f"{key}.{name}".lstrip("."))
            if found is not None:
                return found
        return None
    return None if before == now else key
