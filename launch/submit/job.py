"""One job, ready to be started anywhere: the experiment as the nodes will read it, and the two scripts that run it.

Owns: moving paths to the nodes, refusing what cannot fit, the files every target delivers. Refuses: delivering them.

Whatever the target, a job is a folder of four files, and starting it is ``bash run.sh`` on one node with Ray in reach:

    experiment.yaml  every key written out, paths as the nodes see them
    deepspeed.json   only with DeepSpeed
    node.sh          the environment of every process: ``bash node.sh COMMAND``
    run.sh           puts the experiment beside its run and trains, within the time limit
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from launch.cluster import zero_stage
from launch.config import ExperimentConfig, dump, load
from launch.errors import UserError
from launch.submit.options import PREFIX, LaunchOptions, split_overrides
from rollout.errors import ConfigError

EXPERIMENT, DEEPSPEED, NODE, RUN = "experiment.yaml", "deepspeed.json", "node.sh", "run.sh"
KILL_AFTER = 60  # seconds between the polite end of a job that is out of time and the other one
AGENTWORLD = ("agentworld",)


@dataclass(frozen=True, slots=True)
class Job:
    """``experiment`` names paths on the nodes. ``command`` starts our command line there; ``arguments`` follow
    ``train FILE``."""

    experiment: ExperimentConfig
    options: LaunchOptions
    deepspeed: str | None  # text of the JSON file
    command: tuple[str, ...] = AGENTWORLD
    arguments: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Where the job's files end up: inside the run directory."""
        return f"{self.experiment.run_dir}/launch"

    @property
    def in_process(self) -> bool:
        """One process without DeepSpeed trains in the driver itself; all else starts through Ray Train."""
        return self.experiment.processes == 1 and self.deepspeed is None

    def files(self) -> dict[str, str]:
        """Name -> text of everything a target must deliver into one folder."""
        experiment = self.experiment
        found = {NODE: node_script(self.options), RUN: self._run_script()}
        if self.deepspeed is not None:
            found[DEEPSPEED] = self.deepspeed
            experiment = experiment.model_copy(update={"deepspeed": DEEPSPEED})  # beside the YAML
        return {EXPERIMENT: dump(experiment), **found}

    def _run_script(self) -> str:
        kept = " ".join([EXPERIMENT, *([DEEPSPEED] if self.deepspeed is not None else [])])
        train = shlex.join([*self.command, "train", f"{self.folder}/{EXPERIMENT}", *self.arguments])
        return f"""#!/bin/bash
# Trains, from one node of the Ray cluster. The experiment is kept beside the run that it makes.
set -euo pipefail
here=$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd -P)
folder={shlex.quote(self.folder)}
mkdir -p "$folder"
if [ "$here" != "$(cd "$folder" && pwd -P)" ]; then
    (cd "$here" && cp {kept} "$folder/")
fi
exec timeout --signal=TERM --kill-after={KILL_AFTER} {self.options.seconds} \\
    bash "$here/{NODE}" {train}
"""


def node_script(options: LaunchOptions) -> str:
    """``bash node.sh COMMAND...``: the command in the environment that ``options`` describe."""
    lines = ["#!/bin/bash", "# The environment of every process of this job.", "set -eo pipefail", *options.setup]
    if options.venv is not None:
        lines.append(f'export PATH={shlex.quote(options.venv + "/bin")}:"$PATH"')
    lines.append("export RAY_USAGE_STATS_ENABLED=0")
    lines += [f"export {name}={shlex.quote(value)}" for name, value in options.env.items()]
    return "\n".join([*lines, 'exec "$@"', ""])


def prepare(config: Path, overrides: Sequence[str], options: LaunchOptions) -> Job:
    """The job of an experiment. Raises AgentworldError, one line, where it is wrong or does not fit ``options``."""
    experiment = load(config, split_overrides(overrides)[0])
    text = None
    if experiment.deepspeed is not None:
        zero_stage(experiment.deepspeed)
        text = Path(experiment.deepspeed).read_text(encoding="utf-8")
    if options.workdir is not None:
        experiment = _moved(experiment, Path.cwd(), options.workdir)
    _check_fit(experiment, options)
    _check_shared(experiment, options)
    return Job(experiment, options, text)


def _moved(experiment: ExperimentConfig, here: Path, there: str) -> ExperimentConfig:
    """Paths below ``here`` as the nodes see them, below ``there``; others are taken to be the same on the nodes."""

    def move(path: str) -> str:
        inside = path and Path(path).is_relative_to(here)
        return str(PurePosixPath(there) / Path(path).relative_to(here).as_posix()) if inside else path

    tasks, model = experiment.tasks, experiment.world_model
    return experiment.model_copy(
        update={
            "run_dir": move(experiment.run_dir),
            "policy": move(experiment.policy),
            "tasks": tasks.model_copy(update={"file": move(tasks.file)}) if tasks.file else tasks,
            "world_model": model.model_copy(update={"path": move(model.path)}),
        }
    )


def _check_fit(experiment: ExperimentConfig, options: LaunchOptions) -> None:
    """As many GPUs (or, without GPUs, cores) as trainer ranks."""
    unit, each = ("gpus", options.gpus_per_node) if options.gpus_per_node else ("cpus", options.cpus_per_node)
    if experiment.processes > options.nodes * each:
        raise ConfigError(
            f"processes is {experiment.processes}, but {PREFIX}nodes x {PREFIX}{unit}_per_node is"
            f" {options.nodes} x {each}: raise those, or lower processes"
        )


def _check_shared(experiment: ExperimentConfig, options: LaunchOptions) -> None:
    """Several nodes write into one run directory (decision 21)."""
    shared = options.shared_dir
    if shared is None:
        if options.nodes > 1:
            raise ConfigError(
                f"{PREFIX}nodes is {options.nodes}: set {PREFIX}shared_dir to a folder that all nodes see"
            )
        return
    if not PurePosixPath(experiment.run_dir).is_relative_to(shared):
        raise ConfigError(
            f"run_dir {experiment.run_dir} is not inside {PREFIX}shared_dir {shared}: set run_dir={shared}/runs/NAME"
        )


def write_files(files: Mapping[str, str], folder: Path) -> None:
    """``files`` into ``folder``, each whole or not at all. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            partial = folder / f".{name}.partial"
            partial.write_text(text, encoding="utf-8")
            partial.replace(folder / name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error


def here_documents(files: Mapping[str, str], folder: str) -> str:
    """Shell lines that write ``files`` into ``folder`` (a shell word, already quoted)."""
    lines = [f"mkdir -p {folder}"]
    for name, text in files.items():
        mark = _mark(text)
        lines += [f"cat >{folder}/{name} <<'{mark}'", text.removesuffix("\n"), mark]
    return "\n".join(lines)


def _mark(text: str) -> str:
    """An end mark that no line of ``text`` equals."""
    lines, mark = set(text.splitlines()), "END_OF_FILE"
    while mark in lines:
        mark += "_"
    return mark
