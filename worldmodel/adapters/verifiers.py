"""A verifiers environment as a real environment of ours (verifiers 0.4, ``verifiers.v1``).

Owns: the policy's seat. In verifiers the environment drives and asks its agents for turns; here its ``run`` goes on in
a task of the event loop, and each turn that it asks of its one agent is an observation that waits for an action.
Refuses: environments with more than one seat, and tasks that need tool servers, a container or a runtime of verifiers.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from rollout.errors import ConfigError, TaskError
from rollout.types import Action, Message, Prompt, Task
from worldmodel.adapters.foreign import ForeignEnvironment, OneThread, Seen, Terms, foreign_task, needed, opening, plain


class VerifiersSession:
    """``Session``. A fresh environment object per episode: ``start``, ``setup``, ``run``, ``finalize``, ``stop``."""

    def __init__(self, load: Callable[[], Any], task: Task) -> None:
        self._load, self._task = load, task
        self._env: Any = None
        self._seat: Seat | None = None
        self._play: asyncio.Task[None] | None = None

    async def reset(self) -> Prompt:
        vf = needed("verifiers.v1")
        loader = OneThread("verifiers")
        try:
            self._env = await loader.call(self._load)
        finally:
            loader.end()
        row = pick(self._env, self._task)
        name = check(self._env, row)
        self._seat = Seat(vf, getattr(self._env.config, name), name)
        await self._env.start()
        self._play = asyncio.ensure_future(self._run(vf, row, name))
        asked = await self._next()
        if asked is None:
            raise RuntimeError("the environment ended before it asked for a turn")
        return to_prompt(self._task.instruction, asked)

    async def _run(self, vf: Any, row: Any, name: str) -> None:
        """One episode as ``Env.run_episode`` has it, with our seat in the place of its agents."""
        seat = self._seat
        assert seat is not None
        named = vf.TraceTask(type=type(row).__name__, data=row.data, key=row.key, hash=row.hash)
        episode = vf.Episode(env=vf.EnvInfo(id=self._env.config.env_id), task=named)
        seat.finished = episode.traces
        agents = Agents({name: seat})
        await self._env.setup(agents)
        await self._env.run(row, agents)
        if not episode.traces:
            raise RuntimeError("the environment ran no agent")
        await self._env.finalize(row, episode)

    async def _next(self) -> Sequence[Any] | None:
        """The messages that came with the next turn asked for; None once the environment is done."""
        assert self._play is not None and self._seat is not None
        asked = asyncio.ensure_future(self._seat.asked.get())
        await asyncio.wait({asked, self._play}, return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            return asked.result()
        asked.cancel()
        self._play.result()
        return None

    def parse(self, text: str) -> Action:
        return plain(text)

    async def step(self, action: Action) -> Seen:
        assert self._seat is not None
        self._seat.replies.put_nowait(str(action.arguments["text"]))
        asked = await self._next()
        if asked is None:
            return Seen("", done=True)
        return Seen("\n\n".join(text_of(message) for message in asked))

    async def reward(self) -> float | None:
        """The weighted sum that verifiers reports. An episode that we cut is told so first, and scored as it is."""
        assert self._play is not None and self._seat is not None
        self._seat.cut()
        await self._play
        if len(self._seat.finished) != 1:
            raise RuntimeError(f"the environment ran its agent {len(self._seat.finished)} times in one episode")
        scores = list(self._seat.finished[0].rewards.values())
        return None if None in scores or not scores else sum(float(score.value) for score in scores)

    async def close(self) -> None:
        if self._play is not None and not self._play.done():
            self._play.cancel()
            await asyncio.wait({self._play})
        if self._env is not None:
            await self._env.stop()


class Agents:
    """What ``Env.run`` is given: its agents by the name of their seat."""

    def __init__(self, seats: dict[str, Seat]) -> None:
        self.__dict__.update(seats)


class Seat:
    """Stands where verifiers puts an ``Agent``: ``run`` and ``interaction``, answered by our policy."""

    trainable = True

    def __init__(self, vf: Any, config: Any, name: str) -> None:
        self.asked: asyncio.Queue[list[Any]] = asyncio.Queue()
        self.replies: asyncio.Queue[str | None] = asyncio.Queue()  # None: no reply will come any more
        self.finished: list[Any] = []
        self.config, self.name = config, name
        self._vf = vf

    def cut(self) -> None:
        self.replies.put_nowait(None)

    async def run(self, task: Any, **borrowed: Any) -> Any:
        async with self.interaction(task, **borrowed) as exchange:
            await exchange.turn()
        return exchange.trace

    @asynccontextmanager
    async def interaction(self, task: Any, **borrowed: Any) -> AsyncIterator[Exchange]:
        """Scored when its block is left, as in verifiers."""
        if lent := [name for name, value in borrowed.items() if value and name in ("runtime", "tools")]:
            raise ConfigError(f"verifiers: {type(task).__name__} is lent {' and '.join(lent)}, which has no place here")
        exchange = Exchange(self._vf, self, task)
        await needed("verifiers.v1.utils.decorators").invoke(task.setup, exchange.given)
        yield exchange
        await exchange.close()


class Exchange:
    """One conversation of the seat: what verifiers calls an ``Interaction``, with its trace."""

    def __init__(self, vf: Any, seat: Seat, task: Any) -> None:
        self._vf, self._seat, self._task = vf, seat, task
        self._over = False
        made = needed("verifiers.v1.state").state_cls(type(task))()
        named = vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash)
        agent = vf.AgentInfo(config=seat.config, name=seat.name)
        self.trace = vf.Trace(task=named, state=made, agent=agent)
        self.given = {"trace": self.trace, "runtime": None}

    async def turn(self, message: Any = None) -> Any:
        """What the environment says, then the policy's reply; a terminated segment where none comes any more."""
        if self._over:
            raise RuntimeError("the exchange is over")
        said = self._opening() if not self.trace.nodes else []
        if message is not None:
            parse = needed("verifiers.v1.dialects").parse_message
            many = [{"role": "user", "content": message}] if isinstance(message, str) else message
            said += [parse(item) if isinstance(item, dict) else item for item in many]
        if self.trace.stop_condition is None:
            self._seat.asked.put_nowait(said)
            reply = await self._seat.replies.get()
            if reply is None:
                self.trace.stop("max_turns")
        if self.trace.stop_condition is not None:
            self._over = True
            return self._vf.Segment(messages=[], terminated=True)
        answer = self._vf.AssistantMessage(content=reply)
        for item in said:
            self._keep(item)
        self._keep(answer, sampled=True)
        await self._stops()
        return self._vf.Segment(messages=[answer])

    def _opening(self) -> list[Any]:
        data, made = self._task.data, []
        if data.system_prompt:
            made.append(self._vf.SystemMessage(content=data.system_prompt))
        if isinstance(data.prompt, str):
            made.append(self._vf.UserMessage(content=data.prompt))
        return [*made, *(data.prompt if isinstance(data.prompt, list) else [])]

    def _keep(self, message: Any, sampled: bool = False) -> None:
        nodes = self.trace.nodes
        parent = len(nodes) - 1 if nodes else None
        nodes.append(self._vf.MessageNode(parent=parent, message=message, sampled=sampled))

    async def _stops(self) -> None:
        invoke = needed("verifiers.v1.utils.decorators").invoke
        for hook in self._task.hooks("stop"):
            fired = invoke(hook, {"task": self._task.data, "trace": self.trace})
            if await fired if inspect.isawaitable(fired) else fired:
                self.trace.stop(hook.__name__)

    async def close(self) -> None:
        self._over = True
        self.trace.stop("user_closed")
        await needed("verifiers.v1.utils.decorators").invoke(self._task.finalize, self.given)
        await self._task.score(self.trace, None)
        self.trace.ok = True
        self._seat.finished.append(self.trace)


