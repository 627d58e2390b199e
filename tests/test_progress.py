"""The view of a run: what it shows follows from the run's metrics alone."""

from __future__ import annotations

import json
import time
from pathlib import Path

import launch.progress as progress
from launch.progress import Figures, follow, watching


def row(step: int, **more: float) -> dict:
    return {"step": step, "loss": 0.1, "reward": step / 10, **more}


def test_whole_lines_are_followed_and_torn_ones_wait(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert follow(file, 0) == ([], 0)
    file.write_text(json.dumps(row(1)) + "\nnonsense\n" + '{"step": 2, "lo')
    rows, offset = follow(file, 0)
    assert rows == [row(1)]
    with file.open("a") as stream:
        stream.write('ss": 1.0}\n')
    assert follow(file, offset)[0] == [{"step": 2, "loss": 1.0}]


def test_figures_say_what_the_run_has() -> None:
    figures = Figures(total=20)
    for step in range(1, 13):
        figures.add(row(step, **{"rollout/faults/world": 3, "rollout/faults/sampler": 0, "rollout/groups/trained": 8}))
    figures.add({"step": 12, "train_runtime": 3.0})  # the Trainer's last words
    figures.add(row(13, **{"transfer/step": 12, "transfer/real_success": 0.5, "transfer/gap": -0.125}))
    shown = dict(figures.shown())
    assert shown["step"].startswith("13 of 20, ") and shown["reward"] == "0.850"  # of the last ten
    assert shown["real success"] == "50.0% at step 12, simulated -12.5%"
    assert "entropy" not in shown, "a figure that the run does not have is not shown"
    assert Figures(total=None).shown() == [("step", "0"), ("faults", "none")]
    assert dict(_last_of(figures))["faults"] == "none"


def _last_of(figures: Figures) -> list[tuple[str, str]]:
    figures.add(row(14, **{"rollout/faults/world": 0}))
    return figures.shown()


def test_a_run_without_a_terminal_gets_lines(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(progress, "REFRESH", 0.01)
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    file = tmp_path / "metrics.jsonl"
    file.write_text(json.dumps(row(1)) + "\n")  # of an earlier start
    said: list[str] = []
    with watching(tmp_path, 5, said.append, live=False), file.open("a") as stream:
        for step in (2, 3):
            stream.write(json.dumps(row(step, **{"rollout/faults/world": 2.0})) + "\n")
            stream.flush()
            deadline = time.monotonic() + 10
            while not (said and said[-1].startswith(f"step {step} ")):
                assert time.monotonic() < deadline, said
                time.sleep(0.01)
    assert not any(line.startswith("step 1 ") for line in said)
    assert "faults 2 world" in said[-1]


def test_a_terminal_gets_a_table(tmp_path: Path, capsys) -> None:
    (tmp_path / "metrics.jsonl").touch()
    with watching(tmp_path, 4, print, live=True):
        (tmp_path / "metrics.jsonl").write_text(json.dumps(row(2)) + "\n")
    out = capsys.readouterr().out
    assert "2 of 4" in out and "reward" in out
