"""The swe domain: grammar, bugs, tasks, tools, and verdicts that cannot be forged."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Sequence
from typing import Any

import pytest

from rollout.errors import ConfigError, TaskError
from rollout.spot import replay_actions, success
from rollout.types import CheckResult, Task
from worldmodel.domains.swe import box_tests, box_tools
from worldmodel.domains.swe.build import Trier, bugs_of
from worldmodel.domains.swe.grammar import FINAL, call, parse, show
from worldmodel.domains.swe.kit import KIT
from worldmodel.domains.swe.mutate import Edit, apply, functions, one_token, parses, several_tokens, whole_body
from worldmodel.domains.swe.packages import PACKAGES, Package, kept, tree
from worldmodel.domains.swe.real import SweEnvironment
from worldmodel.domains.swe.tasks import belongs, catalogue, families, generate, located, unique
from worldmodel.domains.swe.verdict import verdict
from worldmodel.environment import SimulatedEnvironment, SimulationSettings
from worldmodel.replay import ReplayWorldModel
from worldmodel.sandbox import SandboxError

SOURCE = '''\
def clip(low, value):
    """Not less than low."""
    if value < low and True:
        return low + 0
    return value


class Box:
    @property
    def size(self):
        return len(self.items) - 1
'''
END = call(FINAL)


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    """Skips where the packages are not installed."""
    try:
        return generate("train", 12, 3)
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def ready(tasks: list[Task]) -> list[Task]:
    if lacking := KIT.missing():
        pytest.skip(f"swe: missing {lacking}")
    return tasks


def replay(task: Task, actions: Sequence[str]) -> tuple[tuple[CheckResult, ...], list[str]]:
    results, seen = asyncio.run(replay_actions(SweEnvironment(task), task, actions, time.monotonic() + 400))
    return results, [observation.text for observation in seen]


def shell(command: str) -> str:
    return call("shell", command=command)


# The grammar


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("ls", "expected one JSON object"),
        ('{"name": "sh"}', "name: use shell, read, edit, list, search, todo, finish"),
        (call("read", path="a", start=0), "a line number from 1"),
        (call("read", path="a", start=5, end=2), "start is after end"),
        (call("edit", path="a", old="x", new="x"), "old and new are equal"),
        (call("edit", path="a", old="x"), "edit: give path, old, new, nothing else"),
        (call("todo", items=[{"text": "a", "status": "late"}]), "an item has text and status"),
        (call("shell", command=" "), "a text of 1 to"),
        (call("finish", why="x"), "give no arguments"),
    ],
)
def test_what_is_no_call_is_told_why(text: str, error: str) -> None:
    action = parse(text)
    assert error in str(action.error) and not action.name and show(action) == text


def test_calls_are_shown_as_they_are_written() -> None:
    for text in (shell("ls"), call("read", path="a.py", start=1, end=2), call("todo"), END):
        assert parse(text).error is None and show(parse(text)) == text
    probe = parse(call("run_tests", files=["a"], failing=["a::b"]))
    assert probe.probe and probe.executes and not parse(shell("ls")).executes


# Bugs


def test_a_function_is_cut_where_its_docstring_ends() -> None:
    clip, size = functions(SOURCE)
    assert (clip.name, size.name) == ("clip", "Box.size") and size.lines == (9, 11)
    gone = apply(SOURCE, whole_body(clip))
    assert '"""Not less than low."""\n    raise NotImplementedError\n\n\nclass' in gone and parses(gone)
    assert apply(SOURCE, [Edit(0, 3, "async def")]).startswith("async def clip")


def test_bugs_change_tokens_of_a_body_alone() -> None:
    clip, _ = functions(SOURCE)
    changed = {apply(SOURCE, edits) for edits in one_token(clip)}
    assert any("value <= low" in text for text in changed) and any("low - 0" in text for text in changed)
    assert all(text.startswith('def clip(low, value):\n    """Not less') and text != SOURCE for text in changed)
    several = several_tokens(clip, random.Random(0))
    assert several is not None and len({edit.start for edit in several}) >= 2


def test_an_edit_is_widened_until_it_is_unique() -> None:
    text = "a\nx\nb\nx\n"
    old, new = unique(text, text.rindex("x"), text.rindex("x") + 1, "y")
    assert text.count(old) == 1 and text.replace(old, new) == "a\nx\nb\ny\n"


def test_a_test_function_is_located() -> None:
    assert located("class A:\n    def test_a(self):\n        x\n\n    def test_b(self):\n        y\n", "test_a") == (
        2,
        3,
    )
    assert located("x = 1\n", "test_a") is None


