"""Can processes of this machine form a process group and reduce a tensor: gloo, and NCCL where there are GPUs.

Owns: starting the processes, their deadline, reading what failed. Refuses: several machines (``checks.cluster``).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from launch.checks.finding import Problem

SECONDS = 90.0


def process_group(backend: str, size: int, seconds: float = SECONDS) -> str:
    """``size`` processes join over ``backend`` and add up their ranks. Raises Problem with the last line of the first
    process that failed, or where they did not end within ``seconds``."""
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="agentworld-ranks-") as folder:
        command = [sys.executable, "-m", "launch.checks.ranks", backend, str(size), f"{folder}/store", str(seconds)]
        children = [
            subprocess.Popen(
                [*command, str(rank)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            for rank in range(size)
        ]
        try:
            errors = [child.communicate(timeout=seconds)[1] for child in children]
        except subprocess.TimeoutExpired as error:
            raise Problem(f"{backend}: {size} processes did not form a group within {seconds:.0f} s") from error
        finally:
            for child in children:
                child.kill()
                child.wait()
    for child, text in zip(children, errors, strict=True):
        if child.returncode:
            raise Problem(
                f"{backend} between {size} processes failed: {(text.strip().splitlines() or ['no reason'])[-1]}"
            )
    return f"{backend}: {size} processes reduce a tensor"


def _rank(backend: str, size: int, store: str, seconds: float, rank: int) -> None:
    """One process of the group."""
    import torch
    import torch.distributed as dist

    device = "cpu"
    if backend == "nccl":
        torch.cuda.set_device(rank)
        device = f"cuda:{rank}"
    dist.init_process_group(
        backend, init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=seconds)
    )
    total = torch.tensor([float(rank)], device=device)
    dist.all_reduce(total)
    dist.destroy_process_group()
    if total.item() != size * (size - 1) / 2:
        raise SystemExit(f"the sum of ranks is {total.item()}")


if __name__ == "__main__":
    _rank(sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4]), int(sys.argv[5]))