def pick(env: Any, task: Task) -> Any:
    """The environment's own task that ``task`` stands for. Raises TaskError."""
    index = task.world.state.get("idx")
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise TaskError(f"verifiers: task {task.id}: world.state.idx must be the number of a row of its taskset")
    for row in islice(env.taskset, index, None):
        return row
    raise TaskError(f"verifiers: task {task.id}: the taskset has no row {index}")


def check(env: Any, row: Any) -> str:
    """The name of the one seat. Raises ConfigError where the environment needs more than a policy."""
    kind = type(env).__name__
    seats = list(needed("verifiers.v1.configs.agent").agent_config_fields(env.config))
    if len(seats) != 1:
        raise ConfigError(f"verifiers: {kind} has the seats {', '.join(seats)}: only one, the policy's, has a player")
    if type(row).NEEDS_CONTAINER or row.toolsets(row.config) or env.taskset.toolsets(env.taskset.config):
        raise ConfigError(f"verifiers: tasks of {kind} need tool servers or a container")
    for hook in (*row.hooks("reward"), *row.hooks("stop")):
        wanted = {
            name for name, p in inspect.signature(hook).parameters.items() if p.default is inspect.Parameter.empty
        }
        if wanted - {"task", "trace"}:
            raise ConfigError(f"verifiers: {hook.__name__} of {kind} needs more than the trace")
    return seats[0]


def text_of(message: Any) -> str:
    content = message.content
    if isinstance(content, str):
        return content
    if any(part.type != "text" for part in content):
        raise ConfigError("verifiers: a message holds an image, and a policy here reads text")
    return "\n".join(part.text for part in content)


def to_prompt(instruction: str, messages: Sequence[Any]) -> Prompt:
    """The environment's opening messages; ``instruction`` is added to the last of them."""
    if not messages:
        return opening(instruction)
    if any(message.role not in ("system", "user", "assistant") for message in messages):
        raise ConfigError("verifiers: a prompt with tool messages cannot be shown to a policy here")
    made = [Message(message.role, text_of(message)) for message in messages]
    if instruction:
        made[-1] = Message(made[-1].role, f"{made[-1].content}\n\n{instruction}")
    return Prompt(tuple(made))


def verifiers_tasks(load: Callable[[], Any], count: int, max_turns: int = 20, split: str = "train") -> list[Task]:
    """The first ``count`` rows of the environment's taskset as tasks of ours; what they say is the environment's."""
    env = load()
    ids = [row.data.id or row.data.name or str(index) for index, row in enumerate(islice(env.taskset, count))]
    return [
        foreign_task(
            f"verifiers-{index}-{name}", domain="verifiers", state={"idx": index}, max_turns=max_turns, split=split
        )
        for index, name in enumerate(ids)
    ]


@dataclass(frozen=True, slots=True)
class VerifiersFactory:
    """Picklable ``EnvFactory``. ``load``: a picklable function that makes the environment, such as
    ``partial(load_environment, config)``."""

    load: Callable[[], Any]
    terms: Terms = field(default_factory=Terms)

    def __call__(self, task: Task, seed: int) -> ForeignEnvironment:
        needed("verifiers.v1")  # before any deadline: the first import takes seconds
        return ForeignEnvironment("verifiers", VerifiersSession(self.load, task), self.terms)
