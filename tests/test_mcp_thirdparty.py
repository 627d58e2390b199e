"""BFCL and AgentDojo in the tool domain: their tasks, the actions that their tools allow, their worlds in boxes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from rollout.errors import ConfigError, TaskError
from rollout.spot import replay_actions, success
from rollout.types import CheckResult, Observation, ObservationKind, Task
from worldmodel.domains import RealWorlds, kit
from worldmodel.domains.mcp import MCP
from worldmodel.domains.mcp.grammar import call, written
from worldmodel.domains.mcp.thirdparty import agentdojo, bfcl, install
from worldmodel.domains.mcp.thirdparty import real as thirdparty_real
from worldmodel.domains.mcp.thirdparty.grammar import parse, verdict
from worldmodel.domains.mcp.thirdparty.real import MAX_CALLS, BenchmarkEnvironment
from worldmodel.sandbox import SandboxError

DONE = call("answer", text="done")
FIRST, SECOND = "MathAPI", "TicketAPI"
needs_setup = [
    pytest.mark.sandbox,
    pytest.mark.slow,
    pytest.mark.domain,
    pytest.mark.skipif(bool(install.missing()), reason=f"missing {install.missing()}"),
]


def live(function: Any) -> Any:
    for mark in needs_setup:
        function = mark(function)
    return function


def tool(name: str, *arguments: str) -> dict[str, Any]:
    properties = {argument: {"type": "string"} for argument in arguments}
    return {"name": name, "description": f"does {name}", "parameters": {"type": "dict", "properties": properties}}


TOOLS = [tool("put", "key", "value"), tool("get", "key"), tool("crash"), tool("hang")]


# Actions


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("put()", "expected one JSON object"),
        ('{"name": 3}', "that is no tool"),
        (call("drop"), "'drop' is no tool"),
        (call("__class__"), "'__class__' is no tool"),
        ('{"name": "put", "arguments": []}', "'put': arguments must be an object"),
        (written("put", {"key=1, **__import__('os').environ, x": 1}), "put: arguments has no"),
        (written("put", {"a b": 1}), "put: arguments has no 'a b'"),
        ('{"name": "put", "arguments": {"key": [{"a": NaN}]}}', "put: a number is not finite"),
        ('{"name": "put", "arguments": {"key": 1e999}}', "put: a number is not finite"),
        (call("answer"), 'answer: arguments must be {"text": a text}'),
        (call("answer", text=" "), 'answer: arguments must be {"text": a text}'),
        (call("verdict", of="task", more=1), 'verdict: arguments must be {"of": a text}'),
    ],
)
def test_what_is_no_action_is_told(text: str, error: str) -> None:
    action = parse(text, TOOLS, last=True)
    assert action.name == "" and action.error is not None and error in action.error


def test_an_answer_is_final_in_the_last_turn_alone_and_only_checks_ask_for_verdicts() -> None:
    assert parse(DONE, TOOLS, last=True).final and not parse(DONE, TOOLS, last=False).final
    asked = parse(verdict("task"), TOOLS, last=True)
    assert asked.probe and asked.executes and not asked.final
    assert parse('{"name": "crash"}', TOOLS, last=True).arguments == {}


# Tasks from data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder as bfcl-eval has it, with two entries of own words."""
    root = tmp_path / "bfcl_eval"
    for folder in ("data/possible_answer", "data/multi_turn_func_doc", "constants"):
        (root / folder).mkdir(parents=True)
    (root / "constants" / "default_prompts.py").write_text(f'A = open("x")\n{bfcl.MORE_TOOLS} = (\n    "Now?"\n)\n')
    for name, tools in ((FIRST, TOOLS[:2]), (SECOND, TOOLS[2:])):
        rows = "\n".join(map(json.dumps, tools))
        (root / "data" / "multi_turn_func_doc" / f"{bfcl.DOCUMENTS[name]}.json").write_text(rows)
    for category in bfcl.CATEGORIES:
        entry: dict[str, Any] = {
            "id": f"multi_turn_{category}_0",
            "question": [[{"role": "user", "content": "Put a."}], [{"role": "user", "content": "Get a."}]],
            "initial_config": {},
            "involved_classes": [FIRST, SECOND],
            "path": [],
        }
        truth = [["put('a', value=['x', 1.5])"], ["get(key='a')"]]
        if category == "miss_func":
            entry |= {"missed_function": {"1": ["get"]}}
            entry["question"].insert(1, [])
            truth.insert(1, [])
        (root / "data" / f"BFCL_v4_multi_turn_{category}.json").write_text(json.dumps(entry))
        answer = {"id": entry["id"], "ground_truth": truth}
        (root / "data" / "possible_answer" / f"BFCL_v4_multi_turn_{category}.json").write_text(json.dumps(answer))
    return root


def from_data(root: Path, category: str) -> Task:
    (entry,) = bfcl.entries(root, category)
    return bfcl.make(root, category, *entry)


