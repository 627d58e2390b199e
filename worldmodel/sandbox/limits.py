"""What one throw-away machine may use, and how it looks from inside.

Owns: the numbers (bytes, processes, inodes, seconds) and the fixed identity of a machine.
Refuses: enforcing them (keeper, box).
"""

from __future__ import annotations

from dataclasses import dataclass

from rollout.errors import WorldFault

HOME = "/home/user"
USER = "user"
HOST = "box"
UID = 1000  # as seen inside; outside it is an otherwise unused id per episode
COLUMNS, ROWS = 80, 40
MIB = 1024 * 1024


class SandboxError(WorldFault):
    """The sandbox itself failed (could not start, lost its keeper): never the fault of an action."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one machine. Bytes unless said otherwise; deadlines in seconds."""

    deadline: float = 5.0  # per command and per probe
    start_deadline: float = 10.0  # until the shell answers
    output: int = MIB  # more than this from one command: killed as a flood
    command: int = 16 * 1024  # longest command text
    workspace: int = 16 * MIB  # home and /tmp together
    inodes: int = 4096  # files in home and /tmp together
    processes: int = 48
    address_space: int = 256 * MIB  # per process
    data: int | None = None  # writable private memory a process: for programs that reserve more addresses than they use
    memory: int = 384 * MIB  # whole machine, where a memory cgroup is writable
    file_size: int = 16 * MIB
    open_files: int = 256
    cpu_seconds: int = 60  # per process


ENVIRONMENT: tuple[tuple[str, str], ...] = (
    ("HOME", HOME),
    ("USER", USER),
    ("LOGNAME", USER),
    ("SHELL", "/bin/bash"),
    ("PATH", "/usr/local/bin:/usr/bin:/bin"),
    ("LC_ALL", "C.UTF-8"),
    ("LANG", "C.UTF-8"),
    ("TZ", "UTC0"),
    ("TERM", "dumb"),
    ("COLUMNS", str(COLUMNS)),
    ("LINES", str(ROWS)),
    ("TIME_STYLE", "+Jan  1 00:00"),  # ls -l prints one fixed date for every file
    ("PYTHONDONTWRITEBYTECODE", "1"),
    ("PYTHONSAFEPATH", "1"),
    ("PYTHONNOUSERSITE", "1"),
)
