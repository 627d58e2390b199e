"""Submits a job that only plans: ``python -m tests.launch_case ADDRESS CONFIG SHARED``.

A process of its own, because Ray reads its authentication mode once.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from launch.errors import user_errors
from launch.submit import ray_jobs
from launch.submit.job import prepare
from launch.submit.options import Target, load_options
from tests.launch_toys import ROOT


def main(address: str, config: str, shared: str) -> int:
    overrides = [f"ray.address={address}", f"shared_dir={shared}", f"venv={sys.prefix}", f"env.PYTHONPATH={ROOT}"]
    job = prepare(Path(config), [], load_options(Target.ray, None, overrides))
    return ray_jobs.run(replace(job, arguments=("--dry-run", "seed=9")), False, lambda line: print(line, flush=True))


if __name__ == "__main__":
    with user_errors():
        raise SystemExit(main(*sys.argv[1:]))
