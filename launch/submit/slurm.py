"""A batch script for SLURM: Ray on the nodes of one allocation, then the training on its first node.

Owns: directives, the order of steps, what is cleaned up, the exit status. Refuses: submitting it.

Every process runs through ``srun`` inside ``node.sh``, so that a container image, where there is one, holds for all of
them. The shared folder carries the job's files and a token that only this user can read: Ray's ports are open to the
network, so every connection needs it (``RAY_AUTH_MODE=token``). The dashboard listens on loopback only.
"""

from __future__ import annotations

import shlex

from launch.errors import UserError
from launch.submit.job import NODE, RUN, Job, here_documents
from launch.submit.options import PREFIX

FIRST_PORT, PORTS = 20000, 10000  # of Ray's head: below the ephemeral range, above Ray's worker ports
GRACE_SECONDS = 120  # between SLURM's warning and the end of the allocation


def render(job: Job) -> str:
    """The text for ``sbatch``. Raises UserError, one line, where an option is missing."""
    options = job.options
    if options.shared_dir is None:
        raise UserError(f"slurm needs {PREFIX}shared_dir: the script and its token go through a shared folder")
    files = here_documents(job.files(), '"$folder"')
    preamble = _PREAMBLE.format(**_values(job))
    return "\n".join(["#!/bin/bash", *directives(job), "", preamble, files, "", _steps(job)])


def directives(job: Job) -> list[str]:
    """The ``#SBATCH`` lines."""
    options, slurm = job.options, job.options.slurm
    found = [
        f"--job-name={options.name}",
        f"--nodes={options.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={options.cpus_per_node}",
        f"--time={time_limit(options.seconds)}",
        f"--output={options.shared_dir}/{options.name}-%j.log",  # its folder must exist before the job does
        "--open-mode=append",
        f"--signal=B:TERM@{GRACE_SECONDS}",
    ]
    found += [f"--gpus-per-node={options.gpus_per_node}"] if options.gpus_per_node else []
    found += [f"--mem={options.memory_gb}G"] if options.memory_gb else []
    for name in ("partition", "account", "qos", "constraint"):
        value = getattr(slurm, name)
        found += [f"--{name}={value}"] if value is not None else []
    found += ["--exclusive"] if slurm.exclusive else []
    return [f"#SBATCH {shlex.quote(item)}" for item in found] + [f"#SBATCH {item}" for item in slurm.extra]


def time_limit(seconds: int) -> str:
    """SLURM's days-hours:minutes:seconds."""
    days, rest = divmod(seconds, 86400)
    return f"{days}-{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"


def _values(job: Job) -> dict[str, str]:
    options = job.options
    step = ["--overlap", "--kill-on-bad-exit=1", f"--cpus-per-task={options.cpus_per_node}"]
    if options.image is not None:
        # the node's /tmp: each step is a container of its own, and the driver meets Ray through a socket there
        folders = dict.fromkeys([options.shared_dir, options.workdir or options.shared_dir, "/tmp"])
        mounts = ",".join(f"{folder}:{folder}" for folder in folders)
        step += [f"--container-image={options.image}", f"--container-mounts={mounts}"]
    ray = ["ray", "start", "--block", "--disable-usage-stats", f"--num-cpus={options.cpus_per_node}"]
    ray += [f"--num-gpus={options.gpus_per_node}"]
    return {
        "folder": shlex.quote(job.folder),
        "step": shlex.join(step),
        "ray": shlex.join(ray),
        "port": f"{FIRST_PORT} + SLURM_JOB_ID % {PORTS}",
    }


def _steps(job: Job) -> str:
    nodes = job.options.nodes
    workers = _WORKERS.format(others=nodes - 1) if nodes > 1 else ""
    return _STEPS.format(node=NODE, run=RUN, nodes=nodes, workers=workers, seconds=job.options.start_seconds)


_PREAMBLE = """\
set -euo pipefail
folder={folder}
step=({step})
ray=({ray} --temp-dir="/tmp/ray_$SLURM_JOB_ID")
steps=""

# SLURM warns before the time is up; whatever the reason, what was started here is ended here.
finish() {{
    local status=$?
    trap - EXIT TERM INT
    [ -z "$steps" ] || kill $steps 2>/dev/null || true
    rm -f "$RAY_AUTH_TOKEN_PATH"
    exit "$status"
}}

# Waits for the process started last, unless a Ray started before it ends first: then there is nothing to wait for.
# Not `wait -n`, which does not see a process that has ended already.
wait_beside_ray() {{
    local waiting=$! step status=0
    while kill -0 "$waiting" 2>/dev/null; do
        for step in $steps; do
            kill -0 "$step" 2>/dev/null && continue
            kill "$waiting" 2>/dev/null || true
            wait "$step" || status=$?
            echo "Ray ended with status $status: see $folder/ray-*.log" >&2
            exit "$((status ? status : 1))"
        done
        sleep 0.5
    done
    wait "$waiting"
}}

mkdir -p "$folder"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$folder/ray_token.$SLURM_JOB_ID"
trap finish EXIT
trap 'exit 143' TERM INT
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \\n' >"$RAY_AUTH_TOKEN_PATH")
port=$(({port}))
"""

_STEPS = """\
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${{hosts%%$'\\n'*}}  # the first line; a pipe into head would end scontrol, and with it the job
on_head=(srun "${{step[@]}}" --nodes=1 --ntasks=1 --nodelist="$head" bash)
in_node="$folder/{node}"

ip=$("${{on_head[@]}}" "$in_node" python -m launch.submit.nodes address)
export RAY_ADDRESS="$ip:$port"
echo "Ray's head: $head ($RAY_ADDRESS), {nodes} node(s)"
"${{on_head[@]}}" "$in_node" "${{ray[@]}}" --head --node-ip-address="$ip" --port="$port" --dashboard-host=127.0.0.1 \\
    >"$folder/ray-head.log" 2>&1 &
steps="$steps $!"
"${{on_head[@]}}" "$in_node" python -m launch.submit.nodes reach --seconds {seconds} &
wait_beside_ray
{workers}"${{on_head[@]}}" "$in_node" python -m launch.submit.nodes wait --count {nodes} --seconds {seconds} &
wait_beside_ray

"${{on_head[@]}}" "$folder/{run}" &
steps="$steps $!"
wait $!
"""

_WORKERS = """\
srun "${{step[@]}}" --nodes={others} --ntasks={others} --ntasks-per-node=1 --exclude="$head" \\
    bash "$in_node" "${{ray[@]}}" --address="$RAY_ADDRESS" >"$folder/ray-workers.log" 2>&1 &
steps="$steps $!"
"""
