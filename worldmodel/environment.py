"""The simulated environment: one task, one domain, and any world model in the place of the machine.

Owns: the history, seeds per call, local answers to invalid and final actions, and verdicts by probes: predicted, but
for those that read nothing but what the policy itself said (``told``).
Refuses: ``done`` from a prediction (only the action grammar ends an episode), and any text of the instruction, the
checks or the reference towards the world model: it reads ``domain.spec(world)``, the history and actions.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rollout.errors import TaskError, WorldFault
from rollout.reward.checks import holds, seen
from rollout.seeds import derive_seed
from rollout.types import (
    Action,
    Check,
    CheckResult,
    Finish,
    Observation,
    ObservationKind,
    Predicate,
    Prompt,
    Task,
    Turn,
    Usage,
)
from worldmodel.domains import kit
from worldmodel.types import (
    Domain,
    Exchange,
    Prediction,
    PredictRequest,
    Told,
    WorldModel,
    WorldSpec,
    refusal,
    tells_nothing,
)

WorldModelSpec = Callable[[], WorldModel]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationSettings:
    """``temperature`` of steps; None: the model's. ``verdict_samples`` predictions per probe: the first greedy, the
    others at ``verdict_temperature``, by default the model's own distribution, so that its doubt shows; where the
    replies differ there is no verdict. ``deadline_seconds`` bounds one prediction."""

    temperature: float | None = None
    verdict_samples: int = 3
    verdict_temperature: float = 1.0
    deadline_seconds: float = 60.0


class SimulatedEnvironment:
    """Implements ``Environment``: single use, restorable after any whole turn."""

    def __init__(
        self,
        task: Task,
        domain: Domain,
        model: WorldModel,
        settings: SimulationSettings,
        seed: int = 0,
        told: Told = tells_nothing,
    ) -> None:
        self.world_id = f"simulated:{model.model_id}"
        self._task = task
        self._domain = domain
        self._model = model
        self._settings = settings
        self._seed = seed
        self._told = told
        self._spec = domain.spec(task.world)
        self._history: tuple[Exchange, ...] = ()
        self._actions: tuple[Action, ...] = ()  # those that were accepted
        self._turn = 0
        self._anchor = spec_digest(self._spec)

    async def start(self) -> Prompt:
        return self._domain.prompt(self._task)

    def parse(self, text: str) -> Action:
        return self._domain.parse(text)

    async def step(self, action: Action) -> Observation:
        """The predicted observation. A fault of the world model is a ``world_error`` observation."""
        anchor, turn = self._anchor, self._turn
        self._turn += 1
        if (refused := refusal(action)) is not None:
            return Observation(refused, kind=ObservationKind.INVALID_ACTION, anchor=anchor)
        shown = self._domain.show(action)
        if action.final:
            self._finish(action)
            return Observation("", done=True, anchor=anchor)
        try:
            seed = derive_seed(self._seed, "step", turn)
            prediction = await self._predict(shown, seed, self._settings.temperature)
        except WorldFault as error:
            return Observation("", kind=ObservationKind.WORLD_ERROR, anchor=anchor, error=str(error))
        self._append(action, prediction.observation)
        return Observation(
            prediction.observation, usage=prediction.usage, anchor=anchor, truncated=prediction.truncated
        )

    async def verify(self, checks: Sequence[Check]) -> tuple[CheckResult, ...]:
        """Each probe in its own branch of the history, all at once, predicted once however many checks use it."""
        probes = dict.fromkeys(probe for check in checks for probe in check.probes)
        replies = await asyncio.gather(*(self._probe(probe) for probe in probes))
        table = dict(zip(probes, replies, strict=True))
        return tuple(judge(check, [table[probe] for probe in check.probes]) for check in checks)

    async def restore(self, turns: Sequence[Turn]) -> bool:
        """Rebuild the history from whole turns; False where one of them was a fault of the world."""
        if any(turn.observation.kind is ObservationKind.WORLD_ERROR for turn in turns):
            return False
        self._history, self._actions, self._turn, self._anchor = (), (), len(turns), spec_digest(self._spec)
        for turn in turns:
            if turn.action.final:
                self._finish(turn.action)
            elif refusal(turn.action) is None:
                self._append(turn.action, turn.observation.text)
        return True

    async def close(self) -> None:
        """The world model is shared by the worker's episodes and stays open."""

    def _finish(self, action: Action) -> None:
        """A final action that says something, such as an answer, is there for the probes to ask about."""
        if action.arguments:
            self._append(action, "")

    def _append(self, action: Action, observation: str) -> None:
        exchange = Exchange(self._domain.show(action), observation)
        self._history, self._actions = (*self._history, exchange), (*self._actions, action)
        self._anchor = _digest([self._anchor, exchange.action, exchange.observation])

    async def _predict(self, shown: str, seed: int, temperature: float | None) -> Prediction:
        deadline = time.monotonic() + self._settings.deadline_seconds
        session = f"{self._task.id}/{self._seed}"
        request = PredictRequest(self._spec, self._history, shown, seed, deadline, session, temperature)
        return await self._model.predict(request)

    async def _probe(self, probe: str) -> ProbeReplies:
        action = self._domain.parse(probe)
        if action.error is not None or action.final:
            return ProbeReplies((), f"probe {probe!r} is not an action: {action.error or 'it ends the episode'}")
        if action.executes:
            return ProbeReplies((), f"{action.name} needs execution: it is never predicted")
        if (reply := self._told(self._actions, action)) is not None:
            return ProbeReplies((Prediction(reply, reply, Usage(), Finish.STOP, "told"),))
        shown = self._domain.show(action)
        temperatures = [0.0] + [self._settings.verdict_temperature] * (self._settings.verdict_samples - 1)
        seeds = [derive_seed(self._seed, "probe", probe, sample) for sample in range(len(temperatures))]
        calls = (self._sample(shown, s, t) for s, t in zip(seeds, temperatures, strict=True))
        results = await asyncio.gather(*calls)
        faults = [result for result in results if isinstance(result, str)]
        return ProbeReplies(tuple(r for r in results if not isinstance(r, str)), "; ".join(faults[:1]))

    async def _sample(self, shown: str, seed: int, temperature: float | None) -> Prediction | str:
        try:
            return await self._predict(shown, seed, temperature)
        except WorldFault as error:
            return str(error)


