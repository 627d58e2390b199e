"""The command ``agentworld``.

Owns: arguments, printing, exit statuses (0 done, 1 crash, 2 a user-facing error). Refuses: logic; each command
calls one function, imported when the command runs, so that ``--help`` needs no framework.
"""

from __future__ import annotations

import os
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from launch.console import say, show
from launch.errors import UserError, one_line, user_errors
from launch.submit.options import Target

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Learn a world from real traces, train an agent inside it, measure it in the real one.",
)

# Set before any framework is imported; what the user's environment says wins.
QUIET = {
    "TQDM_DISABLE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_SILENT": "true",
    "TRANSFORMERS_VERBOSITY": "error",
}

Seed = Annotated[int, typer.Option(min=0, help="Decides everything random.")]
Domain = Annotated[str, typer.Option(help="Domains, with commas, or all: folders of worldmodel/domains.")]
Mix = Annotated[str, typer.Option(help="Their weights, e.g. terminal=2,search=1; 1 where not named.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes.")]


class SplitName(StrEnum):
    train = "train"
    heldout = "heldout"
    family = "family"


class WorldName(StrEnum):
    real = "real"
    sim = "sim"
    both = "both"


class PlayWorld(StrEnum):
    real = "real"
    sim = "sim"


class RoleName(StrEnum):
    policy = "policy"
    world = "world"


Split = Annotated[SplitName, typer.Option(help="Seeds: train, heldout; family: families held out whole.")]


def main() -> None:
    """Entry point of the command."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning)  # what libraries say to their callers' authors
    with user_errors():
        app()


@app.command()
def quickstart(
    smoke: Annotated[bool, typer.Option("--smoke", help="Every stage, tiny: does it run here?")] = False,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Train the world model too.")] = False,
    controls: Annotated[bool, typer.Option("--controls", help="Also more SFT and permuted rewards.")] = False,
    seed: Seed = 0,
    run_dir: Annotated[Path, typer.Option(help="Where the run lives; reused if it exists.")] = Path("runs/quickstart"),
) -> None:
    """Traces, world model, policy RL inside it, evaluation in the real world: the whole product, once."""
    from launch.quickstart import ARMS, run_quickstart

    arms = ARMS if controls else ARMS[:1]
    raise typer.Exit(run_quickstart(seed=seed, smoke=smoke, from_scratch=from_scratch, run_dir=run_dir, arms=arms))


@app.command()
def collect(
    out: Annotated[Path, typer.Option(help="Folder for episodes.jsonl and manifest.json.")],
    episodes: Annotated[int, typer.Option(min=1)] = 1000,
    seed: Seed = 0,
    workers: Workers = 2,
    split: Split = SplitName.train,
    domain: Domain = "terminal",
    mix: Mix = "",
    twice: Annotated[bool, typer.Option("--twice", help="Execute each session again; mark what differs.")] = False,
) -> None:
    """Record sessions of real worlds as training data for world models."""
    from launch.collect import collect as run
    from launch.worlds import real
    from worldmodel.mixture import parse

    chosen = parse(domain, mix)
    real(chosen)
    run(out, split.value, episodes, seed, workers, say, chosen, twice)


@app.command()
def tasks(
    out: Annotated[Path, typer.Option(help="JSONL task file to write.")],
    count: Annotated[int, typer.Option(min=1)] = 200,
    seed: Seed = 0,
    split: Split = SplitName.heldout,
    family: Annotated[list[str] | None, typer.Option(help="Only this family (repeatable).")] = None,
    domain: Domain = "terminal",
    mix: Mix = "",
) -> None:
    """Write generated tasks to a file, to be read, edited and given to eval or train."""
    from worldmodel.domains import kit
    from worldmodel.mixture import generate, parse
    from worldmodel.tasks import save

    chosen = parse(domain, mix)
    if out.exists():
        raise UserError(f"{out}: exists already")
    if family:
        of_families = kit(next(iter(chosen))).of_families
        if len(chosen) > 1 or of_families is None:
            raise UserError(f"--family: the tasks of {domain} cannot be chosen by family")
        made = of_families(split.value, count, seed, family)
    else:
        made = generate(chosen, split.value, count, seed)
    partial = out.with_name(f".{out.name}.partial")
    save(made, partial)
    partial.replace(out)
    say(f"{count} tasks in {out}")


@app.command()
def setup(domain: Annotated[str, typer.Argument(help="A domain, e.g. web.")]) -> None:
    """Get what one domain's real environment needs: system packages, servers, corpora. Runs again at no cost."""
    from worldmodel.domains import kit

    found = kit(domain)
    if found.setup is not None:  # also where nothing lacks: it gets benchmarks too
        found.setup(say)
    if lacking := found.missing():
        raise UserError(f"{domain}: missing {lacking}")
    say(f"{domain}: ready")