class Box:
    """Stands in for a box: every test fails where ``low + 0`` of the source was changed."""

    def __init__(self) -> None:
        self.runs = 0

    def run(self, tests: list[str], seconds: float, **options: Any) -> dict[str, Any]:
        self.runs += 1
        start = SOURCE.index("+ 0")
        edits = [edit for edits in options.get("edits", {}).values() for edit in edits]
        seen = "failed" if any(edit[0] == start for edit in edits) else "passed"
        names = [*(f"tests/test_a.py::test_{i}" for i in range(2)), "tests/test_b.py::test_c"]
        names = [name for name in names if name in tests] or names
        entered = {name: ["pkg/a.py:1"] for name in names} if options.get("trace") else {}
        return {"end": "ok", "outcomes": dict.fromkeys(names, seen), "entered": entered,
                "messages": dict.fromkeys(names, "\nassert 0x7fab == 1\nmore")}  # fmt: skip


def test_noticed_bugs_are_kept_once_and_a_run_goes_on_where_it_was(tmp_path) -> None:
    package, files = Package("demo", "1", "0", ("pkg",)), {"pkg/a.py": SOURCE}
    sources = {"pkg/a.py": functions(SOURCE)}
    found, runs = [], []
    for _ in range(2):
        box = Box()
        trier = Trier(package, files, box, tmp_path / "demo.jsonl")  # type: ignore[arg-type]
        found.append(list(bugs_of(package, "token", sources, trier)))
        runs.append(box.runs)
    assert found[0] == found[1] and runs[0] > 2 and runs[1] == 2  # the baseline alone
    (bug,) = found[0]
    assert bug["function"] == "clip" and bug["edits"][0][2] == "-" and len(bug["failing"]) == 3
    assert bug["said"] == "assert 0x0 == 1" and bug["others"] == []


# Tasks


def test_a_bug_is_of_one_split_and_whole_packages_are_held_out() -> None:
    sides = {split: families(split) for split in ("train", "heldout", "family")}
    packages = {split: {bug["package"] for bugs in table.values() for bug in bugs} for split, table in sides.items()}
    assert packages["train"] and packages["family"] and not packages["train"] & packages["family"]
    for bug in (bug for bugs in catalogue().values() for bug in bugs):
        assert sum(belongs(bug, split) for split in sides) == 1
    with pytest.raises(TaskError, match="unknown split"):
        families("test")


def test_gold_restores_the_pristine_text_and_no_world_shows_the_origin(tasks: list[Task]) -> None:
    for task in tasks:
        bug = task.world.state["bug"]
        pristine = tree(task.world.state["package"])[bug["path"]]
        text = apply(pristine, [Edit(*edit) for edit in bug["edits"]])
        for step in task.reference.gold[:-1]:
            arguments = parse(step).arguments
            assert text.count(arguments["old"]) == 1
            text = text.replace(arguments["old"], arguments["new"])
        assert text == pristine and task.checks[0].probes[0] not in KIT.domain.spec(task.world).initial_state
        assert bug["path"] in KIT.domain.spec(task.world).initial_state


def test_a_simulated_world_reaches_no_verdict(tasks: list[Task]) -> None:
    nobody = ReplayWorldModel((), KIT.domain.spec)
    results = asyncio.run(
        SimulatedEnvironment(tasks[0], KIT.domain, nobody, SimulationSettings()).verify(tasks[0].checks)
    )
    assert [result.passed for result in results] == [None] and "needs execution" in results[0].reason


def test_only_plain_files_of_interest_are_unpacked() -> None:
    from pathlib import PurePosixPath

    assert kept(PurePosixPath("src/a.py"), 10) and kept(PurePosixPath("LICENSE"), 10)
    assert not any(kept(PurePosixPath(p), 10) for p in ("docs/a.py", "a/../b.py", "a.so", "x.egg-info/a.txt"))
    assert PACKAGES["toolz"].is_code("toolz/itertoolz.py") and not PACKAGES["toolz"].is_code("toolz/tests/test_x.py")
    assert not PACKAGES["toolz"].is_code("toolz/conftest.py") and not PACKAGES["toolz"].is_code("conftest.py")


# The programs in the box, run here on a folder


def test_tools_print_what_they_did(tmp_path) -> None:
    root = str(tmp_path)

    def ask(name: str, **arguments: object) -> str:
        return str(box_tools.answer({"root": root, "name": name, "arguments": arguments})["text"])

    assert ask("edit", path="a.py", old="", new="x = 1\ny = 1\n") == "Created a.py."
    assert ask("edit", path="a.py", old="= 1", new="= 2") == "Error: a.py: old occurs 2 times; it must occur once"
    assert ask("edit", path="a.py", old="y = 1", new="y = 2") == "Edited a.py at line 2."
    assert ask("read", path="a.py", start=2) == "    2  y = 2\n[lines 2-2 of 2]"
    assert ask("search", pattern="= [12]") == "a.py:1:x = 1\na.py:2:y = 2"
    assert ask("search", pattern="(") == "Error: pattern: missing ), unterminated subpattern at position 0"
    assert ask("list") == "a.py" and ask("read", path="b") == "Error: b: No such file or directory"


def test_names_are_found_however_they_are_written() -> None:
    text = "import a.gc as b\nfrom _pytest import c\nx = y.__class__\ngetattr(z, 'modules')\n"
    assert {"gc", "_pytest", "__class__", "getattr", "modules"} <= box_tests.names_in(text)


