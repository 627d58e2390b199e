"""The world model: recorded episodes become a tokenizer, token rows and a trained model.

Owns: what the world model is trained on and with which recipe. Refuses: collecting, measuring.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.errors import TaskError
from rollout.types import Message
from worldmodel.dialects.rows import Row, session_row
from worldmodel.dialects.transcript import Transcript
from worldmodel.domains.terminal import TERMINAL
from worldmodel.domains.terminal.tasks import generate
from worldmodel.domains.terminal.vocabulary import WORDS
from worldmodel.episodes import EPISODES, read_episodes
from worldmodel.masking import TurnMasking
from worldmodel.trainable import reserved
from worldmodel.types import Episode

if TYPE_CHECKING:
    from rollout.chat import TokenChat
    from trainer.stages import SFTResult

TokenRow = tuple[list[int], list[int]]  # ids, loss mask


@dataclass(frozen=True, slots=True)
class Round:
    """A stretch of training on the clock; the learning rate falls to zero within it (a restart begins the next one:
    Loshchilov and Hutter 2017, arXiv 1608.03983)."""

    seconds: float
    learning_rate: float


@dataclass(frozen=True, slots=True)
class WorldRecipe:
    """How the terminal's world model is made. Rows longer than ``max_length`` tokens are left out and counted."""

    episodes: int = 40_000
    rounds: tuple[Round, ...] = (Round(3900.0, 1.5e-3),)
    vocabulary: int = 2048
    layers: str = "caaaaaa"
    tokens_per_batch: int = 4096
    max_length: int = 768
    compile: bool = True
    seed: int = 0


def train_round(
    folder: Path, start: Path | None, out: Path, recipe: WorldRecipe, number: int, say: Callable[[str], None] = print
) -> SFTResult:
    """Round ``number`` (from 0) of the training on the episodes in ``folder``, from the model in ``start`` or from
    nothing; ``out`` becomes an ordinary Hugging Face model folder, in bf16."""
    from rollout.chat import load_chat
    from trainer.architecture import Shape, fresh_model
    from trainer.config import SFTConfig
    from trainer.stages import load_model, sft, store_as
    from trainer.tokenizer import train_tokenizer

    episodes = training_episodes(folder)
    if start is None:
        train_tokenizer(vocabulary_texts(episodes), recipe.vocabulary, out)
    chat = load_chat(start or out)
    seed = recipe.seed + number
    rows = world_rows(episodes, chat, seed)
    fitting = [row for row in rows if len(row[0]) <= recipe.max_length]
    say(f"{len(fitting)} sessions, {sum(len(ids) for ids, _ in fitting)} tokens; {len(rows) - len(fitting)} too long")
    model = (
        load_model(start)
        if start
        else fresh_model(len(chat.tokenizer), Shape(layers=recipe.layers), chat.pad_id, chat.eos_id, recipe.seed)
    )
    config = SFTConfig(
        learning_rate=recipe.rounds[number].learning_rate,
        max_seconds=recipe.rounds[number].seconds,
        tokens_per_batch=recipe.tokens_per_batch,
        max_length=recipe.max_length,
        schedule="linear",
        optimizer="muon",
        compile=recipe.compile,
        seed=seed,
        log_every=50,
    )
    result = sft(model, chat.tokenizer, fitting, out, config)
    store_as(out, "bfloat16")
    return result


def training_episodes(folder: Path) -> list[Episode]:
    """All of ``folder``. Raises ConfigError where it is damaged, TaskError naming file, line and task where one is
    evaluation data."""
    episodes = list(read_episodes(folder))
    for number, episode in enumerate(episodes, 1):
        if why := reserved(episode.domain, episode.family, episode.task_id):
            raise TaskError(
                f"{folder / EPISODES}:{number}: task {episode.task_id} is evaluation data ({why}): nothing may be "
                "trained on it"
            )
    return episodes


def vocabulary_texts(episodes: Sequence[Episode]) -> Iterator[str]:
    """What the tokenizer is fitted to: sessions, the words of instructions, so that a policy shares it, and words in
    capitals often enough to be one token each."""
    for episode in episodes:
        yield TERMINAL.spec(episode.world).initial_state
        yield from (f"{step.action}\n{step.observation}" for step in episode.transitions if len(step.observation) < 400)
    yield from (task.instruction for task in generate("train", len(episodes) // 4, 0))
    yield from (word for word in (*WORDS, *map(str.upper, WORDS)) for _ in range(len(episodes) // 20))


def world_rows(episodes: Iterable[Episode], chat: TokenChat, seed: int) -> list[TokenRow]:
    """One row of tokens per episode, its loss chosen by the turn-level masking of the reference system."""
    keep, rng = TurnMasking(seed), random.Random(seed)
    found = []
    for episode in episodes:
        row = session_row(episode, TERMINAL.spec(episode.world), Transcript(), keep, rng)
        if row is not None:
            found.append(tokens(row, chat))
    return found


def tokens(row: Row, chat: TokenChat) -> TokenRow:
    """Ids exactly as the simulator's loop would build them, loss on the flagged replies and their end tokens."""
    ids: list[int] = []
    mask: list[int] = []
    waiting: list[Message] = []
    for message, flag in zip(row.messages, row.loss, strict=True):
        if message.role != "assistant":
            waiting.append(message)
            continue
        context = chat.extend(waiting, True) if ids else chat.prompt(waiting)
        reply = (*chat.encode(message.content), chat.eos_id)
        ids += [*context, *reply]
        mask += [0] * len(context) + [int(flag)] * len(reply)
        waiting = []
    return ids, mask
