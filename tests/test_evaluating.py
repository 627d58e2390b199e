"""Evaluation beside training: pinned to its version, never made twice, the best checkpoint kept."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from fakes import make_tasks

from launch.evaluate import replayed, write_json
from launch.evaluating import EvaluatingSink, best_model, best_step
from rollout.errors import AgentworldError, SamplerFault
from rollout.types import CheckResult, Sampling, Version
from rollout.worker import ReplayOutcome
from trainer.metrics import evaluation_figures

TASKS = make_tasks(4)


class Recorder:
    """A weight sink and the pool behind it: notes what is published and evaluated. ``solved``: tasks by step."""

    def __init__(self, solved: dict[int, int] | None = None) -> None:
        self.published: list[Version] = []
        self.evaluated: list[tuple[str, Version]] = []
        self.spec = type("Spec", (), {"sampling": Sampling(1.0, 8)})
        self.gate = threading.Event()
        self.gate.set()
        self.fault: Exception | None = None
        self.solved = solved or {}

    def publish(self, version: Version, tensors) -> Version:
        self.published.append(version)
        return version

    def run_tasks(self, tasks, *, env: str):  # sampled as in training
        assert self.gate.wait(20.0)
        if self.fault:
            raise self.fault
        version = self.published[-1]
        self.evaluated.append((env, version))
        good = self.solved.get(version.step, len(tasks))
        return [
            replayed(task, env, ReplayOutcome(task.id, (CheckResult("c", n < good),))) for n, task in enumerate(tasks)
        ]


def test_published_versions_are_evaluated_once(tmp_path: Path) -> None:
    there = Recorder()
    sink = EvaluatingSink(there, there, TASKS, 2, tmp_path)
    for step in (0, 1, 2, 3, 4):
        assert sink.publish(Version(1, step), []) == Version(1, step)
    sink.publish(Version(2, 4), [])  # resumed at 4
    sink.wait()
    assert there.evaluated == [("real", Version(1, 0)), ("real", Version(1, 2)), ("real", Version(1, 4))]
    names = sorted(p.name for p in tmp_path.glob("real-*"))
    assert names == [f"real-step_{step:06d}.json" for step in (0, 2, 4)]


def test_training_goes_on_and_newer_weights_wait(tmp_path: Path) -> None:
    there = Recorder()
    there.gate.clear()
    sink = EvaluatingSink(there, there, TASKS, 1, tmp_path, ("real", "sim"))
    sink.publish(Version(1, 1), [])  # returns although the evaluation has not ended
    assert sink.pending() == 1 and sink.spared() == {1}
    there.gate.set()
    sink.publish(Version(1, 2), [])
    sink.wait()
    assert there.evaluated[:2] == [("real", Version(1, 1)), ("sim", Version(1, 1))], "both under the version asked for"
    figures = evaluation_figures(tmp_path / "real-step_000001.json")
    assert figures["transfer/real_success"] == 1.0 and figures["transfer/gap"] == 0.0 and figures["transfer/step"] == 1
    assert json.loads((tmp_path / "real-step_000001.json").read_text())["version"] == [1, 1]


def test_the_best_step_is_the_latest_of_equals(tmp_path: Path) -> None:
    there = Recorder({0: 1, 1: 3, 2: 3, 3: 2})
    sink = EvaluatingSink(there, there, TASKS, 1, tmp_path)
    for step in range(4):
        sink.publish(Version(1, step), [])
    sink.wait()
    assert best_step(tmp_path) == 2 and sink.spared() == {2}
    assert json.loads((tmp_path / "best.json").read_text()) == {"step": 2, "real_success": 0.75}


def test_a_failed_evaluation_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    there = Recorder()
    there.fault = SamplerFault("no worker is left")
    sink = EvaluatingSink(there, there, TASKS, 1, tmp_path)
    sink.publish(Version(1, 3), [])
    with pytest.raises(AgentworldError, match=r"evaluation of \(1, 3\): no worker is left"):
        sink.publish(Version(1, 4), [])
    assert there.published == [Version(1, 3)] and not list(tmp_path.glob("real-*"))


def test_a_wait_for_an_evaluation_has_a_deadline(tmp_path: Path) -> None:
    there = Recorder()
    there.gate.clear()
    sink = EvaluatingSink(there, there, TASKS, 1, tmp_path, patience=0.05)
    sink.publish(Version(1, 0), [])
    with pytest.raises(AgentworldError, match=r"waited 0 s for the evaluation of \(1, 0\) on 4 tasks"):
        sink.wait()
    there.gate.set()


def test_evaluations_of_void_steps_are_made_again(tmp_path: Path) -> None:
    there = Recorder()
    sink = EvaluatingSink(there, there, TASKS, 2, tmp_path, background=False)
    for step in (2, 4):
        sink.publish(Version(1, step), [])
        assert sink.pending() is None
    again = EvaluatingSink(there, there, TASKS, 2, tmp_path, resumed_at=2, background=False)
    again.publish(Version(2, 2), [])
    again.publish(Version(2, 4), [])
    assert [version for _, version in there.evaluated] == [Version(1, 2), Version(1, 4), Version(2, 4)]


def test_the_best_model_is_where_its_step_says(tmp_path: Path) -> None:
    start, final, kept = tmp_path / "warm", tmp_path / "final", tmp_path / "checkpoint-2"
    for folder in (start, final):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    with pytest.raises(AgentworldError, match="no evaluation to choose a checkpoint by"):
        best_model(tmp_path, start, final, 4)
    for step, success in ((0, 0.5), (2, 0.7), (4, 0.2)):
        write_json(tmp_path / "eval" / f"real-step_{step:06d}.json", {"success": {"mean": success}})
    with pytest.raises(AgentworldError, match="checkpoint, of step 2, is gone"):
        best_model(tmp_path, start, final, 4)
    kept.mkdir()
    (kept / "config.json").write_text("{}")
    assert best_model(tmp_path, start, final, 4) == (2, kept)
    write_json(tmp_path / "eval" / "real-step_000000.json", {"success": {"mean": 0.9}})
    assert best_model(tmp_path, start, final, 4) == (0, start)
    write_json(tmp_path / "eval" / "real-step_000004.json", {"success": {"mean": 0.9}})
    assert best_model(tmp_path, start, final, 4) == (4, final), "the later of equals"
