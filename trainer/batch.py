"""Finished groups -> training rows -> one padded rectangle of numpy columns (crossing 2: tokens -> tensors).

Owns: segments, boundary checks, advantages in their places (``trainer.credit`` says how large they are), padding rows
and what keeps them neutral, the slice of one rank. Refuses, with ``BatchRefused``: anything that is not a complete,
scorable, finite, in-lineage row of the agreed size. Loads without torch; ``trainer.grpo`` wraps the columns.

Example: prompt ``[1 2 3]``, completion ``[7 8]``, observation ``[4 5]``, completion ``[9]`` becomes
``prompt_ids = 1 2 3``, ``completion_ids = 7 8 4 5 9``, ``mask = 1 1 0 0 1``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rollout.errors import AgentworldError
from rollout.types import Batch, Group, Trajectory, Version
from trainer.credit import Credit, Scale, episode, group_advantages, turn_advantages

ROW_MEAN_LOSSES = frozenset({"grpo", "sapo", "dr_grpo", "luspo"})  # divide by the number of rows
TOKEN_MEAN_LOSSES = frozenset({"dapo", "cispo", "vespo"})  # divide by the number of trained tokens


class BatchRefused(AgentworldError):
    """A batch broke the contract between rollouts and trainer; the message names step, group and member."""


@dataclass(frozen=True, slots=True)
class Row:
    """One training sequence. All ``_T`` fields have the completion's length T >= 1.

    ``mask`` 1 = sampled by the policy; ``versions`` is None exactly where ``mask`` is 0; ``logprobs`` (None: not
    reported) are 0.0 there, and ``turns``, the index of the turn a token belongs to, is -1. ``advantages_T`` (None:
    ``advantage`` holds for every token) is 0.0 there. ``keep`` False hides the whole completion from attention and
    loss (padding rows, masked truncated completions).
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    mask: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    versions: tuple[Version | None, ...]
    turns: tuple[int, ...]
    name: str
    advantage: float = 0.0
    advantages_T: tuple[float, ...] | None = None
    keep: bool = True
    padding: bool = False

    @property
    def trained_tokens(self) -> int:
        return sum(self.mask) if self.keep else 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What the trainer can take. Lengths in tokens, ``rows`` per generation batch over all ranks."""

    rows: int
    group_size: int
    max_row_length: int
    max_completion_length: int
    temperature: float
    vocab_size: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The global rectangle of one generation batch, the same on every rank."""

    rows: tuple[Row, ...]
    rewards: np.ndarray  # [trajectories], nan = unscorable
    advantages: np.ndarray  # [trajectories], before any scale correction; per turn credit: mean over its tokens
    zero_std: np.ndarray  # [trajectories] bool
    trajectories: tuple[Trajectory, ...]
    row_scale: float
    figures: Mapping[str, float] = field(default_factory=dict)  # of credit assignment

    @property
    def num_items(self) -> int:
        """Trained tokens of the generation batch: TRL's ``num_items_in_batch``."""
        return sum(row.trained_tokens for row in self.rows)

    @property
    def padding(self) -> int:
        return sum(row.padding for row in self.rows)

    def local(self, rank: int, world: int) -> tuple[Row, ...]:
        """The contiguous slice of one rank."""
        share = len(self.rows) // world
        return self.rows[rank * share : (rank + 1) * share]


def segments(trajectory: Trajectory) -> tuple[Row, ...]:
    """Training rows of one trajectory. Context is append-only, so an episode is one segment."""
    where = f"group {trajectory.group} member {trajectory.member}"
    if not trajectory.turns:
        raise BatchRefused(f"{where}: scored but has no turn")
    ids: list[int] = []
    mask: list[int] = []
    logprobs: list[float] = []
    versions: list[Version | None] = []
    turns: list[int] = []
    reported = all(turn.completion.logprobs for turn in trajectory.turns)
    for k, turn in enumerate(trajectory.turns):
        done = turn.completion
        if not done.ids:
            raise BatchRefused(f"{where} turn {k}: empty completion")
        if len(done.versions) != len(done.ids) or (reported and len(done.logprobs) != len(done.ids)):
            raise BatchRefused(
                f"{where} turn {k}: {len(done.ids)} ids, {len(done.logprobs)} logprobs, {len(done.versions)} versions"
            )
        context = turn.context_ids if k else ()
        ids += [*context, *done.ids]
        mask += [0] * len(context) + [1] * len(done.ids)
        logprobs += [0.0] * len(context) + list(done.logprobs)
        versions += [*([None] * len(context)), *done.versions]
        turns += [-1] * len(context) + [k] * len(done.ids)
    row = Row(
        prompt_ids=trajectory.turns[0].context_ids,
        completion_ids=tuple(ids),
        mask=tuple(mask),
        logprobs=tuple(logprobs) if reported else None,
        versions=tuple(versions),
        turns=tuple(turns),
        name=where,
    )
    return (row,)


