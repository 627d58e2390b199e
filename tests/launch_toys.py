"""Outside edges of launching, faked: SLURM's commands, and a machine's programs that only note how they were called."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from launch.submit.job import Job, prepare
from launch.submit.options import Target, load_options

ROOT = Path(__file__).resolve().parent.parent

# Runs the command once, here, whatever nodes were asked for: options end at the first word that is not one.
SRUN = """#!/bin/bash
echo "srun $*" >>"$CALLS"
while [[ "$1" == -* ]]; do shift; done
exec "$@"
"""
# More hosts than a pipe holds: a script that reads one line and closes it would end with the writer's SIGPIPE.
SCONTROL = '#!/bin/bash\necho "node-a"; for n in {1..20000}; do echo "node-$n"; done\n'
# `ray start --block` stays until it is ended; everything else returns at once.
NOTING = """#!/bin/bash
echo "$(basename "$0") $* [RAY_ADDRESS=${RAY_ADDRESS:-} token=$(cat "${RAY_AUTH_TOKEN_PATH:-/dev/null}")]" >>"$CALLS"
"""
RAY = NOTING + 'trap "echo ray ended >>\\"$CALLS\\"; exit 0" TERM\nwhile true; do sleep 0.05; done\n'
PYTHON = NOTING + 'case "$*" in *address) echo 10.1.2.3;; esac\n'
AGENTWORLD = NOTING + "exit ${AGENTWORLD_STATUS:-0}\n"


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def fake_slurm(folder: Path, calls: Path, *, machine: bool) -> dict[str, str]:
    """Environment of a job on two nodes in which ``srun`` runs things here. ``machine``: ray, python and agentworld
    only note their arguments, environment and token in ``calls``."""
    calls.touch()
    program(folder, "srun", SRUN)
    program(folder, "scontrol", SCONTROL)
    if machine:
        for name, text in {"ray": RAY, "python": PYTHON, "agentworld": AGENTWORLD}.items():
            program(folder, name, text)
    found = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    path = f"{folder}{os.pathsep}{found['PATH']}"
    return found | {"PATH": path, "CALLS": str(calls), "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node-[a-b]"}


def experiment_file(folder: Path, text: str = "") -> Path:
    """An experiment whose run directory is ``folder/shared/run``; its policy does not exist."""
    (folder / "shared").mkdir(exist_ok=True)
    path = folder / "c.yaml"
    path.write_text(f"run_dir: {folder}/shared/run\npolicy: {folder}/policy\n{text}")
    return path


def make_job(target: Target, folder: Path, *overrides: str, text: str = "") -> Job:
    """The job of ``experiment_file`` with ``overrides`` of both kinds."""
    path = experiment_file(folder, text)
    options = [item.removeprefix("launch.") for item in overrides if item.startswith("launch.")]
    return prepare(path, overrides, load_options(target, None, options))


def here(folder: Path) -> list[str]:
    """Launch options under which nodes are this machine and run this checkout."""
    return [f"launch.shared_dir={folder}/shared", f"launch.venv={sys.prefix}", f"launch.env.PYTHONPATH={ROOT}"]
