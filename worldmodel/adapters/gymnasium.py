"""A Gymnasium environment of texts as a real environment of ours.

Owns: reset, step and the checks on the spaces. Refuses: observations or actions that are not ``Text``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rollout.errors import ConfigError
from rollout.types import Action, Prompt, Task
from worldmodel.adapters.foreign import ForeignEnvironment, OneThread, Seen, Terms, needed, one_line, opening, plain


class GymnasiumSession:
    """``Session``. Every call runs on one thread of the episode's own, as many environments ask."""

    def __init__(self, make: str | Callable[[], Any], task: Task) -> None:
        self._make, self._task = make, task
        self._thread = OneThread("gymnasium")
        self._env: Any = None

    async def reset(self) -> Prompt:
        return opening(self._task.instruction, await self._thread.call(self._reset))

    def _reset(self) -> str:
        library = needed("gymnasium")
        if isinstance(self._make, str):
            try:
                self._env = library.make(self._make)
            except library.error.Error as error:
                raise ConfigError(f"gymnasium: {self._make!r} cannot be made: {one_line(error)}") from error
        else:
            self._env = self._make()
        for name in ("observation_space", "action_space"):
            space = getattr(self._env, name, None)
            if not isinstance(space, library.spaces.Text):
                raise ConfigError(f"gymnasium: {name} of {self._make!r} is {type(space).__name__}, not Text")
        text, _ = self._env.reset(seed=self._task.seed % 2**31, options=dict(self._task.world.state) or None)
        return str(text)

    def parse(self, text: str) -> Action:
        return plain(text)

    async def step(self, action: Action) -> Seen:
        return await self._thread.call(lambda: self._step(str(action.arguments["text"])))

    def _step(self, text: str) -> Seen:
        space = self._env.action_space
        if not space.contains(text):
            size = f"{space.min_length} to {space.max_length} characters"
            return Seen(f"an action here has {size} of: {''.join(sorted(space.character_set))}", refused=True)
        seen, reward, terminated, truncated, _ = self._env.step(text)
        return Seen(str(seen), bool(terminated or truncated), float(reward))

    async def reward(self) -> float | None:
        return None

    async def close(self) -> None:
        """Waits for a call that still runs."""
        await self._thread.finish(lambda: self._env.close() if self._env is not None else None)


@dataclass(frozen=True, slots=True)
class GymnasiumFactory:
    """Picklable ``EnvFactory``. ``make``: a name that Gymnasium knows, or a picklable function that makes one.
    ``task.seed`` and ``task.world.state`` (as ``options``) go to ``reset``."""

    make: str | Callable[[], Any]
    terms: Terms = field(default_factory=Terms)

    def __call__(self, task: Task, seed: int) -> ForeignEnvironment:
        needed("gymnasium")  # before any deadline
        return ForeignEnvironment("gymnasium", GymnasiumSession(self.make, task), self.terms)
