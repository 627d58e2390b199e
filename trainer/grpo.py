"""The one TRL subclass: GRPO on finished, scored groups.

Owns: the single overridden method, the hand-over of batches to all ranks, when to correct, version minting and
publishing. Refuses: generation, rewards, evaluation inside the trainer. TRL's loss, optimiser step and hooks stay as
they are. The overridden method is private: trl is pinned to one minor and ``tests/test_trl_contract.py`` guards it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, set_seed
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from rollout.errors import AgentworldError, ConfigError
from rollout.protocols import BatchSource, WeightSink
from rollout.types import Batch, Failure, Trajectory, Version
from trainer.adapters import check_adapters
from trainer.batch import Limits, Plan, Row, ages, columns, plan_batch
from trainer.config import TrainerConfig, build_lora_config, check_loss, check_shape
from trainer.correction import correction_figures, importance_weight, weighted
from trainer.credit import parse_credit
from trainer.metrics import append_durably, batch_metrics, reward_columns, token_counts
from trainer.weights import named_tensors

logger = logging.getLogger(__name__)

HEARTBEAT = 30.0  # seconds between signs of life to the ranks that wait for rank 0's batch (decision 18)
MAX_TICKET_BATCHES = 1000  # generation batches of tickets per pass over the dataset


class RolloutFailed(AgentworldError):
    """The rollout side, or publishing to it, failed; raised on every rank at once."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.where}: {failure.reason}")
        self.failure = failure


def _no_reward(**_: Any) -> list[float]:
    """TRL insists on a reward function; scores arrive with the trajectories and this one is never called."""
    raise RuntimeError("the trainer does not score: rewards arrive with the trajectories")


