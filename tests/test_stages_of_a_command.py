"""Stages run once, are reused, and start clean after an interruption."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.stages import Stages, fingerprint


def test_a_finished_stage_is_reused_and_an_unfinished_one_starts_clean(tmp_path: Path) -> None:
    calls: list[int] = []

    def work() -> dict[str, int]:
        (tmp_path / "out").mkdir(exist_ok=False)
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("cut off")
        return {"n": len(calls)}

    lines: list[str] = []
    with pytest.raises(RuntimeError):
        Stages(tmp_path, "a", lines.append)("work", work, "out")
    assert Stages(tmp_path, "a", lines.append)("work", work, "out") == {"n": 2}
    again = Stages(tmp_path, "a", lines.append)
    assert again("work", work, "out") == {"n": 2} and again.reused == ["work"]
    assert Stages(tmp_path, "other settings", lines.append)("work", work, "out") == {"n": 3}


def test_fingerprints_tell_settings_apart() -> None:
    assert fingerprint(1, "a") == fingerprint(1, "a") != fingerprint(1, "b")


def test_a_changed_recipe_runs_its_stage_and_the_later_ones(tmp_path: Path) -> None:
    def call(recipe: int) -> list[str]:
        stages = Stages(tmp_path, "a", lambda _: None)
        stages("collect", lambda: 1)
        stages("train", lambda: 2, settings=recipe)
        stages("measure", lambda: 3)
        return stages.reused

    assert call(1) == []
    assert call(1) == ["collect", "train", "measure"]
    assert call(2) == ["collect"]
