"""HumanEval repairs: the making of tasks on problems of the same form, and the installed ones in boxes."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import time
from pathlib import Path

import pytest

from rollout.errors import ConfigError
from rollout.spot import replay_actions, success
from rollout.types import Task
from worldmodel.domains.swe import humaneval, humaneval_build
from worldmodel.domains.swe.grammar import FINAL, call
from worldmodel.domains.swe.humaneval import DATA, HIDDEN, MODULE, PACKAGE, TEST, WHEEL, Problem, broken, files, task
from worldmodel.domains.swe.humaneval_real import HumanEvalEnvironment
from worldmodel.domains.swe.kit import KIT
from worldmodel.domains.swe.mutate import Edit, apply, parses
from worldmodel.domains.swe.testing import Bench

PROMPT = 'def twice(n: int) -> int:\n    """ Twice n.\n    >>> twice(2)\n    4\n    """\n'
ROW = {
    "task_id": "HumanEval/0", "entry_point": "twice", "prompt": PROMPT, "canonical_solution": "    return n * 2\n",
    "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate(5) == 10\n",
}  # fmt: skip


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Problem:
    """A cache that holds one problem in place of the wheel's, with a bug."""
    monkeypatch.setenv("AGENTWORLD_CACHE", str(tmp_path))
    (WHEEL.path / DATA).parent.mkdir(parents=True)
    with gzip.open(WHEEL.path / DATA, "wt", encoding="utf-8") as stream:
        stream.write(json.dumps(ROW) + "\n")
    at = len(PROMPT) + ROW["canonical_solution"].index("*")
    monkeypatch.setattr(humaneval, "bugs", lambda: {0: (Edit(at, at + 1, "+"),)})
    return humaneval.problem(0)


def test_before_set_up_the_source_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTWORLD_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="agentworld setup swe"):
        KIT.sources["humaneval"](1)


def test_a_task_is_the_broken_module_and_an_edit_that_mends_it(own: Problem) -> None:
    (made,) = KIT.sources["humaneval"](5)
    assert broken(0) == PROMPT + "    return n + 2\n"
    edit, end = (KIT.domain.parse(text) for text in made.reference.gold)
    assert broken(0).count(edit.arguments["old"]) == 1 and end.final
    assert broken(0).replace(edit.arguments["old"], edit.arguments["new"]) == own.module
    assert KIT.domain.parse(made.checks[0].probes[0]).probe
    shown = json.dumps([made.instruction, made.world.state, KIT.domain.spec(made.world).initial_state])
    assert "candidate" not in shown and "return" not in shown and TEST not in shown


def test_the_hidden_tests_call_the_mended_function_and_have_their_own_helpers(own: Problem) -> None:
    assert "check(solution.twice)" in own.hidden and own.module in own.hidden and parses(own.hidden)
    assert "exit" in own.forbidden and "__eq__" in own.forbidden
    evaluates = Problem(0, "f", "def f(x):\n", "    return eval(x)\n", "")
    assert "eval" not in evaluates.forbidden, "a name that the solution needs is allowed"


def test_mutations_are_tried_in_an_order_that_repeats_and_end_with_spoilt_returns(own: Problem) -> None:
    tried = list(humaneval_build.candidates(own))
    random.seed(1)
    assert tried == list(humaneval_build.candidates(own))
    texts = [apply(own.module, edits) for edits in tried]
    assert PROMPT + "    return n + 2\n" in texts and PROMPT + "    return -(n * 2)\n" in texts[-4:]
    assert all(text.startswith(PROMPT) and parses(text) for text in texts)


def test_every_bug_belongs_to_the_pinned_wheel() -> None:
    """Also without set-up: the offsets and the few characters of each edit are all that is kept."""
    bugs = humaneval.bugs()
    assert len(bugs) > 150 and set(bugs) <= set(range(164))
    assert all(len(edit.new) < 12 and 0 <= edit.start <= edit.stop for edits in bugs.values() for edit in edits)


def live(number: int) -> Task:
    if lacking := KIT.missing():
        pytest.skip(lacking)
    try:
        return task(humaneval.problem(number))
    except ConfigError as error:
        pytest.skip(str(error))


def act(made: Task, *actions: str) -> bool | None:
    environment = KIT.real()(made, 0)
    assert isinstance(environment, HumanEvalEnvironment)
    results, _ = asyncio.run(replay_actions(environment, made, actions, time.monotonic() + 90))
    return success(results)


@pytest.mark.slow
@pytest.mark.domain
@pytest.mark.sandbox
@pytest.mark.parametrize("number", [0, 32, 53, 160])
def test_gold_passes_and_wrong_and_empty_fail(number: int) -> None:
    made = live(number)
    assert act(made, *made.reference.gold) is True
    assert act(made, *made.reference.wrong[0]) is False
    assert act(made, call(FINAL)) is False


@pytest.mark.slow
@pytest.mark.domain
@pytest.mark.sandbox
@pytest.mark.parametrize(
    "module",
    [
        "",
        "raise SystemExit(0)\n",
        "import os\nos._exit(0)\n",
        "class Same(int):\n    def __eq__(self, other):\n        return True\n\n\ndef add(x, y):\n    return Same()\n",
        "import solution_of_mine\nadd = solution_of_mine.add\n",
        "import sys\nsys.modules['builtins'].check = None\n\n\ndef add(x, y):\n    return 0\n",
    ],
)
def test_a_module_that_is_no_repair_fails(module: str) -> None:
    """Problem 53 is add(x, y)."""
    made = live(53)
    mine = call("edit", path="src/solution_of_mine.py", old="", new="def add(x, y):\n    return x + y\n")
    write = call("shell", command=f"rm {MODULE}")
    make = [call("edit", path=MODULE, old="", new=module)] if module else []
    assert act(made, mine, write, *make, call(FINAL)) is False


@pytest.mark.slow
@pytest.mark.domain
@pytest.mark.sandbox
def test_a_helper_made_lenient_helps_nobody() -> None:
    """Problem 32's tests measure with poly, which stands beside the function."""
    made = live(32)
    helper = "return sum([coeff * math.pow(x, i) for i, coeff in enumerate(xs)])"
    lenient = call("edit", path=MODULE, old=helper, new="return 0.0")
    assert act(made, lenient, call(FINAL)) is False


@pytest.mark.slow
@pytest.mark.domain
@pytest.mark.sandbox
def test_the_tests_are_not_in_the_machine() -> None:
    made = live(0)

    async def seen() -> str:
        environment = HumanEvalEnvironment(made)
        try:
            await environment.start()
            look = call("shell", command="git ls-files; grep -rl METADATA ~ /tmp || echo nothing")
            return (await environment.step(environment.parse(look))).text
        finally:
            await environment.close()

    assert asyncio.run(seen()) == f"pytest.ini\n{MODULE}\nnothing"


@pytest.mark.slow
@pytest.mark.domain
@pytest.mark.sandbox
def test_a_bug_is_noticed_by_the_tests_again() -> None:
    found = humaneval.problem(live(7).seed)
    with Bench(PACKAGE, {**files(found.module), TEST: found.hidden}) as bench:
        assert humaneval_build.outcome(bench, found, ()) == "passed"
        assert humaneval_build.outcome(bench, found, humaneval.bugs()[7]) == "failed"
        assert bench.run([TEST], 10.0)["outcomes"] == {HIDDEN: "passed"}
