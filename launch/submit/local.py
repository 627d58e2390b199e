"""This machine: the job as a child process, through the same scripts that other targets run.

Owns: the child, its interrupt, its exit status. Refuses: detaching (use a terminal multiplexer, or ``ray``).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from launch.submit.job import KILL_AFTER, RUN, Job, write_files

_TIMED_OUT, _SIGNALLED = 124, 128  # as coreutils' timeout and the shell say it


def command(job: Job) -> list[str]:
    """What is run, once the job's files are in its folder."""
    return ["bash", f"{job.folder}/{RUN}"]


def here(job: Job) -> Job:
    """``job`` started by this interpreter, unless a virtual environment is named."""
    return job if job.options.venv is not None else replace(job, command=(sys.executable, "-m", "launch.cli"))


def run(job: Job) -> int:
    """Train to the end; returns the exit status (124 after the time limit, 128 + n after signal n)."""
    job = here(job)
    write_files(job.files(), Path(job.folder))
    # our packages, where they were found: a child started with -m would look in its working directory only
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with subprocess.Popen(command(job), env=environment, start_new_session=True) as child:
        try:
            status = child.wait(job.options.seconds + 2 * KILL_AFTER)
        except subprocess.TimeoutExpired:  # its own time limit should have ended it
            _end(child)
            status = _TIMED_OUT
        except BaseException:  # an interrupt too: the child is a session of its own and would live on
            _end(child)
            raise
    return status if status >= 0 else _SIGNALLED - status


def _end(child: subprocess.Popen[bytes]) -> None:
    """Politely, then not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
            child.wait(KILL_AFTER)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
