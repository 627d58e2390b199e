"""Runs inside a box: a package's tests for requests in JSON lines, each in a process of its own.

Owns: forking pytest, its deadline, what it reported, and the screening of names (see ``verdict``). The standard library
and the shown pytest alone. Refuses: believing a test process: it cannot reach this process's pipes (not dumpable, own
descriptors), must report every test, and must fail the canary that it is handed among the others.

Request: ``root``, ``paths`` (below it, for sys.path), ``tests`` (files or ids), ``seconds``; optional ``edits`` (path
-> [[start, stop, text]], undone afterwards), ``trace`` (path prefixes: also say which functions each test enters),
``cpu`` (seconds of processor time), ``bytecode`` (keep what was compiled for the next request), ``canary`` (a file that
is made and must fail), ``screen`` ({"below": folders, "except": files or folders, "names": names that may not occur}).
Reply: ``end`` (ok, deadline, died, screened), ``outcomes`` (id -> passed, failed, skipped), ``messages`` (id -> last
line of its error), ``entered`` (id -> ["path:line"]); where ``end`` is deadline, ``waited`` (how many of these seconds
the tests were ready to run and got no processor).
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator
from importlib.util import cache_from_source
from typing import Any

SITE = "/opt/site"
REPORT_FD = 200
MAX_REPORT = 8 * 1024 * 1024


class Reporter:
    """A pytest plug-in: the outcome of each test and the last line of its error."""

    def __init__(self, root: str, trace: tuple[str, ...]) -> None:
        self.outcomes: dict[str, str] = {}
        self.messages: dict[str, str] = {}
        self.entered: dict[str, list[str]] = {}
        self._below = tuple(f"{root}/{prefix}" for prefix in trace)
        self._root = len(root) + 1
        self._now: set[str] = set()

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = report.nodeid
        if report.failed or name not in self.outcomes or (report.when == "call" and self.outcomes[name] != "failed"):
            self.outcomes[name] = report.outcome if not hasattr(report, "wasxfail") else "skipped"
        elif report.skipped and self.outcomes[name] == "passed":
            self.outcomes[name] = "skipped"
        if report.failed and name not in self.messages:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.messages[name] = str(getattr(crash, "message", report.longrepr))[:600]

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.outcomes[report.nodeid] = "failed"
            self.messages[report.nodeid] = str(report.longrepr)[-600:]

    def pytest_runtest_setup(self, item: Any) -> None:
        if self._below:
            self._now = set()
            sys.settrace(self._call)

    def pytest_runtest_teardown(self, item: Any) -> None:
        if self._below:
            sys.settrace(None)
            self.entered[item.nodeid] = sorted(self._now)

    def _call(self, frame: Any, event: str, value: Any) -> None:
        if frame.f_code.co_filename.startswith(self._below):
            self._now.add(f"{frame.f_code.co_filename[self._root :]}:{frame.f_code.co_firstlineno}")


def names_in(text: str | bytes) -> set[str]:
    """Every name that Python source mentions, also in strings that are nothing but a name. Bytes are
    decoded as Python would. Raises SyntaxError."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.update(node.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            found.update((node.module or "").split("."))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.update(node.value.split(".") if len(node.value) < 80 else ())
    return found


def screened(root: str, screen: dict[str, Any]) -> str:
    """A forbidden name that a source below ``screen["below"]`` mentions, or ''. What does not parse fails by itself."""
    forbidden = set(screen["names"])
    for prefix in screen["below"]:
        for folder, _, files in os.walk(f"{root}/{prefix}"):
            for name in files:
                path = f"{folder}/{name}"
                if not path.endswith(".py") or any(
                    f"{path}/".startswith(f"{root}/{left}/") for left in screen["except"]
                ):
                    continue
                with contextlib.suppress(SyntaxError, ValueError), open(path, "rb") as stream:
                    if found := sorted(names_in(stream.read()) & forbidden):
                        return found[0]
    return ""


