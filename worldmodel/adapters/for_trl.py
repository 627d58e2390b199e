"""Our worlds in TRL's ``GRPOTrainer(environment_factory=...)``.

Owns: one tool, ``act``, over an ``Environment``; dataset rows for tasks; a reward function that runs the checks.
Refuses: importing TRL (the caller does) and what TRL's own loop lacks: its environments run one after another, and a
turn must be a tool call. ``trainer.grpo`` is our own seam.

    worlds = TrlWorlds(kit("terminal").generate("train", 64, 0))
    GRPOTrainer(..., environment_factory=worlds, train_dataset=Dataset.from_list(worlds.rows()),
                reward_funcs=checks_pass)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from rollout.errors import ConfigError, WorldFault
from rollout.protocols import EnvFactory, Environment
from rollout.seeds import derive_seed
from rollout.spot import success
from rollout.types import ObservationKind, Task
from worldmodel.domains import RealWorlds, kit

T = TypeVar("T")
HOW = "\n\nEvery action is one call of the tool `act`; its argument is the text of the action."
OVER, LOST = "The episode is over.", "The world failed: this episode does not count."


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """Environments are asynchronous and TRL calls tools from its own thread: one loop, on a daemon thread."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="trl-worlds", daemon=True).start()
    return loop


class WorldTool:
    """What TRL calls an environment: pooled, told its next task by ``reset``; every public method but that is a tool.
    A fault of the world raises nothing (TRL would end the run): the episode is unscored."""

    def __init__(self, worlds: TrlWorlds, number: int) -> None:
        self._worlds, self._number = worlds, number
        self._environment: Environment | None = None
        self._task: Task | None = None
        self._episodes = self._turns = 0
        self._over, self._fault = True, ""

    def reset(self, task: str = "", **row: Any) -> str:
        """Start the task of this row; what is returned ends its prompt."""
        self._leave()
        self._task = self._worlds.task(task)
        self._episodes, self._turns, self._over, self._fault = self._episodes + 1, 0, False, ""
        seed = derive_seed(self._task.id, self._number, self._episodes)
        self._environment = self._worlds.worlds(self._task, seed)
        try:
            self._run("start", self._environment.start())
        except WorldFault as fault:
            self._fault = str(fault)
        return HOW

    def act(self, action: str) -> str:
        """Do one action in the world of the task and read what it answers.

        Args:
            action: The text of one action, in the form that the task describes.

        Returns:
            What the world answers.
        """
        if self._fault or self._over or self._environment is None or self._task is None:
            return LOST if self._fault else OVER
        parsed = self._environment.parse(str(action))
        try:
            seen = self._run("step", self._environment.step(parsed))
        except WorldFault as fault:
            self._fault = str(fault)
            return LOST
        if seen.kind is ObservationKind.WORLD_ERROR:
            self._fault = seen.error or "no reason given"
            return LOST
        self._turns += 1
        self._over = seen.done or parsed.final or self._turns >= self._task.max_turns
        return seen.text or (OVER if self._over else "")

    def _verdict(self) -> bool | None:
        """Whether all checks pass, asked once at the end; the world is closed."""
        if self._fault or self._environment is None or self._task is None:
            return None
        try:
            return success(self._run("verify", self._environment.verify(self._task.checks)))
        except WorldFault as fault:
            self._fault = str(fault)
            return None
        finally:
            self._leave()

    def _leave(self) -> None:
        environment, self._environment, self._over = self._environment, None, True
        if environment is not None:
            try:
                self._run("close", environment.close())
            except WorldFault:  # left behind: its episode is already decided
                return

    def _run(self, verb: str, work: Coroutine[Any, Any, T]) -> T:
        """``work`` within the deadline. Raises WorldFault."""
        future = asyncio.run_coroutine_threadsafe(work, _loop())
        try:
            return future.result(self._worlds.seconds)
        except TimeoutError as error:
            future.cancel()
            raise WorldFault(f"{verb} did not end within {self._worlds.seconds:g} s") from error


@dataclass(slots=True)
class TrlWorlds:
    """``environment_factory``: a call makes one ``WorldTool``. ``worlds``: where the tasks are done, the real worlds
    unless told. ``seconds``: the deadline of each call. Raises ConfigError."""

    tasks: Sequence[Task]
    worlds: EnvFactory = field(default_factory=RealWorlds)
    seconds: float = 120.0
    _by_id: dict[str, Task] = field(init=False, repr=False)
    _made: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        self._by_id = {task.id: task for task in self.tasks}
        if not self._by_id:
            raise ConfigError("trl: tasks is empty")

    def __call__(self) -> WorldTool:
        self._made += 1
        return WorldTool(self, self._made)

    def task(self, id: str) -> Task:
        if id not in self._by_id:
            raise ConfigError(f"trl: column task: no task is called {id!r}; use the rows of TrlWorlds.rows()")
        return self._by_id[id]

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the dataset: ``prompt`` as the domain shows it to a policy, and ``task``, which finds it again."""
        return [
            {
                "prompt": [
                    {"role": message.role, "content": message.content}
                    for message in kit(task.domain).domain.prompt(task).messages
                ],
                "task": task.id,
            }
            for task in self.tasks
        ]


def checks_pass(environments: Sequence[WorldTool], **columns: Any) -> list[float | None]:
    """TRL reward function: 1.0 where every check of the task passes, else 0.0; None where there is no verdict."""
    verdicts = [environment._verdict() for environment in environments]
    return [None if verdict is None else float(verdict) for verdict in verdicts]
