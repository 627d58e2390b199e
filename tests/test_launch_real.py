"""Launching with Ray for real, on loopback and with tokens: Ray Jobs, and the SLURM script with srun as a stand-in."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from launch.submit import slurm
from launch.submit.nodes import wait_for_head
from launch.submit.options import Target
from rollout.errors import AgentworldError
from tests.launch_toys import ROOT, experiment_file, fake_slurm, here, make_job
from tests.test_train import check_run, experiment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TOKEN = "0123456789abcdef" * 4


def clean_environment() -> dict[str, str]:
    """Ours, without what would lead Ray to another cluster."""
    found = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return found | {"PYTHONPATH": str(ROOT), "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}


@dataclass(frozen=True)
class Cluster:
    dashboard: str
    environment: Mapping[str, str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """One node, started as the scripts start it, with a token and a dashboard on loopback."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray's sockets have long names
    (folder / "token").write_text(TOKEN)
    environment = clean_environment() | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    gcs, dashboard = free_port(), free_port()
    command = [f"{sys.prefix}/bin/ray", "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=1"]
    command += ["--node-ip-address=127.0.0.1", f"--port={gcs}", "--dashboard-host=127.0.0.1"]
    command += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}", f"--temp-dir={folder}/t"]
    command += [f"--dashboard-agent-listen-port={free_port()}"]  # its default is taken where another Ray runs
    with (folder / "log").open("w") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as head:
        try:
            wait_for_head(f"127.0.0.1:{dashboard}", 240.0)
            yield Cluster(f"http://127.0.0.1:{dashboard}", environment)
        except AgentworldError as error:
            raise AssertionError((folder / "log").read_text()) from error
        finally:
            end(head)
            shutil.rmtree(folder, ignore_errors=True)


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()


def run(command: list[str], environment: Mapping[str, str], seconds: float = 200.0) -> subprocess.CompletedProcess[str]:
    """The command's end; what it said so far where it has none."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, cwd=ROOT, env=dict(environment), stdout=subprocess.PIPE, stderr=said, text=True
        )
        with process:
            try:
                out, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired as error:
                process.kill()
                said.seek(0)
                raise AssertionError(f"{command} did not end: {error.stdout!r} {said.read()}") from error
        said.seek(0)
        return subprocess.CompletedProcess(command, process.returncode, out, said.read())


def test_ray_jobs_run_the_experiment_and_return_its_status(cluster: Cluster, tmp_path: Path) -> None:
    config = experiment_file(tmp_path)
    submit = [sys.executable, "-m", "tests.launch_case", cluster.dashboard, str(config), f"{tmp_path}/shared"]
    done = run(submit, cluster.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed: 9" in done.stdout
    (place,) = [line for line in done.stdout.splitlines() if line.startswith("# place")]
    assert place.startswith("# place: the Ray cluster at RAY_ADDRESS=")
    assert "SUCCEEDED, exit status 0" in done.stdout
    assert (tmp_path / "shared/run/launch/experiment.yaml").is_file()

    command = [
        sys.executable,
        "-m",
        "launch.cli",
        "launch",
        "ray",
        str(config),
        f"launch.ray.address={cluster.dashboard}",
    ]
    failed = run([*command, *here(tmp_path)], cluster.environment)
    assert failed.returncode == 2, failed.stdout + failed.stderr
    assert "no such model folder" in failed.stdout and "FAILED, exit status 2" in failed.stdout

    for token in ({"RAY_AUTH_TOKEN": "f" * 64}, {"RAY_AUTH_MODE": "disabled"}):
        refused = run(submit, {**cluster.environment, **token})
        assert refused.returncode == 2 and refused.stderr.startswith("error: no Ray dashboard can be used at")


def test_the_slurm_script_brings_up_two_nodes_and_trains_on_the_first(tmp_path: Path) -> None:
    """Both nodes are this machine; Ray, its token and the waiting are real."""
    options = ["launch.nodes=2", "launch.cpus_per_node=1", "launch.start_seconds=240"]
    job = replace(make_job(Target.slurm, tmp_path, *here(tmp_path), *options), arguments=("--dry-run",))
    job_id = str(os.getpid())
    environment = fake_slurm(tmp_path / "bin", tmp_path / "calls", machine=False) | {"SLURM_JOB_ID": job_id}
    environment |= {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    (tmp_path / "job.sh").write_text(slurm.render(job))
    try:
        done = run(["bash", str(tmp_path / "job.sh")], environment)
        logs = "".join(file.read_text() for file in Path(job.folder).glob("*.log"))
        assert done.returncode == 0, done.stdout + done.stderr + logs
        assert "2 node(s)" in done.stdout and "# place: the Ray cluster at RAY_ADDRESS=" in done.stdout
    finally:
        wait_until_gone(f"ray_{job_id}")
        shutil.rmtree(f"/tmp/ray_{job_id}", ignore_errors=True)


def wait_until_gone(mark: str, seconds: float = 120.0) -> None:
    """Until no process names ``mark``: the script ends its steps, as a cluster would end what is left of a job."""
    deadline = time.monotonic() + seconds
    while left := processes(mark):
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"{len(left)} processes of the job were left behind")
        time.sleep(0.5)


def processes(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "cmdline").read_text(errors="replace"):
                found.append(int(entry.name))
        except OSError:
            continue  # it ended meanwhile
    return found


@pytest.mark.sandbox
def test_a_launched_job_trains_and_goes_on_when_it_is_launched_again(tmp_path: Path) -> None:
    experiment(tmp_path)
    for steps, attempt in ((2, 1), (4, 2)):
        command = [sys.executable, "-m", "launch.cli", "launch", "local", str(tmp_path / "c.yaml")]
        done = run([*command, f"trainer.trl.max_steps={steps}"], clean_environment())
        assert done.returncode == 0, done.stdout + done.stderr
        check_run(tmp_path, steps, attempt)