def check_row(row: Row, limits: Limits, current: Version, resumed_at: int) -> None:
    """Refuse a row whose parts disagree, or whose tokens come from weights outside the run's lineage."""
    length = len(row.completion_ids)
    if not row.prompt_ids:
        raise BatchRefused(f"{row.name}: empty prompt")
    if length == 0:
        raise BatchRefused(f"{row.name}: empty completion")
    logprobs = length if row.logprobs is None else len(row.logprobs)
    lengths = (length, len(row.mask), len(row.versions), logprobs, len(row.turns))
    if len(set(lengths)) != 1:
        raise BatchRefused(f"{row.name}: lengths differ (ids, mask, versions, logprobs, turns) = {lengths}")
    if any(m not in (0, 1) for m in row.mask):
        raise BatchRefused(f"{row.name}: mask holds values outside {{0, 1}}")
    if row.mask[-1] != 1:
        raise BatchRefused(f"{row.name}: does not end on a sampled token")
    for t, (flag, version) in enumerate(zip(row.mask, row.versions, strict=True)):
        if (flag == 1) != (version is not None):
            raise BatchRefused(f"{row.name}: token {t} has mask {flag} and policy version {version}")
    if row.logprobs is not None and not all(
        math.isfinite(value) and value <= 1e-3 for flag, value in zip(row.mask, row.logprobs, strict=True) if flag
    ):
        raise BatchRefused(f"{row.name}: a logprob of a sampled token is not finite or is above 0")
    _check_size(row, limits)
    _check_versions(row, current, resumed_at)


def _check_size(row: Row, limits: Limits) -> None:
    length = len(row.completion_ids)
    if len(row.prompt_ids) + length > limits.max_row_length:
        raise BatchRefused(
            f"{row.name}: {len(row.prompt_ids) + length} tokens exceed trainer.max_row_length {limits.max_row_length}"
        )
    if length > limits.max_completion_length:
        raise BatchRefused(
            f"{row.name}: completion of {length} tokens exceeds trl.max_completion_length"
            f" {limits.max_completion_length}"
        )
    ids = (*row.prompt_ids, *row.completion_ids)
    if min(ids) < 0 or (limits.vocab_size is not None and max(ids) >= limits.vocab_size):
        raise BatchRefused(f"{row.name}: a token id lies outside the vocabulary of {limits.vocab_size}")


def _check_versions(row: Row, current: Version, resumed_at: int) -> None:
    for version in {v for v in row.versions if v is not None}:
        void = version.attempt < current.attempt and version.step > resumed_at
        if version.attempt > current.attempt or version.step > current.step or void:
            raise BatchRefused(f"{row.name}: sampled by {version}, which is not in the lineage of {current}")


