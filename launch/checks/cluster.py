"""A Ray cluster as a training will find it: reachable, the same code on every node, one run directory for all.

Owns: one probe per node and its verdict. Refuses: changing the cluster. Where no address is given and RAY_ADDRESS is
not set, Ray is started on this machine and ended again.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.checks.finding import Problem
from launch.submit.nodes import wait_for_head
from rollout.errors import AgentworldError

CONNECT_SECONDS, SECONDS = 5.0, 60.0


@dataclass(frozen=True, slots=True)
class Node:
    """What a node answered. ``code``: fingerprint of the packages it imports, or why it has none. ``sees``: whether
    it reads what the driver has just written into the run directory."""

    host: str
    code: str
    sees: bool


def ray_cluster(address: str | None, run_dir: Path, seconds: float = SECONDS) -> str:
    """Asks every node of the cluster at ``address`` (``host:port``, or ``auto``: the one that runs here). Raises
    AgentworldError where Ray cannot be reached or started, Problem where a node is late, runs other code, or does not
    see ``run_dir``."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    from launch.cluster import connected
    from rollout.worker import code_fingerprint

    where = address or os.environ.get("RAY_ADDRESS") or "auto"
    if where != "auto":
        wait_for_head(where, CONNECT_SECONDS)  # Ray itself would try for minutes
    token = run_dir.resolve() / f".doctor-{secrets.token_hex(8)}"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        token.touch()
    except OSError as error:
        raise Problem(f"{run_dir}: {error.strerror}") from error
    try:
        with connected(address):
            resources = ray.cluster_resources()
            nodes = _ask_all([node["NodeID"] for node in ray.nodes() if node["Alive"]], str(token), seconds)
    except GetTimeoutError as error:
        raise Problem(f"a node did not answer within {seconds:.0f} s") from error
    except RayError as error:
        raise Problem(f"a node failed: {' '.join(str(error).split())[-300:]}") from error
    finally:
        token.unlink(missing_ok=True)
    wrong = verdict(nodes, code_fingerprint())
    if wrong:
        raise Problem(wrong)
    size = f"{resources.get('CPU', 0):.0f} CPUs, {resources.get('GPU', 0):.0f} GPUs"
    return f"{len(nodes)} node(s) with {size}; the same code, and all see {run_dir.resolve()}"


def _ask_all(node_ids: Sequence[str], token: str, seconds: float) -> list[Node]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # as rollout workers are started: our packages where the driver found them
    home = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]))
    setting = {"num_cpus": 0, "max_retries": 0, "runtime_env": {"env_vars": {"PYTHONPATH": home}}}
    ask = ray.remote(probe)
    answers = []
    for node in node_ids:
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        answers.append(ask.options(**setting, scheduling_strategy=there).remote(token))
    found: list[Node] = ray.get(answers, timeout=seconds)
    return found


def probe(token: str) -> Node:
    """Runs on a node."""
    from rollout.worker import code_fingerprint

    try:
        code = code_fingerprint()
    except AgentworldError as error:
        code = str(error)
    return Node(socket.gethostname(), code, Path(token).exists())


def verdict(nodes: Sequence[Node], code: str) -> str | None:
    """What is wrong with ``nodes`` seen from a driver that runs ``code``, or None."""
    others = [node.host for node in nodes if node.code != code]
    if others:
        return f"{', '.join(others)}: other code than here; install the same agentworld on every node"
    blind = [node.host for node in nodes if not node.sees]
    if blind:
        return f"{', '.join(blind)}: the run directory is not visible there; put it on a shared filesystem"
    return None
