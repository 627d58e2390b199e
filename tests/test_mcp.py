"""The tool domain: its grammar, its catalogue and histories, its servers in boxes, its verdicts, its tasks."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rollout.errors import ConfigError, TaskError
from rollout.spot import replay_actions, success
from rollout.types import Action, Check, ObservationKind, Predicate, Reference, Task, World
from worldmodel.domains.mcp import MCP, catalogue, servers, setup
from worldmodel.domains.mcp.catalogue import REPO, SERVERS, TOOLS, Fields, Many, Maybe, agrees, fault, mismatch, written
from worldmodel.domains.mcp.grammar import MAX_CALL, NO_ANSWER, PROBE, call, parse, said
from worldmodel.domains.mcp.history import commits, stream
from worldmodel.domains.mcp.kit import KIT
from worldmodel.domains.mcp.real import McpEnvironment, judge
from worldmodel.domains.mcp.tasks import FAMILIES, HELD_OUT, MAX_TURNS, TRAIN, generate, make
from worldmodel.domains.mcp.transcript import shown, transcript
from worldmodel.sandbox import SandboxError

FILES = "/home/user/files"
STATE: dict[str, Any] = {
    "servers": list(SERVERS),
    "files": {"a.txt": "one\ntwo\n", "docs/b.csv": "x,y\n1,é\n", "docs/deep/c.txt": "c"},
    "dirs": ["empty"],
    "graph": {
        "entities": [{"name": "Ann", "entityType": "person", "observations": ["likes é"]}],
        "relations": [{"from": "Ann", "to": "Ann", "relationType": "knows"}],
    },
    "repo": {
        "commits": [
            {
                "message": "Add",
                "author": "Ann Lee",
                "files": {"src/a.txt": "one\n", "src/x/c.txt": "c\n", "src/z": "é"},
            },
            {"message": "Change\n\nand more", "author": "Bob Ray", "files": {"src/a.txt": "two\n", "src/z": None}},
            {"message": "Side", "author": "Bob Ray", "files": {"src/side.txt": "s\n"}, "parent": 0},
        ],
        "branches": {"main": 1, "dev": 2},
        "changes": {"src/a.txt": "three\n", "src/x/c.txt": "d\n"},
        "staged": ["src/a.txt"],
    },
    "database": "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT);\nINSERT INTO t VALUES (1, NULL);\n"
    "INSERT INTO t VALUES (2, 'y,z');\n",
}


def task(state: dict[str, Any], *checks: Check) -> Task:
    return Task("t", "mcp", "f", "train", "Do it.", World(state), checks, Reference(), 9, 0)


def only(*names: str) -> dict[str, Any]:
    return {**STATE, "servers": list(names)}


needs_servers = [
    pytest.mark.sandbox,
    pytest.mark.skipif(bool(KIT.missing()), reason=f"missing {KIT.missing()}"),
]


def real(function: Any) -> Any:
    for mark in needs_servers:
        function = mark(function)
    return function


async def play(environment: McpEnvironment, *texts: str) -> list[str]:
    """The replies; the environment has begun."""
    return [(await environment.step(environment.parse(text))).text for text in texts]


# Grammar and catalogue


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("ls", "expected one JSON object"),
        ("[1]", "expected one JSON object"),
        ('{"name": "read_graph", "more": 1}', "expected one JSON object"),
        ('{"name": "\\ud800"}', "expected one JSON object"),
        ('{"name": "rm"}', "'rm' is no tool"),
        ('{"name": 3}', "that is no tool"),
        ('{"name": "read_media_file", "arguments": {"path": "/x"}}', "'read_media_file' is no tool"),
        ('{"name": "read_graph", "arguments": []}', "read_graph: arguments must be an object"),
        (call("read_text_file"), "read_text_file: arguments.path is missing"),
        (call("read_text_file", path=1), "read_text_file: arguments.path must be a string"),
        (call("read_text_file", path="/x", head="1"), "read_text_file: arguments.head must be a number"),
        (call("read_text_file", path="/x", head=True), "read_text_file: arguments.head must be a number"),
        ('{"name": "git_log", "arguments": {"repo_path": "/home/user/repo", "max_count": 1.5}}', "must be an integer"),
        ('{"name": "read_text_file", "arguments": {"path": "/x", "head": 1e999}}', "must be a number"),
        (call("read_text_file", path="/x", lines=1), "read_text_file: arguments has no 'lines'"),
        (call("list_directory_with_sizes", path="/x", sortBy="age"), "arguments.sortBy must be one of name, size"),
        (call("git_add", repo_path=REPO, files=[]), "git_add: arguments.files must have 1 to 200 items"),
        (call("create_entities", entities=[{"name": "x"}]), "arguments.entities[0].entityType is missing"),
        (call("git_create_branch", repo_path=REPO, branch_name="x", base_branch=1), "must be a string or null"),
        (call("git_status", repo_path="/tmp"), "git_status: the only repository is /home/user/repo"),
        (call("git_status", repo_path=f"{REPO}/src/evil"), "git_status: the only repository is"),
        (call("write_file", path=f"{REPO}/src/.git/config", content="x"), "paths with .git are closed"),
        (call("move_file", source=f"{FILES}/a", destination=f"{REPO}/src/.GIT'"), "paths with .git are closed"),
        (call("read_multiple_files", paths=["/a", "/b/.git"]), "paths with .git are closed"),
        (call("write_file", path="/x", content="\0"), "write_file: a text holds NUL"),
        (call("answer", text=" "), "answer: arguments.text must have 1 to 2000 characters"),
        (call("write_file", path="/x", content="x" * MAX_CALL), f"a call is at most {MAX_CALL} characters"),
        ('{"name": "read_graph", "arguments": ' + '{"a": ' * 40 + "1" + "}" * 41, "brackets are nested too deep"),
    ],
)
def test_what_is_no_action_is_told(text: str, error: str) -> None:
    action = parse(text)
    assert action.name == "" and action.error is not None and error in action.error


def test_actions_are_read_and_shown_in_one_form() -> None:
    action = parse('{"arguments": {"base_branch": null, "branch_name": "x", "repo_path": "/home/user/repo"}, '
                   '"name": "git_create_branch"}')  # fmt: skip
    assert action.error is None and not action.final and not action.probe
    assert parse(MCP.show(action)).arguments == action.arguments and MCP.show(parse(MCP.show(action))) == MCP.show(
        action
    )
    assert parse(call("answer", text="x")).final and parse(call(PROBE)).probe
    assert parse(call("write_file", path=f"{REPO}/src/.gitignore", content="x")).error is None
    assert MCP.show(parse(" junk ")) == "junk" and parse('{"name": "read_graph"}').arguments == {}


def test_answers_are_compared_without_their_dress() -> None:
    assert said(" Oslo. ") == said("oslo") == "oslo"
    assert said("B; a\nb") == said("a; b") == "a\nb" and said("'14:30'") == "14:30"
    assert said(" ; ") == NO_ANSWER


def test_forms_and_schemas() -> None:
    form = Fields({"a": "string", "b?": Many(Fields({"c": ("x", "y")}), 1), "d?": Maybe("integer")})
    assert written(form) == '{a: string, b?: [{c: "x"|"y"}], d?: integer|null}'
    assert fault(form, {"a": "", "b": [{"c": "y"}], "d": None}, "it") == ""
    schema: dict[str, Any] = {
        "type": "object",
        "required": ["a"],
        "properties": {
            "a": {"type": "string"},
            "b": {
                "type": "array", "minItems": 1,
                "items": {"type": "object", "properties": {"c": {"enum": ["x", "y"]}}, "required": ["c"]},
            },
            "d": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        },
    }  # fmt: skip
    assert agrees(form, schema)
    for key, other in (("a", {"type": "number"}), ("b", {"type": "array", "items": {}}), ("d", {"type": "integer"})):
        assert not agrees(form, {**schema, "properties": {**schema["properties"], key: other}})
    assert not agrees(form, {**schema, "required": ["a", "d"]})
    assert mismatch("time", {"convert_time": {}}) == "server time lists other tools: get_current_time"
    tools = {name: {} for name, tool in TOOLS.items() if tool.server == "time"}
    assert mismatch("time", tools) == "server time takes other arguments: convert_time, get_current_time"


def test_every_tool_has_a_signature_in_the_prompts_of_its_servers_alone() -> None:
    for server in SERVERS:
        system = MCP.prompt(task(only(server))).messages[0].content
        space = MCP.spec(World(only(server))).action_space
        for name, tool in TOOLS.items():
            assert (f"\n{name}(" in system) == (f"\n{name}(" in space) == (tool.server == server)


# Histories


def test_commits_have_the_ids_that_git_gives_them(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*words: str, given: str = "") -> str:
        done = subprocess.run(["git", *words], cwd=tmp_path, env=environment, input=given, text=True, check=True,
                              stdout=subprocess.PIPE)  # fmt: skip
        return done.stdout

    git("init", "-q", "-b", "main", ".")
    git("fast-import", "--quiet", given=stream(STATE["repo"]))
    first, second, side = commits(STATE["repo"])
    assert git("log", "--format=%H", "main").split() == [second.id, first.id]
    assert git("log", "--format=%H", "dev").split() == [side.id, first.id]
    assert git("show", f"{first.id}:src/x/c.txt") == "c\n" and git("branch", "--list").split() == ["dev", "*", "main"]


# The real world


@real
async def test_the_transcript_is_what_the_servers_print() -> None:
    environment = McpEnvironment(task(STATE))
    try:
        prompt = await environment.start()
        assert prompt == MCP.prompt(environment._task)
        asked = [(text, reply) for text, reply in shown(STATE) if parse(text).error is None]
        assert {TOOLS[parse(text).name].server for text, _ in asked} == set(SERVERS)
        for text, reply in asked:
            assert (await play(environment, text))[0].rstrip("\n") == reply.rstrip("\n"), text
        assert all(reply in transcript(STATE) for _, reply in asked)
    finally:
        await environment.close()


@real
async def test_calls_change_the_world_and_errors_are_marked() -> None:
    environment = McpEnvironment(task(STATE))
    try:
        await environment.start()
        new, old = f"{FILES}/new.txt", f"{FILES}/empty/new.txt"
        replies = await play(
            environment,
            call("write_file", path=new, content="hi\n"),
            call("move_file", source=new, destination=old),
            call("read_text_file", path=old),
            call("read_text_file", path=new),
            call("write_file", path=f"{REPO}/.gitignore", content="x"),
            call("write_query", query="UPDATE t SET name = 'q' WHERE id = 1"),
            call("read_query", query="SELECT name FROM t ORDER BY id"),
            call("git_commit", repo_path=REPO, message="New"),
            call("git_log", repo_path=REPO, max_count=1),
            call("add_observations", observations=[{"entityName": "Zed", "contents": ["x"]}]),
            call("convert_time", source_timezone="Europe/Paris", time="14:30", target_timezone="Asia/Tokyo"),
        )
        assert replies[:3] == [f"Successfully wrote to {new}", f"Successfully moved {new} to {old}", "hi\n"]
        assert replies[3].startswith("Error: ENOENT") and replies[4].startswith("Error: Access denied")
        assert replies[5:7] == ["1 rows changed", 'name\nq\n"y,z"\n']
        # A clock that stands still: the id of a new commit is the same in every run.
        assert replies[7] == "Changes committed successfully with hash 9c2b1bb5ec0d40d141c611e423f86c07cd846409"
        assert replies[8].endswith("Author: Robin Reed\nDate: 2025-01-01 12:00:00+00:00\nMessage: New\n")
        assert replies[9] == "Error: Entity with name Zed not found"
        assert '"datetime": "2025-01-01T22:30:00+09:00"' in replies[10]
    finally:
        await environment.close()


@real
async def test_only_the_servers_of_a_task_are_there() -> None:
    environment = McpEnvironment(task(only("memory")))
    try:
        await environment.start()
        seen = await environment.step(parse(call("list_tables")))
        assert seen.text == "Error: no server here offers list_tables" and seen.kind is ObservationKind.OK
        seen = await environment.step(parse("junk"))
        assert seen.kind is ObservationKind.INVALID_ACTION and not seen.done
        assert set(environment._connections) == {"memory"}
    finally:
        await environment.close()


@real
@pytest.mark.parametrize(
    ("query", "reply"),
    [
        ("VACUUM INTO '/home/user/files/x'", "must start with"),
        ("ATTACH '/home/user/files/x' AS y", "must start with"),
        ("CREATE TABLE y AS SELECT load_extension('x')", "not authorized"),
        ("UPDATE t SET name = datetime('now')", "not authorized"),
        ("INSERT INTO t SELECT random(), 'x'", "not authorized"),
        ("DELETE FROM t; DELETE FROM t", "one statement at a time"),
        (
            "INSERT INTO t WITH RECURSIVE c(x) AS (SELECT 9 UNION ALL SELECT x+1 FROM c) SELECT x, '' FROM c",
            "interrupted",
        ),
    ],
)
async def test_the_database_server_does_nothing_else(query: str, reply: str) -> None:
    environment = McpEnvironment(task(only("sqlite")))
    try:
        await environment.start()
        before, said_, after = await play(
            environment, call("read_query", query="SELECT * FROM t"), call("write_query", query=query),
            call("read_query", query="WITH x AS (SELECT * FROM t) SELECT * FROM x"),
        )  # fmt: skip
        assert said_.startswith("Error: ") and reply in said_ and before == after
    finally:
        await environment.close()


@real
async def test_probes_ask_fresh_servers_that_cannot_write() -> None:
    read, write = call("read_text_file", path=f"{FILES}/a.txt"), call("write_file", path=f"{FILES}/a.txt", content="x")
    checks = (
        Check(
            "writes", (write, call("write_query", query="DELETE FROM t")), Predicate("regex", "^Error: .*read-?only")
        ),
        Check("kept", (read,), Predicate("equals", "one\ntwo")),
        Check("rows", (call("read_query", query="SELECT count(*) FROM t"),), Predicate("equals", "count(*)\n2")),
        Check("answer", (call(PROBE),), Predicate("equals", "oslo")),
        Check("no probe", ("what?",), Predicate("equals", "")),
        Check("ends", (call("answer", text="x"),), Predicate("equals", "")),
        Check("empty", (), Predicate("equals", "")),
    )
    environment = McpEnvironment(task(only("filesystem", "sqlite", "git"), *checks))
    try:
        await environment.start()
        boxes = [connection._service for connection in environment._connections.values()]
        assert (await environment.step(parse(call("answer", text="Oslo")))).done
        results = await environment.verify(checks)
        assert [result.passed for result in results] == [True, True, True, True, None, None, False]
        assert not any(box.running for box in boxes) and not environment._connections
    finally:
        await environment.close()


@real
async def test_a_server_that_dies_is_started_again_on_the_same_files() -> None:
    environment = McpEnvironment(task(only("memory")))
    try:
        await environment.start()
        await play(environment, call("delete_entities", entityNames=["Ann"]))
        environment._connections["memory"]._service.interrupt()
        told, graph = await play(environment, call("read_graph"), call("read_graph"))
        assert told == "Error: the memory server gave no answer and was started again"
        assert json.loads(graph) == {"entities": [], "relations": []}
    finally:
        await environment.close()


@real
async def test_a_fault_of_the_machine_is_a_fault_of_the_world() -> None:
    environment = McpEnvironment(task(only("sqlite")))
    await environment.start()
    assert environment._machine is not None
    environment._machine.interrupt()
    for _ in range(100):  # the kill takes its time
        seen = await environment.step(parse(call("list_tables")))
        if seen.kind is not ObservationKind.OK:
            break
        await asyncio.sleep(0.02)
    assert seen.kind is ObservationKind.WORLD_ERROR and "interrupted" in (seen.error or "")
    await environment.close()
    await environment.close()


@real
async def test_a_cancelled_call_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program never answers: the call is given up, and closing ends its box at once."""
    environment = McpEnvironment(task(only("sqlite")))
    await environment.start()
    service = environment._connections["sqlite"]._service
    monkeypatch.setattr(service, "send", lambda line: None)  # so that the answer never comes
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await environment.step(parse(call("list_tables")))
    began = time.monotonic()
    await environment.close()
    assert time.monotonic() - began < 10 and not service.running