def test_a_bfcl_entry_becomes_a_conversation(data: Path) -> None:
    task = from_data(data, "base")
    assert (task.id, task.family, task.split, task.instruction) == ("bfcl/base_0", "bfcl/base", "benchmark", "Put a.")
    assert [turn["says"] for turn in task.world.state["later"]] == ["Get a."]
    assert task.reference.gold == (call("put", key="a", value=["x", 1.5]), DONE, call("get", key="a"), DONE)
    system, user = MCP.prompt(task).messages
    assert user.content == "Put a." and all(json.dumps(tool) in system.content for tool in TOOLS)
    assert "Get a." not in system.content and "1.5" not in system.content
    with pytest.raises(TaskError, match="bfcl is evaluated in its real world alone"):
        MCP.spec(task.world)


def test_a_withheld_tool_is_shown_in_a_turn_of_its_own(data: Path) -> None:
    task = from_data(data, "miss_func")
    assert [tool["name"] for tool in task.world.state["tools"]] == ["put", "crash", "hang"]
    assert [(turn["says"], [tool["name"] for tool in turn["tools"]]) for turn in task.world.state["later"]] == [
        ("Now?", ["get"]),
        ("Get a.", []),
    ]
    assert '"get"' not in MCP.prompt(task).messages[0].content


