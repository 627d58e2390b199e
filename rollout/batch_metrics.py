"""What a batch of groups looks like, in numbers.

Owns: the names and definitions of metrics that follow from trajectories alone. Refuses: state, logging.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rollout.types import Group, ObservationKind, Stop, Trajectory


def batch_metrics(groups: Sequence[Group], seconds: float) -> dict[str, float]:
    """``rollout/*`` about the policy, ``world/*`` about the world, ``perf/*`` about time.

    ``seconds``: from the publication of the weights to the complete batch; ``perf/generated_tok_s`` divides by it.
    Means over episodes leave out nothing; ``rollout/reward_mean`` is over scorable ones and absent without any.
    """
    members = [member for group in groups for member in group.members]
    turns = [turn for member in members for turn in member.turns]
    rewards_G = [_rewards(group.members) for group in groups]
    rewards = [reward for row in rewards_G for reward in row]
    kinds = [turn.observation.kind for turn in turns]
    tokens = sum(len(turn.completion.ids) for turn in turns)
    found = {
        "rollout/scorable_frac": len(rewards) / len(members),
        "rollout/zero_variance_frac": sum(len(set(row)) < 2 for row in rewards_G) / len(groups),
        "rollout/turns_mean": len(turns) / len(members),
        "rollout/generated_tokens": float(tokens),
        "rollout/completion_tokens_mean": tokens / max(1, len(turns)),
        "rollout/invalid_action_frac": _share(kind is ObservationKind.INVALID_ACTION for kind in kinds),
        "world/truncated_frac": _share(turn.observation.truncated for turn in turns),
        "world/step_s_mean": _timing(members, "step") / max(1, len(turns)),
        "world/verify_s_mean": _timing(members, "verify") / len(members),
        "perf/sample_s_mean": _timing(members, "sample") / max(1, len(turns)),
        "perf/rollout_s": seconds,
        "perf/generated_tok_s": tokens / max(seconds, 1e-9),
    }
    if rewards:
        found["rollout/reward_mean"] = sum(rewards) / len(rewards)
    stops = [member.stop for member in members]
    return found | {f"rollout/stop/{stop.value}": float(stops.count(stop)) for stop in Stop}


def _rewards(members: Sequence[Trajectory]) -> list[float]:
    return [member.score.reward for member in members if member.score.reward is not None]


def _share(flags: Iterable[bool]) -> float:
    values = list(flags)
    return sum(values) / max(1, len(values))


def _timing(members: Sequence[Trajectory], name: str) -> float:
    return sum(member.timings.get(name, 0.0) for member in members)
