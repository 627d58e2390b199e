"""``agentworld doctor``: what this machine can do, one line each, before a run finds out the hard way.

Owns: which checks apply, the quick ones, and their remedies. Refuses: mending anything; the longer checks are in
``launch.checks``.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from launch.checks.domain import self_test
from launch.checks.finding import Finding, Problem, found
from launch.checks.judge import ping
from launch.checks.versions import stack

MIN_DISK_GB, MIN_MEMORY_GB = 8.0, 4.0
SELF_TEST_TASKS = 3
VLLM_SECONDS = 60.0
__all__ = ["Finding", "Subject", "diagnose"]


@dataclass(frozen=True, slots=True)
class Subject:
    """What to look at beside this machine. ``model``: a model folder. ``url``: a world-model server. ``vllm``: a vLLM
    server of the policy. ``judge``: URL and model name of a judge. ``ray``: a cluster's address, or ``auto`` for the
    one that runs here. ``deep``: also what starts processes."""

    run_dir: Path
    model: Path | None = None
    url: str | None = None
    judge: tuple[str, str] | None = None
    ray: str | None = None
    deep: bool = False
    vllm: str | None = None


def diagnose(subject: Subject) -> list[Finding]:
    """Every check that applies."""
    run_dir = subject.run_dir
    checks = [
        found("python", _python),
        found("packages", _packages),
        found("training stack", stack),
        found("compiler", _compiler, needed=False),
        found("sandbox", _sandbox),
        *_domains(),
        found("resources", lambda: _resources(run_dir), needed=False),
        found("run directory", lambda: _writable(run_dir)),
        found("accelerator", _accelerator, needed=False),
    ]
    if subject.deep:
        checks.append(found("ranks", _ranks))
    if subject.deep or subject.ray is not None:
        checks.append(found("ray", lambda: _ray(subject)))
    return checks + _of_subject(subject)


def _of_subject(subject: Subject) -> list[Finding]:
    """Checks of what was named."""
    checks = []
    if subject.model is not None:
        model = subject.model
        checks.append(found("chat template", lambda: _chat(model)))
        checks.append(found("logprobs", lambda: _logprobs(model)))
    if subject.url is not None:
        url = subject.url
        checks.append(found("world-model server", lambda: _server(url)))
    if subject.vllm is not None:
        vllm = subject.vllm
        checks.append(found("vLLM server", lambda: _vllm(vllm)))
    if subject.judge is not None:
        judge = subject.judge
        checks.append(found("judge", lambda: ping(*judge)))
    return checks


def _python() -> str:
    if not (3, 11) <= sys.version_info < (3, 14):
        raise Problem(f"{sys.version.split()[0]}: Python 3.11 to 3.13 is needed")
    return sys.version.split()[0]


def _packages() -> str:
    """The four packages have generic names: they must be ours."""
    from rollout.worker import code_fingerprint

    return f"rollout, worldmodel, trainer, launch from {Path(__file__).parent.parent} ({code_fingerprint()})"


def _compiler() -> str:
    """DeepSpeed compiles a helper on its first use."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    missing = [] if shutil.which("g++") else ["g++"]
    missing += [] if header.exists() else ["python3-dev"]
    if missing:
        raise Problem(f"missing {', '.join(missing)}: several processes under DeepSpeed need it")
    return "g++ and Python.h"


def _sandbox() -> str:
    from worldmodel.sandbox import Machine

    missing = [name for name in ("bwrap", "setpriv") if not shutil.which(name)]
    if missing:
        raise Problem(f"missing {', '.join(missing)}: apt-get install bubblewrap util-linux")
    with Machine({"files": {"probe.txt": "ready\n"}}) as machine:
        screen = machine.run("cat probe.txt && id -u")
    if not screen.text.startswith("ready"):
        raise Problem(f"a box started but answered {screen.text!r}")
    return "a box starts, answers and is cleaned up"


def _domain(name: str) -> str:
    """The self-test of a domain's real environment."""
    from worldmodel.domains import kit

    found = kit(name)
    if lacking := found.missing():
        raise Problem(f"missing {lacking}")
    return self_test(found.real(), found.generate("heldout", SELF_TEST_TASKS, 0))


def _domains() -> list[Finding]:
    from worldmodel.domains import names

    return [found(name, partial(_domain, name), needed=name == "terminal") for name in names()]


def _resources(run_dir: Path) -> str:
    place = next(p for p in (run_dir.resolve(), *run_dir.resolve().parents) if p.exists())
    disk = shutil.disk_usage(place).free / 1e9
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / 1e9
    text = f"{os.cpu_count()} cores, {memory:.1f} GB memory free, {disk:.0f} GB disk free"
    if disk < MIN_DISK_GB or memory < MIN_MEMORY_GB:
        raise Problem(f"{text}; {MIN_DISK_GB:.0f} GB disk and {MIN_MEMORY_GB:.0f} GB memory are advised")
    return text


def _writable(run_dir: Path) -> str:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=run_dir) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise Problem(f"{run_dir}: {error.strerror}") from error
    return str(run_dir.resolve())


def _accelerator() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none, training on the CPU"
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    kinds = sorted({f"{device.name} ({device.total_memory / 1e9:.0f} GB)" for device in devices})
    bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if torch.distributed.is_nccl_available() else "none"
    return f"{len(devices)} x {', '.join(kinds)}, {bf16}, CUDA {torch.version.cuda}, NCCL {nccl}"


def _chat(model: Path) -> str:
    from rollout.chat import load_chat

    chat = load_chat(model)
    text = "$ ls  -l\n\tä → 'x' 12345\n"
    if (back := chat.decode(chat.encode(text))) != text:
        raise Problem(f"{model}: {text!r} comes back from the tokenizer as {back!r}")
    return f"{model}: append-only, every reply is a prefix of the next prompt; text comes back as it went in"


def _logprobs(model: Path) -> str:
    from launch.checks.logprobs import sampler_logprobs
    from launch.worlds import check_model_folder

    check_model_folder(model)
    return sampler_logprobs(model)


def _ray(subject: Subject) -> str:
    from launch.checks.cluster import ray_cluster

    return ray_cluster(subject.ray, subject.run_dir)


def _ranks() -> str:
    """Gloo always, since the CPU trains over it; NCCL on all GPUs."""
    import torch

    from launch.checks.ranks import process_group

    gloo = process_group("gloo", 2)
    gpus = torch.cuda.device_count()
    return f"{gloo}; {process_group('nccl', gpus)}" if gpus else gloo


def _server(url: str) -> str:
    from launch.worlds import check_server
    from worldmodel.openai import ServerSpec

    asyncio.run(check_server(ServerSpec(url, "")))
    return f"{url} answers"


def _vllm(url: str) -> str:
    """Model name, weight gate, and the logprob mode that the training divides by."""
    from rollout.samplers.vllm import MODEL
    from rollout.samplers.vllm_control import check_server
    from rollout.samplers.vllm_gate import KEY_VARIABLE

    if not url.startswith(("http://", "https://")):
        raise Problem(f"{url} does not start with http://")
    return check_server(url, MODEL, timeout=VLLM_SECONDS, api_key=os.environ.get(KEY_VARIABLE, ""))
