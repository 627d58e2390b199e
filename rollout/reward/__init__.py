"""From check results to a score.

Owns: the rule that an unscorable episode has no reward, and the parts shown beside a reward.
Refuses: what a reward means; see the modules beside this one.
"""

from __future__ import annotations

from collections.abc import Sequence

from rollout.errors import AgentworldError
from rollout.protocols import Reward
from rollout.types import CheckResult, Score, Trajectory


async def score(trajectory: Trajectory, results: Sequence[CheckResult], reward: Reward) -> Score:
    """The score of a finished ``trajectory``; ``reward`` is asked only where the episode can be scored.

    ``parts`` holds 1.0, 0.0 or None per check. A fault of the reward itself (a judge that is down) scores None.
    """
    parts = {result.name: None if result.passed is None else float(result.passed) for result in results}
    if trajectory.stop.failed:
        return Score(None, parts, f"{trajectory.stop.value}: {trajectory.error or 'no reason given'}")
    if not trajectory.turns:
        return Score(None, parts, trajectory.error or "no turn was taken")
    try:
        value = await reward(trajectory, results)
    except AgentworldError as error:
        return Score(None, parts, f"reward: {error}")
    if value is None:
        undecided = [f"{r.name}: {r.reason or 'no verdict'}" for r in results if r.passed is None]
        return Score(None, parts, "; ".join(undecided) or "the reward gave no verdict")
    return Score(float(value), parts)
