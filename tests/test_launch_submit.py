"""Launching: options, the prepared job, and each rendered file against its own parser or schema."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.cli import main
from launch.config import load
from launch.errors import leaf_keys
from launch.submit import kuberay, local, ray_jobs, skypilot, slurm
from launch.submit.documents import to_yaml
from launch.submit.job import DEEPSPEED, EXPERIMENT, NODE, RUN, here_documents, write_files
from launch.submit.nodes import first_reachable, wait_for_head
from launch.submit.options import LaunchOptions, Target, load_options, split_overrides
from rollout.errors import AgentworldError
from tests.launch_toys import ROOT, experiment_file, fake_slurm, make_job
from tests.schemas import RAY_JOB, SKYPILOT_TASK

TWO = "processes: 2\ndeepspeed: ds.json\n"
CONFIGS = ROOT / "configs"
SITES = sorted((CONFIGS / "launch").glob("*.yaml"))
K8S = ("launch.image=registry/x:1", "launch.k8s.claim=disk", "launch.k8s.ray_version=2.60.0")


def shared(folder: Path) -> str:
    return f"launch.shared_dir={folder}/shared"


def deepspeed_file(folder: Path) -> None:
    (folder / "ds.json").write_text((CONFIGS / "deepspeed_gpu_zero3.json").read_text())


# ---------------------------------------------------------------- options


@pytest.mark.parametrize("path", SITES, ids=lambda p: p.name)
def test_shipped_options_parse_and_name_every_key_of_their_target(path: Path) -> None:
    target = Target(path.stem)
    options = load_options(target, path)
    assert options.gpus == 8
    section = type(getattr(options, target.value))
    assert set(yaml.safe_load(path.read_text())[target.value]) == set(section.model_fields)


def test_overrides_are_shared_out() -> None:
    assert split_overrides(["seed=1", "launch.nodes=2", "launch.slurm.qos=x"]) == (
        ["seed=1"],
        ["nodes=2", "slurm.qos=x"],
    )


@pytest.mark.parametrize(
    ("target", "overrides", "words"),
    [
        ("slurm", ["nods=2"], ["override 'launch.nods=2'", "did you mean 'nodes'"]),
        ("slurm", ["slurm.partitoin=x"], ["slurm.partitoin", "slurm.partition"]),
        ("slurm", ["nodes=0"], ["override 'launch.nodes=0'", "greater than or equal to 1"]),
        ("slurm", ["nodes=two"], ["nodes", "integer"]),
        ("slurm", ["nodes"], ["launch.nodes", "key=value"]),
        ("slurm", ["shared_dir=here"], ["shared_dir", "absolute path"]),
        ("slurm", ["name=A_b"], ["name", "pattern"]),
        ("slurm", ['setup=["a\\nb"]'], ["setup", "single line"]),
        ("slurm", ["env={'a b': c}"], ["env", "pattern"]),
        ("slurm", ["hours=0"], ["hours"]),
        ("k8s", ["venv=/v"], ["launch.venv", "k8s", "image"]),
        ("k8s", ["setup=[module load x]"], ["launch.setup", "k8s"]),
        ("local", ["nodes=2"], ["launch.nodes", "local"]),
        ("local", ["image=x"], ["launch.image", "local"]),
        ("local", ["gpus_per_node=1"], ["launch.gpus_per_node", "local"]),
        ("ray", ["memory_gb=3"], ["launch.memory_gb", "ray"]),
    ],
)
def test_mistakes_in_options_are_one_line(target: str, overrides: list[str], words: list[str]) -> None:
    with pytest.raises(AgentworldError) as caught:
        load_options(Target(target), None, overrides)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_broken_options_file_is_one_line(tmp_path: Path) -> None:
    for text, word in (("[1, 2]", "mapping"), ("a: [1", "site.yaml"), ("nods: 2", "site.yaml: unknown key 'nods'")):
        (tmp_path / "site.yaml").write_text(text)
        with pytest.raises(AgentworldError, match=word):
            load_options(Target.slurm, tmp_path / "site.yaml")
    with pytest.raises(AgentworldError, match="no such options file"):
        load_options(Target.slurm, tmp_path / "absent.yaml")


def test_launch_options_are_no_keys_of_the_experiment() -> None:
    from launch.config import ExperimentConfig

    assert not {key for key in leaf_keys(ExperimentConfig) if key.startswith("launch")}


# ---------------------------------------------------------------- the job


def test_paths_move_to_the_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "world_model: {path: wm}\ntasks: {file: t.jsonl}\n"
    (tmp_path / "c.yaml").write_text(f"run_dir: runs/x\npolicy: /models/p\n{text}")
    options = LaunchOptions(workdir="/shared/code", shared_dir="/shared")
    from launch.submit.job import prepare

    experiment = prepare(Path("c.yaml"), ["launch.nodes=1"], options).experiment
    assert experiment.run_dir == "/shared/code/runs/x"
    assert experiment.policy == "/models/p", "outside the working directory: taken to be the same on the nodes"
    assert experiment.world_model.path == "/shared/code/wm" and experiment.tasks.file == "/shared/code/t.jsonl"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["processes=3", "launch.nodes=1", "launch.gpus_per_node=2"], ["processes is 3", "1 x 2"]),
        (["processes=9", "launch.cpus_per_node=8"], ["launch.cpus_per_node"]),
        (["launch.nodes=2"], ["launch.shared_dir"]),
        (["launch.nodes=2", "launch.shared_dir=/elsewhere"], ["run_dir", "/elsewhere"]),
        (["sed=1"], ["'sed'", "did you mean 'seed'"]),
        (["deepspeed=absent.json"], ["absent.json"]),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, overrides: list[str], words: list[str]
) -> None:
    with pytest.raises(AgentworldError) as caught:
        make_job(Target.slurm, tmp_path, *overrides)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "shared" / "run").exists()


def test_the_files_of_a_job_read_back_as_the_same_experiment(tmp_path: Path) -> None:
    deepspeed_file(tmp_path)
    job = make_job(Target.slurm, tmp_path, "seed=4", text=TWO)
    write_files(job.files(), tmp_path / "there")
    assert {p.name for p in (tmp_path / "there").iterdir()} == {EXPERIMENT, DEEPSPEED, NODE, RUN}
    again = load(tmp_path / "there" / EXPERIMENT)
    assert again.deepspeed == str(tmp_path / "there" / DEEPSPEED)
    assert again == job.experiment.model_copy(update={"deepspeed": again.deepspeed})
    assert json.loads(Path(again.deepspeed).read_text())["zero_optimization"]["stage"] == 3


def test_the_scripts_run_the_command_in_the_environment_and_pass_its_status_on(tmp_path: Path) -> None:
    """A command whose name, arguments and variables need quoting, from a folder that is not the run's."""
    tricky = 'it\'s $HOME; "x" `id`'
    job = make_job(Target.local, tmp_path, 'launch.setup=["export FROM_SETUP=1"]')
    job = replace(job, options=job.options.model_copy(update={"env": {"TRICKY": tricky}}))
    code = "import os, sys; print(os.environ['TRICKY'], os.environ['FROM_SETUP'], *sys.argv[1:], sep='|'); sys.exit(7)"
    job = replace(job, command=(sys.executable, "-c", code), arguments=("--dry-run", "a b"))
    write_files(job.files(), tmp_path / "elsewhere")
    done = subprocess.run(["bash", str(tmp_path / "elsewhere" / RUN)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 7, done.stderr
    assert done.stdout.rstrip("\n") == f"{tricky}|1|train|{job.folder}/{EXPERIMENT}|--dry-run|a b"
    assert load(Path(job.folder) / EXPERIMENT).seed == 0, "the experiment stands beside its run"


def test_a_job_out_of_time_is_ended(tmp_path: Path) -> None:
    job = make_job(Target.local, tmp_path, "launch.hours=0.0003")
    job = replace(job, command=(sys.executable, "-c", "import time; time.sleep(60)"))
    write_files(job.files(), Path(job.folder))
    assert subprocess.run(["bash", f"{job.folder}/{RUN}"], timeout=30).returncode == 124


@settings(deadline=None, max_examples=20)  # each starts a shell
@given(
    st.dictionaries(
        st.sampled_from(["a.yaml", "b.json", "c"]), st.text(st.characters(exclude_categories=["Cs", "Cc"]))
    ),
    st.lists(st.sampled_from(["END_OF_FILE", "END_OF_FILE_", "$(id) `x` \\ '\""])),
)
def test_here_documents_carry_any_text(
    tmp_path_factory: pytest.TempPathFactory, texts: dict[str, str], lines: list[str]
) -> None:
    files = {name: "\n".join([text, *lines]) + "\n" for name, text in texts.items()}
    folder = tmp_path_factory.mktemp("here")
    script = f"folder={shlex.quote(str(folder / 'to'))}\n" + here_documents(files, '"$folder"')
    subprocess.run(["bash"], input=script, text=True, check=True, timeout=30)
    assert {p.name: p.read_text() for p in (folder / "to").iterdir()} == files


# ---------------------------------------------------------------- SLURM


def directives(script: str) -> dict[str, str]:
    """``#SBATCH`` options by name; a flag is empty."""
    found = {}
    for line in script.splitlines():
        if line.startswith("#SBATCH "):
            (word,) = shlex.split(line.removeprefix("#SBATCH "))
            name, _, value = word.partition("=")
            assert name.startswith("--") and name not in found, line
            found[name] = value
    return found


def test_slurm_script_parses_and_asks_for_what_was_said(tmp_path: Path) -> None:
    deepspeed_file(tmp_path)
    job = make_job(
        Target.slurm,
        tmp_path,
        shared(tmp_path),
        "launch.nodes=3",
        "launch.gpus_per_node=8",
        "launch.hours=49.5",
        "launch.memory_gb=100",
        "launch.slurm.partition=gpu big",
        "launch.slurm.extra=[--mail-type=END]",
        text=TWO,
    )
    script = slurm.render(job)
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    first_command = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[first_command:] if line.startswith("#SBATCH")], "SLURM stops reading there"
    found = directives(script)
    assert found["--nodes"] == "3" and found["--ntasks-per-node"] == "1" and found["--gpus-per-node"] == "8"
    assert found["--time"] == "2-01:30:00" and found["--mem"] == "100G" and found["--partition"] == "gpu big"
    assert found["--mail-type"] == "END" and found["--exclusive"] == ""
    assert Path(found["--output"]).parent == tmp_path / "shared", "a folder that exists before the job does"


def run_script(job: Any, folder: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    calls = folder / "calls"
    env = fake_slurm(folder / "bin", calls, machine=True) | environment
    script = folder / "job.sh"
    script.write_text(slurm.render(job))
    done = subprocess.run(["bash", str(script)], env=env, capture_output=True, text=True, timeout=60)
    return done, calls.read_text().splitlines()


@pytest.mark.parametrize("status", [0, 3])
def test_slurm_script_starts_head_workers_and_training_with_one_token(tmp_path: Path, status: int) -> None:
    job = make_job(Target.slurm, tmp_path, shared(tmp_path), "launch.nodes=2", "launch.start_seconds=9")
    done, calls = run_script(job, tmp_path, AGENTWORLD_STATUS=str(status))
    assert done.returncode == status, done.stderr
    programs = [call for call in calls if not call.startswith("srun ")]
    (head,) = [call for call in programs if call.startswith("ray start") and "--head" in call]
    (worker,) = [call for call in programs if call.startswith("ray start") and "--head" not in call]
    (train,) = [call for call in programs if call.startswith("agentworld train")]
    assert "--node-ip-address=10.1.2.3 --port=24711 --dashboard-host=127.0.0.1" in head
    assert "--address=10.1.2.3:24711" in worker and "RAY_ADDRESS=10.1.2.3:24711" in train
    order = [" ".join(call.split()[:3]) for call in programs if call.startswith("python")]
    assert order == ["python -m launch.submit.nodes"] * 3
    assert "wait --count 2 --seconds 9" in " ".join(programs)
    tokens = {call.split("token=")[1] for call in (head, worker, train)}
    assert len(tokens) == 1 and len(tokens.pop()) == 64 + len("]")
    kept = {p.name for p in Path(job.folder).iterdir()}
    assert kept == {EXPERIMENT, NODE, RUN, "ray-head.log", "ray-workers.log"}, "the token is gone"
    steps = [call for call in calls if call.startswith("srun")]
    assert all("--overlap" in call for call in steps), "a step that waits for another's cores would wait for ever"
    assert sum("--exclude=node-a" in call for call in steps) == 1
    assert sum("--nodelist=node-a" in call for call in steps) == len(steps) - 1


def test_slurm_token_is_private_and_a_node_that_does_not_come_ends_the_job(tmp_path: Path) -> None:
    """``python`` fails while the token is there: the script's status is its own, and nothing is left."""
    job = make_job(Target.slurm, tmp_path, shared(tmp_path))
    env = fake_slurm(tmp_path / "bin", tmp_path / "calls", machine=True)
    (tmp_path / "bin" / "python").write_text(
        '#!/bin/bash\ncase "$*" in *address) echo 10.0.0.1;; *wait*) stat -c %a "$RAY_AUTH_TOKEN_PATH"; exit 2;; esac\n'
    )
    (tmp_path / "job.sh").write_text(slurm.render(job))
    done = subprocess.run(["bash", str(tmp_path / "job.sh")], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout.splitlines()[-1] == "600"
    assert "agentworld" not in (tmp_path / "calls").read_text()
    assert not list(Path(job.folder).glob("ray_token*"))


def test_a_head_that_dies_ends_the_job_at_once(tmp_path: Path) -> None:
    """Not after the deadline of the nodes: what waits for Ray is ended too."""
    env = fake_slurm(tmp_path / "bin", tmp_path / "calls", machine=True)
    (tmp_path / "bin" / "ray").write_text('#!/bin/bash\necho "no such option"; exit 4\n')
    (tmp_path / "bin" / "python").write_text(
        '#!/bin/bash\ncase "$*" in *address) echo 10.0.0.1;; *reach*|*wait*) exec sleep 300;; esac\n'
    )
    slurm_job = make_job(Target.slurm, tmp_path, shared(tmp_path), "launch.nodes=2")
    (tmp_path / "job.sh").write_text(slurm.render(slurm_job))
    done = subprocess.run(["bash", str(tmp_path / "job.sh")], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 4 and "Ray ended with status 4" in done.stderr
    assert (Path(slurm_job.folder) / "ray-head.log").read_text() == "no such option\n"

    sky = env | {"SKYPILOT_NODE_IPS": "10.0.0.5", "SKYPILOT_NUM_NODES": "1", "SKYPILOT_NODE_RANK": "0"}
    run = skypilot.task(sky_job(tmp_path))["run"]
    assert subprocess.run(["bash"], input=run, env=sky, text=True, timeout=60).returncode == 4
    assert "agentworld" not in (tmp_path / "calls").read_text()


def test_slurm_steps_of_a_container_share_ray_s_folder(tmp_path: Path) -> None:
    script = slurm.render(make_job(Target.slurm, tmp_path, shared(tmp_path), "launch.image=x.sqsh"))
    assert f"--container-image=x.sqsh --container-mounts={tmp_path}/shared:{tmp_path}/shared,/tmp:/tmp" in script
    with pytest.raises(AgentworldError, match=r"launch\.shared_dir"):
        slurm.render(make_job(Target.slurm, tmp_path))


# ---------------------------------------------------------------- Kubernetes


def documents(text: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(text))


@pytest.mark.parametrize("nodes", [1, 4])
def test_ray_job_fits_the_structure_of_the_crd(tmp_path: Path, nodes: int) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    extra = ("launch.gpus_per_node=8", "launch.memory_gb=64", "launch.k8s.privileged=true", "launch.k8s.secret=keys")
    deepspeed_file(tmp_path)
    job = make_job(
        Target.k8s,
        tmp_path,
        shared(tmp_path),
        *K8S,
        *extra,
        f"launch.nodes={nodes}",
        "launch.env.NCCL_DEBUG=INFO",
        text=TWO,
    )
    config_map, ray_job = documents(kuberay.render(job))
    jsonschema.validate(ray_job, RAY_JOB)
    assert config_map["kind"] == "ConfigMap" and config_map["data"] == job.files()
    cluster = ray_job["spec"]["rayClusterSpec"]
    groups = cluster.get("workerGroupSpecs", [])
    assert sum(group["replicas"] for group in groups) == nodes - 1, "the head is the first node"
    for template in [cluster["headGroupSpec"]["template"], *(group["template"] for group in groups)]:
        (container,) = template["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert container["resources"]["limits"] == {"cpu": 8, "memory": "64Gi", "nvidia.com/gpu": 8}
        assert {"name": "NCCL_DEBUG", "value": "INFO"} in container["env"]
        assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts == {"shared": f"{tmp_path}/shared", "files": "/etc/agentworld", "shm": "/dev/shm"}
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        assert set(volumes) == set(mounts)
        assert volumes["files"]["configMap"]["name"] == config_map["metadata"]["name"]
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == "disk"
    assert cluster["authOptions"] == {"mode": "token"}, "the dashboard is not on loopback"
    assert shlex.split(ray_job["spec"]["entrypoint"]) == ["bash", "/etc/agentworld/run.sh"]


def test_the_crd_schema_refuses_what_it_should(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    _, ray_job = documents(kuberay.render(make_job(Target.k8s, tmp_path, shared(tmp_path), *K8S)))
    for change in ({"entrypoint": None}, {"backofflimit": 1}, {"submissionMode": "Http"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**ray_job, "spec": {**ray_job["spec"], **change}}, RAY_JOB)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["launch.image=x"], ["launch.shared_dir", "launch.k8s.claim"]),
        ([*K8S, "launch.k8s.ray_version=2.51.1", "shared"], ["2.52"]),
        ([*K8S, "launch.k8s.ray_version=nightly", "shared"], ["nightly"]),
    ],
)
def test_k8s_says_what_is_missing(tmp_path: Path, overrides: list[str], words: list[str]) -> None:
    job = make_job(Target.k8s, tmp_path, *[shared(tmp_path) if item == "shared" else item for item in overrides])
    with pytest.raises(AgentworldError) as caught:
        kuberay.render(job)
    for word in words:
        assert word in str(caught.value)


# ---------------------------------------------------------------- SkyPilot


def sky_job(folder: Path, *overrides: str) -> Any:
    gpu = ("launch.gpus_per_node=8", "launch.skypilot.accelerator=H100")
    return make_job(Target.skypilot, folder, shared(folder), *gpu, *overrides)


@pytest.mark.parametrize(
    "more", [(), ("launch.nodes=2", "launch.image=x:1", "launch.skypilot.secrets=[WANDB_API_KEY]")]
)
def test_skypilot_task_fits_the_documented_schema(tmp_path: Path, more: tuple[str, ...]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    job = sky_job(tmp_path, "launch.skypilot.volumes={/shared: disk}", *more)
    (task,) = documents(skypilot.render(job))
    jsonschema.validate(task, SKYPILOT_TASK)
    assert task["num_nodes"] == job.options.nodes and task["resources"]["accelerators"] == "H100:8"
    assert task["secrets"] == dict.fromkeys(["RAY_AUTH_TOKEN", *job.options.skypilot.secrets]) and task["envs"] == {
        "RAY_AUTH_MODE": "token"
    }
    assert subprocess.run(["bash", "-n"], input=task["run"], text=True, capture_output=True).stderr == ""


def test_the_skypilot_schema_refuses_what_it_should(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    (task,) = documents(skypilot.render(sky_job(tmp_path)))
    for change in ({"num_nodes": 0}, {"runs": "x"}, {"resources": {"gpus": 8}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**task, **change}, SKYPILOT_TASK)
    with pytest.raises(AgentworldError, match=r"launch\.skypilot\.accelerator"):
        skypilot.render(make_job(Target.skypilot, tmp_path, "launch.gpus_per_node=1"))


@pytest.mark.parametrize(("rank", "status"), [(0, 0), (0, 5), (1, 5)])
def test_skypilot_commands_on_each_rank(tmp_path: Path, rank: int, status: int) -> None:
    """Rank 0 starts the head, waits and trains, its status is the job's; rank 1 joins and ends with the head."""
    calls = tmp_path / "calls"
    env = fake_slurm(tmp_path / "bin", calls, machine=True)
    if rank:  # a worker whose `ray start --block` ends, as it does when the head is gone
        (tmp_path / "bin" / "ray").write_text('#!/bin/bash\necho "ray $*" >>"$CALLS"; exit 1\n')
    env |= {"SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.6", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": str(rank)}
    env |= {"AGENTWORLD_STATUS": str(status), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "secret"}
    run = skypilot.task(sky_job(tmp_path, "launch.nodes=2"))["run"]
    done = subprocess.run(["bash"], input=run, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == (0 if rank else status), done.stderr
    text = calls.read_text()
    assert ("agentworld train" in text) == (rank == 0)
    assert ("--head" in text) == (rank == 0) and ("--address=10.0.0.5:6379" in text) == (rank == 1)


# ---------------------------------------------------------------- Ray Jobs, this machine


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("10.0.0.1:8265", "URL"),
        ("ray://10.0.0.1:10001", "URL"),
        ("http://10.0.0.1:8265", "RAY_AUTH_MODE=token"),
        ("http://head.example.com:8265", "RAY_AUTH_MODE=token"),
    ],
)
def test_an_open_dashboard_is_refused(address: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(AgentworldError, match=words):
        ray_jobs.check_address(address)


def test_private_dashboards_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    for address in ("http://127.0.0.1:8265", "http://localhost:8265", "http://[::1]:8265"):
        ray_jobs.check_address(address)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    ray_jobs.check_address("https://head.example.com:8265")
    monkeypatch.setenv("RAY_ADDRESS", "http://other:8265")
    with pytest.raises(AgentworldError, match="RAY_ADDRESS is set"):
        ray_jobs.check_address("http://127.0.0.1:8265")


def test_a_gpu_is_reserved_for_a_driver_that_trains_itself(tmp_path: Path) -> None:
    deepspeed_file(tmp_path)
    alone = ray_jobs.request(make_job(Target.ray, tmp_path, "launch.gpus_per_node=1"))
    assert alone["entrypoint_num_gpus"] == 1 and alone["entrypoint"] == f"bash {RUN}"
    several = ray_jobs.request(make_job(Target.ray, tmp_path, "launch.gpus_per_node=2", text=TWO))
    assert "entrypoint_num_gpus" not in several, "Ray Train reserves them"


class FakeJobs:
    """Ray's client of one job: what each call answers, in order (the last repeats); an exception is raised."""

    def __init__(self, submits: Sequence[Any] = (), states: Sequence[Any] = (), logs: Sequence[str] = ("",)) -> None:
        self.submits, self.states, self.logs = list(submits), list(states), list(logs)
        self.stopped: list[str] = []

    @staticmethod
    def _next(answers: list[Any]) -> Any:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def submit_job(self, **what: Any) -> str:
        assert sorted(p.name for p in Path(what["runtime_env"]["working_dir"]).iterdir()) == [EXPERIMENT, NODE, RUN]
        return str(self._next(self.submits))

    def get_job_status(self, job_id: str) -> Any:
        name = self._next(self.states)
        return SimpleNamespace(value=name, is_terminal=lambda: name in ("SUCCEEDED", "FAILED", "STOPPED"))

    def get_job_logs(self, job_id: str) -> str:
        return str(self._next(self.logs))

    def get_job_info(self, job_id: str) -> Any:
        return SimpleNamespace(driver_exit_code=3, message="ended")

    def stop_job(self, job_id: str) -> None:
        self.stopped.append(job_id)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_jobs, "POLL_SECONDS", (0.01, 0.01))


def test_a_cluster_that_is_not_ready_is_waited_for(tmp_path: Path, quick: None) -> None:
    early = RuntimeError("Request failed with status code 500: No available agent to submit job")
    job = make_job(Target.ray, tmp_path)
    assert ray_jobs.submit(job, FakeJobs([early, early, "raysubmit_1"])) == "raysubmit_1"
    with pytest.raises(AgentworldError, match="Ray refused the job: bad env"):
        ray_jobs.submit(job, FakeJobs([RuntimeError("bad\nenv")]))
    with pytest.raises(AgentworldError, match="Ray took no job for 1 s"):
        ray_jobs.submit(make_job(Target.ray, tmp_path, "launch.start_seconds=1"), FakeJobs([early]))


def test_following_prints_each_line_once_over_lost_answers(quick: None) -> None:
    lost = ConnectionError("no route")
    said: list[str] = []
    client = FakeJobs(states=["PENDING", lost, "RUNNING", "FAILED"], logs=["", "one\ntw", "one\ntwo\nthree"])
    ended = ray_jobs.follow(client, "j", 30.0, said.append)
    assert said == ["one", "two", "three"] and (ended.status, ended.exit_status) == ("FAILED", 3)


def test_following_ends_at_its_deadline_and_without_answers(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeJobs(states=["RUNNING"])
    with pytest.raises(AgentworldError, match="had not ended after 0 s and was stopped"):
        ray_jobs.follow(client, "j", 0.05, print)
    assert client.stopped == ["j"]
    monkeypatch.setattr(ray_jobs, "LOST_SECONDS", 0.05)
    gone = FakeJobs(states=[ConnectionError("no route")])
    with pytest.raises(AgentworldError, match="it may still run: no route"):
        ray_jobs.follow(gone, "j", 30.0, print)
    assert gone.stopped == []


def test_exit_status_of_a_ray_job() -> None:
    assert ray_jobs.Ended("FAILED", 124, "").exit_status == 124
    assert ray_jobs.Ended("FAILED", None, "node lost").exit_status == 1
    assert ray_jobs.Ended("SUCCEEDED", None, "").exit_status == 0


def test_local_runs_this_code_and_returns_its_status(tmp_path: Path) -> None:
    job = make_job(Target.local, tmp_path)
    assert local.run(replace(job, arguments=("--dry-run",))) == 0
    assert local.run(job) == 2, "no such model folder"
    assert stat.S_IMODE(os.stat(job.folder).st_mode) & 0o700 == 0o700


# ---------------------------------------------------------------- nodes


@pytest.mark.parametrize(
    ("addresses", "chosen"),
    [
        (["127.0.1.1", "10.0.0.3"], "10.0.0.3"),
        (["169.254.1.1", "0.0.0.0", "", "::1"], None),
        (["nonsense", "192.168.0.2", "10.0.0.3"], "192.168.0.2"),
    ],
)
def test_the_address_of_a_node_is_not_its_own_alone(addresses: list[str], chosen: str | None) -> None:
    assert first_reachable(addresses) == chosen


def test_waiting_for_a_head_that_is_not_there_ends() -> None:
    with pytest.raises(AgentworldError, match=r"no Ray head at 127\.0\.0\.1:9 within 1 s"):
        wait_for_head("127.0.0.1:9", 1.0)
    for address in ("", "host", "host:", ":x"):
        with pytest.raises(AgentworldError, match="RAY_ADDRESS"):
            wait_for_head(address, 1.0)


# ---------------------------------------------------------------- the command


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["agentworld", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return call


@pytest.mark.parametrize("target", list(Target))
def test_a_dry_run_of_every_target_says_the_plan_and_starts_nothing(cli: Any, tmp_path: Path, target: Target) -> None:
    path = str(experiment_file(tmp_path))
    extra = [*K8S, shared(tmp_path)] if target is Target.k8s else [shared(tmp_path)]
    status, out, err = cli("launch", target.value, path, "seed=5", *extra, "--dry-run")
    assert status == 0, err
    assert out.startswith("# place: 1 node(s) of ") and "seed: 5" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.yaml", "shared"] and not list(
        (tmp_path / "shared").iterdir()
    )


def test_out_writes_the_file_once(cli: Any, tmp_path: Path) -> None:
    arguments = ["launch", "slurm", str(experiment_file(tmp_path)), shared(tmp_path), "--out", str(tmp_path / "job.sh")]
    assert cli(*arguments)[0] == 0
    assert (tmp_path / "job.sh").read_text().startswith("#!/bin/bash\n#SBATCH")
    status, _, err = cli(*arguments)
    assert status == 2 and "exists already" in err
    status, _, err = cli("launch", "ray", str(experiment_file(tmp_path)), "--out", "x")
    assert status == 2 and "--out" in err
    status, _, err = cli("launch", "slurm", str(experiment_file(tmp_path)), "--detach")
    assert status == 2 and "--detach" in err


def test_texts_of_several_lines_are_blocks() -> None:
    text = to_yaml([{"run": "a: 'b'\n  $c\n", "n": 1}], "one\ntwo")
    assert text.startswith("# one\n# two\nrun: |\n") and yaml.safe_load(text) == {"run": "a: 'b'\n  $c\n", "n": 1}
