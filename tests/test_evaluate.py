"""Rates with intervals, paired comparisons, and the confusion of verdicts."""

from __future__ import annotations

import json
import random

import pytest
from fakes import FakeFactory, Faults, build_chat, gold_script, make_tasks

from rollout.episode import EpisodeSettings
from rollout.errors import TaskError
from rollout.evaluate import bootstrap, evaluate, paired_gain, run_tasks
from rollout.reward.checks import ChecksReward
from rollout.samplers.scripted import ScriptedSampler
from rollout.transfer import Verdict, compare, confusion
from rollout.types import Sampling, Session

CHAT = build_chat()
TASKS = make_tasks(8)


def skilled(solved: set[str]):
    """Solves these tasks, gives up on the others."""
    gold = gold_script(TASKS)

    def script(context: str, session: Session) -> str:
        return gold(context, session) if session.id.split("/")[0] in solved else "done"

    return script


async def play(solved, *, factory=None, tasks=TASKS, **kwargs):
    sampler = ScriptedSampler(CHAT, skilled(set(solved)))
    options = {"sampling": Sampling(0.0), **kwargs}
    return await run_tasks(tasks, factory or FakeFactory(), sampler, CHAT, ChecksReward(), EpisodeSettings(), **options)


async def test_success_by_family_with_unscorable_episodes_as_failures() -> None:
    factory = FakeFactory({"t0": Faults(raises={"verify": "box died"})})
    result = evaluate(await play(["t0", "t1", "t2", "t3"], factory=factory))
    assert result.success.mean == 3 / 8 and result.success.count == 8
    assert result.coverage == 7 / 8 and result.success_scored == pytest.approx(3 / 7)
    assert {name: family.mean for name, family in result.families.items()} == {"set0": 1 / 4, "set1": 2 / 4}
    assert result.stops == {"world_error": 1, "done": 7}
    assert result.outcomes[0].reward is None and "box died" in result.outcomes[0].reason
    assert result.success.low < 3 / 8 < result.success.high
    loaded = json.loads(json.dumps(result.to_json()))
    assert loaded["families"]["set1"]["mean"] == 0.5 and loaded["version"] == [0, 0]


async def test_repeats_are_averaged_within_a_task() -> None:
    trajectories = await play(["t0"], tasks=TASKS[:2], repeats=3, concurrency=2)
    assert [(t.task.id, t.member) for t in trajectories] == [(f"t{n}", m) for n in range(2) for m in range(3)]
    result = evaluate(trajectories)
    assert result.by_task() == {"t0": 1.0, "t1": 0.0} and result.success.count == 2


async def test_the_gain_is_paired_by_task() -> None:
    before, after = evaluate(await play(["t0", "t1"])), evaluate(await play(["t0", "t1", "t2", "t3", "t4", "t5"]))
    gain = paired_gain(before, after)
    assert gain.mean == 0.5 and 0 < gain.low < 0.5 < gain.high <= 1
    assert paired_gain(before, before) == paired_gain(after, after)
    with pytest.raises(TaskError, match=r"1 tasks are in one evaluation only, first t7"):
        paired_gain(before, evaluate(await play([], tasks=TASKS[:7])))
    with pytest.raises(TaskError, match="no episode"):
        evaluate([])


def test_the_interval_is_reproducible_and_covers_what_it_promises() -> None:
    assert bootstrap([0.0, 1.0, 1.0], 3) == bootstrap([0.0, 1.0, 1.0], 3)
    assert bootstrap([1.0, 1.0]).low == bootstrap([1.0, 1.0]).high == 1.0
    draw, covered = random.Random(0), 0
    for trial in range(100):
        values = [float(draw.random() < 0.4) for _ in range(80)]
        interval = bootstrap(values, trial, draws=1000)
        covered += interval.low <= 0.4 <= interval.high
    assert 88 <= covered <= 100
    with pytest.raises(TaskError):
        bootstrap([])


async def test_the_same_tasks_in_two_worlds() -> None:
    simulated = await play(["t0", "t1", "t2", "t3"], factory=FakeFactory(world_id="sim"))
    broken = FakeFactory({"t3": Faults(raises={"start": "down"}), "t7": Faults(undecided=("value",))}, "real")
    real = await play(["t0", "t1", "t4"], factory=broken)
    result = compare(simulated, real)
    assert (result.simulated.world_id, result.real.world_id) == ("sim", "real")
    assert result.gap.mean == pytest.approx(1 / 8)
    assert result.agreement == pytest.approx(4 / 6)  # t2 and t4 differ, t3 and t7 have no verdict
    assert json.loads(json.dumps(result.to_json()))["gap"]["count"] == 8


def test_confusion_of_verdicts() -> None:
    rows = [("a", True, True)] * 8 + [("a", False, True)] * 2 + [("a", False, False)] * 9 + [("a", True, False)]
    rows += [("b", True, False), ("b", None, True), ("c", True, True)]
    report = confusion([Verdict(*row) for row in rows])
    a = report.families["a"]
    assert (a.true_positive, a.false_positive, a.true_negative, a.false_negative) == (8, 1, 9, 2)
    assert a.balanced_accuracy == pytest.approx(0.85) and a.false_positive_rate == pytest.approx(0.1)
    assert report.families["b"].coverage == 0.5 and report.families["b"].balanced_accuracy is None
    assert report.overall.undecided == 1 and report.families["c"].false_positive_rate is None
    assert report.untrusted(0.15) == ("b",) and report.untrusted(0.05) == ("a", "b")
    assert json.loads(json.dumps(report.to_json()))["families"]["a"]["balanced_accuracy"] == pytest.approx(0.85)
