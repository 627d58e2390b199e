"""The view of a pool's long calls: how many of their episodes have ended."""

from __future__ import annotations

from pathlib import Path

import pytest
import rich.progress

import launch.counting as counting_module
from launch.counting import counting
from rollout.local_pool import LocalPool
from tests.fakes import make_tasks
from tests.test_pool import spec_for

TASKS = make_tasks(5)


def test_lines_count_the_episodes_of_each_call(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(counting_module, "LINE_EVERY", 0.0)
    said: list[str] = []
    with LocalPool(spec_for(tmp_path)) as pool:
        with counting(pool, "evaluation", said.append, live=False):
            pool.run_tasks(TASKS, env="sim")
            pool.replay([(task, ["done"], "sim", 0) for task in TASKS[:2]])
        before = list(said)
        pool.run_tasks(TASKS, env="sim")
    assert "evaluation: 5 of 5 episodes" in said and "evaluation: 2 of 2 episodes" in said
    assert said == before, "nobody asked for the view any more"


def test_a_terminal_gets_a_bar_and_an_error_ends_it(tmp_path: Path, monkeypatch) -> None:
    counts: list[tuple[int, int]] = []
    update = rich.progress.Progress.update

    def seen(self, row, *, completed, total):
        counts.append((completed, total))
        update(self, row, completed=completed, total=total)

    monkeypatch.setattr(rich.progress.Progress, "update", seen)
    with LocalPool(spec_for(tmp_path)) as pool:
        with pytest.raises(KeyboardInterrupt), counting(pool, "evaluation", live=True):
            pool.run_tasks(TASKS, env="sim")
            raise KeyboardInterrupt
        assert pool.watch is None
    assert counts[-1] == (5, 5) and counts == sorted(counts)
