"""Messages <-> tokens, append-only (the first of two crossings; the second is ``trainer/batch.py``).

Owns: loading tokenizers (without torch) and the promise that what the sampler read and wrote at turn k is, id for
id, a prefix of what it reads at turn k+1. History is never rendered again; only new messages are.
Refuses: a chat template for which that promise cannot be kept, with a ``ConfigError`` when it is loaded.

Worked example, with a template ``<|user|>text<|end|>`` and replies after ``<|assistant|>``::

    prompt([user "hi"])            <|user|> h i <|end|> <|assistant|>
    the sampler writes             o k <|end|>
    extend([user "go"], True)      <|user|> g o <|end|> <|assistant|>        the reply ended its turn
    extend([user "go"], False)     <|end|> <|user|> g o <|end|> <|assistant|>      it was cut off
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.errors import ConfigError
from rollout.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_REPLIES = ("ls -l", "<think>\nlook first\n</think>\n\nls -l")


def load_chat(path: str | Path) -> TokenChat:
    """The tokenizer saved under ``path`` (tokenizer.json, tokenizer_config.json, a chat template) as a chat.

    Raises:
        ConfigError: no tokenizer there, no chat template, or a template that is not prefix-preserving.
    """
    folder = Path(path)
    if not (folder / "tokenizer.json").is_file():
        raise ConfigError(f"{folder}: no tokenizer.json; save one there with tokenizer.save_pretrained()")
    from transformers import PreTrainedTokenizerFast

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
    except Exception as error:  # the Rust parser raises plain Exception
        raise ConfigError(f"{folder}: unreadable tokenizer ({str(error).splitlines()[0]})") from error
    return TokenChat(tokenizer, name=str(folder))


@dataclass(frozen=True, slots=True)
class ChatSpec:
    """Picklable ``ChatFactory``: loads the tokenizer under ``path`` where it is called."""

    path: str

    def __call__(self) -> TokenChat:
        return load_chat(self.path)


class TokenChat:
    """A tokenizer and its chat template as ``protocols.Chat``.

    ``stop_ids`` are the ids that end a completion: the template's end-of-turn token first, then the tokenizer's
    end-of-sequence token where it is another one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, name: str = "tokenizer") -> None:
        if not tokenizer.chat_template:
            raise ConfigError(f"{name}: no chat template; set one before saving the tokenizer")
        self.tokenizer = tokenizer
        self._name = name
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._structure: re.Pattern[str] | None = None
        self._suffix = lru_cache(maxsize=4096)(self._suffix_uncached)
        self._opening = lru_cache(maxsize=1024)(self._opening_uncached)
        end = self._check_template()
        eos = tokenizer.eos_token_id
        self.eos_id: int = end if eos is None else int(eos)
        self.stop_ids: tuple[int, ...] = (end,) if self.eos_id == end else (end, self.eos_id)
        self.pad_id: int = self.eos_id if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Ids of the opening ``messages`` plus the generation prompt."""
        return self._opening(tuple(messages))

    def extend(self, messages: Sequence[Message], finished: bool) -> tuple[int, ...]:
        """Ids that follow a completion: the end-of-turn id unless ``finished`` (the completion already ended in a
        stop id), whatever the template puts after it, ``messages``, and the next generation prompt."""
        ids = self._suffix(tuple(messages))
        return ids[1:] if finished else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids`` without special tokens."""
        return self._backend.decode(list(ids), skip_special_tokens=True)

    def transcript(self, ids: Sequence[int]) -> str:
        """Text of ``ids`` with special tokens: exactly what a model reads."""
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of ``text`` alone; special tokens written out in it are recognised."""
        return tuple(self._backend.encode(text, add_special_tokens=False).ids)

    def _opening_uncached(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        return self.encode(self._render(self._plain(messages)))

    def _suffix_uncached(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        # Tokenised from its end-of-turn token on, so that the ids are those of the joint text: a special token
        # is a boundary that no merge crosses.
        return self.encode(self._suffix_text([Message("user", "x")], "x", self._plain(messages)))

    def _suffix_text(self, opening: Sequence[Message], reply: str, messages: Sequence[Message]) -> str:
        seen = self._render(opening) + reply
        full = self._render([*opening, Message("assistant", reply), *messages])
        if not full.startswith(seen):
            raise ConfigError(
                f"{self._name}: the chat template is not prefix-preserving: a reply is rendered differently once "
                f"another message follows ({_difference(seen, full)}); use a template that keeps replies verbatim"
            )
        return full[len(seen) :]

    def _render(self, messages: Sequence[Message]) -> str:
        from jinja2 import TemplateError

        rows = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return str(self.tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=True))
        except TemplateError as error:
            roles = ", ".join(message.role for message in messages)
            raise ConfigError(f"{self._name}: the chat template refuses the roles {roles}: {error}") from error

    def _plain(self, messages: Sequence[Message]) -> list[Message]:
        """A zero-width space breaks special tokens that structure the template where content spells them out, so
        that an observation cannot end a turn or open one."""
        if self._structure is None:
            return list(messages)
        split = self._structure
        return [Message(m.role, split.sub(lambda hit: hit[0][0] + "\u200b" + hit[0][1:], m.content)) for m in messages]

    def _check_template(self) -> int:
        """Run the shape system, (user, assistant) x 3 with and without thoughts; returns the end-of-turn id."""
        suffixes: set[str] = set()
        for reply in _REPLIES:
            history = [Message("system", "Be brief."), Message("user", "Go.")]
            for _ in range(3):
                suffixes.add(self._suffix_text(history, reply, [Message("user", "Go.")]))
                history += [Message("assistant", reply), Message("user", "Go.")]
        suffixes.add(self._suffix_text([Message("user", "x")], "x", [Message("user", "Go.")]))
        if len(suffixes) > 1:
            first, second, *_ = sorted(suffixes)
            raise ConfigError(
                f"{self._name}: the chat template is not prefix-preserving: what follows a reply depends on the "
                f"history ({_difference(first, second)})"
            )
        text = suffixes.pop()
        specials = {id_: str(token) for id_, token in self.tokenizer.added_tokens_decoder.items()}
        ids = self.encode(text)
        if not ids or ids[0] not in specials or not text.startswith(specials[ids[0]]):
            raise ConfigError(f"{self._name}: the chat template does not end a reply with a special token")
        shape = self.encode(self._render([Message("system", "x"), Message("user", "x")])) + ids
        used = sorted({specials[i] for i in shape if i in specials}, key=len, reverse=True)
        self._structure = re.compile("|".join(re.escape(token) for token in used))
        return ids[0]


def _difference(seen: str, full: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(seen, full, strict=False)) if a != b), min(len(seen), len(full)))
    return f"{seen[at : at + 20]!r} against {full[at : at + 20]!r}"
