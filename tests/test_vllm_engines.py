"""Engines: the command that is started, and the life of the process; the program is the stand-in of ``fake_vllm``."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_vllm import BigramPolicy, FakeVLLM, bigram_table
from fakes import FakeFactory, make_tasks, save_tokenizer

from launch.config import load
from launch.pools import policy_pool
from launch.served import VLLMOptions, served, vllm_options
from rollout.errors import ConfigError, SamplerFault
from rollout.samplers.vllm import VLLMSamplerSpec
from rollout.samplers.vllm_gate import KEY_VARIABLE, PATH
from rollout.samplers.vllm_process import EngineProcess, EngineSpec, serve_command, serve_environment
from rollout.types import Session, Version
from trainer.weights import to_raw

TESTS = Path(__file__).parent
FAKE = (sys.executable, str(TESTS / "fake_vllm.py"))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Callable[..., EngineProcess]]:
    made: list[EngineProcess] = []

    def make(api_key: str = "", **kwargs: Any) -> EngineProcess:
        spec = EngineSpec("model", **{"executable": FAKE, "start_timeout": 90.0, "stop_timeout": 5.0, **kwargs})
        made.append(EngineProcess(spec, host="127.0.0.1", log=tmp_path / "logs" / "vllm-0.log", api_key=api_key))
        return made[-1]

    yield make
    for process in made:
        process.close()


def script(path: Path, text: str) -> tuple[str, ...]:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return (str(path),)


def alive(pid: int) -> bool:
    """Whether it still runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


# ------------------------------------------------------------------------------------------------ what is started


def test_the_command_asks_for_what_training_needs() -> None:
    command = serve_command(EngineSpec("m", tensor_parallel=2, max_model_len=512, extra=("--seed", "1")), "h", 81)
    assert command[:3] == ["vllm", "serve", "m"]
    options = dict(zip(command[3::2], command[4::2], strict=True))
    assert options["--logprobs-mode"] == "processed_logprobs" and options["--generation-config"] == "vllm"
    assert options["--tensor-parallel-size"] == "2" and options["--max-model-len"] == "512"
    assert options["--middleware"] == "rollout.samplers.vllm_gate.WeightGate"
    assert options["--worker-extension-cls"] == "rollout.samplers.vllm_gate.WeightLoader"
    assert "--max-model-len" not in serve_command(EngineSpec("m"), "h", 81)


def test_the_documents_show_that_command() -> None:
    text = (TESTS.parent / "docs" / "samplers.md").read_text(encoding="utf-8")
    for word in serve_command(EngineSpec("MODEL", max_model_len=1), "127.0.0.1", 8000):
        if word.startswith("--") or word.startswith("rollout."):
            assert word in text, word


def test_the_environment_keeps_secrets_and_development_endpoints_out() -> None:
    found = serve_environment({"PYTHONPATH": "/x", "VLLM_SERVER_DEV_MODE": "1", KEY_VARIABLE: "old"}, "new")
    assert found[KEY_VARIABLE] == "new" and "VLLM_SERVER_DEV_MODE" not in found
    assert found["PYTHONPATH"].split(os.pathsep) == [str(TESTS.parent), "/x"]
    assert KEY_VARIABLE not in serve_environment({KEY_VARIABLE: "old"}, "")


