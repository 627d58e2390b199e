"""Getting the servers: pinned npm and Python packages in one folder of the cache, checked against committed hashes.

Owns: that folder, what of it lacks. Refuses: what the servers do (``servers``).

``npm-lock.json`` holds a digest of every npm package, ``requirements.txt`` one of every wheel. The Python packages are
for the distribution's Python, which is the one that boxes see.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from rollout.errors import ConfigError
from worldmodel.domains.mcp.tau2 import install as tau2
from worldmodel.domains.mcp.thirdparty import install as thirdparty
from worldmodel.installed import Say, apt_install, folder, install, run

PROGRAMS = {"/usr/bin/node": "nodejs", "/usr/bin/git": "git", "/usr/bin/python3": "python3"}
STAMP = "stamp"


def _text(name: str) -> str:
    return resources.files("worldmodel.domains.mcp").joinpath(name).read_text(encoding="utf-8")


def stamp() -> str:
    """Identity of the pinned packages."""
    return hashlib.sha256((_text("npm-lock.json") + _text("requirements.txt")).encode()).hexdigest()


def current() -> bool:
    """Whether what is installed is what is pinned."""
    path = folder("mcp") / STAMP
    return path.is_file() and path.read_text(encoding="utf-8") == stamp()


def missing() -> str:
    """'', or one line that says what lacks and how to get it."""
    lacking = [name for name in ("bwrap", "setpriv") if not shutil.which(name)]
    if lacking:
        return f"{', '.join(lacking)}: apt-get install bubblewrap util-linux"
    if find_spec("mcp") is None:
        return "mcp: pip install 'agentworld-trainer[mcp]'"
    if absent := [path for path in PROGRAMS if not Path(path).exists()]:
        return f"{', '.join(absent)}: agentworld setup mcp"
    return "" if current() else "the tool servers: agentworld setup mcp"


def setup(say: Say) -> None:
    """Install what lacks. Raises ConfigError, one line."""
    packages = [package for path, package in PROGRAMS.items() if not Path(path).exists()]
    if not current() and not shutil.which("npm"):
        packages.append("npm")
    if packages:
        apt_install(packages, say)
    if not current():
        shutil.rmtree(folder("mcp"), ignore_errors=True)
        say("installing the tool servers")
        install("mcp", _fill)
    tau2.setup(say)
    thirdparty.setup(say)


def _fill(target: Path) -> None:
    npm, python = target / "npm", target / "python"
    npm.mkdir()
    lock = json.loads(_text("npm-lock.json"))
    (npm / "package-lock.json").write_text(json.dumps(lock), encoding="utf-8")
    (npm / "package.json").write_text(json.dumps({"name": lock["name"], **lock["packages"][""]}), encoding="utf-8")
    run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=npm)
    version = run(["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).strip()
    wanted = target / "requirements.txt"
    wanted.write_text(_text("requirements.txt"), encoding="utf-8")
    pinned = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--python-version", version]
    run([sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", *pinned, "--target", str(python),
         "-r", str(wanted)])  # fmt: skip
    if not (python / "mcp_server_git").is_dir():
        raise ConfigError("setup: pip installed no mcp-server-git")
    run(["/usr/bin/python3", "-m", "compileall", "-q", str(python)])  # boxes cannot write what they compile
    (target / STAMP).write_text(stamp(), encoding="utf-8")