def plan_batch(
    batch: Batch,
    limits: Limits,
    current: Version,
    *,
    scale: Scale = "group",
    credit: Credit | None = None,
    loss_type: str = "dapo",
    truncated_unless: frozenset[int] | None = None,
    padding_id: int = 0,
    neutral: Mapping[str, bool] | None = None,
    resumed_at: int = 0,
) -> Plan:
    """Check, score and pad one batch into the fixed rectangle of ``limits.rows`` rows.

    ``truncated_unless``: hide completions whose last id is not among these (``mask_truncated_completions``).
    ``neutral``: which features forbid padding here, see ``refuse_padding``. Raises ``BatchRefused``, and
    ``ConfigError`` where ``credit`` asks for what the worlds do not give.
    """
    _check_groups(batch, limits)
    rewards = _all_rewards(batch, limits.group_size)
    scorable = [(int(g), int(m)) for g, m in np.argwhere(~np.isnan(rewards))]
    members = [batch.groups[g].members[m] for g, m in scorable]
    made = [_checked_rows(member, limits, current, resumed_at, truncated_unless) for member in members]
    credit = credit or Credit()
    advantages, zero_std = group_advantages(rewards, scale)
    advantages *= credit.trajectory
    per_turn, figures = _turn_credit(members, credit, scale)
    blocks: list[list[Row]] = [[] for _ in batch.groups]
    for place, rows_of_one, turns_K in zip(scorable, made, per_turn, strict=True):
        credited = [_credited(row, float(advantages[place]), turns_K) for row in rows_of_one]
        advantages[place] = np.mean([row.advantage for row in credited])
        blocks[place[0]] += credited
    rows = _rectangle(blocks, limits, padding_id)
    real = sum(not row.padding for row in rows)
    if real == 0:
        raise BatchRefused(f"step {batch.step}: no scorable trajectory in {len(batch.groups)} groups")
    if real < len(rows):
        refuse_padding(loss_type, neutral or {})
    row_scale = len(rows) / real if loss_type in ROW_MEAN_LOSSES else 1.0
    present = np.arange(limits.group_size) < np.asarray([[len(group.members)] for group in batch.groups])
    return Plan(
        rows=tuple(_scaled(row, row_scale) for row in rows),
        rewards=rewards[present],
        advantages=advantages[present],
        zero_std=zero_std[present],
        trajectories=tuple(member for group in batch.groups for member in group.members),
        row_scale=row_scale,
        figures=figures,
    )


def _checked_rows(
    trajectory: Trajectory,
    limits: Limits,
    current: Version,
    resumed_at: int,
    truncated_unless: frozenset[int] | None,
) -> list[Row]:
    if trajectory.sampling.temperature != limits.temperature:
        raise BatchRefused(
            f"group {trajectory.group}: sampled at temperature {trajectory.sampling.temperature},"
            f" trained at trl.temperature {limits.temperature}"
        )
    rows = []
    for row in segments(trajectory):
        check_row(row, limits, current, resumed_at)
        rows.append(replace(row, keep=truncated_unless is None or row.completion_ids[-1] in truncated_unless))
    return rows


def _turn_credit(
    members: Sequence[Trajectory], credit: Credit, scale: Scale
) -> tuple[Sequence[np.ndarray | None], Mapping[str, float]]:
    if not credit.per_turn:
        return [None] * len(members), {}
    return turn_advantages([episode(member, credit) for member in members], credit, scale)


def _credited(row: Row, advantage: float, turns_K: np.ndarray | None) -> Row:
    """``row`` with its trajectory's advantage, plus that of the turn each token belongs to (then ``advantage`` is the
    mean over sampled tokens)."""
    if turns_K is None:
        return replace(row, advantage=advantage)
    values = tuple(advantage + float(turns_K[k]) if k >= 0 else 0.0 for k in row.turns)
    return replace(row, advantage=sum(values) / sum(row.mask), advantages_T=values)


def _scaled(row: Row, factor: float) -> Row:
    if factor == 1.0:
        return row
    per_token = None if row.advantages_T is None else tuple(value * factor for value in row.advantages_T)
    return replace(row, advantage=row.advantage * factor, advantages_T=per_token)


def refuse_padding(loss_type: str, features: Mapping[str, bool]) -> None:
    """Padding rows must change nothing (decision 17).

    ``features``: ``entropy_bonus``, ``kl`` and ``one_micro_batch`` (one process, one micro-batch per generation
    batch: then every mean over tokens already runs over the real ones alone). Raises ``BatchRefused``.
    """
    if features.get("entropy_bonus") and not features.get("one_micro_batch"):
        raise BatchRefused(
            "padding rows are not neutral with an entropy bonus: refill failed rollouts, or train the generation batch"
            " as one micro-batch on one process, or set trl.entropy_coef to 0"
        )
    if loss_type == "bnpo" and not features.get("one_micro_batch"):
        raise BatchRefused("padding rows are not neutral for trl.loss_type bnpo: use dapo, or refill failed rollouts")
    if loss_type in ROW_MEAN_LOSSES and features.get("kl"):
        raise BatchRefused(
            f"padding rows are not neutral for trl.loss_type {loss_type} with trl.beta > 0: use dapo, or beta 0"
        )


