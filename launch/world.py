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
from worldmodel.behaviours import FINAL_CLASS
from worldmodel.dialects.rows import Keep, Row, session_row
from worldmodel.dialects.transcript import Transcript
from worldmodel.dialects.wire import Wire
from worldmodel.domains import behaviours, kit
from worldmodel.episodes import EPISODES, read_episodes
from worldmodel.masking import TurnMasking
from worldmodel.spans import determined, open_spans
from worldmodel.trainable import reserved
from worldmodel.types import Episode, Transition

if TYPE_CHECKING:
    from rollout.chat import TokenChat
    from trainer.stages import SFTResult

TokenRow = tuple[list[int], list[int]]  # ids, loss mask
DETERMINED = 0.5  # share of an observation that spec and history must determine to be in the loss


@dataclass(frozen=True, slots=True)
class Round:
    """A stretch of training on the clock; the learning rate falls to zero within it (a restart begins the next one:
    Loshchilov and Hutter 2017, arXiv 1608.03983)."""

    seconds: float
    learning_rate: float


@dataclass(frozen=True, slots=True)
class WorldRecipe:
    """How a world model is made. Rows longer than ``max_length`` tokens are left out and counted, or, with ``windows``,
    go on without their oldest turns, as the simulator's own history does."""

    episodes: int = 40_000
    rounds: tuple[Round, ...] = (Round(3900.0, 1.5e-3),)
    vocabulary: int = 2048
    layers: str = "caaaaaa"
    tokens_per_batch: int = 4096
    max_length: int = 768
    compile: bool = True
    seed: int = 0
    windows: bool = False


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
    rows = world_rows(episodes, chat, seed, recipe.max_length if recipe.windows else None)
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
    """What the tokenizer is fitted to, domain by domain: sessions, the instructions of tasks, so that a policy shares
    it, and the domain's own words often enough to be one token each."""
    parts: dict[str, list[Episode]] = {}
    for episode in episodes:
        parts.setdefault(episode.domain, []).append(episode)
    for name, part in parts.items():
        found = kit(name)
        for episode in part:
            yield found.domain.spec(episode.world).initial_state
            yield from (f"{step.action}\n{step.observation}" for step in episode.transitions if _short(step))
        tasks = found.generate("train", max(1, len(part) // 4), 0)
        yield from (task.instruction for task in tasks)
        yield from (word for word in behaviours(name).words(tasks) for _ in range(len(part) // 20))


def _short(step: Transition) -> bool:
    return len(step.observation) < 400


def world_rows(
    episodes: Iterable[Episode], chat: TokenChat, seed: int, window: int | None = None, wire: Wire | None = None
) -> list[TokenRow]:
    """One row of tokens per episode in the dialect ``wire`` (None: transcript), its loss chosen by the turn-level
    masking of the reference system; with ``window`` as many rows as it takes to keep each within that many tokens."""
    rng = random.Random(seed)
    found: list[TokenRow] = []
    for episode in episodes:
        spec = kit(episode.domain).domain.spec(episode.world)
        row = session_row(episode, spec, wire or Transcript(), _keep(episode, seed), rng)
        if row is None:
            continue
        found += [tokens(part, chat) for part in ([row] if window is None else windows(row, chat, window))]
    return found


def windows(row: Row, chat: TokenChat, limit: int) -> list[Row]:
    """``row`` in parts of at most ``limit`` tokens: each opens like the whole, goes on after what half the room holds
    of the turns before it, and has the loss of its new turns. A turn that fits nowhere is left out."""
    system, said = row.messages[0], row.messages[1:]
    turns = [said[i : i + 2] for i in range(0, len(said), 2)]
    flags = row.loss[2::2]
    sizes = [len(chat.extend([user], True)) + len(chat.encode(reply.content)) + 1 for user, reply in turns]
    room = limit - (len(chat.prompt([system, said[0]])) - len(chat.extend([said[0]], True)))
    parts: list[Row] = []
    start = done = 0
    while done < len(turns):
        end = start
        while end < len(turns) and sum(sizes[start : end + 1]) <= room:
            end += 1
        if end <= done:  # the next turn needs more room than the turns before it leave
            start, done = (start + 1, done) if start < done else (done + 1, done + 1)
            continue
        messages = (system, *(message for turn in turns[start:end] for message in turn))
        loss = [flag for at in range(start, end) for flag in (False, flags[at] and at >= done)]
        if any(loss):
            parts.append(Row(row.episode, messages, (False, *loss)))
        done = end
        start = next(s for s in range(end + 1) if sum(sizes[s:end]) <= room / 2)
    return parts


def _keep(episode: Episode, seed: int) -> Keep:
    """The masking, less what no simulator could know or will be asked."""
    masking, spans = TurnMasking(seed), open_spans(episode)

    def keep(step: Transition) -> bool:
        known = determined(step.observation, spans.get(step, ())) >= DETERMINED
        return masking(step) and known and step.command_class != FINAL_CLASS

    return keep


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
