"""A KubeRay ``RayJob`` (ray.io/v1) and the ConfigMap that carries the job's files, for ``kubectl apply``.

Owns: both documents. Refuses: applying them, and building the image, which must hold agentworld and Ray on its PATH.

The head pod is the first node: it has its share of GPUs and runs the driver, since a training in one process is the
driver. KubeRay (1.5.1 or later) makes a token for the cluster and gives it to all pods (``authOptions``); without it
anybody in the Kubernetes network could run code here.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from launch.errors import UserError
from launch.submit.documents import to_yaml, without_nothing
from launch.submit.job import RUN, Job
from launch.submit.options import PREFIX, LaunchOptions

FILES = "/etc/agentworld"  # where the ConfigMap is mounted
FIRST_AUTH = (2, 52)  # Ray with token authentication


def render(job: Job) -> str:
    """The text for ``kubectl apply -f``. Raises UserError, one line, where an option is missing."""
    options = job.options
    _check(options)
    comment = (
        f"agentworld launch k8s. Start: kubectl apply -f FILE; follow: kubectl -n {options.k8s.namespace} get rayjob"
    )
    return to_yaml([config_map(job), ray_job(job)], comment)


def config_map(job: Job) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(job.options), "data": job.files()}


def ray_job(job: Job) -> dict[str, Any]:
    options = job.options
    head = {
        # the submitter is another pod, so the dashboard cannot be on loopback: the token guards it
        "rayStartParams": {"dashboard-host": "0.0.0.0"},
        "template": _pod(options, "ray-head", _HEAD_PORTS),
    }
    cluster: dict[str, Any] = {
        "rayVersion": ray_version(options),
        "authOptions": {"mode": "token"},
        "headGroupSpec": head,
    }
    if options.nodes > 1:
        others = options.nodes - 1
        cluster["workerGroupSpecs"] = [
            {
                "groupName": "workers",
                "replicas": others,
                "minReplicas": others,
                "maxReplicas": others,
                "rayStartParams": {},
                "template": _pod(options, "ray-worker", []),
            }
        ]
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": _metadata(options),
        "spec": {
            "entrypoint": f"bash {FILES}/{RUN}",  # no quotes: the submitter's shell and Ray's each read it once
            "submissionMode": "K8sJobMode",
            "backoffLimit": 0,  # the supervisor inside restarts; a second cluster would hide why
            "activeDeadlineSeconds": options.seconds + options.start_seconds,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
            "rayClusterSpec": cluster,
        },
    }


_HEAD_PORTS = [
    {"name": "gcs-server", "containerPort": 6379},
    {"name": "dashboard", "containerPort": 8265},
    {"name": "client", "containerPort": 10001},
]


def ray_version(options: LaunchOptions) -> str:
    """Ray in the image, as KubeRay has to know it. Raises UserError where it cannot be told or has no tokens."""
    try:
        found = options.k8s.ray_version or version("ray")
    except PackageNotFoundError:
        raise UserError(f"ray is not installed here: say the image's version in {PREFIX}k8s.ray_version") from None
    parts = found.split(".")
    if not all(part.isdigit() for part in parts[:2]) or tuple(map(int, parts[:2])) < FIRST_AUTH or len(parts) < 2:
        raise UserError(f"{PREFIX}k8s.ray_version is {found!r}: Ray 2.52 or later is needed, its tokens guard the job")
    return found


def _metadata(options: LaunchOptions) -> dict[str, Any]:
    return {
        "name": options.name,
        "namespace": options.k8s.namespace,
        "labels": {"app.kubernetes.io/name": "agentworld", "app.kubernetes.io/instance": options.name},
    }


def _check(options: LaunchOptions) -> None:
    needed = {"image": options.image, "shared_dir": options.shared_dir, "k8s.claim": options.k8s.claim}
    missing = [f"{PREFIX}{key}" for key, value in needed.items() if value is None]
    if missing:
        raise UserError(f"k8s needs {', '.join(missing)}: a pod keeps nothing but what it writes to a volume")


def _pod(options: LaunchOptions, name: str, ports: list[dict[str, Any]]) -> dict[str, Any]:
    k8s = options.k8s
    container = {
        "name": name,
        "image": options.image,
        "ports": ports,
        "env": [
            {"name": key, "value": value} for key, value in {"RAY_USAGE_STATS_ENABLED": "0", **options.env}.items()
        ],
        "envFrom": [{"secretRef": {"name": k8s.secret}}] if k8s.secret is not None else None,
        "resources": _resources(options),
        "securityContext": {"privileged": True} if k8s.privileged else None,
        "volumeMounts": [
            {"name": "shared", "mountPath": options.shared_dir},
            {"name": "files", "mountPath": FILES, "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
    spec = {
        "serviceAccountName": k8s.service_account,
        "nodeSelector": dict(k8s.node_selector),
        "containers": [without_nothing(container)],
        "volumes": [
            {"name": "shared", "persistentVolumeClaim": {"claimName": k8s.claim}},
            {"name": "files", "configMap": {"name": options.name}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},  # Ray's object store and NCCL
        ],
    }
    return {"spec": without_nothing(spec)}


def _resources(options: LaunchOptions) -> dict[str, Any]:
    """Requests equal limits: a pod that is squeezed later would stall every rank."""
    amounts: dict[str, Any] = {"cpu": options.cpus_per_node}
    if options.memory_gb is not None:
        amounts["memory"] = f"{options.memory_gb}Gi"
    if options.gpus_per_node:
        amounts["nvidia.com/gpu"] = options.gpus_per_node
    return {"requests": amounts, "limits": amounts}
