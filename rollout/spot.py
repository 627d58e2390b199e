"""Replaying actions in another world, and what that says about simulated verdicts (decision 8).

Owns: one replay of recorded action texts with its verdict, and the spot check's window and limit.
Refuses: the policy (no sampler takes part) and scheduling.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollout.errors import WorldFault
from rollout.protocols import Environment
from rollout.types import CheckResult, Observation, ObservationKind, Task

_CLOSE_SECONDS = 10.0


async def replay_actions(
    environment: Environment, task: Task, actions: Sequence[str], deadline: float
) -> tuple[tuple[CheckResult, ...], list[Observation]]:
    """Act out ``actions`` from the start of ``environment``, probe ``task.checks``, close it.

    Stops early where the world or the action grammar says the episode is over. Returns (one result per check, one
    observation per action taken).

    Args:
        deadline: absolute, on the clock of ``time.monotonic``.

    Raises:
        WorldFault: the world failed, or missed the deadline; the message names the step.
    """
    observations: list[Observation] = []
    where = "start"
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            await environment.start()
            for text in actions:
                where = f"step {len(observations)}"
                action = environment.parse(text)
                observation = await environment.step(action)
                observations.append(observation)
                if observation.kind is ObservationKind.WORLD_ERROR:
                    raise WorldFault(f"replay of {task.id}, {where}: {observation.error or 'no reason given'}")
                if action.final or observation.done:
                    break
            where = "verify"
            results = tuple(await environment.verify(task.checks))
    except TimeoutError as error:
        raise WorldFault(f"replay of {task.id} reached its deadline in {where}") from error
    finally:
        await _close(environment)
    return results, observations


async def _close(environment: Environment) -> None:
    """A world that does not close in time is left behind: its verdict is already known."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await environment.close()
    except (TimeoutError, WorldFault):
        return


def success(results: Sequence[CheckResult]) -> bool | None:
    """Whether all checks passed; None where there is none, or one that is not known to fail has no verdict."""
    passed = [result.passed for result in results]
    if not passed or (None in passed and False not in passed):
        return None
    return all(passed)


def at_least(count: int, total: int, rate: float) -> float:
    """Chance of ``count`` or more among ``total`` independent draws of chance ``rate`` (exact binomial tail)."""
    return sum(math.comb(total, k) * rate**k * (1 - rate) ** (total - k) for k in range(count, total + 1))


@dataclass(frozen=True, slots=True)
class SpotSettings:
    """``share`` of simulated trajectories replayed in world ``env``. ``limit``: the highest tolerated share of
    simulated successes that fail there, among the last ``window``, once ``minimum`` were seen. It counts as exceeded
    where so many failures had a chance below ``doubt`` if the share were at the limit: five of twenty are no proof."""

    share: float = 0.05
    limit: float = 0.20
    minimum: int = 20
    window: int = 200
    doubt: float = 0.05
    env: str = "real"


class SpotCheck:
    """Counts paired verdicts.

    The gate is on P(real failure | simulated success), the share of paid rewards that were not earned. The classical
    rate P(simulated success | real failure) is no gate for a policy that improves: it grows as real failures get
    rare, however honest the simulator is.
    """

    def __init__(self, settings: SpotSettings) -> None:
        self.settings = settings
        self.faults = 0
        self._pairs: list[tuple[bool, bool]] = []  # (simulated, real), newest last

    def add(self, simulated: bool | None, real: bool | None) -> None:
        """One pair of verdicts; a pair with an unknown one is left out."""
        if simulated is not None and real is not None:
            self._pairs = [*self._pairs, (simulated, real)][-self.settings.window * 4 :]

    @property
    def successes(self) -> list[bool]:
        """Real verdicts of the last ``window`` simulated successes."""
        return [real for simulated, real in self._pairs if simulated][-self.settings.window :]

    @property
    def false_positive(self) -> float | None:
        """Share of simulated successes that really failed; None before the first."""
        real = self.successes
        return real.count(False) / len(real) if real else None

    def over_limit(self) -> str | None:
        """Why the run must stop, or None."""
        real, rate = self.successes, self.false_positive
        if rate is None or len(real) < self.settings.minimum or rate <= self.settings.limit:
            return None
        if at_least(real.count(False), len(real), self.settings.limit) >= self.settings.doubt:
            return None
        return (
            f"the simulator pays for failures: {real.count(False)} of the last {len(real)} simulated successes failed "
            f"when replayed in the {self.settings.env} world ({rate:.0%}, limit {self.settings.limit:.0%}, "
            "rollout.spot_limit); drop the families that report.html names, or improve the world model"
        )

    def metrics(self) -> dict[str, float]:
        """Counts always; rates where there is something to divide by."""
        found = {"world/spot_replays": float(len(self._pairs)), "world/spot_faults": float(self.faults)}
        if self._pairs:
            agree = sum(simulated == real for simulated, real in self._pairs)
            found["world/spot_agreement"] = agree / len(self._pairs)
        if self.false_positive is not None:
            found["world/spot_false_positive"] = self.false_positive
        return found

    def snapshot(self) -> dict[str, Any]:
        return {"faults": self.faults, "pairs": [list(pair) for pair in self._pairs]}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.faults = state["faults"]
        self._pairs = [(bool(simulated), bool(real)) for simulated, real in state["pairs"]]