def test_the_gate_loads_in_an_environment_that_has_little(tmp_path: Path) -> None:
    """vLLM's environment need not have ours: the standard library is enough to import it."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import rollout.samplers.vllm_gate as g; print(g.WeightGate)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(TESTS.parent)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------------ its life


@pytest.mark.slow
def test_an_engine_serves_restarts_at_its_address_and_ends(engine: Callable[..., EngineProcess]) -> None:
    process = engine(api_key="k", restarts=1)
    url = process.start()
    assert process.check() is True
    headers = {"Authorization": "Bearer k"}
    assert httpx.get(url + PATH, headers=headers).json() == {"weights": ":0.0", "running": 0}
    assert httpx.get(url + PATH).status_code == 401
    sampler = VLLMSamplerSpec((url,), (1,), api_key="k")()
    assert asyncio.run(sampler((5, 6), 2, Session("t"))).ids

    first = process.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert process.check() is False
    until(process.check)
    assert (process.restarts, process.url) == (1, url) and process.pid != first

    second = process.pid
    assert second is not None
    os.kill(second, signal.SIGKILL)
    with pytest.raises(SamplerFault, match=r"all 1 restarts are used up: vLLM at http.* ended \(status -9\)"):
        until(process.check)
    process.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url + PATH)


def test_a_start_that_fails_says_why_and_a_missing_program_is_named(
    engine: Callable[..., EngineProcess], tmp_path: Path
) -> None:
    broken = engine(executable=script(tmp_path / "broken", "echo 'CUDA out of memory' >&2; exit 3"))
    with pytest.raises(SamplerFault, match=r"ended while starting \(status 3\): CUDA out of memory"):
        broken.start()
    with pytest.raises(SamplerFault, match=r"all 3 restarts are used up: .*CUDA out of memory"):
        broken.check()
    with pytest.raises(ConfigError, match=r"no-such-vllm: no such program; .* AGENTWORLD_VLLM"):
        engine(executable=("no-such-vllm",)).start()


def test_a_start_has_a_deadline_and_leaves_nothing_behind(engine: Callable[..., EngineProcess], tmp_path: Path) -> None:
    note = tmp_path / "pids"
    slow = engine(executable=script(tmp_path / "slow", f"sleep 300 & echo $$ $! > {note}; wait"), start_timeout=1.5)
    begun = time.monotonic()
    with pytest.raises(SamplerFault, match=r"was not ready within 1\.5 s"):
        slow.start()
    assert time.monotonic() - begun < 30.0
    for pid in map(int, note.read_text().split()):
        until(lambda pid=pid: not alive(pid))


def test_an_engine_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """Also when that process is killed: nothing may hold a GPU afterwards."""
    note = tmp_path / "pid"
    executable = script(tmp_path / "slow", f"echo $$ > {note}; exec sleep 300")
    code = (
        "from rollout.samplers.vllm_process import EngineProcess, EngineSpec\n"
        f"spec = EngineSpec('m', executable={executable!r})\n"
        f"EngineProcess(spec, host='127.0.0.1', log={str(tmp_path / 'log')!r}).start()"
    )
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment)
    until(lambda: note.exists() and note.read_text().strip().isdigit(), 60.0)
    pid = int(note.read_text())
    assert alive(pid)
    parent.kill()
    parent.wait()
    until(lambda: not alive(pid))


# ------------------------------------------------------------------------------------------------ on Ray


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_engines_on_ray_serve_come_back_and_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from rollout import ray_vllm

    monkeypatch.setattr(ray_vllm, "_LOOK_SECONDS", 0.5)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    spec = EngineSpec("model", executable=FAKE, start_timeout=120.0, stop_timeout=5.0, restarts=0)
    lost: list[str] = []
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
    try:
        with pytest.raises(ConfigError, match="2 vLLM engines of 1 GPUs need 2, this Ray cluster has 0"):
            ray_vllm.Engines(spec, 2, log_dir=tmp_path)
        with ray_vllm.Engines(spec, 2, log_dir=tmp_path, gpus=0, lost=lost.append) as engines:
            assert len(set(engines.servers)) == 2 and all("127.0.0.1" in url for url in engines.servers)
            sampler = VLLMSamplerSpec(engines.servers, (1,), api_key=engines.api_key)()
            assert asyncio.run(sampler((5, 6), 2, Session("t"))).ids
            pids = ray.get([actor.pid.remote() for actor in engines._actors])
            os.kill(pids[0], signal.SIGKILL)
            until(lambda: bool(lost), 60.0)
            assert "vLLM engine 0 is lost: all 0 restarts are used up" in lost[0]
            assert all(asyncio.run(sampler((5, 6), 2, Session(f"t{i}"))).ids for i in range(4)), "the other one serves"
        until(lambda: not alive(pids[1]))
        assert len(lost) == 1
        broken = replace(spec, executable=script(tmp_path / "broken", "echo boom; exit 1"))
        with pytest.raises(SamplerFault, match=r"ended while starting .* boom"):
            ray_vllm.Engines(broken, 1, log_dir=tmp_path, gpus=0)
    finally:
        ray.shutdown()


# ------------------------------------------------------------------------------------------------ the choice


def test_without_use_vllm_there_is_none() -> None:
    assert vllm_options({"max_steps": 3}) is None and vllm_options({"use_vllm": False}) is None


def test_servers_that_run_or_engines_to_start() -> None:
    named = vllm_options({"use_vllm": True, "vllm_server_base_url": "http://a:1, http://b:2"})
    assert named == VLLMOptions(("http://a:1", "http://b:2"))
    started = {"use_vllm": True, "vllm_tensor_parallel_size": 2, "vllm_gpu_memory_utilization": 0.5}
    more = {"vllm_max_model_length": 4096, "vllm_server_timeout": 60, "vllm_mode": "colocate"}
    assert vllm_options({**started, **more}) == VLLMOptions((), 2, 0.5, 4096, 60)


def test_a_run_samples_from_the_servers_its_config_names(tmp_path: Path) -> None:
    """From the YAML to tokens: options, servers, pool, publishing, the version of what comes back."""
    chat, tasks = save_tokenizer(tmp_path / "policy"), make_tasks(2)
    server = FakeVLLM(BigramPolicy())
    text = f"run_dir: {tmp_path / 'run'}\npolicy: {tmp_path / 'policy'}\nrollout: {{max_tokens: 6}}\n"
    (tmp_path / "x.yaml").write_text(text)
    chosen = ["trainer.trl.use_vllm=true", f"trainer.trl.vllm_server_base_url={server.url}"]
    config = load(tmp_path / "x.yaml", chosen)
    try:
        with (
            served(config, tmp_path / "run") as servers,
            policy_pool(config.policy, {"sim": FakeFactory()}, config.rollout, "sim", servers) as pool,
        ):
            pool.publish(Version(1, 4), [("table", to_raw(bigram_table(3)))])
            found = pool.run_tasks(tasks)
        assert {v for t in found for turn in t.turns for v in turn.completion.versions} == {Version(1, 4)}
        assert [p.name for p in (tmp_path / "run" / "weights").iterdir()] == ["1-4"]
        assert server.app.seen[-1][0]["stop_token_ids"] == list(chat().stop_ids)
    finally:
        server.stop()
    with served(load(tmp_path / "x.yaml"), tmp_path) as nobody:
        assert nobody is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vllm_mode": "server"}, "vllm_mode does nothing without"),
        ({"use_vllm": "yes"}, "use_vllm: 'yes' is no bool"),
        ({"use_vllm": True, "vllm_mode": "remote"}, "neither server nor colocate"),
        ({"use_vllm": True, "vllm_mode": "server"}, "server needs vllm_server_base_url"),
        ({"use_vllm": True, "vllm_mode": "colocate", "vllm_server_base_url": "http://a"}, "leave out"),
        ({"use_vllm": True, "vllm_server_base_url": "a:8000"}, "'a:8000' does not start with http://"),
        ({"use_vllm": True, "vllm_server_base_url": 8000}, "8000 is no str"),
        (
            {"use_vllm": True, "vllm_server_base_url": "http://a", "vllm_tensor_parallel_size": 2},
            "vllm_tensor_parallel_size: the named servers were started by you",
        ),
        ({"use_vllm": True, "vllm_tensor_parallel_size": 0}, "0 is not between 1 and 1024"),
        ({"use_vllm": True, "vllm_tensor_parallel_size": True}, "True is no int"),
        ({"use_vllm": True, "vllm_gpu_memory_utilization": 1.5}, "1.5 is not between"),
    ],
)
def test_contradictions_are_one_line_with_the_key(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        vllm_options(options)
    assert "trainer.trl." in str(caught.value) and "\n" not in str(caught.value)
