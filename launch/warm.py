"""Warm start of a policy: a small model and a share of gold trajectories.

Owns: the rows of supervised fine-tuning, from gold solutions acted out in the real world. Refuses: reinforcement.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.types import Message, Task
from worldmodel.domains.terminal import FINAL, TERMINAL
from worldmodel.domains.terminal.behaviours import Session
from worldmodel.traces import record

if TYPE_CHECKING:
    from rollout.chat import TokenChat
    from trainer.stages import SFTResult

TokenRow = tuple[list[int], list[int]]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True)
class WarmRecipe:
    """How a policy is started. ``gold``: trajectories shown, few on purpose; ``epochs`` over them."""

    gold: int = 160
    epochs: float = 10.0
    layers: str = "caca"
    learning_rate: float = 1e-3
    tokens_per_batch: int = 768
    seed: int = 0


def warm_start(
    tokenizer: Path, tasks: Sequence[Task], out: Path, recipe: WarmRecipe, say: Callable[[str], None] = print
) -> SFTResult:
    """A new policy with the tokenizer of the model folder ``tokenizer``, trained on the gold of ``tasks``."""
    from rollout.chat import load_chat
    from trainer.architecture import Shape, fresh_model

    out.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, out / name)
    chat = load_chat(out)
    model = fresh_model(len(chat.tokenizer), Shape(layers=recipe.layers), chat.pad_id, chat.eos_id, recipe.seed)
    model.save_pretrained(out)
    rows = gold_rows(tasks, chat)
    say(f"{len(rows)} gold trajectories, {sum(len(ids) for ids, _ in rows)} tokens")
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
        schedule="linear",
        seed=recipe.seed,
        log_every=20,
    )
    return sft(policy, load_chat(policy).tokenizer, list(rows), out, config)


def gold_rows(tasks: Iterable[Task], chat: TokenChat) -> list[TokenRow]:
    """One row a task: prompt, then each gold action with what the real world answered; loss on the actions."""
    return [gold_row(task, chat) for task in tasks]


def gold_row(task: Task, chat: TokenChat) -> TokenRow:
    steps = tuple(action for action in task.reference.gold if action != FINAL)
    episode = record(task, Session("gold", steps, ()))
    ids = list(chat.prompt(TERMINAL.prompt(task).messages))
    mask = [0] * len(ids)
    for transition in episode.transitions:
        _append(ids, mask, (*chat.encode(transition.action), chat.eos_id), 1)
        _append(ids, mask, chat.extend([Message("user", transition.observation)], True), 0)
    _append(ids, mask, (*chat.encode(FINAL), chat.eos_id), 1)
    return ids, mask


def _append(ids: list[int], mask: list[int], new: Iterable[int], flag: int) -> None:
    before = len(ids)
    ids.extend(new)
    mask.extend([flag] * (len(ids) - before))
