"""Environments of other frameworks as real environments of ours: what they say, verdicts, faults, bad input."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import pickle
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rollout.episode import EpisodeSettings, run_episode
from rollout.errors import ConfigError, TaskError, WorldFault
from rollout.protocols import EnvFactory
from rollout.reward.checks import ChecksReward
from rollout.samplers.scripted import Replies, ScriptedSampler
from rollout.spot import replay_actions, success
from rollout.types import Check, CheckResult, Observation, ObservationKind, Predicate, Sampling, Stop, Task, Trajectory
from tests.fakes import build_chat
from tests.foreign_toys import OPENENV, VERIFIERS, BadReward, Dial, NoDocstring, NoReward, NoTool, shout
from worldmodel.adapters.foreign import OVER, PROBE, REWARD, ForeignReward, Terms, foreign_task
from worldmodel.adapters.gymnasium import GymnasiumFactory
from worldmodel.adapters.openenv import OpenEnvFactory
from worldmodel.adapters.tool_class import ToolClassFactory
from worldmodel.adapters.verifiers import VerifiersFactory, verifiers_tasks

QUICK = Terms(seconds=0.5)


def there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not there(module), reason=f"pip install 'agentworld-trainer[{module}]'")


gymnasium, openenv, verifiers = needs("gymnasium"), needs("openenv"), needs("verifiers")


def task(domain: str = "toy", *, turns: int = 5, seed: int = 0, **state: Any) -> Task:
    return foreign_task(
        f"{domain}-{seed}", "Say it in capitals.", domain=domain, state=state, max_turns=turns, seed=seed
    )


def play(
    factory: EnvFactory, given: Task, actions: Sequence[str]
) -> tuple[bool | None, list[Observation], tuple[CheckResult, ...]]:
    """(verdict, observations, results) of ``actions``; raises WorldFault."""
    environment = factory(given, 7)
    results, seen = asyncio.run(replay_actions(environment, given, actions, time.monotonic() + 60))
    return success(results), seen, results


async def episode(factory: EnvFactory, given: Task, actions: Sequence[str]) -> Trajectory:
    """The whole agent loop with a policy that says ``actions``."""
    chat = build_chat()
    sampler = ScriptedSampler(chat, Replies({given.id: actions}))
    settings = EpisodeSettings(max_tokens_per_turn=200, max_context=4000)
    return await run_episode(
        given, factory(given, 7), sampler, chat, ChecksReward(), settings,
        group="g", member=0, seed=1, sampling=Sampling(max_tokens=200),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ gymnasium


@gymnasium
async def test_a_gymnasium_environment_is_played_and_its_reward_is_the_verdict() -> None:
    factory = GymnasiumFactory(shout)
    good = await episode(factory, task(), ["pear", "PEAR"])
    assert good.prompt.messages[-1].content == "Say it in capitals.\n\nThe word is pear."
    assert [turn.observation.text for turn in good.turns] == ["Wrong.", "Right."]
    assert good.stop is Stop.DONE and good.score.reward == 1.0 and good.world_id == "real:gymnasium"
    bad = await episode(factory, task(), ["x", "y", "z"])
    assert bad.stop is Stop.DONE and bad.score.reward == 0.0
    cut = await episode(factory, task(turns=1), ["x"])
    assert cut.stop is Stop.MAX_TURNS and cut.score.reward == 0.0


@gymnasium
def test_members_of_a_group_meet_the_same_gymnasium_world() -> None:
    factory = pickle.loads(pickle.dumps(GymnasiumFactory(shout)))
    assert play(factory, task(seed=1), ["PLUM"])[0] is True
    assert play(factory, task(seed=1, word="kiwi"), ["KIWI"])[0] is True


@gymnasium
def test_an_action_outside_the_space_is_answered_and_changes_nothing() -> None:
    verdict, seen, _ = play(GymnasiumFactory(shout), task(), ["", "not a word!", "x" * 13, "PEAR"])
    assert [o.kind for o in seen] == [ObservationKind.INVALID_ACTION] * 3 + [ObservationKind.OK] and verdict is True
    assert seen[0].text == "an action is not empty" and "1 to 12 characters" in seen[1].text


@gymnasium
@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("crash", "real:gymnasium: step raised RuntimeError: no such fruit"),
        ("hang", "real:gymnasium: step did not end within 0.5 s"),
        ("exit", "real:gymnasium: step raised RuntimeError: it called exit(3)"),
    ],
)
async def test_a_fault_of_a_gymnasium_environment_has_no_reward(action: str, message: str) -> None:
    began = time.monotonic()
    lost = await episode(GymnasiumFactory(shout, QUICK), task(), [action, "PEAR"])
    assert lost.stop is Stop.WORLD_ERROR and lost.score.reward is None and message in str(lost.error)
    assert time.monotonic() - began < 15
    assert (await episode(GymnasiumFactory(shout, QUICK), task(), ["PEAR"])).score.reward == 1.0


@gymnasium
def test_a_reward_that_is_no_number_is_a_fault() -> None:
    with pytest.raises(WorldFault, match="the reward is nan"):
        play(GymnasiumFactory(shout), task(), ["nan"])


@gymnasium
@pytest.mark.parametrize(
    ("make", "message"),
    [
        ("Nowhere-v0", "gymnasium: 'Nowhere-v0' cannot be made"),
        (partial(shout, "number"), "observation_space of .* is Discrete, not Text"),
    ],
)
def test_a_gymnasium_environment_that_will_not_do_is_named_in_one_line(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        play(GymnasiumFactory(make), task(), ["x"])
    assert "\n" not in str(raised.value)


# ------------------------------------------------------------------------------------------------ a class for TRL


def call(name: str, **arguments: Any) -> str:
    import json

    return json.dumps({"name": name, "arguments": arguments})


async def test_a_class_for_trl_is_played_by_tool_calls_until_a_reply_is_none() -> None:
    factory = pickle.loads(pickle.dumps(ToolClassFactory(Dial)))
    good = await episode(factory, task(target=4), [call("turn", steps=4), call("wait"), "Done."])
    system, user = good.prompt.messages
    assert (
        "turn(steps: int) -> str" in system.content and "How far." in system.content and "reset" not in system.content
    )
    assert user.content == "Say it in capitals.\n\nThe dial is at 0; bring it to 4."
    assert [turn.observation.text for turn in good.turns] == ["at 4", "waited", ""]
    assert good.stop is Stop.DONE and good.score.reward == 1.0
    bad = await episode(factory, task(target=4), ["Done."])
    assert bad.stop is Stop.DONE and bad.score.reward == 0.0


def test_a_call_that_is_none_is_answered() -> None:
    texts = ["{", call("spin"), call("turn"), call("turn", steps=1, far=2), '{"name": "turn", "arguments": 3}']
    verdict, seen, _ = play(ToolClassFactory(Dial), task(), [*texts, call("turn", steps=99), call("turn", steps=3)])
    assert all(o.kind is ObservationKind.INVALID_ACTION and "\n" not in o.text for o in seen[:5])
    assert seen[1].text == "name: use cling, turn, wait" and "steps" in seen[2].text
    assert seen[5].text == "{'error': 'ValueError: the dial is stuck'}" and verdict is True


@pytest.mark.parametrize(
    ("state", "action", "message"),
    [
        ({}, call("turn", steps=-99), "step raised ConnectionError: the dial is gone"),
        ({}, call("wait", seconds=30), "step did not end within 0.5 s"),
        ({"fail": True}, "", "reset raised RuntimeError: no dial"),
        ({"target": None}, call("turn", steps=1), "the environment ended"),
    ],
)
async def test_a_fault_of_a_class_has_no_reward(state: dict[str, Any], action: str, message: str) -> None:
    kind = NoReward if "target" in state else Dial
    lost = await episode(ToolClassFactory(kind, QUICK), task(**state), [action, "Done."])
    assert lost.stop is Stop.WORLD_ERROR and lost.score.reward is None and message in str(lost.error)


async def test_a_call_that_cannot_be_cancelled_is_left_behind_at_its_deadline() -> None:
    began = time.monotonic()
    lost = await episode(ToolClassFactory(Dial, QUICK), task(), [call("cling"), "Done."])
    assert lost.stop is Stop.WORLD_ERROR and "step did not end within 0.5 s" in str(lost.error)
    assert time.monotonic() - began < 2.9


@pytest.mark.parametrize(
    ("place", "message"),
    [(0, "get_reward gave no reward"), (1, "reward raised ValueError"), (2, "the reward is inf")],
)
async def test_a_reward_of_a_class_that_is_no_number_is_no_verdict(place: int, message: str) -> None:
    lost = await episode(ToolClassFactory(BadReward), task(), [call("turn", steps=place), "Done."])
    assert lost.stop is Stop.WORLD_ERROR and lost.score.reward is None and message in str(lost.error)


@pytest.mark.parametrize(
    ("make", "message"),
    [(dict, "has no method reset"), (NoTool, "no public method"), (NoDocstring, "poke needs a docstring")],
)
def test_a_class_that_will_not_do_is_named_in_one_line(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"trl class: .*{message}"):
        play(ToolClassFactory(make), task(), ["x"])


# ------------------------------------------------------------------------------------------------ OpenEnv


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], tuple[str, subprocess.Popen[bytes]]]]:
    """A real OpenEnv server in a process of its own: its address and the process; another one if that was killed."""
    file = tmp_path_factory.mktemp("openenv") / "server.py"
    file.write_text(OPENENV)
    running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def get() -> tuple[str, subprocess.Popen[bytes]]:
        if not running or running[-1][1].poll() is not None:
            running.append(serve(file))
        return running[-1]

    yield get
    for _, process in running:
        process.kill()
        process.wait(10)


def serve(file: Path) -> tuple[str, subprocess.Popen[bytes]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    paths = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen([sys.executable, str(file), str(port)], env={**os.environ, "PYTHONPATH": paths})
    until = time.monotonic() + 200
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    return f"http://127.0.0.1:{port}", process


@openenv
@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_an_openenv_environment_is_played_over_its_server(server: Callable[[], tuple[str, Any]]) -> None:
    url, _ = server()
    factory = pickle.loads(pickle.dumps(OpenEnvFactory(url, says="message", shows="heard")))
    good = await episode(factory, task(seed=1), ["plum", "PLUM"])
    assert good.prompt.messages[-1].content.endswith("The word is plum.")
    assert [turn.observation.text for turn in good.turns] == ["Wrong.", "Right."] and good.score.reward == 1.0
    assert (await episode(factory, task(), ["x", "y", "z"])).score.reward == 0.0
    cut = await episode(factory, task(turns=1), ["x"])
    assert cut.stop is Stop.MAX_TURNS and cut.score.reward == 0.0  # no reward before the end is no fault of the world
    fields = OpenEnvFactory(url)
    actions = ["no object", '{"loud": 1}', '{"message": "KIWI"}']
    told = await episode(fields, task(word="kiwi"), actions)
    seen = [turn.observation for turn in told.turns]
    assert [o.kind for o in seen[:2]] == [ObservationKind.INVALID_ACTION] * 2
    assert seen[2].text == '{"heard": "Right."}' and told.score.reward == 1.0


@openenv
@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_faults_of_an_openenv_server_have_no_reward(server: Callable[[], tuple[str, Any]]) -> None:
    url, process = server()
    quick = OpenEnvFactory(url, says="message", shows="heard", terms=Terms(seconds=2.0, reward="last"))
    for action, message in (("crash", "no such fruit"), ("hang", "step")):
        lost = await episode(quick, task(), [action, "PEAR"])
        assert lost.stop is Stop.WORLD_ERROR and lost.score.reward is None and message in str(lost.error)
    with pytest.raises(ConfigError, match="no field 'said'; it has heard"):
        await episode(OpenEnvFactory(url, says="message", shows="said"), task(), ["x"])
    environment = quick(task(), 0)
    await environment.start()
    process.kill()
    process.wait(10)
    seen = await environment.step(environment.parse("PEAR"))
    assert seen.kind is ObservationKind.WORLD_ERROR and "\n" not in str(seen.error)
    with pytest.raises(WorldFault, match="step"):
        await environment.verify((REWARD,))
    await environment.close()
    gone = await episode(quick, task(), ["x"])
    assert gone.stop is Stop.WORLD_ERROR and "Failed to connect" in str(gone.error)


@pytest.mark.parametrize("url", ["", "localhost:8000", "http://", "ftp://host:1", "http://a b"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="must look like http://host:port"):
        OpenEnvFactory(url)


# ------------------------------------------------------------------------------------------------ verifiers


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A taskset and an environment, found by verifiers as an installed package would be."""
    (tmp_path / "shout_words.py").write_text(VERIFIERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shout_words", raising=False)
    return importlib.import_module("shout_words")


def single(words: ModuleType) -> Any:
    import verifiers.v1 as vf

    return vf.SingleAgentEnv(vf.SingleAgentEnvConfig(taskset={"id": "shout-words"}))


def talk(words: ModuleType) -> Any:
    return words.Talk(words.TalkConfig(taskset={"id": "shout-words"}))


@verifiers
@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_verifiers_environment_asks_for_turns_and_scores_them(words: ModuleType) -> None:
    tasks = verifiers_tasks(partial(talk, words), 9, max_turns=5)
    assert [t.id for t in tasks] == ["verifiers-0-pear", "verifiers-1-plum"]
    factory = VerifiersFactory(partial(talk, words))
    good = await episode(factory, tasks[1], ["plum", "PLUM"])
    assert [m.content for m in good.prompt.messages] == ["Shout.", "The word is plum."]
    assert [turn.observation.text for turn in good.turns] == ["Louder.", ""]
    assert good.stop is Stop.DONE and good.score.reward == 1.0
    assert (await episode(factory, tasks[0], ["x", "y", "z"])).score.reward == 0.0
    stopped = await episode(factory, tasks[0], ["bore"])
    assert stopped.stop is Stop.DONE and len(stopped.turns) == 1 and stopped.score.reward == 0.0
    cut = await episode(factory, verifiers_tasks(partial(talk, words), 1, max_turns=1)[0], ["x"])
    assert cut.stop is Stop.MAX_TURNS and cut.score.reward == 0.0


@verifiers
@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_plain_verifiers_taskset_takes_one_reply(words: ModuleType) -> None:
    factory = VerifiersFactory(partial(single, words))
    given = verifiers_tasks(partial(single, words), 1)[0]
    good = await episode(factory, given, ["PEAR"])
    assert good.stop is Stop.DONE and len(good.turns) == 1 and good.score.reward == 1.0
    assert (await episode(factory, given, ["pear"])).score.reward == 0.0


@verifiers
@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_faults_and_mistakes_around_verifiers(words: ModuleType) -> None:
    factory = VerifiersFactory(partial(talk, words))
    given = verifiers_tasks(partial(talk, words), 1)[0]
    for actions, message in ((["burst"], "the referee left"), (["x", "y", "crash"], "no such fruit")):
        lost = await episode(factory, given, actions)
        assert lost.stop is Stop.WORLD_ERROR and lost.score.reward is None and message in str(lost.error)
    with pytest.raises(TaskError, match="has no row 9"):
        await episode(factory, task(idx=9), ["x"])
    with pytest.raises(TaskError, match="idx must be the number of a row"):
        await episode(factory, task(), ["x"])


# ------------------------------------------------------------------------------------------------ the documentation


def example(name: str, **given: Any) -> None:
    """Run an example of docs/adapters.md as it stands there."""
    text = (Path(__file__).parents[1] / "docs" / "adapters.md").read_text()
    (code,) = re.findall(rf"<!-- run: {name} -->\n```python\n(.*?)```", text, re.DOTALL)
    exec(compile(code, f"docs/adapters.md: {name}", "exec"), {"__name__": "example", **given})


@gymnasium
def test_the_gymnasium_example_runs() -> None:
    example("gymnasium")


@openenv
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_openenv_example_runs(server: Callable[[], tuple[str, Any]]) -> None:
    example("openenv", url=server()[0])


@verifiers
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_verifiers_example_runs(words: ModuleType) -> None:
    example("verifiers")


@pytest.mark.parametrize("name", ["tool_class", "trl"])
def test_examples_without_an_extra_run(name: str) -> None:
    example(name)


# ------------------------------------------------------------------------------------------------ what all share


async def test_after_its_end_a_world_takes_no_action_and_close_is_once() -> None:
    environment = ToolClassFactory(Dial)(task(), 0)
    await environment.start()
    await environment.step(environment.parse("Done."))
    late = await environment.step(environment.parse(call("turn", steps=3)))
    assert late.text == OVER and late.done and late.kind is ObservationKind.INVALID_ACTION
    other = Check("file", ("ls",), Predicate("contains", "x"))
    bare = Check("bare", (), Predicate("regex", "^failure"))
    broken = Check("broken", (PROBE,), Predicate("regex", "("))
    results = await environment.verify((REWARD, other, bare, broken))
    assert [r.passed for r in results] == [False, None, True, None] and results[0].replies == ("failure 0.0",)
    assert not await environment.restore(())
    await environment.close()
    await environment.close()


def test_a_graded_reward_is_the_number_itself() -> None:
    terms = Terms(success=0.5)
    verdict, _, results = play(ToolClassFactory(Dial, terms), task(target=2), [call("turn", steps=2), "Done."])
    assert verdict is True
    reward = ForeignReward()
    assert asyncio.run(reward(None, results)) == 1.0  # type: ignore[arg-type]
    assert asyncio.run(reward(None, (CheckResult("reward", None),))) is None  # type: ignore[arg-type]


@gymnasium
def test_rewards_of_steps_are_summed_or_the_last_counts() -> None:
    actions = ["PEAR"]
    assert play(GymnasiumFactory(shout, Terms(success=1.5)), task(), actions)[0] is False
    assert play(GymnasiumFactory(shout, Terms(reward="last")), task(), actions)[0] is True


@pytest.mark.parametrize(
    "wrong", [{"seconds": 0}, {"seconds": float("inf")}, {"success": float("nan")}, {"reward": "max"}]
)
def test_terms_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"adapters: {next(iter(wrong))} "):
        Terms(**wrong)


def test_a_framework_that_is_not_there_is_one_line_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(
        ConfigError, match=r"gymnasium cannot be imported .*pip install 'agentworld-trainer\["
    ) as raised:
        play(GymnasiumFactory("Any-v0"), task(), ["x"])
    assert "\n" not in str(raised.value)
