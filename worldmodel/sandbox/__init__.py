"""Throw-away machines for real worlds: bubblewrap boxes without root, network, host files or a way out.

Synchronous use, from any thread (one thread per machine at a time)::

    from worldmodel.sandbox import Limits, Machine

    with Machine({"files": {"a.txt": "x\\n"}, "dirs": ["logs"], "modes": {"a.txt": "600"}}) as machine:
        screen = machine.run("sort a.txt > b.txt; ls")   # Screen(text, status, end, cut)
        screen.text                                      # 'a.txt\\nb.txt\\nlogs'
        screen.end                                       # ok | timeout | flood | exit
        (reply,) = machine.probe(["cat b.txt"])          # kills the episode's processes first

``Machine(..., shows={"tools": folder})`` lets boxes read a folder of the host as /opt/tools; ``machine.serve(argv)``
keeps a program running in a box on the same files and talks to it in lines (``Service``).

Home is /home/user and the working directory; the locale is C.UTF-8, the time zone UTC, ``date`` prints 2025-01-01
12:00:00 and ``ls -l`` one date for every file (the kernel's clock itself runs). Output and errors are one stream, as
on an 80x40 screen. After ``probe`` further ``run`` calls start a fresh shell on the same files. ``SandboxError`` (a
WorldFault) means that the sandbox failed, never the command. Each worker process has one keeper process (see
``keeper``), started on the first use; it and all its boxes and mounts end with the worker, however the worker ends.

Owns: isolation, limits, the command protocol. Refuses: tasks, rewards, prompts.
"""

from worldmodel.sandbox.limits import Limits, SandboxError
from worldmodel.sandbox.link import stop_keeper
from worldmodel.sandbox.machine import Machine
from worldmodel.sandbox.screen import Screen
from worldmodel.sandbox.service import Service

__all__ = ["Limits", "Machine", "SandboxError", "Screen", "Service", "stop_keeper"]
