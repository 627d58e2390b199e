"""An OpenEnv environment behind its server as a real environment of ours.

Owns: the WebSocket session (one environment of the server per episode), actions and observations as JSON or as one
text field. Refuses: starting servers or containers: it is given an address.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rollout.errors import ConfigError
from rollout.types import Action, Prompt, Task
from worldmodel.adapters.foreign import ForeignEnvironment, Seen, Terms, json_object, needed, one_line, opening, plain

CLIENT = "openenv.core.generic_client"
REFUSED = "VALIDATION_ERROR"  # what the server says of an action whose fields are not right
APART = ("done", "reward", "metadata")  # fields of every observation that are no part of what is seen


class OpenEnvSession:
    """``Session`` over OpenEnv's own generic client."""

    def __init__(self, factory: OpenEnvFactory, task: Task) -> None:
        self._factory, self._task = factory, task
        self._client: Any = None

    async def reset(self) -> Prompt:
        seconds = self._factory.terms.seconds
        make = needed(CLIENT).GenericEnvClient
        self._client = make(self._factory.url, connect_timeout_s=seconds, message_timeout_s=seconds, mode="simulation")
        told = {"seed": self._task.seed % 2**31, **self._task.world.state}
        result = await self._client.reset(**told)
        return opening(self._task.instruction, self._text(result.observation))

    def parse(self, text: str) -> Action:
        if self._factory.says:
            return plain(text)
        value = json_object(text)
        if value is None:
            return Action(text, error="expected one JSON object with the fields of an action")
        return Action(text, name="act", arguments=value)

    async def step(self, action: Action) -> Seen:
        says = self._factory.says
        fields = {says: action.arguments["text"]} if says else dict(action.arguments)
        try:
            result = await self._client.step(fields)
        except RuntimeError as error:  # how the client reports every answer that is an error
            if REFUSED not in str(error):
                raise
            return Seen(f"not an action of this environment: {one_line(error)}", refused=True)
        reward = None if result.reward is None else float(result.reward)
        return Seen(self._text(result.observation), bool(result.done), reward)

    def _text(self, observation: Mapping[str, Any]) -> str:
        shows = self._factory.shows
        if not shows:
            kept = {name: value for name, value in observation.items() if name not in APART}
            return json.dumps(kept, ensure_ascii=False)
        if shows not in observation:
            there = ", ".join(sorted(set(observation) - set(APART))) or "nothing"
            raise ConfigError(f"openenv: an observation has no field {shows!r}; it has {there}")
        return str(observation[shows])

    async def reward(self) -> float | None:
        return None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()


@dataclass(frozen=True, slots=True)
class OpenEnvFactory:
    """Picklable ``EnvFactory``. ``url``: the server. ``says``: the field of an action that a plain text fills; empty:
    an action is a JSON object of all its fields. ``shows``: the field of an observation that is shown; empty: all of
    them as JSON. ``task.seed`` and ``task.world.state`` go to ``reset``. The server must allow as many sessions at
    once (its ``max_concurrent_envs``) as there are episodes. Raises ConfigError."""

    url: str
    says: str = ""
    shows: str = ""
    terms: Terms = field(default_factory=lambda: Terms(reward="last"))

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(https?|wss?)://[^\s/]+(/\S*)?", self.url):
            raise ConfigError(f"openenv: url {self.url!r} must look like http://host:port")

    def __call__(self, task: Task, seed: int) -> ForeignEnvironment:
        needed(CLIENT)  # before any deadline: the first import takes seconds
        return ForeignEnvironment("openenv", OpenEnvSession(self, task), self.terms)
