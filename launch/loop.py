"""The stages of the quickstart, each reused when nothing it stands on has changed.

Owns: what each stage measures or makes, and on which held-out seeds. Refuses: their order and sizes
(``launch.quickstart``, ``launch.plan``).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from launch.errors import UserError
from launch.plan import Plan
from launch.stages import Stages
from rollout.evaluate import Evaluation
from rollout.types import Task, Trajectory
from worldmodel.mixture import generate
from worldmodel.tasks import Split

WEIGHTS = "worldmodel/weights/terminal"
HELD_OUT_SEED, FIDELITY_SEED = 1_000_003, 2_000_003


@dataclass(frozen=True, slots=True)
class Worlds:
    """A policy's evaluations, sampled as it was in training: the same held-out tasks in both worlds, and whole
    held-out families in the real one. ``greedy``: the first, with the likeliest token each time."""

    real: Evaluation
    sim: Evaluation
    family: Evaluation
    greedy: Evaluation
    real_file: Path
    sim_file: Path


@dataclass(frozen=True, slots=True)
class Trained:
    """The policy of an arm: of its checkpoints (step 0: the warm start) the one with the highest success on validation
    tasks in the real world. ``validation``: that success by step."""

    policy: Path
    step: int
    validation: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Run:
    """One quickstart: its sizes, its seed and its stages."""

    plan: Plan
    seed: int
    run_dir: Path
    stages: Stages
    say: Callable[[str], None]

    def world_model(self, from_scratch: bool) -> Path:
        """The folder of the world model: the shipped one, or one trained here from nothing."""
        shipped = resources.files("worldmodel") / "weights" / "terminal"
        if not from_scratch and set(self.plan.mix) == {"terminal"} and (shipped / "model.safetensors").is_file():
            self.say(f"world model: shipped weights ({WEIGHTS}); --from-scratch trains it here")
            return Path(str(shipped))
        from launch.collect import collect
        from launch.world import train_round

        recipe, traces = self.plan.world, self.run_dir / "traces"
        self.stages(
            "collect",
            lambda: collect(traces, "train", recipe.episodes, recipe.seed, 2, self.say, self.plan.mix),
            "traces",
            (recipe.episodes, recipe.seed, self.plan.mix),
        )
        model: Path | None = None
        for number in range(len(recipe.rounds)):
            out = self.run_dir / f"world_model_{number + 1}"
            train = partial(train_round, traces, model, out, recipe, number, self.say)
            shape = (recipe.vocabulary, recipe.layers, recipe.tokens_per_batch, recipe.max_length)
            settings = (*shape, recipe.rounds[number])
            self.stages(f"world model, round {number + 1}", partial(done, train), out.name, settings)
            model = out
        assert model is not None
        return model

    def fidelity(self, world: Path) -> dict[str, Any]:
        """The world model on sessions recorded now, from seeds that no training used."""
        from launch.collect import collect
        from launch.evaluate import measure_fidelity
        from launch.report.build import fidelity_table

        plan, traces = self.plan, self.run_dir / "heldout_traces"

        def measure() -> dict[str, Any]:
            results = measure_fidelity(self.model(world), traces, plan.transitions, plan.free_sessions)
            first = next(iter(results.values()))
            by_domain = {name: result.to_json() for name, result in results.items()}
            return {
                "result": first.to_json(),
                "by_domain": by_domain,
                "table": dataclasses.asdict(fidelity_table(results)),
            }

        seed = FIDELITY_SEED + self.seed
        self.stages(
            "collect held-out",
            lambda: collect(traces, "heldout", plan.measured_sessions, seed, 2, self.say, plan.mix),
            "heldout_traces",
            (plan.measured_sessions, plan.mix),
        )
        weights = hashlib.sha256((world / "model.safetensors").read_bytes()).hexdigest()
        sizes = (plan.transitions, plan.free_sessions, self.model(Path()), weights)
        return dict(self.stages("fidelity", measure, settings=sizes))

    def warm_start(self, world: Path) -> Path:
        from launch.warm import warm_start

        out, recipe = self.run_dir / "warm", dataclasses.replace(self.plan.warm, seed=self.seed)
        tasks = self.tasks("train", recipe.demonstrations, self.seed)
        self.stages("warm start", lambda: plain(warm_start(world, tasks, out, recipe, self.say)), "warm", recipe)
        return out

    def verdicts(self, world: Path, policy: Path) -> dict[str, Any]:
        """Simulated against real verdicts on held-out endings: gold, wrong, empty, what the policy does, and near
        misses of the gold solution, which is where a policy looks for rewards that are not there."""
        from launch.evaluate import measure_fidelity
        from launch.pools import bearable, replay_pool
        from launch.report.build import verdict_table
        from launch.vet import Solution, endings, slips
        from launch.worlds import training_worlds
        from worldmodel.domains import kit
        from worldmodel.traces import as_episode
        from worldmodel.vetting import vet

        def measure() -> dict[str, Any]:
            tasks = self.tasks("heldout", self.plan.verdict_tasks, FIDELITY_SEED + self.seed)
            chosen: list[Solution] = []
            for index, task in enumerate(tasks):
                wrong = task.reference.wrong
                chosen += [(task, "gold", task.reference.gold), (task, "wrong", wrong[index % len(wrong)])]
                chosen.append((task, "empty", kit(task.domain).empty))
            played = self._played(policy, tasks)
            chosen += [(t.task, "policy", tuple(turn.action.text for turn in t.turns)) for t in played]
            chosen += [(task, "policy", slips(task, self.seed)) for task in tasks]
            with replay_pool(training_worlds(self.model(world)), workers=2, slots=bearable(self.plan.mix, 32)) as pool:
                found, lost = endings(pool, chosen, self.seed)
            vetting = vet(found)
            recorded = [episode for episode in map(as_episode, played) if episode is not None]
            own = measure_fidelity(self.model(world), recorded, self.plan.transitions, 0)
            return {
                "fidelity_on_policy": next(iter(own.values())).to_json()["teacher_forced"],
                "overall": dataclasses.asdict(vetting.overall),
                "left_out": dict(vetting.left_out),
                "lost": lost,
                "table": dataclasses.asdict(verdict_table(vetting)),
            }

        return dict(self.stages("verdicts", measure, settings=self.plan.verdict_tasks))

    def _played(self, policy: Path, tasks: Sequence[Task]) -> Sequence[Trajectory]:
        """What the sampled policy does on each task in the real world."""
        from launch.config import load
        from launch.counting import counting
        from launch.pools import bearable, policy_pool
        from launch.worlds import REAL, real

        worlds, asked = {REAL: real(self.plan.mix)}, load(config_file(self.plan.config)).rollout
        rollout = asked.model_copy(update={"slots": bearable(self.plan.mix, asked.slots)})
        with policy_pool(str(policy), worlds, rollout, REAL) as pool, counting(pool, "policy", self.say):
            return pool.run_tasks(tasks, env=REAL, seed=self.seed)

    def vetted_tasks(self, world: Path, distrusted: Mapping[str, str]) -> tuple[Path, dict[str, str]]:
        """Training tasks whose gold passes and whose wrong and empty solutions fail in the simulator too; and the
        families that have none, with the reason: too many false positives, or no such task."""
        from launch.pools import bearable, replay_pool
        from launch.vet import trying
        from launch.worlds import training_worlds
        from worldmodel.tasks import save
        from worldmodel.vetting import NO_TASK, vet

        file = self.run_dir / "train_tasks.jsonl"

        def choose() -> dict[str, Any]:
            # the few tasks of the verdict stage do not speak for their family: here each task is tried
            left_out = {family: reason for family, reason in distrusted.items() if reason != NO_TASK}
            tasks = self.tasks("train", self.plan.train_tasks, self.seed + 7_000_003, left_out)
            with replay_pool(training_worlds(self.model(world)), workers=2, slots=bearable(self.plan.mix, 64)) as pool:
                vetting = vet(trying(pool, tasks, self.seed))
            usable = set(vetting.usable)
            save([task for task in tasks if task.id in usable], file)
            self.say(f"{len(usable)} of {len(tasks)} training tasks hold up in the simulator")
            if not usable:
                raise UserError(f"{world}: none of {len(tasks)} training tasks holds up in it; train it longer")
            return {"usable": len(usable), "tried": len(tasks), "left_out": left_out | dict(vetting.left_out)}

        found = self.stages("vet tasks", choose, settings=self.plan.train_tasks)
        return file, found["left_out"]

    def train(self, name: str, warm: Path, world: Path, tasks: Path, control: str) -> Trained:
        """Policy RL in the simulator; an unfinished run goes on from its newest checkpoint. The validation tasks are
        neither trained on nor among those of ``evaluation``."""
        from launch.config import RESOLVED, dump, load
        from launch.evaluating import best_model, results
        from launch.progress import watching
        from launch.train import run
        from launch.worlds import REAL
        from trainer.attempts import AUTO, NEVER
        from trainer.checkpoint import latest

        def learn() -> dict[str, Any]:
            batches, groups, standard = self.plan.rl_batches, self.plan.rl_groups, load(config_file(self.plan.config))
            updates = standard.trainer.trl["steps_per_generation"]
            every = max(1, batches // 2) * updates
            config = load(
                config_file(self.plan.config),
                [
                    f"run_dir={self.run_dir / name}",
                    f"seed={self.seed}",
                    f"policy={warm}",
                    f"control={control}",
                    f"tasks.file={tasks}",
                    f"world_model.path={world}",
                    f"rollout.groups_per_batch={groups}",
                    f"trainer.trl.per_device_train_batch_size={groups * standard.rollout.group_size // updates}",
                    f"trainer.trl.max_steps={batches * updates}",
                    f"trainer.trl.save_steps={every}",
                    f"eval_every={every}",
                    f"tasks.heldout={self.plan.validation_tasks}",
                ],
            )
            written = Path(config.run_dir) / RESOLVED
            if written.is_file() and written.read_text(encoding="utf-8") != dump(config):
                shutil.rmtree(config.run_dir)  # another experiment than the one that is asked for now
            steps = int(config.trainer.trl["max_steps"])
            kept = latest(config.run_dir) is not None  # without: lost before its first checkpoint, from the beginning
            with watching(config.run_dir, steps, self.say):
                final = Path(run(config, self.say, AUTO if kept else NEVER, eval_worlds=(REAL,))["final"])
            step, best = best_model(Path(config.run_dir), warm, final, steps)
            return {"policy": str(best), "step": step, "validation": results(Path(config.run_dir) / "eval")}

        sizes = (self.plan.rl_batches, self.plan.rl_groups, self.plan.validation_tasks, config_text(self.plan.config))
        found = self.stages(name, learn, settings=sizes)
        validation = {int(step): float(success) for step, success in found["validation"].items()}
        return Trained(Path(found["policy"]), int(found["step"]), validation)

    def more_sft(self, warm: Path, seconds: float) -> Path:
        """The control at equal time: the same demonstrations, for as long as RL took."""
        from launch.warm import demonstrations, fine_tune
        from rollout.chat import load_chat

        out, recipe = self.run_dir / "more_sft", dataclasses.replace(self.plan.warm, seed=self.seed)

        def learn() -> dict[str, Any]:
            tasks = self.tasks("train", recipe.demonstrations, self.seed)
            rows = demonstrations(tasks, load_chat(warm), recipe)
            return plain(fine_tune(warm, rows, out, recipe, seconds))

        self.stages("more_sft", learn, "more_sft", seconds)
        return out

    def evaluation(self, name: str, policy: Path, world: Path, simulated: Collection[str] = ()) -> Worlds:
        """``policy`` on held-out tasks: real and simulated, the same ones, and on held-out families. ``simulated``: the
        domains that are also played in the simulator, all where none is named."""
        from launch.config import load
        from launch.counting import counting
        from launch.pools import bearable, policy_pool
        from launch.worlds import REAL, SIM, training_worlds
        from rollout.config import RolloutConfig
        from rollout.evaluate import evaluate
        from rollout.store import read_trajectories, write_trajectories

        folder = self.run_dir / "eval" / name
        files = {part: folder / f"{part}.jsonl" for part in ("real", "sim", "family", "greedy")}
        trained = load(config_file(self.plan.config)).rollout
        sampled, context = trained.sampling, max(1024, trained.max_context)
        greedy = dataclasses.replace(sampled, temperature=0.0)

        def measure() -> dict[str, Any]:
            tasks = self.tasks("heldout", self.plan.heldout_tasks, HELD_OUT_SEED + self.seed)
            families = self.tasks("family", self.plan.family_tasks, HELD_OUT_SEED + self.seed)
            in_both = [task for task in tasks if not simulated or task.domain in simulated]
            slots = bearable(self.plan.mix, 48)
            rollout = RolloutConfig(
                slots=slots, max_tokens=sampled.max_tokens, max_context=context, engine="ray", workers=2
            )
            jobs = (
                ("real", tasks, REAL, sampled),
                ("sim", in_both, SIM, sampled),
                ("family", families, REAL, sampled),
                ("greedy", tasks, REAL, greedy),
            )
            folder.mkdir(parents=True, exist_ok=True)
            with policy_pool(str(policy), training_worlds(self.model(world)), rollout, REAL) as pool:
                for part, chosen, env, sampling in jobs:
                    with counting(pool, f"evaluation, {part}", self.say):
                        found = pool.run_tasks(chosen, env=env, sampling=sampling, seed=self.seed)
                    write_trajectories(files[part], found)
            return {"policy": str(policy)}

        settings = (self.plan.heldout_tasks, self.plan.family_tasks, sampled, *sorted(simulated))
        self.stages(f"evaluate {name}", measure, f"eval/{name}", settings)
        parts = {part: evaluate(list(read_trajectories(file))) for part, file in files.items()}
        return Worlds(parts["real"], parts["sim"], parts["family"], parts["greedy"], files["real"], files["sim"])

    def tasks(self, split: Split, count: int, seed: int, left_out: Collection[str] = ()) -> list[Task]:
        """Own tasks of the plan's domains."""
        return generate(self.plan.mix, split, count, seed, left_out)

    def model(self, world: Path) -> Any:
        """The world model's section of the plan's config, at ``world``."""
        from launch.config import load

        return load(config_file(self.plan.config), [f"world_model.path={world}"]).world_model


def config_file(name: str) -> Path:
    """``configs/NAME``: beside the packages in a checkout, inside ``launch`` when installed."""
    installed = Path(str(resources.files("launch"))) / "configs" / name
    return installed if installed.is_file() else installed.parents[2] / "configs" / name


def config_text(name: str) -> str:
    return config_file(name).read_text(encoding="utf-8")


def done(train: Callable[[], Any]) -> dict[str, Any]:
    return plain(train())


def plain(result: Any) -> dict[str, Any]:
    """A result dataclass as JSON."""
    return dict(json.loads(json.dumps(dataclasses.asdict(result), default=str)))
