"""``agentworld train`` from config to model, in one process and in two, with a tiny random policy."""

import json
from pathlib import Path

import pytest

import launch.train
from launch.config import ExperimentConfig, load
from launch.train import heldout_tasks, run
from launch.worlds import REAL, SIM
from rollout.errors import AgentworldError
from rollout.store import fates, lineage, read_trajectories
from rollout.types import Finish, Usage
from tests.fakes import save_policy
from trainer.checkpoint import survey
from worldmodel.domains import RealWorlds, kit
from worldmodel.environment import SimulatedFactory
from worldmodel.mixture import generate
from worldmodel.tasks import save
from worldmodel.types import Prediction, PredictRequest

CONFIG = """
run_dir: {folder}/run
policy: {folder}/policy
world: {world}
eval_every: 2
processes: {processes}
deepspeed: {deepspeed}
tasks: {{train: 20, heldout: 2}}
world_model: {{path: "{folder}/policy", max_tokens: 8, verdict_samples: 2, retries: 0, dtype: float32, threads: 1}}
rollout: {{engine: {engine}, slots: 8, group_size: 4, groups_per_batch: 2, max_tokens: 8, budgets: {{unscorable: 4}}}}
trainer:
  trl: {{max_steps: 2, save_steps: 1, per_device_train_batch_size: 4, gradient_accumulation_steps: {accumulate},
    loss_type: dapo, learning_rate: 1.0e-3, report_to: none, bf16: false}}
"""


def experiment(folder: Path, *overrides: str, world: str = "real", processes: int = 1) -> ExperimentConfig:
    save_policy(folder / "policy")
    several = processes > 1
    stage2 = Path(__file__).resolve().parent.parent / "configs" / "deepspeed_zero2.json"
    text = CONFIG.format(
        folder=folder,
        world=world,
        processes=processes,
        deepspeed=stage2 if several else "null",
        engine="ray" if several else "local",
        accumulate=1 if several else 2,
    )
    (folder / "c.yaml").write_text(text)
    return load(folder / "c.yaml", overrides)


def check_run(folder: Path, steps: int, attempt: int) -> None:
    run_dir = folder / "run"
    assert (run_dir / "final" / "model.safetensors").is_file()
    assert survey(run_dir).newest.manifest.step == steps
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows if "loss" in row} == set(range(1, steps + 1))
    assert {row["transfer/step"] for row in rows if "transfer/step" in row} >= set(range(2, steps + 1, 2))
    ends = fates(lineage(run_dir / "rollouts", attempt))
    assert all(len(fate) == 1 for fate in ends.values())
    assert sum(fate == ["trained"] for fate in ends.values()) == 2 * steps
    evaluated = {file.name for file in (run_dir / "eval").glob("real-*")}
    assert evaluated == {f"real-step_{step:06d}.json" for step in range(0, steps + 1, 2)}


@pytest.mark.slow
@pytest.mark.sandbox
def test_one_process_then_longer(tmp_path: Path) -> None:
    said: list[str] = []
    run(experiment(tmp_path, "trainer.trl.report_to=[tensorboard]"), said.append)
    check_run(tmp_path, steps=2, attempt=1)
    assert list((tmp_path / "run").glob("**/events.out.tfevents.*"))
    run(experiment(tmp_path, "trainer.trl.max_steps=4"), said.append)
    check_run(tmp_path, steps=4, attempt=2)
    assert said[0] == "attempt 1 starts from the beginning" and "resumes from checkpoint-2" in said[1]


@pytest.mark.slow
@pytest.mark.sandbox
def test_until_a_step_and_on(tmp_path: Path) -> None:
    """Training that ends at step 2 of 4 and goes on is training to step 4."""
    config, said = experiment(tmp_path, "trainer.trl.max_steps=4"), []
    run(config, said.append, until=2)
    check_run(tmp_path, steps=2, attempt=1)
    run(config, said.append)
    check_run(tmp_path, steps=4, attempt=2)
    assert "resumes from checkpoint-2" in said[1]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [row["learning_rate"] for row in rows if "loss" in row]
    assert rates == sorted(rates, reverse=True) and rates[1] > 4e-4, "one schedule, that of the whole run"


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.timeout(400)
def test_two_processes_under_zero2(tmp_path: Path) -> None:
    run(experiment(tmp_path, processes=2), lambda _: None)
    check_run(tmp_path, steps=2, attempt=1)


@pytest.mark.slow
@pytest.mark.sandbox
def test_a_simulator_without_verdicts_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    """Random weights as the world model: its samples disagree or run on, so nothing can be scored."""
    with pytest.raises(AgentworldError, match=r"unscorable faults: \d+ within .*rollout\.budgets\.unscorable"):
        run(experiment(tmp_path, world="simulated"), lambda _: None)
    assert not (tmp_path / "run" / "final").exists()


class Mute:
    """A world model that predicts silence: every verdict is certain and none is paid for."""

    model_id = "mute"

    async def predict(self, request: PredictRequest) -> Prediction:
        return Prediction("", "", Usage(), Finish.STOP, self.model_id)

    async def close(self) -> None: ...


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.timeout(900)
@pytest.mark.parametrize("world", ["real", "simulated"])
def test_a_mixture_of_domains_trains_and_is_evaluated_as_one(
    world: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task file of two domains. The long openings of one of them need a longer context, and no other key."""
    tasks = generate({"terminal": 1.0, "android": 1.0}, "train", 8, 0)
    save(tasks, tmp_path / "tasks.jsonl")
    config = experiment(tmp_path, f"tasks.file={tmp_path}/tasks.jsonl", "rollout.max_context=3000", world=world)
    assert [task.domain for task in heldout_tasks(config)] == ["terminal", "android"]
    assert heldout_tasks(config)[0] == kit("terminal").generate("heldout", 1, 0)[0]
    if world == "simulated":
        worlds = {SIM: SimulatedFactory(None, Mute), REAL: RealWorlds()}
        monkeypatch.setattr(launch.train, "training_worlds", lambda config: worlds)
    run(config, lambda _: None)
    check_run(tmp_path, steps=2, attempt=1)
    files = sorted((tmp_path / "run" / "rollouts").glob("attempt_*/step_*.jsonl*"))
    stored = [trajectory for file in files for trajectory in read_trajectories(file)]
    assert {trajectory.task.domain for trajectory in stored} == {"terminal", "android"}
    assert any(trajectory.turns for trajectory in stored if trajectory.task.domain == "android")
    evaluated = json.loads((tmp_path / "run" / "eval" / "real-step_000002.json").read_text())
    assert set(evaluated["families"]) == {t.family for t in heldout_tasks(config)}
