"""Predicates, rewards from checks, and the rule that an unscorable episode has no reward."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import make_task
from hypothesis import given
from hypothesis import strategies as st

from rollout.errors import TaskError, WorldFault
from rollout.reward import score
from rollout.reward.checks import ChecksReward, holds
from rollout.seeds import derive_seed
from rollout.types import (
    Action,
    CheckResult,
    Completion,
    Finish,
    Observation,
    Predicate,
    Prompt,
    Score,
    Stop,
    Trajectory,
    Turn,
    Version,
)

TURN = Turn((1,), Completion((2,), (0.0,), "x", Finish.STOP, (Version(0, 0),)), Action("x"), Observation(""))
ENDED = Trajectory(make_task(), "g", 0, Prompt(()), (TURN,), Stop.DONE, Score(None))


@pytest.mark.parametrize(
    ("kind", "value", "text", "expected"),
    [
        ("equals", "a\nb", "a  \nb\n\n", True),
        ("equals", "a", " a", False),
        ("equals", "", "\n", True),
        ("same_lines", "b\na", "a\nb\n", True),
        ("same_lines", "a\na", "a", False),
        ("contains", "err", "an error", True),
        ("contains", "err", "fine", False),
        ("lacks", "err", "fine", True),
        ("lacks", "err", "an error", False),
        ("regex", r"^b\d$", "a\nb1", True),
        ("regex", r"^b\d$", "ab1", False),
    ],
)
def test_what_predicates_mean(kind: str, value: str, text: str, expected: bool) -> None:
    assert holds(Predicate(kind, value), text) is expected


def test_a_broken_predicate_is_named() -> None:
    with pytest.raises(TaskError, match="regex"):
        holds(Predicate("regex", "("), "x")
    with pytest.raises(TaskError, match="matches"):
        holds(Predicate("matches", "x"), "x")  # type: ignore[arg-type]


@given(st.text(), st.text())
def test_contains_and_lacks_are_opposites_and_equality_is_reflexive(value: str, text: str) -> None:
    assert holds(Predicate("contains", value), text) is not holds(Predicate("lacks", value), text)
    assert holds(Predicate("equals", text), text + " \n") and holds(Predicate("same_lines", text), text)


@pytest.mark.parametrize(
    ("passed", "all_pass", "fraction"),
    [
        ([True, True], 1.0, 1.0),
        ([True, False], 0.0, 0.5),
        ([False], 0.0, 0.0),
        ([True, None], None, None),
        ([False, None], None, None),
        ([], None, None),
    ],
)
async def test_reward_from_checks(passed, all_pass, fraction) -> None:
    results = [CheckResult(str(i), value, reason="split") for i, value in enumerate(passed)]
    assert await ChecksReward()(ENDED, results) == all_pass
    assert await ChecksReward("fraction")(ENDED, results) == fraction
    scored = await score(ENDED, results, ChecksReward())
    assert scored.reward == all_pass and len(scored.parts) == len(passed)
    assert bool(scored.reason) is (all_pass is None)


@pytest.mark.parametrize("stop", [Stop.WORLD_ERROR, Stop.SAMPLER_ERROR, Stop.TIMEOUT])
async def test_a_failed_stop_is_never_scored(stop: Stop) -> None:
    scored = await score(replace(ENDED, stop=stop, error="down"), [CheckResult("c", True)], ChecksReward())
    assert scored.reward is None and "down" in scored.reason


async def test_a_reward_that_faults_scores_nothing() -> None:
    async def judge(trajectory, results):
        raise WorldFault("judge is down")

    scored = await score(ENDED, [CheckResult("c", True)], judge)
    assert scored.reward is None and "judge is down" in scored.reason
    assert scored.parts == {"c": 1.0}


@given(st.lists(st.text() | st.integers(), max_size=4), st.lists(st.text() | st.integers(), max_size=4))
def test_seeds_differ_where_their_parts_do(a: list, b: list) -> None:
    typed = [(type(x), x) for x in a], [(type(x), x) for x in b]
    assert (derive_seed(*a) == derive_seed(*b)) is (typed[0] == typed[1])
    assert 0 <= derive_seed(*a) < 2**63


def test_a_seed_is_the_same_on_every_machine() -> None:
    assert derive_seed("a", 1) == 5399194072410688700
