"""``bench/domain_gold.py``: what it counts as one task, what a policy does, going on after a stop."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from pathlib import Path

import pytest

from bench import domain_gold as bench
from rollout.types import Reference, Task
from worldmodel.domains import DomainKit, kit
from worldmodel.tasks import Split

ANDROID = kit("android")


def main(out: Path, *words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["domain_gold", "android", "--out", str(out), *words])
        return bench.main()


def spoilt(split: Split, count: int, seed: int) -> list[Task]:
    """The second task of a split is its first one with another number; the third is solved by nothing."""
    tasks = ANDROID.generate(split, count, seed)
    tasks[1:2] = [dataclasses.replace(tasks[0], id=tasks[1].id, seed=1)]
    tasks[2:3] = [dataclasses.replace(task, reference=Reference(ANDROID.empty, ())) for task in tasks[2:3]]
    return tasks


def test_a_task_that_asks_and_is_solved_alike_is_counted_once() -> None:
    found: DomainKit = dataclasses.replace(ANDROID, generate=spoilt)
    tasks, counted = bench.draw(found, 30, 3)
    assert len({bench.same(task) for task in tasks}) == len(tasks) == counted["distinct"] == 30
    assert counted["duplicates_left_out"] == counted["drawn"] - 30 >= 3
    assert sum(counted["duplicates_by_family"].values()) == counted["duplicates_left_out"]
    assert {task.split for task in tasks} == set(bench.SPLITS)
    assert [task.id for task in bench.draw(found, 12, 3)[0]] == [task.id for task in tasks[:12]]


def test_policies_say_what_their_names_say() -> None:
    tasks, _ = bench.draw(ANDROID, 60, 0)
    for index, task in enumerate(tasks):
        assert bench.behave("gold", ANDROID, tasks, index)[0] == task.reference.gold
        assert bench.behave("wrong", ANDROID, tasks, index)[0] in task.reference.wrong
        assert bench.behave("empty", ANDROID, tasks, index)[0] == ANDROID.empty
        steps, _ = bench.behave("random", ANDROID, tasks, index)
        assert len(steps) <= task.max_turns and steps == bench.behave("random", ANDROID, tasks, index)[0]
        assert ANDROID.domain.parse(steps[-1]).final
    assert len({bench.behave("wrong", ANDROID, tasks, index)[1] for index in range(60)}) > 1  # more than one way


def test_a_stopped_measurement_goes_on_and_changed_code_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, played = tmp_path / "gold.json", list[str]()
    real = bench.episode

    async def counted(worlds: object, task: Task, steps: tuple[str, ...]) -> object:
        played.append(task.id)
        return await real(worlds, task, steps)  # type: ignore[arg-type]

    monkeypatch.setattr(bench, "episode", counted)
    assert main(out, "--tasks", "6", "--minutes", "0") == 0 and len(played) == 1
    assert main(out, "--tasks", "6") == 0 and len(played) == len(set(played)) == 6
    assert main(out, "--tasks", "3", "--policy", "empty") == 0
    result = json.loads(out.read_text())
    assert (result["policies"]["gold"]["passed"], result["policies"]["empty"]["passed"]) == (6, 0)
    assert list(result["rows"]["gold"]) == played[:6] and len(result["rows"]["empty"]) == 3
    monkeypatch.setattr(bench, "code", lambda domain: "other")
    assert main(out, "--tasks", "6") == 0 and played[9:] == played[:6]


def test_gold_that_fails_and_a_world_that_fails_are_told_apart() -> None:
    tasks, _ = bench.draw(ANDROID, 4, 0)
    rows = {tasks[0].id: [True, 0.1], tasks[1].id: [False, 0.1, "why"], tasks[2].id: [None, 9.0, "fault"]}
    gold, wrong = bench.summary("gold", tasks, rows), bench.summary("wrong", tasks, rows)
    assert (gold["episodes"], gold["passed"], gold["no_verdict"], gold["met"]) == (3, 1, 1, False)
    assert gold["families"][tasks[1].family]["unexpected"] == [tasks[1].id]
    unexpected = {name for row in wrong["families"].values() for name in row["unexpected"]}
    assert unexpected == {tasks[0].id, tasks[2].id} and (wrong["no_verdict"], wrong["met"]) == (1, False)
    assert asyncio.run(bench.episode(bench.RealWorlds(), tasks[0], ANDROID.empty))[0] is False
