"""A person at the terminal, in the place of the policy or of the world.

Owns: reading texts of several lines, showing what a person has not seen yet, both faces of a person to the episode
loop. Refuses: episodes (``launch.play``).
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Sequence

from launch.console import say
from rollout.errors import AgentworldError
from rollout.samplers.text import Said
from rollout.types import Finish, Message, Session, Usage
from worldmodel.prompt import compact
from worldmodel.types import Prediction, PredictRequest

END = "."
HOW = f"(several lines are one text; it ends with an empty line or a lone {END})"


class InputEnded(AgentworldError):
    """Standard input ended where a text was needed."""


async def read_text() -> str:
    """The next text: lines up to an empty one, a lone ``.`` or the end of the input. The event loop goes on meanwhile.
    Raises InputEnded."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str | None] = loop.create_future()

    def done(text: str | None) -> None:
        if not answer.done():
            answer.set_result(text)

    def read() -> None:
        text = _lines()
        if not loop.is_closed():
            loop.call_soon_threadsafe(done, text)

    threading.Thread(target=read, name="person", daemon=True).start()  # a pool's thread would hold up Ctrl-C
    text = await answer
    if text is None:
        raise InputEnded("the input ended before the episode did: there is no verdict")
    return text


def _lines() -> str | None:
    """None: the input is at its end."""
    lines: list[str] = []
    while line := sys.stdin.readline():
        line = line.rstrip("\r\n")
        if line in ("", END):
            return "\n".join(lines)
        lines.append(line)
    return "\n".join(lines) if lines else None


def heading(text: str) -> None:
    say(f"--- {text}")


class Person:
    """Implements ``Speaker``: the policy. One conversation at a time."""

    def __init__(self) -> None:
        self._session, self._shown = "", 0

    async def __call__(self, messages: Sequence[Message], max_tokens: int, session: Session) -> Said:
        """Shows the messages that are new and reads an action. Raises InputEnded."""
        if session.id != self._session:
            self._session, self._shown = session.id, 0
        first = self._shown == 0
        for message in messages[self._shown :]:
            heading(message.role if first else "observation")
            say(message.content)
        self._shown = len(messages) + 1  # with the answer
        heading(f"your action {HOW}" if first else "your action")
        return Said(await read_text())


class PersonWorld:
    """Implements ``WorldModel``: the world. Reads what a simulator would, and is asked one thing at a time."""

    model_id = "person"

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._told = False

    async def predict(self, request: PredictRequest) -> Prediction:
        """Shows the action and reads what it answers. Raises InputEnded."""
        async with self._turn:
            first, self._told = not self._told, True
            if first:
                heading("you are the world")
                say(compact(request.spec))
            heading("action")
            say(request.action)
            heading(f"your observation {HOW}" if first else "your observation")
            text = await read_text()
        return Prediction(text, text, Usage(), Finish.STOP, self.model_id)

    async def close(self) -> None:
        """Nothing is held."""
