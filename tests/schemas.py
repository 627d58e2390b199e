"""JSON schemas of the fields that rendered files use; anything else in them is refused.

Written from the published field references: KubeRay's ray.io/v1 API (v1.6) and SkyPilot's YAML specification.
"""

from __future__ import annotations

from typing import Any


def obj(properties: dict[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def array(items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
LABELS = {"type": "object", "additionalProperties": {"type": "string"}}
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
QUANTITY = {"anyOf": [COUNT, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[KMGT]i?)?$"}]}
RESOURCES = obj({"requests": {"type": "object", "additionalProperties": QUANTITY},
                 "limits": {"type": "object", "additionalProperties": QUANTITY}})  # fmt: skip

CONTAINER = obj(
    {
        "name": NAME,
        "image": TEXT,
        "ports": array(obj({"name": NAME, "containerPort": {"type": "integer", "minimum": 1, "maximum": 65535}})),
        "env": array(obj({"name": TEXT, "value": {"type": "string"}}, ("name", "value"))),
        "envFrom": array(obj({"secretRef": obj({"name": NAME}, ("name",))})),
        "resources": RESOURCES,
        "securityContext": obj({"privileged": {"type": "boolean"}}),
        "volumeMounts": array(
            obj({"name": NAME, "mountPath": TEXT, "readOnly": {"type": "boolean"}}, ("name", "mountPath"))
        ),
    },
    ("name", "image"),
)
VOLUME = obj(
    {
        "name": NAME,
        "persistentVolumeClaim": obj({"claimName": NAME}, ("claimName",)),
        "configMap": obj({"name": NAME}),
        "emptyDir": obj({"medium": {"enum": ["", "Memory"]}}),
    },
    ("name",),
)
POD_TEMPLATE = obj(
    {
        "spec": obj(
            {
                "serviceAccountName": NAME,
                "nodeSelector": LABELS,
                "containers": array(CONTAINER, minItems=1),
                "volumes": array(VOLUME),
            },
            ("containers",),
        )
    },
    ("spec",),
)
HEAD_GROUP = obj({"rayStartParams": LABELS, "template": POD_TEMPLATE}, ("template",))
WORKER_GROUP = obj(
    {
        "groupName": NAME,
        "replicas": COUNT,
        "minReplicas": COUNT,
        "maxReplicas": COUNT,
        "rayStartParams": LABELS,
        "template": POD_TEMPLATE,
    },
    ("groupName", "maxReplicas", "minReplicas", "template"),
)
RAY_CLUSTER = obj(
    {
        "rayVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "authOptions": obj({"mode": {"enum": ["disabled", "token"]}}),
        "headGroupSpec": HEAD_GROUP,
        "workerGroupSpecs": array(WORKER_GROUP),
    },
    ("headGroupSpec",),
)
RAY_JOB = obj(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": obj({"name": NAME, "namespace": NAME, "labels": LABELS}, ("name",)),
        "spec": obj(
            {
                "entrypoint": TEXT,
                "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
                "backoffLimit": COUNT,
                "activeDeadlineSeconds": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
                "shutdownAfterJobFinishes": {"type": "boolean"},
                "ttlSecondsAfterFinished": COUNT,
                "rayClusterSpec": RAY_CLUSTER,
            },
            ("entrypoint", "rayClusterSpec"),
        ),
    },
    ("apiVersion", "kind", "metadata", "spec"),
)

AT_LEAST = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^[0-9.]+\+?$"}]}
SKYPILOT_TASK = obj(
    {
        "name": TEXT,
        "num_nodes": {"type": "integer", "minimum": 1},
        "resources": obj(
            {
                "infra": {"type": "string", "pattern": r"^(\*|[a-z0-9_-]+)(/.+)?$"},
                "accelerators": {"type": "string", "pattern": r"^[A-Za-z0-9._-]+(:[0-9.]+)?$"},
                "cpus": AT_LEAST,
                "memory": AT_LEAST,
                "disk_size": {"type": "integer", "minimum": 1},
                "use_spot": {"type": "boolean"},
                "image_id": TEXT,
                "autostop": obj({"idle_minutes": COUNT, "down": {"type": "boolean"}}),
            }
        ),
        "volumes": {"type": "object", "additionalProperties": TEXT, "propertyNames": {"pattern": "^/"}},
        "envs": LABELS,
        "secrets": {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
        "run": TEXT,
    }
)
