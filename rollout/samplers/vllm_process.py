"""One ``vllm serve`` as a process of ours: started with the settings training needs, watched, restarted, ended.

Owns: the command line, the environment, the deadline of the start, the restart budget, the end by process id.
Refuses: GPUs and where engines run (``ray_vllm``), giving a restarted engine its weights: whoever samples from it
does that (``samplers.vllm``). Needs no vLLM here: ``EngineSpec.executable`` may live in an environment of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx

from rollout.errors import ConfigError, SamplerFault
from rollout.samplers.vllm_gate import KEY_VARIABLE

GATE = "rollout.samplers.vllm_gate.WeightGate"
LOADER = "rollout.samplers.vllm_gate.WeightLoader"
SERVED_NAME = "policy"
_POLL = 0.25  # seconds between looks at a starting server
_HEALTH = 10.0  # seconds for one answer on /health
_PATIENCE = 3  # looks in a row without an answer after which a living process counts as hung
_SET_PDEATHSIG = 1  # prctl(2)


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Picklable. ``executable``: the vllm program, by name or path. Timeouts in seconds; ``restarts`` in the whole
    life of the engine. ``extra``: further options of ``vllm serve``."""

    model: str
    executable: tuple[str, ...] = ("vllm",)
    tensor_parallel: int = 1
    gpu_memory: float = 0.9
    max_model_len: int | None = None
    dtype: str = "auto"
    start_timeout: float = 900.0
    stop_timeout: float = 30.0
    restarts: int = 3
    extra: tuple[str, ...] = ()


def serve_command(spec: EngineSpec, host: str, port: int) -> list[str]:
    """What is started. ``processed_logprobs``: after temperature, as training recomputes them; ``--generation-config
    vllm``: no sampling defaults from the model's folder."""
    length = [] if spec.max_model_len is None else ["--max-model-len", str(spec.max_model_len)]
    return [
        *spec.executable,
        "serve",
        spec.model,
        *("--host", host, "--port", str(port), "--served-model-name", SERVED_NAME),
        *("--tensor-parallel-size", str(spec.tensor_parallel)),
        *("--gpu-memory-utilization", str(spec.gpu_memory), "--dtype", spec.dtype, *length),
        *("--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"),
        *("--middleware", GATE, "--worker-extension-cls", LOADER),
        *spec.extra,
    ]


def serve_environment(inherited: Mapping[str, str], api_key: str) -> dict[str, str]:
    """``inherited``, with our source first on the path; the Python front end, which has middleware; no development
    endpoints, which would let anyone call into the engine."""
    home = str(Path(__file__).resolve().parents[2])
    paths = [home, *filter(None, [inherited.get("PYTHONPATH", "")])]
    kept = {key: value for key, value in inherited.items() if key not in ("VLLM_SERVER_DEV_MODE", KEY_VARIABLE)}
    own = {"PYTHONPATH": os.pathsep.join(paths), "VLLM_USE_RUST_FRONTEND": "0", "VLLM_NO_USAGE_STATS": "1"}
    return {**kept, **own, **({KEY_VARIABLE: api_key} if api_key else {})}


class EngineProcess:
    """Not thread-safe: one caller at a time. The address stays the same over restarts."""

    def __init__(self, spec: EngineSpec, *, host: str, log: str | Path, api_key: str = "") -> None:
        self.url = ""
        self.restarts = 0
        self._spec, self._host, self._log, self._key = spec, host, Path(log), api_key
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._silent = 0
        # The kernel ends a child with the *thread* that made it: this thread lives as long as this object.
        self._spawner = ThreadPoolExecutor(1, thread_name_prefix="vllm-spawner")

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> str:
        """The URL, once the server answers. Raises ConfigError where the program is missing, SamplerFault with the
        end of the log where it ends by itself or is not ready within ``start_timeout``."""
        self._port = self._port or free_port(self._host)
        self.url = f"http://{self._host}:{self._port}"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._process = self._spawner.submit(self._spawn).result()
        self._silent = 0
        until = time.monotonic() + self._spec.start_timeout
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise SamplerFault(
                    f"{self._who()} ended while starting (status {self._process.returncode}){self._tail()}"
                )
            if self._healthy():
                return self.url
            time.sleep(_POLL)
        self.stop()
        raise SamplerFault(f"{self._who()} was not ready within {self._spec.start_timeout:g} s{self._tail()}")

    def check(self) -> bool:
        """Look after the server: True if it answers, False if it did not just now. A process that ended or hangs is
        started again. Raises SamplerFault when the restart budget is spent."""
        assert self._process is not None, "start it first"
        ended = self._process.poll() is not None
        if not ended and self._healthy():
            self._silent = 0
            return True
        self._silent += 1
        if not ended and self._silent < _PATIENCE:
            return False
        reason = f"{self._who()} " + (
            f"ended (status {self._process.returncode})" if ended else f"did not answer {self._silent} times"
        )
        while self.restarts < self._spec.restarts:
            self.restarts += 1
            self.stop()
            try:
                self.start()
                return False
            except SamplerFault as fault:
                reason = str(fault)
        raise SamplerFault(f"all {self._spec.restarts} restarts are used up: {reason}{self._tail()}")

    def stop(self) -> None:
        """End the server, by its process id: SIGTERM, then SIGKILL for it and the workers it left in its session."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(self._spec.stop_timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing is left of it
            os.killpg(process.pid, signal.SIGKILL)

    def close(self) -> None:
        self.stop()
        self._spawner.shutdown()

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = serve_command(self._spec, self._host, self._port)
        prctl = ctypes.CDLL(None).prctl  # found before the fork: the child must not load anything

        def die_with_parent() -> None:
            prctl(_SET_PDEATHSIG, signal.SIGTERM)

        try:
            with self._log.open("ab") as log:
                return subprocess.Popen(
                    command,
                    env=serve_environment(os.environ, self._key),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=die_with_parent,
                )
        except FileNotFoundError as error:
            raise ConfigError(
                f"{command[0]}: no such program; install vLLM in an environment of its own and name its vllm in "
                "AGENTWORLD_VLLM"
            ) from error

    def _healthy(self) -> bool:
        try:
            found = httpx.get(f"{self.url}/health", timeout=_HEALTH, trust_env=False, verify=False)  # plain http
            return found.status_code == 200
        except httpx.HTTPError:
            return False

    def _who(self) -> str:
        return f"vLLM at {self.url}"

    def _tail(self) -> str:
        """The last words of the log, which say why."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
        return f": {' | '.join(lines)} (all of it in {self._log})" if lines else f" (log: {self._log})"


def free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
