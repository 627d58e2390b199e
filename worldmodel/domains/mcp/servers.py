"""The servers of an episode: what each is started with, in which box, and the files that it finds there.

Owns: paths inside the box, programs, limits, building a state. Refuses: the protocol (``client``), actions (``real``).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldmodel.domains.mcp.catalogue import FILES, REPO, SOURCES
from worldmodel.domains.mcp.history import stream
from worldmodel.installed import folder
from worldmodel.sandbox import Limits, Machine, SandboxError

GRAPH, DATABASE, SCRIPT = "/home/user/graph.jsonl", "/home/user/data.db", "/home/user/data.sql"
MIB = 1024 * 1024
# Node reserves far more addresses than it uses and counts a dozen threads as processes.
LIMITS = Limits(address_space=8192 * MIB, memory=768 * MIB, processes=128, workspace=32 * MIB, deadline=20.0)
START_SECONDS = 60.0  # until a server has answered its first two requests; a busy machine needs some
NODE, PYTHON, ENV = "/usr/bin/node", "/usr/bin/python3", "/usr/bin/env"
MODULES = "/opt/mcp/npm/node_modules/@modelcontextprotocol"
# The clock of commits stands still; settings that would run programs are off; reading takes no lock.
GIT = ("GIT_AUTHOR_NAME=Robin Reed", "GIT_AUTHOR_EMAIL=robin@example.com", "GIT_COMMITTER_NAME=Robin Reed",
       "GIT_COMMITTER_EMAIL=robin@example.com", "GIT_AUTHOR_DATE=1735732800 +0000",
       "GIT_COMMITTER_DATE=1735732800 +0000", "GIT_CONFIG_NOSYSTEM=1", "GIT_OPTIONAL_LOCKS=0",
       "GIT_CONFIG_COUNT=2", "GIT_CONFIG_KEY_0=core.hooksPath", "GIT_CONFIG_VALUE_0=/dev/null",
       "GIT_CONFIG_KEY_1=core.fsmonitor", "GIT_CONFIG_VALUE_1=false")  # fmt: skip


def shows() -> dict[str, Path]:
    """The folders that boxes read: what set-up installed, and the programs of this folder."""
    installed = folder("mcp")
    if not installed.is_dir():
        raise SandboxError(f"mcp: {installed} is not there: agentworld setup mcp")
    return {"mcp": installed, "world": Path(__file__).resolve().parent}


def program(server: str, state: Mapping[str, Any]) -> list[str]:
    """The command that starts ``server``."""
    python = [ENV, "PYTHONPATH=/opt/mcp/python", PYTHON]
    match server:
        case "filesystem":
            return [
                NODE,
                f"{MODULES}/server-filesystem/dist/index.js",
                FILES,
                *([SOURCES] if state.get("repo") else []),
            ]
        case "memory":
            return [ENV, f"MEMORY_FILE_PATH={GRAPH}", NODE, f"{MODULES}/server-memory/dist/index.js"]
        case "git":
            return [ENV, *GIT, *python[1:], "-m", "mcp_server_git", "--repository", REPO]
        case "time":
            return [*python, "/opt/world/fixed_clock.py", "--local-timezone", "UTC"]
        case _:
            return [PYTHON, "/opt/world/sqlite_server.py", DATABASE, SCRIPT]


def machine(state: Mapping[str, Any]) -> Machine:
    """A machine whose files are those of ``state``; its history is not built yet."""
    files = {f"files/{path}": text for path, text in state.get("files", {}).items()}
    dirs = ["files", *(f"files/{path}" for path in state.get("dirs", ()))]
    if graph := state.get("graph"):
        rows = [{"type": kind, **item} for kind, key in (("entity", "entities"), ("relation", "relations"))
                for item in graph[key]]  # fmt: skip
        files["graph.jsonl"] = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    if script := state.get("database"):
        files["data.sql"] = script
    if repo := state.get("repo"):
        dirs.append("repo")
        files["history"] = stream(repo)
        files |= {f"changes/{path}": text for path, text in repo.get("changes", {}).items()}
    return Machine({"files": files, "dirs": dirs}, LIMITS, shows=shows(), shell=bool(repo))


def build(running: Machine, state: Mapping[str, Any]) -> None:
    """What only git can make: the repository. Raises SandboxError where it does not end as it should."""
    if not (repo := state.get("repo")):
        return
    steps = ["cd ~/repo", "git init -q -b main --template= .", "git fast-import --quiet < ../history",
             "git reset -q --hard", "rm ../history"]  # fmt: skip
    if repo.get("changes"):
        steps += ["cp -r ../changes/. .", "rm -r ../changes"]
    if repo.get("staged"):
        steps.append(f"git add -- {' '.join(map(shlex.quote, repo['staged']))}")
    screen = running.run(" && ".join([*steps, "echo built"]), START_SECONDS)
    if screen.end != "ok" or screen.text != "built":
        raise SandboxError(f"mcp: the repository was not built: {screen.text[-200:]}")
