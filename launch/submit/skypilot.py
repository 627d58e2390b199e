"""A SkyPilot task, for ``sky launch`` or ``sky jobs launch``.

Owns: the document and the commands its nodes run. Refuses: launching it, and installing agentworld (that is
``launch.setup`` or ``launch.image``).

SkyPilot runs the same commands on every node. Rank 0 starts Ray's head and trains; the others join and stay until the
head is gone. Ray's token comes as a SkyPilot secret, so that it is in no file:

    sky launch task.yaml --secret RAY_AUTH_TOKEN=$(openssl rand -hex 32)
"""

from __future__ import annotations

import shlex
from typing import Any

from launch.errors import UserError
from launch.submit.documents import to_yaml, without_nothing
from launch.submit.job import NODE, RUN, Job, here_documents
from launch.submit.options import PREFIX, LaunchOptions

PORT = 6379  # SkyPilot's own Ray has 6380


def render(job: Job) -> str:
    """The text of the task. Raises UserError, one line, where an option is missing."""
    options = job.options
    if options.gpus_per_node and options.skypilot.accelerator is None:
        raise UserError(f"skypilot needs {PREFIX}skypilot.accelerator for {PREFIX}gpus_per_node, such as H100")
    comment = "agentworld launch skypilot. Start: sky launch FILE --secret RAY_AUTH_TOKEN=$(openssl rand -hex 32)"
    return to_yaml([task(job)], comment)


def task(job: Job) -> dict[str, Any]:
    options = job.options
    return without_nothing(
        {
            "name": options.name,
            "num_nodes": options.nodes,
            "resources": _resources(options),
            "volumes": dict(options.skypilot.volumes),
            "envs": {"RAY_AUTH_MODE": "token"},
            "secrets": dict.fromkeys(["RAY_AUTH_TOKEN", *options.skypilot.secrets]),
            "run": _run(job),
        }
    )


def _resources(options: LaunchOptions) -> dict[str, Any]:
    sky = options.skypilot
    accelerators = f"{sky.accelerator}:{options.gpus_per_node}" if options.gpus_per_node else None
    return without_nothing(
        {
            "infra": sky.infra,
            "accelerators": accelerators,
            "cpus": f"{options.cpus_per_node}+",
            "memory": f"{options.memory_gb}+" if options.memory_gb else None,
            "disk_size": sky.disk_gb,
            "use_spot": sky.use_spot,
            "image_id": f"docker:{options.image}" if options.image else None,
            "autostop": {"idle_minutes": sky.idle_minutes, "down": True},
        }
    )


def _run(job: Job) -> str:
    options = job.options
    ray = ["ray", "start", "--block", "--disable-usage-stats", f"--num-cpus={options.cpus_per_node}"]
    return _RUN.format(
        files=here_documents(job.files(), '"$files"'),
        ray=shlex.join([*ray, f"--num-gpus={options.gpus_per_node}"]),
        port=PORT,
        node=NODE,
        run=RUN,
        seconds=options.start_seconds,
    )


_RUN = """\
set -euo pipefail
files=$(mktemp -d)
{files}
on_node=(bash "$files/{node}")
ray=({ray})
ip=${{SKYPILOT_NODE_IPS%%$'\\n'*}}  # the first line
export RAY_ADDRESS="$ip:{port}"

if [ "$SKYPILOT_NODE_RANK" != 0 ]; then
    "${{on_node[@]}}" python -m launch.submit.nodes reach --seconds {seconds}
    "${{on_node[@]}}" "${{ray[@]}}" --address="$RAY_ADDRESS" || true  # ends with the head, whose status is the job's
    exit 0
fi

steps=""
finish() {{
    local status=$?
    trap - EXIT TERM INT
    [ -z "$steps" ] || kill $steps 2>/dev/null || true
    exit "$status"
}}
trap finish EXIT
trap 'exit 143' TERM INT
"${{on_node[@]}}" "${{ray[@]}}" --head --node-ip-address="$ip" --port={port} --dashboard-host=127.0.0.1 &
steps="$steps $!"
"${{on_node[@]}}" python -m launch.submit.nodes wait --count "$SKYPILOT_NUM_NODES" --seconds {seconds} &
waiting=$!
while kill -0 "$waiting" 2>/dev/null; do  # a head that ends first is not waited for
    kill -0 $steps 2>/dev/null || {{ kill "$waiting" 2>/dev/null || true; wait $steps || exit $?; exit 1; }}
    sleep 0.5
done
wait "$waiting"
bash "$files/{run}" &
steps="$steps $!"
wait $!
"""
