"""The warm start: demonstrations of mixed quality, acted out in the real world."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.warm import WarmRecipe, demonstrations, shown
from rollout.chat import load_chat
from worldmodel.domains.terminal.tasks import generate

SHIPPED = Path(__file__).parents[1] / "worldmodel" / "weights" / "terminal"


@pytest.mark.parametrize("gold", [0.0, 0.4, 1.0])
def test_the_recipe_sets_the_share_of_gold(gold: float) -> None:
    tasks = generate("train", 400, 3)
    right = sum(shown(task, WarmRecipe(gold=gold)) == task.reference.gold for task in tasks)
    assert abs(right / len(tasks) - gold) < 0.08
    assert all(shown(t, WarmRecipe(gold=gold)) in (t.reference.gold, *t.reference.wrong) for t in tasks)


@pytest.mark.sandbox
def test_a_demonstration_trains_on_actions_and_reads_real_observations() -> None:
    chat = load_chat(SHIPPED)
    tasks = generate("train", 4, 0, ["find_delete"])
    recipe = WarmRecipe(gold=1.0)
    for task, (ids, mask) in zip(tasks, demonstrations(tasks, chat, recipe), strict=True):
        assert len(ids) == len(mask)
        trained = chat.decode([i for i, m in zip(ids, mask, strict=True) if m])
        read = chat.decode([i for i, m in zip(ids, mask, strict=True) if not m])
        assert all(action in trained and f"<|assistant|>{action}" not in read for action in task.reference.gold)
        assert task.instruction in read