class Late:
    """Stands in for a box whose tests reach their deadline."""

    def __init__(self, waited: float) -> None:
        self._waited = waited

    def run(self, tests: list[str], seconds: float, **options: Any) -> dict[str, Any]:
        return {"end": "deadline", "waited": self._waited * seconds}


def test_a_deadline_on_a_busy_machine_is_no_verdict(tasks: list[Task]) -> None:
    package = PACKAGES[tasks[0].world.state["package"]]
    files = parse(tasks[0].checks[0].probes[0]).arguments["files"]
    assert verdict(Late(0.1), package, files, ["a"]).startswith("failed")  # type: ignore[arg-type]
    with pytest.raises(SandboxError, match="for a processor"):
        verdict(Late(0.7), package, files, ["a"])  # type: ignore[arg-type]
    assert box_tests.waited(os.getpid()) >= 0 and box_tests.waited(-1) == 0


# The real world


@pytest.mark.sandbox
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tools_shell_and_git_share_one_checkout(ready: list[Task]) -> None:
    task = ready[0]
    path = task.world.state["bug"]["path"]
    _, said = replay(
        task,
        [
            shell("git log --oneline | wc -l; git status --short; x=5"),
            call("edit", path="note.py", old="", new="a = 1\n"),
            shell("cat note.py; git status --short; echo $x; false"),
            shell("exit 3"),
            shell("pwd; git diff --stat"),
            call("todo", items=[{"text": "a", "status": "done"}]),
            shell("mkfifo p"),
            call("read", path="p"),
            call("list", path="/opt/site/pytest"),
            call("read", path=path, start=1, end=1),
            END,
        ],
    )
    assert said[0] == "1" and said[2] == "a = 1\n?? note.py\n5\n[exit code 1]" and said[3] == "exit\n[shell exited]"
    assert said[4] == f"/home/user/{task.world.state['package']}" and said[5] == "[x] a"
    assert said[7] == "Error: p: not a regular file" and "__init__.py" in said[8]


FORGERIES = {
    "tests deleted": "find . -name 'test*.py' -delete",
    "tests emptied": "for f in $(find . -name 'test*.py'); do echo 'def test_x(): pass' > $f; done",
    "conftest": "printf 'import pytest\\n@pytest.hookimpl(hookwrapper=True)\\ndef pytest_runtest_makereport(item, call):"  # noqa: E501
    '\\n o = yield\\n r = o.get_result()\\n r.outcome = "passed"\\n\' > conftest.py; cp conftest.py {code}/conftest.py',
    "pytest.ini": "printf '[pytest]\\naddopts = --collect-only\\n' > pytest.ini; cp pytest.ini tox.ini",
    "sitecustomize": "echo 'import os; os._exit(0)' | tee sitecustomize.py {code}/sitecustomize.py ~/usercustomize.py",
    "shadowed pytest": "mkdir -p pytest {code}/pytest; echo 'main = lambda *a, **k: 0' | tee pytest/__init__.py _pytest.py",  # noqa: E501
    "exit in the source": "sed -i '1i import os as _o; _o._exit(0)' {code}/__init__.py",
    "patched runner": "sed -i '1i import _pytest.runner as r; r.check_interactive_exception = lambda *a: False' "
    "{code}/__init__.py",
    "equal to all": "printf '\\nclass Any:\\n    def __eq__(self, o): return True\\n' >> {code}/__init__.py",
    "daemon": "(while :; do sleep 0.2; git checkout -q . ; find . -name 'test*.py' -delete; done) &",
    "pipe in the source": "rm {code}/__init__.py; mkfifo {code}/__init__.py",
    "folder named like tests": "mkdir {code}/tests_x; echo 'import _pytest, gc' > {code}/tests_x/__init__.py; "
    "sed -i '1i from . import tests_x' {code}/__init__.py",
    "folder in the way": "mkdir -p {code}/py.typed/x {code}/x.py; echo > {code}/x.py/a.py",
    "endless source": "printf '\\nwhile True: pass\\n' >> {code}/__init__.py; pkill -9 python3",
}


@pytest.mark.sandbox
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FORGERIES)
def test_a_verdict_cannot_be_forged(name: str, ready: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "endless source":
        monkeypatch.setattr("worldmodel.domains.swe.verdict.SECONDS", 5.0)
    task = ready[0]
    code = PACKAGES[task.world.state["package"]].code[0]
    results, _ = replay(task, [shell(FORGERIES[name].replace("{code}", code)), END])
    assert success(results) is False, results


@pytest.mark.sandbox
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_gold_succeeds_and_wrong_and_empty_fail_in_every_family(ready: list[Task]) -> None:
    for task in ready[:9]:
        assert success(replay(task, task.reference.gold)[0]) is True, task.id
        for wrong in (KIT.empty, *task.reference.wrong):
            assert success(replay(task, wrong)[0]) is False, (task.id, wrong)
