"""Small environments written as other frameworks want them. The world of all: a word is shown, say it in capitals.

What goes wrong is asked for by the action itself: ``crash`` raises, ``hang`` sleeps, ``nan`` returns such a reward.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

WORDS = ("pear", "plum", "fig")
HANG = 30.0


def word(seed: int) -> str:
    return WORDS[seed % len(WORDS)]


def shout(observation: str = "text") -> Any:
    """A Gymnasium environment: reward 1 at the end for the word in capitals, three tries."""
    import gymnasium
    from gymnasium.spaces import Discrete, Text

    class Shout(gymnasium.Env):  # type: ignore[misc]
        observation_space: Any = (
            Text(200, charset=" .abcdefghijklmnopqrstuvwxyzTRW") if observation == "text" else Discrete(3)
        )
        action_space: Any = Text(12)
        closed = 0

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict]:
            super().reset(seed=seed)
            self.word, self.tries = (options or {}).get("word") or word(seed or 0), 0
            return f"The word is {self.word}.", {}

        def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
            if action == "crash":
                raise RuntimeError("no such\nfruit")
            if action == "hang":
                time.sleep(HANG)
            if action == "exit":
                sys.exit(3)
            self.tries += 1
            right = action == self.word.upper()
            reward = float("nan") if action == "nan" else float(right)
            return ("Right." if right else "Wrong."), reward, right, self.tries >= 3, {}

        def close(self) -> None:
            type(self).closed += 1

    return Shout()


class Dial:
    """A class for TRL's ``environment_factory``: turn the dial to the target."""

    def reset(self, target: int = 3, fail: bool = False, **row: Any) -> str:
        if fail:
            raise RuntimeError("no dial")
        self._target, self._place = target, 0
        return f"The dial is at 0; bring it to {target}."

    def turn(self, steps: int) -> str:
        """Turn the dial.

        Args:
            steps: How far.

        Returns:
            Where it is then.
        """
        if steps > 50:
            raise ValueError("the dial is stuck")
        if steps < -50:
            raise ConnectionError("the dial is gone")
        self._place += steps
        return f"at {self._place}"

    async def wait(self, seconds: float = 0.0) -> str:
        """Wait.

        Args:
            seconds: How long.

        Returns:
            A word.
        """
        await asyncio.sleep(seconds)
        return "waited"

    def get_reward(self) -> float:
        return float(self._place == self._target)

    async def cling(self) -> str:
        """Hold on, also to what is cancelled."""
        until = time.monotonic() + 3.0
        while time.monotonic() < until:
            try:
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                continue
        return "let go"


class BadReward(Dial):
    def get_reward(self) -> Any:  # type: ignore[override]
        return {0: None, 1: "much", 2: float("inf")}[self._place]


class NoReward(Dial):
    get_reward = None  # type: ignore[assignment]


class NoTool:
    def reset(self, **row: Any) -> None:
        return None


class NoDocstring(NoTool):
    def poke(self) -> str:
        return "ouch"


VERIFIERS = """
import verifiers.v1 as vf

__all__ = ["Words", "Talk"]


class Row(vf.TaskData):
    word: str


class Say(vf.Task[Row]):
    @vf.reward
    async def right(self, trace) -> float:
        if trace.last_reply == "crash":
            raise KeyError("no such fruit")
        return float(trace.last_reply == self.data.word.upper())

    @vf.stop
    async def bored(self, trace) -> bool:
        return trace.last_reply == "bore"


class Words(vf.Taskset[Say]):
    def load(self):
        for word in ("pear", "plum"):
            prompt = f"The word is {word}."
            yield Say(Row(name=word, word=word, system_prompt="Shout.", prompt=prompt), self.config.task)


class TalkConfig(vf.EnvConfig):
    player: vf.AgentConfig = vf.AgentConfig()
    tries: int = 3


class Talk(vf.Env[TalkConfig]):
    async def run(self, task, agents):
        async with agents.player.interaction(task) as talk:
            said = await talk.turn()
            for _ in range(self.config.tries - 1):
                if said.terminated or said.last_reply.isupper():
                    break
                if said.last_reply == "burst":
                    raise RuntimeError("the referee left")
                said = await talk.turn("Louder.")
"""

OPENENV = """
import sys
import time

import uvicorn
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State


class Say(Action):
    message: str


class Heard(Observation):
    heard: str


class Shout(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed=None, episode_id=None, word="", **kwargs):
        self.word, self.tries = word or ("pear", "plum", "fig")[(seed or 0) % 3], 0
        return Heard(heard=f"The word is {self.word}.")

    def step(self, action, timeout_s=None, **kwargs):
        if action.message == "crash":
            raise KeyError("no such fruit")
        if action.message == "hang":
            time.sleep(30)
        self.tries += 1
        right = action.message == self.word.upper()
        done = right or self.tries >= 3
        return Heard(heard="Right." if right else "Wrong.", done=done, reward=float(right) if done else None)

    @property
    def state(self):
        return State(step_count=self.tries)


app = create_fastapi_app(Shout, Say, Heard, max_concurrent_envs=4)
if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""
