"""The simulated environment over fake, replayed and (in test_language) language world models; its config."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from pydantic import ValidationError

from rollout.errors import WorldFault
from rollout.protocols import Environment
from rollout.types import (
    Action,
    Check,
    Completion,
    Finish,
    Message,
    Observation,
    ObservationKind,
    Predicate,
    Prompt,
    Task,
    Turn,
    Usage,
    World,
)
from tests.fakes import make_task
from worldmodel.config import WorldModelConfig
from worldmodel.dialects import dialect
from worldmodel.domains.terminal import TERMINAL
from worldmodel.environment import SimulatedEnvironment, SimulatedFactory, SimulationSettings
from worldmodel.language import LocalModelSpec
from worldmodel.replay import ReplayWorldModel
from worldmodel.traces import collect_share, sessions
from worldmodel.types import Episode, Exchange, Prediction, PredictRequest, Transition, WorldSpec

SPEC = WorldSpec("fake", "A store.", "set, get, done", "a=1")


@dataclass(frozen=True)
class StoreDomain:
    """The grammar of the fake text world, as a ``Domain``."""

    name: str = "fake"

    def parse(self, text: str) -> Action:
        if not text.strip():
            return Action(text, error="empty command")
        return Action(text, final=text.strip() == "done")

    def prompt(self, task: Task) -> Prompt:
        return Prompt((Message("user", task.instruction),))

    def spec(self, world: World) -> WorldSpec:
        return replace(SPEC, initial_state=" ".join(f"{k}={v}" for k, v in world.state.items()))

    def show(self, action: Action) -> str:
        return action.text.strip()


@dataclass
class StoreModel:
    """Plays the store from the history alone; ``answers`` override replies per action and sample, ``requests`` keeps
    what was asked."""

    answers: dict[str, list[str | Exception]] = field(default_factory=dict)
    requests: list[PredictRequest] = field(default_factory=list)
    finish: Finish = Finish.STOP
    model_id: str = "store"
    closed: int = 0

    async def predict(self, request: PredictRequest) -> Prediction:
        earlier = sum(r.action == request.action and r.history == request.history for r in self.requests)
        self.requests.append(request)
        await asyncio.sleep(0)
        text: str | Exception = self._play(request)
        if request.action in self.answers:
            options = self.answers[request.action]
            text = options[min(earlier, len(options) - 1)]
        if isinstance(text, Exception):
            raise text
        return Prediction(text, text, Usage(3, 1), self.finish, self.model_id, self.finish is Finish.LENGTH)

    def _play(self, request: PredictRequest) -> str:
        state = dict(pair.split("=") for pair in request.spec.initial_state.split())
        for exchange in request.history:
            words = exchange.action.split()
            if words[0] == "set":
                state[words[1]] = words[2]
        words = request.action.split()
        return state.get(words[1], f"{words[1]}: not set") if words[0] == "get" else ""

    async def close(self) -> None:
        self.closed += 1


def make(model: StoreModel | None = None, task: Task | None = None, seed: int = 0, **settings) -> SimulatedEnvironment:
    task = task or make_task(state={"a": "0"})
    return SimulatedEnvironment(task, StoreDomain(), model or StoreModel(), SimulationSettings(**settings), seed)


async def play(environment: SimulatedEnvironment, *texts: str):
    return [await environment.step(environment.parse(text)) for text in texts]


# ------------------------------------------------------------------------------------------------ steps


async def test_an_episode_reads_back_what_it_wrote_and_ends_on_the_grammar_alone() -> None:
    environment: Environment = make(StoreModel(answers={"set a 1": ["done"]}))
    assert await environment.start() == Prompt((Message("user", "Set a to 1."),))
    wrote, read, bad, end = await play(environment, "set a 1", " get a ", " ", "done")
    assert (wrote.text, wrote.done) == ("done", False)  # a prediction never ends the episode
    assert (read.text, read.usage) == ("1", Usage(3, 1))
    assert (bad.text, bad.kind) == ("empty command", ObservationKind.INVALID_ACTION)
    assert end.done and end.text == ""


async def test_invalid_and_final_actions_never_reach_the_world_model() -> None:
    model = StoreModel()
    await play(make(model), "", "set a 1", "", "get a", "done")
    assert [r.action for r in model.requests] == ["set a 1", "get a"]
    assert model.requests[1].history == (Exchange("set a 1", ""),)


async def test_a_world_fault_is_an_observation_and_is_not_in_the_history() -> None:
    model = StoreModel(answers={"get a": [WorldFault("server down"), "0"]})
    fault, retry = await play(make(model), "get a", "get a")
    assert (fault.kind, fault.error, fault.done) == (ObservationKind.WORLD_ERROR, "server down", False)
    assert retry.text == "0" and model.requests[1].history == ()


async def test_seeds_differ_by_member_and_turn_and_repeat_by_name() -> None:
    def seeds(model: StoreModel) -> list[int]:
        return [r.seed for r in model.requests]

    models = [StoreModel() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        await play(make(model, seed=seed), "get a", "get a")
    assert seeds(models[0]) == seeds(models[1])
    assert len({*seeds(models[0]), *seeds(models[2])}) == 4


async def test_anchor_names_the_state_an_action_was_taken_in() -> None:
    first, second = await play(make(seed=1), "set a 1", "get a")
    again, other = await play(make(seed=2), "set a 1", "set a 2")
    elsewhere = (await play(make(task=make_task(state={"a": "5"})), "set a 1"))[0]
    assert first.anchor == again.anchor and second.anchor == other.anchor
    assert len({first.anchor, second.anchor, elsewhere.anchor}) == 3


async def test_truncated_predictions_are_flagged() -> None:
    assert (await play(make(StoreModel(finish=Finish.LENGTH)), "get a"))[0].truncated


async def test_deadline_and_temperature_reach_the_model() -> None:
    model = StoreModel()
    before = time.monotonic()
    await play(make(model, deadline_seconds=5.0, temperature=0.7), "get a")
    assert before + 4.9 < model.requests[0].deadline < time.monotonic() + 5.1
    assert model.requests[0].temperature == 0.7


# ------------------------------------------------------------------------------------------------ verdicts


def check(*probes: str, value: str = "1", name: str = "c") -> Check:
    return Check(name, probes, Predicate("equals", value))


async def test_probes_see_the_history_and_not_each_other() -> None:
    model = StoreModel()
    environment = make(model)
    await play(environment, "set a 1")
    results = await environment.verify([check("get a"), check("get b", value="b: not set", name="d")])
    assert [(r.name, r.passed, r.replies) for r in results] == [("c", True, ("1",)), ("d", True, ("b: not set",))]
    probes = model.requests[1:]
    assert {r.history for r in probes} == {(Exchange("set a 1", ""),)}
    assert (await play(environment, "get a"))[0].text == "1"
    assert model.requests[-1].history == (Exchange("set a 1", ""),)  # probes left no trace


async def test_a_verdict_takes_one_greedy_and_two_sampled_predictions_with_their_own_seeds() -> None:
    model = StoreModel()
    await make(model, verdict_temperature=0.8).verify([check("get a"), check("get a", value="2", name="d")])
    assert [r.temperature for r in model.requests] == [0.0, 0.8, 0.8]  # one probe, asked once for both checks
    assert len({r.seed for r in model.requests}) == 3


@pytest.mark.parametrize(
    ("samples", "passed"),
    [
        (["1", "1", "1"], True),
        (["1", "1 ", "1"], True),
        (["2", "2\n", "2"], False),
        (["1", "1", "2"], None),
        (["2", "3", "4"], None),
    ],
)
async def test_samples_must_agree_on_what_the_check_reads(samples: list[str], passed: bool | None) -> None:
    result = (await make(StoreModel(answers={"get a": list(samples)})).verify([check("get a")]))[0]
    assert result.passed is passed
    assert ("samples disagree" in result.reason) == (passed is None)


async def test_a_check_for_a_part_of_the_reply_needs_agreement_on_that_part_only() -> None:
    for value, passed in (("ok", True), ("bad", False)):
        part = Check("c", ("get a",), Predicate("contains", value))
        model = StoreModel(answers={"get a": ["ok at 1", "ok at 2", "ok at 3"]})
        assert (await make(model).verify([part]))[0].passed is passed


async def test_one_sure_failure_decides_a_check_and_doubt_leaves_it_open() -> None:
    model = StoreModel(answers={"get a": ["1", "2", "1"], "get b": ["2", "2", "2"], "get c": ["1"]})
    results = await make(model).verify([check("get a", "get b"), check("get a", "get c"), check("get c")])
    assert [r.passed for r in results] == [False, None, True]


async def test_faults_and_cut_replies_give_no_verdict() -> None:
    model = StoreModel(answers={"get a": ["1", WorldFault("server down"), "1"]})
    fault = (await make(model).verify([check("get a")]))[0]
    assert (fault.passed, fault.reason) == (None, "server down")
    cut = (await make(StoreModel(finish=Finish.LENGTH)).verify([check("get a")]))[0]
    assert cut.passed is None and "cut short" in cut.reason
    broken = Check("c", ("get a",), Predicate("regex", "("))
    assert "regex" in (await make().verify([broken]))[0].reason
    assert (await make().verify([Check("none", (), Predicate("equals", ""))]))[0].passed is False
    bad = (await make().verify([check("done")]))[0]
    assert bad.passed is None and "ends the episode" in bad.reason


async def test_what_the_policy_said_is_told_and_never_predicted() -> None:
    """Only accepted actions count, after a restore too."""

    def told(actions: Sequence[Action], probe: Action) -> str | None:
        return ",".join(action.text for action in actions) if probe.text == "said" else None

    model = StoreModel(answers={"get z": [WorldFault("server down")]})
    task = make_task(state={"a": "0"})
    environment = SimulatedEnvironment(task, StoreDomain(), model, SimulationSettings(), 0, told)
    await play(environment, "set a 1", "", "get z", "set a 2")
    asked = len(model.requests)
    results = await environment.verify([check("said", value="set a 1,set a 2"), check("said", name="d")])
    assert [r.passed for r in results] == [True, False] and len(model.requests) == asked
    assert (await environment.verify([check("get a", value="2")]))[0].passed is True and len(model.requests) > asked

    resumed = SimulatedEnvironment(task, StoreDomain(), StoreModel(), SimulationSettings(), 0, told)
    played = [environment.parse(text) for text in ("set a 1", "", "done")]
    assert await resumed.restore([turn(action, Observation("")) for action in played])
    assert (await resumed.verify([check("said", value="set a 1")]))[0].passed is True


async def test_probes_and_samples_run_at_once() -> None:
    @dataclass
    class Slow(StoreModel):
        async def predict(self, request: PredictRequest) -> Prediction:
            await asyncio.sleep(0.1)
            return await super().predict(request)

    started = time.monotonic()
    await make(Slow()).verify([check(f"get k{i}", name=str(i)) for i in range(8)])
    assert time.monotonic() - started < 1.0


async def test_the_simulator_never_reads_instruction_checks_or_reference() -> None:
    task = make_task(state={"a": "0"})
    canaries = ("CANARY-instruction", "CANARY-check", "CANARY-gold")
    task = replace(
        task,
        instruction=canaries[0],
        checks=(check("get a", value=canaries[1]),),
        reference=replace(task.reference, gold=(canaries[2],)),
    )
    model = StoreModel()
    environment = make(model, task)
    await environment.start()
    await play(environment, "set a 1", "get a")
    await environment.verify(task.checks)
    for wire in (dialect("transcript"), dialect("reference")):
        sent = "".join(content for r in model.requests for _, content in wire.messages(r))
        assert "get a" in sent and not [c for c in canaries if c in sent]


# ------------------------------------------------------------------------------------------------ restore, factory


def turn(action: Action, observation) -> Turn:
    return Turn((1,), Completion((2,), (0.0,), action.text, Finish.STOP, ()), action, observation)


async def test_restore_continues_with_the_same_history_seeds_and_anchor() -> None:
    through, model = StoreModel(), StoreModel()
    original, resumed = make(through, seed=3), make(model, seed=3)
    actions = [original.parse(text) for text in ("set a 1", "", "get a")]
    turns = [turn(a, await original.step(a)) for a in actions]
    assert await resumed.restore(turns)
    expected, actual = (await play(original, "get a"))[0], (await play(resumed, "get a"))[0]
    assert actual == expected
    assert replace(model.requests[-1], deadline=0) == replace(through.requests[-1], deadline=0)


async def test_restore_refuses_turns_that_ended_in_a_fault() -> None:
    environment = make(StoreModel(answers={"get a": [WorldFault("down")]}))
    action = environment.parse("get a")
    assert not await make().restore([turn(action, await environment.step(action))])


BUILT: list[str] = []


def build_store() -> StoreModel:
    BUILT.append("one")
    return StoreModel()


async def test_the_factory_builds_one_model_per_process_and_pickles_without_it() -> None:
    BUILT.clear()
    factory = SimulatedFactory(StoreDomain(), build_store)
    assert factory(make_task(), 1)._model is factory(make_task(), 2)._model and BUILT == ["one"]
    copy = pickle.loads(pickle.dumps(factory))
    assert copy._model is None and copy(make_task(), 1).world_id == "simulated:store" and BUILT == ["one", "one"]
    model = factory.model
    await factory.close()
    assert model.closed == 1 and factory._model is None


# ------------------------------------------------------------------------------------------------ replay, config


def recorded(*pairs: tuple[str, str], probes: tuple[tuple[str, str], ...] = ()) -> Episode:
    steps = [Transition("e", i, a, o) for i, (a, o) in enumerate(pairs)]
    branches = [Transition("e", len(steps), a, o, probe=True) for a, o in probes]
    return Episode("e", "t0", "fake", "set", "gold", World({"a": "0"}), (*steps, *branches), True)


async def test_replay_answers_what_was_recorded_and_nothing_else() -> None:
    episode = recorded(("set a 1", ""), ("get a", "1"), probes=(("get a", "1"), ("get b", "b: not set")))
    model = ReplayWorldModel([episode], StoreDomain().spec)
    environment = SimulatedEnvironment(make_task(state={"a": "0"}), StoreDomain(), model, SimulationSettings())
    assert [o.text for o in await play(environment, "set a 1", "get a")] == ["", "1"]
    assert (await environment.verify([check("get a")]))[0].passed is True
    missing = (await play(environment, "get z"))[0]
    assert missing.kind is ObservationKind.WORLD_ERROR and "no recording of 'get z' after 2 steps" in missing.error
    other = SimulatedEnvironment(make_task(state={"a": "9"}), StoreDomain(), model, SimulationSettings())
    assert (await play(other, "set a 1"))[0].kind is ObservationKind.WORLD_ERROR


@pytest.mark.sandbox
async def test_a_simulator_that_repeats_reality_reaches_the_real_verdicts() -> None:
    """Twelve recorded sessions of the real terminal, replayed as a world model: same steps, same probes, same end."""
    episodes = collect_share("train", 0, 0, 12)
    tasks = {task.id: task for task, _ in sessions("train", 0, 0, 12)}
    model = ReplayWorldModel(episodes, TERMINAL.spec)
    for episode in episodes:
        task = tasks[episode.task_id]
        environment = SimulatedEnvironment(task, TERMINAL, model, SimulationSettings(), 1)
        for step in (t for t in episode.transitions if not t.probe):
            assert (await environment.step(environment.parse(step.action))).text == step.observation
        results = await environment.verify(task.checks)
        assert all(r.passed for r in results) is episode.success, episode.id
    assert {e.success for e in episodes} == {True, False}


async def test_replay_chooses_among_different_recordings_by_seed() -> None:
    model = ReplayWorldModel([recorded(("date", "1")), recorded(("date", "2"))], StoreDomain().spec)
    spec = StoreDomain().spec(World({"a": "0"}))
    answers = [(await model.predict(PredictRequest(spec, (), "date", s, 1e9))).observation for s in (0, 1, 2, 0)]
    assert answers == ["1", "2", "1", "1"]


def test_config_builds_specs_and_refuses_contradictions() -> None:
    local = WorldModelConfig(path="models/wm", temperature=0.5, concurrency=4).spec()
    assert isinstance(local, LocalModelSpec) and (local.path, local.max_batch) == ("models/wm", 4)
    server = WorldModelConfig(kind="server", url="http://h:1", model="m", dialect="reference")
    assert server.spec().url == "http://h:1" and pickle.loads(pickle.dumps(server.spec())) == server.spec()
    assert server.simulation() == SimulationSettings(temperature=1.0, verdict_samples=3, deadline_seconds=60.0)
    for wrong in ({"kind": "server", "url": "x"}, {"url": "x"}, {"paht": "x"}, {"retries": -1}):
        with pytest.raises(ValidationError):
            WorldModelConfig(**wrong)


async def test_an_answer_is_there_for_the_probes_and_done_alone_is_not() -> None:
    """A final action with arguments stands in the history that probes are asked under, also after a restore."""
    told = Action("answer 7", "answer", {"text": "7"}, final=True)
    for action, expected in ((told, (Exchange("answer 7", ""),)), (Action("done", "done", final=True), ())):
        model = StoreModel()
        environment = make(model)
        seen = await environment.step(action)
        assert seen.done and not seen.text
        await environment.verify((Check("c", ("get a",), Predicate("equals", "1")),))
        assert {request.history for request in model.requests} == {expected}
        again = make(StoreModel())
        assert await again.restore([turn(action, seen)]) and again._history == expected
