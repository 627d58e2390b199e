"""Credit assignment: with whom the return of a trajectory, or of one of its turns, is compared.

Owns: ``Credit``, returns-to-go, peers and normalisation, and the refusal of losses that would not let credit reach
its tokens. Refuses: tokens and rows (``trainer.batch`` spreads what this file computes). Loads without torch.

An advantage is a return minus the mean return of its peers, over their deviation. Three levels say who they are:

    level       return                                   peers
    trajectory  the episode's reward                     the scorable members of the group
    turn        discounted rewards from this turn on     the turns of the group with the same index
    step        discounted rewards from this turn on     the turns of the group taken in the same world state

Every sampled token of turn k gets ``trajectory * A_trajectory + turn * A_turn(k) + step * A_step(k)``. A return
without a peer tells nothing: its advantage is 0. ``{trajectory: 1, step: w}`` is GiGPO (arXiv 2505.10978)
with omega = w; several visits of one state by one trajectory are peers too, as they are there.

Example, one group, discount 0.5, rewards at the end: member 0 earns 1 after 2 turns in states ``a b``, member 1 earns
0 after 2 turns in states ``a c``. Returns-to-go are ``0.5 1`` and ``0 0``. ``a`` was met twice, so before division
A_step is ``0.25 0`` and ``-0.25 0``; by turn index, A_turn is ``0.25 0.5`` and ``-0.25 -0.5``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import numpy as np

from rollout.errors import ConfigError
from rollout.types import Trajectory

if TYPE_CHECKING:
    import torch

STD_EPSILON = 1e-4  # GRPOTrainer's
Scale = Literal["group", "batch", "none"]
Term = Literal["trajectory", "turn", "step", "discount"]

NAMED: dict[str, dict[Term, float]] = {
    "trajectory": {"trajectory": 1.0},
    "turn": {"turn": 1.0, "discount": 0.95},
    "step": {"trajectory": 1.0, "step": 1.0, "discount": 0.95},
}


@dataclass(frozen=True, slots=True)
class Credit:
    """Weights of the levels, all >= 0; ``discount`` in (0, 1] per turn. The default is episode GRPO."""

    trajectory: float = 1.0
    turn: float = 0.0
    step: float = 0.0
    discount: float = 0.95

    @property
    def per_turn(self) -> bool:
        return self.turn > 0 or self.step > 0


def parse_credit(terms: Mapping[Term, float]) -> Credit:
    """``Credit`` from the weights that are named; the others are 0. Raises ``ValueError``, one line."""
    known = {field.name for field in fields(Credit)}
    unknown = sorted(set(terms) - known)
    if unknown:
        raise ValueError(f"{unknown[0]} is not one of {', '.join(field.name for field in fields(Credit))}")
    credit = Credit(**{"trajectory": 0.0, **terms})
    weights = (credit.trajectory, credit.turn, credit.step)
    if not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
        raise ValueError("the weights of trajectory, turn and step must be finite, at least 0, and not all 0")
    if not 0 < credit.discount <= 1:
        raise ValueError(f"discount is {credit.discount}, it must be above 0 and at most 1")
    if "discount" in terms and not credit.per_turn:
        raise ValueError("discount acts on the levels turn and step only: give one of them a weight, or leave it out")
    return credit


def check_credit(credit: Credit, loss_type: str, importance_sampling_level: str) -> None:
    """Raises ``ConfigError`` where the loss cannot take an advantage per token.

    With one ratio per sequence, its gradient is the mean over the sequence's tokens, whatever the advantage of each:
    credit would be spread evenly again. ``cispo`` and ``vespo`` detach their ratio and keep it apart.
    """
    if credit.per_turn and importance_sampling_level == "sequence" and loss_type not in ("cispo", "vespo"):
        raise ConfigError(
            f"trainer.credit per turn or step does not reach its tokens with trl.loss_type {loss_type} and"
            " trl.importance_sampling_level sequence: use level token, or credit trajectory"
        )


@dataclass(frozen=True, slots=True)
class Episode:
    """One scorable trajectory as credit sees it. ``anchors_K`` names the world state each action was taken in."""

    group: Hashable
    rewards_K: np.ndarray
    anchors_K: tuple[Hashable, ...] = ()


def episode(trajectory: Trajectory, credit: Credit) -> Episode:
    """The nouns carry one reward, earned at the end: every earlier turn's is 0.

    Raises ``ConfigError`` if the step level is asked for and the world did not name a state.
    """
    rewards = np.zeros(len(trajectory.turns))
    rewards[-1] = trajectory.score.reward
    if not credit.step:
        return Episode(trajectory.group, rewards)
    anchors = tuple(turn.observation.anchor for turn in trajectory.turns)
    if None in anchors:
        raise ConfigError(
            f"trainer.credit step needs worlds that name their states: world '{trajectory.world_id}' gave no anchor in"
            f" group {trajectory.group} member {trajectory.member} turn {anchors.index(None)}; use credit turn"
        )
    return Episode(trajectory.group, rewards, anchors)


def returns_to_go(rewards_K: np.ndarray, discount: float) -> np.ndarray:
    """(K,): ``G_k = r_k + discount * G_{k+1}``."""
    out = np.array(rewards_K, np.float64)
    for k in range(len(out) - 2, -1, -1):
        out[k] += discount * out[k + 1]
    return out


def group_advantages(rewards_NG: np.ndarray, scale: Scale = "group") -> tuple[np.ndarray, np.ndarray]:
    """Advantages and zero-variance flags, both (N, G), of rewards (N, G) with nan for unscorable or absent members.

    TRL's ``sum_then_normalize``, operation by operation in its fp32, so that both paths agree to the bit: mean and
    Bessel-corrected deviation (+ 1e-4) over the scorable members of each group; ``batch`` divides by the deviation
    over all groups, ``none`` by 1. Unscorable members, and groups with fewer than two scorable ones, get 0.
    """
    import torch

    rewards = torch.from_numpy(rewards_NG.astype(np.float32))
    std = _nanstd(rewards.flatten(), 0).expand_as(rewards) if scale == "batch" else _nanstd(rewards, 1)
    value = rewards - torch.nanmean(rewards, dim=1, keepdim=True)
    if scale != "none":
        value = value / (std + STD_EPSILON)
    value = torch.nan_to_num(value, nan=0.0)
    return value.numpy(), torch.isclose(std, torch.zeros_like(std)).expand_as(rewards).numpy()


def _nanstd(values: torch.Tensor, dim: int) -> torch.Tensor:
    """Bessel-corrected over the known values; nan where fewer than two are known."""
    import torch

    known = (~torch.isnan(values)).sum(dim=dim, keepdim=True)
    centred = values - torch.nanmean(values, dim=dim, keepdim=True)
    variance = torch.nanmean(centred**2, dim=dim, keepdim=True)
    bessel = torch.where(known > 1, known / (known - 1), torch.nan)
    return torch.sqrt(variance * bessel)


def against_peers(
    returns_M: np.ndarray, peers_M: Iterable[Hashable], scale: Scale = "group"
) -> tuple[np.ndarray, np.ndarray]:
    """Advantages (M,) and whether each had a peer (M,), of M returns; equal keys in ``peers_M`` are peers.

    ``group`` divides by the Bessel-corrected deviation (+ 1e-4) of the same peers, ``batch`` by that of all returns,
    ``none`` by 1.
    """
    numbers: dict[Hashable, int] = {}
    index = np.asarray([numbers.setdefault(key, len(numbers)) for key in peers_M], np.int64)
    size = np.bincount(index)
    centred = returns_M - (np.bincount(index, returns_M) / size)[index]
    value = centred
    if scale == "group":
        variance = np.bincount(index, centred**2) / np.maximum(size - 1, 1)
        value = centred / (np.sqrt(variance)[index] + STD_EPSILON)
    elif scale == "batch":
        value = centred / ((returns_M.std(ddof=1) if len(returns_M) > 1 else 0.0) + STD_EPSILON)
    compared = size[index] > 1
    return np.where(compared, value, 0.0), compared


def turn_advantages(
    episodes: Sequence[Episode], credit: Credit, scale: Scale = "group"
) -> tuple[list[np.ndarray], dict[str, float]]:
    """``turn * A_turn + step * A_step`` as one (K,) array per episode, and figures to log.

    The figures are the shares of turns that had a peer: where worlds never meet a state twice, ``credit/step_compared``
    is low and the step level adds little.
    """
    if not episodes:
        return [], {}
    lengths = [len(one.rewards_K) for one in episodes]
    returns = np.concatenate([returns_to_go(one.rewards_K, credit.discount) for one in episodes])
    total, figures = np.zeros(len(returns)), {}
    if credit.turn:
        peers: list[Hashable] = [(one.group, k) for one in episodes for k in range(len(one.rewards_K))]
        value, compared = against_peers(returns, peers, scale)
        total, figures["credit/turn_compared"] = total + credit.turn * value, float(compared.mean())
    if credit.step:
        peers = [(one.group, anchor) for one in episodes for anchor in one.anchors_K]
        value, compared = against_peers(returns, peers, scale)
        total, figures["credit/step_compared"] = total + credit.step * value, float(compared.mean())
    return np.split(total, np.cumsum(lengths)[:-1]), figures