@app.command()
def fidelity(
    world_model: Annotated[str, typer.Option(help="Model folder, or URL of an OpenAI-compatible server.")],
    episodes: Annotated[Path, typer.Option(help="Folder written by `agentworld collect`.")],
    limit: Annotated[int, typer.Option(min=1, help="Transitions of each domain to ask for, teacher-forced.")] = 2000,
    free: Annotated[int, typer.Option(min=0, help="Episodes of each domain to run free.")] = 200,
    served_model: Annotated[str, typer.Option(help="Name of the served model, with a URL.")] = "",
    dialect: Annotated[str | None, typer.Option(help="Wire format: transcript, brief or reference.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the result as JSON.")] = None,
) -> None:
    """How close predicted observations are to recorded real ones."""
    from launch.evaluate import measure_fidelity, write_json
    from launch.worlds import world_model_config
    from worldmodel.fidelity import tables

    config = world_model_config(world_model, served_model, dialect)
    results = measure_fidelity(config, episodes, limit, free)
    show(tables(results))
    if out is not None:
        write_json(out, {domain: result.to_json() for domain, result in results.items()})


@app.command("eval")
def evaluate(
    policy: Annotated[
        str, typer.Option(help="Model folder, `gold` or `empty`; with --suite also a URL, `random`, `human`.")
    ],
    suite: Annotated[str | None, typer.Option(help="Many benchmarks, real worlds: real-seven, or a YAML file.")] = None,
    tasks: Annotated[
        int | None, typer.Option(min=1, help="Generated tasks (200); suite: at most so many each.")
    ] = None,
    task_file: Annotated[Path | None, typer.Option(help="JSONL tasks instead of generated ones.")] = None,
    split: Split = SplitName.heldout,
    domain: Domain = "terminal",
    world: Annotated[WorldName, typer.Option(help="Where to run; both: the same tasks, paired.")] = WorldName.real,
    world_model: Annotated[str, typer.Option(help="Model folder or server URL, for sim and both.")] = "",
    served_model: Annotated[str, typer.Option(help="Name of the served model, with a URL.")] = "",
    dialect: Annotated[str | None, typer.Option(help="Wire format: transcript, brief or reference.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="Of the policy; 0: most likely token.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of a turn; without: as the domain says.")] = None,
    max_context: Annotated[int | None, typer.Option(min=2, help="Of an episode; without: as the domain says.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Decides everything random.")] = None,
    workers: Workers = 1,
    vllm: Annotated[str, typer.Option(help="URLs of vLLM servers that sample for --policy, with commas.")] = "",
    out: Annotated[Path | None, typer.Option(help="Also write every episode's outcome as JSON.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Suite: where it lives; an existing one goes on.")] = None,
    policy_model: Annotated[str, typer.Option(help="Suite: the model's name, with a URL that serves several.")] = "",
    prices: Annotated[str, typer.Option(help="Suite: dollars for a million tokens, IN,OUT.")] = "",
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Suite: not run is no failure.")] = False,
) -> None:
    """Success of a policy on held-out tasks, in the real world, the simulator, or both; or on a whole suite."""
    from launch.evaluate import Evaluand, evaluate_policy, load_tasks, write_json

    if suite is not None:
        from launch.suite.command import SuiteOptions, evaluate_suite

        if (
            any((task_file, world_model, served_model, dialect, out))
            or split is not SplitName.heldout
            or domain != "terminal"
            or world is not WorldName.real
        ):
            raise UserError(
                "--suite names its own tasks and worlds: leave out what chooses others (--run-dir, not --out)"
            )
        options = SuiteOptions(
            policy, tasks, temperature, max_tokens, max_context, seed, workers, vllm, run_dir, policy_model, prices
        )
        return evaluate_suite(suite, options, allow_missing)
    if run_dir is not None or policy_model or prices or allow_missing:
        raise UserError("--run-dir, --policy-model, --prices and --allow-missing belong to --suite")
    if world is not WorldName.real and not world_model:
        raise UserError(f"--world {world.value} needs --world-model")
    chosen = load_tasks(task_file, split.value, tasks or 200, seed or 0, domain)
    names = ("real", "sim") if world is WorldName.both else (world.value,)
    evaluand = Evaluand(
        policy,
        world_model,
        served_model,
        dialect,
        temperature or 0.0,
        seed or 0,
        workers,
        vllm,
        max_tokens,
        max_context,
    )
    result = evaluate_policy(evaluand, chosen, names)
    show(result.rows())
    if out is not None:
        write_json(out, result.to_json())


@app.command()
def play(
    domain: Annotated[str, typer.Argument(help="A folder of worldmodel/domains.")],
    task_seed: Annotated[int, typer.Option(min=0, help="Which task.")] = 0,
    split: Split = SplitName.heldout,
    role: Annotated[
        RoleName, typer.Option("--as", help="What you are; world: the gold policy acts.")
    ] = RoleName.policy,
    world: Annotated[PlayWorld, typer.Option(help="Where you act.")] = PlayWorld.real,
    world_model: Annotated[str, typer.Option(help="Model folder or server URL, for sim.")] = "",
    served_model: Annotated[str, typer.Option(help="Name of the served model, with a URL.")] = "",
    dialect: Annotated[str | None, typer.Option(help="Wire format: transcript, brief or reference.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the trajectory, a line of JSON.")] = None,
) -> None:
    """One episode by hand: act in a world, or be the world; ends with the verdict of every check."""
    from launch.play import Game
    from launch.play import play as run

    game = Game(domain, task_seed, split.value, role.value, world.value, world_model, served_model, dialect)
    run(game, out)


@app.command()
def vet(
    world_model: Annotated[str, typer.Option(help="Model folder, or URL of an OpenAI-compatible server.")],
    tasks: Annotated[int, typer.Option(min=1, help="Number of generated tasks.")] = 200,
    task_file: Annotated[Path | None, typer.Option(help="JSONL tasks instead of generated ones.")] = None,
    split: Split = SplitName.train,
    domain: Domain = "terminal",
    served_model: Annotated[str, typer.Option(help="Name of the served model, with a URL.")] = "",
    dialect: Annotated[str | None, typer.Option(help="Wire format: transcript, brief or reference.")] = None,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Also write the result as JSON.")] = None,
) -> None:
    """Can the simulator's verdicts be trusted? Acts out gold, wrong and empty solutions in both worlds."""
    from launch.evaluate import load_tasks, write_json
    from launch.vet import table, vet_tasks
    from launch.worlds import world_model_config

    chosen = load_tasks(task_file, split.value, tasks, seed, domain)
    result = vet_tasks(world_model_config(world_model, served_model, dialect), chosen, seed)
    show(table(result))
    say(f"{len(result.usable)} of {len(chosen)} tasks may be trained on in this simulator")
    if out is not None:
        write_json(out, result.to_json())


@app.command(context_settings={"ignore_unknown_options": False})
def train(
    config: Annotated[Path, typer.Argument(help="YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, e.g. trainer.trl.max_steps=10")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the config and the plan, and stop.")] = False,
    resume: Annotated[str, typer.Option(help="auto, never, or a checkpoint-N folder of the run.")] = "auto",
) -> None:
    """Policy RL: GRPO on groups of episodes sampled in a world."""
    from launch.config import dump, load

    loaded = load(config, overrides or [])
    if dry_run:
        from launch.preview import preview, this_machine

        lines = preview(loaded, this_machine())
        print(dump(loaded), end="")
        for line in lines:
            say(f"# {line}")  # what is printed is still a config file
        return
    from launch.progress import watching
    from launch.train import run

    with watching(loaded.run_dir, loaded.trainer.trl.get("max_steps"), say):
        result = run(loaded, say, resume)
    say(f"trained: {result['final']}")


@app.command("launch")
def submit(
    target: Annotated[Target, typer.Argument(help="local and ray start it; the others render a file.")],
    config: Annotated[Path, typer.Argument(help="The experiment's YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value; launch.key=value for the options.")] = None,
    options: Annotated[Path | None, typer.Option(help="YAML file of launch options.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be started where, and stop.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the rendered file here instead of printing it.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="ray: submit and return.")] = False,
) -> None:
    """Start a training on this machine or a Ray cluster, or render it for SLURM, Kubernetes or SkyPilot."""
    from launch.submit.command import launch

    status = launch(target, config, overrides or [], options, dry_run=dry_run, out=out, detach=detach, say=say)
    raise typer.Exit(status)


@app.command()
def sweep(
    config: Annotated[Path, typer.Argument(help="YAML file of a sweep.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, e.g. budget.trials=10")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan and stop.")] = False,
) -> None:
    """Many training runs scored by real success: Ray Tune, Optuna, ASHA. Run it again to go on."""
    from launch.sweep.config import load_sweep
    from launch.sweep.run import plan_text, run_sweep
    from launch.sweep.table import short_table

    loaded = load_sweep(config, overrides or [])
    for line in plan_text(loaded):
        say(line)
    if not dry_run:
        show(short_table(loaded.config, run_sweep(loaded, say)))


@app.command()
def doctor(
    run_dir: Annotated[Path, typer.Option(help="Where runs would live.")] = Path("runs"),
    model: Annotated[Path | None, typer.Option(help="Also check this folder's template and logprobs.")] = None,
    url: Annotated[str | None, typer.Option(help="Also ask this world-model server.")] = None,
    vllm: Annotated[str | None, typer.Option(help="Also ask this vLLM server of the policy: URL.")] = None,
    judge: Annotated[str | None, typer.Option(help="Also ask this judge: URL of an OpenAI-compatible server.")] = None,
    judge_model: Annotated[str, typer.Option(help="Name of the judge's model.")] = "",
    ray: Annotated[str | None, typer.Option(help="Also ask every node of this Ray cluster: address, or auto.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also start processes: Ray, and a process group.")] = False,
) -> None:
    """What this machine can do."""
    from launch.doctor import Subject, diagnose

    if judge and not judge_model:
        raise UserError("--judge needs --judge-model")
    findings = diagnose(Subject(run_dir, model, url, (judge, judge_model) if judge else None, ray, deep, vllm))
    for finding in findings:
        mark = "ok  " if finding.ok else ("FAIL" if finding.needed else "warn")
        say(f"{mark}  {finding.name:18}  {one_line(finding.detail)}")
    failed = [finding.name for finding in findings if finding.needed and not finding.ok]
    if failed:
        raise UserError(f"not ready: {', '.join(failed)}")


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="A run directory that holds report.json.")]) -> None:
    """Write report.html anew from a run's report.json."""
    from launch.report.data import read
    from launch.report.render import write

    say(str(write(read(run_dir / "report.json"), run_dir)))


if __name__ == "__main__":
    main()
