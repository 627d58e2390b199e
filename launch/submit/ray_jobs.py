"""Ray Jobs: hand the job to a Ray cluster that is running, follow it, return its exit status.

Owns: the request, the wait with its deadline, the verdict. Refuses: an open door: the address must be loopback, or the
cluster must ask for a token (``RAY_AUTH_MODE=token``; Ray reads it from ``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH`` or
``~/.ray/auth_token``). The job's files travel as its working directory.
"""

from __future__ import annotations

import ipaddress
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from launch.errors import UserError, one_line
from launch.submit.job import RUN, Job, write_files
from launch.submit.options import PREFIX
from rollout.errors import AgentworldError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

POLL_SECONDS = (1.0, 5.0)  # first and last: logs come whole each time
LOST_SECONDS = 120.0  # without an answer from the cluster
SLACK_SECONDS = 300  # beyond the job's own time limit, for queueing and start
_OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # Ray's client prefers them to the address it is given
_TROUBLE = (RuntimeError, ConnectionError, OSError)  # what Ray's client and the HTTP library under it raise
_NOT_YET = "No available agent"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a Ray job ended. ``exit_code`` is None where its driver had none (stopped, or lost with its node)."""

    status: str
    exit_code: int | None
    message: str

    @property
    def exit_status(self) -> int:
        """For a shell: the driver's own, else 0 or 1."""
        if self.exit_code is not None:
            return self.exit_code
        return 0 if self.status == "SUCCEEDED" else 1


def request(job: Job) -> dict[str, Any]:
    """Keyword arguments of ``submit_job``, but for the working directory."""
    gpus = job.options.gpus_per_node
    return {
        "entrypoint": f"bash {RUN}",
        "runtime_env": {"env_vars": {"RAY_USAGE_STATS_ENABLED": "0", **job.options.env}},
        "metadata": {"name": job.options.name, "run_dir": job.experiment.run_dir},
        # a training in one process is the driver: without a GPU of its own it would share with every other job
        **({"entrypoint_num_gpus": 1} if gpus and job.in_process else {}),
    }


def connect(address: str) -> JobSubmissionClient:
    """A client of the cluster whose dashboard is at ``address``. Raises AgentworldError, one line."""
    check_address(address)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, AuthenticationError, OSError) as error:
        raise AgentworldError(f"no Ray dashboard can be used at {address}: {one_line(str(error))[:300]}") from error


def check_address(address: str) -> None:
    """Raises UserError unless ``address`` is an http(s) URL that is private: loopback, or guarded by a token."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{PREFIX}ray.address is {address!r}: the dashboard's URL is needed, http://HOST:8265")
    for name in _OVERRIDES:
        if os.environ.get(name):
            raise UserError(f"{name} is set and Ray's client would use it instead of {PREFIX}ray.address: unset it")
    if not _loopback(parts.hostname) and os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        raise UserError(
            f"{PREFIX}ray.address {address} is not on this machine: set RAY_AUTH_MODE=token (and the cluster's token)"
            " or reach it through a tunnel to 127.0.0.1"
        )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def submit(job: Job, client: JobSubmissionClient) -> str:
    """Uploads the files and starts the job; returns its submission id. Raises AgentworldError, one line.

    A cluster that has just started refuses jobs for some seconds; that is waited for, ``start_seconds`` at most.
    """
    deadline = time.monotonic() + job.options.start_seconds
    with tempfile.TemporaryDirectory(prefix="agentworld-") as folder:
        write_files(job.files(), Path(folder))
        what = request(job)
        what["runtime_env"] = {**what["runtime_env"], "working_dir": folder}
        while True:
            try:
                return str(client.submit_job(**what))
            except _TROUBLE as error:
                if _NOT_YET not in str(error):
                    raise AgentworldError(f"Ray refused the job: {one_line(str(error))[:300]}") from error
                if time.monotonic() > deadline:
                    raise AgentworldError(
                        f"Ray took no job for {job.options.start_seconds} s: no agent on its head node; where another"
                        " Ray holds the agent's port, start it with --dashboard-agent-listen-port"
                    ) from error
            time.sleep(POLL_SECONDS[0])


def follow(client: JobSubmissionClient, job_id: str, seconds: float, say: Callable[[str], None]) -> Ended:
    """Wait for the end of a job, printing what it prints. After ``seconds`` it is stopped, and AgentworldError says
    so. An interrupt leaves it running, and so does a cluster that cannot be reached for ``LOST_SECONDS``, which is an
    AgentworldError too: the job does not need its follower."""
    deadline = time.monotonic() + seconds
    shown, pause, reached = 0, POLL_SECONDS[0], time.monotonic()
    while True:
        try:
            status = client.get_job_status(job_id)
            shown = _show(client.get_job_logs(job_id), shown, status.is_terminal(), say)
            if status.is_terminal():
                info = client.get_job_info(job_id)
                return Ended(str(status.value), info.driver_exit_code, one_line(info.message or ""))
            reached = time.monotonic()
        except _TROUBLE as error:
            if time.monotonic() - reached > LOST_SECONDS:
                raise AgentworldError(
                    f"job {job_id} cannot be followed any longer, it may still run: {one_line(str(error))[:300]}"
                ) from error
        if time.monotonic() > deadline:
            raise AgentworldError(f"job {job_id} had not ended after {seconds:.0f} s and {_stop(client, job_id)}")
        time.sleep(pause)
        pause = min(POLL_SECONDS[1], pause * 1.1)


def _stop(client: JobSubmissionClient, job_id: str) -> str:
    try:
        client.stop_job(job_id)
    except _TROUBLE as error:
        return f"could not be stopped: {one_line(str(error))[:300]}"
    return "was stopped"


def _show(text: str, shown: int, ended: bool, say: Callable[[str], None]) -> int:
    """Print whole lines after the first ``shown`` characters; returns how many are printed by now."""
    fresh = text[shown:]
    whole = len(fresh) if ended else fresh.rfind("\n") + 1
    for line in fresh[:whole].splitlines():
        say(line)
    return shown + whole


def run(job: Job, detach: bool, say: Callable[[str], None]) -> int:
    """Submit, and unless ``detach``, follow to the end. Returns the exit status for the shell."""
    address = job.options.ray.address
    client = connect(address)
    job_id = submit(job, client)
    say(f"{job_id}: submitted to {address}; logs: ray job logs --address {address} --follow {job_id}")
    if detach:
        return 0
    ended = follow(client, job_id, job.options.seconds + SLACK_SECONDS, say)
    say(f"{job_id}: {ended.status}{f', exit status {ended.exit_code}' if ended.exit_code is not None else ''}")
    if ended.exit_status and ended.exit_code is None:
        say(ended.message)
    return ended.exit_status
