"""Three of the runs of ``bench/chaos.py``: a process is lost to SIGKILL, and the run ends with its work done."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.chaos import Plan, trial

EXPECTED = 8.0  # seconds of an undisturbed run: roughly when the kill falls


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "chosen",
    [Plan(101, 1, "driver", 0.8), Plan(102, 1, "worker", 0.6), Plan(103, 1, "saving", 0.3)],
    ids=lambda plan: f"{plan.victim}-of-{plan.processes}",
)
def test_a_lost_process_costs_no_group_its_one_fate(chosen: Plan, tmp_path: Path) -> None:
    verdict = trial(chosen, EXPECTED, tmp_path)
    assert not verdict.problem, verdict
    assert verdict.killed and verdict.fates["trained"] == 24