def tickets(args: GRPOConfig, period: int) -> Dataset:
    """Rows that drive TRL's loop and mean nothing else: enough for whole generation batches."""
    batches = min(args.max_steps // period, MAX_TICKET_BATCHES)
    return Dataset.from_dict({"prompt": [""] * (batches * args.generation_batch_size // args.num_generations)})


class WorldModelGRPOTrainer(GRPOTrainer):
    """GRPO whose generation batch comes from a ``BatchSource`` and whose weights go to a ``WeightSink``.

    Only rank 0 touches ``source`` and ``sink`` (other ranks may pass None). ``attempt`` numbers the process
    lifetimes of one run and is part of every version.
    """

    _tag_names = ["trl", "grpo", "agentworld"]  # noqa: RUF012

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: GRPOConfig,
        source: BatchSource | None,
        sink: WeightSink | None,
        processing_class: PreTrainedTokenizerBase,
        settings: TrainerConfig | None = None,
        *,
        attempt: int = 0,
        callbacks: Sequence[TrainerCallback] = (),
        optimizers: tuple[Any, Any] = (None, None),
    ) -> None:
        self.settings = settings or TrainerConfig()
        self.period = check_shape(args)  # optimiser steps per generation batch
        check_loss(self.settings, args)
        self.credit = parse_credit(self.settings.credit)
        self.source, self.sink, self.attempt = source, sink, attempt
        self.version = Version(attempt, 0)
        self.resumed_at = 0
        self.taken_at: int | None = None
        lora = build_lora_config(self.settings)
        if lora is not None:
            set_seed(args.seed)  # TRL seeds after it has drawn the adapter
        try:
            super().__init__(
                model=model,
                reward_funcs=[_no_reward],
                args=args,
                train_dataset=tickets(args, self.period),
                processing_class=processing_class,
                callbacks=[RolloutCallback(self), *callbacks],
                optimizers=optimizers,
                peft_config=lora,
            )
        except ValueError as error:  # what TRL and PEFT say about options that do not fit the model
            raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error
        check_adapters(self.model)
        if self.accelerator.is_main_process and source is None:
            raise ConfigError("source: rank 0 needs a BatchSource")

    # ---------------------------------------------------------------- the seam

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        if not self.model.training:
            raise ConfigError("evaluation runs on the rollout pool, not in the trainer")
        began = time.monotonic()
        batch = self._take(self.state.global_step)
        waited = time.monotonic() - began
        plan = self._plan(batch)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        local = plan.local(rank, world)
        if len(local) != len(inputs):
            raise ConfigError(f"rank {rank}: {len(local)} rows for {len(inputs)} tickets")
        data = self._to_device(local)
        sampling = data.pop("sampling_logps")
        data["num_items_in_batch"] = torch.tensor(plan.num_items, device=self.accelerator.device)
        reported = all(row.logprobs is not None for row in plan.rows)
        if reported:
            data["sampling_per_token_logps"] = sampling
        age = ages(plan.rows, self.version)
        stale = bool(age.max(initial=0) > 0)
        correct = stale or self.settings.correct_when == "always"
        if correct and not reported:
            why = f"tokens are up to {age.max()} steps stale" if stale else "trainer.correct_when is always"
            raise AgentworldError(f"step {batch.step}: {why} but the sampler's logprobs are missing")
        self._reference(data)
        self._correct(data, sampling, correct)
        self._record(plan, batch, waited)
        return data

    def _take(self, step: int) -> Batch:
        """One batch on every rank, or the same exception on every rank."""
        deadline = time.monotonic() + self.settings.take_deadline
        while True:
            message: Batch | Failure | None = None
            if self.accelerator.is_main_process:
                message = self._poll(step, deadline)
            message = self._broadcast(message)
            if isinstance(message, Batch):
                self.taken_at = step
                return message
            if isinstance(message, Failure):
                raise RolloutFailed(message)

    def _poll(self, step: int, deadline: float) -> Batch | Failure | None:
        assert self.source is not None
        left = deadline - time.monotonic()
        if left <= 0:
            reason = f"no batch for step {step} within {self.settings.take_deadline:.0f} s"
            return Failure("waiting for rollouts (trainer.take_deadline)", reason, retryable=True)
        try:
            return self.source.take(step, timeout=min(left, HEARTBEAT))
        except Exception as error:  # the one boundary: an exception on rank 0 alone would hang the other ranks
            logger.exception("rollout source failed at step %d", step)
            return Failure("rollout source", f"{type(error).__name__}: {error}")

    def _broadcast(self, message: Any) -> Any:
        box = [message]
        broadcast_object_list(box, from_process=0)
        return box[0]

    def _plan(self, batch: Batch) -> Plan:
        args = self.args
        limits = Limits(
            rows=args.generation_batch_size,
            group_size=args.num_generations,
            max_row_length=self.settings.max_row_length,
            max_completion_length=self.max_completion_length,
            temperature=self.temperature,
            vocab_size=self.model.config.get_text_config().vocab_size,
        )
        return plan_batch(
            batch,
            limits,
            self.version,
            scale=self.scale_rewards,
            credit=self.credit,
            loss_type=self.loss_type,
            truncated_unless=self._ends() if self.mask_truncated_completions else None,
            padding_id=self._tokenizer.eos_token_id,
            neutral={
                "entropy_bonus": self._entropy_bonus_enabled,
                "kl": self.beta != 0.0,
                "one_micro_batch": self.accelerator.num_processes == 1 and args.steps_per_generation == 1,
            },
            resumed_at=self.resumed_at,
        )

    def _ends(self) -> frozenset[int]:
        return frozenset([*self.eos_token_ids, self._tokenizer.pad_token_id])

    def _to_device(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        arrays = columns(rows, self._tokenizer.pad_token_id, self.pad_to_multiple_of)
        return {name: torch.from_numpy(value).to(self.accelerator.device) for name, value in arrays.items()}

    # ---------------------------------------------------------------- logprobs of other weights

    def _logps(self, model: Any, data: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            logps, _, _ = self._get_per_token_logps_and_entropies(
                model,
                torch.cat([data["prompt_ids"], data["completion_ids"]], dim=1),
                torch.cat([data["prompt_mask"], data["completion_mask"]], dim=1),
                data["completion_ids"].size(1),
                batch_size=self.args.per_device_train_batch_size,
            )
        return logps

    def _reference(self, data: dict[str, torch.Tensor]) -> None:
        """Reference logprobs for the KL term, as GRPOTrainer gets them."""
        if self.beta == 0.0:
            return
        if self.ref_model is not None:
            data["ref_per_token_logps"] = self._logps(self.ref_model, data)
            return
        model = self.accelerator.unwrap_model(self.model)
        with use_adapter(model, adapter_name="ref" if "ref" in model.peft_config else None):
            data["ref_per_token_logps"] = self._logps(self.model, data)

    def _correct(self, data: dict[str, torch.Tensor], sampling: torch.Tensor, correct: bool) -> None:
        """Decision 14: fresh and aligned leaves ``old_per_token_logps`` out; fresh and misaligned recomputes them, as
        TRL does; ``correct``: recomputed and weighted, or coupled. All ranks agree on the case."""
        aligned = self.period == 1
        if not correct and aligned:
            return
        how = self.settings.weighting
        if correct and how is None:
            data["old_per_token_logps"] = sampling
            return
        data["old_per_token_logps"] = prox = self._logps(self.model, data)
        if not correct or how is None:
            return
        mask = data["completion_mask"] * data["tool_mask"]
        weight = importance_weight(prox - sampling, mask, how)
        if self.loss_type == "vespo":
            data["importance_sampling_ratio"] = weight
        else:
            data["advantages"] = weighted(data["advantages"], weight)
        for name, value in correction_figures(self.accelerator, prox - sampling, weight, mask).items():
            self._metric(name, value)

    # ---------------------------------------------------------------- figures

    def _metric(self, name: str, value: float) -> None:
        if not math.isnan(value):
            self._metrics["train"][name].append(value)

    def _record(self, plan: Plan, batch: Batch, waited: float) -> None:
        prompt, sampled = token_counts(plan)
        self.state.num_input_tokens_seen += prompt + sampled
        self._metrics["train"]["num_tokens"] = [self.state.num_input_tokens_seen]
        for name, value in batch_metrics(plan, self._ends(), self.version).items():
            self._metric(name, value)
        for name, value in {**plan.figures, **batch.metrics}.items():
            self._metric(name, float(value))
        self._metric("perf/rollout_wait_s", waited)
        if self.log_completions:
            self._logs["prompt"].extend([_messages(t, prompt=True) for t in plan.trajectories])
            self._logs["completion"].extend([_messages(t, prompt=False) for t in plan.trajectories])
            self._logs["advantages"].extend(plan.advantages.tolist())
            for name, values in reward_columns(plan.trajectories).items():
                self._logs["rewards"][name].extend([math.nan if v is None else v for v in values])

    # ---------------------------------------------------------------- weights out

    def settle(self) -> None:
        """Called after every optimiser step: the groups of a fully used batch are trained, new weights go out."""
        if self.taken_at is None or self.state.global_step - self.taken_at < self.period:
            return
        done, self.taken_at = self.taken_at, None
        self._together("settling groups", partial(self._settle_source, done))
        self.publish()

    def _settle_source(self, step: int) -> None:
        if self.source is not None and self.accelerator.is_main_process:
            self.source.settle(step)

    def publish(self) -> Version:
        """Mint (attempt, optimiser step), write it down, then hand the weights to the sink. Every rank must call it:
        under ZeRO-3 all of them enter the gathers."""
        began = time.monotonic()
        self.version = version = Version(self.attempt, self.state.global_step)
        main, zero3 = self.accelerator.is_main_process, self._dist.is_zero3
        wanted = self._broadcast(self.sink is not None)
        walk = named_tensors(
            self.accelerator.unwrap_model(self.model),
            gather=self._dist.gather_params if zero3 else None,
            sender=main,
            dtype=None if self.settings.sync_dtype == "model" else self.settings.sync_dtype,
        )

        def send() -> None:
            confirmed = version
            try:
                if main:
                    append_durably(Path(self.args.output_dir) / "versions.jsonl", version._asdict())
                if main and self.sink is not None:
                    confirmed = self.sink.publish(version, cast(Any, walk))
            finally:
                if wanted and zero3:
                    for _ in walk:  # other ranks wait in these gathers, whatever the sink did
                        pass
            if confirmed != version:
                raise RuntimeError(f"samplers confirmed {confirmed}, published was {version}")

        self._together(f"publishing weights {tuple(version)}", send)
        self._metric("perf/weight_sync_s", time.monotonic() - began)
        return version

    def _together(self, what: str, work: Callable[[], Any]) -> None:
        """Run ``work`` on every rank (rank 0 talks to the outside); a failure of rank 0 is raised by all."""
        failure: Failure | None = None
        try:
            work()
        except Exception as error:
            if not self.accelerator.is_main_process:
                raise
            logger.exception("%s failed", what)
            failure = Failure(what, f"{type(error).__name__}: {error}")
        failure = self._broadcast(failure)
        if failure is not None:
            raise RolloutFailed(failure)


class RolloutCallback(TrainerCallback):
    """Ties the trainer's hooks to its rollout side: first weights at the start, groups settled after each step."""

    def __init__(self, trainer: WorldModelGRPOTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.resumed_at = state.global_step
        self.trainer.publish()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.settle()


def _messages(trajectory: Trajectory, *, prompt: bool) -> list[dict[str, str]]:
    if prompt:
        return [{"role": m.role, "content": m.content} for m in trajectory.prompt.messages]
    out: list[dict[str, str]] = []
    for turn in trajectory.turns:
        out.append({"role": "assistant", "content": turn.completion.text})
        out.append({"role": "user", "content": turn.observation.text})
    return out[:-1]
