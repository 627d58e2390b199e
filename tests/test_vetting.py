"""Which tasks and families may be used in the simulator."""

from __future__ import annotations

import dataclasses

import pytest

import launch.vet
from launch.vet import supported
from launch.worlds import REAL, SIM
from rollout.local_pool import LocalPool
from rollout.types import Observation
from tests.fakes import FakeFactory, make_tasks
from tests.test_pool import spec_for
from worldmodel.domains import kit
from worldmodel.domains.mcp import MCP
from worldmodel.vetting import Ending, alarm, reject_reason, verdict_quality, vet


def endings(task: str, family: str = "f", gold=True, wrong=False, empty=False) -> list[Ending]:
    return [
        Ending(task, family, "gold", True, gold),
        Ending(task, family, "wrong", False, wrong),
        Ending(task, family, "empty", False, empty),
    ]


def test_a_task_needs_gold_to_pass_and_wrong_and_empty_to_fail() -> None:
    assert reject_reason(endings("t")) == ""
    assert reject_reason(endings("t", gold=False)) == "gold fails in the simulator"
    assert reject_reason(endings("t", wrong=True)) == "wrong passes in the simulator"
    assert reject_reason(endings("t", empty=True)) == "empty passes in the simulator"
    assert reject_reason(endings("t", gold=None)) == "gold has no simulated verdict"
    assert reject_reason([Ending("t", "f", "gold", False, False), *endings("t")[1:]]) == "gold fails in reality"


def test_an_answer_needs_a_simulator_that_shows_what_it_rests_on() -> None:
    gold, *others = endings("t")
    blind = dataclasses.replace(gold, supported=False)
    assert reject_reason([blind, *others]) == "the simulator does not show what gold's answer rests on"
    assert reject_reason([gold, *(dataclasses.replace(e, supported=False) for e in others)]) == ""


def test_what_an_answer_rests_on_must_be_shown_in_the_simulator_too() -> None:
    task = next(task for task in kit("mcp").generate("train", 60, 5) if task.family == "city_of_person")
    answer = kit("mcp").told([MCP.parse(task.reference.gold[-1])], MCP.parse(task.checks[0].probes[0]))
    assert answer
    real = [Observation(f"she lives in {answer.title()}, as ever"), Observation("", done=True)]
    assert supported(task, task.reference.gold, real, [Observation(f"City: {answer}")])
    assert not supported(task, task.reference.gold, real, [Observation("City: Atlantis")])
    assert supported(task, task.reference.gold, [Observation("nothing of it")], [])  # computed, never shown
    state = next(task for task in kit("mcp").generate("train", 60, 5) if task.family == "add_order")
    assert supported(state, state.reference.gold, real, [])  # its probes read the world


def test_each_half_is_played_in_its_own_pool(tmp_path) -> None:
    tasks = [dataclasses.replace(task, domain="terminal") for task in make_tasks(3)]
    chosen = [*((t, "gold", t.reference.gold) for t in tasks), (tasks[0], "empty", ("done",))]
    with (
        LocalPool(spec_for(tmp_path, env_factories={REAL: FakeFactory()}, env=REAL)) as reality,
        LocalPool(spec_for(tmp_path, env_factories={SIM: FakeFactory()}, env=SIM)) as simulator,
    ):
        found, lost = launch.vet.endings(simulator, chosen, 0, reality)
    assert lost == 0 and [e.task_id for e in found] == ["t0", "t1", "t2", "t0"]
    assert [(e.behaviour, e.real, e.simulated) for e in found] == [("gold", True, True)] * 3 + [("empty", False, False)]


def test_a_task_that_was_not_tried_both_ways_is_not_used() -> None:
    assert reject_reason(endings("t")[:1]) == "neither wrong nor empty was replayed"
    assert reject_reason(endings("t")[1:]) == "gold was not replayed"


def test_families_over_the_limit_leave_whole_and_are_named() -> None:
    good = [e for i in range(9) for e in endings(f"g{i}", "good")] + endings("g9", "good", wrong=True)
    bad = [e for i in range(3) for e in endings(f"b{i}", "bad")] + endings("b3", "bad", wrong=True, empty=True)
    result = vet(good + bad, max_false_positive=0.15)
    assert result.left_out == {"bad": "false-positive rate 25% is above 15%"}
    assert result.usable == tuple(f"g{i}" for i in range(9))
    assert result.rejected["b0"].startswith("family bad: ")
    assert result.rejected["g9"] == "wrong passes in the simulator"
    assert result.families["good"].false_positive_rate == pytest.approx(1 / 20)


def test_an_unmeasurable_or_unusable_family_leaves_too() -> None:
    silent = endings("s", "silent", gold=True, wrong=None, empty=None)
    hopeless = endings("h", "hopeless", gold=False)
    assert vet(silent + hopeless).left_out == {
        "silent": "no failed ending has a simulated verdict",
        "hopeless": "no task passes its own gold, wrong and empty replays",
    }


def test_quality_counts_missing_verdicts_as_coverage_only() -> None:
    sample = [
        *(Ending("t", "f", "gold", True, True) for _ in range(8)),
        *(Ending("t", "f", "gold", True, False) for _ in range(2)),
        *(Ending("t", "f", "policy", False, False) for _ in range(9)),
        Ending("t", "f", "policy", False, True),
        *(Ending("t", "f", "wrong", False, None) for _ in range(5)),
    ]
    q = verdict_quality(sample)
    assert (q.n, q.n_real_success, q.n_real_failure) == (25, 10, 15)
    assert q.coverage == pytest.approx(0.8)
    assert q.false_positive_rate == pytest.approx(0.1)
    assert q.false_negative_rate == pytest.approx(0.2)
    assert q.balanced_accuracy == pytest.approx(0.85)
    assert verdict_quality([]).balanced_accuracy is None


def test_the_alarm_needs_evidence_and_then_names_the_rate() -> None:
    fooled, right = [(True, False)], [(False, False)]
    assert alarm(fooled * 19) == ""
    assert alarm(fooled * 4 + right * 16) == ""
    assert "25%" in alarm(fooled * 5 + right * 15)
    assert alarm([(None, False)] * 50 + [(True, True)] * 50) == ""


def test_the_result_is_json() -> None:
    import json

    assert json.loads(json.dumps(vet(endings("t")).to_json()))["usable"] == ["t"]