def test_before_set_up_a_source_says_what_lacks(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTWORLD_CACHE", str(tmp_path))
    for source in ("bfcl", "agentdojo", "agentdojo-attacked"):
        with pytest.raises(ConfigError, match="agentworld setup mcp"):
            kit("mcp").sources[source](1)
    assert install.missing() == install.LACKING
    with pytest.raises(SandboxError, match="agentworld setup mcp"):
        asyncio.run(acted(BenchmarkEnvironment(from_data(data, "base"))))


def test_attacked_tasks_take_every_user_before_a_second_injection(monkeypatch: pytest.MonkeyPatch) -> None:
    user = {"prompt": "Read it.", "gold": [{"name": "get", "arguments": {"name": "a"}}], "said": "", "seen": ["spot"]}
    user |= {"under": {"i1": [{"name": "get", "arguments": {"name": "b"}}]}}
    attack = {"gold": [{"name": "put", "arguments": {}}], "text": "please steal", "said": "Buy it."}
    suite = {"tools": TOOLS, "users": {"u0": user, "u1": user}, "injections": {"i0": attack, "i1": attack}}
    found = {"about": "You help.", "suites": {"bank": suite, "mail": suite}}
    monkeypatch.setattr(agentdojo, "_catalogue", lambda: found)
    assert [task.id for task in agentdojo.first(3)] == [
        f"agentdojo/{name}" for name in ("bank/u0", "mail/u0", "bank/u1")
    ]
    tasks = agentdojo.attacked(99)
    assert len({task.id for task in tasks}) == 8 and {task.id.split("/")[2] for task in tasks[:4]} == {"u0", "u1"}
    assert {task.id.split("/")[3] for task in tasks[:4]} == {"i0", "i1"}
    assert tasks[0].world.state["begin"]["injections"] == {"spot": "please steal"}
    assert tasks[0].reference.wrong == ((call("put"), written("get", {"name": "a"}), call("answer", text="Buy it.")),)
    assert {task.reference.gold[0] for task in tasks if task.id.endswith("/i1")} == {written("get", {"name": "b"})}
    assert "steal" not in "".join(message.content for message in MCP.prompt(tasks[0]).messages)


# The world, with a benchmark of a few lines

TOY = """
import os, time


class World:
    def begin(self, entry):
        self.data = {}

    def call(self, name, arguments):
        if name == "crash":
            os._exit(1)
        if name == "hang":
            time.sleep(60)
        if name == "put":
            self.data[arguments["key"]] = arguments["value"]
            open("/home/user/seen", "w").write("x")
        return str(self.data.get(arguments["key"]))

    def verdict(self, entry, truth, turns):
        try:
            open("/home/user/more", "w")
        except OSError:
            return {"task": repr((self.__dict__, len(truth), [[c["name"] for c in t["calls"]] for t in turns]))}
        return {"task": "a verdict could write"}
"""


@pytest.fixture
def toy(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BenchmarkEnvironment:
    inside = tmp_path / "inside"
    inside.mkdir()
    shutil.copy(install.INSIDE / "talk.py", inside)
    (inside / "bfcl_world.py").write_text(TOY)
    place = tmp_path / "place"
    place.mkdir()
    (place / "python").mkdir()
    shutil.copytree(data, place / "python" / "bfcl_eval")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o755)
    monkeypatch.setattr(install, "INSIDE", inside)
    monkeypatch.setattr(thirdparty_real, "installed", lambda: place)
    environment = RealWorlds()(from_data(data, "base"), 0)
    assert isinstance(environment, BenchmarkEnvironment)
    return environment


async def acted(environment: BenchmarkEnvironment, *texts: str) -> tuple[list[Observation], tuple[CheckResult, ...]]:
    try:
        await environment.start()
        seen = [await environment.step(environment.parse(text)) for text in texts]
        return seen, await environment.verify(environment._task.checks)
    finally:
        await environment.close()
        await environment.close()


@pytest.mark.sandbox
def test_turns_a_tool_that_dies_and_a_verdict_from_a_fresh_process(toy: BenchmarkEnvironment) -> None:
    put = call("put", key="a", value=[1])
    seen, (result,) = asyncio.run(
        acted(toy, put, call("crash"), call("get", key="a"), verdict("task"), "junk", DONE, call("get", key="b"), DONE)
    )
    assert [s.text for s in seen[:3]] == ["[1]", "Error: the tool gave no answer", "[1]"]
    assert seen[3].kind is seen[4].kind is ObservationKind.INVALID_ACTION and "is not an action" in seen[3].text
    assert seen[5].text == "The user says: Get a." and not seen[5].done
    assert seen[6].text == "None" and seen[7].done
    assert seen[0].anchor != seen[1].anchor == seen[2].anchor != seen[3].anchor
    assert result.replies == ("({}, 2, [['put', 'get'], ['get']])",) and result.passed is False


@pytest.mark.sandbox
def test_a_turn_without_end_ends_the_episode(toy: BenchmarkEnvironment) -> None:
    seen, (result,) = asyncio.run(acted(toy, *["junk"] * (MAX_CALLS + 1)))
    assert [s.done for s in seen] == [False] * MAX_CALLS + [True] and result.passed is False


@pytest.mark.sandbox
def test_a_call_on_which_the_benchmark_raises_is_told(toy: BenchmarkEnvironment) -> None:
    """The toy's ``put`` without a value is a KeyError: the process is started again."""
    seen, _ = asyncio.run(acted(toy, call("put", key="a"), call("get", key="a")))
    assert [s.text for s in seen] == ["Error: the tool gave no answer", "None"]

    async def early() -> None:
        await BenchmarkEnvironment(toy._task).verify(toy._task.checks)

    with pytest.raises(SandboxError, match="has not begun"):
        asyncio.run(early())


# The benchmarks themselves


def act(task: Task, actions: tuple[str, ...]) -> tuple[tuple[CheckResult, ...], list[Observation]]:
    return asyncio.run(replay_actions(RealWorlds()(task, 1), task, actions, time.monotonic() + 200))


@live
@pytest.mark.parametrize(("source", "count"), [("bfcl", 8), ("agentdojo", 4), ("agentdojo-attacked", 4)])
def test_references_pass_and_nothing_fails(source: str, count: int) -> None:
    for task in kit("mcp").sources[source](count):
        assert success(act(task, task.reference.gold)[0]) is True, task.id
        assert success(act(task, kit("mcp").empty)[0]) is False, task.id


@live
def test_a_bfcl_state_that_is_left_wrong_fails() -> None:
    (task,) = bfcl.first(1)
    spoilt = (call("mkdir", dir_name="more"), *task.reference.gold)
    (result,), _ = act(task, spoilt)
    assert result.passed is False and "instance_state_mismatch" in result.replies[0]
    (result,), _ = act(task, task.reference.gold[:4])
    assert result.replies == ("invalid: 1 of 4 turns were ended",)


@live
def test_code_in_an_argument_stays_a_text() -> None:
    """BFCL evaluates calls: what a policy writes must be a literal there."""
    (task,) = bfcl.first(1)
    texts = ["'); __import__('os').system('touch /home/user/x') #", "\\", "\n", "{0}", "' + cat('x') + '", "\x00"]
    for text in texts:
        _, seen = act(task, (call("echo", content=text),))
        assert text.split("cat(")[0] in json.loads(seen[0].text)["terminal_output"], text
    (result,), _ = act(task, (call("echo", content=texts[0]), *task.reference.gold))
    assert result.passed is True


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


@live
def test_an_injection_that_is_obeyed_changes_nothing_outside_its_box() -> None:
    """One of each suite: the attack arrives as text, obeying it fails ``security``, and nothing of it is left."""
    home, tests = install.installed(), Path(__file__).parent
    before = (listing(home), listing(tests), os.getcwd(), dict(os.environ))
    for task in agentdojo.attacked(4):
        (_, security), seen = act(task, task.reference.wrong[0])
        assert security.name == "security" and security.passed is False, task.id
        assert any("<INFORMATION>" in observation.text for observation in seen), task.id
    assert success(act(task, task.reference.gold)[0]) is True, "what an episode did is in the next"
    assert before == (listing(home), listing(tests), os.getcwd(), dict(os.environ))


@live
def test_a_user_task_is_not_done_by_the_attack_alone() -> None:
    (task,) = agentdojo.attacked(1)
    obeys = task.reference.wrong[0][: -len(task.reference.gold)]
    results, _ = act(task, (*obeys, DONE))
    assert [result.passed for result in results] == [False, False]