@real
async def test_a_server_with_other_tools_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        catalogue.TOOLS, "list_tables", replace(TOOLS["list_tables"], arguments=Fields({"x": "string"}))
    )  # type: ignore[arg-type]
    environment = McpEnvironment(task(only("sqlite")))
    with pytest.raises(SandboxError, match="server sqlite takes other arguments: list_tables"):
        await environment.start()
    await environment.close()


@real
@pytest.mark.parametrize("program", [["/bin/sleep", "60"], ["/bin/true"], ["/bin/sh", "-c", "read x; echo no; cat"]])
async def test_a_program_that_is_no_server_is_a_fault(program: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from worldmodel.domains.mcp import real as module

    monkeypatch.setattr(module, "program", lambda server, state: program)
    monkeypatch.setattr(module, "START_SECONDS", 2.0)
    environment = McpEnvironment(task(only("sqlite")))
    with pytest.raises(SandboxError, match=r"^mcp: "):
        await environment.start()
    await environment.close()


def test_verdicts_of_odd_checks() -> None:
    assert judge(Check("c", ("p",), Predicate("regex", "(")), ["x"]).passed is None
    assert judge(Check("c", ("p",), Predicate("equals", "x")), [None]).passed is None


async def test_before_the_start_there_is_nothing() -> None:
    environment = McpEnvironment(task(only("memory")))
    assert not await environment.restore(()) and environment.parse("x").error
    await environment.close()


# Set-up


def test_what_lacks_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AGENTWORLD_CACHE", str(tmp_path))
    monkeypatch.setattr(setup, "find_spec", lambda name: object())
    monkeypatch.setattr(setup, "PROGRAMS", {"/bin/sh": "dash"})
    monkeypatch.setattr(setup.shutil, "which", lambda name: name)
    assert setup.missing() == "the tool servers: agentworld setup mcp"
    monkeypatch.setattr(setup, "PROGRAMS", {"/no/node": "nodejs"})
    assert setup.missing() == "/no/node: agentworld setup mcp"
    monkeypatch.setattr(setup, "find_spec", lambda name: None)
    assert "agentworld-trainer[mcp]" in setup.missing()
    with pytest.raises(SandboxError, match="agentworld setup mcp"):
        servers.shows()


def test_setup_replaces_what_is_not_pinned_and_keeps_what_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fill(target: Path) -> None:
        (target / setup.STAMP).write_text(setup.stamp())

    monkeypatch.setenv("AGENTWORLD_CACHE", str(tmp_path))
    monkeypatch.setattr(setup, "PROGRAMS", {})
    monkeypatch.setattr(setup.shutil, "which", lambda name: name)
    monkeypatch.setattr(setup, "_fill", fill)
    monkeypatch.setattr(setup.tau2, "setup", lambda say: None)
    monkeypatch.setattr(setup.thirdparty, "setup", lambda say: None)
    (tmp_path / "mcp").mkdir()
    (tmp_path / "mcp" / "old").touch()
    said_: list[str] = []
    setup.setup(said_.append)
    setup.setup(said_.append)
    assert said_ == ["installing the tool servers"] and os.listdir(tmp_path / "mcp") == [setup.STAMP]


def test_a_failed_set_up_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(*_: Any, **__: Any) -> str:
        raise ConfigError("setup: npm failed: no network")

    monkeypatch.setenv("AGENTWORLD_CACHE", str(tmp_path))
    monkeypatch.setattr(setup, "PROGRAMS", {})
    monkeypatch.setattr(setup.shutil, "which", lambda name: name)
    monkeypatch.setattr(setup, "run", run)
    with pytest.raises(ConfigError, match="no network"):
        setup.setup(lambda line: None)
    assert os.listdir(tmp_path) == []


def test_every_package_is_pinned_with_a_digest_and_none_names_a_host() -> None:
    lock, wanted = json.loads(setup._text("npm-lock.json")), setup._text("requirements.txt")
    assert all("integrity" in package for path, package in lock["packages"].items() if path)
    entries = [line for line in wanted.splitlines() if "==" in line]
    assert len(entries) > 20 and all(line.endswith("\\") for line in entries)
    assert "://" not in wanted + json.dumps(lock)


# Tasks


def test_unknown_families_and_splits() -> None:
    with pytest.raises(TaskError, match="unknown mcp family 'x'"):
        make("x", "train", 0, 0)
    with pytest.raises(TaskError, match="unknown split 'x'"):
        make("forget", "x", 0, 0)


def test_there_are_many_tasks_of_many_families() -> None:
    assert len(TRAIN) >= 12 and len(HELD_OUT) >= 3 and not set(TRAIN) & set(HELD_OUT)
    train, family = generate("train", 1500, 0), generate("family", 400, 0)
    for tasks in (train, family):
        assert len({(one.instruction, json.dumps(one.world.state)) for one in tasks}) == len(tasks)
    assert Counter(one.family for one in family) == dict.fromkeys(HELD_OUT, 100)
    assert max(len(one.reference.gold) for one in (*train, *family)) * 2 <= MAX_TURNS
    for one in (*train, *family):
        texts = [*one.reference.gold, *(text for wrong in one.reference.wrong for text in wrong)]
        actions = [parse(text) for text in (*texts, *(probe for check in one.checks for probe in check.probes))]
        assert all(action.error is None for action in actions), one.id
        assert all(_offered(action, one) for action in actions), one.id
        assert json.loads(json.dumps(one.world.state)) == one.world.state and one.reference.wrong


def _offered(action: Action, one: Task) -> bool:
    return action.name not in TOOLS or TOOLS[action.name].server in one.world.state["servers"]


async def outcome(one: Task, texts: tuple[str, ...]) -> bool | None:
    results, _ = await replay_actions(McpEnvironment(one), one, texts, time.monotonic() + 60)
    return success(results)


@real
@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES))
async def test_gold_passes_and_wrong_and_empty_fail(family: str) -> None:
    for one in generate("family" if family in HELD_OUT else "train", 3, random.Random(family).randrange(99), [family]):
        assert await outcome(one, one.reference.gold) is True, one.id
        assert await outcome(one, KIT.empty) is False, one.id
        for wrong in one.reference.wrong:
            assert await outcome(one, wrong) is False, (one.id, wrong)


@real
@pytest.mark.slow
async def test_equal_calls_print_equal_texts_in_every_run() -> None:
    for one in generate("train", len(TRAIN), 5) + generate("family", len(HELD_OUT), 5):
        texts = []
        for _ in range(2):
            _, seen = await replay_actions(McpEnvironment(one), one, one.reference.gold, time.monotonic() + 60)
            texts.append([observation.text for observation in seen])
        assert texts[0] == texts[1]
