"""``agentworld launch``: from target, experiment and options to a document on paper or a job that runs.

Owns: which target does what, and where its text goes. Refuses: the targets themselves.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from launch.errors import UserError
from launch.preview import Place, preview, this_machine
from launch.submit import kuberay, local, ray_jobs, skypilot, slurm
from launch.submit.job import Job, prepare
from launch.submit.options import Target, load_options, split_overrides

RENDER: dict[Target, Callable[[Job], str]] = {
    Target.slurm: slurm.render,
    Target.k8s: kuberay.render,
    Target.skypilot: skypilot.render,
}


def launch(
    target: Target,
    config: Path,
    overrides: Sequence[str],
    options_file: Path | None,
    *,
    dry_run: bool,
    out: Path | None,
    detach: bool,
    say: Callable[[str], None],
) -> int:
    """Submit (local, ray) or render (slurm, k8s, skypilot) the experiment; returns the exit status for the shell.
    With ``dry_run`` nothing is written or started. Raises AgentworldError, one line."""
    if out is not None and target not in RENDER:
        raise UserError(f"--out belongs to targets that render a file: {', '.join(RENDER)}")
    if detach and target is not Target.ray:
        raise UserError("--detach belongs to target ray")
    options = load_options(target, options_file, split_overrides(overrides)[1])
    if target is Target.local:
        here = this_machine()
        options = options.model_copy(update={"cpus_per_node": here.cpus, "gpus_per_node": here.gpus})
    job = prepare(config, overrides, options)
    if dry_run:
        for line in [*plan(job), *describe(target, job).split("\n")]:
            say(line)
        return 0
    if target is Target.local:
        return local.run(job)
    if target is Target.ray:
        return ray_jobs.run(job, detach, say)
    return _deliver(RENDER[target](job), out, say)


def plan(job: Job) -> list[str]:
    """What would start where, as comment lines."""
    options = job.options
    place = Place(options.nodes, options.cpus_per_node, options.gpus_per_node, here=False)
    return [f"# {line}" for line in preview(job.experiment, place)]


def describe(target: Target, job: Job) -> str:
    """The rendered file, or what would be submitted, as text."""
    if target in RENDER:
        return RENDER[target](job)
    if target is Target.local:
        job = local.here(job)
        lines = ["# command", shlex.join(local.command(job))]
    else:
        lines = [f"# Ray job at {job.options.ray.address}", *(f"{k}: {v}" for k, v in ray_jobs.request(job).items())]
    for name, text in job.files().items():
        lines += [f"# {name}", text.removesuffix("\n")]
    return "\n".join(lines)


def _deliver(text: str, out: Path | None, say: Callable[[str], None]) -> int:
    if out is None:
        for line in text.removesuffix("\n").split("\n"):
            say(line)
        return 0
    if out.exists():
        raise UserError(f"{out}: exists already")
    partial = out.with_name(f".{out.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from error
    say(str(out))
    return 0