@dataclass(frozen=True, slots=True)
class ProbeReplies:
    """What a probe's samples returned, and in ``reason`` why one of them or all are missing."""

    samples: tuple[Prediction, ...]
    reason: str = ""

    def verdict(self, predicate: Predicate) -> tuple[bool | None, str]:
        """(truth, reason): None where a reply is missing, an answer was cut short, or the samples disagree in what the
        predicate reads. Three different wrong replies to an ``equals`` are doubt, not a failure."""
        if self.reason or not self.samples:
            return None, self.reason
        if any(sample.finish is Finish.LENGTH for sample in self.samples):
            return None, "a predicted reply was cut short"
        try:
            truths = [holds(predicate, sample.observation) for sample in self.samples]
        except TaskError as error:
            return None, str(error)
        if len(set(truths)) > 1:
            return None, f"samples disagree: {sum(truths)} of {len(truths)} hold"
        if len({seen(predicate, sample.observation) for sample in self.samples}) > 1:
            return None, "samples disagree: different replies"
        return truths[0], ""


def judge(check: Check, replies: Sequence[ProbeReplies]) -> CheckResult:
    """Every probe must hold: one that certainly fails decides, otherwise one without a verdict leaves it open.
    A check without probes fails, as in the real world."""
    verdicts = [reply.verdict(check.predicate) for reply in replies]
    texts = tuple(reply.samples[0].observation if reply.samples else "" for reply in replies)
    truths = [truth for truth, _ in verdicts]
    if False in truths or not truths:
        return CheckResult(check.name, False, texts)
    reasons = "; ".join(reason for truth, reason in verdicts if truth is None)
    return CheckResult(check.name, None if reasons else True, texts, reasons)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def spec_digest(spec: WorldSpec) -> str:
    """Identity of a world as the simulator knows it."""
    return _digest(asdict(spec))


@dataclass
class SimulatedFactory:
    """Picklable ``EnvFactory``. ``domain`` None: each task's own. The world model is built at the first episode of each
    process, held for all later ones, and left out of the pickle."""

    domain: Domain | None
    model_spec: WorldModelSpec
    settings: SimulationSettings = field(default_factory=SimulationSettings)
    _model: WorldModel | None = field(default=None, init=False, repr=False, compare=False)

    def __call__(self, task: Task, seed: int) -> SimulatedEnvironment:
        if self.domain is not None:
            return SimulatedEnvironment(task, self.domain, self.model, self.settings, seed)
        found = kit(task.domain)
        return SimulatedEnvironment(task, found.domain, self.model, self.settings, seed, found.told)

    @property
    def model(self) -> WorldModel:
        if self._model is None:
            self._model = self.model_spec()
        return self._model

    async def close(self) -> None:
        """Release the world model, if one was built."""
        if self._model is not None:
            await self._model.close()
            self._model = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None}
