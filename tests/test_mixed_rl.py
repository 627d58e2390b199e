"""What ``bench/mixed_rl.py`` decides by itself: sizes, training tasks of some domains, pooled seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.mixed_rl import FULL, main, only, pooled, sized
from launch.errors import UserError
from worldmodel.mixture import generate
from worldmodel.tasks import load, save


def test_sizes_reach_the_plan_and_the_warm_start() -> None:
    plan = sized(FULL, "demonstrations=7,rl_batches=3")
    assert (plan.warm.demonstrations, plan.rl_batches, plan.rl_groups) == (7, 3, FULL.rl_groups)


def test_training_tasks_of_some_domains(tmp_path: Path) -> None:
    every = generate({"terminal": 2.0, "android": 1.0}, "train", 9, 0)
    save(every, tmp_path / "tasks.jsonl")
    assert only(tmp_path / "tasks.jsonl", [], tmp_path / "unused") == tmp_path / "tasks.jsonl"
    file = only(tmp_path / "tasks.jsonl", ["terminal", "mcp"], tmp_path / "new" / "kept.jsonl")
    assert load(file) == [task for task in every if task.domain == "terminal"] and len(load(file)) == 6
    with pytest.raises(UserError, match=r"--train-domains search.*has no task"):
        only(tmp_path / "tasks.jsonl", ["search"], tmp_path / "none.jsonl")


def test_seeds_are_pooled_over_their_tasks() -> None:
    def seed(pairs: list[list[float]]) -> dict:
        return {"domains": {"terminal": {"pairs": pairs}}, "all": {"pairs": pairs}}

    both = pooled([seed([[0.0, 1.0]] * 10), seed([[0.0, 1.0]] * 20 + [[1.0, 0.0]] * 10)])["terminal"]
    assert (both["tasks"], both["before"], both["after"]) == (40, 0.25, 0.75)
    assert both["gain"] == pytest.approx(0.5) and 0.2 < both["low"] < 0.5 < both["high"] < 0.8


def test_a_warm_start_that_is_not_there_is_refused(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["mixed_rl", "--world-model", str(tmp_path), "--warm", str(tmp_path / "gone")])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "there is nothing" in capsys.readouterr().err