def _check_groups(batch: Batch, limits: Limits) -> None:
    seen: set[str] = set()
    for group in batch.groups:
        if group.id in seen:
            raise BatchRefused(f"step {batch.step}: group {group.id} appears twice")
        seen.add(group.id)
        members = [trajectory.member for trajectory in group.members]
        if not members or len(members) > limits.group_size or len(set(members)) != len(members):
            raise BatchRefused(
                f"group {group.id}: members {members} do not fit trl.num_generations {limits.group_size}"
            )
        if any(trajectory.group != group.id for trajectory in group.members):
            raise BatchRefused(f"group {group.id}: holds a trajectory of another group")
    if not batch.groups or len(batch.groups) * limits.group_size > limits.rows:
        raise BatchRefused(
            f"step {batch.step}: {len(batch.groups)} groups of {limits.group_size} do not fit a generation batch of"
            f" {limits.rows} rows"
        )


def _all_rewards(batch: Batch, group_size: int) -> np.ndarray:
    """(N, G), nan where unscorable or absent."""
    rewards = np.full((len(batch.groups), group_size), math.nan)
    for g, group in enumerate(batch.groups):
        rewards[g, : len(group.members)] = _rewards(group)
    return rewards


def _rewards(group: Group) -> np.ndarray:
    values = [math.nan if t.score.reward is None else float(t.score.reward) for t in group.members]
    for trajectory, value in zip(group.members, values, strict=True):
        if trajectory.score.reward is not None and not math.isfinite(value):
            raise BatchRefused(f"group {group.id} member {trajectory.member}: reward {value}; unscorable is None")
    return np.asarray(values, dtype=np.float64)


def _rectangle(blocks: Sequence[Sequence[Row]], limits: Limits, padding_id: int) -> list[Row]:
    filler = Row((padding_id,), (padding_id,), (0,), (0.0,), (None,), (-1,), "padding", keep=False, padding=True)
    rows: list[Row] = []
    for block in blocks:
        rows += [*block, *[filler] * (limits.group_size - len(block))]
    rows += [filler] * (limits.rows - len(rows))
    return rows


def columns(rows: Sequence[Row], pad_id: int, multiple: int | None = None) -> dict[str, np.ndarray]:
    """Pad one rank's rows: prompts left, completions right, the way GRPOTrainer does.

    Keys and shapes: ``prompt_ids``, ``prompt_mask`` (B, P); ``completion_ids``, ``completion_mask``, ``tool_mask``,
    ``sampling_logps`` (nan where not reported) (B, T); ``advantages`` (B,), or (B, T) where a row has them per token.
    """
    width_p = _round_up(max(len(row.prompt_ids) for row in rows), multiple)
    width_t = _round_up(max(len(row.completion_ids) for row in rows), multiple)
    shape_p, shape_t = (len(rows), width_p), (len(rows), width_t)
    out: dict[str, np.ndarray] = {
        "prompt_ids": np.full(shape_p, pad_id, np.int64),
        "prompt_mask": np.zeros(shape_p, np.int64),
        "completion_ids": np.full(shape_t, pad_id, np.int64),
        "completion_mask": np.zeros(shape_t, np.int64),
        "tool_mask": np.ones(shape_t, np.int64),
        "sampling_logps": np.zeros(shape_t, np.float32),
        "advantages": np.asarray([row.advantage for row in rows], np.float32),
    }
    if any(row.advantages_T is not None for row in rows):
        out["advantages"] = np.zeros(shape_t, np.float32)
    for b, row in enumerate(rows):
        length = len(row.completion_ids)
        out["prompt_ids"][b, width_p - len(row.prompt_ids) :] = row.prompt_ids
        out["prompt_mask"][b, width_p - len(row.prompt_ids) :] = 1
        out["completion_ids"][b, :length] = row.completion_ids
        out["completion_mask"][b, :length] = int(row.keep)
        out["tool_mask"][b, :length] = row.mask if row.keep else 0
        out["sampling_logps"][b, :length] = math.nan if row.logprobs is None else row.logprobs
        if out["advantages"].ndim == 2:
            out["advantages"][b, :length] = row.advantages_T or 0.0
    return out


def _round_up(length: int, multiple: int | None) -> int:
    return length if not multiple else -(-length // multiple) * multiple


def ages(rows: Sequence[Row], current: Version) -> np.ndarray:
    """Staleness of every trained token, in optimiser steps behind ``current``."""
    return np.asarray([current.step - v.step for row in rows for v in row.versions if v is not None], np.int64)
