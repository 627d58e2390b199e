"""Warm start of a policy: a small model and demonstrations of mixed quality.

Owns: the rows of supervised fine-tuning, acted out in the real world. Refuses: reinforcement.

A share of the demonstrations is gold; the others show a plausible wrong solution, as a careless person would. The
policy that imitates them knows how, but does it right about as often as they do: what practice has to mend.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.seeds import derive_seed
from rollout.types import Message, Task
from worldmodel.traces import Played, play_all
from worldmodel.trainable import check_trainable

if TYPE_CHECKING:
    from rollout.chat import TokenChat
    from trainer.stages import SFTResult

TokenRow = tuple[list[int], list[int]]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True)
class WarmRecipe:
    """How a policy is started. ``gold``: the share of gold among the ``demonstrations``; ``epochs`` over them.
    ``from_world``: it begins with the world model's weights, and ``layers`` says nothing."""

    demonstrations: int = 1200
    gold: float = 0.4
    epochs: float = 5.5
    layers: str = "caca"
    learning_rate: float = 1.2e-3
    tokens_per_batch: int = 1536
    max_length: int = 2048
    seed: int = 0
    from_world: bool = False


def warm_start(
    tokenizer: Path, tasks: Sequence[Task], out: Path, recipe: WarmRecipe, say: Callable[[str], None] = print
) -> SFTResult:
    """A new policy with the tokenizer of the model folder ``tokenizer``, trained on demonstrations of ``tasks``."""
    from rollout.chat import load_chat
    from trainer.architecture import Shape, fresh_model
    from trainer.stages import load_model

    out.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, out / name)
    chat = load_chat(out)
    if recipe.from_world:
        model = load_model(tokenizer)
    else:
        model = fresh_model(len(chat.tokenizer), Shape(layers=recipe.layers), chat.pad_id, chat.eos_id, recipe.seed)
    model.save_pretrained(out)
    rows = demonstrations(tasks, chat, recipe)
    say(f"{len(rows)} demonstrations, {sum(len(ids) for ids, _ in rows)} tokens; {len(tasks) - len(rows)} too long")
    return fine_tune(out, rows, out, recipe)


def fine_tune(
    policy: Path, rows: Sequence[TokenRow], out: Path, recipe: WarmRecipe, seconds: float | None = None
) -> SFTResult:
    """Train the policy in folder ``policy`` on ``rows``, for ``seconds`` where given, else for the recipe's epochs;
    the result is saved in ``out``."""
    from rollout.chat import load_chat
    from trainer.config import SFTConfig
    from trainer.stages import sft

    config = SFTConfig(
        learning_rate=recipe.learning_rate,
        max_seconds=seconds,
        epochs=recipe.epochs if seconds is None else None,
        tokens_per_batch=recipe.tokens_per_batch,
        max_length=recipe.max_length,
        schedule="linear",
        optimizer="muon",
        seed=recipe.seed,
        log_every=20,
    )
    return sft(policy, load_chat(policy).tokenizer, list(rows), out, config)


def demonstrations(tasks: Iterable[Task], chat: TokenChat, recipe: WarmRecipe) -> list[TokenRow]:
    """One row a task: prompt, then each action with what the real world answered; loss on the actions. Those of more
    than ``max_length`` tokens are left out. Raises TaskError naming a task that is evaluation data."""
    tasks = list(tasks)
    check_trainable(tasks)
    played = play_all([(task, shown(task, recipe)) for task in tasks], 2 * (os.cpu_count() or 1))
    return [made for made in (row(found, chat) for found in played) if len(made[0]) <= recipe.max_length]


def shown(task: Task, recipe: WarmRecipe) -> tuple[str, ...]:
    """The solution that is demonstrated for ``task``: the gold one, or one of the wrong ones."""
    rng = random.Random(derive_seed("demonstration", recipe.seed, task.id))
    return task.reference.gold if rng.random() < recipe.gold else rng.choice(task.reference.wrong)


def row(played: Played, chat: TokenChat) -> TokenRow:
    """A demonstration, up to and with its last action, as (ids, loss mask)."""
    ids = list(chat.prompt(played.prompt.messages))
    mask = [0] * len(ids)
    last = len(played.turns) - 1
    for number, (action, seen) in enumerate(played.turns):
        _append(ids, mask, (*chat.encode(action.text), chat.eos_id), 1)
        if number < last:
            _append(ids, mask, chat.extend([Message("user", seen.text)], True), 0)
    return ids, mask


def _append(ids: list[int], mask: list[int], new: Iterable[int], flag: int) -> None:
    before = len(ids)
    ids.extend(new)
    mask.extend([flag] * (len(ids) - before))
