"""What the wire formats share: the conversation shape, and the removal of thoughts and end tokens.

Owns: ``Wire`` (a ``Dialect`` that can also write single turns, for training rows) and text clean-up.
Refuses: any one format, tokenizers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from worldmodel.types import Dialect, Exchange, PredictRequest, WorldSpec

END_TOKENS = ("<|im_end|>", "<|end|>", "<|endoftext|>", "</s>")

_PAIR = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.IGNORECASE | re.DOTALL)
_CLOSING = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_OPENING = re.compile(r"<think(?:ing)?>", re.IGNORECASE)


class Wire(Dialect, Protocol):
    """A dialect whose turns can be written one by one. Invariant, held by a test: ``messages`` of a request is
    the system text, ``user`` and ``assistant`` of every past exchange, then ``user`` of the new action."""

    def system(self, spec: WorldSpec) -> str: ...

    def user(self, action: str, turn: int) -> str:
        """``turn`` counts from 0."""
        ...

    def assistant(self, observation: str) -> str:
        """The observation as it stands in the history, and as it is trained."""
        ...


def opening(wire: Wire, spec: WorldSpec, history: Sequence[Exchange]) -> list[tuple[str, str]]:
    """[(role, content), ...] of the system prompt and all past exchanges."""
    messages = [("system", wire.system(spec))]
    for turn, exchange in enumerate(history):
        messages.append(("user", wire.user(exchange.action, turn)))
        messages.append(("assistant", wire.assistant(exchange.observation)))
    return messages


def conversation(wire: Wire, request: PredictRequest) -> list[tuple[str, str]]:
    """[(role, content), ...] ending on the user turn that carries ``request.action``."""
    final = ("user", wire.user(request.action, len(request.history)))
    return [*opening(wire, request.spec, request.history), final]


def drop_end_tokens(text: str) -> str:
    """Remove one trailing end-of-turn token that a server left in the text."""
    for token in END_TOKENS:
        if text.endswith(token):
            return text[: -len(token)]
    return text


def drop_thoughts(text: str, answer_tag: str) -> str:
    """Remove thoughts wherever they stand: paired blocks; with an orphan closing tag everything before it; with
    an orphan opening tag everything up to the next ``<answer_tag>``, or to the end."""
    text = _PAIR.sub("", text)
    orphans = list(_CLOSING.finditer(text))
    if orphans:
        text = text[orphans[-1].end() :]
    orphan = _OPENING.search(text)
    if orphan is None:
        return text
    answer = re.compile(rf"<{answer_tag}>", re.IGNORECASE).search(text, orphan.end())
    return text[: orphan.start()] + (text[answer.start() :] if answer else "")


def drop_leading_thought(text: str) -> str:
    """Remove one thought at the start of a reply and the blank lines after it; text further on is never touched,
    since an untagged observation may contain anything. Raises ValueError if the thought never closes."""
    if not _OPENING.match(text.lstrip()):
        return text
    closing = _CLOSING.search(text)
    if closing is None:
        raise ValueError("the reply ended inside its thoughts")
    return text[closing.end() :].lstrip("\n")
