"""A throw-away machine: one workspace, one shell at a time, and verdicts from fresh boxes.

Owns: the episode's life: files in, commands, kill, probes, clean-up.
Refuses: reading the workspace (only processes inside a box do).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from worldmodel.sandbox.limits import Limits, SandboxError
from worldmodel.sandbox.link import keeper
from worldmodel.sandbox.screen import Screen
from worldmodel.sandbox.service import Service
from worldmodel.sandbox.shell import Shell
from worldmodel.sandbox.terminal import Terminal


def check_state(state: Mapping[str, Any]) -> None:
    """Raises SandboxError, naming the entry, unless ``state`` is {"files", "dirs", "modes"} with relative paths."""
    unknown = set(state) - {"files", "dirs", "modes"}
    if unknown:
        raise SandboxError(f"sandbox: unknown state key {sorted(unknown)[0]!r}; use files, dirs, modes")
    files, dirs, modes = state.get("files", {}), state.get("dirs", ()), state.get("modes", {})
    for path in [*files, *dirs, *modes]:
        parts = path.strip("/").split("/") if isinstance(path, str) else [""]
        if not isinstance(path, str) or path.startswith("/") or "\0" in path or {"", ".", ".."} & set(parts):
            raise SandboxError(f"sandbox: path {path!r} must be relative, without '.' or '..'")
    for path, text in files.items():
        if not isinstance(text, str):
            raise SandboxError(f"sandbox: file {path!r} must be text")
    for path, mode in modes.items():
        if not isinstance(mode, str) or not mode or len(mode) > 4 or set(mode) - set("01234567"):
            raise SandboxError(f"sandbox: mode {mode!r} of {path!r} must be octal, like '755'")


def check_shows(shows: Mapping[str, Path]) -> None:
    """Raises SandboxError, naming the entry, unless each is a plain name and an absolute folder that is there."""
    for name, folder in shows.items():
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
            raise SandboxError(f"sandbox: name {name!r} of a shown folder must be lower-case letters, digits, - or _")
        if not folder.is_absolute() or not folder.is_dir():
            raise SandboxError(f"sandbox: shown folder {folder} must be an absolute path of a folder that is there")


class Machine:
    """One episode's machine. ``run`` may be called until ``close``; a shell that was killed or that exited is
    replaced by a fresh one in the same workspace at the next command. Use from one thread at a time."""

    def __init__(
        self,
        state: Mapping[str, Any],
        limits: Limits | None = None,
        *,
        keys: bool = False,
        shows: Mapping[str, Path] | None = None,
        shell: bool = True,
    ) -> None:
        """``state``: {"files": {path: text}, "dirs": [path], "modes": {path: octal}}, relative to home, which is
        also the working directory. ``keys``: the episode is driven by ``press`` instead of ``run``. ``shows``: folders
        of this machine that boxes read as /opt/NAME. ``shell`` False: none is started before it is needed."""
        check_state(state)
        check_shows(shows or {})
        self._shows, self._eager = dict(shows or {}), shell
        self._services: list[Service] = []
        self._keys = keys
        self.limits = limits or Limits()
        self._state = state
        self._workspace: dict[str, Any] | None = None
        self._box: Shell | Terminal | None = None
        self._interrupted = False

    def start(self) -> None:
        """Make the workspace and the first shell, with a new keeper where this process's turns out to be lost. Raises
        SandboxError."""
        request = {
            "op": "workspace",
            "files": dict(self._state.get("files", {})),
            "dirs": list(self._state.get("dirs", ())),
            "modes": dict(self._state.get("modes", {})),
            "bytes": self.limits.workspace,
            "inodes": self.limits.inodes,
        }
        self._link = keeper()
        try:
            self._workspace, _ = self._link.ask(request)
        except SandboxError:
            if self._link.alive:
                raise
            self._link = keeper()
            self._workspace, _ = self._link.ask(request)
        try:
            self._workspace["shows"] = {
                name: self._link.ask({"op": "show", "source": str(folder)})[0]["path"]
                for name, folder in self._shows.items()
            }
            if self._eager:
                self._box = self._terminal() if self._keys else self._shell(writable=True)
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether it was started, is open, and still has its keeper."""
        return self._workspace is not None and self._link.alive

    def _running(self) -> dict[str, Any]:
        if self._workspace is None:
            raise SandboxError("sandbox: machine is not running")
        if self._interrupted:
            raise SandboxError("sandbox: machine was interrupted")
        return self._workspace

    def _shell(self, writable: bool) -> Shell:
        return Shell(self._link, self._running(), self.limits, writable)

    def _terminal(self) -> Terminal:
        return Terminal(self._link, self._running(), self.limits)

    def run(self, command: str, deadline: float | None = None) -> Screen:
        """Run one command in the episode's shell; ``deadline`` in seconds (default ``limits.deadline``)."""
        shell = self._box if isinstance(self._box, Shell) else self._shell(writable=True)
        self._box = shell
        return self._seen(shell.run(command, deadline))

    def press(self, keys: Sequence[Mapping[str, Any]]) -> Screen:
        """Send each {"keystrokes", "duration"} to the episode's terminal, waiting its duration; the whole screen."""
        terminal = self._box if isinstance(self._box, Terminal) else self._terminal()
        self._box = terminal
        return self._seen(terminal.press(keys))

    def serve(
        self, argv: Sequence[str], limits: Limits | None = None, errors: str = "/dev/null", writable: bool = True
    ) -> Service:
        """A long-running program in a box of its own on the same files, spoken to in lines; it ends with the episode
        (``freeze``, ``probe``, ``close``). ``writable`` False: for verdicts, it cannot change the files. Raises
        SandboxError where it cannot be started."""
        service = Service(self._link, self._running(), limits or self.limits, argv, errors, writable)
        self._services.append(service)
        return service

    def _seen(self, screen: Screen) -> Screen:
        """A box that ended because its keeper did, or was told to, is a fault, not something the action did."""
        if screen.end != "ok":
            self._box = None
        if screen.end == "exit" and (self._interrupted or not self._link.alive):
            raise SandboxError("sandbox: the box was killed from outside")
        return screen

    def interrupt(self) -> None:
        """From any thread: kill what runs now and refuse further boxes, so that a blocked call returns soon."""
        self._interrupted = True
        for box in [self._box, *self._services]:
            if box is not None:
                box.interrupt()

    def freeze(self) -> None:
        """Kill every process of the episode; the workspace stays."""
        box, self._box = self._box, None
        services, self._services = self._services, []
        for running in [box, *services]:
            if running is not None:
                running.kill()

    def probe(self, commands: Sequence[str]) -> tuple[Screen, ...]:
        """Freeze, then run each command in a fresh box of its own, one after another, on the read-only workspace.

        A box of its own, because a probe may execute a file of the workspace, which could otherwise tamper with
        the shell that runs the next probe.
        """
        self.freeze()
        replies = []
        for command in commands:
            shell = self._box = self._shell(writable=False)
            try:
                replies.append(self._seen(shell.run(command)))
            finally:
                shell.kill()
                self._box = None
        return tuple(replies)

    def close(self) -> None:
        """Kill everything and drop the workspace; safe to call twice, and after the keeper is gone."""
        try:
            self.freeze()
        finally:
            workspace, self._workspace = self._workspace, None
            if workspace is not None:
                with contextlib.suppress(SandboxError):  # a lost keeper has taken its mounts with it
                    self._link.ask({"op": "drop", "workspace": workspace["workspace"]})

    def __enter__(self) -> Machine:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