def forget(path: str) -> None:
    """Drop what was compiled of a file that changes: its time and size may stay as they are."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(cache_from_source(path))


@contextlib.contextmanager
def edited(root: str, edits: dict[str, list[list[Any]]]) -> Iterator[None]:
    """The files with each [start, stop, text] in place, for as long as the context lasts."""
    before: dict[str, str] = {}
    for name, changes in edits.items():
        forget(f"{root}/{name}")
        with open(f"{root}/{name}", encoding="utf-8", newline="") as stream:
            text = before[name] = stream.read()
        for start, stop, new in sorted(changes, reverse=True):
            text = text[:start] + new + text[stop:]
        with open(f"{root}/{name}", "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
    try:
        yield
    finally:
        for name, text in before.items():
            forget(f"{root}/{name}")
            with open(f"{root}/{name}", "w", encoding="utf-8", newline="") as stream:
                stream.write(text)


def child(request: dict[str, Any], report: int) -> None:
    """In the forked process: run pytest and report. Whatever it prints is lost."""
    os.setsid()
    os.dup2(report, REPORT_FD)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, REPORT_FD)
    os.closerange(REPORT_FD + 1, 256)
    import pytest

    if "cpu" in request:
        resource.setrlimit(resource.RLIMIT_CPU, (int(request["cpu"]),) * 2)
    sys.dont_write_bytecode = not request.get("bytecode")
    root = request["root"]
    os.chdir(root)
    sys.path[:0] = [f"{root}/{path}".rstrip("/") for path in request["paths"]]
    reporter = Reporter(root, tuple(request.get("trace", ())))
    os.environ["PYTHONPATH"] = ":".join([*sys.path[: len(request["paths"])], SITE])  # for what tests start
    fixed = ["-q", "-p", "no:cacheprovider", "--rootdir", root, "-W", "ignore", "-o", "addopts="]
    pytest.main([*fixed, "--continue-on-collection-errors", *request["tests"]], plugins=[reporter])
    content = json.dumps([reporter.outcomes, reporter.messages, reporter.entered]).encode()
    while content:
        content = content[os.write(REPORT_FD, content) :]


def collect(report: int, until: float) -> tuple[bytes, bool]:
    """What the child wrote, and whether it was done by ``until``."""
    content = bytearray()
    poll = select.poll()
    poll.register(report, select.POLLIN | select.POLLHUP)
    while (left := until - time.monotonic()) > 0 and len(content) < MAX_REPORT:
        if poll.poll(max(1, int(left * 1000))):
            part = os.read(report, 65536)
            if not part:
                return bytes(content), True
            content += part
    return bytes(content), False


def waited(pid: int) -> float:
    """Seconds that a process stood ready without a processor; 0 where the kernel does not say."""
    try:
        with open(f"/proc/{pid}/schedstat", encoding="ascii") as stream:
            return int(stream.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Fork the tests and judge what came back."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            child(request, write)
        finally:
            os._exit(0)
    os.close(write)
    content, done = collect(read, time.monotonic() + float(request["seconds"]))
    os.close(read)
    idle = 0.0 if done else waited(pid)
    with contextlib.suppress(OSError):
        os.kill(-1, signal.SIGKILL)  # every process here but this one and the box's first
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    if not done:
        return {"end": "deadline", "waited": idle}
    try:
        outcomes, messages, entered = json.loads(content)
    except ValueError:
        return {"end": "died"}
    return {"end": "ok", "outcomes": outcomes, "messages": messages, "entered": entered}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request."""
    root = request["root"]
    if "screen" in request and (name := screened(root, request["screen"])):
        return {"end": "screened", "name": name}
    if "canary" in request:
        with open(f"{root}/{request['canary']}", "w", encoding="utf-8") as stream:
            stream.write("def test_true():\n    assert [1] == [1]\n\n\ndef test_false():\n    assert [1] == [2]\n")
    with edited(root, request.get("edits", {})):
        return run(request)


def main() -> None:
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # not dumpable: no process of the tests opens this one's descriptors
    sys.path.insert(0, SITE)
    import pytest  # noqa: F401  # once, for every fork

    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
